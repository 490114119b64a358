//! Where faults are made on purpose, what is late or comes twice is forgiven, and what never comes is not.

use crate::service::{Fault, serve};
use crate::{assert_only, count, measure, measure_at};

const FAULTS: [&str; 3] = ["--faults", "--settle", "15s"];

#[test]
fn one_lost_message_still_fails_the_run() {
    let report = measure(Fault::Drop, &["--faults", "--settle", "1s"]);
    assert_only(&report, &["lost", "repaired", "incomplete"], 4);
    assert_eq!(
        (
            report.lost,
            report.faults.incomplete,
            report.faults.complete_after_s
        ),
        (1, 1, None),
        "{}",
        report.text()
    );
}

#[test]
fn terminals_that_lack_the_end_without_knowing_it_are_incomplete() {
    let report = measure(Fault::DropTail, &["--faults", "--settle", "1s"]);
    assert_only(&report, &["lost", "repaired", "incomplete"], 4);
    assert!(report.faults.incomplete >= 2, "{}", report.text());
}

#[test]
fn what_comes_twice_or_late_is_counted_apart() {
    for (fault, name) in [
        (Fault::Double, "redelivered"),
        (Fault::Return, "redelivered"),
        (Fault::Swap, "late"),
    ] {
        let report = measure(fault, &FAULTS);
        assert_only(&report, &[], 0);
        assert_eq!(count(&report, name), 1, "{fault:?} {}", report.text());
    }
}

#[test]
fn a_lost_connection_is_made_again_and_its_terminal_becomes_complete() {
    let report = measure(Fault::HangUp, &FAULTS);
    assert_only(&report, &[], 0);
    assert_eq!(
        (report.faults.disconnects, report.faults.incomplete, report.acked),
        (1, 0, report.sent),
        "{}",
        report.text()
    );
    let complete_after_s = report.faults.complete_after_s.unwrap();
    assert!((0.0..15.0).contains(&complete_after_s), "{complete_after_s}");
}

#[test]
fn a_refused_conversation_is_sent_again_in_order() {
    let report = measure(Fault::Refuse, &FAULTS);
    assert_only(&report, &[], 0);
    assert_eq!(report.acked, report.sent, "{}", report.text());
    assert!(report.faults.resends >= 1, "{}", report.text());
}

#[test]
fn clients_of_a_target_that_says_nothing_any_more_go_to_the_other() {
    let served = serve(Fault::FreezeAddress, 2);
    let report = measure_at(&served, &["--faults", "--settle", "30s", "--heartbeat", "1s"]);
    assert_only(&report, &[], 0);
    assert_eq!(served.logins(), [2, 4]);
    assert_eq!(
        (report.faults.disconnects, report.acked),
        (2, report.sent),
        "{}",
        report.text()
    );
    assert!(report.faults.resends >= 1, "{}", report.text());
}
