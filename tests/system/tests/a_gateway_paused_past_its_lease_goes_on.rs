//! A gateway process that stands still for longer than its lease goes on under a new boot: its clients keep their
//! connections, are told to sync, and get messages live again.

use std::time::Duration;

use corelane_protocol::frame::FrameKind;
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::two::Two;
use corelane_system_tests::{metric, wait_for};

/// A lease is 10 s, and looked at every second.
const LAPSE: Duration = Duration::from_secs(30);
/// Codes from here on mean that the same send may be tried again.
const RETRYABLE: u16 = 0x100;

#[test]
fn a_gateway_paused_past_its_lease_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let two = Two::start(data.path(), &[]);
    let gateway = &two.gateway;
    let mut alice = Client::login(gateway, "alice");
    let mut bob = Client::login(gateway, "bob");
    let mut carol = Client::login(gateway, "carol");
    let reference = alice.send(&to_user("bob"), "before");
    assert_eq!(alice.answer(reference), Ok(1));
    assert_eq!(bob.message().payload, b"before");

    gateway.process.signal("STOP");
    wait_for("the end of the lease", LAPSE, || {
        (metric(&gateway.http, "corelane_router_leases_lapsed_total") == 1).then_some(())
    });
    assert_eq!(
        metric(&gateway.http, "corelane_router_routes"),
        0,
        "nobody is believed to be there"
    );
    let during = carol.send(&to_user("alice"), "into the silence");
    gateway.process.signal("CONT");

    let (code, text) = carol.answer(during).unwrap_err();
    assert!(
        code >= RETRYABLE,
        "nothing is written before the lease is certain: {code} {text}"
    );
    for client in [&mut alice, &mut bob] {
        client.read_kind(FrameKind::Resync);
    }
    let routes = metric(&gateway.http, "corelane_router_routes");
    assert!(routes >= 2, "each is told when its route is held again: {routes}");
    let reference = alice.send(&to_user("bob"), "after");
    assert_eq!(alice.answer(reference), Ok(2));
    let message = bob.message();
    assert_eq!(
        (message.seq, message.payload.as_slice()),
        (2, b"after".as_slice())
    );
    let mut dave = Client::login(gateway, "dave");
    let reference = bob.send(&to_user("dave"), "welcome");
    assert_eq!(bob.answer(reference), Ok(1));
    assert_eq!(dave.message().payload, b"welcome");

    let shards = metric(&two.admin, "corelane_gateway_lease_new_boots_total");
    assert!(shards >= 1, "every shard took the new boot: {shards}");
    assert_eq!(metric(&gateway.http, "corelane_router_leases_lapsed_total"), 1);
}
