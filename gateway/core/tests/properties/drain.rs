//! Draining.

use std::time::Duration;

use corelane_gateway_core::event::Input;
use corelane_protocol::frame::body::ArchivedGoAway;
use corelane_protocol::frame::{self, Frame, FrameKind};
use corelane_protocol::link::record::RecordKind;
use corelane_protocol::ws::Opcode;

use crate::harness::{Seen, World, config, kind, masked};

#[test]
fn go_away_is_spread_over_the_time_then_all_are_closed_and_drained_comes_once() {
    let mut world = World::new(config());
    let conns: Vec<_> = (0..300)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.input(Input::Drain);
    // The last of the five seconds is the window of the last who are told.
    for (quarter, expected) in [(1, 75), (2, 150), (3, 225), (4, 300)] {
        world.pass(Duration::from_secs(1));
        let told = world.shard.metrics().drain_go_aways;
        assert!(
            (expected..=expected + 3).contains(&told),
            "{told} after {quarter} s"
        );
    }
    world.pass(Duration::from_millis(1200));
    for conn in &conns {
        let seen = world.seen(*conn);
        assert_eq!(seen.len(), 2, "{seen:?}");
        let Seen::Frame(go_away) = &seen[0] else {
            panic!("{seen:?}")
        };
        assert_eq!(kind(go_away), FrameKind::GoAway);
        let body = Frame::parse(go_away).unwrap();
        let body = frame::access::<ArchivedGoAway>(body.body).unwrap();
        assert_eq!((body.after_ms, body.window_ms), (0.into(), 1000.into()));
        assert_eq!(seen[1], Seen::Close(4000));
    }
    assert!(!world.drained);
    for conn in conns.iter().take(290) {
        world.bytes(*conn, &masked(Opcode::Close, &4000_u16.to_be_bytes()));
    }
    world.pass(Duration::from_secs(6));
    assert!(world.drained);
    assert_eq!(world.shard.metrics().connections, 0);
    assert_eq!(world.got(RecordKind::Leave).len(), 1);
}

#[test]
fn nobody_is_closed_untold_however_late_the_steps_come() {
    let mut world = World::new(config());
    let conns: Vec<_> = (0..300)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.input(Input::Drain);
    world.pass(Duration::from_secs(1));
    // The shard gets no CPU until the time is up.
    world.now.mono += Duration::from_secs(6);
    world.pass(Duration::from_millis(100));
    for conn in &conns {
        let seen = world.seen(*conn);
        let Seen::Frame(go_away) = &seen[0] else {
            panic!("{seen:?}")
        };
        assert_eq!(kind(go_away), FrameKind::GoAway);
        assert_eq!(seen[1..], [Seen::Close(4000)]);
    }
}

#[test]
fn the_only_session_is_told_at_the_start() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.input(Input::Drain);
    world.pass(Duration::from_millis(100));
    assert!(matches!(world.seen(alice)[..], [Seen::Frame(_)]));
}

#[test]
fn whoever_comes_during_the_drain_is_told_4000() {
    let mut world = World::new(config());
    world.login("alice");
    world.input(Input::Drain);
    let late = world.open("corelane.rkyv.v1");
    assert_eq!(world.close_code(late), Some(4000));
    assert!(world.client(late).answer.starts_with("HTTP/1.1 101"));
}

#[test]
fn an_empty_shard_is_drained_after_its_time() {
    let mut world = World::new(config());
    world.input(Input::Drain);
    world.pass(Duration::from_secs(7));
    assert!(world.drained);
}
