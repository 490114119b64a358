//! One spoiled frame among hundreds is found, named, and fails the run.

use crate::service::Fault;
use crate::{assert_only, count, measure};

#[test]
fn a_faithful_service_passes() {
    for more in [
        &[][..],
        &["--threads", "2", "--pattern", "random", "--arrivals", "poisson"],
    ] {
        let report = measure(Fault::None, more);
        assert_only(&report, &[], 0);
        assert_eq!(
            (report.acked, report.delivered),
            (report.sent, report.sent),
            "{}",
            report.text()
        );
        assert!(report.sent > 500, "{}", report.text());
        let log = report.log.as_ref().unwrap();
        assert_eq!(
            (log.acked_found, report.faults.seen),
            (report.sent, 0),
            "{}",
            report.text()
        );
    }
}

#[test]
fn a_dropped_message_is_lost_though_a_pull_brings_it() {
    let report = measure(Fault::Drop, &[]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!((report.lost, report.repaired), (1, 1), "{}", report.text());
}

#[test]
fn dropped_messages_with_nothing_behind_them_are_lost() {
    let report = measure(Fault::DropTail, &[]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!(report.lost, report.sent - 499, "{}", report.text());
}

#[test]
fn a_doubled_message_is_found() {
    let report = measure(Fault::Double, &[]);
    assert_only(&report, &["duplicated"], 4);
}

#[test]
fn a_swapped_message_is_found() {
    let report = measure(Fault::Swap, &[]);
    assert_only(&report, &["reordered"], 4);
}

#[test]
fn a_changed_payload_is_found() {
    let report = measure(Fault::Change, &[]);
    assert_only(&report, &["corrupt"], 4);
}

#[test]
fn a_message_for_somebody_else_is_found() {
    let report = measure(Fault::Misdeliver, &[]);
    assert_only(&report, &["misdelivered"], 4);
}

#[test]
fn a_send_without_an_answer_is_found() {
    let report = measure(Fault::Silence, &[]);
    assert_only(&report, &["unanswered"], 4);
}

#[test]
fn a_refused_conversation_is_sent_again_in_order() {
    let report = measure(Fault::Refuse, &[]);
    assert_only(&report, &[], 0);
    assert_eq!(report.acked, report.sent, "{}", report.text());
    assert!(
        report.counters.retryable >= 1 && report.counters.resent == report.counters.retryable,
        "{}",
        report.text()
    );
}

#[test]
fn a_message_that_comes_back_to_its_sender_is_found() {
    let report = measure(Fault::Return, &[]);
    assert_only(&report, &["returned"], 4);
    assert_eq!(
        (count(&report, "returned"), report.redelivered),
        (1, 0),
        "{}",
        report.text()
    );
}
