//! A shard with clients and routers around it: real frames, real links, virtual time.
//!
//! Most tests have one router, named `router`; the fields of [`World`] say how it behaves. Those that have a cluster name
//! its routers: `World::cluster(config, &["a", "b"])`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use corelane_gateway_core::event::{Accepted, Claims, Input, LinkId, Output, ShardMessage, TokenVerdict};
use corelane_gateway_core::{Shard, ShardConfig};
use corelane_protocol::arena::Span;
use corelane_protocol::bus::{BusFrame, BusRecord, FrameReceivers, Receivers, class};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, body};
use corelane_protocol::hash::{home_of, lane_of, router_of};
use corelane_protocol::id::{AppId, ConnId, ConvId, GroupId, UserId};
use corelane_protocol::link::body::{
    ArchivedClaim, ArchivedConsumed, BusBatch, Claimed, Kick, Renewed, RouterInfo, RouterList,
};
use corelane_protocol::link::codec::{LinkCodec, LinkEvent, LinkRole, LinkSecret, PeerInfo};
use corelane_protocol::link::handshake::feature;
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::proxy::SIGNATURE;
use corelane_protocol::terminal::Terminal;
use corelane_protocol::time::Now;
use corelane_protocol::ws::{Decoder, Item, Opcode, Role, client_frame};

/// A record that a router got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The router's name.
    pub router: String,
    pub kind: RecordKind,
    pub conn: ConnId,
    pub user: String,
    pub device: String,
    pub lane: u16,
    pub reference: u32,
    pub body: Vec<u8>,
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Frame(Vec<u8>),
    Text(String),
    Pong(Vec<u8>),
    Close(u16),
}

/// One client's end.
#[derive(Debug)]
pub struct Client {
    head: Option<Vec<u8>>,
    decoder: Decoder,
    /// Does not read: its sends stay in flight.
    pub stuck: bool,
    in_flight: Option<Span>,
    seen: VecDeque<Seen>,
    pub paused: bool,
    pub closed: bool,
    pub aborted: bool,
    /// Answer of the upgrade.
    pub answer: String,
}

/// How a router behaves.
#[derive(Debug, Clone)]
pub struct Router {
    pub node: String,
    pub boot: u64,
    /// Whether connections to it succeed.
    pub is_up: bool,
    /// Whether it grants credit and takes bytes.
    pub reads: bool,
    pub incarnation: u64,
    pub lanes: u16,
}

impl Router {
    pub fn new(node: &str, boot: u64) -> Self {
        Self {
            node: node.to_owned(),
            boot,
            is_up: true,
            reads: true,
            incarnation: 1,
            lanes: 8,
        }
    }
}

/// A router's end of a link.
struct RouterEnd {
    id: LinkId,
    /// Where it was connected.
    address: String,
    node: String,
    codec: LinkCodec,
    /// What the router did not read yet.
    unread: Option<Span>,
}

/// Everything.
pub struct World {
    pub shard: Shard,
    pub now: Now,
    pub clients: BTreeMap<ConnId, Client>,
    links: Vec<RouterEnd>,
    /// The routers of a cluster, by address.
    pub routers: BTreeMap<String, Router>,
    /// Whether connections to the router succeed.
    pub router_is_up: bool,
    /// Whether the shell answers a close of the link.
    pub closes_links: bool,
    /// Whether the router grants credit and takes bytes.
    pub router_reads: bool,
    pub router_boot: u64,
    pub incarnation: u64,
    pub cluster_id: u64,
    pub partitions: u16,
    /// Whether the router's bus stands apart; at first as the shard's.
    pub is_apart: bool,
    /// Whether routers compare routes with the registry.
    pub compares_routes: bool,
    /// What the shell was asked to read: boot, partition, offset.
    pub fetches: Vec<(u64, u16, u64)>,
    /// Whether claims are answered.
    pub claims_granted: bool,
    /// Whether renewals are answered.
    pub renewals_granted: bool,
    /// Boots that the shard asked to have replaced.
    pub boots_lost: Vec<u64>,
    pub got: Vec<Got>,
    pub to_shards: Vec<(u16, ShardMessage)>,
    pub drained: bool,
    pub tokens_valid_s: i64,
    next_slot: u32,
    offsets: BTreeMap<u16, u64>,
    pub links_opened: u32,
    busy_conns: BTreeSet<ConnId>,
}

pub const SECRET: &[u8] = b"secret of the tests";

pub fn config() -> ShardConfig {
    ShardConfig {
        boot: 77,
        routers: vec!["router:7090".to_owned()],
        link_secret: LinkSecret {
            key_id: 1,
            key: SECRET.to_vec(),
        },
        ..ShardConfig::default()
    }
}

