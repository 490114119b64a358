//! A gateway that cannot start says why, and how to mend it, before a socket opens.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use corelane_system_tests::once::{printed, refusal};
use corelane_system_tests::router::Router;
use corelane_system_tests::{Gateway, binary};

/// What a gateway says that must not start.
fn failure(data: &Path, set: &[&str]) -> String {
    refusal(&format!("{set:?}"), &mut Gateway::command(data, set))
}

/// What a router of its own says that must not start.
fn router_failure(data: &Path, name: &str, value: &str) -> String {
    let mut command = Router::command(&binary("corelane-router"), data);
    refusal(&format!("{name}={value}"), command.env(name, value))
}

/// The command without root's right to write everywhere, so that modes of files count whoever runs the test. `own` is a
/// file of whoever that is.
fn without_rights_over_files(command: Command, own: &Path) -> Command {
    if std::fs::metadata(own).unwrap().uid() != 0 {
        return command;
    }
    let mut without = Command::new("setpriv");
    without
        .args(["--bounding-set", "-dac_override", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    without
}

/// A directory that is there and cannot be written.
fn unwritable_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
    dir
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let apart = ["router.embedded=false", "router.seeds=127.0.0.1:1"];
    let cases: [(&str, &[&str]); 5] = [
        ("gateway.listen", &[]),
        ("router.http_listen", &[]),
        ("router.link_listen", &[]),
        ("admin.listen", &[]),
        ("admin.listen", &apart),
    ];
    for (key, with) in cases {
        let in_use = format!("{key}={address}");
        let set: Vec<&str> = with.iter().copied().chain([in_use.as_str()]).collect();
        let text = failure(data.path(), &set);
        assert!(text.contains(&address) && text.contains(key), "{set:?}: {text}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let text = failure(Path::new("/proc/corelane"), &[]);
    assert!(
        text.contains("/proc/corelane") && text.contains("data_dir"),
        "{text}"
    );
    let dir = unwritable_dir();
    let shown = dir.path().display();
    let command = Gateway::command(dir.path(), &[]);
    let mut command = without_rights_over_files(command, dir.path());
    let text = refusal("to write where it may not", &mut command);
    assert!(
        text.contains(&format!("{shown} is not writable: Permission denied"))
            && text.contains("store.data_dir"),
        "{text}"
    );
    // A router of its own: the directory is named, and not one of the files that would be in it.
    let command = Router::command(&binary("corelane-router"), dir.path());
    let mut command = without_rights_over_files(command, dir.path());
    let text = refusal("to write where it may not", &mut command);
    assert!(
        text.contains(&format!("{shown}: Permission denied")) && text.contains("writable for this user"),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
    let data = tempfile::tempdir().unwrap();
    let text = failure(data.path(), &["gateway.lissten=1"]);
    assert!(
        text.contains("gateway.lissten") && text.contains("listen"),
        "{text}"
    );
    let text = failure(data.path(), &["store.durability=sometimes"]);
    assert!(text.contains("sometimes") && text.contains("full, os"), "{text}");
    let text = failure(
        data.path(),
        &["gateway.proxy_sources=[\"10.0.0.4\", \"10.0.0.5/8\"]"],
    );
    assert!(
        text.contains("gateway.proxy_sources")
            && text.contains("\"10.0.0.5/8\"")
            && text.contains("10.0.0.0/8"),
        "{text}"
    );
    let file = data.path().join("gateway.toml");
    std::fs::write(&file, "[connection]\nheartbeat_ms = 5\n").unwrap();
    let text = refusal("to check a wrong file", &mut check("corelane-gateway", &file));
    assert!(
        text.contains("gateway.toml") && text.contains("heartbeat_ms = 5") && text.contains("1000"),
        "{text}"
    );
}

#[test]
fn a_damaged_store_is_refused_by_name_and_left_as_it_is() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("corelane.db");
    std::fs::write(
        &file,
        b"certainly not a database, but long enough to be looked at",
    )
    .unwrap();
    let text = failure(data.path(), &[]);
    assert!(text.contains("corelane.db"), "{text}");
    assert!(std::fs::read(&file).unwrap().starts_with(b"certainly"));
}

#[test]
fn a_router_of_its_own_names_its_mistakes_as_well() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for key in ["http_listen", "link_listen"] {
        let text = router_failure(
            data.path(),
            &format!("CORELANE__ROUTER__{}", key.to_uppercase()),
            &taken,
        );
        assert!(text.contains(&taken) && text.contains(key), "{key}: {text}");
    }
    let text = router_failure(data.path(), "CORELANE__STORE__DATA_DIR", "/proc/corelane");
    assert!(text.contains("/proc/corelane"), "{text}");
    let text = router_failure(data.path(), "CORELANE__STORE__DURABILITY", "sometimes");
    assert!(
        text.contains("CORELANE__STORE__DURABILITY") && text.contains("full") && text.contains("os"),
        "{text}"
    );
    let text = router_failure(data.path(), "CORELANE__ROUTER__HTTP_LISSTEN", "127.0.0.1:0");
    assert!(text.contains("http_lissten"), "{text}");
    let text = router_failure(data.path(), "CORELANE__ROUTER__DEMO", "true");
    assert!(
        text.contains("router.demo = true") && text.contains("allowed: false"),
        "{text}"
    );
    let file = data.path().join("router.toml");
    std::fs::write(&file, "[store]\nlanes = 100\n").unwrap();
    let text = refusal("to check a wrong file", &mut check("corelane-router", &file));
    assert!(
        text.contains("lanes = 100") && text.contains("a power of two"),
        "{text}"
    );
    std::fs::write(data.path().join("corelane.db"), vec![7; 8192]).unwrap();
    let text = router_failure(data.path(), "CORELANE__LOG__LEVEL", "warn");
    assert!(text.contains("corelane.db"), "{text}");
}

/// The command that checks a file.
fn check(program: &str, file: &Path) -> Command {
    let mut command = Command::new(binary(program));
    command.args(["config", "check"]).arg(file);
    command
}

#[test]
fn the_default_configuration_passes_its_own_check() {
    let data = tempfile::tempdir().unwrap();
    for program in ["corelane-gateway", "corelane-router"] {
        let mut command = Command::new(binary(program));
        let default = printed("to print its defaults", command.args(["config", "default"]));
        let file = data.path().join(program);
        std::fs::write(&file, default).unwrap();
        let text = printed("to check its defaults", &mut check(program, &file));
        assert!(text.contains("in order"), "{text}");
    }
}
