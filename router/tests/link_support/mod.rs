//! A router on free ports in a directory of its own, and gateways that are nothing but a link.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper of tests, of which each file uses a part; it fails by panicking"
)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use corelane_protocol::bus::{self, ArchivedFrameReceivers, ArchivedReceivers};
use corelane_protocol::frame::body::{
    ArchivedErrorBody, ArchivedSendAck, ConvSeq, Pull, Read, Send, Sync, Target,
};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, encode, encode_with, flag};
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{
    ArchivedBusBatch, ArchivedClaimed, ArchivedRouterList, BusFetch, Claim, Consumed,
};
use corelane_protocol::link::codec::{LinkCodec, LinkEvent, LinkRole, LinkSecret, PeerInfo};
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_router::config::RouterConfig;
use corelane_router::{DemoOptions, RouterHandle, RouterOptions, keys, start};

/// Nothing here takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A router on free ports.
pub(crate) fn router(dir: &Path) -> RouterHandle {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = RouterConfig::default();
    config.router.link_listen = any;
    config.router.http_listen = any;
    config.router.demo = true;
    dir.clone_into(&mut config.store.data_dir);
    config.store.lanes = 8;
    let demo = Some(DemoOptions {
        ws_url: "ws://127.0.0.1:1/ws".to_owned(),
    });
    let options = RouterOptions {
        web: &[("/index.html", "text/html", b"<p>hello</p>")],
        demo,
        more_metrics: None,
    };
    start(&config, options).unwrap()
}

/// A record that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) kind: RecordKind,
    pub(crate) conn: u64,
    pub(crate) reference: u32,
    pub(crate) body: Vec<u8>,
}

/// What a bus record carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) router_boot: u64,
    pub(crate) number: u64,
    pub(crate) class: u8,
    pub(crate) conns: Vec<u64>,
    /// seq, except, frame kind.
    pub(crate) frames: Vec<(u64, u64, FrameKind)>,
}

/// One shard of a gateway, as its router sees it.
pub(crate) struct Gateway {
    socket: TcpStream,
    codec: LinkCodec,
    pub(crate) boot: u64,
    arrived: VecDeque<Arrived>,
    /// Every router list that came: its version, and node and address of each router.
    pub(crate) lists: Vec<(u64, Vec<(String, String)>)>,
    pub(crate) partitions: u16,
    /// Version of the router list, as the handshake said.
    pub(crate) list_version: u64,
    owner_seq: u64,
}

