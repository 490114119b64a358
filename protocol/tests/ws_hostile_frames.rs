//! What breaks RFC 6455 or a limit ends the connection with the right close code, wherever reads end, and
//! costs no more memory than the bytes that came.

mod ws_support;

use corelane_protocol::ws::close::may_be_sent;
use corelane_protocol::ws::{Decoder, Opcode, Role, WsError, server_header};
use ws_support::{Owned, decode, drain, frame};

const MESSAGE_BYTES_MAX: u32 = 1000;

/// The stream gives this error, last, whole and in every even cut; and nothing after it is looked at.
fn refused(stream: &[u8], error: WsError, close_code: u16) {
    assert_eq!(error.close_code(), close_code, "{error}");
    let longer = [stream, &frame(0x81, b"after")].concat();
    let whole = decode(MESSAGE_BYTES_MAX, [&*longer]);
    assert_eq!(whole.last(), Some(&Owned::Error(error)), "{stream:02x?}");
    for read_bytes in 1..longer.len() {
        let items = decode(MESSAGE_BYTES_MAX, longer.chunks(read_bytes));
        assert_eq!(items, whole, "{error}, reads of {read_bytes} bytes");
    }
}

#[test]
fn reserved_bits() {
    for bits in 1..8_u8 {
        refused(
            &frame(0x81 | bits << 4, b"x"),
            WsError::ReservedBits { bits },
            1002,
        );
    }
}

#[test]
fn undefined_opcodes() {
    for opcode in (3..8).chain(11..16) {
        refused(&frame(0x80 | opcode, b"x"), WsError::Opcode { opcode }, 1002);
    }
}

#[test]
fn a_client_that_does_not_mask() {
    let bytes = [&*server_header(Opcode::Text, 1, true), b"x"].concat();
    refused(&bytes, WsError::Mask { expected: true }, 1002);
}

#[test]
fn a_server_that_masks() {
    let mut items = Vec::new();
    drain(
        &mut Decoder::new(Role::Client, 100),
        &frame(0x81, b"x"),
        &mut items,
    );
    assert_eq!(items, [Owned::Error(WsError::Mask { expected: false })]);
}

