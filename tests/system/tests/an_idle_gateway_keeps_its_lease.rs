//! A gateway whose clients say nothing renews its lease in time.

use std::time::Duration;

use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::{Gateway, metric, wait_for};

#[test]
fn an_idle_gateway_keeps_its_lease() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &["gateway.shards=1"]);
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    // The first renewal leaves with the link; four more take longer than a lease.
    wait_for("five renewals", Duration::from_mins(1), || {
        (metric(&gateway.http, "corelane_gateway_lease_renewals_total") >= 5).then_some(())
    });
    assert_eq!(metric(&gateway.http, "corelane_router_leases_lapsed_total"), 0);
    assert_eq!(metric(&gateway.http, "corelane_gateway_lease_new_boots_total"), 0);
    assert_eq!(metric(&gateway.http, "corelane_router_routes"), 2);
    let reference = alice.send(&to_user("bob"), "still there?");
    assert_eq!(alice.answer(reference), Ok(1));
    assert_eq!(bob.message().payload, b"still there?");
}
