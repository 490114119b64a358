//! What a fault explains is not broken.

use crate::service::Fault;
use crate::{assert_only, measure};

#[test]
fn what_the_service_says_it_dropped_is_pulled_and_not_lost() {
    let report = measure(Fault::Demote, &[]);
    assert_only(&report, &[], 0);
    assert!(
        report.counters.pull_required == 5 && report.counters.pulled >= 1,
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
