//! Bus records: numbers, gaps, repeats, splitting, bounces.

use std::time::Duration;

use corelane_gateway_core::event::{Input, ShardMessage};
use corelane_protocol::bus::{BusRecord, FrameReceivers};
use corelane_protocol::frame::{self, FrameKind};
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{ArchivedBounce, ArchivedBusFetch, BusBatch};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, kind, record, seq_of};

#[test]
fn a_gap_is_reported_until_it_is_filled() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    world.publish(&record(1, &ab, 1..=1, 10, &[bob]));
    world.publish(&record(4, &ab, 4..=4, 10, &[bob]));
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((1, vec![2, 3])));
    world.pass(Duration::from_secs(2));
    assert_eq!(
        world.consumed(0),
        Some((1, vec![2, 3])),
        "reported again while it lasts"
    );
    world.publish(&record(2, &ab, 2..=2, 10, &[bob]));
    world.publish(&record(3, &ab, 3..=3, 10, &[bob]));
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((4, Vec::new())));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.consumed(0), None, "nothing new, nothing reported");
    let seqs: Vec<u64> = world.frames(bob).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [1, 4, 2, 3]);
}

#[test]
fn a_repeated_number_is_reported_again_and_delivered_once() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    for _ in 0..3 {
        world.publish(&record(1, &ab, 1..=1, 10, &[bob]));
        world.pass(Duration::from_millis(10));
        assert_eq!(world.consumed(0), Some((1, Vec::new())));
    }
    assert_eq!(world.frames(bob).len(), 1);
    assert_eq!(world.shard.metrics().consume_messages, 1);
}

#[test]
fn what_was_reported_is_reported_again_on_the_next_link() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    world.publish(&record(1, &conv("alice", "bob"), 1..=1, 10, &[bob]));
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((1, Vec::new())));
    // The report may have been on its way.
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.consumed(0), Some((1, Vec::new())));
    world.router_boot += 1;
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.consumed(0), None, "another router numbers anew");
}

#[test]
fn records_are_reported_within_five_milliseconds_and_batched() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    for number in 1..=100 {
        world.publish(&record(
            number,
            &conv("alice", "bob"),
            number..=number,
            10,
            &[bob],
        ));
        world.turn();
    }
    assert_eq!(world.got(RecordKind::Consumed).len(), 0);
    world.pass(Duration::from_millis(5));
    assert_eq!(world.got(RecordKind::Consumed).len(), 1);
}

#[test]
fn a_connection_that_is_gone_is_bounced_and_the_sender_is_left_out() {
    let mut world = World::new(config());
    let (alice, bob) = (world.login("alice"), world.login("bob"));
    let gone = ConnId::new(0, 900, 3);
    let ab = conv("alice", "bob");
    let mut two = record(1, &ab, 1..=2, 10, &[alice, gone, bob]);
    two.frames[0].receivers = FrameReceivers::AllBut(alice.0);
    world.publish(&two);
    world.turn();
    let bounces = world.got(RecordKind::Bounce);
    let bounce = frame::access::<ArchivedBounce>(&bounces[0].body).unwrap();
    assert_eq!(
        bounce
            .conns
            .iter()
            .map(|conn| conn.to_native())
            .collect::<Vec<_>>(),
        [gone.0]
    );
    assert_eq!((bounces.len(), bounce.seq.to_native()), (1, 2));
    assert_eq!(world.frames(bob).len(), 2);
    let seqs: Vec<u64> = world.frames(alice).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [2]);
}

#[test]
fn a_frame_for_some_of_the_receivers_reaches_only_these() {
    let mut world = World::new(config());
    let (alice, bob) = (world.login("alice"), world.login("bob"));
    let mut two = record(1, &conv("alice", "bob"), 1..=2, 10, &[alice, bob]);
    two.frames[1].receivers = FrameReceivers::Only(vec![bob.0]);
    world.publish(&two);
    world.turn();
    assert_eq!((world.frames(alice).len(), world.frames(bob).len()), (1, 2));
    assert!(world.got(RecordKind::Bounce).is_empty());
}

#[test]
fn a_record_that_cannot_be_read_is_counted_and_all_sync() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    let mut later = record(1, &ab, 1..=1, 10, &[bob]).encode();
    later[0] += 1;
    let mut damaged = record(2, &ab, 2..=2, 10, &[bob]).encode();
    damaged.truncate(30);
    world.publish_batch(
        0,
        vec![later, damaged, record(3, &ab, 3..=3, 10, &[bob]).encode()],
    );
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((3, Vec::new())));
    assert_eq!(world.shard.metrics().consume_malformed, 2);
    let kinds: Vec<FrameKind> = world.frames(bob).iter().map(|frame| kind(frame)).collect();
    assert!(
        kinds.contains(&FrameKind::Resync) && kinds.contains(&FrameKind::Message),
        "{kinds:?}"
    );
}

#[test]
fn a_record_for_other_shards_is_handed_over_once_each_and_delivered_there() {
    let mut config = config();
    config.shards = 4;
    let mut world = World::new(config);
    let bob = world.login("bob");
    let others = [ConnId::new(1, 5, 1), ConnId::new(3, 5, 1), ConnId::new(3, 6, 1)];
    let ab = conv("alice", "bob");
    world.publish(&record(
        1,
        &ab,
        1..=1,
        10,
        &[bob, others[0], others[1], others[2]],
    ));
    world.turn();
    let shards: Vec<u16> = world.to_shards.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(shards, [1, 3]);
    assert_eq!(world.frames(bob).len(), 1);
    assert!(
        world.got(RecordKind::Bounce).is_empty(),
        "other shards answer for their own"
    );

    // The same record, handed to this shard by another: only its own receivers count.
    let (_, message) = world.to_shards.pop().unwrap();
    let ShardMessage::Record(bytes) = message else {
        panic!("a record")
    };
    world.input(Input::FromShard(ShardMessage::Record(bytes)));
    world.turn();
    assert_eq!(world.frames(bob).len(), 1);
    assert_eq!(
        world.shard.metrics().consume_messages,
        1,
        "counted where it was consumed"
    );
}

