//! A third router and a third gateway join under load and leave again by SIGTERM: nothing is lost, doubled or out of order,
//! who is elsewhere notices nothing, and no connection ends without a `GoAway` before.

use std::time::Duration;

use corelane_system_tests::cluster::Cluster;
use corelane_system_tests::load::Load;
use corelane_system_tests::wait_for;

/// The load over the two gateways that stay: it goes on before, during and after all this.
const STEADY: [&str; 13] = [
    "--reconnect",
    "--pattern",
    "pairs",
    "-c",
    "60",
    "-r",
    "100/s",
    "-d",
    "36s",
    "-w",
    "1s",
    "-s",
    "512B",
];
const STEADY_SENDS: usize = 100 * 37;
/// The load over the gateway that comes and goes, and one that stays: half of its users move to that one.
const PASSING: [&str; 13] = [
    "--reconnect",
    "--pattern",
    "pairs",
    "-c",
    "20",
    "-r",
    "40/s",
    "-d",
    "9s",
    "-w",
    "1s",
    "-s",
    "512B",
];
const MOVING: u64 = 10;
/// How long a member may take to leave in order: its drain, and some.
const LEAVING: Duration = Duration::from_secs(15);
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(90);

fn await_acks(load: &Load, count: usize) {
    wait_for("acknowledgements", LIMIT, || {
        (load.acked() >= count).then_some(())
    });
}

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn a_router_and_a_gateway_that_come_and_go_lose_nothing_and_disconnect_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2, 2);
    let steady = cluster.load(&[0, 1], &STEADY);
    await_acks(&steady, 100);

    cluster.add_router();
    wait_for("messages stored by the third router", LIMIT, || {
        (cluster.routers[2].persisted() > 0).then_some(())
    });
    cluster.add_gateway();
    let passing = cluster.load(&[2, 0], &PASSING);
    await_acks(&passing, 80);

    let mut third = cluster.gateways.pop().unwrap();
    third.gateway.process.terminate();
    assert_eq!(
        third.gateway.process.wait(LEAVING),
        Some(0),
        "the third gateway drains"
    );
    let mut third = cluster.routers.pop().unwrap();
    third.process.terminate();
    assert_eq!(third.process.wait(LEAVING), Some(0), "the third router leaves");
    let acked = steady.acked();
    assert!(
        acked + 200 < STEADY_SENDS,
        "the load ended too early: {acked} acks"
    );

    for (load, moved) in [(passing, MOVING), (steady, 0)] {
        let outcome = load.finish(LIMIT);
        let report = &outcome.report;
        println!(
            "{} acked, {} redelivered, {} late, {} retried, {} dropped, {} Resync",
            report["acked"],
            report["redelivered"],
            report["counters"]["late"],
            report["counters"]["retries"],
            report["dropped"],
            report["counters"]["resyncs"],
        );
        outcome.assert_found(&[]);
        outcome.assert_passed();
        assert_eq!(outcome.count("acked"), outcome.count("sent"), "{report:#}");
        assert_eq!(report["log"]["acked_found"], report["acked"], "{report:#}");
        assert_eq!(outcome.count("untold"), 0, "{report:#}");
        assert_eq!(outcome.count("reconnected"), moved, "{report:#}");
    }
}
