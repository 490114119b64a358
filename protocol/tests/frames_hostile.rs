//! Bytes of a hostile peer are an error or a frame within all limits: never a panic, never a read beyond their end.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of these tests are small"
)]

mod samples;

use corelane_protocol::bus::{self, BUS_HEADER_BYTES, BUS_VERSION, BusError, BusHeader};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::json::to_json;
use corelane_protocol::frame::{
    self, Extension, Frame, FrameError, FrameKind, HEADER_BYTES, body, encode, encode_with, extension, flag,
    kind, push_extension, read,
};
use corelane_protocol::limits;
use corelane_protocol::link::body as link;
use corelane_protocol::link::record::Record;
use proptest::prelude::*;

/// Reads a frame as whoever receives it does, and checks what the reader promises.
fn read_all(bytes: &[u8]) -> Result<(), FrameError> {
    let frame = Frame::parse(bytes)?;
    let _ = to_json(bytes, &mut Vec::new());
    for each in frame.extensions() {
        assert!(each.value.len() <= limits::EXTENSION_BYTES_MAX);
    }
    match frame
        .known_kind()
        .ok_or(FrameError::Kind { number: frame.kind })?
    {
        FrameKind::Hello => {
            let hello = read::hello(&frame)?;
            assert!(hello.device.len() <= 64);
            assert!(
                hello
                    .token
                    .is_none_or(|token| token.len() <= limits::TOKEN_BYTES_MAX)
            );
        }
        FrameKind::Send => {
            let send = read::send(&frame)?;
            assert!(send.payload.len() <= limits::PAYLOAD_BYTES_MAX && send.ref_seq <= limits::SEQ_MAX);
            assert!(kind::is_client_kind(send.kind) && send.flags & !kind::flag::ALL == 0);
            assert!(send.client_msg_id.is_uuid_v7());
        }
        FrameKind::Read => assert!(read::read(&frame)?.seq <= limits::SEQ_MAX),
        FrameKind::Delivered => assert!(read::delivered(&frame)?.len() <= limits::PLACES_MAX),
        FrameKind::Sync => assert!((1..=limits::PAGE_ITEMS_MAX).contains(&read::sync(&frame)?.limit)),
        FrameKind::Pull => {
            let pull = read::pull(&frame)?;
            assert!(pull.from_seq >= 1 && pull.from_seq <= pull.to_seq);
        }
        FrameKind::CallStep => assert!(read::call(&frame)?.body.len() <= limits::CALL_BODY_BYTES_MAX),
        FrameKind::TypingStep => drop(read::typing(&frame)?),
        FrameKind::PresenceQuery => {
            assert!(read::presence_query(&frame)?.len() <= limits::PRESENCE_USERS_MAX);
        }
        FrameKind::JoinRoom | FrameKind::LeaveRoom => drop(read::room(&frame)?),
        FrameKind::RefreshToken => assert!(!read::refresh_token(&frame)?.is_empty()),
        FrameKind::Ping => drop(read::ping(&frame)?),
        _ => to_json(bytes, &mut Vec::new())?,
    }
    Ok(())
}

fn all_frames() -> Vec<(&'static str, Vec<u8>)> {
    [samples::client_frames(), samples::server_frames()].concat()
}

#[test]
fn every_sample_reads() {
    for (name, bytes) in all_frames() {
        assert_eq!(read_all(&bytes), Ok(()), "{name}");
    }
}

#[test]
fn a_frame_that_ends_early_is_refused() {
    for (name, bytes) in all_frames() {
        let body_end = HEADER_BYTES + Frame::parse(&bytes).unwrap().body.len();
        for length in 0..bytes.len() {
            let result = read_all(&bytes[..length]);
            // What ends behind the body or between two extensions is a frame with fewer extensions.
            if length != body_end {
                assert!(result.is_err(), "{name}: first {length} of {} bytes", bytes.len());
            }
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(read_all(&longer).is_err(), "{name}: one byte more");
    }
}

#[test]
fn a_frame_with_any_byte_changed_never_panics() {
    for (_, bytes) in all_frames() {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x02, 0x10, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let _ = read_all(&changed);
            }
        }
    }
}

