//! Sessions on one shard of the gateway's rules. Sockets and router are played here: a send is over at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use corelane_gateway_core::event::{Accepted, Claims, Input, LinkId, Output, ShardMessage};
use corelane_gateway_core::{Shard, ShardConfig};
use corelane_protocol::arena::Span;
use corelane_protocol::bus::{BusFrame, BusRecord, FrameReceivers, Receivers, class};
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::id::{AppId, ConnId, ConvId, UserId};
use corelane_protocol::link::body::{ArchivedClaim, Claimed};
use corelane_protocol::link::codec::{LinkCodec, LinkEvent, LinkRole, LinkSecret, PeerInfo};
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::time::Now;
use corelane_protocol::ws::{Opcode, client_frame, server_header};

/// Time stands still: nothing here is to become due.
const NOW: Now = Now {
    mono: Duration::from_secs(1),
    wall_ms: 1_700_000_000_000,
};
const HEAD: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: corelane.rkyv.v1\r\n\r\n";
/// Turns after which whatever a login asks for was asked and answered.
const TURNS: usize = 8;

/// A shard and its live sessions.
#[derive(Debug)]
pub struct Sessions {
    shard: Shard,
    conns: Vec<ConnId>,
    router: Option<(LinkId, LinkCodec)>,
    outputs: Vec<Output>,
}

impl Sessions {
    /// So many users, each logged in once.
    ///
    /// # Panics
    ///
    /// If the rules do not let all of them in.
    pub fn of(count: u32) -> Self {
        let config = ShardConfig {
            routers: vec!["router".to_owned()],
            link_secret: secret(),
            ..ShardConfig::default()
        };
        let mut sessions = Self {
            shard: Shard::new(config, 0, NOW),
            conns: (0..count).map(|slot| ConnId::new(0, slot, 1)).collect(),
            router: None,
            outputs: Vec::new(),
        };
        (0..TURNS).for_each(|_| sessions.turn());
        for conn in sessions.conns.clone() {
            sessions.log_in(conn);
        }
        (0..TURNS).for_each(|_| sessions.turn());
        assert_eq!(sessions.shard.metrics().sessions, u64::from(count));
        sessions
    }

    /// Who is logged in.
    pub fn conns(&self) -> &[ConnId] {
        &self.conns
    }

    /// A record with one stored message for everybody, and what each socket is to get of it.
    ///
    /// # Panics
    ///
    /// Never: the conversation is a valid one.
    pub fn message(&self, payload_bytes: usize) -> (Arc<[u8]>, Vec<u8>) {
        let conv = ConvId::parse(&[2, b'g']).expect("a group");
        let message = body::Message {
            conv: conv.as_bytes().to_vec(),
            seq: 1,
            n: 1,
            sender: "alice".to_owned(),
            kind: 1,
            flags: 0,
            ref_seq: 0,
            origin_terminal: 1,
            origin_device: String::new(),
            client_msg_id: [1; 16],
            time_ms: 1,
            content_type: 0,
            payload: vec![7; payload_bytes],
        };
        let frame = frame::encode(FrameKind::Message, 0, &message);
        let mut wire = server_header(Opcode::Binary, frame.len(), true).to_vec();
        wire.extend_from_slice(&frame);
        let record = BusRecord {
            class: class::STORED,
            priority: 2,
            app: 0,
            conv: conv.as_bytes().to_vec(),
            first_seq: 1,
            last_seq: 1,
            member_version: 0,
            epoch: 0,
            router_boot: 0,
            number: 1,
            outbox: 0,
            expires_ms: 0,
            published_us: 0,
            receivers: Receivers::Conns(self.conns.iter().map(|conn| conn.0).collect()),
            frames: vec![BusFrame {
                seq: 1,
                receivers: FrameReceivers::All,
                sender: "alice".to_owned(),
                stamp: 0,
                frame,
            }],
        };
        (Arc::from(record.encode()), wire)
    }

