//! A reader that falls behind is told what to pull, and gets everything again from its pull on.

use std::time::Duration;

use corelane_gateway_core::event::{Input, ShardMessage};
use corelane_protocol::frame::FrameKind;
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, kind, pull, pull_required, record, seq_of, sync};

/// Bob is stuck, and more comes for him than his queue holds.
fn demoted() -> (World, corelane_protocol::id::ConnId) {
    let mut world = World::new(config());
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    let ab = conv("alice", "bob");
    for seq in 1..=60 {
        world.publish(&record(seq, &ab, seq..=seq, 10_000, &[bob]));
        world.turn();
    }
    assert_eq!(world.shard.metrics().deliver_demotions, 1);
    (world, bob)
}

#[test]
fn a_demoted_reader_is_told_the_highest_place_and_turns_live_at_its_pull() {
    let (mut world, bob) = demoted();
    let ab = conv("alice", "bob");
    world.client(bob).stuck = false;
    world.turn();
    let frames = world.frames(bob);
    let (told, messages) = frames.split_last().unwrap();
    assert_eq!(
        messages.iter().map(|frame| seq_of(frame)).collect::<Vec<_>>(),
        [1],
        "what was in flight"
    );
    assert_eq!(pull_required(told), [(ab.as_bytes().to_vec(), 60)]);

    // Until it pulls, each miss is told and no message comes.
    world.publish(&record(61, &ab, 61..=61, 10, &[bob]));
    world.turn();
    assert_eq!(
        pull_required(&world.frames(bob)[0]),
        [(ab.as_bytes().to_vec(), 61)]
    );

    world.say(bob, &pull(7, &ab));
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 1);
    world.publish(&record(62, &ab, 62..=62, 10, &[bob]));
    world.turn();
    let live = world.frames(bob);
    assert_eq!(live.iter().map(|frame| seq_of(frame)).collect::<Vec<_>>(), [62]);
    assert_eq!(world.shard.metrics().demoted, 0);
}

#[test]
fn what_is_missed_between_the_notice_and_the_sync_is_told_before_the_sync_is_forwarded() {
    let (mut world, bob) = demoted();
    let ab = conv("alice", "bob");
    world.publish(&record(61, &ab, 61..=61, 10, &[bob]));
    world.client(bob).stuck = false;
    let mut bytes = crate::harness::masked(corelane_protocol::ws::Opcode::Binary, &sync(3));
    world.input(Input::Received(bob, &mut bytes));
    world.publish(&record(62, &ab, 62..=62, 10, &[bob]));
    world.turn();
    let frames = world.frames(bob);
    let told = frames
        .iter()
        .find(|frame| kind(frame) == FrameKind::PullRequired)
        .expect("told");
    assert_eq!(pull_required(told)[0].1, 61);
    assert_eq!(seq_of(frames.last().unwrap()), 62, "live again from the sync on");
}

#[test]
fn more_conversations_than_can_be_named_become_a_resync() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    for number in 1..=60_u64 {
        let ab = conv("bob", &format!("user{number}"));
        world.publish(&record(number, &ab, 1..=1, 10_000, &[bob]));
        world.turn();
    }
    world.client(bob).stuck = false;
    world.turn();
    let frames = world.frames(bob);
    assert_eq!(kind(frames.last().unwrap()), FrameKind::Resync);
    assert!(frames.iter().all(|frame| kind(frame) != FrameKind::PullRequired));
}

#[test]
fn a_demoted_reader_that_does_not_drain_is_closed() {
    let (mut world, bob) = demoted();
    world.pass(Duration::from_secs(25));
    assert_eq!(world.shard.metrics().heartbeat_slow_closed, 0);
    world.pass(Duration::from_secs(8));
    assert_eq!(world.shard.metrics().heartbeat_slow_closed, 1);
    assert!(!world.client(bob).aborted, "it may still read why");
    world.client(bob).stuck = false;
    world.turn();
    assert_eq!(world.close_code(bob), Some(4002));
}