#[test]
fn bodies_of_records_with_any_byte_changed_never_panic() {
    let touch = |body: &[u8]| {
        let _ = frame::access::<link::ArchivedClaim>(body);
        let _ = frame::access::<link::ArchivedConsumed>(body).map(|it| it.gaps.len());
        let _ = frame::access::<link::ArchivedBounce>(body).map(|it| it.conns.iter().count());
        let _ = frame::access::<link::ArchivedBusBatch>(body)
            .map(|it| it.records.iter().map(rkyv::vec::ArchivedVec::len).sum::<usize>());
        let _ = frame::access::<link::ArchivedRouterList>(body)
            .map(|it| it.routers.iter().map(|each| each.address.len()).sum::<usize>());
    };
    for (_, bytes) in samples::records() {
        let (record, _) = Record::split(&bytes).unwrap();
        for at in 0..record.body.len() {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut changed = record.body.to_vec();
                changed[at] ^= flip;
                touch(&changed);
                touch(&changed[..at]);
            }
        }
    }
}

#[test]
fn bus_records_with_any_byte_changed_never_panic_and_are_counted_if_their_header_came() {
    let touch = |bytes: &[u8]| {
        let read = bus::read(bytes).map(|(_, record)| {
            let frames = record.frames.iter();
            frames
                .filter(|each| each.receivers.include(3) && read_all(&each.frame).is_ok())
                .count()
        });
        let short = Err(BusError::Length { bytes: bytes.len() });
        assert_eq!(bytes.len() < BUS_HEADER_BYTES, read == short, "{read:?}");
        assert_eq!(bytes.len() < BUS_HEADER_BYTES, BusHeader::split(bytes).is_err());
    };
    for (_, bytes) in samples::bus_records() {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                touch(&changed);
                touch(&changed[..at]);
            }
        }
    }
}

#[test]
fn a_bus_record_of_a_later_version_can_be_counted() {
    let (_, mut bytes) = samples::bus_records().remove(0);
    let (header, record) = bus::read(&bytes).unwrap();
    assert_eq!((header.router_boot, header.number), (0xb007, 77));
    assert_eq!(record.last_seq.to_native(), 42);
    bytes[0] += 1;
    bytes.truncate(BUS_HEADER_BYTES + 3);
    let version = BUS_VERSION + 1;
    assert_eq!(bus::read(&bytes).err(), Some(BusError::Version { version }));
    let counted = BusHeader { version, ..header };
    assert_eq!(BusHeader::split(&bytes).unwrap().0, counted);
}

#[test]
fn pages_within_pages_do_not_use_up_the_stack() {
    let page = |messages| body::PullPage {
        conv: samples::group(),
        next_seq: 0,
        head_seq: 0,
        head_n: 0,
        floor_seq: 0,
        messages,
    };
    let mut bytes = encode(FrameKind::PullPage, 0, &page(Vec::new()));
    for _ in 0..2000 {
        bytes = encode(FrameKind::PullPage, 0, &page(vec![bytes]));
    }
    assert_eq!(
        to_json(&bytes, &mut Vec::new()),
        Err(FrameError::Kind {
            number: FrameKind::PullPage as u16
        })
    );
}

#[test]
fn extensions_are_bounded_and_critical_ones_refused() {
    let ping = body::Ping { time_ms: 1 };
    let with = |extensions: &[(u16, usize)]| {
        let mut bytes = Vec::new();
        for (number, length) in extensions {
            let value = vec![*number as u8; *length];
            push_extension(
                &mut bytes,
                Extension {
                    number: *number,
                    value: &value,
                },
            );
        }
        encode_with(FrameKind::Ping, 0, 1, &ping, &bytes)
    };
    assert_eq!(read_all(&with(&[(1, 100)])), Ok(()));
    assert_eq!(read_all(&with(&[(1, 0); limits::EXTENSIONS_MAX])), Ok(()));
    assert!(matches!(
        read_all(&with(&[(1, 0); limits::EXTENSIONS_MAX + 1])),
        Err(FrameError::Extensions { .. })
    ));
    assert!(matches!(
        read_all(&with(&[(1, limits::EXTENSION_BYTES_MAX)])),
        Err(FrameError::Extensions { .. })
    ));
    let critical = extension::CRITICAL | 3;
    assert_eq!(
        read_all(&with(&[(1, 2), (critical, 2)])),
        Err(FrameError::CriticalExtension { number: critical })
    );
    let bytes = with(&[(extension::STORED | 2, 1), (5, 1), (extension::STORED | 1, 1)]);
    let stored = read::stored_extensions(&Frame::parse(&bytes).unwrap());
    assert_eq!(stored, b"\x01\x40\x01\0\0\0\x01\x02\x40\x01\0\0\0\x02");
}

