//! Several routers: each frame goes to the one that serves it, and what one lacks stops none of the others.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{
    World, big_send_in, config, error, group_at, home_and_other, kind, ping, pull, reference, send_in, sync,
};

const NODES: [&str; 3] = ["a", "b", "c"];

#[test]
fn frames_of_a_conversation_go_to_the_router_of_its_lane_and_others_to_the_home() {
    let mut world = World::told_cluster(&NODES);
    assert_eq!(world.linked(), NODES);
    let (home, _) = home_and_other(&NODES);
    let alice = world.login("alice");
    world.got.clear();
    for (reference, node) in (1..).zip(NODES) {
        let group = group_at(&NODES, node, 0);
        world.say(alice, &send_in(&group, reference, false));
        world.say(alice, &pull(reference + 10, &group));
        let typing = body::Typing {
            target: body::Target::Conv(group.as_bytes().to_vec()),
            from: String::new(),
            on: true,
        };
        let typing = frame::encode(FrameKind::TypingStep, reference + 20, &typing);
        world.say(alice, &typing);
        assert_eq!(
            world.forwarded(node),
            [reference, reference + 10, reference + 20],
            "to {node}"
        );
    }
    world.say(alice, &sync(40));
    assert_eq!(world.forwarded(home), [40]);
    assert!(
        world.got(RecordKind::ClientFrame).is_empty(),
        "each to one router"
    );
}

#[test]
fn without_a_list_the_home_serves_every_lane() {
    let mut world = World::cluster(config(), &NODES);
    let (home, _) = home_and_other(&NODES);
    let alice = world.login("alice");
    for (reference, node) in (1..).zip(NODES) {
        world.say(alice, &send_in(&group_at(&NODES, node, 0), reference, false));
    }
    assert_eq!(world.forwarded(home), [1, 2, 3]);
}

#[test]
fn a_lane_whose_router_is_gone_is_refused_and_the_others_go_on() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let (here, there) = (group_at(&NODES, home, 0), group_at(&NODES, other, 0));
    let alice = world.login("alice");
    world.kill(other);
    world.say(alice, &send_in(&there, 1, false));
    world.say(alice, &send_in(&there, 2, false));
    world.say(alice, &pull(3, &there));
    world.say(alice, &send_in(&here, 4, false));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(
        errors,
        [
            (1, ErrorCode::Unavailable),
            (2, ErrorCode::GateClosed),
            (3, ErrorCode::Unavailable)
        ]
    );
    assert_eq!(world.forwarded(home), [4]);
    assert_eq!(world.shard.metrics().forward_ownerless, 2);
    assert_eq!(world.shard.metrics().links, 2);

    world.router(other).is_up = true;
    world.pass(Duration::from_secs(3));
    world.say(alice, &send_in(&there, 5, false));
    world.say(alice, &send_in(&there, 1, true));
    assert_eq!(error(&world.frames(alice)[0]), (5, ErrorCode::GateClosed));
    assert_eq!(world.forwarded(other), [1]);
}

#[test]
fn a_lost_link_retries_only_what_was_on_it() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let (here, there) = (group_at(&NODES, home, 0), group_at(&NODES, other, 0));
    let alice = world.login("alice");
    world.say(alice, &send_in(&there, 1, false));
    world.say(alice, &send_in(&here, 2, false));
    world.say(alice, &send_in(&there, 3, false));
    world.say(alice, &sync(4));
    world.cut_from(other);
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Retry), (3, ErrorCode::Retry)]);
    world.ack_by(home, alice, 2, 1);
    let frames = world.frames(alice);
    assert_eq!((kind(&frames[0]), reference(&frames[0])), (FrameKind::SendAck, 2));
    world.say(alice, &send_in(&here, 5, false));
    assert_eq!(world.forwarded(home), [2, 4, 5], "its gate is open");
}

#[test]
fn a_router_without_credit_does_not_stop_the_others() {
    let mut world = World::told_cluster(&NODES);
    let (home, other) = home_and_other(&NODES);
    let (here, there) = (group_at(&NODES, home, 0), group_at(&NODES, other, 0));
    let senders: Vec<_> = (0..3)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.router(other).reads = false;
    for reference in 1..=60 {
        for sender in &senders {
            world.say(*sender, &big_send_in(&there, reference));
        }
    }
    let waiting = world.shard.metrics().forward_waiting;
    assert!((30..60).contains(&waiting), "{waiting} of 180 found no credit");
    for sender in &senders {
        world.say(*sender, &send_in(&here, 61, false));
        world.say(*sender, &ping(62));
        assert_eq!(world.frames(*sender).len(), 1, "the pong");
    }
    assert_eq!(world.forwarded(home), [61, 61, 61]);
    world.router_reads_again();
    let expected: Vec<u32> = (1..=60).flat_map(|reference| [reference; 3]).collect();
    assert_eq!(world.forwarded(other), expected, "in the order they came");
    assert_eq!(world.shard.metrics().forward_waiting, 0);
}

#[test]
fn a_router_whose_store_has_other_lanes_is_not_linked() {
    let mut world = World::told_cluster(&NODES);
    let (_, other) = home_and_other(&NODES);
    world.router(other).lanes = 16;
    world.cut_from(other);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.linked().len(), 2);
    let error = world.shard.take_link_error().expect("an error").to_string();
    assert!(error.contains("16 lanes"), "{error}");
}
