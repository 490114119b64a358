//! Redis comes back without its last seconds and knows no gateway. One that lives is known again with its next renewal, and
//! nobody notices. One that died in that moment is declared dead all the same: what waits for it is let go.

use std::time::Duration;

use corelane_protocol::limits::LEASE;
use corelane_system_tests::apart::Apart;
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::talk::{receive, send};
use corelane_system_tests::{metric, now, wait_for};

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(40);
/// A gateway that is missed and does not come back is dead in this time: it is missed within 5 s.
const MISSED: Duration = LEASE.saturating_add(Duration::from_secs(8));
/// What must not rise at a gateway that lives.
const SPARED: [&str; 4] = [
    "corelane_gateway_link_lost_total",
    "corelane_gateway_session_claims_total",
    "corelane_gateway_lease_new_boots_total",
    "corelane_gateway_deliver_resyncs_total",
];

#[test]
#[ignore = "needs ops/services up redis kafka"]
fn who_lives_goes_on_and_who_died_in_that_moment_is_declared_dead() {
    let data = tempfile::tempdir().unwrap();
    let apart = Apart::find(data.path());
    let _router = apart.router();
    let (mut gateway, admin) = apart.gateway();
    let router = gateway.http.clone();
    let lapses = || metric(&router, "corelane_router_leases_lapsed_total");
    let rows = || metric(&router, "corelane_router_outbox_rows");
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    send(&mut alice, &to_user("bob"), "first");
    assert_eq!(receive(&mut bob, "first").seq, 1);
    let spared = || SPARED.map(|name| metric(&admin, name));
    let before = spared();

    apart.forget_gateways();
    let forgotten_at = now();
    wait_for("the end of the lease of whoever is missed", LIMIT, || {
        (forgotten_at.elapsed() >= MISSED).then_some(())
    });
    send(&mut alice, &to_user("bob"), "second");
    assert_eq!(receive(&mut bob, "second").seq, 2);
    assert_eq!((spared(), lapses()), (before, 0), "a lapse that nobody used");
    wait_for("its report of what it consumed", LIMIT, || {
        (rows() == 0).then_some(())
    });

    gateway.process.kill();
    wait_for("the end of its links", LIMIT, || {
        (metric(&router, "corelane_router_links") == 0).then_some(())
    });
    // Its lease stands, so this goes to its topic.
    assert_eq!(gateway.append("alice", "bob", "third"), 3);
    apart.forget_gateways();
    assert!(rows() > 0 && lapses() == 0);
    wait_for("its death", LIMIT, || (lapses() == 1).then_some(()));
    wait_for("an empty outbox", LIMIT, || (rows() == 0).then_some(()));
}