#[test]
fn lengths_not_in_their_shortest_form() {
    for length in [0, 1, 125_u16] {
        let [high, low] = length.to_be_bytes();
        let error = WsError::LengthForm {
            length: length.into(),
        };
        refused(&[0x82, 0xfe, high, low, 1, 2, 3, 4], error, 1002);
    }
    for length in [0, 125, 126, 0xffff, 1 << 63, u64::MAX] {
        let bytes = [&[0x82, 0xff][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
        refused(&bytes, WsError::LengthForm { length }, 1002);
    }
}

#[test]
fn too_long_in_every_length_form() {
    let limit = u64::from(MESSAGE_BYTES_MAX);
    for bytes in [1001_u16, 0xffff] {
        let [high, low] = bytes.to_be_bytes();
        let error = WsError::TooLong {
            bytes: bytes.into(),
            limit,
        };
        refused(&[0x82, 0xfe, high, low, 1, 2, 3, 4], error, 1009);
    }
    for bytes in [0x1_0000, u64::from(u32::MAX) + 1, (1 << 63) - 1] {
        let header = [&[0x81, 0xff][..], &bytes.to_be_bytes(), &[1, 2, 3, 4]].concat();
        refused(&header, WsError::TooLong { bytes, limit }, 1009);
    }
    let mut items = Vec::new();
    let mut decoder = Decoder::new(Role::Server, 125);
    drain(&mut decoder, &frame(0x82, &[0; 125]), &mut items);
    assert_eq!(
        items.pop(),
        Some(Owned::Binary(vec![0; 125])),
        "the limit itself is allowed"
    );
}

#[test]
fn too_long_in_fragments() {
    let stream = [
        frame(0x02, &[0; 600]),
        frame(0x00, &[0; 400]),
        frame(0x80, &[0; 1]),
    ]
    .concat();
    refused(
        &stream,
        WsError::TooLong {
            bytes: 1001,
            limit: 1000,
        },
        1009,
    );
    let header = [
        &[0x80, 0xff][..],
        &((1_u64 << 63) - 1).to_be_bytes(),
        &[1, 2, 3, 4],
    ]
    .concat();
    let stream = [frame(0x02, &[0; 600]), header].concat();
    let bytes = 600 + (1 << 63) - 1;
    refused(&stream, WsError::TooLong { bytes, limit: 1000 }, 1009);
}

#[test]
fn fragments_without_end() {
    let limit_count = 1024 + MESSAGE_BYTES_MAX as usize / 16;
    let limit = limit_count as u64;
    let empty = frame(0x00, b"").repeat(limit_count - 1);
    let most = [
        frame(0x01, b""),
        empty.clone(),
        frame(0x89, b"control frames do not count"),
    ]
    .concat();
    assert_eq!(decode(MESSAGE_BYTES_MAX, [&*most]).len(), 1);
    let items = decode(MESSAGE_BYTES_MAX, [&*most, &frame(0x80, b"")]);
    assert_eq!(items.last(), Some(&Owned::Error(WsError::Fragments { limit })));
    assert_eq!(WsError::Fragments { limit }.close_code(), 1009);

    let shorter = frame(0x00, b"").repeat(limit_count - 2);
    let allowed = [frame(0x01, b""), shorter, frame(0x80, b"")].concat();
    let twice = decode(MESSAGE_BYTES_MAX, [&*allowed.repeat(2)]);
    assert_eq!(
        twice,
        [Owned::Text(String::new()), Owned::Text(String::new())],
        "counted per message"
    );
}

#[test]
fn control_frames_that_are_fragmented_or_long() {
    for opcode in [8, 9, 10] {
        refused(&frame(opcode, b"x"), WsError::Control { bytes: 1 }, 1002);
        refused(
            &frame(0x80 | opcode, &[b'x'; 126]),
            WsError::Control { bytes: 126 },
            1002,
        );
    }
}

#[test]
fn fragments_out_of_order() {
    for stream in [
        frame(0x80, b"x"),
        frame(0x00, b"x"),
        [frame(0x81, b"x"), frame(0x80, b"y")].concat(),
    ] {
        refused(&stream, WsError::Continuation("nothing to continue"), 1002);
    }
    for second in [0x81, 0x02] {
        let stream = [frame(0x01, b"x"), frame(second, b"y")].concat();
        refused(
            &stream,
            WsError::Continuation("a message began before the last one ended"),
            1002,
        );
    }
}

#[test]
fn text_that_is_not_utf8() {
    for bytes in [
        &b"ok\xff"[..],
        b"\xf0\x9f",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
    ] {
        refused(&frame(0x81, bytes), WsError::Utf8, 1007);
        refused(
            &[frame(0x01, bytes), frame(0x80, b"x")].concat(),
            WsError::Utf8,
            1007,
        );
        refused(&frame(0x88, &[b"\x03\xe8", bytes].concat()), WsError::Utf8, 1007);
    }
}

#[test]
fn text_fails_at_the_first_byte_that_cannot_be_utf8() {
    let header = [0x01, 0xfe, 0, 200, 0, 0, 0, 0];
    for (good, bad) in [
        (&b"abc\xf4"[..], 0x90),
        (b"\xed", 0xa0),
        (b"\xe0", 0x80),
        (b"x", 0x80),
        (b"", 0xff),
    ] {
        assert_eq!(decode(MESSAGE_BYTES_MAX, [&header[..], good]), []);
        let items = decode(MESSAGE_BYTES_MAX, [&header[..], good, &[bad]]);
        assert_eq!(items, [Owned::Error(WsError::Utf8)], "{good:02x?} {bad:02x}");
    }
}

#[test]
fn close_frames_with_bad_payloads() {
    refused(&frame(0x88, b"\x03"), WsError::CloseTorn, 1002);
    for code in (0..1000).chain([1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]) {
        assert!(!may_be_sent(code), "{code}");
    }
    refused(
        &frame(0x88, &1005_u16.to_be_bytes()),
        WsError::CloseCode { code: 1005 },
        1002,
    );
}

#[test]
fn nothing_is_taken_after_a_close() {
    let mut decoder = Decoder::new(Role::Server, 100);
    let mut bytes = [
        frame(0x01, b"never finished"),
        frame(0x88, b""),
        frame(0x81, b"late"),
    ]
    .concat();
    let mut items = decoder.feed(&mut bytes);
    assert_eq!(items.next().map(Owned::from), Some(Owned::Close(None)));
    assert!(items.next().is_none());
    assert_eq!(items.unread_bytes(), frame(0x81, b"late").len());
    assert!(decoder.has_ended());
    assert_eq!(decoder.held_bytes(), 0);
    assert!(decoder.feed(&mut frame(0x81, b"later")).next().is_none());
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut decoder = Decoder::new(Role::Server, u32::MAX);
    let mut items = Vec::new();
    let header = [0x82, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5];
    drain(&mut decoder, &header, &mut items);
    assert!(items.is_empty());
    assert!(decoder.held_bytes() < 256, "{} bytes", decoder.held_bytes());
    for have in (0..200 * 64).step_by(64) {
        drain(&mut decoder, &[0; 64], &mut items);
        let held = decoder.held_bytes();
        assert!(held < 2 * have + 512, "{held} bytes are held for {have}");
    }
}

#[test]
fn memory_stays_within_the_limit_of_a_message() {
    // Just above a power of two, where doubling alone would reserve nearly twice as much.
    const LIMIT: usize = 4100;
    let one_by_one = [
        frame(0x02, b""),
        frame(0x00, b"x").repeat(1000),
        frame(0x00, &[0; LIMIT - 1000]),
    ]
    .concat();
    for (stream, read_bytes) in [(one_by_one, 3), (frame(0x02, &[0; LIMIT]), 10)] {
        let mut decoder = Decoder::new(Role::Server, u32::try_from(LIMIT).expect("small"));
        let mut items = Vec::new();
        for read in stream.chunks(read_bytes) {
            drain(&mut decoder, read, &mut items);
            let held = decoder.held_bytes();
            assert!(held <= LIMIT + 256, "{held} bytes");
        }
        assert!(items.is_empty());
        assert!(decoder.held_bytes() >= LIMIT);
    }
}

#[test]
fn a_decoder_at_rest_owns_nothing() {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let mut items = Vec::new();
    for bytes in [
        frame(0x82, &[9; 200]),
        frame(0x89, b"ping"),
        [frame(0x01, b"a"), frame(0x80, b"b")].concat(),
    ] {
        for cut in 1..bytes.len() {
            drain(&mut decoder, &bytes[..cut], &mut items);
            assert!(decoder.held_bytes() > 0, "cut at {cut}");
            drain(&mut decoder, &bytes[cut..], &mut items);
            assert_eq!(decoder.held_bytes(), 0, "cut at {cut}");
        }
    }
}

/// Quadratic work would take minutes to hours here, not a second.
#[test]
fn many_tiny_reads_and_fragments_cost_linear_time() {
    const LIMIT: u32 = 4 << 20;
    const BYTES: usize = LIMIT as usize;
    let text = "ü".repeat(BYTES / 2);
    let bytes = frame(0x81, text.as_bytes());
    let mut items = Vec::new();
    // Pieces of two after an odd first one: every read ends within a character.
    for (first, read_bytes) in [(1, 1), (15, 2)] {
        let mut decoder = Decoder::new(Role::Server, LIMIT);
        let (start, rest) = bytes.split_at(first);
        drain(&mut decoder, start, &mut items);
        let mut growths = 0;
        for read in rest.chunks(read_bytes) {
            let before = decoder.held_bytes();
            drain(&mut decoder, read, &mut items);
            growths += usize::from(decoder.held_bytes() > before);
        }
        assert!(growths < 30, "the payload was moved {growths} times");
        assert!(items.pop() == Some(Owned::Text(text.clone())));
        assert!(items.is_empty());
    }

    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let mut stream = frame(0x01, b"");
    for _ in 0..BYTES / 32 {
        stream.extend(frame(0x00, &[b'x'; 32]));
    }
    stream.extend(frame(0x80, b""));
    drain(&mut decoder, &stream, &mut items);
    assert!(items == [Owned::Text("x".repeat(BYTES))]);
}

#[test]
fn ten_thousand_frames_in_one_read_are_ten_thousand_items() {
    let items = decode(MESSAGE_BYTES_MAX, [&*frame(0x82, b"tiny").repeat(10_000)]);
    assert_eq!(items, vec![Owned::Binary(b"tiny".to_vec()); 10_000]);
}
