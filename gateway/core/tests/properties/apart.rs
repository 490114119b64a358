//! A bus that stands apart from the routers: the shell reads it, whatever becomes of links.

use std::sync::Arc;
use std::time::Duration;

use corelane_gateway_core::ShardConfig;
use corelane_gateway_core::event::{Input, ShardMessage};
use corelane_protocol::frame::FrameKind;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, error, kind, record, send_to, seq_of};

const OLD: u64 = 77;
const NEW: u64 = 78;

/// Long enough for a lost link to be connected again.
const MOMENT: Duration = Duration::from_secs(3);
/// Longer than between two renewals, shorter than a send may wait.
const RENEWAL: Duration = Duration::from_secs(4);

fn apart() -> ShardConfig {
    ShardConfig {
        bus_partitions: 4,
        ..config()
    }
}

#[test]
fn the_partitions_of_a_shard_are_read_from_the_start_and_without_a_link() {
    let mut config = apart();
    config.shards = 2;
    config.routers.clear();
    let mut world = World::new(config);
    assert_eq!(world.fetches, [(OLD, 0, 0), (OLD, 2, 0)]);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.fetches.len(), 2, "the shell does not give up");
}

#[test]
fn what_was_read_is_delivered_and_reported_and_more_is_asked_for_when_the_credit_is_used_up() {
    let mut world = World::new(apart());
    let bob = world.login("bob");
    world.fetches.clear();
    let ab = conv("alice", "bob");
    for number in 1..=75 {
        let record = record(number, &ab, number..=number, 60_000, &[bob]);
        world.fetched(OLD, 0, number - 1, &[record]);
        world.turn();
    }
    assert_eq!(world.fetches.len(), 1);
    let (boot, partition, from) = world.fetches[0];
    assert_eq!((boot, partition), (OLD, 0));
    assert!((65..=75).contains(&from), "{from}");
    world.pass(Duration::from_millis(10));
    assert_eq!(world.consumed(0), Some((75, Vec::new())));
    assert_eq!(world.shard.metrics().consume_messages, 75);
    let seqs: Vec<u64> = world.frames(bob).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, (1..=75).collect::<Vec<_>>());
    assert!(
        world.got(RecordKind::BusFetch).is_empty(),
        "nothing comes over the link"
    );
}

#[test]
fn what_was_read_for_several_shards_is_shared_and_not_copied() {
    let mut config = apart();
    config.shards = 3;
    let mut world = World::new(config);
    let bob = world.login("bob");
    let elsewhere = [ConnId::new(1, 1, 1), ConnId::new(2, 1, 1)];
    let receivers = [bob, elsewhere[0], elsewhere[1]];
    let record = record(1, &conv("alice", "bob"), 1..=1, 10, &receivers);
    let read: Arc<[u8]> = record.encode().into();
    world.input(Input::FromShard(ShardMessage::Fetched {
        boot: OLD,
        partition: 0,
        from: 0,
        lost: false,
        records: vec![Arc::clone(&read)],
    }));
    let mut handed_over = 0;
    for (_, message) in &world.to_shards {
        let ShardMessage::Record(handed) = message else {
            panic!("{message:?}")
        };
        assert!(Arc::ptr_eq(handed, &read));
        handed_over += 1;
    }
    assert_eq!(handed_over, 2);
}

#[test]
fn offsets_outlive_links_and_routers() {
    let mut world = World::new(apart());
    let bob = world.login("bob");
    let ab = conv("alice", "bob");
    world.fetched(OLD, 0, 0, &[record(1, &ab, 1..=1, 10, &[bob])]);
    world.turn();
    world.fetches.clear();
    world.router_boot += 1;
    world.cut_link();
    world.pass(MOMENT);
    assert!(world.shard.is_linked() && world.fetches.is_empty());
    assert!(world.got(RecordKind::BusFetch).is_empty());
    // Records of two routers lie side by side, each with its own numbers.
    let mut other = record(1, &ab, 2..=2, 10, &[bob]);
    other.router_boot = 2;
    world.fetched(OLD, 0, 0, &[record(1, &ab, 1..=1, 10, &[bob]), other]);
    world.turn();
    let seqs: Vec<u64> = world.frames(bob).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [1, 2], "the first one came again and was taken once");
}

