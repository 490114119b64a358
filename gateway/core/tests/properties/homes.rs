//! The home of a shard: what goes there, and what happens when it moves.

use std::time::Duration;

use corelane_gateway_core::event::Input;
use corelane_protocol::frame::{self, FrameKind};
use corelane_protocol::id::ConnId;
use corelane_protocol::limits::LEASE;
use corelane_protocol::link::body::{ArchivedBounce, ArchivedClaim, BusBatch};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, conv, group_at, home_and_other, kind, ping, record, send_in, seq_of, sync};

const NODES: [&str; 2] = ["a", "b"];

/// Long enough for a lost link to be connected again.
const MOMENT: Duration = Duration::from_secs(3);

#[test]
fn sessions_are_the_homes_and_the_end_of_a_connection_is_told_to_all() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let alice = world.login("alice");
    assert_eq!(world.got_at(home, RecordKind::Claim).len(), 1);
    assert!(world.got(RecordKind::Claim).is_empty());
    world.input(Input::PeerClosed(alice));
    world.turn();
    assert_eq!(world.got_at(home, RecordKind::Unclaim).len(), 1);
    assert!(world.got(RecordKind::Unclaim).is_empty());
    for node in [home, other] {
        assert_eq!(
            world.got_at(node, RecordKind::ConnClosed).len(),
            1,
            "{node} may have a gate of it"
        );
    }
}

#[test]
fn when_the_home_is_lost_another_router_is_at_once_and_all_claim_again() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let conns = [world.login("alice"), world.login("bob")];
    world.say(conns[0], &sync(7));
    world.got.clear();
    world.kill(home);
    assert!(world.shard.is_linked(), "no time has passed");
    let claims = world.got_at(other, RecordKind::Claim);
    let claimed: Vec<ConnId> = claims.iter().map(|got| got.conn).collect();
    assert_eq!(claimed, conns);
    for claim in &claims {
        let body = frame::access::<ArchivedClaim>(&claim.body).unwrap();
        assert!(body.again, "it kicks nobody who logged in later");
    }
    assert_eq!(world.got_at(other, RecordKind::ClaimsDone).len(), 1);
    assert_eq!(world.got_at(other, RecordKind::BusFetch).len(), 4);
    assert_eq!(world.got_at(other, RecordKind::Renew).len(), 1);
    let kinds: Vec<FrameKind> = world.frames(conns[0]).iter().map(|frame| kind(frame)).collect();
    assert_eq!(kinds, [FrameKind::Error], "only its sync is to be tried again");
    assert!(world.frames(conns[1]).is_empty());
    world.say(conns[0], &sync(8));
    assert_eq!(world.forwarded(other), [8]);
}

#[test]
fn a_home_that_works_stays_when_a_better_one_is_linked_or_the_list_changes() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    world.kill(home);
    world.login("alice");
    world.router(home).is_up = true;
    world.pass(MOMENT);
    assert_eq!(world.linked(), NODES);
    world.tell_list(other, 2, &NODES);
    world.got.clear();
    world.login("bob");
    assert_eq!(world.got_at(other, RecordKind::Claim).len(), 1);
    world.tell_list(other, 3, &[home]);
    assert_eq!(
        world.got_at(home, RecordKind::Claim).len(),
        2,
        "its router is in the list no more"
    );
}

#[test]
fn while_nobody_is_here_the_hash_chooses() {
    let mut world = World::told_cluster(&NODES);
    let (home, _) = home_and_other(&NODES);
    world.kill(home);
    world.router(home).is_up = true;
    world.pass(MOMENT);
    world.login("alice");
    assert_eq!(world.got_at(home, RecordKind::Claim).len(), 1);
}

#[test]
fn the_next_home_has_all_sync_only_if_its_registry_is_another() {
    for incarnation in [1, 2] {
        let mut world = World::told_cluster(&NODES);
        let (home, other) = home_and_other(&NODES);
        world.router(other).incarnation = incarnation;
        world.cut_from(other);
        world.pass(MOMENT);
        let alice = world.login("alice");
        world.cut_from(home);
        let kinds: Vec<FrameKind> = world.frames(alice).iter().map(|frame| kind(frame)).collect();
        let expected: &[FrameKind] = if incarnation == 1 {
            &[]
        } else {
            &[FrameKind::Resync]
        };
        assert_eq!(kinds, expected);
    }
}

