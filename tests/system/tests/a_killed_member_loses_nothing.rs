//! kill -9 of a router, or of a gateway, while users of different gateways write to each other: nothing that was
//! acknowledged is lost, nothing is in the log twice, every terminal is complete in the end; and who was killed, started
//! again under its name, is one of the cluster as before.
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::time::Duration;

use corelane_system_tests::cluster::Cluster;
use corelane_system_tests::load::Outcome;
use corelane_system_tests::wait_for;

/// Half of them at each gateway.
const USERS: u64 = 60;
/// Sends acknowledged when somebody is killed.
const BEFORE: usize = 300;
/// The load itself, what its settling may take, and reading the log back.
const LIMIT: Duration = Duration::from_secs(90);

/// One load. `fault` comes back when who it killed is one of the cluster again.
fn run(cluster: &mut Cluster, fault: impl FnOnce(&mut Cluster)) -> Outcome {
    let users = USERS.to_string();
    let arguments = [
        "--faults",
        "--pattern",
        "pairs",
        "-c",
        &users,
        "-r",
        "100/s",
        "-d",
        "15s",
        "-w",
        "1s",
        "-s",
        "512B",
    ];
    let load = cluster.load(&[0, 1], &arguments);
    wait_for("the middle of the load", Duration::from_secs(30), || {
        (load.acked() >= BEFORE).then_some(())
    });
    fault(cluster);
    let outcome = load.finish(LIMIT);
    let report = &outcome.report;
    outcome.assert_found(&[]);
    outcome.assert_passed();
    assert_eq!(outcome.count("incomplete"), 0, "{report:#}");
    assert_eq!(outcome.count("acked"), outcome.count("sent"), "{report:#}");
    assert_eq!(report["log"]["acked_found"], report["acked"], "{report:#}");
    assert_eq!(report["log"]["doubled"], 0, "{report:#}");
    outcome
}

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn a_router_killed_under_load_loses_nothing_and_joins_again_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2, 2);
    let outcome = run(&mut cluster, |cluster| {
        cluster.routers[0].process.kill();
        cluster.restart_router(0);
    });
    let report = &outcome.report;
    assert!(outcome.count("resent") > 0, "the kill hit nothing: {report:#}");
    assert_eq!(outcome.count("dropped"), 0, "connections stay: {report:#}");
    // Of the process that was started again.
    let before = cluster.routers[0].persisted();
    cluster.talk_across("after");
    assert!(
        cluster.routers[0].persisted() > before,
        "it serves its lanes again"
    );
}

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn a_gateway_killed_under_load_loses_nothing_and_serves_again_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2, 2);
    let outcome = run(&mut cluster, |cluster| {
        cluster.gateways[0].gateway.process.kill();
        cluster.restart_gateway(0);
    });
    let report = &outcome.report;
    assert!(
        outcome.count("dropped") >= USERS / 2,
        "the kill hit nothing: {report:#}"
    );
    assert!(outcome.count("reconnected") >= USERS / 2, "{report:#}");
    cluster.talk_across("after");
}