#[test]
fn a_new_boot_is_read_from_its_first_record_and_nothing_of_the_old_one_is_taken() {
    let mut world = World::new(apart());
    world.router_is_up = false;
    let ab = conv("alice", "bob");
    world.fetched(OLD, 0, 0, &[record(1, &ab, 1..=1, 10, &[])]);
    world.turn();
    world.fetches.clear();
    world.input(Input::NewBoot(NEW));
    world.turn();
    assert_eq!(world.fetches, [0, 1, 2, 3].map(|partition| (NEW, partition, 0)));
    let taken = world.shard.metrics().consume_records;
    world.fetched(OLD, 0, 1, &[record(2, &ab, 2..=2, 10, &[])]);
    assert_eq!(world.shard.metrics().consume_records, taken);
    world.fetched(NEW, 0, 0, &[record(1, &ab, 3..=3, 10, &[])]);
    assert_eq!(world.shard.metrics().consume_records, taken + 1);
}

#[test]
fn a_boot_without_a_topic_is_left_until_the_router_declares_it_dead() {
    let mut world = World::new(apart());
    let alice = world.login("alice");
    world.got.clear();
    world.input(Input::FromShard(ShardMessage::TopicLost(OLD)));
    world.turn();
    assert_eq!(world.got(RecordKind::Leave).len(), 1);
    world.say(alice, &send_to("bob", 1, false));
    world.pass(RENEWAL);
    assert_eq!(
        world.got(RecordKind::Leave).len(),
        1,
        "said again: it may have been lost"
    );
    assert!(
        world.got(RecordKind::ClientFrame).is_empty(),
        "with the boot the router forgets its gates"
    );
    assert!(
        world.boots_lost.is_empty(),
        "its routes would stand in the way of the next boot"
    );
    world.answer_renewal(0, false);
    world.turn();
    assert_eq!(world.boots_lost, [OLD]);
    assert_eq!(error(&world.frames(alice)[0]), (1, ErrorCode::Retry));
    world.input(Input::NewBoot(NEW));
    world.pass(MOMENT);
    assert_eq!(world.linked_boot(), Some(NEW));
    assert_eq!(kind(&world.frames(alice)[0]), FrameKind::Resync);
    assert!(world.got(RecordKind::Leave).is_empty());
    world.input(Input::FromShard(ShardMessage::TopicLost(OLD)));
    world.turn();
    assert!(world.got(RecordKind::Leave).is_empty(), "that boot is over");
}

#[test]
fn a_topic_that_is_gone_while_there_is_no_link_is_told_on_the_next_one() {
    let mut world = World::new(apart());
    world.router_is_up = false;
    world.cut_link();
    world.input(Input::FromShard(ShardMessage::TopicLost(OLD)));
    world.pass(MOMENT);
    assert!(world.boots_lost.is_empty());
    world.router_is_up = true;
    world.pass(MOMENT);
    assert!(!world.got(RecordKind::Leave).is_empty());
}

#[test]
fn a_boot_whose_topic_lost_records_is_given_up() {
    let mut world = World::new(apart());
    world.login("bob");
    world.got.clear();
    for _ in 0..2 {
        world.input(Input::FromShard(ShardMessage::Fetched {
            boot: OLD,
            partition: 1,
            from: 50,
            lost: true,
            records: Vec::new(),
        }));
        world.turn();
    }
    assert_eq!(world.got(RecordKind::Leave).len(), 1);
    assert_eq!(world.shard.metrics().lease_topics_lost, 1);
}

#[test]
fn a_router_with_other_partitions_or_another_kind_of_bus_is_refused_with_the_reason() {
    let mut world = World::new(apart());
    assert!(world.shard.is_linked());
    let refusal = |world: &mut World| {
        world.cut_link();
        world.pass(MOMENT);
        assert!(!world.shard.is_linked());
        world.shard.take_link_error().expect("a reason").to_string()
    };
    world.partitions = 8;
    let text = refusal(&mut world);
    assert!(
        text.contains("8 partitions") && text.contains("bus.partitions"),
        "{text}"
    );
    (world.partitions, world.is_apart) = (4, false);
    let text = refusal(&mut world);
    assert!(
        text.contains("this node uses") && text.contains("bus.servers"),
        "{text}"
    );
    let mut world = World::new(config());
    world.is_apart = true;
    let text = refusal(&mut world);
    assert!(text.contains("peer uses"), "{text}");
}