impl Gateway {
    /// Links a gateway and asks for all records.
    pub(crate) fn link(dir: &Path, router: &RouterHandle, boot: u64) -> Self {
        let key = keys::read(&dir.join(keys::LINK_KEY)).unwrap().to_vec();
        let socket = TcpStream::connect(router.link_addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.set_nodelay(true).unwrap();
        let info = PeerInfo {
            node: "test".to_owned(),
            boot,
            shards: 1,
            ..PeerInfo::default()
        };
        let codec = LinkCodec::new(LinkRole::Gateway, info, LinkSecret { key_id: 1, key }, [7; 16]);
        let mut gateway = Self {
            socket,
            codec,
            boot,
            arrived: VecDeque::new(),
            lists: Vec::new(),
            partitions: 0,
            list_version: 0,
            owner_seq: 0,
        };
        gateway.flush();
        gateway.until("the handshake", |gateway| {
            gateway.codec.peer().map(|peer| peer.partitions)
        });
        let peer = gateway.codec.peer().unwrap();
        gateway.list_version = peer.router_list_version;
        gateway.partitions = peer.partitions;
        for partition in 0..gateway.partitions {
            gateway.fetch(partition, 0);
        }
        gateway
    }

    pub(crate) fn fetch(&mut self, partition: u16, from: u64) {
        let fetch = BusFetch {
            boot: self.boot,
            partition,
            from,
            credit_bytes: 1 << 20,
        };
        self.push(RecordKind::BusFetch, 0, 0, "", &frame::archive(&fetch));
        self.flush();
    }

    pub(crate) fn push(&mut self, kind: RecordKind, conn: u64, reference: u32, user: &str, body: &[u8]) {
        let record = Record {
            kind: kind as u8,
            terminal: 1,
            user,
            conn,
            reference,
            body,
            ..Record::default()
        };
        self.codec.push(&record).unwrap();
    }

    pub(crate) fn flush(&mut self) {
        let mut bytes = Vec::new();
        self.codec.output(&mut bytes);
        self.socket.write_all(&bytes).unwrap();
    }

    /// Reads until `found` has an answer.
    pub(crate) fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(answer) = found(self) {
                return answer;
            }
            assert!(
                waited < DEADLINE,
                "{what} did not come; there is {:?}",
                self.arrived
            );
            if !self.read() {
                waited += Duration::from_millis(200);
            }
        }
    }

    /// Reads once; false if nothing came within 200 ms.
    pub(crate) fn read(&mut self) -> bool {
        let mut bytes = vec![0; 65536];
        let count = match self.socket.read(&mut bytes) {
            Ok(0) => panic!("the router closed the link"),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(error) => panic!("link: {error}"),
        };
        let (arrived, lists) = (&mut self.arrived, &mut self.lists);
        self.codec
            .feed(&bytes[..count], &mut |event| {
                if let LinkEvent::Record(record) = event {
                    if record.known_kind() == Some(RecordKind::RouterList) {
                        return lists.push(list_of(record.body));
                    }
                    arrived.push_back(Arrived {
                        kind: record.known_kind().unwrap(),
                        conn: record.conn,
                        reference: record.reference,
                        body: record.body.to_vec(),
                    });
                }
            })
            .unwrap();
        self.flush();
        true
    }

    /// The next record, whatever it is.
    pub(crate) fn next(&mut self) -> Arrived {
        self.until("a record", |gateway| gateway.arrived.pop_front())
    }

    /// Takes the first record of this kind.
    pub(crate) fn take(&mut self, kind: RecordKind) -> Arrived {
        self.until(&format!("a {kind:?}"), |gateway| {
            let at = gateway.arrived.iter().position(|each| each.kind == kind)?;
            gateway.arrived.remove(at)
        })
    }

    /// Whether a record of this kind is there or comes within a moment.
    pub(crate) fn comes(&mut self, kind: RecordKind) -> bool {
        while !self.arrived.iter().any(|each| each.kind == kind) {
            if !self.read() {
                return false;
            }
        }
        true
    }

    /// A session; panics if it is refused.
    pub(crate) fn login(&mut self, user: &str, slot: u32) -> u64 {
        let conn = ConnId::new(0, slot, 1).0;
        assert_eq!(self.claim(user, conn), 0, "{user} is let in");
        conn
    }

    /// Puts a claim into the batch that leaves next.
    pub(crate) fn push_claim(&mut self, user: &str, conn: u64, owner_seq: u64) {
        let claim = Claim {
            owner_seq,
            issued_at_s: 1,
            again: false,
        };
        self.push(RecordKind::Claim, conn, 0, user, &frame::archive(&claim));
    }

    pub(crate) fn claim(&mut self, user: &str, conn: u64) -> u16 {
        self.owner_seq += 1;
        self.push_claim(user, conn, self.owner_seq);
        self.flush();
        let answer = self.take(RecordKind::Claimed);
        let claimed = frame::access::<ArchivedClaimed>(&answer.body).unwrap();
        assert_eq!(claimed.owner_seq.to_native(), self.owner_seq);
        claimed.refused_code.to_native()
    }

    pub(crate) fn client_frame(&mut self, user: &str, conn: u64, reference: u32, frame: &[u8]) {
        self.push(RecordKind::ClientFrame, conn, reference, user, frame);
    }

    /// Sends a text; the answer is waited for with [`Self::answer`].
    pub(crate) fn send(
        &mut self,
        user: &str,
        conn: u64,
        reference: u32,
        target: Target,
        id: u64,
        text: &str,
    ) {
        self.client_frame(user, conn, reference, &text_frame(reference, target, id, text, 0));
        self.flush();
    }

    /// The answer to a send.
    pub(crate) fn answer(&mut self, reference: u32) -> Result<u64, ErrorCode> {
        outcome(&self.answered(reference))
    }

    /// The frame that answers a reference.
    pub(crate) fn answered(&mut self, reference: u32) -> Vec<u8> {
        let answer = self.until("an answer", |gateway| {
            let at = gateway
                .arrived
                .iter()
                .position(|each| each.kind == RecordKind::ServerFrame && each.reference == reference)?;
            gateway.arrived.remove(at)
        });
        answer.body
    }

    /// The next bus record.
    pub(crate) fn delivered(&mut self) -> Delivered {
        let batch = self.take(RecordKind::BusBatch);
        let batch = frame::access::<ArchivedBusBatch>(&batch.body).unwrap();
        assert!(!batch.lost);
        // More records of one batch go back to the front, one batch each.
        for record in batch.records.iter().skip(1).rev() {
            let single = corelane_protocol::link::body::BusBatch {
                partition: batch.partition.to_native(),
                from: 0,
                lost: false,
                records: vec![record.to_vec()],
            };
            self.arrived.push_front(Arrived {
                kind: RecordKind::BusBatch,
                conn: 0,
                reference: 0,
                body: frame::archive(&single).to_vec(),
            });
        }
        let (header, record) = bus::read(&batch.records[0]).unwrap();
        let ArchivedReceivers::Conns(conns) = &record.receivers else {
            panic!("receivers are connections")
        };
        Delivered {
            router_boot: header.router_boot,
            number: header.number,
            class: record.class,
            conns: conns.iter().map(|conn| conn.to_native()).collect(),
            frames: record
                .frames
                .iter()
                .map(|each| {
                    let kind = Frame::parse(&each.frame).unwrap().known_kind().unwrap();
                    let except = match &each.receivers {
                        ArchivedFrameReceivers::AllBut(conn) => conn.to_native(),
                        _ => 0,
                    };
                    (each.seq.to_native(), except, kind)
                })
                .collect(),
        }
    }

    /// Reports everything of all partitions consumed.
    pub(crate) fn consumed(&mut self, router_boot: u64) {
        for partition in 0..self.partitions {
            let consumed = Consumed {
                router_boot,
                partition,
                number: 1_000_000,
                gaps: Vec::new(),
            };
            self.push(RecordKind::Consumed, 0, 0, "", &frame::archive(&consumed));
        }
        self.flush();
    }
}

