//! A lease that is kept, one that may have run out, and a boot that was declared dead.

use std::time::Duration;

use corelane_gateway_core::event::Input;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind};
use corelane_protocol::id::ConnId;
use corelane_protocol::limits::LEASE;
use corelane_protocol::link::body::{ArchivedBusFetch, ArchivedClaim};
use corelane_protocol::link::record::RecordKind;
use corelane_protocol::ws::Opcode;

use crate::harness::{
    World, config, conv, error, group_at, hello, kind, masked, record, send_in, send_to, seq_of,
};

const OLD: u64 = 77;
const NEW: u64 = 78;

/// Long enough for a lost link to be connected again.
const MOMENT: Duration = Duration::from_secs(3);

/// The process stands still for so long: nothing happens to the shard.
fn stand_still(world: &mut World, time: Duration) {
    world.now.mono += time;
    world.now.wall_ms += time.as_millis() as u64;
}

fn declare_dead(world: &mut World) {
    world.answer_renewal(0, false);
    world.turn();
}

#[test]
fn a_shard_with_nothing_to_say_renews_three_times_per_lease() {
    let mut world = World::new(config());
    world.got.clear();
    world.pass(LEASE);
    assert_eq!(world.got(RecordKind::Renew).len(), 3);
}

#[test]
fn nothing_is_forwarded_to_a_router_that_has_not_said_that_the_registry_knows_this_gateway() {
    let mut world = World::told_cluster(&["a", "b"]);
    let alice = world.login("alice");
    let group = group_at(&["a", "b"], "b", 0);
    // Both are lost; the next ones prove who they are, and reach no registry.
    world.renewals_granted = false;
    world.cut_from("a");
    world.cut_from("b");
    stand_still(&mut world, LEASE);
    world.pass(MOMENT);
    assert_eq!(world.linked(), ["a", "b"]);
    world.say(alice, &send_in(&group, 1, true));
    assert!(world.forwarded("b").is_empty(), "nobody renewed the lease");
    let asked = world.got(RecordKind::Renew).pop().unwrap();
    world.answer_renewal(asked.reference, true);
    world.turn();
    assert_eq!(world.forwarded("b"), [1]);
}

#[test]
fn a_dead_boot_is_told_to_the_shell_once_and_nothing_is_connected_under_it() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let opened = world.links_opened;
    world.answer_renewal(0, false);
    declare_dead(&mut world);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.boots_lost, [OLD]);
    assert_eq!(world.links_opened, opened);
    assert!(!world.client(alice).closed, "the session waits for the next boot");
}

#[test]
fn all_sessions_claim_again_under_the_new_boot_and_sync_when_their_route_is_held() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let bob = world.login("bob");
    world.publish(&record(1, &conv("alice", "bob"), 1..=1, 10, &[bob]));
    world.turn();
    world.frames(bob);
    declare_dead(&mut world);
    world.got.clear();
    world.claims_granted = false;
    world.input(Input::NewBoot(NEW));
    world.pass(MOMENT);
    assert_eq!(world.linked_boot(), Some(NEW));
    let fetches = world.got(RecordKind::BusFetch);
    assert_eq!(fetches.len(), 4);
    for fetch in &fetches {
        let fetch = frame::access::<ArchivedBusFetch>(&fetch.body).unwrap();
        assert_eq!(
            (fetch.boot.to_native(), fetch.from.to_native()),
            (NEW, 0),
            "a new topic"
        );
    }
    assert!(
        world.got(RecordKind::Consumed).is_empty(),
        "numbers of the old topic mean nothing"
    );
    let claims = world.got(RecordKind::Claim);
    assert_eq!(claims.len(), 2);
    assert!(world.frames(alice).is_empty(), "no sync before the route is held");
    for claim in &claims {
        let body = frame::access::<ArchivedClaim>(&claim.body).unwrap();
        assert!(body.again, "it kicks nobody who logged in since");
        world.answer_claim(claim.conn, body.owner_seq.to_native(), 0);
    }
    world.turn();
    for conn in [alice, bob] {
        let kinds: Vec<FrameKind> = world.frames(conn).iter().map(|frame| kind(frame)).collect();
        assert_eq!(kinds, [FrameKind::Resync]);
    }
    // The new topic begins its numbers and offsets anew.
    let first = record(1, &conv("alice", "bob"), 2..=2, 10, &[bob]);
    let batch = corelane_protocol::link::body::BusBatch {
        partition: 0,
        from: 0,
        lost: false,
        records: vec![first.encode()],
    };
    world.router_says(RecordKind::BusBatch, ConnId(0), &frame::archive(&batch));
    world.turn();
    let seqs: Vec<u64> = world.frames(bob).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [2]);
}

