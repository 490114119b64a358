//! Upgrades that are none, come too slowly or bring too much: answered or ended in time, and nobody else waits.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use corelane_protocol::frame::FrameKind;
use corelane_protocol::ws::Opcode;
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::peer::{
    RKYV, UPGRADE, answer_to, close_code, close_of, drain, hello, masked, upgraded,
};
use corelane_system_tests::{Gateway, now, wait_for};

const PROTOCOL: &str = "Sec-WebSocket-Protocol: corelane.rkyv.v1\r\n";

#[test]
fn heads_that_are_no_upgrade_are_answered_with_a_status() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &["gateway.origins=[\"https://chat.example\"]"]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let with = |header: &str| format!("{UPGRADE}{PROTOCOL}{header}\r\n\r\n");
    let changed = |from: &str, to: &str| UPGRADE.replace(from, to) + PROTOCOL + "\r\n";
    let cases = [
        // Malformed.
        (400, "\x16\x03\x01 not http\r\n\r\n".to_owned()),
        (400, changed("HTTP/1.1", "HTTP/1.0")),
        (400, changed("GET /ws HTTP/1.1", "GET /ws")),
        (400, changed("Host: x\r\n", "")),
        (400, changed("Host: x\r\n", "Host x\r\n")),
        (400, changed("Host: x\r\n", "Host: x\n")),
        (400, changed("Host: x", "Host: \0")),
        (400, changed("Host: x", "Host: x\r\nHost: y")),
        (
            400,
            changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        ),
        (400, with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
        // Another thing than an upgrade.
        (405, "POST /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (426, "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (426, changed("Version: 13", "Version: 8")),
        (426, changed("Upgrade: websocket", "Upgrade: h2c")),
        (404, changed("/ws", "/nowhere")),
        // Headers that are too large, or too many.
        (431, with(&format!("X: {}", "y".repeat(8000)))),
        (431, "GET /".to_owned() + &"w".repeat(8000)),
        (400, with("X: y\r\n".repeat(200).trim_end())),
        // A body.
        (400, with("Content-Length: 5") + "hello"),
        (
            400,
            with("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n",
        ),
        // Subprotocols.
        (
            400,
            UPGRADE.to_owned() + "Sec-WebSocket-Protocol: mqtt, chat\r\n\r\n",
        ),
        (400, UPGRADE.to_owned() + "\r\n"),
        (
            400,
            format!(
                "{UPGRADE}Sec-WebSocket-Protocol: {}corelane.rkyv.v1\r\n\r\n",
                "x,".repeat(16)
            ),
        ),
        // Origins.
        (403, with("Origin: https://evil.example")),
        (403, with("Origin: https://chat.example.evil.example")),
        (403, with("Origin: null")),
        (
            400,
            with("Origin: https://chat.example\r\nOrigin: https://evil.example"),
        ),
    ];
    for (status, request) in cases {
        let answer = answer_to(&gateway, request.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?} was answered {answer:?}"
        );
        assert!(
            answer.contains("\r\nConnection: close\r\n"),
            "{request:?} was answered {answer:?}"
        );
    }
    // The listed origin is welcome, and a client without one is no browser.
    for request in [with("Origin: https://chat.example"), with("X: y")] {
        let mut stream = gateway.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 101");
    }
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn what_follows_the_head_waits_for_the_answer_and_has_a_bound() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let head = format!("{UPGRADE}{PROTOCOL}\r\n");
    let send = |behind: &[u8]| {
        let mut stream = gateway.connect();
        stream.write_all(&[head.as_bytes(), behind].concat()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 101"),
            "the answer to the head comes first"
        );
        stream
    };
    // A client in a hurry: its Hello is answered, behind the 101.
    let mut stream = send(&masked(Opcode::Binary, &hello(&gateway.token("hasty"))));
    let mut welcome = [0; 14];
    stream.read_exact(&mut welcome).unwrap();
    let kind = u16::from_le_bytes([welcome[2], welcome[3]]);
    assert_eq!(kind, FrameKind::Welcome as u16);
    drop(stream);
    // What is no frame is judged as one, and more than the opening may hold ends it.
    assert_eq!(close_code(&mut send(b"hello, this is a body")), 1002);
    assert_eq!(close_code(&mut send(&[0; 8192])), 4504);
    bystanders.are_alone_and_well(&gateway);
}

/// How long a handshake may take, from the accept on.
const HANDSHAKE: Duration = Duration::from_millis(1500);
/// How much sooner it may end: the gateway counts in ticks, and one of them has begun.
const TICK: Duration = Duration::from_millis(100);
/// How much later the end may be seen on a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

/// Says one byte whenever it is asked, until it is ended: first its opening, then always the same.
struct Dribbler {
    stream: TcpStream,
    opening: VecDeque<u8>,
    /// Just before it was accepted.
    since: Instant,
}

impl Dribbler {
    fn new(connect: impl FnOnce() -> TcpStream, opening: &[u8]) -> Self {
        let since = now();
        let stream = connect();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            opening: opening.iter().copied().collect(),
            since,
        }
    }

    /// Says one more byte. Gives the connection once the server has ended it, with FIN or with something to read; not
    /// before its time, and not after it.
    fn ended(&mut self) -> Option<&mut TcpStream> {
        let byte = self.opening.pop_front().unwrap_or(b'y');
        let is_refused = self.stream.write_all(&[byte]).is_err();
        let is_ended = is_refused
            || match self.stream.peek(&mut [0]) {
                Ok(_) => true,
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
        let took = self.since.elapsed();
        assert!(
            took < HANDSHAKE + MARGIN,
            "{took:?}: as if each byte gave it time"
        );
        if !is_ended {
            return None;
        }
        assert!(took + TICK >= HANDSHAKE, "ended after {took:?}");
        self.stream.set_nonblocking(false).unwrap();
        Some(&mut self.stream)
    }
}

#[test]
fn handshakes_that_dribble_or_say_nothing_end_in_time_and_delay_nobody() {
    const OF_EACH: usize = 50;
    let data = tempfile::tempdir().unwrap();
    let set = format!("connection.handshake_ms={}", HANDSHAKE.as_millis());
    let gateway = Gateway::start(data.path(), &[&set]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let began = now();
    // Neither is whole before 4 KiB were said, one byte in 10 ms at most.
    let head = format!("{UPGRADE}X: ");
    let mut hello = hello(&gateway.token("slow"));
    hello.resize(4096, 0);
    let hello = masked(Opcode::Binary, &hello);
    let mut silent: Vec<TcpStream> = (0..OF_EACH).map(|_| gateway.connect()).collect();
    let mut silent_upgraded: Vec<TcpStream> = (0..OF_EACH).map(|_| upgraded(&gateway, RKYV)).collect();
    let mut heads: Vec<Dribbler> = (0..OF_EACH)
        .map(|_| Dribbler::new(|| gateway.connect(), head.as_bytes()))
        .collect();
    let mut hellos: Vec<Dribbler> = (0..OF_EACH)
        .map(|_| Dribbler::new(|| upgraded(&gateway, RKYV), &hello))
        .collect();
    wait_for(
        "the end of all dribbled handshakes",
        Duration::from_secs(10),
        || {
            bystanders.chat();
            heads.retain_mut(|each| {
                let ended = each.ended().map(drain);
                assert!(
                    ended.iter().all(Vec::is_empty),
                    "half a head is not answered: {ended:?}"
                );
                ended.is_none()
            });
            hellos.retain_mut(|each| {
                let ended = each.ended().map(|stream| close_of(stream).map(|(code, _)| code));
                assert!(ended.is_none_or(|code| code == Some(4004)), "{ended:?}");
                ended.is_none()
            });
            (heads.is_empty() && hellos.is_empty()).then_some(())
        },
    );
    for stream in &mut silent {
        assert!(
            drain(stream).is_empty(),
            "nothing was asked, so nothing is answered"
        );
    }
    for stream in &mut silent_upgraded {
        assert_eq!(close_of(stream).map(|(code, _)| code), Some(4004));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    gateway.await_metric("corelane_gateway_handshake_timeouts_total", 4 * OF_EACH as u64);
    drop((silent, silent_upgraded));
    bystanders.are_alone_and_well(&gateway);
}
