//! What a shard costs: bytes per idle session, nanoseconds per delivered frame and per forwarded send.
//!
//! Sockets and router are played by this program, so the figures are those of the rules alone. Run with
//! `cargo run --profile ci -p corelane-gateway-core --example cost -- 100000`; in that profile debug assertions are on.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use corelane_gateway_core::event::{Accepted, Claims, Input, LinkId, Output};
use corelane_gateway_core::{Shard, ShardConfig};
use corelane_protocol::bus::{BusFrame, BusRecord, FrameReceivers, Receivers, class};
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::id::{AppId, ConnId, ConvId, UserId};
use corelane_protocol::link::body::{ArchivedClaim, BusBatch, Claimed};
use corelane_protocol::link::codec::{LinkCodec, LinkEvent, LinkRole, LinkSecret, PeerInfo};
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::time::Now;
use corelane_protocol::ws::{Opcode, client_frame};

struct Stage {
    shard: Shard,
    now: Now,
    router: Option<(LinkId, LinkCodec)>,
    outputs: Vec<Output>,
    offset: u64,
    number: u64,
}

impl Stage {
    fn new() -> Self {
        let secret = LinkSecret {
            key_id: 1,
            key: vec![7; 32],
        };
        let config = ShardConfig {
            routers: vec!["router".to_owned()],
            link_secret: secret,
            ..ShardConfig::default()
        };
        let now = Now {
            mono: Duration::from_secs(1),
            wall_ms: 1_700_000_000_000,
        };
        let shard = Shard::new(config, 0, now);
        let mut stage = Self {
            shard,
            now,
            router: None,
            outputs: Vec::new(),
            offset: 0,
            number: 0,
        };
        for _ in 0..8 {
            stage.turn();
        }
        assert!(stage.shard.is_linked(), "the router answers at once");
        stage
    }

