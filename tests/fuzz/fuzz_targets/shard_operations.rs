//! Sequences of everything that can happen to a shard, in any order, with debug sweeps on.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use corelane_gateway_core::event::{Accepted, Claims, Input, LinkId, Output, ShardMessage, TokenVerdict};
use corelane_gateway_core::{Shard, ShardConfig};
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::id::{AppId, ConnId, UserId};
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::time::Now;
use corelane_protocol::ws::{Opcode, client_frame};
use libfuzzer_sys::fuzz_target;

/// What a proxy says of a client at 192.0.2.7.
const PROXY_HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x9c\x40\x1b\x9e";

#[derive(Debug, Arbitrary)]
enum Operation {
    Accept(u8, bool),
    Upgrade(u8),
    Bytes(u8, Vec<u8>),
    Frame(u8, Vec<u8>),
    Hello(u8),
    Send(u8, u8),
    PeerClosed(u8),
    Link(Vec<u8>),
    LinkUp,
    LinkDown,
    Record(Vec<u8>),
    Overflowed,
    Pass(u16),
    Drain,
}

/// The shell's part of the contract: sockets that are open, sends that are in flight.
struct Shell {
    shard: Shard,
    now: Now,
    open: Vec<Option<u32>>,
    generations: Vec<u32>,
    links: Vec<LinkId>,
}

impl Shell {
    fn conn(&self, slot: u8) -> Option<ConnId> {
        let slot = usize::from(slot % 8);
        self.open[slot].map(|generation| ConnId::new(0, slot as u32, generation))
    }

    fn handle(&mut self, input: Input<'_>) {
        let mut outputs = Vec::new();
        self.shard.handle(self.now, input, &mut outputs);
        for output in outputs {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(conn, span) => {
                assert!(!span.is_empty());
                self.handle(Input::Sent(conn));
            }
            Output::Close(conn) | Output::Abort(conn) => {
                let slot = conn.slot() as usize;
                if self.open[slot] == Some(conn.generation()) {
                    self.open[slot] = None;
                    self.handle(Input::Closed(conn));
                }
            }
            Output::Verify(conn, _) => {
                let claims = Claims {
                    app: AppId(0),
                    user: UserId::new("alice").expect("an id"),
                    terminal: None,
                    device: None,
                    expires_at_s: 2_000_000_000,
                    issued_at_s: 1,
                    scopes: Vec::new(),
                };
                let verdict = if conn.slot() == 7 { Err(TokenVerdict::Expired) } else { Ok(claims) };
                self.handle(Input::Verified(conn, verdict));
            }
            Output::LinkConnect(link, _) => self.links.push(link),
            Output::LinkSend(link, _) => self.handle(Input::LinkSent(link)),
            Output::LinkClose(link) => self.handle(Input::LinkClosed(link)),
            Output::BootLost(boot) => self.handle(Input::NewBoot(boot + 1)),
            Output::PauseReceive(_)
            | Output::ResumeReceive(_)
            | Output::ToShard(..)
            | Output::Fetch { .. }
            | Output::Drained => {}
        }
    }
}

fuzz_target!(|operations: Vec<Operation>| {
    let now = Now { mono: Duration::ZERO, wall_ms: 1_800_000_000_000 };
    let proxy_sources = vec!["127.0.0.1".parse().expect("a network")];
    let config = ShardConfig { echo: true, proxy_sources, ..ShardConfig::default() };
    let shard = Shard::new(config, 0, now);
    let mut shell = Shell { shard, now, open: vec![None; 8], generations: vec![0; 8], links: Vec::new() };
    for operation in operations.into_iter().take(64) {
        match operation {
            Operation::Accept(slot, reserve) => {
                let index = usize::from(slot % 8);
                if shell.open[index].is_none() {
                    shell.generations[index] += 1;
                    shell.open[index] = Some(shell.generations[index]);
                    let conn = shell.conn(slot).expect("just opened");
                    let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
                    let kind = if slot & 8 == 0 { ListenerKind::Plain } else { ListenerKind::Proxy };
                    let accepted = Accepted { listener: 0, kind, peer, reserve };
                    shell.handle(Input::Accepted(conn, accepted));
                }
            }
            Operation::Upgrade(slot) => {
                let path = if slot & 1 == 0 { "/ws" } else { "/echo" };
                let head = format!(
                    "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Protocol: corelane.{}.v1\r\n\r\n",
                    if slot & 2 == 0 { "rkyv" } else { "json" }
                );
                let front = if slot & 16 == 0 { &[][..] } else { PROXY_HEADER };
                let mut head = [front, head.as_bytes()].concat();
                if let Some(conn) = shell.conn(slot) {
                    shell.handle(Input::Received(conn, &mut head));
                    shell.handle(Input::TurnEnded);
                }
            }
            Operation::Bytes(slot, mut bytes) => {
                if let Some(conn) = shell.conn(slot) {
                    shell.handle(Input::Received(conn, &mut bytes));
                }
            }
            Operation::Frame(slot, payload) => send(&mut shell, slot, &payload),
            Operation::Hello(slot) => {
                let hello = body::Hello { token: "t".to_owned(), terminal: 4, device: String::new(), epoch: 0 };
                send(&mut shell, slot, &frame::encode(FrameKind::Hello, 1, &hello));
            }
            Operation::Send(slot, number) => {
                let mut id = [0x70; 16];
                id[8] = 0x80;
                id[15] = number;
                let body = body::Send {
                    target: body::Target::User("bob".to_owned()),
                    kind: 1,
                    flags: 0,
                    ref_seq: 0,
                    client_msg_id: id,
                    content_type: 0,
                    payload: vec![number; usize::from(number)],
                };
                send(&mut shell, slot, &frame::encode(FrameKind::Send, u32::from(number), &body));
            }
            Operation::PeerClosed(slot) => {
                if let Some(conn) = shell.conn(slot) {
                    shell.handle(Input::PeerClosed(conn));
                }
            }
            Operation::Link(bytes) => {
                if let Some(link) = shell.links.last().copied() {
                    shell.handle(Input::LinkReceived(link, &bytes));
                }
            }
            Operation::LinkUp => {
                if let Some(link) = shell.links.last().copied() {
                    shell.handle(Input::LinkConnected(link, [3; 16]));
                }
            }
            Operation::LinkDown => {
                if let Some(link) = shell.links.pop() {
                    shell.handle(Input::LinkClosed(link));
                }
            }
            Operation::Record(bytes) => shell.handle(Input::FromShard(ShardMessage::Record(bytes.into()))),
            Operation::Overflowed => shell.handle(Input::FromShard(ShardMessage::OverflowedAll)),
            Operation::Pass(millis) => {
                shell.now.mono += Duration::from_millis(u64::from(millis));
                shell.now.wall_ms += u64::from(millis);
                shell.handle(Input::DeadlineReached);
            }
            Operation::Drain => shell.handle(Input::Drain),
        }
        shell.handle(Input::TurnEnded);
    }
});

fn send(shell: &mut Shell, slot: u8, payload: &[u8]) {
    if let Some(conn) = shell.conn(slot) {
        let mut bytes = Vec::new();
        client_frame(Opcode::Binary, payload, [1, 2, 3, 4], &mut bytes);
        shell.handle(Input::Received(conn, &mut bytes));
    }
}