#[test]
fn partitions_are_shared_out_and_a_fetch_is_opened_when_the_last_is_used_up() {
    let mut config = config();
    config.shards = 2;
    let mut world = World::new(config);
    let bob = world.login("bob");
    let fetches = world.got(RecordKind::BusFetch);
    let partitions: Vec<u16> = fetches
        .iter()
        .map(|got| {
            frame::access::<ArchivedBusFetch>(&got.body)
                .unwrap()
                .partition
                .to_native()
        })
        .collect();
    assert_eq!(partitions, [0, 2]);
    let ab = conv("alice", "bob");
    for number in 1..=75 {
        world.publish(&record(number, &ab, number..=number, 60_000, &[bob]));
        world.turn();
    }
    let fetches = world.got(RecordKind::BusFetch);
    assert_eq!(fetches.len(), 1);
    let fetch = frame::access::<ArchivedBusFetch>(&fetches[0].body).unwrap();
    assert_eq!((fetch.boot.to_native(), fetch.partition.to_native()), (77, 0));
    assert!(
        (65..=75).contains(&fetch.from.to_native()),
        "{}",
        fetch.from.to_native()
    );
}

#[test]
fn lost_records_make_every_shard_sync() {
    let mut config = config();
    config.shards = 2;
    let mut world = World::new(config);
    let bob = world.login("bob");
    let batch = BusBatch {
        partition: 0,
        from: 10,
        lost: true,
        records: Vec::new(),
    };
    world.router_says(RecordKind::BusBatch, ConnId(0), &frame::archive(&batch));
    world.turn();
    assert_eq!(kind(&world.frames(bob)[0]), FrameKind::Resync);
    assert_eq!(world.to_shards, [(1, ShardMessage::OverflowedAll)]);
}

/// The bus dropped what waited; `records` stand behind the loss.
fn lose(world: &mut World, from: u64, records: Vec<BusRecord>) {
    let records = records.iter().map(BusRecord::encode);
    let batch = BusBatch {
        partition: 0,
        from,
        lost: true,
        records: records.collect(),
    };
    world.router_says(RecordKind::BusBatch, ConnId(0), &frame::archive(&batch));
    world.turn();
}

#[test]
fn after_a_loss_counting_goes_on_with_the_next_record() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    let numbered = |number| record(number, &ab, number..=number, 10, &[bob]);
    world.publish(&numbered(1));
    world.publish(&numbered(3));
    // 2 and 4 to 100 are nowhere any more: nobody can send them again.
    lose(&mut world, 110, vec![numbered(101)]);
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((101, Vec::new())));
    assert_eq!(world.frames(bob).len(), 4, "three messages and a Resync");
    // A gap below the loss that was sent again just before it: its session syncs anyway.
    lose(&mut world, 200, vec![numbered(50)]);
    lose(&mut world, 220, Vec::new());
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((101, Vec::new())));
    // What is missing behind the loss is a gap as ever.
    lose(&mut world, 300, vec![numbered(150), numbered(152)]);
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((150, vec![151])));
}

#[test]
fn a_loss_before_the_first_record_leaves_no_gap() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    lose(&mut world, 5, Vec::new());
    world.pass(Duration::from_millis(10));
    lose(&mut world, 9, vec![record(7, &ab, 7..=7, 10, &[bob])]);
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((7, Vec::new())));
}

#[test]
fn a_batch_that_comes_again_after_a_fetch_is_taken_once() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    let records: Vec<Vec<u8>> = (1..=3)
        .map(|number| record(number, &ab, number..=number, 10, &[bob]).encode())
        .collect();
    for from in [0, 1] {
        let batch = BusBatch {
            partition: 0,
            from,
            lost: false,
            records: records[from as usize..].to_vec(),
        };
        world.router_says(RecordKind::BusBatch, ConnId(0), &frame::archive(&batch));
        world.turn();
    }
    assert_eq!(world.frames(bob).len(), 3);
    assert_eq!(world.shard.metrics().consume_repeated, 0);
}

#[test]
fn a_record_that_is_none_is_skipped_and_all_sync() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    let good = record(1, &conv("alice", "bob"), 1..=1, 10, &[bob]).encode();
    world.publish_batch(0, vec![vec![1, 2, 3], good]);
    world.turn();
    assert_eq!(world.frames(bob).len(), 2, "the good one and a resync");
    assert_eq!(world.shard.metrics().consume_malformed, 1);
}

#[test]
fn a_fetch_that_brings_nothing_is_opened_again_from_where_it_stands() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    world.publish(&record(1, &conv("alice", "bob"), 1..=1, 10, &[bob]));
    world.got.clear();
    world.pass(Duration::from_secs(11));
    let fetches = world.got(RecordKind::BusFetch);
    let from: Vec<(u16, u64)> = fetches
        .iter()
        .map(|got| frame::access::<ArchivedBusFetch>(&got.body).unwrap())
        .map(|fetch| (fetch.partition.to_native(), fetch.from.to_native()))
        .collect();
    assert!(
        from.contains(&(0, 1)) && from.contains(&(3, 0)) && from.len() <= 8,
        "{from:?}"
    );
}