/// Where a router of a cluster listens.
pub fn address_of(node: &str) -> String {
    format!("{node}:7090")
}

impl World {
    pub fn new(config: ShardConfig) -> Self {
        Self::with_routers(config, BTreeMap::new())
    }

    /// A cluster of these routers, whose boots are 1, 2 and so on. All of them are seeds, and none has told the list yet.
    pub fn cluster(mut config: ShardConfig, nodes: &[&str]) -> Self {
        config.routers = nodes.iter().map(|node| address_of(node)).collect();
        let routers = (1..)
            .zip(nodes)
            .map(|(boot, node)| (address_of(node), Router::new(node, boot)));
        Self::with_routers(config, routers.collect())
    }

    /// A cluster that has told its list.
    pub fn told_cluster(nodes: &[&str]) -> Self {
        let mut world = Self::cluster(config(), nodes);
        world.tell_list(nodes[0], 1, nodes);
        world.got.clear();
        world
    }

    pub fn with_routers(config: ShardConfig, routers: BTreeMap<String, Router>) -> Self {
        let now = Now {
            mono: Duration::from_secs(100),
            wall_ms: 1_700_000_000_000,
        };
        let mut world = Self {
            is_apart: config.bus_partitions > 0,
            compares_routes: false,
            fetches: Vec::new(),
            shard: Shard::new(config, 0, now),
            now,
            clients: BTreeMap::new(),
            links: Vec::new(),
            routers,
            router_is_up: true,
            closes_links: true,
            router_reads: true,
            router_boot: 1,
            incarnation: 1,
            cluster_id: 5,
            partitions: 4,
            claims_granted: true,
            renewals_granted: true,
            boots_lost: Vec::new(),
            got: Vec::new(),
            to_shards: Vec::new(),
            drained: false,
            tokens_valid_s: 3600,
            next_slot: 0,
            offsets: BTreeMap::new(),
            links_opened: 0,
            busy_conns: BTreeSet::new(),
        };
        world.turn();
        world
    }

    /// The router of a cluster.
    pub fn router(&mut self, node: &str) -> &mut Router {
        let found = self.routers.values_mut().find(|router| router.node == node);
        found.expect("a router of the cluster")
    }

    /// Who listens at an address, and how it behaves.
    fn listens_at(&self, address: &str) -> Router {
        self.routers.get(address).cloned().unwrap_or_else(|| Router {
            is_up: self.router_is_up,
            reads: self.router_reads,
            incarnation: self.incarnation,
            ..Router::new("router", self.router_boot)
        })
    }

    fn link(&mut self, id: LinkId) -> Option<&mut RouterEnd> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    /// The link to a router.
    fn link_to(&self, node: &str) -> LinkId {
        let link = self.links.iter().find(|link| link.node == node);
        link.unwrap_or_else(|| panic!("no link to {node}")).id
    }

    /// The one link there is, or the last.
    fn the_link(&self) -> LinkId {
        self.links.last().expect("there is a link").id
    }

    /// Routers that the shard is linked with, each as often as it is.
    pub fn linked(&self) -> Vec<&str> {
        let established = self.links.iter().filter(|link| link.codec.is_established());
        let mut nodes: Vec<&str> = established.map(|link| link.node.as_str()).collect();
        nodes.sort_unstable();
        nodes
    }

