//! Runs against a tiny service in this process that keeps the promise, or breaks it on purpose: it proves that the
//! generator sees each fault. What the real gateway does is measured by the system tests.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

mod cluster;
mod excuses;
mod figures;
mod frames;
mod http;
mod on_purpose;
mod service;

use clap::Parser as _;
use corelane_loadgen::cli::Options;
use corelane_loadgen::history::Findings;
use corelane_loadgen::report::{Report, Verdict};
use corelane_loadgen::run::run;

use self::http::ADMIN_KEY;
use self::service::{Fault, Served, serve};

/// A short run of `direct` between two pairs.
fn measure(fault: Fault, more: &[&str]) -> Report {
    measure_at(&serve(fault, 1), more)
}

/// The same at all addresses of a service.
fn measure_at(served: &Served, more: &[&str]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("token.key");
    std::fs::write(&secret, "ab".repeat(32)).unwrap();
    std::fs::write(dir.path().join("admin.key"), ADMIN_KEY).unwrap();
    let urls: Vec<String> = served
        .addresses
        .iter()
        .map(|address| format!("ws://{address}"))
        .collect();
    let http = format!("http://{}", served.http);
    let key = dir.path().join("admin.key");
    let mut args = vec!["corelane-loadgen", "direct"];
    args.extend(urls.iter().map(String::as_str));
    args.extend([
        "-c",
        "4",
        "-r",
        "1k/s",
        "-d",
        "600ms",
        "-w",
        "100ms",
        "--drain",
        "1s",
        "-q",
        "--pattern",
        "pairs",
        "--secret-file",
        secret.to_str().unwrap(),
        "--admin-key-file",
        key.to_str().unwrap(),
    ]);
    args.extend(more);
    // Behind those of the caller, which are asked first.
    args.extend(["--http", &http]);
    run(Options::try_parse_from(args).unwrap()).unwrap()
}

/// A counter of the report by its name.
#[track_caller]
fn count(report: &Report, name: &str) -> u64 {
    let counters = serde_json::to_value(report.counters).unwrap();
    counters[name].as_u64().unwrap_or(0)
}

/// Everything but what `allowed` names is as it should be.
#[track_caller]
fn assert_only(report: &Report, allowed: &[&str], exit_code: u8) {
    for name in [
        "lost",
        "repaired",
        "missing",
        "differing",
        "incomplete",
        "duplicated",
        "reordered",
        "returned",
        "corrupt",
        "misdelivered",
        "unanswered",
        "offline",
        "stray",
        "malformed",
    ] {
        let figure = count(report, name);
        assert_eq!(figure > 0, allowed.contains(&name), "{name}\n{}", report.text());
    }
    if !allowed.contains(&"log") {
        let findings = report.log.as_ref().map_or(0, Findings::broken);
        assert_eq!(findings, 0, "{}", report.text());
    }
    if exit_code == 0 {
        // A busy machine may void the run; nothing else may be wrong.
        assert!(
            matches!(report.verdict, Verdict::Pass | Verdict::Void),
            "{}",
            report.text()
        );
        assert_eq!(report.broken, [""; 0]);
    } else {
        assert_eq!(report.exit_code, exit_code, "{}", report.text());
    }
}
