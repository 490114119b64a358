//! Frames that break RFC 6455, are too large or too many: closed with the code that says so, or answered in order.
#![expect(clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::io::{Read as _, Write as _};

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, body};
use corelane_protocol::limits::{CLIENT_FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use corelane_protocol::ws::{Decoder, Item, Opcode, Role};
use corelane_system_tests::Gateway;
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::peer::{JSON, RKYV, close_code, masked, upgraded, welcome};

/// A masked frame whose first byte is `first`.
fn with_first(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = masked(Opcode::Binary, payload);
    bytes[0] = first;
    bytes
}

/// The head of a masked binary frame, its length in these bytes.
fn head(form: u8, length: &[u8]) -> Vec<u8> {
    [&[0x82, 0x80 | form], length, &[1, 2, 3, 4]].concat()
}

fn ping(reference: u32) -> Vec<u8> {
    frame::encode(FrameKind::Ping, reference, &body::Ping { time_ms: 1 })
}

#[test]
fn frames_that_break_rfc_6455_close_with_its_codes() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("unmasked", 1002, vec![0x82, 0x01, 0x00]),
        ("reserved bit 1", 1002, with_first(0xc2, b"x")),
        ("reserved bit 2", 1002, with_first(0xa2, b"x")),
        ("reserved bit 3", 1002, with_first(0x92, b"x")),
        ("data opcode 3", 1002, with_first(0x83, b"x")),
        ("control opcode 11", 1002, with_first(0x8b, b"x")),
        ("fragmented control frame", 1002, with_first(0x09, b"x")),
        ("continuation of nothing", 1002, with_first(0x80, b"x")),
        (
            "a message within a message",
            1002,
            [with_first(0x02, b"x"), with_first(0x82, b"y")].concat(),
        ),
        (
            "control frame of 126 bytes",
            1002,
            [&[0x89][..], &head(126, &[0, 126])[1..]].concat(),
        ),
        ("half a close code", 1002, with_first(0x88, &[3])),
        ("a close code that is none", 1002, with_first(0x88, &[0, 1])),
        (
            "a close code that is never sent",
            1002,
            with_first(0x88, &1006_u16.to_be_bytes()),
        ),
        (
            "a close reason that is not UTF-8",
            1007,
            with_first(0x88, &[0x03, 0xe8, 0xff]),
        ),
        ("text that is not UTF-8", 1007, with_first(0x81, b"\xff\xfe")),
        (
            "text whose fragments are not UTF-8",
            1007,
            [with_first(0x01, b"\xe2\x82"), with_first(0x80, b"x")].concat(),
        ),
    ];
    for subprotocol in [RKYV, JSON] {
        for (name, code, bytes) in &cases {
            let mut stream = upgraded(&gateway, subprotocol);
            stream.write_all(bytes).unwrap();
            assert_eq!(close_code(&mut stream), *code, "{name} on {subprotocol}");
        }
        bystanders.chat();
    }
    gateway.await_metric("corelane_gateway_decode_ws_errors_total", 2 * cases.len() as u64);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn lengths_that_are_wrong_in_any_form_cost_nothing_and_close() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let too_large = CLIENT_FRAME_BYTES_MAX as u64 + 1;
    let limit = u16::try_from(CLIENT_FRAME_BYTES_MAX / 2).unwrap();
    let half = |first: u8| {
        [
            &[first][..],
            &head(126, &limit.to_be_bytes())[1..],
            &vec![0; usize::from(limit)],
        ]
        .concat()
    };
    // Before Welcome a message has at most 4 KiB, afterwards 72 KiB.
    let at_first = [
        ("16 bits, 4097", 1009, head(126, &4097_u16.to_be_bytes())),
        ("16 bits, 65535", 1009, head(126, &u16::MAX.to_be_bytes())),
        ("64 bits, 65536", 1009, head(127, &65_536_u64.to_be_bytes())),
    ];
    let later = [
        ("64 bits, one too many", 1009, head(127, &too_large.to_be_bytes())),
        (
            "fragments, one byte too many",
            1009,
            [half(0x02), half(0x00), with_first(0x80, b"x")].concat(),
        ),
    ];
    let always = [
        (
            "64 bits, 2^63 - 1",
            1009,
            head(127, &(u64::MAX >> 1).to_be_bytes()),
        ),
        ("64 bits, top bit", 1002, head(127, &(1_u64 << 63).to_be_bytes())),
        ("64 bits, all ones", 1002, head(127, &u64::MAX.to_be_bytes())),
        ("16 bits for 0", 1002, head(126, &[0, 0])),
        ("16 bits for 125", 1002, head(126, &[0, 125])),
        ("64 bits for 5", 1002, head(127, &5_u64.to_be_bytes())),
        ("64 bits for 65535", 1002, head(127, &65_535_u64.to_be_bytes())),
        (
            "more empty fragments than any message has",
            1009,
            [with_first(0x02, b""), with_first(0x00, b"").repeat(6_000)].concat(),
        ),
    ];
    for (name, code, bytes) in at_first.iter().chain(&always) {
        let mut stream = upgraded(&gateway, RKYV);
        stream.write_all(bytes).unwrap();
        assert_eq!(close_code(&mut stream), *code, "{name}, before Hello");
    }
    for (name, code, bytes) in later.iter().chain(&always) {
        let mut stream = welcome(&gateway, "mallory");
        stream.write_all(bytes).unwrap();
        assert_eq!(close_code(&mut stream), *code, "{name}, after Welcome");
    }
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn the_largest_payload_is_stored_and_one_byte_more_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let mut client = Client::login(&gateway, "talker");
    let payload = vec![b'x'; PAYLOAD_BYTES_MAX + 1];
    let reference = client.send_with(&to_user("nobody"), message_id(), &payload);
    let (code, text) = client.answer(reference).unwrap_err();
    assert_eq!(code, ErrorCode::TooLarge as u16, "{text}");
    assert!(text.contains("65537") && text.contains("65536"), "{text}");
    let reference = client.send_with(&to_user("nobody"), message_id(), &payload[1..]);
    assert_eq!(
        client.answer(reference),
        Ok(1),
        "the connection is as good as before"
    );
    drop(client);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn ten_thousand_frames_in_one_segment_are_answered_in_order() {
    const FRAMES: u32 = 10_000;
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let mut stream = welcome(&gateway, "flood");
    let flood: Vec<u8> = (0..FRAMES)
        .flat_map(|reference| masked(Opcode::Binary, &ping(reference)))
        .collect();
    let mut reader = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || stream.write_all(&flood).map(|()| stream));
    let mut decoder = Decoder::new(Role::Client, 1024);
    let mut answered = 0;
    let mut buffer = vec![0; 65_536];
    while answered < FRAMES {
        let read = reader.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {answered} answers");
        let mut items = decoder.feed(&mut buffer[..read]);
        while let Some(item) = items.next() {
            let Item::Binary(pong) = item.unwrap() else {
                panic!("something else than a pong came");
            };
            let frame = Frame::parse(pong).unwrap();
            assert_eq!(
                (frame.known_kind(), frame.reference),
                (Some(FrameKind::Pong), answered)
            );
            answered += 1;
        }
        bystanders.chat();
    }
    drop((writer.join().unwrap().unwrap(), reader));
    bystanders.are_alone_and_well(&gateway);
}
