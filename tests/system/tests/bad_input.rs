//! Everything a peer should not send, sent to the shipped gateway: answered, nothing else harmed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::ws::{Opcode, client_frame};
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::{Gateway, wait_for};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Everything until the server closes.
fn drain(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn answer_to(gateway: &Gateway, request: &[u8]) -> String {
    let mut stream = gateway.connect();
    stream.write_all(request).unwrap();
    String::from_utf8_lossy(&drain(&mut stream)).into_owned()
}

fn upgraded(gateway: &Gateway) -> TcpStream {
    let mut stream = gateway.connect();
    let request = format!("{UPGRADE}Sec-WebSocket-Protocol: corelane.rkyv.v1\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream
}

/// The code of the close frame that ends the stream.
fn close_code(stream: &mut TcpStream) -> u16 {
    let bytes = drain(stream);
    let at = bytes.windows(1).rposition(|byte| byte[0] == 0x88);
    let at = at.unwrap_or_else(|| panic!("no close frame in {bytes:?}"));
    u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])
}

/// The gateway still serves others, and its process stands.
fn still_well(gateway: &mut Gateway) {
    let mut alice = Client::login(gateway, "alice");
    let reference = alice.send(&to_user("bob"), "still there?");
    alice.answer(reference).unwrap();
}

#[test]
fn heads_that_are_no_upgrade_are_answered_with_a_status() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path(), &["gateway.origins=[\"https://chat.example\"]"]);
    let protocol = "Sec-WebSocket-Protocol: corelane.rkyv.v1\r\n";
    let cases: Vec<(&str, String)> = vec![
        ("HTTP/1.1 400", "\x16\x03\x01 not http\r\n\r\n".to_owned()),
        ("HTTP/1.1 405", "POST /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("HTTP/1.1 426", "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (
            "HTTP/1.1 426",
            UPGRADE.replace("Version: 13", "Version: 8") + protocol + "\r\n",
        ),
        (
            "HTTP/1.1 404",
            UPGRADE.replace("/ws", "/nowhere") + protocol + "\r\n",
        ),
        (
            "HTTP/1.1 400",
            UPGRADE.to_owned() + "Sec-WebSocket-Protocol: mqtt\r\n\r\n",
        ),
        (
            "HTTP/1.1 400",
            UPGRADE.to_owned() + protocol + "Content-Length: 5\r\n\r\nhello",
        ),
        (
            "HTTP/1.1 403",
            UPGRADE.to_owned() + protocol + "Origin: https://evil.example\r\n\r\n",
        ),
        (
            "HTTP/1.1 431",
            format!("{UPGRADE}X: {}\r\n\r\n", "y".repeat(8000)),
        ),
    ];
    for (expected, request) in cases {
        let answer = answer_to(&gateway, request.as_bytes());
        assert!(
            answer.starts_with(expected),
            "{request:?} was answered {answer:?}"
        );
    }
    still_well(&mut gateway);
}

#[test]
fn frames_that_break_the_protocol_close_with_its_codes() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path(), &[]);
    let masked = |first: u8, payload: &[u8]| {
        let mut bytes = Vec::new();
        client_frame(Opcode::Binary, payload, [1, 2, 3, 4], &mut bytes);
        bytes[0] = first;
        bytes
    };
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("unmasked", 1002, vec![0x82, 0x01, 0x00]),
        ("reserved bits", 1002, masked(0xf2, b"x")),
        ("opcode", 1002, masked(0x83, b"x")),
        ("fragmented control", 1002, masked(0x09, b"x")),
        ("continuation of nothing", 1002, masked(0x80, b"x")),
        ("text on a binary subprotocol", 4504, masked(0x81, b"x")),
        ("invalid UTF-8", 1007, masked(0x81, b"\xff\xfe")),
        (
            "length of 7 bits, too long for control",
            1002,
            vec![0x89, 0xfe, 0x00, 0x7e, 1, 2, 3, 4],
        ),
        ("length of 16 bits, too large", 1009, {
            let mut bytes = vec![0x82, 0xff];
            bytes.extend(70_000_000_u64.to_be_bytes());
            bytes.extend([1, 2, 3, 4]);
            bytes
        }),
        (
            "length of 64 bits",
            1002,
            [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[1, 2, 3, 4]].concat(),
        ),
        ("no header", 4504, masked(0x82, b"short")),
        (
            "hostile archive",
            4504,
            masked(
                0x82,
                &[&[1, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0][..], &[0xff; 8]].concat(),
            ),
        ),
        (
            "not Hello first",
            4504,
            masked(
                0x82,
                &frame::encode(FrameKind::Ping, 1, &body::Ping { time_ms: 1 }),
            ),
        ),
    ];
    for (name, code, bytes) in cases {
        let mut stream = upgraded(&gateway);
        stream.write_all(&bytes).unwrap();
        assert_eq!(close_code(&mut stream), code, "{name}");
    }
    still_well(&mut gateway);
}

