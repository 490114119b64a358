//! A lost link: everything unanswered is answered, in order, and nothing overtakes it.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::link::codec::LinkError;
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, error, hello, pull_required, send_to, sync};

#[test]
fn every_unanswered_frame_is_answered_retry_and_the_gates_close() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    for number in 1..=3 {
        world.say(alice, &send_to("bob", number, false));
    }
    world.say(alice, &send_to("carol", 4, false));
    world.say(alice, &sync(5));
    world.ack(alice, 1, 1);
    world.frames(alice);
    world.cut_link();
    world.turn();
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(
        errors,
        [2, 3, 4, 5].map(|reference| (reference, ErrorCode::Retry))
    );

    world.pass(Duration::from_secs(3));
    assert!(world.shard.is_linked());
    world.got.clear();
    world.say(alice, &send_to("bob", 6, false));
    world.say(alice, &send_to("bob", 2, true));
    world.say(alice, &send_to("bob", 3, false));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(6, ErrorCode::GateClosed)]);
    let sent: Vec<u32> = world
        .got(RecordKind::ClientFrame)
        .iter()
        .map(|got| got.reference)
        .collect();
    assert_eq!(sent, [2, 3]);
}

#[test]
fn an_ack_that_comes_late_is_no_second_answer_but_tells_where_the_message_is() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &send_to("bob", 1, false));
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.frames(alice).len(), 1);
    world.ack(alice, 1, 8);
    let frames = world.frames(alice);
    assert_eq!(frames.len(), 1);
    let place = (conv("alice", "bob").as_bytes().to_vec(), 8);
    assert_eq!(pull_required(&frames[0]), [place]);
    assert_eq!(world.shard.metrics().forward_late_answers, 1);
}

#[test]
fn a_claim_that_waits_is_made_again_on_the_next_link() {
    let mut world = World::new(config());
    world.claims_granted = false;
    let alice = world.open("corelane.rkyv.v1");
    world.say(alice, &hello("alice", "d"));
    let first = world.got(RecordKind::Claim);
    assert_eq!(first.len(), 1);
    world.cut_link();
    world.claims_granted = true;
    world.pass(Duration::from_secs(3));
    let second = world.got(RecordKind::Claim);
    assert_eq!(first[0].body, second[0].body, "the same claim");
    assert_eq!(world.frames(alice).len(), 1, "welcome");
}

#[test]
fn a_silent_router_is_given_up_and_connected_again() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.renewals_granted = false;
    let opened = world.links_opened;
    for _ in 0..8 {
        world.pass(Duration::from_secs(5));
        world.say(alice, &crate::harness::ping(1));
    }
    assert_eq!(world.links_opened, opened + 1, "this router never says anything");
    assert!(world.shard.is_linked());
}

#[test]
fn a_link_whose_close_is_never_answered_is_not_waited_for() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    // Nothing comes back any more, not even that a send has left or that the socket is gone.
    (world.router_reads, world.closes_links) = (false, false);
    world.say(alice, &send_to("bob", 1, false));
    let opened = world.links_opened;
    for _ in 0..8 {
        world.pass(Duration::from_secs(5));
        world.say(alice, &crate::harness::ping(1));
    }
    assert!(world.links_opened > opened);
    world.closes_links = true;
    world.router_reads_again();
    world.pass(Duration::from_secs(10));
    assert!(world.shard.is_linked());
}

#[test]
fn a_router_of_another_cluster_than_the_first_is_refused() {
    let mut world = World::new(config());
    assert!(world.shard.is_linked());
    world.cluster_id += 1;
    world.cut_link();
    world.pass(Duration::from_secs(5));
    assert!(!world.shard.is_linked());
    let error = world.shard.take_link_error();
    assert!(matches!(error, Some(LinkError::Cluster { .. })), "{error:?}");
    world.cluster_id -= 1;
    world.pass(Duration::from_secs(5));
    assert!(world.shard.is_linked());
}

#[test]
fn attempts_are_paced() {
    let mut world = World::new(config());
    world.router_is_up = false;
    world.cut_link();
    let mut deadlines = Vec::new();
    for _ in 0..12 {
        let at = world.shard.next_deadline().unwrap();
        deadlines.push(at);
        let wait = at.saturating_sub(world.now.mono) + Duration::from_micros(1);
        world.pass(wait);
    }
    let spent = world.now.mono.saturating_sub(deadlines[0]);
    assert!(spent > Duration::from_secs(8), "twelve attempts took {spent:?}");
}

#[test]
fn a_router_that_does_not_answer_is_not_waited_for_for_ever() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &send_to("bob", 1, false));
    world.say(alice, &send_to("bob", 2, false));
    world.pass(Duration::from_secs(12));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Retry), (2, ErrorCode::Retry)]);
}