#[test]
fn errors_name_the_field_its_value_and_what_is_allowed() {
    let send = |change: fn(&mut body::Send)| {
        let mut send = body::Send {
            target: body::Target::User("bob".to_owned()),
            kind: kind::TEXT,
            flags: 0,
            ref_seq: 0,
            client_msg_id: samples::CLIENT_MSG_ID,
            content_type: kind::content::TEXT,
            payload: b"x".to_vec(),
        };
        change(&mut send);
        read_all(&encode(FrameKind::Send, 1, &send))
            .unwrap_err()
            .to_string()
    };
    for (text, expected) in [
        (
            send(|send| send.kind = kind::VOID),
            "kind is 0x01fe, allowed are 1 to 0xff, 0x100 to 0x102, 0x200 and from 0x8000",
        ),
        (
            send(|send| send.flags = 0x100),
            "flags are 0x0100, allowed are bits of 0x000f",
        ),
        (
            send(|send| send.ref_seq = 1 << 53),
            "ref_seq is 9007199254740992, allowed are 0 to 9007199254740991",
        ),
        (
            send(|send| send.kind = kind::RECALL),
            "ref_seq is 0, but recall, edit and reaction name an earlier message",
        ),
        (
            send(|send| send.payload = vec![b'x'; 65_537]),
            "payload has 65537 bytes, allowed are 65536",
        ),
        (
            send(|send| send.payload = vec![0xff]),
            "payload is not UTF-8 although its content type is text",
        ),
        (
            send(|send| send.client_msg_id[6] = 0x40),
            "client_msg_id is 01935a2b3c4d40f08123456789abcdef, allowed are UUIDs of version 7 (RFC 9562)",
        ),
        (
            send(|send| send.target = body::Target::User(String::new())),
            "target is not allowed: user id has 0 bytes, allowed are 1 to 64",
        ),
    ] {
        assert_eq!(text, expected);
    }
}

#[test]
fn errors_are_answered_with_the_code_that_is_meant() {
    let send = body::Send {
        target: body::Target::User("bob".to_owned()),
        kind: kind::TEXT,
        flags: 0,
        ref_seq: 0,
        client_msg_id: samples::CLIENT_MSG_ID,
        content_type: kind::content::BYTES,
        payload: vec![0; limits::PAYLOAD_BYTES_MAX + 1],
    };
    let code = |bytes: &[u8]| read_all(bytes).map_err(|error| error.code());
    assert_eq!(code(&encode(FrameKind::Send, 1, &send)), Err(ErrorCode::TooLarge));
    let call = body::Call {
        target: send.target,
        from: String::new(),
        call_id: [1; 16],
        step: 1,
        body: vec![0; limits::CALL_BODY_BYTES_MAX + 1],
    };
    assert_eq!(
        code(&encode(FrameKind::CallStep, 1, &call)),
        Err(ErrorCode::TooLarge)
    );
    assert_eq!(code(b"short"), Err(ErrorCode::Malformed));
}

#[test]
fn a_header_promises_no_memory() {
    let mut bytes = vec![2, 0, 1, flag::EXTENSIONS];
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 4]);
    assert!(matches!(Frame::parse(&bytes), Err(FrameError::Length { .. })));
}

proptest! {
    #[test]
    fn bytes_of_anybody_never_panic(
        kind in prop::sample::select(FrameKind::ALL.to_vec()),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = (kind as u16).to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&body);
        let _ = read_all(&bytes);
        let _ = read_all(&body);
    }

    #[test]
    fn frames_with_several_bytes_changed_never_panic(
        at in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let frames = all_frames();
        let mut bytes = at.get(&frames).1.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let _ = read_all(&bytes);
    }
}
