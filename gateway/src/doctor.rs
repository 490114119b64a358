//! What the machine must give before a gateway can start: each requirement, what was found, and its fix.
//!
//! The same checks run before every start; `corelane-gateway doctor` prints them all as one table.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::placement::Cpus;

/// Descriptors a gateway needs beside its sockets, which cost none.
const DESCRIPTORS_MIN: u64 = 1_000;
/// A shard's executor does not start with less memory to lock.
const LOCKED_BYTES_MIN: u64 = 512 << 10;
/// What kernels that count it need for the executors (ops/host/README.md), and for each ring of sockets.
const EXECUTORS_LOCKED_BYTES: u64 = 2 << 20;
const RING_LOCKED_BYTES: u64 = 200 << 10;
/// Sockets of a ring, where the limit of descriptors does not make it fewer, and rings of a shard.
const RING_SLOTS_MAX: u64 = 16_384;
const RINGS_MAX: u64 = 64;
/// How long a port may be in use before that counts. Who was killed holds its ports after it is gone, until the kernel
/// has taken its rings apart: 5 to 13 ms where it was measured. A supervisor starts the next one sooner.
const RELEASE_MAX: Duration = Duration::from_secs(2);
const RELEASE_PACE: Duration = Duration::from_millis(5);

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// How to mend it; `None` if it is met.
    pub fix: Option<String>,
    /// Whether the gateway cannot start without it.
    pub required: bool,
}

impl Finding {
    fn met(subject: &'static str, found: String) -> Self {
        Self {
            subject,
            found,
            fix: None,
            required: true,
        }
    }

    fn unmet(subject: &'static str, found: String, fix: String, required: bool) -> Self {
        Self {
            subject,
            found,
            fix: Some(fix),
            required,
        }
    }
}

/// Looks at everything, in the order in which it would fail.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        io_uring(),
        descriptors(),
        locked_memory(config),
        cpus(config),
        data_dir(Path::new(&config.store.data_dir)),
    ];
    findings.push(address(
        "WebSocket address",
        "gateway.listen",
        &config.gateway.listen,
    ));
    if config.router.embedded {
        findings.push(address(
            "link address",
            "router.link_listen",
            &config.router.link_listen,
        ));
        findings.push(address(
            "HTTP address",
            "router.http_listen",
            &config.router.http_listen,
        ));
    }
    if let Some(listen) = config.admin_listen() {
        findings.push(address("admin address", "admin.listen", listen));
    }
    findings.push(source_ports());
    findings
}

/// The findings as a table for people.
pub fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match (&finding.fix, finding.required) {
            (None, _) => "ok  ",
            (Some(_), true) => "FAIL",
            (Some(_), false) => "note",
        };
        let _ = writeln!(text, "{mark}  {:<20} {}", finding.subject, finding.found);
        if let Some(fix) = &finding.fix {
            let _ = writeln!(text, "      {:<20} fix: {fix}", "");
        }
    }
    text
}

fn io_uring() -> Finding {
    match corelane_net::preflight() {
        Ok(()) => Finding::met("io_uring", "available".to_owned()),
        Err(error) => Finding::unmet(
            "io_uring",
            error.to_string(),
            "see the text; the gateway has no other data plane".to_owned(),
            true,
        ),
    }
}

/// A soft limit of this process; the largest number where there is none, or nobody knows.
fn limit(name: &str) -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let of_name = limits.lines().find_map(|line| line.strip_prefix(name));
    let soft = of_name.and_then(|rest| rest.split_whitespace().next());
    soft.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

fn descriptors() -> Finding {
    let soft = limit("Max open files");
    let found = format!("{soft} (sockets of clients take none; the limit counts per ring)");
    if soft < DESCRIPTORS_MIN {
        let fix = format!("ulimit -n {DESCRIPTORS_MIN} or more (LimitNOFILE= in a systemd unit)");
        return Finding::unmet("open files", found, fix, true);
    }
    Finding::met("open files", found)
}

fn locked_memory(config: &Config) -> Finding {
    let slots = limit("Max open files").clamp(1, RING_SLOTS_MAX);
    let rings = config.connection.count_max.div_ceil(slots).min(RINGS_MAX);
    let shards = usize::try_from(config.gateway.shards).unwrap_or(usize::MAX);
    let placed = Cpus::of_this_process().place(shards);
    let shards = placed.map_or(1, |cpus| cpus.len() as u64);
    judge_locked_memory(limit("Max locked memory"), shards * rings)
}

/// Whether so many bytes may be locked that all rings can be made.
fn judge_locked_memory(soft: u64, rings: u64) -> Finding {
    let subject = "locked memory";
    let fix = |bytes: u64| {
        let kib = bytes.div_ceil(1024);
        format!(
            "ulimit -l {kib} or more (LimitMEMLOCK={kib}K in a systemd unit, memlock in a container's ulimits)"
        )
    };
    if soft == u64::MAX {
        return Finding::met(subject, "unlimited".to_owned());
    }
    if soft < LOCKED_BYTES_MIN {
        let found = format!("{soft} bytes; io_uring does not start with fewer than {LOCKED_BYTES_MIN}");
        return Finding::unmet(
            subject,
            found,
            fix(EXECUTORS_LOCKED_BYTES.max(LOCKED_BYTES_MIN)),
            true,
        );
    }
    let wanted = EXECUTORS_LOCKED_BYTES + rings * RING_LOCKED_BYTES;
    if soft < wanted {
        let room = soft.saturating_sub(EXECUTORS_LOCKED_BYTES) / RING_LOCKED_BYTES;
        let found = format!(
            "{soft} bytes; newer kernels count rings, for all processes of this user: that is {room} of the {rings} that \
             connection.count_max may need"
        );
        return Finding::unmet(subject, found, fix(wanted), false);
    }
    Finding::met(subject, format!("{soft} bytes"))
}