#[test]
fn a_home_that_stands_still_costs_neither_the_lease_nor_the_lanes_of_others_and_is_left() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let there = group_at(&NODES, other, 0);
    let alice = world.login("alice");
    world.router(home).reads = false;
    for number in 1..=8 {
        world.pass(LEASE / 4);
        world.say(alice, &send_in(&there, number, number == 1));
        world.ack_by(other, alice, number, u64::from(number));
        world.say(alice, &ping(number));
    }
    assert_eq!(world.forwarded(other), (1..=8).collect::<Vec<_>>());
    assert!(world.boots_lost.is_empty());
    assert_eq!(world.got_at(other, RecordKind::Claim).len(), 1, "it is home now");
    assert_eq!(world.linked(), NODES, "and the link waits longer");
    world.frames(alice);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.shard.metrics().link_lost, 1, "not for ever");
}

#[test]
fn when_all_routers_are_silent_the_home_stays() {
    for staggered_ms in [0, 500, 1_500, 3_000] {
        let mut world = World::told_cluster(&NODES);
        let (home, other) = home_and_other(&NODES);
        let alice = world.login("alice");
        // Their renewals are due at different times.
        world.cut_from(other);
        world.pass(MOMENT + Duration::from_millis(staggered_ms));
        world.got.clear();
        for node in NODES {
            world.router(node).reads = false;
        }
        for number in 1..=4 {
            world.pass(LEASE / 2);
            world.say(alice, &ping(number));
        }
        world.router_reads_again();
        world.pass(Duration::from_secs(1));
        assert!(world.got_at(other, RecordKind::Claim).is_empty());
        assert!(world.got_at(home, RecordKind::Claim).is_empty());
        assert_eq!(world.shard.metrics().link_lost, 1, "the one that was cut");
    }
}

#[test]
fn a_report_finds_the_router_that_numbered_the_records() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let boot = world.router(other).boot;
    let bob = world.login("bob");
    let publish = |world: &mut World, by: &str, number: u64| {
        let mut record = record(number, &conv("alice", "bob"), number..=number, 10, &[bob]);
        record.router_boot = boot;
        let batch = BusBatch {
            partition: 0,
            from: number - 1,
            lost: false,
            records: vec![record.encode()],
        };
        world.says(by, RecordKind::BusBatch, ConnId(0), &frame::archive(&batch));
        world.pass(Duration::from_millis(10));
    };
    publish(&mut world, other, 1);
    assert!(world.frames(bob).is_empty(), "only the home's bus is read");
    publish(&mut world, home, 1);
    assert_eq!(world.consumed_at(other, 0), Some((1, Vec::new())));
    world.kill(other);
    publish(&mut world, home, 2);
    publish(&mut world, home, 4);
    assert!(
        world.got(RecordKind::Consumed).is_empty(),
        "nobody else can use it"
    );
    world.router(other).is_up = true;
    world.pass(MOMENT);
    assert_eq!(world.consumed_at(other, 0), Some((2, vec![3])));
    assert!(world.got(RecordKind::Consumed).is_empty());
    let seqs: Vec<u64> = world.frames(bob).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [1, 2, 4]);
    // Another life of the router numbers anew.
    world.router(other).boot += 10;
    world.cut_from(other);
    world.pass(MOMENT);
    assert!(world.got(RecordKind::Consumed).is_empty());
}

#[test]
fn a_bounce_goes_to_the_router_that_numbered_the_record_or_to_the_home() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let gone = ConnId::new(0, 900, 3);
    let unknown = 77;
    for (number, boot, node) in [
        (1, world.router(other).boot, other),
        (2, world.router(home).boot, home),
        (3, unknown, home),
    ] {
        let mut record = record(number, &conv("alice", "bob"), number..=number, 10, &[gone]);
        record.router_boot = boot;
        let batch = BusBatch {
            partition: 0,
            from: number - 1,
            lost: false,
            records: vec![record.encode()],
        };
        world.says(home, RecordKind::BusBatch, ConnId(0), &frame::archive(&batch));
        world.turn();
        let bounces = world.got_at(node, RecordKind::Bounce);
        let seqs: Vec<u64> = bounces
            .iter()
            .map(|got| {
                frame::access::<ArchivedBounce>(&got.body)
                    .unwrap()
                    .seq
                    .to_native()
            })
            .collect();
        assert_eq!(seqs, [number]);
    }
    assert!(world.got(RecordKind::Bounce).is_empty());
}

#[test]
fn a_gateway_that_drains_takes_leave_of_its_home() {
    let mut world = World::told_cluster(&NODES);
    let (home, _) = home_and_other(&NODES);
    world.input(Input::Drain);
    world.pass(Duration::from_secs(7));
    assert!(world.drained);
    assert_eq!(world.got_at(home, RecordKind::Leave).len(), 1);
    assert!(world.got(RecordKind::Leave).is_empty());
}
