//! The kernel may cut a stream anywhere: every cut gives the same items, and the same error.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod ws_support;

use corelane_protocol::ws::{Decoder, Opcode, Role, close_frame, server_header};
use proptest::collection::vec;
use proptest::prelude::*;
use ws_support::{Owned, decode, drain, frame};

const MESSAGE_BYTES_MAX: u32 = 1000;

/// Text, fragments with a ping between them, every length form below the limit, close.
fn conversation() -> Vec<u8> {
    [
        frame(0x81, "grüße".as_bytes()),
        frame(0x01, b"fr\xf0\x9f"),
        frame(0x89, b"in between"),
        frame(0x00, b""),
        frame(0x00, b"\x98"),
        frame(0x80, b"\x80gment"),
        frame(0x82, &[7; 300]),
        frame(0x8a, b""),
        frame(0x02, b""),
        frame(0x80, b""),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat()
}

#[test]
fn every_cut_gives_the_same_items() {
    let stream = conversation();
    let whole = decode(MESSAGE_BYTES_MAX, [&*stream]);
    assert_eq!(
        whole,
        [
            Owned::Text("grüße".to_owned()),
            Owned::Ping(b"in between".to_vec()),
            Owned::Text("fr\u{1f600}gment".to_owned()),
            Owned::Binary(vec![7; 300]),
            Owned::Pong(Vec::new()),
            Owned::Binary(Vec::new()),
            Owned::Close(Some((1000, "bye".to_owned()))),
        ]
    );
    for read_bytes in 1..stream.len() {
        let items = decode(MESSAGE_BYTES_MAX, stream.chunks(read_bytes));
        assert_eq!(items, whole, "reads of {read_bytes} bytes");
    }
    for first in 0..stream.len() {
        for second in first..stream.len() {
            let reads = [&stream[..first], &stream[first..second], &stream[second..]];
            assert_eq!(
                decode(MESSAGE_BYTES_MAX, reads),
                whole,
                "cuts at {first}, {second}"
            );
        }
    }
}

#[test]
fn a_client_reads_unmasked_frames_the_same_wherever_reads_end() {
    let mut stream = Vec::new();
    for (opcode, fin, payload) in [
        (Opcode::Text, false, &b"hal"[..]),
        (Opcode::Pong, true, b"p"),
        (Opcode::Continuation, true, b"lo"),
        (Opcode::Binary, true, &[9; 200]),
    ] {
        stream.extend_from_slice(&server_header(opcode, payload.len(), fin));
        stream.extend_from_slice(payload);
    }
    close_frame(4002, "slow consumer", &mut stream);
    for read_bytes in 1..=stream.len() {
        let mut decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
        let mut items = Vec::new();
        for read in stream.chunks(read_bytes) {
            drain(&mut decoder, read, &mut items);
        }
        assert_eq!(
            items,
            [
                Owned::Pong(b"p".to_vec()),
                Owned::Text("hallo".to_owned()),
                Owned::Binary(vec![9; 200]),
                Owned::Close(Some((4002, "slow consumer".to_owned()))),
            ],
            "reads of {read_bytes} bytes"
        );
    }
}

/// A frame that a peer could send: usually in order, sometimes not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x89, 0x8a, 0x01, 0x02, 0x00, 0x80]),
        1 => prop::sample::select(vec![0x88_u8]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "\\PC{0,40}".prop_map(String::into_bytes),
        2 => vec(any::<u8>(), 0..40),
        1 => vec(b'a'..=b'z', 120..700),
        1 => prop::sample::select(vec![b"\xf0\x9f".to_vec(), b"\x98\x80".to_vec(), b"\x03\xe8".to_vec()]),
    ];
    (first, payload).prop_map(|(first, payload)| frame(first, &payload))
}

fn cut_at<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut start = 0;
    let mut reads = Vec::new();
    for end in ends {
        reads.push(&stream[start..end]);
        start = end;
    }
    reads
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_in_any_reads_give_the_same_items(
        frames in vec(any_frame(), 1..12),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let stream = frames.concat();
        prop_assert_eq!(
            decode(MESSAGE_BYTES_MAX, cut_at(&stream, &cuts)),
            decode(MESSAGE_BYTES_MAX, [&*stream])
        );
    }

    #[test]
    fn any_bytes_in_any_reads_give_the_same_items_and_no_panic(
        stream in vec(any::<u8>(), 0..400),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        prop_assert_eq!(
            decode(MESSAGE_BYTES_MAX, cut_at(&stream, &cuts)),
            decode(MESSAGE_BYTES_MAX, [&*stream])
        );
    }
}