#[test]
fn tokens_that_do_not_hold_are_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path(), &[]);
    let hello = |token: &str| {
        let hello = body::Hello {
            token: token.to_owned(),
            terminal: 4,
            device: String::new(),
            epoch: 0,
        };
        frame::encode(FrameKind::Hello, 1, &hello)
    };
    let mut client = Client::connect(&gateway, "mallory");
    client.write(&hello("not.a.token"));
    assert_eq!(client.closed(), 4500);
    let secret = std::fs::read_to_string(data.path().join("token.key")).unwrap();
    let secret: Vec<u8> = secret
        .trim()
        .as_bytes()
        .chunks(2)
        .map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap())
        .collect();
    let claims = serde_json::json!({"app": 0, "sub": "alice", "iat": 1, "exp": 1_000_000_000});
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let key = jsonwebtoken::EncodingKey::from_secret(&secret);
    let expired = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let mut client = Client::connect(&gateway, "alice");
    client.write(&hello(&expired));
    assert_eq!(client.closed(), 4005);
    still_well(&mut gateway);
}

#[test]
fn a_dribbled_or_silent_handshake_ends_in_time_and_delays_nobody() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path(), &["connection.handshake_ms=1000"]);
    let silent = gateway.connect();
    let mut dribbling = gateway.connect();
    let mut head = UPGRADE.bytes();
    still_well(&mut gateway);
    wait_for("the end of a dribbled handshake", Duration::from_secs(8), || {
        let byte = head.next().unwrap_or(b'x');
        dribbling.write_all(&[byte]).is_err().then_some(())
    });
    let mut silent = silent;
    assert!(!drain(&mut silent).starts_with(b"HTTP/1.1 101"));
    still_well(&mut gateway);
}

#[test]
fn ten_thousand_frames_in_one_segment_are_answered_in_order() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path(), &[]);
    let mut client = Client::login(&gateway, "alice");
    for number in 0..10_000_u32 {
        client.write(&frame::encode(
            FrameKind::Ping,
            number + 100,
            &body::Ping {
                time_ms: u64::from(number),
            },
        ));
        if number % 500 == 499 {
            for expected in number - 499..=number {
                let pong = client.read_kind(FrameKind::Pong);
                assert_eq!(frame::Frame::parse(&pong).unwrap().reference, expected + 100);
            }
        }
    }
    // And really in one segment, from a plain socket that reads nothing until all was written.
    let token = gateway.token("bob");
    let mut stream = upgraded(&gateway);
    let mut bytes = Vec::new();
    let hello = body::Hello {
        token,
        terminal: 4,
        device: String::new(),
        epoch: 0,
    };
    client_frame(
        Opcode::Binary,
        &frame::encode(FrameKind::Hello, 1, &hello),
        [9; 4],
        &mut bytes,
    );
    stream.write_all(&bytes).unwrap();
    let mut first = [0; 2];
    stream.read_exact(&mut first).unwrap();
    let mut flood = Vec::new();
    for number in 0..10_000_u32 {
        let ping = frame::encode(FrameKind::Ping, number + 100, &body::Ping { time_ms: 1 });
        client_frame(Opcode::Binary, &ping, [9; 4], &mut flood);
    }
    let mut reader = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || stream.write_all(&flood).map(|()| stream));
    let mut answered = 0_usize;
    let mut buffer = vec![0; 65_536];
    while answered < 10_000 * 30 {
        let read = reader.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {answered} bytes of answers");
        answered += read;
    }
    writer.join().unwrap().unwrap();
    still_well(&mut gateway);
}

#[test]
fn too_many_connections_are_told_so() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &["connection.count_max=2", "gateway.shards=1"]);
    let _held: Vec<TcpStream> = (0..2).map(|_| upgraded(&gateway)).collect();
    let mut third = upgraded(&gateway);
    assert_eq!(close_code(&mut third), 4505);
}
