//! Deadlines: handshake, heartbeat, token, credit.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, error, hello, kind, ping, send_to, upgrade};

#[test]
fn every_step_of_the_handshake_has_eight_seconds_in_all() {
    let mut world = World::new(config());
    let silent = world.accept();
    let dripping = world.accept();
    let no_hello = world.open("corelane.rkyv.v1");
    world.claims_granted = false;
    let no_claim = world.open("corelane.rkyv.v1");
    world.say(no_claim, &hello("alice", "d"));
    let head = upgrade("/ws", "corelane.rkyv.v1", "");
    for byte in head.iter().take(70) {
        world.bytes(dripping, &[*byte]);
        world.pass(Duration::from_millis(100));
    }
    assert!(!world.client(silent).closed);
    world.pass(Duration::from_millis(1500));
    assert!(world.client(silent).closed && world.client(dripping).closed);
    assert_eq!(world.close_code(no_hello), Some(4004));
    assert_eq!(world.close_code(no_claim), Some(4007));
    world.pass(Duration::from_secs(6));
    assert_eq!(world.shard.metrics().connections, 0);
}

#[test]
fn a_silent_client_is_closed_with_4004_and_one_that_pings_is_not() {
    let mut world = World::new(config());
    let (silent, alive) = (world.login("silent"), world.login("alive"));
    for _ in 0..10 {
        world.pass(Duration::from_secs(25));
        world.say(alive, &ping(1));
    }
    assert_eq!(world.close_code(silent), Some(4004));
    assert_eq!(world.frames(alive).len(), 10);
    assert_eq!(world.shard.metrics().sessions, 1);
}

#[test]
fn an_expired_token_closes_with_4005_and_a_refreshed_one_does_not() {
    let mut world = World::new(config());
    world.tokens_valid_s = 100;
    let (old, refreshed) = (world.login("old"), world.login("refreshed"));
    world.tokens_valid_s = 10_000;
    for reference in 0..8 {
        world.pass(Duration::from_secs(20));
        for conn in [old, refreshed] {
            if !world.client(conn).closed {
                world.say(conn, &ping(reference));
            }
        }
        if reference == 2 {
            let newer = body::RefreshToken {
                token: "refreshed".to_owned(),
            };
            world.say(refreshed, &frame::encode(FrameKind::RefreshToken, 77, &newer));
            let other = body::RefreshToken {
                token: "somebody-else".to_owned(),
            };
            world.say(refreshed, &frame::encode(FrameKind::RefreshToken, 78, &other));
        }
    }
    assert_eq!(world.close_code(old), Some(4005));
    let frames = world.frames(refreshed);
    assert!(
        frames
            .iter()
            .any(|frame| kind(frame) == FrameKind::Pong && crate::harness::reference(frame) == 77)
    );
    let errors: Vec<_> = frames
        .iter()
        .filter(|frame| kind(frame) == FrameKind::Error)
        .map(|frame| error(frame))
        .collect();
    assert_eq!(errors, [(78, ErrorCode::Forbidden)]);
}

#[test]
fn sends_that_find_no_credit_wait_for_their_deadline_and_are_refused_in_order() {
    let mut world = World::new(config());
    let senders: Vec<_> = (0..300)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.router_reads = false;
    let big = |reference| {
        let mut id = [0; 16];
        (id[6], id[8], id[0]) = (0x70, 0x80, reference as u8);
        let send = body::Send {
            target: body::Target::User("bob".to_owned()),
            kind: 1,
            flags: 0,
            ref_seq: 0,
            client_msg_id: id,
            content_type: 0,
            payload: vec![0; 60_000],
        };
        frame::encode(FrameKind::Send, reference, &send)
    };
    // 8 MiB of credit, then 8 MiB of waiting, then overloaded at once.
    for sender in &senders {
        world.say(*sender, &big(1));
    }
    let waiting = world.shard.metrics().forward_waiting;
    assert!((120..150).contains(&waiting), "{waiting}");
    let refused = |world: &mut World| -> usize {
        senders
            .iter()
            .map(|sender| world.frames(*sender))
            .map(|frames| {
                assert!(
                    frames
                        .iter()
                        .all(|frame| error(frame) == (1, ErrorCode::Overloaded))
                );
                frames.len()
            })
            .sum()
    };
    let at_once = refused(&mut world);
    assert!(at_once > 10, "{at_once}");
    world.pass(Duration::from_millis(5200));
    let later = refused(&mut world);
    assert_eq!(later as u64, waiting);
    assert_eq!(world.shard.metrics().forward_waiting, 0);
}

#[test]
fn a_send_whose_connection_is_gone_before_it_was_written_is_dropped() {
    let mut world = World::new(config());
    let senders: Vec<_> = (0..2)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.router_reads = false;
    let mut written = 0;
    for number in 1..=200_u32 {
        let mut send = send_to("bob", number, false);
        send.truncate(send.len());
        world.say(senders[0], &send);
        written += 1;
    }
    assert!(written > 0);
    world.input(corelane_gateway_core::event::Input::PeerClosed(senders[0]));
    world.turn();
    world.router_reads = true;
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 0);
    assert_eq!(world.shard.metrics().sessions, 1);
}
