//! Frames that RFC 6455 allows and the protocol on top of it does not: hostile archives, unknown kinds, other versions.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::io::Write as _;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{
    self, Extension, Frame, FrameKind, HEADER_BYTES, body, extension, flag, kind,
};
use corelane_protocol::ws::Opcode;
use corelane_system_tests::Gateway;
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::peer::{JSON, RKYV, close_code, masked, upgraded};

fn ping(reference: u32) -> Vec<u8> {
    frame::encode(FrameKind::Ping, reference, &body::Ping { time_ms: 1 })
}

#[test]
fn a_frame_that_is_none_ends_a_connection_that_is_not_welcome_yet() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let hostile = [&[1, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0][..], &[0xff; 8]].concat();
    let mut other_version = ping(1);
    other_version[2] = 2;
    let cases = [
        ("no header", RKYV, 4504, masked(Opcode::Binary, b"short")),
        ("a hostile archive", RKYV, 4504, masked(Opcode::Binary, &hostile)),
        (
            "another frame than Hello",
            RKYV,
            4504,
            masked(Opcode::Binary, &ping(1)),
        ),
        (
            "another version",
            RKYV,
            4503,
            masked(Opcode::Binary, &other_version),
        ),
        ("text", RKYV, 4504, masked(Opcode::Text, b"{}")),
        ("bytes", JSON, 4504, masked(Opcode::Binary, &ping(1))),
        ("no JSON", JSON, 4504, masked(Opcode::Text, b"hello")),
        ("deep JSON", JSON, 4504, masked(Opcode::Text, &[b'['; 4000])),
        (
            "another type than hello",
            JSON,
            4504,
            masked(Opcode::Text, br#"{"type":"ping","ref":1,"time_ms":1}"#),
        ),
    ];
    for (name, subprotocol, code, bytes) in cases {
        let mut stream = upgraded(&gateway, subprotocol);
        stream.write_all(&bytes).unwrap();
        assert_eq!(close_code(&mut stream), code, "{name}");
    }
    bystanders.are_alone_and_well(&gateway);
}

