//! kill -9 in the middle of a measured run: the load generator, which reconnects as clients do, finds nothing lost, doubled
//! or out of order, its ledger and the log agree, and every terminal ends up with what the log says.
//!
//! `CORELANE_KILL_ROUNDS` rounds each, 3 by default.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests fail and talk as tests do"
)]

use std::path::Path;
use std::time::Duration;

use corelane_system_tests::load::{Load, Outcome};
use corelane_system_tests::metrics::Metrics;
use corelane_system_tests::{Gateway, Ports, Router, wait_for};

const USERS: u64 = 80;
const SENDS: usize = 800 * 12;
const LIMIT: Duration = Duration::from_mins(2);
/// How long users may take to be back after a restart: their longest pause before another attempt, and some.
const BACK: Duration = Duration::from_secs(8);

fn rounds() -> usize {
    std::env::var("CORELANE_KILL_ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number of rounds"))
}

/// One run. `kill` kills something in its middle, starts it again, and comes back when every user is online again.
fn run(round: usize, ws_url: &str, http: &str, data: &Path, kill: impl FnOnce()) -> Outcome {
    let users = USERS.to_string();
    let arguments = [
        "--reconnect",
        "-c",
        &users,
        "-r",
        "800/s",
        "-d",
        "11s",
        "-w",
        "1s",
        "-s",
        "512B",
        "--drain",
        "20s",
    ];
    let load = Load::start(ws_url, http, data, &arguments);
    // Another moment each round, within the first half: the rest goes to who is restarted.
    let moment = SENDS / 10 * (1 + round % 4);
    let before = wait_for("the middle of the run", Duration::from_secs(30), || {
        Some(load.acked()).filter(|acked| *acked >= moment)
    });
    kill();
    let outcome = load.finish(LIMIT);
    let report = &outcome.report;
    println!(
        "round {round}: killed after {before} of {} acks, {} dropped, {} resent, {} redelivered, {} pulled, {} Resync",
        report["acked"],
        report["dropped"],
        report["counters"]["resent"],
        report["redelivered"],
        report["counters"]["pulled"],
        report["counters"]["resyncs"],
    );
    outcome.assert_found(&[]);
    outcome.assert_passed();
    assert_eq!(outcome.count("acked"), outcome.count("sent"), "{report:#}");
    assert_eq!(report["log"]["acked_found"], report["acked"], "{report:#}");
    let after = usize::try_from(outcome.count("acked")).unwrap() - before;
    assert!(
        after > SENDS / 4,
        "only {after} were acknowledged after the kill: {report:#}"
    );
    outcome
}

/// Waits until the router holds the route of every user.
fn wait_for_routes(router_http: &str) {
    wait_for("a route for every user", BACK, || {
        let routes = Metrics::of(router_http)?.sum("corelane_router_routes");
        (routes == USERS).then_some(())
    });
}

#[test]
fn the_gateway_with_everything_in_it() {
    let data = tempfile::tempdir().unwrap();
    let ports = Ports::find();
    let mut gateway = Gateway::start_on(data.path(), &ports);
    for round in 0..rounds() {
        let (ws_url, http) = (gateway.ws_url.clone(), gateway.http.clone());
        run(round, &ws_url, &http, data.path(), || {
            gateway.process.kill();
            gateway = Gateway::start_on(data.path(), &ports);
            wait_for_routes(&http);
        });
    }
}

#[test]
fn the_router_alone() {
    let data = tempfile::tempdir().unwrap();
    let ports = Ports::find();
    let mut router = Router::start(data.path(), &ports);
    let gateway = Gateway::start_beside_router(data.path(), &ports);
    for round in 0..rounds() {
        let http = router.http.clone();
        let claims =
            || Metrics::of(&gateway.http).map(|metrics| metrics.sum("corelane_gateway_session_claims_total"));
        let outcome = run(round, &gateway.ws_url, &http, data.path(), || {
            let before = claims().expect("the gateway lives");
            router.process.kill();
            router = Router::start(data.path(), &ports);
            wait_for_routes(&http);
            let claimed = wait_for("claims in the counters", BACK, || {
                claims().filter(|now| *now >= before + USERS)
            });
            assert_eq!(claimed, before + USERS, "each session claims again once");
        });
        assert_eq!(outcome.count("dropped"), 0, "sessions stay: {:#}", outcome.report);
    }
}

#[test]
fn the_gateway_alone() {
    let data = tempfile::tempdir().unwrap();
    let ports = Ports::find();
    let router = Router::start(data.path(), &ports);
    let mut gateway = Gateway::start_beside_router(data.path(), &ports);
    for round in 0..rounds() {
        let ws_url = gateway.ws_url.clone();
        run(round, &ws_url, &router.http, data.path(), || {
            gateway.process.kill();
            gateway = Gateway::start_beside_router(data.path(), &ports);
            wait_for_routes(&router.http);
        });
    }
}