fn cpus(config: &Config) -> Finding {
    let cpus = Cpus::of_this_process();
    let quota = cpus
        .quota
        .map_or(String::new(), |quota| format!(", cgroup quota {quota}"));
    let found = format!(
        "{} allowed{quota}, gateway.shards = {}",
        cpus.allowed.len(),
        config.gateway.shards
    );
    let shards = usize::try_from(config.gateway.shards).unwrap_or(usize::MAX);
    if cpus.place(shards).is_none() {
        let fix = format!(
            "gateway.shards at most {}, or allow more CPUs",
            cpus.allowed.len()
        );
        return Finding::unmet("CPUs", found, fix, true);
    }
    Finding::met("CPUs", found)
}

fn data_dir(path: &Path) -> Finding {
    let test = path.join(".corelane-write-test");
    let outcome = fs::create_dir_all(path)
        .and_then(|()| fs::write(&test, b"x"))
        .and_then(|()| fs::remove_file(&test));
    match outcome {
        Ok(()) => Finding::met("data directory", format!("{} is writable", path.display())),
        Err(error) => Finding::unmet(
            "data directory",
            format!("{} is not writable: {error}", path.display()),
            "make it writable for this user, or set store.data_dir".to_owned(),
            true,
        ),
    }
}

fn address(subject: &'static str, key: &str, text: &str) -> Finding {
    match bind(text) {
        Ok(_) => Finding::met(subject, format!("{text} is free")),
        Err(error) => Finding::unmet(
            subject,
            format!("{text} cannot be listened on: {error}"),
            format!("stop what listens there (ss -ltnp), or set {key} to a free host:port"),
            true,
        ),
    }
}

#[expect(clippy::disallowed_methods, reason = "waits for a condition with a deadline")]
fn bind(address: &str) -> std::io::Result<TcpListener> {
    let clock = Clock::start();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && clock.now().mono < RELEASE_MAX => {
                std::thread::sleep(RELEASE_PACE);
            }
            outcome => return outcome,
        }
    }
}

fn source_ports() -> Finding {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = range
        .split_whitespace()
        .filter_map(|number| number.parse::<u32>().ok());
    let (low, high) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Finding::met(
        "source ports",
        format!("{low} to {high} (matters for load generators on this machine)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named_with_its_key() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = address(
            "WebSocket address",
            "gateway.listen",
            &taken.local_addr().unwrap().to_string(),
        );
        let text = table(&[finding]);
        assert!(text.contains("FAIL") && text.contains("gateway.listen"), "{text}");
    }

    #[test]
    fn the_admin_address_is_looked_at_where_it_is_used() {
        let data = tempfile::tempdir().unwrap();
        let found = |embedded: bool| {
            let mut config = Config::default();
            config.store.data_dir = data.path().display().to_string();
            config.gateway.listen = "127.0.0.1:0".to_owned();
            config.router.http_listen = "127.0.0.1:0".to_owned();
            config.router.link_listen = "127.0.0.1:0".to_owned();
            config.router.embedded = embedded;
            let mut findings = examine(&config).into_iter();
            findings.find(|finding| finding.subject == "admin address")
        };
        assert_eq!(found(true), None, "it is served at router.http_listen");
        // Whether it is free is not ours to say.
        let default = found(false).unwrap();
        assert!(default.found.contains("127.0.0.1:7071"), "{default:?}");
    }

    #[test]
    fn too_little_memory_to_lock_is_named_with_what_raises_it() {
        let finding = judge_locked_memory(64 << 10, 4);
        assert!(finding.required && finding.found.contains("65536"), "{finding:?}");
        let fix = finding.fix.unwrap();
        assert!(
            fix.contains("ulimit -l 2048") && fix.contains("LimitMEMLOCK=2048K"),
            "{fix}"
        );
        // It starts, and where the kernel counts rings it cannot make all of them.
        let finding = judge_locked_memory(8 << 20, 62);
        assert!(
            !finding.required && finding.found.contains("30 of the 62"),
            "{finding:?}"
        );
        assert!(finding.fix.unwrap().contains("ulimit -l 14448"));
        for enough in [8 << 20, u64::MAX] {
            assert_eq!(judge_locked_memory(enough, 30).fix, None);
        }
        let rings = locked_memory(&Config::default());
        assert!(
            rings.fix.is_none() || !rings.required,
            "this machine can run it: {rings:?}"
        );
    }

    #[test]
    fn an_unwritable_directory_is_named() {
        let finding = data_dir(Path::new("/proc/corelane"));
        assert!(finding.fix.is_some() && finding.found.contains("/proc/corelane"));
    }
}