#[test]
fn a_demoted_reader_that_never_reads_is_aborted() {
    let (mut world, bob) = demoted();
    world.pass(Duration::from_secs(33) + config().close);
    assert!(world.client(bob).aborted);
    assert_eq!(world.shard.metrics().queued_bytes, 0);
}

#[test]
fn an_overflow_of_the_inbox_demotes_with_a_resync() {
    let mut world = World::new(config());
    let (bob, carol) = (world.login("bob"), world.login("carol"));
    world.input(Input::FromShard(ShardMessage::Overflowed(bob)));
    world.turn();
    assert_eq!(kind(&world.frames(bob)[0]), FrameKind::Resync);
    assert!(world.frames(carol).is_empty());
    world.input(Input::FromShard(ShardMessage::OverflowedAll));
    world.turn();
    assert_eq!(kind(&world.frames(carol)[0]), FrameKind::Resync);
}

#[test]
fn pages_that_are_not_read_are_answered_overloaded_and_do_not_demote() {
    use corelane_protocol::frame::{self, body, error::ErrorCode};
    let mut world = World::new(config());
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    for reference in 1..=3 {
        world.say(bob, &sync(reference));
        let page = body::SyncPage {
            cursor: Vec::new(),
            more: false,
            conversations: vec![body::ConvState {
                conv: conv("alice", "bob").as_bytes().to_vec(),
                head_seq: 1,
                head_n: 1,
                floor_seq: 0,
                conv_version: 0,
                read_seq: 0,
                read_n: 0,
                last: crate::harness::message(&conv("alice", "bob"), 1, 200_000),
            }],
        };
        world.router_says(
            RecordKind::ServerFrame,
            bob,
            &frame::encode(FrameKind::SyncPage, reference, &page),
        );
        world.turn();
    }
    assert_eq!(world.shard.metrics().deliver_demotions, 0);
    world.client(bob).stuck = false;
    world.turn();
    let frames = world.frames(bob);
    let errors: Vec<_> = frames
        .iter()
        .filter(|frame| kind(frame) == FrameKind::Error)
        .map(|frame| crate::harness::error(frame))
        .collect();
    assert_eq!(errors, [(3, ErrorCode::Overloaded)]);
    assert_eq!(frames.len(), 3);
}

#[test]
fn read_marks_for_a_stuck_reader_are_bounded_and_become_a_resync() {
    use corelane_protocol::bus::{BusFrame, class};
    use corelane_protocol::frame::{self, body};
    let mut world = World::new(config());
    let bob = world.login("bob");
    world.client(bob).stuck = true;
    let ab = conv("alice", "bob");
    for seq in 1..=2000 {
        let mark = body::ReadUpTo {
            conv: ab.as_bytes().to_vec(),
            whose: "alice".to_owned(),
            seq,
            n: seq,
        };
        let mut marks = record(seq, &ab, seq..=seq, 0, &[bob]);
        (marks.class, marks.priority) = (class::CONTROL, 0);
        marks.frames = vec![BusFrame {
            frame: frame::encode(FrameKind::ReadUpTo, 0, &mark),
            ..marks.frames.remove(0)
        }];
        world.publish(&marks);
        world.turn();
        assert!(world.shard.metrics().queued_bytes <= 64 * 1024 + 200);
    }
    world.client(bob).stuck = false;
    world.turn();
    let frames = world.frames(bob);
    assert_eq!(
        frames
            .iter()
            .filter(|frame| kind(frame) == FrameKind::Resync)
            .count(),
        1
    );
}

#[test]
fn rounds_of_resync_to_everybody_are_a_second_apart() {
    let mut world = World::new(config());
    let bob = world.login("bob");
    for _ in 0..100 {
        world.input(Input::FromShard(ShardMessage::OverflowedAll));
        world.pass(Duration::from_millis(20));
    }
    world.pass(Duration::from_secs(3));
    let rounds = world.frames(bob).len();
    assert!((2..=4).contains(&rounds), "{rounds}");
}