    fn input(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input, &mut self.outputs);
    }

    /// Ends the turn and completes everything at once.
    fn turn(&mut self) {
        self.input(Input::TurnEnded);
        while !self.outputs.is_empty() {
            for output in std::mem::take(&mut self.outputs) {
                self.carry_out(output);
            }
        }
        let Some((id, router)) = self.router.as_mut() else {
            return;
        };
        let (id, mut bytes) = (*id, Vec::new());
        router.output(&mut bytes);
        if !bytes.is_empty() {
            self.input(Input::LinkReceived(id, &bytes));
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(id, _) => self.input(Input::Sent(id)),
            Output::Verify(id, token) => {
                let claims = Claims {
                    app: AppId(0),
                    user: UserId::new(&token).expect("a short name"),
                    terminal: None,
                    device: None,
                    expires_at_s: u64::MAX,
                    issued_at_s: 0,
                    scopes: Vec::new(),
                };
                self.input(Input::Verified(id, Ok(claims)));
            }
            Output::LinkConnect(id, _) => {
                let info = PeerInfo {
                    lanes: 8,
                    partitions: 1,
                    ..PeerInfo::default()
                };
                let secret = LinkSecret {
                    key_id: 1,
                    key: vec![7; 32],
                };
                self.router = Some((id, LinkCodec::new(LinkRole::Router, info, secret, [1; 16])));
                self.input(Input::LinkConnected(id, [2; 16]));
            }
            Output::LinkSend(id, span) => {
                self.router_takes(&span.to_vec());
                self.input(Input::LinkSent(id));
            }
            other => assert!(
                matches!(other, Output::ResumeReceive(_)),
                "not expected here: {other:?}"
            ),
        }
    }

    fn router_takes(&mut self, bytes: &[u8]) {
        let (_, router) = self.router.as_mut().expect("linked");
        let mut answers = Vec::new();
        router
            .feed(bytes, &mut |event| {
                let LinkEvent::Record(record) = event else { return };
                match record.known_kind() {
                    Some(RecordKind::Claim) => {
                        let claim = frame::access::<ArchivedClaim>(record.body).expect("a claim");
                        let claimed = Claimed {
                            owner_seq: claim.owner_seq.to_native(),
                            refused_code: 0,
                        };
                        answers.push((
                            RecordKind::Claimed,
                            record.conn,
                            frame::archive(&claimed).to_vec(),
                        ));
                    }
                    Some(RecordKind::ClientFrame) => {
                        let ack = body::SendAck {
                            conv: vec![2, b'g'],
                            seq: 1,
                            n: 1,
                            time_ms: 1,
                        };
                        let ack = frame::encode(FrameKind::SendAck, record.reference, &ack);
                        answers.push((RecordKind::ServerFrame, record.conn, ack));
                    }
                    _ => {}
                }
            })
            .expect("in order");
        for (kind, conn, body) in answers {
            let record = Record {
                kind: kind as u8,
                conn,
                body: &body,
                ..Record::default()
            };
            router.push(&record).expect("within credit");
        }
    }

    fn client(&mut self, id: ConnId, frame: &[u8]) {
        let mut bytes = Vec::new();
        client_frame(Opcode::Binary, frame, [1, 2, 3, 4], &mut bytes);
        self.input(Input::Received(id, &mut bytes));
    }

    fn login(&mut self, number: u32) -> ConnId {
        let id = ConnId::new(0, number, 1);
        let accepted = Accepted {
            listener: 0,
            kind: ListenerKind::Plain,
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            reserve: false,
        };
        self.input(Input::Accepted(id, accepted));
        let mut head = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Protocol: corelane.rkyv.v1\r\n\r\n"
            .to_vec();
        self.input(Input::Received(id, &mut head));
        self.turn();
        let hello = body::Hello {
            token: format!("user{number:07}"),
            terminal: 5,
            device: "device-1".to_owned(),
            epoch: 0,
        };
        self.client(id, &frame::encode(FrameKind::Hello, 1, &hello));
        id
    }

    /// One record of 128-byte messages for these receivers.
    fn publish(&mut self, messages: u64, to: &[ConnId]) {
        self.number += 1;
        let conv = ConvId::parse(&[2, b'g']).expect("a group");
        let message = body::Message {
            conv: conv.as_bytes().to_vec(),
            seq: self.number,
            n: self.number,
            sender: "alice".to_owned(),
            kind: 1,
            flags: 0,
            ref_seq: 0,
            origin_terminal: 1,
            origin_device: String::new(),
            client_msg_id: [1; 16],
            time_ms: 1,
            content_type: 0,
            payload: vec![7; 128],
        };
        let frame = frame::encode(FrameKind::Message, 0, &message);
        let record = BusRecord {
            class: class::STORED,
            priority: 2,
            app: 0,
            conv: conv.as_bytes().to_vec(),
            first_seq: self.number,
            last_seq: self.number,
            member_version: 0,
            epoch: 0,
            router_boot: 0,
            number: self.number,
            outbox: 0,
            expires_ms: 0,
            published_us: 0,
            receivers: Receivers::Conns(to.iter().map(|conn| conn.0).collect()),
            frames: (0..messages)
                .map(|_| BusFrame {
                    seq: 1,
                    receivers: FrameReceivers::All,
                    sender: String::new(),
                    stamp: 0,
                    frame: frame.clone(),
                })
                .collect(),
        };
        let batch = BusBatch {
            partition: 0,
            from: self.offset,
            lost: false,
            records: vec![record.encode()],
        };
        self.offset += 1;
        let body = frame::archive(&batch);
        let (_, router) = self.router.as_mut().expect("linked");
        let record = Record {
            kind: RecordKind::BusBatch as u8,
            body: &body,
            ..Record::default()
        };
        router.push(&record).expect("within credit");
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * 4096
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch, outside every rule")]
fn main() {
    let count: u32 = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(100_000);
    let mut stage = Stage::new();
    let before = resident_bytes();
    let start = Instant::now();
    let mut conns = Vec::with_capacity(count as usize);
    for number in 0..count {
        let conn = stage.login(number);
        conns.push(conn);
        if number % 256 == 255 {
            stage.turn();
            stage.turn();
        }
    }
    for _ in 0..4 {
        stage.turn();
    }
    let spent = start.elapsed();
    assert_eq!(
        stage.shard.metrics().sessions,
        u64::from(count),
        "everybody is logged in"
    );
    let bytes = resident_bytes().saturating_sub(before + 8 * u64::from(count)) / u64::from(count);
    println!(
        "login          {:>8.0} ns each, {bytes} bytes resident per idle session",
        nanos(spent, count)
    );

    let start = Instant::now();
    for _ in 0..10 {
        stage.publish(1, &conns);
        stage.turn();
        stage.turn();
    }
    println!(
        "fan-out to all {:>8.0} ns per frame and receiver",
        nanos(start.elapsed(), 10 * count)
    );

    let start = Instant::now();
    for chunk in conns.chunks(256) {
        for conn in chunk {
            stage.publish(1, &[*conn]);
        }
        stage.turn();
        stage.turn();
    }
    println!(
        "one to one     {:>8.0} ns per message, publishing included",
        nanos(start.elapsed(), count)
    );

    let start = Instant::now();
    let mut id = [0; 16];
    (id[6], id[8]) = (0x70, 0x80);
    let send = body::Send {
        target: body::Target::User("somebody".to_owned()),
        kind: 1,
        flags: 0,
        ref_seq: 0,
        client_msg_id: id,
        content_type: 1,
        payload: vec![b'x'; 128],
    };
    let send = frame::encode(FrameKind::Send, 7, &send);
    for chunk in conns.chunks(256) {
        for conn in chunk {
            stage.client(*conn, &send);
        }
        stage.turn();
        stage.turn();
    }
    println!(
        "send and ack   {:>8.0} ns each, router's part included",
        nanos(start.elapsed(), count)
    );
    let metrics = stage.shard.metrics();
    println!(
        "{} frames delivered, {} sends forwarded",
        metrics.deliver_frames, metrics.forward_messages
    );
}

fn nanos(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(count.max(1))
}
