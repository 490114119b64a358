//! Many frames in one read.

use corelane_protocol::ws::Opcode;

use crate::harness::{Seen, World, config, masked, ping, reference};

#[test]
fn ten_thousand_frames_in_one_segment_are_all_answered_in_order() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let mut bytes = Vec::new();
    for number in 1..=10_000 {
        bytes.extend(masked(Opcode::Binary, &ping(number)));
    }
    world.bytes(alice, &bytes);
    world.turn();
    let pongs: Vec<u32> = world.frames(alice).iter().map(|frame| reference(frame)).collect();
    assert_eq!(pongs, (1..=10_000).collect::<Vec<_>>());
    assert!(!world.client(alice).paused);
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_either() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.client(alice).stuck = true;
    let mut pings = Vec::new();
    for _ in 0..2_000 {
        pings.extend(masked(Opcode::Ping, &[7; 125]));
    }
    world.bytes(alice, &pings);
    world.turn();
    assert!(world.client(alice).paused);
    world.bytes(alice, &pings);
    world.turn();
    let owned = world.shard.metrics().queued_bytes;
    assert!(owned <= 2 * 256 * 1024, "{owned}");
    world.client(alice).stuck = false;
    world.turn();
    assert!(!world.client(alice).paused);
    let answers = world.seen(alice);
    assert_eq!(answers.len(), 4_000);
    assert!(answers.iter().all(|answer| *answer == Seen::Pong(vec![7; 125])));
}

#[test]
fn what_a_blocked_client_sends_nevertheless_is_bounded() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.client(alice).stuck = true;
    let flood = masked(Opcode::Ping, &[7; 125]).repeat(4_000);
    for _ in 0..4 {
        world.bytes(alice, &flood);
        world.turn();
    }
    world.client(alice).stuck = false;
    world.turn();
    assert_eq!(world.close_code(alice), Some(4006));
}
