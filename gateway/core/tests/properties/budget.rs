//! Stuck readers own a bounded amount of memory and delay nobody.

use corelane_protocol::id::ConnId;
use corelane_protocol::ws::Opcode;

use crate::harness::{World, config, conv, masked, record};

#[test]
fn a_hundred_stuck_readers_stay_within_the_budget_and_the_others_get_everything() {
    let mut config = config();
    config.queue_bytes_max = 64 * 1024;
    config.queue_total_bytes_max = 2 * 1024 * 1024;
    let mut world = World::new(config);
    let stuck: Vec<ConnId> = (0..100)
        .map(|number| world.login(&format!("stuck{number}")))
        .collect();
    let reader = world.login("reader");
    for conn in &stuck {
        world.client(*conn).stuck = true;
    }
    let all: Vec<ConnId> = stuck.iter().copied().chain([reader]).collect();
    let group = conv("a", "b");
    let mut most = 0;
    for seq in 1..=500 {
        world.publish(&record(seq, &group, seq..=seq, 1000, &all));
        world.turn();
        most = most.max(world.shard.metrics().queued_bytes);
        for conn in &stuck {
            assert!(world.client(*conn).in_flight_bytes() <= 64 * 1024);
        }
    }
    assert!(most <= 2 * 1024 * 1024, "{most} bytes were queued");
    assert!(most > 1024 * 1024, "the budget was used: {most}");
    assert_eq!(world.shard.metrics().demoted, 100);
    assert_eq!(world.frames(reader).len(), 500);
    // Demoted readers own next to nothing.
    assert!(world.shard.metrics().queued_bytes < 100 * 1024);
}

#[test]
fn fan_out_to_many_shares_one_copy() {
    let mut config = config();
    config.queue_total_bytes_max = 1;
    let mut world = World::new(config);
    let conns: Vec<ConnId> = (0..200)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.publish(&record(1, &conv("a", "b"), 1..=20, 1000, &conns));
    world.turn();
    for conn in conns {
        assert_eq!(
            world.frames(conn).len(),
            20,
            "shared spans cost a connection nothing"
        );
    }
}

#[test]
fn transient_frames_go_first() {
    use corelane_protocol::bus::class;
    let mut config = config();
    config.queue_bytes_max = 20_000;
    let mut world = World::new(config);
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    let ab = conv("alice", "bob");
    world.publish(&record(1, &ab, 1..=1, 12_000, &[bob]));
    world.turn();
    let mut typing = record(2, &ab, 2..=2, 10, &[bob]);
    (typing.class, typing.priority) = (class::TRANSIENT, 3);
    world.publish(&typing);
    world.publish(&record(3, &ab, 2..=2, 1000, &[bob]));
    world.turn();
    assert_eq!(world.shard.metrics().deliver_transient_dropped, 1);
    assert_eq!(world.shard.metrics().deliver_demotions, 0);
}

/// A client that has upgraded and says no `Hello`, with its own 125-byte pings as one read.
fn stuck_stranger(world: &mut World) -> (ConnId, Vec<u8>) {
    let id = world.open("corelane.rkyv.v1");
    world.client(id).stuck = true;
    (id, masked(Opcode::Ping, &[b'p'; 125]).repeat(30))
}

#[test]
fn who_is_not_logged_in_and_does_not_read_owns_four_kilobytes_and_is_not_read() {
    let mut world = World::new(config());
    let (id, pings) = stuck_stranger(&mut world);
    for _ in 0..100 {
        if !world.client(id).paused {
            world.bytes(id, &pings);
            world.turn();
        }
        let owned = world.shard.metrics().queued_bytes + world.client(id).in_flight_bytes() as u64;
        assert!(owned <= 4096 + 256, "{owned} bytes for one that is not logged in");
    }
    assert!(world.client(id).paused);
    world.client(id).stuck = false;
    world.turn();
    assert!(!world.client(id).paused, "it reads, so it is read");
}

#[test]
fn who_is_not_logged_in_is_closed_for_sending_on_without_reading() {
    let mut world = World::new(config());
    let (id, pings) = stuck_stranger(&mut world);
    // In one turn: the engine reads on until it hears of the pause.
    for _ in 0..5 {
        world.bytes(id, &pings);
    }
    world.client(id).stuck = false;
    world.turn();
    assert_eq!(world.close_code(id), Some(4504));
}
