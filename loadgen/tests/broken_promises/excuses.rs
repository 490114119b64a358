//! A fault explains what it can explain, at the connection that it befell, and nothing else.

use crate::service::Fault;
use crate::{assert_only, count, measure};

#[test]
fn what_the_service_says_it_dropped_is_pulled_and_not_lost() {
    let report = measure(Fault::Demote, &[]);
    assert_only(&report, &[], 0);
    assert_eq!(report.counters.pull_required, 5, "{}", report.text());
    // What was pulled was late for its reader, and counts among the latencies.
    assert_eq!(
        (report.delivered, report.latency_us.due_to_delivery.count),
        (report.sent - 5, report.counters.offered),
        "{}",
        report.text()
    );
}

#[test]
fn a_lost_connection_is_a_fault_unless_reconnecting_is_asked_for() {
    let report = measure(Fault::HangUp, &[]);
    assert_eq!((report.dropped, report.exit_code), (1, 4), "{}", report.text());
    let report = measure(Fault::HangUp, &["--reconnect", "--drain", "5s"]);
    assert_only(&report, &[], 0);
    assert_eq!(
        (report.dropped, report.counters.reconnected),
        (1, 1),
        "{}",
        report.text()
    );
    assert_eq!(
        (report.acked, report.counters.offline),
        (report.sent, 0),
        "{}",
        report.text()
    );
}

#[test]
fn a_connection_that_was_told_to_go_is_told_apart_from_one_that_was_not() {
    for (fault, untold) in [(Fault::HangUp, 1), (Fault::GoAwayThenHangUp, 0)] {
        let report = measure(fault, &["--reconnect", "--drain", "5s"]);
        assert_only(&report, &[], 0);
        assert_eq!(
            (report.dropped, count(&report, "untold")),
            (1, untold),
            "{}",
            report.text()
        );
    }
}

#[test]
fn being_told_to_pull_does_not_explain_an_earlier_gap() {
    let report = measure(Fault::DropThenDemote, &[]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!(
        (report.lost, report.counters.pull_required),
        (1, 5),
        "{}",
        report.text()
    );
}

#[test]
fn a_resync_explains_what_came_before_it_and_nothing_after() {
    let report = measure(Fault::DropAroundResync, &[]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!(
        (report.lost, report.counters.resyncs),
        (1, 1),
        "{}",
        report.text()
    );
}

#[test]
fn a_reconnect_does_not_explain_a_gap_that_was_open_for_seconds() {
    let report = measure(Fault::DropThenHangUp, &["--reconnect", "-d", "5s"]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!(
        (report.lost, report.counters.reconnected),
        (1, 1),
        "{}",
        report.text()
    );
}

#[test]
fn late_after_a_resync_is_no_broken_order_but_is_counted() {
    let report = measure(Fault::ResyncThenSwap, &[]);
    assert_only(&report, &[], 0);
    // A pull behind the sync may have brought it before.
    let excused = count(&report, "late") + report.redelivered;
    assert_eq!((excused, report.faults.seen), (1, 1), "{}", report.text());
    assert!(report.text().contains("1 Resync"), "{}", report.text());
}

#[test]
fn a_fault_of_one_connection_explains_nothing_at_another() {
    let report = measure(Fault::ResyncThenDouble, &[]);
    assert_only(&report, &["duplicated"], 4);
}