    /// Delivers a record that another shard consumed, in a turn of its own. `send` is given what leaves.
    ///
    /// # Panics
    ///
    /// If the shard asks for anything but sends.
    pub fn deliver(&mut self, record: &Arc<[u8]>, mut send: impl FnMut(ConnId, &Span)) {
        self.input(Input::FromShard(ShardMessage::Record(Arc::clone(record))));
        self.input(Input::TurnEnded);
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Send(conn, span) => {
                    send(conn, &span);
                    drop(span);
                    self.input(Input::Sent(conn));
                }
                other => panic!("a delivery asks for nothing but sends: {other:?}"),
            }
        }
        assert!(self.outputs.is_empty(), "a send that is over asks for nothing");
        self.outputs = outputs;
    }

    fn input(&mut self, input: Input<'_>) {
        self.shard.handle(NOW, input, &mut self.outputs);
    }

    /// Ends the turn and carries out what was asked for.
    fn turn(&mut self) {
        self.input(Input::TurnEnded);
        while !self.outputs.is_empty() {
            for output in std::mem::take(&mut self.outputs) {
                self.carry_out(output);
            }
        }
        let Some((link, router)) = self.router.as_mut() else {
            return;
        };
        let (link, mut bytes) = (*link, Vec::new());
        router.output(&mut bytes);
        if !bytes.is_empty() {
            self.input(Input::LinkReceived(link, &bytes));
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(conn, _) => self.input(Input::Sent(conn)),
            Output::Verify(conn, user) => {
                let claims = Claims {
                    app: AppId(0),
                    user: UserId::new(&user).expect("a short name"),
                    terminal: None,
                    device: None,
                    expires_at_s: u64::MAX,
                    issued_at_s: 0,
                    scopes: Vec::new(),
                };
                self.input(Input::Verified(conn, Ok(claims)));
            }
            Output::LinkConnect(link, _) => {
                let info = PeerInfo {
                    lanes: 8,
                    partitions: 1,
                    ..PeerInfo::default()
                };
                let codec = LinkCodec::new(LinkRole::Router, info, secret(), [1; 16]);
                self.router = Some((link, codec));
                self.input(Input::LinkConnected(link, [2; 16]));
            }
            Output::LinkSend(link, span) => {
                self.grant_claims(&span.to_vec());
                self.input(Input::LinkSent(link));
            }
            Output::ResumeReceive(_) => {}
            other => panic!("a login asks for none of this: {other:?}"),
        }
    }

    /// Says yes to each claim among these bytes of the link.
    fn grant_claims(&mut self, bytes: &[u8]) {
        let (_, router) = self.router.as_mut().expect("who sends on a link has one");
        let mut granted = Vec::new();
        let fed = router.feed(bytes, &mut |event| {
            if let LinkEvent::Record(record) = event
                && record.known_kind() == Some(RecordKind::Claim)
            {
                let claim = frame::access::<ArchivedClaim>(record.body).expect("a claim");
                let claimed = Claimed {
                    owner_seq: claim.owner_seq.to_native(),
                    refused_code: 0,
                };
                granted.push((record.conn, frame::archive(&claimed)));
            }
        });
        fed.expect("the shard keeps to the protocol");
        for (conn, body) in granted {
            let record = Record {
                kind: RecordKind::Claimed as u8,
                conn,
                body: &body,
                ..Record::default()
            };
            router.push(&record).expect("claims need no credit");
        }
    }

    fn log_in(&mut self, conn: ConnId) {
        let accepted = Accepted {
            listener: 0,
            kind: ListenerKind::Plain,
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            reserve: false,
        };
        self.input(Input::Accepted(conn, accepted));
        self.input(Input::Received(conn, &mut HEAD.to_vec()));
        self.turn();
        let hello = body::Hello {
            token: format!("user{}", conn.slot()),
            terminal: 5,
            device: "device-1".to_owned(),
            epoch: 0,
        };
        let hello = frame::encode(FrameKind::Hello, 1, &hello);
        let mut bytes = Vec::new();
        client_frame(Opcode::Binary, &hello, [1, 2, 3, 4], &mut bytes);
        self.input(Input::Received(conn, &mut bytes));
    }
}

fn secret() -> LinkSecret {
    LinkSecret {
        key_id: 1,
        key: vec![7; 32],
    }
}