#[test]
fn a_boot_that_another_shard_lost_is_left_too_and_unanswered_sends_are_to_be_tried_again() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &send_to("bob", 1, false));
    world.say(alice, &send_to("bob", 2, false));
    world.input(Input::NewBoot(NEW));
    world.turn();
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Retry), (2, ErrorCode::Retry)]);
    world.pass(MOMENT);
    assert_eq!(world.linked_boot(), Some(NEW));
    assert_eq!(kind(&world.frames(alice)[0]), FrameKind::Resync);
    world.say(alice, &send_to("bob", 3, false));
    assert_eq!(error(&world.frames(alice)[0]), (3, ErrorCode::GateClosed));
    let opened = world.links_opened;
    world.input(Input::NewBoot(NEW));
    world.pass(MOMENT);
    assert_eq!(world.links_opened, opened, "the boot it has changes nothing");
    assert!(world.boots_lost.is_empty());
}

#[test]
fn a_claim_refused_because_the_boot_is_dead_closes_nobody() {
    let mut world = World::new(config());
    world.claims_granted = false;
    let alice = world.open("corelane.rkyv.v1");
    world.say(alice, &hello("alice", "d"));
    let claim = world.got(RecordKind::Claim).remove(0);
    let owner_seq = frame::access::<ArchivedClaim>(&claim.body)
        .unwrap()
        .owner_seq
        .to_native();
    world.answer_claim(alice, owner_seq, 4003);
    world.turn();
    assert_eq!(world.boots_lost, [OLD]);
    world.claims_granted = true;
    world.input(Input::NewBoot(NEW));
    world.pass(MOMENT);
    let again = world.got(RecordKind::Claim);
    assert_eq!(
        (again.len(), &again[0].body),
        (1, &claim.body),
        "the same claim, a login and not a claim made again"
    );
    let kinds: Vec<FrameKind> = world.frames(alice).iter().map(|frame| kind(frame)).collect();
    assert_eq!(kinds, [FrameKind::Welcome]);
}

#[test]
fn after_standing_still_past_the_lease_nothing_is_forwarded_before_it_was_renewed() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.renewals_granted = false;
    world.got.clear();
    stand_still(&mut world, LEASE + MOMENT);
    world.say(alice, &send_to("bob", 1, false));
    assert!(world.got(RecordKind::ClientFrame).is_empty());
    let renewals = world.got(RecordKind::Renew);
    assert_eq!(renewals.len(), 1, "it asks at once");
    world.answer_renewal(renewals[0].reference, true);
    world.turn();
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 1);
    assert!(world.frames(alice).is_empty() && world.boots_lost.is_empty());
}

#[test]
fn a_refusal_that_waited_while_the_process_stood_still_closes_its_gate_first() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &send_to("bob", 1, false));
    world.renewals_granted = false;
    world.got.clear();
    stand_still(&mut world, LEASE + MOMENT);
    // The client's next send is read before what the router said meanwhile.
    world.bytes(alice, &masked(Opcode::Binary, &send_to("bob", 2, false)));
    let refusal = frame::encode_error(1, ErrorCode::Overloaded, "full");
    world.router_says(RecordKind::ServerFrame, alice, &refusal);
    world.turn();
    let renewals = world.got(RecordKind::Renew);
    world.answer_renewal(renewals[0].reference, true);
    world.turn();
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Overloaded), (2, ErrorCode::GateClosed)]);
    assert!(
        world.got(RecordKind::ClientFrame).is_empty(),
        "the router has forgotten its gates"
    );
}

#[test]
fn what_waits_for_a_lease_that_is_gone_is_to_be_tried_again() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.renewals_granted = false;
    world.got.clear();
    stand_still(&mut world, LEASE + MOMENT);
    world.say(alice, &send_to("bob", 1, false));
    declare_dead(&mut world);
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Retry)]);
    assert!(world.got(RecordKind::ClientFrame).is_empty());
}

#[test]
fn an_answer_counts_from_when_its_renewal_left() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.renewals_granted = false;
    world.got.clear();
    world.pass(LEASE / 2);
    let early = world.got(RecordKind::Renew).remove(0);
    // It left a third of a lease after the link's own; its answer comes when nearly all of it is over.
    world.pass(LEASE / 2 + LEASE / 4);
    world.answer_renewal(early.reference, true);
    world.say(alice, &send_to("bob", 1, false));
    assert_eq!(
        world.got(RecordKind::ClientFrame).len(),
        1,
        "it stands a little longer"
    );
    world.pass(LEASE / 4);
    world.say(alice, &send_to("bob", 2, false));
    assert!(world.got(RecordKind::ClientFrame).is_empty());
}

#[test]
fn a_gateway_that_has_drained_does_not_care_for_its_boot() {
    let mut world = World::new(config());
    world.login("alice");
    world.input(Input::Drain);
    world.pass(config().drain + Duration::from_millis(100));
    // Another shard left for all of them.
    declare_dead(&mut world);
    assert!(world.boots_lost.is_empty());
    world.pass(Duration::from_secs(10));
    assert!(world.drained);
}
