//! Stuck readers own a bounded amount of memory and delay nobody.

use corelane_protocol::frame::FrameKind;
use corelane_protocol::id::ConnId;
use corelane_protocol::ws::Opcode;

use crate::harness::{World, config, conv, kind, masked, ping, record};

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
    config.queue_total_bytes_max = 2000;
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
fn who_is_not_logged_in_and_does_not_read_owns_four_kilobytes_each_way_and_is_not_read() {
    let mut world = World::new(config());
    let (id, pings) = stuck_stranger(&mut world);
    for _ in 0..100 {
        if !world.client(id).paused {
            world.bytes(id, &pings);
            world.turn();
        }
        let owned = world.shard.metrics().queued_bytes;
        assert!(
            owned <= 2 * 4096 + 256,
            "{owned} bytes for one that is not logged in"
        );
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

#[test]
fn who_holds_most_pays_and_not_who_is_delivered_to_next() {
    let mut config = config();
    config.queue_total_bytes_max = 1024 * 1024;
    let mut world = World::new(config);
    let reader = world.login("reader");
    let pings = masked(Opcode::Ping, &[b'p'; 125]).repeat(30);
    for number in 0..30 {
        let hog = world.login(&format!("hog{number}"));
        world.client(hog).stuck = true;
        while !world.client(hog).paused && !world.client(hog).aborted {
            world.bytes(hog, &pings);
            world.turn();
            let owned = world.shard.metrics().queued_bytes;
            assert!(owned <= 1024 * 1024 + 4096, "{owned} bytes");
        }
    }
    world.client(reader).stuck = true;
    for seq in 1..=3 {
        world.publish(&record(seq, &conv("a", "b"), seq..=seq, 60_000, &[reader]));
        world.turn();
    }
    world.client(reader).stuck = false;
    world.turn();
    let kinds: Vec<FrameKind> = world.frames(reader).iter().map(|frame| kind(frame)).collect();
    assert_eq!(kinds, [FrameKind::Message; 3]);
    assert!(world.shard.metrics().memory_closed > 0);
}

#[test]
fn what_was_sent_and_cannot_be_used_yet_counts_and_who_holds_most_is_told_4007() {
    let mut config = config();
    config.queue_total_bytes_max = 1024 * 1024;
    let mut world = World::new(config);
    let alice = world.login("alice");
    let whole = masked(Opcode::Binary, &ping(7));
    world.bytes(alice, &whole[..10]);
    let half = &masked(Opcode::Binary, &vec![0; 70 * 1024])[..65 * 1024];
    let mut hogs = Vec::new();
    for number in 0..20 {
        let hog = world.login(&format!("hog{number}"));
        hogs.push(hog);
        for part in half.chunks(4096) {
            if !world.client(hog).closed {
                world.bytes(hog, part);
            }
        }
        world.turn();
        let owned = world.shard.metrics().queued_bytes;
        assert!(owned <= 1024 * 1024, "{owned} bytes");
    }
    let told = hogs
        .into_iter()
        .filter(|hog| world.close_code(*hog) == Some(4007))
        .count();
    assert!((4..10).contains(&told), "{told} were closed");
    world.bytes(alice, &whole[10..]);
    world.turn();
    assert_eq!(world.frames(alice).len(), 1, "the small one goes on");
}
