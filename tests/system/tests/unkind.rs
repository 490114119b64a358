//! The load generator is not kind: one spoiled frame among thousands is found, named and fails the run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use corelane_system_tests::Gateway;
use corelane_system_tests::load::{Load, Outcome};
use corelane_system_tests::proxy::{Fault, Proxy};

/// Ten users in pairs, so that every connection has one conversation, through a proxy with this fault.
fn measure(fault: Fault) -> Outcome {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let proxy = Proxy::start(gateway.ws, fault, 20);
    let arguments = [
        "--pattern",
        "pairs",
        "-c",
        "10",
        "-r",
        "300/s",
        "-d",
        "2s",
        "-w",
        "500ms",
        "-s",
        "256B",
        "--drain",
        "2s",
    ];
    let load = Load::start(&proxy.url, &gateway.http, data.path(), &arguments);
    let outcome = load.finish(Duration::from_mins(1));
    assert!(
        proxy.has_planted(),
        "no connection had so many messages: {:#}",
        outcome.report
    );
    outcome
}

#[track_caller]
fn assert_broken(fault: Fault, found: &[(&str, u64)]) {
    let outcome = measure(fault);
    assert_eq!(outcome.code, Some(4), "{:#}", outcome.report);
    outcome.assert_found(found);
}

#[test]
fn a_proxy_that_changes_nothing_is_not_noticed() {
    let outcome = measure(Fault::None);
    outcome.assert_passed();
    outcome.assert_found(&[]);
    assert_eq!(
        outcome.count("delivered"),
        outcome.count("sent"),
        "{:#}",
        outcome.report
    );
}

#[test]
fn one_dropped_message_is_lost_though_a_pull_brings_it() {
    assert_broken(Fault::Drop, &[("lost", 1), ("repaired", 1)]);
}

#[test]
fn one_doubled_message_is_found() {
    assert_broken(Fault::Double, &[("duplicated", 1)]);
}

#[test]
fn one_swapped_message_is_found() {
    assert_broken(Fault::Swap, &[("reordered", 1)]);
}

#[test]
fn one_changed_byte_of_payload_is_found() {
    assert_broken(Fault::Payload, &[("corrupt", 1)]);
}
