//! Bytes that no honest client sends.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Extension, FrameKind, body, push_extension};
use corelane_protocol::ws::Opcode;

use crate::harness::{World, config, error, hello, masked, ping, send_to};

#[test]
fn a_malformed_frame_with_a_header_is_answered_and_the_connection_goes_on() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let mut broken = send_to("bob", 5, false);
    let len = broken.len();
    broken[len - 6..].fill(0xff);
    let no_reference = send_to("bob", 0, false);
    let mut short = ping(6);
    short.pop();
    let own_room = frame::encode(FrameKind::JoinRoom, 8, &body::Room { room: "r".to_owned() });
    let not_for_clients = frame::encode(
        FrameKind::Pong,
        9,
        &body::Pong {
            time_ms: 0,
            server_time_ms: 0,
        },
    );
    for bytes in [
        &broken,
        &no_reference,
        &short,
        &hello("alice", "d"),
        &own_room,
        &not_for_clients,
    ] {
        world.say(alice, bytes);
    }
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(
        errors,
        [
            (5, ErrorCode::Malformed),
            (0, ErrorCode::Malformed),
            (6, ErrorCode::Malformed),
            (1, ErrorCode::Malformed),
            (8, ErrorCode::Unsupported),
            (9, ErrorCode::UnknownKind)
        ]
    );
    world.say(alice, &ping(10));
    assert_eq!(world.frames(alice).len(), 1);
}

#[test]
fn unknown_kinds_are_skipped_unless_they_must_be_understood() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let mut unknown = ping(3);
    unknown[0] = 0x77;
    world.say(alice, &unknown);
    assert!(world.frames(alice).is_empty());
    unknown[3] = frame::flag::MUST_UNDERSTAND;
    world.say(alice, &unknown);
    assert_eq!(error(&world.frames(alice)[0]), (3, ErrorCode::UnknownKind));
    let mut extension = Vec::new();
    push_extension(
        &mut extension,
        Extension {
            number: frame::extension::CRITICAL | 5,
            value: b"x",
        },
    );
    let ping = frame::encode_with(FrameKind::Ping, 0, 4, &body::Ping { time_ms: 1 }, &extension);
    world.say(alice, &ping);
    assert_eq!(error(&world.frames(alice)[0]), (4, ErrorCode::UnknownExtension));
}

#[test]
fn a_frame_without_even_a_header_closes_with_4504() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &[1, 2, 3]);
    assert_eq!(world.close_code(alice), Some(4504));
}

#[test]
fn another_version_closes_with_4503() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let mut frame = ping(1);
    frame[2] = 2;
    world.say(alice, &frame);
    assert_eq!(world.close_code(alice), Some(4503));
}

#[test]
fn text_on_a_binary_connection_closes_with_4504() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say_text(alice, "{}");
    assert_eq!(world.close_code(alice), Some(4504));
}

#[test]
fn broken_websocket_frames_close_soon_even_if_the_client_goes_on_sending() {
    for (bytes, code) in [
        (vec![0x82, 0x05, 1, 2, 3, 4, 5], 1002),
        (vec![0xf2, 0x80, 0, 0, 0, 0], 1002),
        (masked(Opcode::Binary, &vec![0; 80 * 1024]), 1009),
        (vec![0x80, 0x80, 0, 0, 0, 0], 1002),
    ] {
        let mut world = World::new(config());
        let alice = world.login("alice");
        world.bytes(alice, &bytes);
        world.turn();
        assert_eq!(world.close_code(alice), Some(code));
        for _ in 0..10 {
            if world.client(alice).closed {
                break;
            }
            world.bytes(alice, &[0xff; 100]);
            world.pass(Duration::from_millis(100));
        }
        assert!(world.client(alice).closed);
    }
}

#[test]
fn random_bytes_at_every_stage_break_nothing() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let mut world = World::new(config());
        let id = match round % 3 {
            0 => world.accept(),
            1 => world.open("corelane.rkyv.v1"),
            _ => world.login("alice"),
        };
        for _ in 0..20 {
            let mut bytes: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
            if next() % 2 == 0 {
                let mut frame = send_to("bob", 3, false);
                let at = (next() % frame.len() as u64) as usize;
                frame[at] ^= next() as u8;
                bytes = masked(Opcode::Binary, &frame);
            }
            if world.client(id).closed {
                break;
            }
            world.bytes(id, &bytes);
            world.turn();
        }
        world.pass(Duration::from_secs(90));
        assert!(world.client(id).closed, "silence ends every connection");
    }
}
