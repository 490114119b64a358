//! Kicks and refused claims.

use corelane_protocol::frame;
use corelane_protocol::link::body::ArchivedClaim;
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
    world.pass(std::time::Duration::from_secs(6));
    assert!(world.client(alice).closed && !world.client(alice).aborted);
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    world.kick(bob, 0, 4502);
    world.pass(std::time::Duration::from_secs(6));
    assert!(world.client(bob).aborted);
}
