//! An id of an earlier user of a slot does nothing.

use corelane_gateway_core::event::Input;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::id::ConnId;
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, hello, record, upgrade};

#[test]
fn whatever_comes_for_a_connection_that_is_gone_does_not_reach_the_next_in_its_slot() {
    let mut world = World::new(config());
    let old = world.login("old");
    world.input(Input::PeerClosed(old));
    world.turn();
    assert!(world.client(old).closed);
    let new = ConnId::new(0, old.slot(), old.generation() + 1);
    world.accept_as(new, false);
    world.bytes(new, &upgrade("/ws", "corelane.rkyv.v1", ""));
    world.turn();
    world.say(new, &hello("new", "d"));
    assert_eq!(world.frames(new).len(), 1);

    let ack = body::SendAck {
        conv: Vec::new(),
        seq: 1,
        n: 1,
        time_ms: 1,
    };
    world.router_says(
        RecordKind::ServerFrame,
        old,
        &frame::encode(FrameKind::SendAck, 0, &ack),
    );
    world.kick(old, 0, 4501);
    world.answer_claim(old, 0, 4505);
    world.publish(&record(1, &conv("alice", "bob"), 1..=1, 10, &[old]));
    world.bytes(old, b"garbage");
    world.input(Input::Sent(old));
    world.input(Input::PeerClosed(old));
    world.input(Input::Closed(old));
    world.turn();
    assert!(world.seen(new).is_empty());
    assert!(!world.client(new).closed);
    assert_eq!(world.got(RecordKind::Bounce).len(), 1);
    assert_eq!(world.shard.metrics().sessions, 1);
}

#[test]
fn a_thousand_users_of_one_slot_leave_nothing_behind() {
    let mut world = World::new(config());
    for generation in 1..=1000 {
        let id = ConnId::new(0, 3, generation);
        world.accept_as(id, false);
        world.bytes(id, &upgrade("/ws", "corelane.rkyv.v1", ""));
        world.turn();
        if generation % 3 != 0 {
            world.say(id, &hello("user", "d"));
        }
        if generation % 3 == 1 {
            world.client(id).stuck = true;
            world.say(id, &crate::harness::ping(1));
        }
        world.input(Input::Closed(id));
        world.clients.remove(&id);
        world.turn_without(id);
    }
    let metrics = world.shard.metrics();
    assert_eq!(
        (metrics.connections, metrics.sessions, metrics.queued_bytes),
        (0, 0, 0)
    );
}

impl World {
    fn turn_without(&mut self, id: ConnId) {
        self.forget(id);
        self.turn();
    }
}
