//! Deadlines: handshake, heartbeat, token, credit.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, error, hello, kind, ping, record, send_to, upgrade};

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
fn a_client_that_vanished_is_closed_with_4004_however_much_is_sent_to_it() {
    let mut world = World::new(config());
    let vanished = world.login("vanished");
    let ab = conv("alice", "bob");
    for number in 1..=5 {
        world.pass(Duration::from_secs(15));
        if !world.client(vanished).closed {
            world.publish(&record(number, &ab, number..=number, 10, &[vanished]));
            world.turn();
        }
    }
    assert_eq!(world.shard.metrics().heartbeat_timeouts, 1);
    assert_eq!(world.close_code(vanished), Some(4004));
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
fn a_newer_token_must_be_for_the_same_user_terminal_and_device() {
    use corelane_protocol::limits::TOKEN_BYTES_MAX;
    let mut world = World::new(config());
    // The device is d1, the terminal is that of `hello`.
    let alice = world.login("alice");
    let long = "x".repeat(TOKEN_BYTES_MAX + 1);
    let tokens = [
        "alice",
        "alice/d1",
        "alice/d1/pad",
        "bob",
        "alice/d2",
        "alice/d1/web",
        "",
        &long,
    ];
    for (reference, token) in (1..).zip(tokens) {
        let newer = body::RefreshToken {
            token: token.to_owned(),
        };
        world.say(alice, &frame::encode(FrameKind::RefreshToken, reference, &newer));
    }
    let frames = world.frames(alice);
    let (good, refused) = frames.split_at(3);
    assert!(good.iter().all(|frame| kind(frame) == FrameKind::Pong));
    let errors: Vec<_> = refused.iter().map(|frame| error(frame)).collect();
    let forbidden = [4, 5, 6].map(|reference| (reference, ErrorCode::Forbidden));
    assert_eq!(errors[..3], forbidden);
    assert_eq!(errors[3..], [(7, ErrorCode::Malformed), (8, ErrorCode::TooLarge)]);
}

#[test]
fn a_token_that_is_accepted_within_the_leeway_is_good_until_its_end() {
    let mut world = World::new(config());
    world.tokens_valid_s = -10;
    let late = world.login("late");
    world.pass(Duration::from_secs(19));
    assert!(world.frames(late).is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.close_code(late), Some(4005));
}

/// A send of so many bytes.
fn big(reference: u32) -> Vec<u8> {
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
}

#[test]
fn a_send_whose_connection_is_gone_before_it_was_written_is_dropped() {
    let mut world = World::new(config());
    let (leaves, stays) = (world.login("leaves"), world.login("stays"));
    let others: Vec<_> = (0..140)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.router_reads = false;
    for other in &others {
        world.say(*other, &big(1));
    }
    world.say(leaves, &send_to("bob", 1, false));
    world.say(stays, &send_to("bob", 1, false));
    let typing = body::Typing {
        target: body::Target::User("bob".to_owned()),
        from: String::new(),
        on: true,
    };
    world.say(stays, &frame::encode(FrameKind::TypingStep, 9, &typing));
    assert!(world.shard.metrics().forward_waiting >= 3);
    world.input(corelane_gateway_core::event::Input::PeerClosed(leaves));
    world.turn();
    world.got.clear();
    world.router_reads_again();
    let sent = world.got(RecordKind::ClientFrame);
    assert_eq!(sent.len(), 140 + 2);
    assert!(sent.iter().all(|got| got.conn != leaves));
    let last: Vec<u32> = sent
        .iter()
        .filter(|got| got.conn == stays)
        .map(|got| got.reference)
        .collect();
    assert_eq!(last, [1, 9], "in the order they came");
    assert_eq!(world.shard.metrics().forward_waiting, 0);
    world.ack(stays, 1, 1);
    world.pass(Duration::from_secs(15));
    assert_eq!(
        world.frames(stays).len(),
        1,
        "what is never answered is not waited for"
    );
}
