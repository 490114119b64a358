//! The rate limit of one client.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, error, kind, ping, send_to};

fn limited() -> World {
    let mut config = config();
    config.frames_per_s = 10;
    World::new(config)
}

#[test]
fn a_burst_of_two_seconds_passes_and_then_the_average_holds() {
    let mut world = limited();
    let alice = world.login("alice");
    for number in 1..=30 {
        world.say(alice, &ping(number));
    }
    let frames = world.frames(alice);
    let pongs = frames
        .iter()
        .filter(|frame| kind(frame) == FrameKind::Pong)
        .count();
    assert_eq!((pongs, frames.len()), (20, 30));
    world.pass(Duration::from_secs(1));
    for number in 1..=30 {
        world.say(alice, &ping(number));
    }
    let pongs = world
        .frames(alice)
        .iter()
        .filter(|frame| kind(frame) == FrameKind::Pong)
        .count();
    assert!((9..=11).contains(&pongs), "{pongs}");
}

#[test]
fn a_send_over_the_limit_closes_its_gate() {
    let mut world = limited();
    let alice = world.login("alice");
    for number in 1..=20 {
        world.say(alice, &ping(number));
    }
    world.frames(alice);
    world.say(alice, &send_to("bob", 1, false));
    world.pass(Duration::from_secs(1));
    world.say(alice, &send_to("bob", 2, false));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::RateLimited), (2, ErrorCode::GateClosed)]);
}

#[test]
fn a_client_that_never_stops_is_closed_with_4006() {
    let mut world = limited();
    let alice = world.login("alice");
    for number in 1..=1100 {
        if world.client(alice).closed {
            break;
        }
        world.say(alice, &ping(number));
    }
    assert_eq!(world.close_code(alice), Some(4006));
}

#[test]
fn frames_that_need_no_answer_have_a_limit_of_their_own() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let typing = |reference| {
        let typing = body::Typing {
            target: body::Target::User("bob".to_owned()),
            from: String::new(),
            on: true,
        };
        frame::encode(FrameKind::TypingStep, reference, &typing)
    };
    for number in 1..=150 {
        world.say(alice, &typing(number));
    }
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 100);
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors.len(), 50);
    assert_eq!(errors[0], (101, ErrorCode::RateLimited));
    world.say(alice, &send_to("bob", 200, false));
    assert_eq!(
        world.got(RecordKind::ClientFrame).len(),
        1,
        "a send is no such frame"
    );
    world.pass(Duration::from_secs(1));
    world.say(alice, &typing(201));
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 1);
    for number in 300..1500 {
        if !world.client(alice).closed {
            world.say(alice, &typing(number));
        }
    }
    assert_eq!(world.close_code(alice), Some(4006));
}
