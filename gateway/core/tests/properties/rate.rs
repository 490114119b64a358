//! The rate limit of one client.

use std::time::Duration;

use corelane_protocol::frame::FrameKind;
use corelane_protocol::frame::error::ErrorCode;

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
