//! Figures of parts of a run agree with those of the whole.

use crate::service::Fault;
use crate::{assert_only, measure};

#[test]
fn the_seconds_of_a_run_add_up_to_its_totals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seconds.csv");
    let more = [
        "--reconnect",
        "--drain",
        "5s",
        "-d",
        "2s",
        "--threads",
        "2",
        "--per-second",
        path.to_str().unwrap(),
    ];
    let report = measure(Fault::HangUp, &more);
    assert_only(&report, &[], 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("second,sent,acked,delivered,p50_us,p99_us,reconnects")
    );
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let total = |column: usize| -> u64 { rows.iter().map(|row| row[column].parse::<u64>().unwrap()).sum() };
    assert_eq!(
        [total(1), total(2), total(3), total(6)],
        [
            report.sent,
            report.acked,
            report.delivered,
            report.counters.reconnected
        ],
        "{text}"
    );
    assert_eq!(report.counters.reconnected, 1, "{}", report.text());
    let seconds: Vec<i64> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(seconds.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{text}");
    let at = |second: i64| rows.iter().find(|row| row[0] == second.to_string()).unwrap();
    let sent_first: u64 = at(0)[1].parse().unwrap();
    assert!(sent_first > 500, "the first second of the load is 0: {text}");
    assert!(
        at(1)[4].parse::<u64>().unwrap() <= at(1)[5].parse().unwrap(),
        "{text}"
    );
}

#[test]
fn each_half_of_a_run_has_half_of_its_latencies() {
    let report = measure(Fault::None, &["-d", "1s"]);
    assert_only(&report, &[], 0);
    let (first, second) = (report.halves.first, report.halves.second);
    assert_eq!(
        first.count + second.count,
        report.latency_us.due_to_delivery.count,
        "{}",
        report.text()
    );
    assert_eq!((first.count, second.count), (500, 500), "{}", report.text());
    assert!(report.halves.p50_ratio.is_some(), "{}", report.text());
}
