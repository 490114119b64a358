//! Kicks and refused claims.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_gateway_core::ShardConfig;
use corelane_protocol::frame;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{ArchivedClaim, ArchivedOwned};
use corelane_protocol::link::record::RecordKind;
use corelane_protocol::ws::Opcode;

use crate::harness::{Seen, World, config, hello, masked};

fn owner_seq(world: &mut World) -> u64 {
    let claims = world.got(RecordKind::Claim);
    frame::access::<ArchivedClaim>(&claims.last().unwrap().body)
        .unwrap()
        .owner_seq
        .to_native()
}

#[test]
fn a_kick_closes_with_its_code_and_gives_the_route_up() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let owner = owner_seq(&mut world);
    world.kick(alice, owner, 4501);
    assert_eq!(world.seen(alice), [Seen::Close(4501)]);
    assert_eq!(world.got(RecordKind::Unclaim).len(), 1);
    assert_eq!(world.got(RecordKind::ConnClosed).len(), 1);
    assert!(!world.client(alice).closed, "the client's answer is awaited");
    world.bytes(alice, &masked(Opcode::Close, &4501_u16.to_be_bytes()));
    world.turn();
    assert!(world.client(alice).closed && !world.client(alice).aborted);
    assert_eq!(world.shard.metrics().connections, 0);
}

#[test]
fn a_kick_about_another_claim_is_ignored() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let owner = owner_seq(&mut world);
    world.kick(alice, owner + 1, 4501);
    assert!(world.seen(alice).is_empty());
    world.kick(alice, 0, 4502);
    assert_eq!(world.seen(alice), [Seen::Close(4502)]);
}

#[test]
fn a_refused_claim_closes_with_its_code_and_no_welcome() {
    let mut world = World::new(config());
    world.claims_granted = false;
    let alice = world.open("corelane.rkyv.v1");
    world.say(alice, &hello("alice", "d"));
    let owner = owner_seq(&mut world);
    world.answer_claim(alice, owner, 4505);
    world.turn();
    assert_eq!(world.seen(alice), [Seen::Close(4505)]);
}

#[test]
fn a_client_that_does_not_answer_a_close_is_closed_anyway() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.kick(alice, 0, 4502);
    world.pass(Duration::from_secs(6));
    assert!(world.client(alice).closed && !world.client(alice).aborted);
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    world.kick(bob, 0, 4502);
    world.pass(Duration::from_secs(6));
    assert!(world.client(bob).aborted);
}

/// Clients need not ping while the test lasts.
fn patient() -> ShardConfig {
    ShardConfig {
        heartbeat: Duration::from_mins(10),
        ..config()
    }
}

/// How often each session was asked about since the last look.
fn checks(world: &mut World) -> BTreeMap<ConnId, usize> {
    let mut checks = BTreeMap::new();
    for check in world.got(RecordKind::Owned) {
        *checks.entry(check.conn).or_default() += 1;
    }
    checks
}

#[test]
fn every_session_is_compared_with_the_registry_once_a_minute_because_a_kick_may_be_lost() {
    let mut world = World::new(patient());
    world.compares_routes = true;
    world.cut_link();
    world.pass(Duration::from_secs(3));
    let alice = world.login("alice");
    let owner = owner_seq(&mut world);
    let others: Vec<ConnId> = (0..200)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.pass(Duration::from_mins(1));
    world.got.clear();
    world.pass(Duration::from_mins(1));
    let got = world.got(RecordKind::Owned);
    let about_alice = got.iter().find(|got| got.conn == alice).unwrap();
    let named = frame::access::<ArchivedOwned>(&about_alice.body).unwrap();
    assert_eq!(named.owner_seq.to_native(), owner);
    world.got.extend(got);
    let found = checks(&mut world);
    assert_eq!(found.len(), 201);
    assert!(found.values().all(|count| (1..=2).contains(count)), "{found:?}");
    // A part at a time, and nobody who is gone.
    world.kick(others[0], 0, 4501);
    world.seen(others[0]);
    world.got.clear();
    world.pass(Duration::from_secs(1));
    assert!(checks(&mut world).len() <= 8);
    world.pass(Duration::from_mins(1));
    assert!(!checks(&mut world).contains_key(&others[0]));
}

#[test]
fn a_router_that_does_not_compare_routes_is_not_asked_to() {
    let mut world = World::new(patient());
    world.login("alice");
    world.pass(Duration::from_mins(3));
    assert!(world.got(RecordKind::Owned).is_empty());
}
