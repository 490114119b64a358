//! Order on one connection, however its queue was filled.

use corelane_protocol::frame::FrameKind;

use crate::harness::{World, config, conv, kind, ping, record, reference, seq_of};

#[test]
fn messages_keep_their_order_through_ready_spans_backlog_and_flight() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    let mut seq = 0;
    for round in 0..50 {
        world.client(bob).stuck = round % 3 != 0;
        for _ in 0..=round % 4 {
            seq += 1;
            world.publish(&record(seq, &ab, seq..=seq, 100, &[bob]));
            world.say_ping_unsettled(bob, seq as u32);
        }
        world.turn();
    }
    world.client(bob).stuck = false;
    world.turn();
    let frames = world.frames(bob);
    let seqs: Vec<u64> = frames
        .iter()
        .filter(|frame| kind(frame) == FrameKind::Message)
        .map(|frame| seq_of(frame))
        .collect();
    assert_eq!(seqs, (1..=seq).collect::<Vec<_>>());
    let pongs: Vec<u32> = frames
        .iter()
        .filter(|frame| kind(frame) == FrameKind::Pong)
        .map(|frame| reference(frame))
        .collect();
    assert_eq!(pongs, (1..=seq as u32).collect::<Vec<_>>());
}

impl World {
    fn say_ping_unsettled(&mut self, id: corelane_protocol::id::ConnId, number: u32) {
        let bytes = crate::harness::masked(corelane_protocol::ws::Opcode::Binary, &ping(number));
        self.bytes(id, &bytes);
    }
}

#[test]
fn control_overtakes_messages_that_wait() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    world.client(bob).stuck = true;
    for seq in 1..=3 {
        world.publish(&record(seq, &ab, seq..=seq, 100, &[bob]));
        world.turn();
    }
    world.say(bob, &ping(9));
    world.client(bob).stuck = false;
    world.turn();
    let kinds: Vec<FrameKind> = world.frames(bob).iter().map(|frame| kind(frame)).collect();
    assert_eq!(
        kinds,
        [
            FrameKind::Message,
            FrameKind::Pong,
            FrameKind::Message,
            FrameKind::Message
        ]
    );
}

#[test]
fn everything_of_a_turn_leaves_in_one_send() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    let before = world.shard.metrics().flush_sends;
    world.say_ping_unsettled(bob, 1);
    world.publish(&record(1, &ab, 1..=3, 100, &[bob]));
    world.say_ping_unsettled(bob, 2);
    world.turn();
    assert_eq!(world.shard.metrics().flush_sends, before + 1);
    assert_eq!(world.frames(bob).len(), 5);
}

#[test]
fn a_frame_that_comes_between_sent_and_the_end_of_the_turn_does_not_overtake_the_backlog() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    world.client(bob).stuck = true;
    for seq in 1..=3 {
        world.publish(&record(seq, &ab, seq..=seq, 100, &[bob]));
        world.turn();
    }
    world.complete(bob);
    world.publish(&record(4, &ab, 4..=4, 100, &[bob]));
    world.client(bob).stuck = false;
    world.turn();
    let seqs: Vec<u64> = world.frames(bob).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
}