    /// One input, and everything that follows from it.
    pub fn input(&mut self, input: Input<'_>) {
        let mut outputs = Vec::new();
        self.shard.handle(self.now, input, &mut outputs);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(id, span) => {
                    let client = self.clients.get_mut(&id).expect("sends go to known sockets");
                    assert!(
                        !client.closed && !client.aborted,
                        "nothing is sent after the close"
                    );
                    assert!(client.in_flight.is_none(), "never two sends at a time");
                    client.in_flight = Some(span);
                    self.busy_conns.insert(id);
                }
                Output::Close(id) => {
                    let client = self.clients.get_mut(&id).expect("known socket");
                    assert!(!client.closed, "closed once");
                    client.closed = true;
                    self.busy_conns.insert(id);
                }
                Output::Abort(id) => {
                    self.clients.get_mut(&id).expect("known socket").aborted = true;
                    self.busy_conns.insert(id);
                }
                Output::PauseReceive(id) => self.client(id).paused = true,
                Output::ResumeReceive(id) => self.client(id).paused = false,
                Output::Verify(id, token) => {
                    let verdict = verdict(
                        &token,
                        (self.now.wall_ms / 1000).saturating_add_signed(self.tokens_valid_s),
                    );
                    self.input(Input::Verified(id, verdict));
                }
                Output::LinkConnect(id, address) => self.connect(id, address),
                Output::LinkSend(id, span) => {
                    let address = self.link(id).map(|link| link.address.clone());
                    let reads = address.map(|address| self.listens_at(&address).reads);
                    if reads == Some(true) {
                        self.router_takes(id, &span.to_vec());
                        self.input(Input::LinkSent(id));
                    } else if let Some(link) = self.link(id) {
                        link.unread = Some(span);
                    }
                }
                Output::LinkClose(id) => {
                    self.links.retain(|link| link.id != id);
                    if self.closes_links {
                        self.input(Input::LinkClosed(id));
                    }
                }
                Output::ToShard(shard, message) => self.to_shards.push((shard, message)),
                Output::Fetch {
                    boot,
                    partition,
                    from,
                    credit_bytes,
                } => {
                    assert!(credit_bytes > 0);
                    self.fetches.push((boot, partition, from));
                }
                Output::BootLost(boot) => self.boots_lost.push(boot),
                Output::Drained => self.drained = true,
            }
        }
    }

    fn connect(&mut self, id: LinkId, address: String) {
        let router = self.listens_at(&address);
        if !router.is_up {
            return self.input(Input::LinkClosed(id));
        }
        self.links_opened += 1;
        let info = PeerInfo {
            node: router.node.clone(),
            boot: router.boot,
            epoch: 9,
            lanes: router.lanes,
            partitions: self.partitions,
            registry_incarnation: router.incarnation,
            features: u64::from(self.is_apart) * feature::BUS_APART
                + u64::from(self.compares_routes) * feature::OWNED,
            cluster_id: self.cluster_id,
            ..PeerInfo::default()
        };
        let secret = LinkSecret {
            key_id: 1,
            key: SECRET.to_vec(),
        };
        self.links.push(RouterEnd {
            id,
            address,
            node: router.node,
            codec: LinkCodec::new(LinkRole::Router, info, secret, [9; 16]),
            unread: None,
        });
        self.input(Input::LinkConnected(id, [7; 16]));
    }

    /// The routers read again, first what they left.
    pub fn router_reads_again(&mut self) {
        self.router_reads = true;
        for router in self.routers.values_mut() {
            router.reads = true;
        }
        let left: Vec<(LinkId, Span)> = self
            .links
            .iter_mut()
            .filter_map(|link| Some((link.id, link.unread.take()?)))
            .collect();
        for (id, span) in left {
            self.router_takes(id, &span.to_vec());
            self.input(Input::LinkSent(id));
        }
        self.turn();
    }

    fn router_takes(&mut self, id: LinkId, bytes: &[u8]) {
        let Some(router) = self.links.iter_mut().find(|link| link.id == id) else {
            return;
        };
        let (mut claims, mut renewals) = (Vec::new(), Vec::new());
        let (got, node) = (&mut self.got, &router.node);
        let fed = router.codec.feed(bytes, &mut |event| {
            if let LinkEvent::Record(record) = event {
                let kind = record.known_kind().expect("a shard sends known records");
                if kind == RecordKind::Claim {
                    let claim = frame::access::<ArchivedClaim>(record.body).expect("a claim");
                    claims.push((record.conn, claim.owner_seq.to_native()));
                }
                if kind == RecordKind::Renew {
                    renewals.push(record.reference);
                }
                got.push(Got {
                    router: node.clone(),
                    kind,
                    conn: ConnId(record.conn),
                    user: record.user.to_owned(),
                    device: record.device.to_owned(),
                    lane: record.lane,
                    reference: record.reference,
                    body: record.body.to_vec(),
                });
            }
        });
        if fed.is_err() {
            // The router hangs up, after what it had to say.
            self.link_in();
            return self.cut(id);
        }
        if self.renewals_granted {
            for reference in renewals {
                self.queue(id, &renewed(reference, &frame::archive(&Renewed { alive: true })));
            }
        }
        if self.claims_granted {
            for (conn, owner_seq) in claims {
                let held = Claimed {
                    owner_seq,
                    refused_code: 0,
                };
                self.queue_record(id, RecordKind::Claimed, ConnId(conn), &frame::archive(&held));
            }
        }
    }

    pub fn answer_claim(&mut self, conn: ConnId, owner_seq: u64, refused_code: u16) {
        let body = frame::archive(&Claimed {
            owner_seq,
            refused_code,
        });
        self.queue_record(self.the_link(), RecordKind::Claimed, conn, &body);
    }

    /// Says whether the boot is alive; reference 0 if nobody asked.
    pub fn answer_renewal(&mut self, reference: u32, alive: bool) {
        let body = frame::archive(&Renewed { alive });
        self.queue(self.the_link(), &renewed(reference, &body));
    }

    fn queue_record(&mut self, id: LinkId, kind: RecordKind, conn: ConnId, body: &[u8]) {
        let record = Record {
            kind: kind as u8,
            conn: conn.0,
            body,
            ..Record::default()
        };
        self.queue(id, &record);
    }

    fn queue(&mut self, id: LinkId, record: &Record<'_>) {
        let router = self.link(id).expect("there is a link");
        router.codec.push(record).expect("tests stay within credit");
    }

    /// A record from the router; it arrives at once.
    pub fn router_says(&mut self, kind: RecordKind, conn: ConnId, body: &[u8]) {
        self.queue_record(self.the_link(), kind, conn, body);
        self.link_in();
    }

    /// A record from one router of a cluster; it arrives at once.
    pub fn says(&mut self, node: &str, kind: RecordKind, conn: ConnId, body: &[u8]) {
        self.queue_record(self.link_to(node), kind, conn, body);
        self.link_in();
    }

    /// A router of a cluster tells which routers there are, with their boots and addresses.
    pub fn tell_list(&mut self, by: &str, version: u64, nodes: &[&str]) {
        let routers = nodes.iter().map(|node| RouterInfo {
            node: (*node).to_owned(),
            boot: self.router(node).boot,
            address: address_of(node),
        });
        let list = RouterList {
            version,
            routers: routers.collect(),
        };
        self.says(by, RecordKind::RouterList, ConnId(0), &frame::archive(&list));
        self.turn();
    }

    fn link_in(&mut self) -> bool {
        let mut has_moved = false;
        for id in self.links.iter().map(|link| link.id).collect::<Vec<_>>() {
            let mut bytes = Vec::new();
            if let Some(router) = self.link(id) {
                router.codec.output(&mut bytes);
            }
            if !bytes.is_empty() {
                self.input(Input::LinkReceived(id, &bytes));
                has_moved = true;
            }
        }
        has_moved
    }

    /// Ends turns until nothing moves any more.
    pub fn turn(&mut self) {
        for _ in 0..10_000 {
            if self.shard.next_deadline().is_some_and(|at| at <= self.now.mono) {
                self.input(Input::DeadlineReached);
            }
            self.input(Input::TurnEnded);
            let mut moved = self.link_in();
            let busy = std::mem::take(&mut self.busy_conns);
            for id in busy {
                moved |= self.settle(id);
            }
            let router_has = self.links.iter().any(|router| router.codec.has_output());
            if !moved && !router_has && self.shard.next_deadline().is_none_or(|at| at > self.now.mono) {
                return;
            }
        }
        panic!("the world does not settle");
    }

    /// The send in flight of one socket leaves, in the middle of a turn.
    pub fn complete(&mut self, id: ConnId) {
        let client = self.client(id);
        let Some(span) = client.in_flight.take() else {
            return;
        };
        client.take(span.to_vec());
        drop(span);
        self.input(Input::Sent(id));
    }

    /// Completes what the kernel would complete for one socket.
    fn settle(&mut self, id: ConnId) -> bool {
        let client = self.client(id);
        if client.aborted {
            self.remove(id);
            return true;
        }
        if client.stuck && client.in_flight.is_some() {
            self.busy_conns.insert(id);
            return false;
        }
        if let Some(span) = client.in_flight.take() {
            let bytes = span.to_vec();
            drop(span);
            client.take(bytes);
            self.input(Input::Sent(id));
            self.busy_conns.insert(id);
            return true;
        }
        if client.closed {
            self.remove(id);
            return true;
        }
        false
    }

    /// The socket is gone; what the client saw can still be looked at.
    fn remove(&mut self, id: ConnId) {
        let client = self.client(id);
        client.in_flight = None;
        client.closed = true;
        self.busy_conns.remove(&id);
        self.input(Input::Closed(id));
    }

    /// The socket was reset: nothing of it completes.
    pub fn forget(&mut self, id: ConnId) {
        self.busy_conns.remove(&id);
    }

    pub fn client(&mut self, id: ConnId) -> &mut Client {
        self.clients.get_mut(&id).expect("a known client")
    }

    /// Lets time pass; deadlines are met on the way.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now.mono + time;
        loop {
            let next = self.shard.next_deadline().filter(|at| *at <= until);
            let at = next.unwrap_or(until).max(self.now.mono);
            self.now.wall_ms += at.saturating_sub(self.now.mono).as_millis() as u64;
            self.now.mono = at;
            self.input(Input::DeadlineReached);
            self.turn();
            if next.is_none() {
                return;
            }
        }
    }

    pub fn accept(&mut self) -> ConnId {
        let id = ConnId::new(0, self.next_slot, 1);
        self.next_slot += 1;
        self.accept_as(id, false);
        id
    }

    pub fn accept_as(&mut self, id: ConnId, reserve: bool) {
        let accepted = Accepted {
            listener: 0,
            kind: ListenerKind::Plain,
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            reserve,
        };
        self.accept_with(id, accepted);
    }

    /// A socket from `peer` at a listener for proxies.
    pub fn accept_proxied(&mut self, peer: IpAddr) -> ConnId {
        let id = ConnId::new(0, self.next_slot, 1);
        self.next_slot += 1;
        let accepted = Accepted {
            listener: 0,
            kind: ListenerKind::Proxy,
            peer: SocketAddr::new(peer, 40_000),
            reserve: false,
        };
        self.accept_with(id, accepted);
        id
    }

    fn accept_with(&mut self, id: ConnId, accepted: Accepted) {
        self.clients.insert(
            id,
            Client {
                head: Some(Vec::new()),
                decoder: Decoder::new(Role::Client, 16 * 1024 * 1024),
                stuck: false,
                in_flight: None,
                seen: VecDeque::new(),
                paused: false,
                closed: false,
                aborted: false,
                answer: String::new(),
            },
        );
        self.input(Input::Accepted(id, accepted));
    }

    pub fn bytes(&mut self, id: ConnId, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.input(Input::Received(id, &mut bytes));
    }

    /// A connection that is through its upgrade.
    pub fn open(&mut self, subprotocol: &str) -> ConnId {
        let id = self.accept();
        self.bytes(id, &upgrade("/ws", subprotocol, ""));
        self.turn();
        id
    }

    /// A logged-in connection that speaks rkyv.
    pub fn login(&mut self, user: &str) -> ConnId {
        let id = self.open("corelane.rkyv.v1");
        self.say(id, &hello(user, "d1"));
        let welcome = self.frames(id);
        assert_eq!(welcome.len(), 1, "only the welcome: {:?}", self.client(id).seen);
        assert_eq!(kind(&welcome[0]), FrameKind::Welcome);
        id
    }

    /// A logged-in connection that speaks JSON.
    pub fn login_json(&mut self, user: &str) -> ConnId {
        let id = self.open("corelane.json.v1");
        self.say_text(
            id,
            &format!(r#"{{"type":"hello","ref":1,"token":"{user}","terminal":"web","device":"b"}}"#),
        );
        let text = self.texts(id).join("");
        assert!(text.contains("welcome"), "{text}");
        id
    }

    /// The client sends a frame; the turn ends.
    pub fn say(&mut self, id: ConnId, frame: &[u8]) {
        self.bytes(id, &masked(Opcode::Binary, frame));
        self.turn();
    }

    pub fn say_text(&mut self, id: ConnId, text: &str) {
        self.bytes(id, &masked(Opcode::Text, text.as_bytes()));
        self.turn();
    }

    pub fn seen(&mut self, id: ConnId) -> Vec<Seen> {
        self.client(id).seen.drain(..).collect()
    }

    /// The frames that came since the last look. Anything else is an error.
    pub fn frames(&mut self, id: ConnId) -> Vec<Vec<u8>> {
        let frame = |seen| match seen {
            Seen::Frame(frame) => frame,
            other => panic!("not a frame: {other:?}"),
        };
        self.seen(id).into_iter().map(frame).collect()
    }

    pub fn texts(&mut self, id: ConnId) -> Vec<String> {
        let text = |seen| match seen {
            Seen::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        };
        self.seen(id).into_iter().map(text).collect()
    }

    /// The close code that came last.
    pub fn close_code(&mut self, id: ConnId) -> Option<u16> {
        self.seen(id).into_iter().find_map(|seen| match seen {
            Seen::Close(code) => Some(code),
            _ => None,
        })
    }

    /// What the router got since the last look, of one kind.
    pub fn got(&mut self, kind: RecordKind) -> Vec<Got> {
        let (wanted, rest) = std::mem::take(&mut self.got)
            .into_iter()
            .partition(|got| got.kind == kind);
        self.got = rest;
        wanted
    }

    /// What one router of a cluster got since the last look, of one kind.
    pub fn got_at(&mut self, node: &str, kind: RecordKind) -> Vec<Got> {
        let (wanted, rest) = std::mem::take(&mut self.got)
            .into_iter()
            .partition(|got| got.kind == kind && got.router == node);
        self.got = rest;
        wanted
    }

    /// References of the client frames that one router got since the last look.
    pub fn forwarded(&mut self, node: &str) -> Vec<u32> {
        let got = self.got_at(node, RecordKind::ClientFrame);
        got.iter().map(|got| got.reference).collect()
    }

    /// The boot that the shard named on its present link.
    pub fn linked_boot(&self) -> Option<u64> {
        Some(self.links.last()?.codec.peer()?.boot)
    }

    /// The link's socket dies.
    pub fn cut_link(&mut self) {
        if let Some(id) = self.links.last().map(|link| link.id) {
            self.cut(id);
        }
    }

    /// The socket of the link to one router of a cluster dies.
    pub fn cut_from(&mut self, node: &str) {
        self.cut(self.link_to(node));
        self.turn();
    }

    /// A router of a cluster dies: no connection to it succeeds any more.
    pub fn kill(&mut self, node: &str) {
        self.router(node).is_up = false;
        self.cut_from(node);
    }

    fn cut(&mut self, id: LinkId) {
        let before = self.links.len();
        self.links.retain(|link| link.id != id);
        if self.links.len() < before {
            self.input(Input::LinkClosed(id));
        }
    }

    /// The router answers a send.
    pub fn ack(&mut self, id: ConnId, reference: u32, seq: u64) {
        self.router_says(RecordKind::ServerFrame, id, &send_ack(reference, seq));
        self.turn();
    }

    /// One router of a cluster answers a send.
    pub fn ack_by(&mut self, node: &str, id: ConnId, reference: u32, seq: u64) {
        self.says(node, RecordKind::ServerFrame, id, &send_ack(reference, seq));
        self.turn();
    }

    /// Records come from the bus in one batch; the turn is not ended.
    pub fn publish_batch(&mut self, partition: u16, records: Vec<Vec<u8>>) {
        let from = self.offsets.entry(partition).or_default();
        let batch = BusBatch {
            partition,
            from: *from,
            lost: false,
            records,
        };
        *from += batch.records.len() as u64;
        let body = frame::archive(&batch);
        self.router_says(RecordKind::BusBatch, ConnId(0), &body);
    }

    /// The shell read records of a bus that stands apart; the turn is not ended.
    pub fn fetched(&mut self, boot: u64, partition: u16, from: u64, records: &[BusRecord]) {
        let records = records.iter().map(|record| Arc::<[u8]>::from(record.encode()));
        let fetched = ShardMessage::Fetched {
            boot,
            partition,
            from,
            lost: false,
            records: records.collect(),
        };
        self.input(Input::FromShard(fetched));
    }

    /// One record comes from the bus.
    pub fn publish(&mut self, record: &BusRecord) {
        self.publish_batch(0, vec![record.encode()]);
    }

    /// The last report of a partition.
    pub fn consumed(&mut self, partition: u16) -> Option<(u64, Vec<u64>)> {
        let got = self.got(RecordKind::Consumed);
        reported(&got, partition)
    }

    /// The last report of a partition that one router of a cluster got.
    pub fn consumed_at(&mut self, node: &str, partition: u16) -> Option<(u64, Vec<u64>)> {
        let got = self.got_at(node, RecordKind::Consumed);
        reported(&got, partition)
    }

    pub fn kick(&mut self, id: ConnId, owner_seq: u64, code: u16) {
        let body = frame::archive(&Kick { code, owner_seq });
        self.router_says(RecordKind::Kick, id, &body);
        self.turn();
    }
}

