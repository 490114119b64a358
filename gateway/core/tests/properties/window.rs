//! The window of unanswered sends.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::limits::SEND_WINDOW;
use corelane_protocol::link::record::RecordKind;
use corelane_protocol::ws::Opcode;

use crate::harness::{World, config, conv, error, kind, masked, ping, reference, send_to};

#[test]
fn a_full_window_pauses_the_socket_and_answers_open_it_in_order() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let window = u32::from(SEND_WINDOW);
    let mut burst = Vec::new();
    for number in 1..=window + 20 {
        burst.extend(masked(Opcode::Binary, &send_to("bob", number, false)));
    }
    world.bytes(alice, &burst);
    world.turn();
    assert_eq!(world.got(RecordKind::ClientFrame).len(), window as usize);
    assert!(world.client(alice).paused);

    for number in 1..=window + 20 {
        world.ack(alice, number, u64::from(number));
    }
    let more = world.got(RecordKind::ClientFrame);
    let references: Vec<u32> = more.iter().map(|got| got.reference).collect();
    assert_eq!(references, (window + 1..=window + 20).collect::<Vec<_>>());
    assert!(!world.client(alice).paused);
    let acks: Vec<u32> = world.frames(alice).iter().map(|ack| reference(ack)).collect();
    assert_eq!(acks, (1..=window + 20).collect::<Vec<_>>());
}

#[test]
fn a_full_window_of_one_client_stops_no_other() {
    let mut world = World::new(config());
    let (alice, bob) = (world.login("alice"), world.login("bob"));
    for number in 1..=u32::from(SEND_WINDOW) {
        world.say(alice, &send_to("bob", number, false));
    }
    world.say(alice, &ping(9));
    assert!(
        world.frames(alice).is_empty(),
        "its window is full, so it is not read"
    );
    world.say(bob, &ping(9));
    assert_eq!(world.frames(bob).len(), 1);
    world.ack(alice, 1, 1);
    let frames = world.frames(alice);
    assert_eq!(
        frames.len(),
        2,
        "the ack, then the pong that was held back: {:?}",
        frames.iter().map(|frame| kind(frame)).collect::<Vec<_>>()
    );
}

#[test]
fn requests_have_a_window_of_their_own() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    for number in 1..=80 {
        world.say(alice, &crate::harness::sync(number));
    }
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 64);
    assert!(world.client(alice).paused);
}

#[test]
fn read_marks_stand_in_the_window_of_requests_until_they_are_answered() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let ab = conv("alice", "bob");
    let read = |reference| {
        let upto = body::ConvSeq {
            conv: ab.as_bytes().to_vec(),
            seq: 1,
        };
        frame::encode(FrameKind::Read, reference, &body::Read { upto })
    };
    world.say(alice, &read(0));
    assert_eq!(error(&world.frames(alice)[0]), (0, ErrorCode::Malformed));
    for number in 1..=80 {
        world.say(alice, &read(number));
    }
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 64);
    assert!(world.client(alice).paused);
    let mark = body::ReadUpTo {
        conv: ab.as_bytes().to_vec(),
        whose: "alice".to_owned(),
        seq: 1,
        n: 1,
    };
    for number in 1..=80 {
        world.router_says(
            RecordKind::ServerFrame,
            alice,
            &frame::encode(FrameKind::ReadUpTo, number, &mark),
        );
        world.turn();
    }
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 16);
    assert_eq!(world.frames(alice).len(), 80);
    assert!(!world.client(alice).paused);
}