fn list_of(body: &[u8]) -> (u64, Vec<(String, String)>) {
    let list = frame::access::<ArchivedRouterList>(body).unwrap();
    let routers = list.routers.iter().map(|router| {
        let (node, address) = (router.node.as_str(), router.address.as_str());
        (node.to_owned(), address.to_owned())
    });
    (list.version.to_native(), routers.collect())
}

/// What an answer to a send says.
pub(crate) fn outcome(bytes: &[u8]) -> Result<u64, ErrorCode> {
    let frame = Frame::parse(bytes).unwrap();
    match frame.known_kind() {
        Some(FrameKind::SendAck) => Ok(frame.access::<ArchivedSendAck>().unwrap().seq.to_native()),
        Some(FrameKind::Error) => {
            let error = frame.access::<ArchivedErrorBody>().unwrap();
            Err(ErrorCode::from_number(error.code.to_native()).unwrap())
        }
        other => panic!("{other:?} answers no send"),
    }
}

/// A `UUIDv7` of now with `number` in it.
pub(crate) fn message_id(number: u64) -> [u8; 16] {
    let now = corelane_router::clock::Clock::start().now().wall_ms;
    let mut id = [0; 16];
    id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
    id[6] = 0x70;
    id[8] = 0x80;
    id[9..].copy_from_slice(&number.to_be_bytes()[1..]);
    // The same number is the same id, whenever it is asked for.
    id[..6].copy_from_slice(&(now - now % 10_000_000).to_be_bytes()[2..]);
    id
}