impl Client {
    fn take(&mut self, mut bytes: Vec<u8>) {
        if let Some(head) = self.head.as_mut() {
            head.extend_from_slice(&bytes);
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            bytes = head.split_off(end + 4);
            self.answer = String::from_utf8(self.head.take().unwrap()).unwrap();
            if !self.answer.starts_with("HTTP/1.1 101") {
                return;
            }
        }
        let mut items = self.decoder.feed(&mut bytes);
        while let Some(item) = items.next() {
            let seen = match item.expect("a shard's frames are in order") {
                Item::Binary(frame) => Seen::Frame(frame.to_vec()),
                Item::Text(text) => Seen::Text(text.to_owned()),
                Item::Pong(payload) => Seen::Pong(payload.to_vec()),
                Item::Ping(_) => panic!("the server does not ping"),
                Item::Close(said) => Seen::Close(said.map_or(1005, |(code, _)| code)),
            };
            self.seen.push_back(seen);
        }
    }

    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight.as_ref().map_or(0, Span::len)
    }
}

/// The last report of a partition, number and gaps.
fn reported(got: &[Got], partition: u16) -> Option<(u64, Vec<u64>)> {
    got.iter()
        .map(|got| frame::access::<ArchivedConsumed>(&got.body).unwrap())
        .filter(|consumed| consumed.partition.to_native() == partition)
        .map(|consumed| {
            (
                consumed.number.to_native(),
                consumed.gaps.iter().map(|gap| gap.to_native()).collect(),
            )
        })
        .next_back()
}

