//! While Redis is away, for longer than a lease and longer than a link may be silent, who is connected writes on:
//! everything is stored and acknowledged, links and homes stay. When it is back all of it is delivered, each message once
//! and in order, and nobody has to sync.

use std::time::Duration;

use corelane_system_tests::apart::Apart;
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::{metric, now, wait_for};

/// Longer than a gateway waits for a word of a router (30 s).
const AWAY: Duration = Duration::from_secs(36);
/// Nothing else here takes longer.
const LIMIT: Duration = Duration::from_mins(1);
/// More commits than a lane keeps with their messages.
const MESSAGES: u64 = 200;
/// What must not rise: links, homes, leases and syncs.
const SPARED: [&str; 4] = [
    "corelane_gateway_link_lost_total",
    "corelane_gateway_session_claims_total",
    "corelane_gateway_lease_new_boots_total",
    "corelane_gateway_deliver_resyncs_total",
];

/// Sends a text that must be acknowledged at once; its place.
fn send(client: &mut Client, text: &str) -> u64 {
    let reference = client.send(&to_user("bob"), text);
    client.answer(reference).expect("it is acknowledged")
}

#[test]
#[ignore = "needs ops/services up redis kafka"]
fn who_is_connected_writes_on_and_is_caught_up() {
    let data = tempfile::tempdir().unwrap();
    let (apart, way) = Apart::find_behind_a_way(data.path());
    let _router = apart.router();
    let (gateway, admin) = apart.gateway();
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    assert_eq!(send(&mut alice, "first"), 1);
    assert_eq!(bob.message().seq, 1);
    let spared = || SPARED.map(|name| metric(&admin, name));
    let before = spared();

    way.cut();
    let begun = now();
    for seq in 2..=MESSAGES {
        assert_eq!(send(&mut alice, "while it is away"), seq);
    }
    assert!(metric(&gateway.http, "corelane_router_behind_commits") > 0);
    let mut seq = MESSAGES;
    wait_for("the end of a lease and of the patience of links", LIMIT, || {
        (begun.elapsed() >= AWAY).then_some(())
    });
    seq += 1;
    assert_eq!(send(&mut alice, "still away"), seq);
    assert_eq!(spared(), before);

    way.mend();
    for seq in 2..=seq {
        assert_eq!(bob.message().seq, seq, "each once, in order");
    }
    wait_for("the end of the backlog", LIMIT, || {
        (metric(&gateway.http, "corelane_router_behind_commits") == 0).then_some(())
    });
    assert_eq!(spared(), before, "a lapse that nobody used costs nothing");
    // Logins are let in again.
    let mut carol = Client::login(&gateway, "carol");
    let reference = carol.send(&to_user("bob"), "after it");
    assert_eq!(carol.answer(reference).unwrap(), 1);
    let last = bob.message();
    assert_eq!((last.seq, last.payload.as_slice()), (1, &b"after it"[..]));
}