/// A number generator that can be replayed (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// A frame with another body, its header still true.
fn with_body(frame: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..HEADER_BYTES].to_vec();
    bytes[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The next answer to `reference`: the code of an error, or `None` for any other.
fn code_of_answer(client: &mut Client, reference: u32) -> Option<u16> {
    loop {
        let bytes = client.read().expect("the connection stands");
        let frame = Frame::parse(&bytes).unwrap();
        if frame.reference == reference {
            let error = frame.known_kind() == Some(FrameKind::Error);
            return error.then(|| {
                frame
                    .access::<body::ArchivedErrorBody>()
                    .unwrap()
                    .code
                    .to_native()
            });
        }
    }
}

#[test]
fn truncated_and_damaged_archives_are_answered_and_the_connection_goes_on() {
    let start = std::env::var("CORELANE_SEED").map_or(1, |number| number.parse().unwrap());
    println!("CORELANE_SEED={start}");
    let mut rng = Rng(start);
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let mut client = Client::login(&gateway, "mallory");
    let send = body::Send {
        target: to_user("nobody"),
        kind: kind::TEXT,
        flags: 0,
        ref_seq: 0,
        client_msg_id: message_id(),
        content_type: kind::content::TEXT,
        payload: b"a payload that is longer than what fits in place".to_vec(),
    };
    let frames = [
        frame::encode(FrameKind::Send, 0, &send),
        frame::encode(
            FrameKind::Pull,
            0,
            &body::Pull {
                conv: b"\x01\x05alicebob".to_vec(),
                from_seq: 1,
                to_seq: 9,
                limit: 10,
            },
        ),
        frame::encode(
            FrameKind::PresenceQuery,
            0,
            &body::PresenceQuery {
                users: ["alice", "a user whose name lies elsewhere"]
                    .map(str::to_owned)
                    .to_vec(),
            },
        ),
    ];
    let mut reference = 100_u32;
    let mut next = |bytes: &mut Vec<u8>| {
        reference += 1;
        bytes[8..12].copy_from_slice(&reference.to_le_bytes());
        reference
    };
    for whole in &frames {
        let body = &whole[HEADER_BYTES..];
        for kept in 0..body.len() {
            // Cut with a header that knows it, and cut with one that does not.
            let mut known = with_body(whole, &body[..kept]);
            let mut unknown = whole[..HEADER_BYTES + kept].to_vec();
            for bytes in [&mut known, &mut unknown] {
                let reference = next(bytes);
                client.write(bytes);
                let code = code_of_answer(&mut client, reference);
                assert_eq!(code, Some(ErrorCode::Malformed as u16), "cut to {kept} bytes");
            }
        }
    }
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..3_000 {
        let whole = &frames[rng.below(frames.len())];
        let mut body = whole[HEADER_BYTES..].to_vec();
        for _ in 0..=rng.below(4) {
            let at = rng.below(body.len());
            body[at] = if rng.below(2) == 0 {
                0xff
            } else {
                rng.next().to_le_bytes()[0]
            };
        }
        let mut bytes = with_body(whole, &body);
        let reference = next(&mut bytes);
        client.write(&bytes);
        match code_of_answer(&mut client, reference) {
            Some(_) => refused += 1,
            None => taken += 1,
        }
    }
    assert!(
        refused > 500 && taken > 50,
        "{refused} refused, {taken} taken: both kinds were met"
    );
    drop(client);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn unknown_kinds_and_extensions_are_skipped_unless_marked() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let mut client = Client::login(&gateway, "future");
    let of_kind = |kind: u16, flags: u8, reference: u32| {
        let mut bytes = ping(reference);
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[3] = flags;
        bytes
    };
    let extended = |number: u16, reference: u32| {
        let mut extensions = Vec::new();
        frame::push_extension(
            &mut extensions,
            Extension {
                number,
                value: b"new",
            },
        );
        frame::encode_with(
            FrameKind::Ping,
            0,
            reference,
            &body::Ping { time_ms: 1 },
            &extensions,
        )
    };
    // Skipped: the next answer is that to the ping behind it.
    for (reference, kind) in [(100, 0x7777_u16), (101, 0x0042), (102, 0xffff)] {
        client.write(&of_kind(kind, 0, 1));
        client.write(&ping(reference));
        let answer = client.read().unwrap();
        assert_eq!(
            Frame::parse(&answer).unwrap().reference,
            reference,
            "kind {kind:#06x}"
        );
    }
    client.write(&extended(0x0042, 103));
    assert_eq!(code_of_answer(&mut client, 103), None);
    let cases = [
        (
            of_kind(0x7777, flag::MUST_UNDERSTAND, 104),
            ErrorCode::UnknownKind,
        ),
        (of_kind(FrameKind::Message as u16, 0, 104), ErrorCode::UnknownKind),
        (of_kind(FrameKind::SendAck as u16, 0, 104), ErrorCode::UnknownKind),
        (
            extended(0x0042 | extension::CRITICAL, 104),
            ErrorCode::UnknownExtension,
        ),
        (
            frame::encode(
                FrameKind::JoinRoom,
                104,
                &body::Room {
                    room: "lobby".to_owned(),
                },
            ),
            ErrorCode::Unsupported,
        ),
        (of_kind(FrameKind::Hello as u16, 0, 104), ErrorCode::Malformed),
    ];
    for (bytes, code) in cases {
        client.write(&bytes);
        assert_eq!(
            code_of_answer(&mut client, 104),
            Some(code as u16),
            "{bytes:02x?}"
        );
    }
    let mut other_version = ping(1);
    other_version[2] = 2;
    client.write(&other_version);
    assert_eq!(client.closed(), 4503);
    bystanders.are_alone_and_well(&gateway);
}