fn renewed(reference: u32, body: &[u8]) -> Record<'_> {
    Record {
        kind: RecordKind::Renewed as u8,
        reference,
        body,
        ..Record::default()
    }
}

fn send_ack(reference: u32, seq: u64) -> Vec<u8> {
    let ack = body::SendAck {
        conv: conv("alice", "bob").as_bytes().to_vec(),
        seq,
        n: seq,
        time_ms: 1,
    };
    frame::encode(FrameKind::SendAck, reference, &ack)
}

/// The verdict on a token: `expired`, `invalid`, or `user`, `user/device`, `user/device/terminal`.
fn verdict(token: &str, expires_at_s: u64) -> Result<Claims, TokenVerdict> {
    match token {
        "expired" => Err(TokenVerdict::Expired),
        "invalid" => Err(TokenVerdict::Invalid("signature does not match".to_owned())),
        good => {
            let mut parts = good.split('/');
            Ok(Claims {
                app: AppId(0),
                user: UserId::new(parts.next().unwrap()).unwrap(),
                device: parts.next().map(str::to_owned),
                terminal: parts.next().map(|name| Terminal::from_name(name).unwrap()),
                expires_at_s,
                issued_at_s: 1,
                scopes: Vec::new(),
            })
        }
    }
}

pub fn upgrade(path: &str, subprotocol: &str, more: &str) -> Vec<u8> {
    let offered = if subprotocol.is_empty() {
        String::new()
    } else {
        format!("Sec-WebSocket-Protocol: {subprotocol}\r\n")
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offered}{more}\r\n"
    )
    .into_bytes()
}