pub(crate) fn text_frame(reference: u32, target: Target, id: u64, text: &str, flags: u8) -> Vec<u8> {
    let body = Send {
        target,
        kind: 1,
        flags: 0,
        ref_seq: 0,
        client_msg_id: message_id(id),
        content_type: 1,
        payload: text.as_bytes().to_vec(),
    };
    encode_with(FrameKind::Send, flags, reference, &body, &[])
}

/// A send that opens its gate again.
pub(crate) fn restart_frame(reference: u32, target: Target, id: u64, text: &str) -> Vec<u8> {
    text_frame(reference, target, id, text, flag::RESTART)
}

pub(crate) fn to_user(user: &str) -> Target {
    Target::User(user.to_owned())
}

pub(crate) fn to_conv(conv: &str) -> Target {
    let conv: corelane_protocol::id::ConvId = conv.parse().unwrap();
    Target::Conv(conv.as_bytes().to_vec())
}

pub(crate) fn pull_frame(reference: u32, conv: &str) -> Vec<u8> {
    let conv: corelane_protocol::id::ConvId = conv.parse().unwrap();
    let body = Pull {
        conv: conv.as_bytes().to_vec(),
        from_seq: 1,
        to_seq: u64::MAX,
        limit: 100,
    };
    encode(FrameKind::Pull, reference, &body)
}

pub(crate) fn sync_frame(reference: u32) -> Vec<u8> {
    let body = Sync {
        cursor: Vec::new(),
        limit: 100,
    };
    encode(FrameKind::Sync, reference, &body)
}

pub(crate) fn read_frame(reference: u32, conv: &str, seq: u64) -> Vec<u8> {
    let conv: corelane_protocol::id::ConvId = conv.parse().unwrap();
    let upto = ConvSeq {
        conv: conv.as_bytes().to_vec(),
        seq,
    };
    encode(FrameKind::Read, reference, &Read { upto })
}

/// The HTTP API, with the admin's key.
pub(crate) struct Http {
    base: String,
    agent: ureq::Agent,
    key: String,
}

impl Http {
    pub(crate) fn of(dir: &Path, router: &RouterHandle) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .build()
            .into();
        let key = keys::to_hex(&keys::read(&dir.join(keys::ADMIN_KEY)).unwrap());
        Self {
            base: format!("http://{}", router.http_addr()),
            agent,
            key,
        }
    }

    pub(crate) fn with_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        self
    }

    pub(crate) fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let request = self.agent.get(format!("{}{path}", self.base));
        Self::taken(
            request
                .header("Authorization", format!("Bearer {}", self.key))
                .call(),
        )
    }

    pub(crate) fn delete(&self, path: &str) -> (u16, serde_json::Value) {
        let request = self.agent.delete(format!("{}{path}", self.base));
        Self::taken(
            request
                .header("Authorization", format!("Bearer {}", self.key))
                .call(),
        )
    }

    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let request = self.agent.post(format!("{}{path}", self.base));
        Self::taken(
            request
                .header("Authorization", format!("Bearer {}", self.key))
                .send_json(body),
        )
    }

    pub(crate) fn post_text(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let request = self.agent.post(format!("{}{path}", self.base));
        let request = request
            .header("Authorization", format!("Bearer {}", self.key))
            .header("Content-Type", "application/json");
        Self::taken(request.send(body))
    }

    pub(crate) fn text(&self, path: &str) -> String {
        let mut answer = self.agent.get(format!("{}{path}", self.base)).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    fn taken(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, serde_json::Value) {
        let mut answer = answer.unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (
            answer.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(serde_json::Value::Null),
        )
    }
}
