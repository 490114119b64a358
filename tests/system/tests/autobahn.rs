//! The Autobahn test suite against the shipped gateway's echo path. Run by `ops/test autobahn`, which installs the suite.

use std::process::Command;

use corelane_system_tests::Gateway;

#[test]
#[ignore = "needs the suite's program, named by KOSOKU; ops/test autobahn installs it and runs this"]
fn all_cases_that_apply_pass() {
    let suite = std::env::var_os("KOSOKU").expect("KOSOKU names the suite's program");
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &["gateway.echo=true"]);
    let report = tempfile::tempdir().unwrap();
    let url = format!("ws://{}/echo", gateway.ws);
    let output = Command::new(suite)
        .args(["-x", "12.*", "-x", "13.*", "-p", "8", &url, "-o"])
        .arg(report.path())
        .output()
        .expect("the suite runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    assert!(output.status.success(), "a case failed");
}