/// What a proxy puts in front of the connection of a client at `source`, with `tlvs` behind its addresses.
pub fn proxy_header(source: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let (protocol, addresses) = match source.ip() {
        IpAddr::V4(address) => (0x11, address.octets().repeat(2)),
        IpAddr::V6(address) => (0x21, address.octets().repeat(2)),
    };
    let port = source.port().to_be_bytes();
    let length = (addresses.len() + 2 * port.len() + tlvs.len()) as u16;
    let fixed = [0x21, protocol];
    [
        &SIGNATURE[..],
        &fixed,
        &length.to_be_bytes(),
        &addresses,
        &port,
        &port,
        tlvs,
    ]
    .concat()
}

pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(opcode, payload, [1, 2, 3, 4], &mut bytes);
    bytes
}

pub fn hello(token: &str, device: &str) -> Vec<u8> {
    let hello = body::Hello {
        token: token.to_owned(),
        terminal: 5,
        device: device.to_owned(),
        epoch: 0,
    };
    frame::encode(FrameKind::Hello, 1, &hello)
}

pub fn conv(one: &str, other: &str) -> ConvId {
    ConvId::direct(&UserId::new(one).unwrap(), &UserId::new(other).unwrap())
}

pub fn send_to(user: &str, reference: u32, restart: bool) -> Vec<u8> {
    send(body::Target::User(user.to_owned()), reference, restart, b"hi")
}

