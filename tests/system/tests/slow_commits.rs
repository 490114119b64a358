//! A commit that takes long is logged with where its time went, with the log as it is by default; many are counted.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::metrics::Metrics;
use corelane_system_tests::{Gateway, Running, wait_for};

/// What strace adds to every sync.
const DELAY: Duration = Duration::from_millis(55);
const MESSAGES: u64 = 50;
const LINES_PER_SECOND: usize = 10;

#[test]
fn slow_commits_are_logged_with_their_stages_and_not_all_of_them() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::command(data.path(), &["log.level=info", "log.format=json"]);
    let mut command = Command::new("strace");
    command
        .args([
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "--seccomp-bpf",
            "--trace=fsync,fdatasync",
        ])
        .arg(format!(
            "--inject=fsync,fdatasync:delay_enter={}",
            DELAY.as_micros()
        ))
        .arg(gateway.get_program())
        .args(gateway.get_args());
    let gateway = Gateway::from(Running::start(&mut command), data.path());
    let mut alice = Client::login(&gateway, "alice");
    for _ in 0..MESSAGES {
        let reference = alice.send(&to_user("bob"), "one commit each");
        alice.answer(reference).unwrap();
    }
    let slow = wait_for("slow commits in the counters", Duration::from_secs(5), || {
        let slow = Metrics::of(&gateway.http)?.sum("corelane_store_slow_commits_total");
        (slow >= MESSAGES).then_some(slow)
    });

    let text = gateway.process.log();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| line.contains("slow commit"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (mut by_second, mut left_out) = (BTreeMap::<String, usize>::new(), 0);
    for line in &lines {
        let field = |name: &str| {
            line["fields"][name]
                .as_u64()
                .unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        let stages = field("waited_us") + field("write_us") + field("fsync_us");
        assert!(
            field("fsync_us") >= u64::try_from(DELAY.as_micros()).unwrap(),
            "{line}"
        );
        assert!(
            field("total_us").abs_diff(stages) <= 3,
            "the stages are all of it: {line}"
        );
        assert!(
            field("checkpoint_waited_us") <= field("waited_us")
                && field("checkpoint_beside_us") <= field("total_us")
        );
        left_out += field("left_out");
        *by_second
            .entry(line["timestamp"].as_str().unwrap()[..19].to_owned())
            .or_default() += 1;
    }
    assert!(lines.len() >= LINES_PER_SECOND, "{text}");
    assert!(
        left_out > 0 && lines.len() as u64 + left_out <= slow,
        "{left_out} left out of {slow}: {text}"
    );
    // A second of the log is not a second of the pace: two of the latter may fall into one of the former.
    assert!(
        by_second.values().all(|lines| *lines <= 2 * LINES_PER_SECOND),
        "{by_second:?}"
    );
}
