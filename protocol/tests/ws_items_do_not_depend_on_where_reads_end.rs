//! The kernel may cut a stream anywhere: every cut must give the same items, and the same error.

use corelane_protocol::ws::{Decoder, Item, Opcode, Role, WsError, client_frame, header, unmask};

#[derive(Debug, PartialEq, Eq, Clone)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Error(WsError),
}

fn drain(decoder: &mut Decoder, bytes: &[u8], into: &mut Vec<Owned>) {
    let mut bytes = bytes.to_vec();
    let mut items = decoder.feed(&mut bytes);
    while let Some(item) = items.next() {
        into.push(match item {
            Ok(Item::Text(text)) => Owned::Text(text.to_owned()),
            Ok(Item::Binary(bytes)) => Owned::Binary(bytes.to_vec()),
            Ok(Item::Ping(bytes)) => Owned::Ping(bytes.to_vec()),
            Ok(Item::Pong(bytes)) => Owned::Pong(bytes.to_vec()),
            Ok(Item::Close(close)) => Owned::Close(close.map(|(code, text)| (code, text.to_owned()))),
            Err(error) => Owned::Error(error),
        });
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(Opcode::Text, payload, [1, 2, 3, 4], &mut bytes);
    bytes[0] = first;
    bytes
}

fn decode_in(stream: &[u8], read_bytes: usize) -> Vec<Owned> {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let mut items = Vec::new();
    for read in stream.chunks(read_bytes) {
        drain(&mut decoder, read, &mut items);
        if matches!(items.last(), Some(Owned::Error(_) | Owned::Close(_))) {
            break;
        }
    }
    items
}

#[test]
fn every_cut_gives_the_same_items() {
    let mut stream = Vec::new();
    stream.extend(frame(0x81, "grüße".as_bytes()));
    stream.extend(frame(0x01, "fr\u{1f600}a".as_bytes()));
    stream.extend(frame(0x89, b"in between"));
    stream.extend(frame(0x00, b""));
    stream.extend(frame(0x80, "gment".as_bytes()));
    stream.extend(frame(0x82, &[7; 300]));
    stream.extend(frame(0x8a, b""));
    stream.extend(frame(0x88, b"\x03\xe8bye"));
    let whole = decode_in(&stream, stream.len());
    assert_eq!(whole.len(), 6);
    assert_eq!(whole[2], Owned::Text("fr\u{1f600}agment".to_owned()));
    assert_eq!(whole[5], Owned::Close(Some((1000, "bye".to_owned()))));
    for read_bytes in 1..stream.len() {
        assert_eq!(
            decode_in(&stream, read_bytes),
            whole,
            "reads of {read_bytes} bytes"
        );
    }
}

#[test]
fn every_cut_gives_the_same_error() {
    let hostile: &[(&str, Vec<u8>)] = &[
        ("reserved", frame(0xc1, b"x")),
        ("opcode", frame(0x83, b"x")),
        ("continuation", frame(0x80, b"x")),
        ("new within", [frame(0x01, b"x"), frame(0x81, b"y")].concat()),
        ("utf8", frame(0x81, b"ok\xff")),
        ("utf8 cut", [frame(0x01, b"\xf0\x9f"), frame(0x80, b"x")].concat()),
        ("utf8 end", frame(0x81, b"\xf0\x9f")),
        ("control fragment", frame(0x09, b"x")),
        ("close code", frame(0x88, &1005_u16.to_be_bytes())),
        ("close half", frame(0x88, b"\x03")),
        ("too long", frame(0x82, &[0; 1001])),
        (
            "too long in fragments",
            [frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat(),
        ),
        ("unmasked", header::server_header(Opcode::Text, 0, true).to_vec()),
        ("long control", vec![0x89, 0xfe, 0, 126]),
        ("long form 16", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0]),
        (
            "long form 64",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
        ),
        (
            "high bit",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    for (name, stream) in hostile {
        let whole = decode_in(stream, stream.len());
        assert!(matches!(whole.last(), Some(Owned::Error(_))), "{name}: {whole:?}");
        for read_bytes in 1..stream.len() {
            assert_eq!(
                decode_in(stream, read_bytes),
                whole,
                "{name}, reads of {read_bytes} bytes"
            );
        }
    }
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut decoder = Decoder::new(Role::Server, u32::MAX);
    let mut items = Vec::new();
    drain(
        &mut decoder,
        &[0x82, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5],
        &mut items,
    );
    assert!(items.is_empty());
    assert!(decoder.held_bytes() < 512, "{} bytes", decoder.held_bytes());
}

#[test]
fn a_decoder_at_rest_owns_nothing() {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let mut items = Vec::new();
    let bytes = frame(0x82, &[9; 200]);
    drain(&mut decoder, &bytes[..50], &mut items);
    assert!(decoder.held_bytes() > 0);
    drain(&mut decoder, &bytes[50..], &mut items);
    assert_eq!(items, [Owned::Binary(vec![9; 200])]);
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn masking_twice_changes_nothing() {
    for len in 0..40 {
        let plain: Vec<u8> = (0..len).collect();
        let mut bytes = plain.clone();
        unmask(&mut bytes, [0xa1, 0xb2, 0xc3, 0xd4]);
        assert!(len == 0 || bytes != plain);
        unmask(&mut bytes, [0xa1, 0xb2, 0xc3, 0xd4]);
        assert_eq!(bytes, plain);
    }
}