pub fn send_in(conv: &ConvId, reference: u32, restart: bool) -> Vec<u8> {
    send(
        body::Target::Conv(conv.as_bytes().to_vec()),
        reference,
        restart,
        b"hi",
    )
}

/// A send of 60,000 bytes.
pub fn big_send_in(conv: &ConvId, reference: u32) -> Vec<u8> {
    let target = body::Target::Conv(conv.as_bytes().to_vec());
    send(target, reference, false, &vec![b'x'; 60_000])
}

/// A group whose conversation is served by `node` in a cluster of `nodes`, the one of this number.
pub fn group_at(nodes: &[&str], node: &str, number: usize) -> ConvId {
    let owner = |conv: &ConvId| router_of(lane_of(AppId(0), conv, 8), nodes.iter().copied());
    (0..)
        .map(|number| ConvId::group(&GroupId::new(&format!("group{number}")).unwrap()))
        .filter(|conv| owner(conv).is_some_and(|owner| nodes[owner] == node))
        .nth(number)
        .unwrap()
}

/// The one of `nodes` that the shard of [`config`] has for its home, and the first other one.
pub fn home_and_other<'a>(nodes: &[&'a str]) -> (&'a str, &'a str) {
    let home = home_of(&config().node, 0, nodes.iter().copied()).unwrap();
    let other = nodes.iter().find(|node| **node != nodes[home]).unwrap();
    (nodes[home], *other)
}

fn send(target: body::Target, reference: u32, restart: bool, payload: &[u8]) -> Vec<u8> {
    let mut client_msg_id = [0; 16];
    client_msg_id[6] = 0x70;
    client_msg_id[8] = 0x80;
    client_msg_id[12..].copy_from_slice(&reference.to_le_bytes());
    let send = body::Send {
        target,
        kind: 1,
        flags: 0,
        ref_seq: 0,
        client_msg_id,
        content_type: 1,
        payload: payload.to_vec(),
    };
    let flags = if restart { frame::flag::RESTART } else { 0 };
    frame::encode_with(FrameKind::Send, flags, reference, &send, &[])
}

pub fn sync(reference: u32) -> Vec<u8> {
    frame::encode(
        FrameKind::Sync,
        reference,
        &body::Sync {
            cursor: Vec::new(),
            limit: 50,
        },
    )
}

pub fn pull(reference: u32, conv: &ConvId) -> Vec<u8> {
    let pull = body::Pull {
        conv: conv.as_bytes().to_vec(),
        from_seq: 1,
        to_seq: u64::MAX,
        limit: 50,
    };
    frame::encode(FrameKind::Pull, reference, &pull)
}

pub fn ping(reference: u32) -> Vec<u8> {
    frame::encode(FrameKind::Ping, reference, &body::Ping { time_ms: 5 })
}

pub fn message(conv: &ConvId, seq: u64, payload_bytes: usize) -> Vec<u8> {
    let message = body::Message {
        conv: conv.as_bytes().to_vec(),
        seq,
        n: seq,
        sender: "alice".to_owned(),
        kind: 1,
        flags: 0,
        ref_seq: 0,
        origin_terminal: 1,
        origin_device: String::new(),
        client_msg_id: [1; 16],
        time_ms: 1,
        content_type: 1,
        payload: vec![b'x'; payload_bytes],
    };
    frame::encode(FrameKind::Message, 0, &message)
}

/// A record with one message per seq in `seqs`.
pub fn record(
    number: u64,
    conv: &ConvId,
    seqs: std::ops::RangeInclusive<u64>,
    bytes: usize,
    to: &[ConnId],
) -> BusRecord {
    BusRecord {
        class: class::STORED,
        priority: 2,
        app: 0,
        conv: conv.as_bytes().to_vec(),
        first_seq: *seqs.start(),
        last_seq: *seqs.end(),
        member_version: 0,
        epoch: 9,
        router_boot: 1,
        number,
        outbox: 1,
        expires_ms: 0,
        published_us: 0,
        receivers: Receivers::Conns(to.iter().map(|conn| conn.0).collect()),
        frames: seqs
            .map(|seq| BusFrame {
                seq,
                receivers: FrameReceivers::All,
                sender: "alice".to_owned(),
                stamp: 0,
                frame: message(conv, seq, bytes),
            })
            .collect(),
    }
}

pub fn kind(bytes: &[u8]) -> FrameKind {
    Frame::parse(bytes).unwrap().known_kind().unwrap()
}

pub fn reference(bytes: &[u8]) -> u32 {
    Frame::parse(bytes).unwrap().reference
}

pub fn seq_of(bytes: &[u8]) -> u64 {
    Frame::parse(bytes)
        .unwrap()
        .access::<body::ArchivedMessage>()
        .unwrap()
        .seq
        .to_native()
}

/// Reference and code of an `Error` frame.
pub fn error(bytes: &[u8]) -> (u32, ErrorCode) {
    let frame = Frame::parse(bytes).unwrap();
    assert_eq!(
        frame.known_kind(),
        Some(FrameKind::Error),
        "not an error: {frame:?}"
    );
    let code = frame
        .access::<body::ArchivedErrorBody>()
        .unwrap()
        .code
        .to_native();
    (frame.reference, ErrorCode::from_number(code).unwrap())
}

/// (conversation, seq) pairs of a `PullRequired`.
pub fn pull_required(bytes: &[u8]) -> Vec<(Vec<u8>, u64)> {
    let frame = Frame::parse(bytes).unwrap();
    assert_eq!(frame.known_kind(), Some(FrameKind::PullRequired));
    let body = frame.access::<body::ArchivedPullRequired>().unwrap();
    body.upto
        .iter()
        .map(|place| (place.conv.to_vec(), place.seq.to_native()))
        .collect()
}
