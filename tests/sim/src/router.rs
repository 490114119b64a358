//! The shell of the router in virtual time: far ends of links, ports with their delays and faults, and its death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelane_gateway_core::event::{Input as ShardInput, LinkId};
use corelane_protocol::bus;
use corelane_protocol::frame::body::{ConvSeq, PullPage, PullRequired, ReadUpTo, SyncPage};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::read::{self, Place, PullView};
use corelane_protocol::frame::{self, Frame, FrameKind, encode, encode_error, kind};
use corelane_protocol::hash::partition_of;
use corelane_protocol::id::{ClientMsgId, ConnId, ConvId, UserId};
use corelane_protocol::link::body::{
    ArchivedBounce, ArchivedBusFetch, ArchivedClaim, ArchivedConsumed, ArchivedUnclaim, BusBatch, Claimed,
    Kick, Renewed,
};
use corelane_protocol::link::codec::{LinkCodec, LinkEvent, LinkRole, PeerInfo};
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_router_core::append::{Append, Batch, Committed, MemberChange};
use corelane_router_core::event::{Input, LaneList, Origin, Output, Recovered, Route, Submission};
use corelane_router_core::{Notice, RouterCore};

use crate::pause::LEASE_US;
use crate::ports::{Partition, Registry, Session};
use crate::store::{APP, Left};
use crate::world::{Event, LANES, PARTITIONS, World, secret};

/// Commits of a lane that wait with their messages while lookups fail now and then.
const PUBLICATIONS_MAX: usize = 3;

/// A link between a shard and one life of the router.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) shard: usize,
    pub(crate) id: LinkId,
    pub(crate) is_up: bool,
    life: u32,
    codec: LinkCodec,
    peer: Option<PeerInfo>,
    pub(crate) in_at: u64,
    out_at: u64,
    /// Claims and unclaims are carried out in order.
    session_at: u64,
    /// Claims that hold a route, until all are made.
    claimed: Option<BTreeSet<(u64, u64)>>,
    /// Open fetches: next offset and credit left.
    fetches: BTreeMap<u16, (u64, u64)>,
}

impl Link {
    /// Boot of its gateway.
    pub(crate) fn boot(&self) -> Option<u64> {
        self.peer.as_ref().map(|peer| peer.boot)
    }
}

/// What the core asks a port.
#[derive(Debug)]
pub(crate) enum Question {
    Members(u64, ConvId, u64),
    Routes(u64, Vec<UserId>),
    Rows(u64, Vec<u64>),
}

/// What a client asks.
#[derive(Debug)]
pub(crate) struct Request {
    user: UserId,
    conn: u64,
    reference: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Sync(Vec<u8>),
    Pull(PullView),
    Read(Place),
}

/// A record, owned.
struct Taken {
    kind: RecordKind,
    user: String,
    terminal: u8,
    device: String,
    conn: u64,
    reference: u32,
    deadline_ms: u32,
    body: Vec<u8>,
}

impl World {
    pub(crate) fn boot(&self) -> u64 {
        9000 + u64::from(self.life)
    }

    pub(crate) fn link_of(&self, shard: usize, id: LinkId) -> Option<usize> {
        self.links
            .iter()
            .rposition(|link| link.shard == shard && link.id == id)
    }

    /// The link of a connection's shard.
    fn link_to(&self, boot: u64, shard: u16) -> Option<usize> {
        self.links.iter().rposition(|link| {
            link.is_up
                && link
                    .peer
                    .as_ref()
                    .is_some_and(|peer| peer.boot == boot && peer.shard == shard)
        })
    }

    pub(crate) fn start_router(&mut self) {
        self.life += 1;
        self.restarted_at = self.now;
        self.registry = Registry::default();
        self.topics.clear();
        self.rows_wait.clear();
        self.left_conns.clear();
        let mut core = RouterCore::new(self.boot(), 7, LANES, PARTITIONS);
        if self.faults.lookups {
            // So few that lanes are behind in this short time.
            core.keep_publications(PUBLICATIONS_MAX);
        }
        let mut outputs = Vec::new();
        let left = self.store.left();
        self.locate_from = if left.is_empty() { 0 } else { self.now + 500_000 };
        for left in left {
            core.handle(self.clock(), Input::Recovered(recovered(left)), &mut outputs);
        }
        let alone = LaneList::alone(u64::from(self.life), LANES);
        core.handle(self.clock(), Input::Lanes(alone), &mut outputs);
        self.core = Some(core);
        self.carry_out(outputs);
        self.after(0, Event::Reap(self.life));
    }

    pub(crate) fn crash_router(&mut self) {
        if self.core.take().is_none() {
            return;
        }
        self.counts.crashes += 1;
        self.restarted_at = self.now;
        for link in 0..self.links.len() {
            self.cut(link);
        }
        let down = self.rng.between(1_000, 600_000);
        self.after(down, Event::Restart);
    }

    pub(crate) fn cut(&mut self, at: usize) {
        let link = &mut self.links[at];
        if !link.is_up {
            return;
        }
        link.is_up = false;
        self.counts.cuts += 1;
        let (shard, id) = (link.shard, link.id);
        let notice = self.delay();
        self.after(notice, Event::LinkLost(shard, id));
    }

    pub(crate) fn link_up(&mut self, shard: usize, id: LinkId) {
        if self.core.is_none() {
            return self.shard_input(shard, ShardInput::LinkClosed(id));
        }
        let info = PeerInfo {
            node: "router".to_owned(),
            boot: self.boot(),
            epoch: 7,
            lanes: LANES,
            partitions: PARTITIONS,
            registry_incarnation: u64::from(self.life),
            ..PeerInfo::default()
        };
        let mut nonce = [9; 16];
        nonce[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        let codec = LinkCodec::new(LinkRole::Router, info, secret(), nonce);
        self.links.push(Link {
            shard,
            id,
            is_up: true,
            life: self.life,
            codec,
            peer: None,
            in_at: 0,
            out_at: 0,
            session_at: 0,
            claimed: Some(BTreeSet::new()),
            fetches: BTreeMap::new(),
        });
        nonce[0] ^= 1;
        self.shard_input(shard, ShardInput::LinkConnected(id, nonce));
    }

    pub(crate) fn link_in(&mut self, at: usize, bytes: &[u8]) {
        let link = &mut self.links[at];
        if !link.is_up {
            return;
        }
        let (mut taken, mut peer) = (Vec::new(), None);
        let fed = link.codec.feed(bytes, &mut |event| match event {
            LinkEvent::Established(info) => peer = Some(info.clone()),
            LinkEvent::Record(record) => taken.extend(record.known_kind().map(|kind| Taken {
                kind,
                user: record.user.to_owned(),
                terminal: record.terminal,
                device: record.device.to_owned(),
                conn: record.conn,
                reference: record.reference,
                deadline_ms: record.deadline_ms,
                body: record.body.to_vec(),
            })),
            LinkEvent::Room => {}
        });
        fed.expect("a shard speaks the link's language");
        if let Some(peer) = peer {
            self.link_proved(at, peer);
        }
        let Some(boot) = self.links[at].boot() else {
            return;
        };
        // Whatever is heard is a sign of life.
        if !self.registry.renew(boot, self.now + LEASE_US) {
            self.say_alive(at, 0, false);
        }
        for record in taken {
            self.record(at, boot, &record);
        }
    }

    fn link_proved(&mut self, at: usize, peer: PeerInfo) {
        let boot = peer.boot;
        // What older links of the shard asked for is done first.
        let shard = self.links[at].shard;
        let older = self.links.iter().filter(|link| link.shard == shard);
        let session_at = older.map(|link| link.session_at).max().unwrap_or(0);
        self.links[at].session_at = session_at;
        self.links[at].peer = Some(peer);
        if self.registry.join(boot, self.now + LEASE_US) {
            for partition in 0..PARTITIONS {
                self.topics.entry((boot, partition)).or_default();
            }
        }
    }

    fn say_alive(&mut self, at: usize, reference: u32, alive: bool) {
        let body = frame::archive(&Renewed { alive });
        self.push(at, RecordKind::Renewed, 0, 0, reference, &body);
    }

    fn record(&mut self, at: usize, boot: u64, record: &Taken) {
        match record.kind {
            RecordKind::ClientFrame => self.client_frame(at, boot, record),
            RecordKind::Claim | RecordKind::Unclaim | RecordKind::ClaimsDone => {
                self.session(at, boot, record);
            }
            RecordKind::ConnClosed => self.core_input(self.life, Input::ConnClosed(boot, record.conn)),
            RecordKind::Consumed => self.consumed(boot, &record.body),
            RecordKind::Bounce => {
                let body = frame::access::<ArchivedBounce>(&record.body).expect("a bounce");
                let conv = ConvId::parse(&body.conv).expect("a conversation");
                let gone = body
                    .conns
                    .iter()
                    .filter_map(|conn| self.left_conns.get(&(boot, conn.to_native())));
                let users: Vec<UserId> = gone.cloned().collect();
                self.counts.bounces += 1;
                let (delay, seq) = (self.delay(), body.seq.to_native());
                self.after(delay, Event::Bounced(self.life, conv, seq, users));
            }
            RecordKind::BusFetch => {
                let body = frame::access::<ArchivedBusFetch>(&record.body).expect("a fetch");
                let fetch = (body.from.to_native(), u64::from(body.credit_bytes.to_native()));
                if self.trace {
                    eprintln!(
                        "          {boot} fetches {}, from and credit {fetch:?}",
                        body.partition
                    );
                }
                self.links[at].fetches.insert(body.partition.to_native(), fetch);
                self.serve(at);
            }
            RecordKind::Renew => {
                let alive = self.registry.renew(boot, self.now + LEASE_US);
                self.say_alive(at, record.reference, alive);
            }
            _ => {}
        }
    }

    fn client_frame(&mut self, at: usize, boot: u64, record: &Taken) {
        let user = UserId::new(&record.user).expect("a user");
        let parsed = Frame::parse(&record.body).expect("the gateway checked it");
        let (conn, reference) = (record.conn, record.reference);
        if parsed.known_kind() == Some(FrameKind::Send) {
            let view = read::send(&parsed).expect("the gateway checked it");
            let append = Append {
                app: APP,
                conv: view.target.conv_for(&user).expect("the gateway checked it"),
                sender: user,
                client_msg_id: view.client_msg_id,
                kind: view.kind,
                flags: view.flags,
                ref_seq: view.ref_seq,
                content_type: view.content_type,
                payload: view.payload.to_vec(),
                extensions: Vec::new(),
                origin_terminal: record.terminal,
                origin_device: record.device.clone(),
                members: MemberChange::default(),
                check_member: true,
                moves_read_mark: true,
            };
            let now_ms = self.clock().mono.as_millis() as u64;
            let submission = Submission {
                origin: Origin::Client {
                    boot,
                    conn,
                    reference,
                },
                append,
                restart: view.restart,
                deadline_ms: now_ms + u64::from(record.deadline_ms),
                stamp: 0,
            };
            return self.core_input(self.life, Input::Submit(submission));
        }
        let what = match parsed.known_kind() {
            Some(FrameKind::Pull) => What::Pull(read::pull(&parsed).expect("checked")),
            Some(FrameKind::Read) => What::Read(read::read(&parsed).expect("checked")),
            _ => What::Sync(read::sync(&parsed).expect("checked").cursor.to_vec()),
        };
        let delay = self.delay();
        self.after(
            delay,
            Event::Request(
                at,
                Request {
                    user,
                    conn,
                    reference,
                    what,
                },
            ),
        );
    }

    pub(crate) fn answer_request(&mut self, at: usize, request: &Request) {
        if !self.links[at].is_up {
            return;
        }
        let refused = || encode_error(request.reference, ErrorCode::NotMember, "not a member");
        let frame = match &request.what {
            What::Sync(cursor) => {
                let (cursor, conversations) = self.store.sync(&request.user, cursor, self.store_ms());
                let page = SyncPage {
                    cursor,
                    more: false,
                    conversations,
                };
                encode(FrameKind::SyncPage, request.reference, &page)
            }
            What::Pull(view) => self.pulled(request, view).unwrap_or_else(refused),
            What::Read(place) => self.read(at, request, place).unwrap_or_else(refused),
        };
        self.push(
            at,
            RecordKind::ServerFrame,
            2,
            request.conn,
            request.reference,
            &frame,
        );
    }

    fn pulled(&self, request: &Request, view: &PullView) -> Option<Vec<u8>> {
        let upto = self.store.readable_upto(&view.conv, &request.user)?;
        let wanted = self.store.range(&view.conv, view.from_seq, view.to_seq.min(upto));
        let limit = usize::from(view.limit);
        let page = PullPage {
            conv: view.conv.as_bytes().to_vec(),
            next_seq: wanted.get(limit).map_or(0, |(seq, _)| *seq),
            head_seq: upto,
            head_n: upto,
            floor_seq: 0,
            messages: wanted.into_iter().take(limit).map(|(_, frame)| frame).collect(),
        };
        Some(encode(FrameKind::PullPage, request.reference, &page))
    }

    /// Moves a read mark, and tells the user's other terminals.
    fn read(&mut self, at: usize, request: &Request, place: &Place) -> Option<Vec<u8>> {
        let ((seq, n), moved) = self.store.read(&place.conv, &request.user, place.seq)?;
        let body = ReadUpTo {
            conv: place.conv.as_bytes().to_vec(),
            whose: request.user.as_str().to_owned(),
            seq,
            n,
        };
        if moved {
            let boot = self.links[at].peer.as_ref().map_or(0, |peer| peer.boot);
            let mut routes: Vec<Route> = self.registry.routes(&request.user).iter().map(route).collect();
            routes.retain(|route| (route.boot, route.conn) != (boot, request.conn));
            let frame = encode(FrameKind::ReadUpTo, 0, &body);
            self.notify(
                self.links[at].life,
                place.conv.clone(),
                request.user.clone(),
                routes,
                frame,
            );
        }
        Some(encode(FrameKind::ReadUpTo, request.reference, &body))
    }

    fn session(&mut self, at: usize, boot: u64, record: &Taken) {
        let delay = self.delay() * 3;
        let link = &mut self.links[at];
        link.session_at = (self.now + delay).max(link.session_at + 1);
        let when = link.session_at;
        if record.kind == RecordKind::ClaimsDone {
            return self.at_time(when, Event::ClaimsDone(at));
        }
        let user = UserId::new(&record.user).expect("a user");
        let mut session = Session {
            boot,
            conn: record.conn,
            terminal: record.terminal,
            device: record.device.clone(),
            owner_seq: 0,
            issued_at_s: 0,
            again: false,
        };
        if record.kind == RecordKind::Claim {
            let body = frame::access::<ArchivedClaim>(&record.body).expect("a claim");
            session.owner_seq = body.owner_seq.to_native();
            session.issued_at_s = body.issued_at_s.to_native();
            session.again = body.again;
            self.at_time(when, Event::Claim(at, user, session));
        } else {
            let body = frame::access::<ArchivedUnclaim>(&record.body).expect("an unclaim");
            session.owner_seq = body.owner_seq.to_native();
            self.at_time(when, Event::Unclaim(at, user, session));
        }
    }

    /// A link that is lost meanwhile does not stop what its records asked for; the end of the router does.
    fn is_of_this_life(&self, at: usize) -> bool {
        self.core.is_some() && self.links[at].life == self.life
    }

    pub(crate) fn claim(&mut self, at: usize, user: &UserId, session: Session) {
        if !self.is_of_this_life(at) {
            return;
        }
        let (conn, owner_seq) = (session.conn, session.owner_seq);
        // A claim that was made again may come when the session is welcome already.
        let is_held = self
            .registry
            .routes(user)
            .iter()
            .any(|held| held.is_route(&session));
        if !is_held
            && !session.again
            && let Some(socket) = self.socket_at(session.boot, ConnId(conn))
        {
            self.sockets[socket].owed = self.store.places(user);
        }
        let (refused_code, kicks) = match self.registry.claim(user, session) {
            Ok(kicks) => {
                if let Some(claimed) = &mut self.links[at].claimed {
                    claimed.insert((conn, owner_seq));
                }
                (0, kicks)
            }
            Err(code) => (code, Vec::new()),
        };
        for kick in kicks {
            self.counts.kicks += 1;
            let body = frame::archive(&Kick {
                code: 4501,
                owner_seq: kick.owner_seq,
            });
            if let Some(link) = self.link_to(kick.boot, ConnId(kick.conn).shard()) {
                self.push(link, RecordKind::Kick, 0, kick.conn, 0, &body);
            }
        }
        let body = frame::archive(&Claimed {
            owner_seq,
            refused_code,
        });
        self.push(at, RecordKind::Claimed, 0, conn, 0, &body);
    }

    pub(crate) fn unclaim(&mut self, at: usize, user: UserId, session: &Session) {
        if !self.is_of_this_life(at) {
            return;
        }
        if let Some(claimed) = &mut self.links[at].claimed {
            claimed.remove(&(session.conn, session.owner_seq));
        }
        self.registry.unclaim(&user, session);
        self.left_conns.insert((session.boot, session.conn), user);
    }

    /// Routes that were not claimed on this link are of sessions that ended without a word.
    pub(crate) fn claims_done(&mut self, at: usize) {
        let claimed = self.links[at].claimed.take();
        let (Some(claimed), true) = (claimed, self.is_of_this_life(at)) else {
            return;
        };
        let Some(peer) = self.links[at].peer.as_ref() else {
            return;
        };
        let (boot, shard) = (peer.boot, peer.shard);
        for (user, conn) in self.registry.keep_only(boot, shard, &claimed) {
            self.left_conns.insert((boot, conn), user);
        }
    }

    fn consumed(&mut self, boot: u64, body: &[u8]) {
        let body = frame::access::<ArchivedConsumed>(body).expect("a report");
        if body.router_boot.to_native() != self.boot() {
            return;
        }
        let (partition, number) = (body.partition.to_native(), body.number.to_native());
        if let Some(topic) = self.topics.get_mut(&(boot, partition)) {
            topic.consumed(number);
        }
        for waits in self.rows_wait.values_mut() {
            waits.retain(|(b, p, n)| *b != boot || *p != partition || *n > number);
        }
        let gaps: Vec<u64> = body.gaps.iter().map(|gap| gap.to_native()).collect();
        if self.trace {
            eprintln!("          {boot} has consumed {number} of {partition}, gaps {gaps:?}");
        }
        self.core_input(
            self.life,
            Input::Consumed {
                boot,
                partition,
                number,
                gaps,
            },
        );
    }

    pub(crate) fn bounced(&mut self, life: u32, conv: ConvId, seq: u64, mut users: Vec<UserId>) {
        users.dedup();
        let Some(sender) = users.first().cloned().filter(|_| life == self.life) else {
            return;
        };
        let sessions = users.iter().flat_map(|user| self.registry.routes(user));
        let routes: Vec<Route> = sessions.map(route).collect();
        let upto = vec![ConvSeq {
            conv: conv.as_bytes().to_vec(),
            seq,
        }];
        let frame = encode(FrameKind::PullRequired, 0, &PullRequired { upto });
        self.notify(life, conv, sender, routes, frame);
    }

    /// A frame that is not stored goes to these sessions.
    fn notify(&mut self, life: u32, conv: ConvId, sender: UserId, routes: Vec<Route>, frame: Vec<u8>) {
        if routes.is_empty() {
            return;
        }
        let notice = Notice {
            app: APP,
            conv,
            class: bus::class::CONTROL,
            priority: 0,
            expires_ms: 0,
            sender,
            routes,
            frame,
        };
        self.core_input(life, Input::Notice(notice));
    }

    /// A record for every partition, so that a gateway without sessions, too, sees a number behind what was lost.
    pub(crate) fn call_all_partitions(&mut self) {
        let (class, priority) = (bus::class::TRANSIENT, 3);
        let sender = self.users[0].clone();
        for (boot, partition) in self.topics.keys().copied().collect::<Vec<_>>() {
            let is_there = |conv: &&ConvId| partition_of(APP, conv, PARTITIONS) == partition;
            let Some(conv) = self.store.convs.keys().find(is_there).cloned() else {
                continue;
            };
            let notice = Notice {
                app: APP,
                conv,
                class,
                priority,
                expires_ms: 0,
                sender: sender.clone(),
                routes: vec![Route { boot, conn: u64::MAX }],
                frame: encode_error(0, ErrorCode::Retry, "nobody reads this"),
            };
            self.core_input(self.life, Input::Notice(notice));
        }
    }

    pub(crate) fn core_input(&mut self, life: u32, input: Input) {
        if life != self.life {
            return;
        }
        if let Input::GatewayGone(boot) = &input {
            for waits in self.rows_wait.values_mut() {
                waits.retain(|(owner, _, _)| owner != boot);
            }
        }
        let now = self.clock();
        let Some(core) = self.core.as_mut() else { return };
        let mut outputs = Vec::new();
        core.handle(now, input, &mut outputs);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Answer(
                    Origin::Client {
                        boot,
                        conn,
                        reference,
                    },
                    frame,
                ) => {
                    if let Some(link) = self.link_to(boot, ConnId(conn).shard()) {
                        self.push(link, RecordKind::ServerFrame, 0, conn, reference, &frame);
                    }
                }
                Output::Persist(batch) => {
                    let delay = self.delay() * 2;
                    self.after(delay, Event::Apply(self.life, batch, self.store_ms()));
                }
                Output::LoadMembers(ticket, _, conv, since) => {
                    let delay = self.delay();
                    self.after(
                        delay,
                        Event::Ask(self.life, Question::Members(ticket, conv, since)),
                    );
                }
                Output::Locate(ticket, _, users) => {
                    let when = (self.now + self.delay()).max(self.locate_from);
                    self.at_time(when, Event::Ask(self.life, Question::Routes(ticket, users)));
                }
                Output::ReadRows(ticket, _, rows) => {
                    let delay = self.delay();
                    self.after(delay, Event::Ask(self.life, Question::Rows(ticket, rows)));
                }
                Output::Publish {
                    boot,
                    partition,
                    number,
                    record,
                    ..
                } => {
                    self.publish(boot, partition, number, record);
                }
                Output::ClearOutbox(rows) => self.clear(&rows),
                // Nobody asks through the API, and nobody is beside it.
                Output::Answer(Origin::Api(_), _) | Output::Drained(_) => {}
                Output::LookAtRouters => self.violation("a lone router looks for others".to_owned()),
            }
        }
    }

    fn clear(&mut self, rows: &[u64]) {
        for row in rows {
            let waits = self.rows_wait.remove(row).unwrap_or_default();
            if let Some((boot, partition, number)) = waits.first() {
                self.violation(format!(
                    "outbox row {row} is cleared before record {number} of partition {partition} was consumed by {boot}"
                ));
            }
            self.store.outbox.remove(row);
        }
    }

    pub(crate) fn apply(&mut self, life: u32, batch: &Batch, begun_ms: u64) {
        if life != self.life || self.core.is_none() {
            return;
        }
        let is_unknown = self.faults.store && !self.calm && self.rng.chance(30);
        let is_applied = !is_unknown || self.rng.chance(500);
        let mut committed = Committed::Unknown("the answer was lost".to_owned());
        if is_applied {
            let done = self.store.commit(batch, begun_ms, self.now);
            if !is_unknown {
                committed = done;
            }
        }
        if is_unknown {
            self.counts.unknown += 1;
            let wait = self.rng.between(20_000, 400_000);
            // A store whose commits are of unknown outcome does not stay in use: the router starts anew on it.
            self.after(wait, Event::Crash(life));
        }
        let delay = self.delay();
        self.after(delay, Event::Committed(life, batch.lane, committed));
    }

    fn are_lookups_away(&mut self) -> bool {
        if self.calm || !self.faults.lookups {
            return false;
        }
        if self.now >= self.lookups_from && self.rng.chance(10) {
            self.lookups_from = self.now + self.rng.between(100_000, 3_000_000);
        }
        self.now < self.lookups_from
    }

    /// A port reads now and answers later, or fails.
    pub(crate) fn ask(&mut self, life: u32, question: Question) {
        if life != self.life {
            return;
        }
        let (Question::Members(ticket, ..) | Question::Routes(ticket, _) | Question::Rows(ticket, _)) =
            &question;
        let (ticket, delay) = (*ticket, self.delay());
        let is_away = matches!(question, Question::Routes(..)) && self.are_lookups_away();
        if is_away || (!self.calm && self.faults.store && self.rng.chance(50)) {
            let failed = Box::new(Input::Failed(ticket));
            return self.after(delay + 50_000, Event::Core(life, failed));
        }
        let answer = match question {
            Question::Members(_, conv, since) => {
                let (version, stays) = self.store.members(&conv, since);
                Input::Members(ticket, version, stays)
            }
            Question::Routes(_, users) => {
                let routes = |user| self.registry.routes(user).iter().map(route).collect();
                Input::Located(ticket, users.iter().map(routes).collect())
            }
            Question::Rows(_, rows) => {
                self.counts.read_back += rows.len() as u64;
                let read = |row| self.store.row(row).into_iter().map(recovered).collect();
                Input::Rows(ticket, rows.into_iter().map(read).collect())
            }
        };
        self.after(delay, Event::Core(life, Box::new(answer)));
    }

    fn publish(&mut self, boot: u64, partition: u16, number: u64, record: Arc<[u8]>) {
        let (_, read) = bus::read(&record).expect("a record");
        let outbox = read.outbox.to_native();
        if self.trace {
            eprintln!("          publish {number} of {boot}, {partition} for row {outbox}");
        }
        if outbox != 0 {
            if !self.store.outbox.contains_key(&outbox) {
                self.violation(format!(
                    "record {number} of partition {partition} goes to {boot}, and its outbox row {outbox} is cleared"
                ));
            }
            self.rows_wait
                .entry(outbox)
                .or_default()
                .insert((boot, partition, number));
        }
        self.counts.records += 1;
        let life = self.life;
        if self.faults.bus && !self.calm {
            let late = self.rng.between(1_000, 200_000);
            match self.rng.below(20) {
                0 => {
                    // The answer of the first attempt was lost.
                    self.after(
                        late,
                        Event::Append(life, boot, partition, number, Arc::clone(&record)),
                    );
                }
                1 => {
                    self.bus_disturbed_at = self.now + late;
                    return self.after(late, Event::Append(life, boot, partition, number, record));
                }
                2 if self.faults.bus_loses => {
                    self.bus_disturbed_at = u64::MAX;
                    return;
                }
                _ => {}
            }
        }
        self.append(life, boot, partition, number, record);
    }

    pub(crate) fn append(&mut self, life: u32, boot: u64, partition: u16, number: u64, record: Arc<[u8]>) {
        if life != self.life || self.core.is_none() {
            return;
        }
        let waiting = |((owner, _), topic): (&(u64, u16), &Partition)| {
            if *owner == boot { topic.records.len() } else { 0 }
        };
        let waits = self.topics.iter().map(waiting).sum::<usize>();
        let holds_little = self.faults.topic_records_max < usize::MAX;
        let is_full = holds_little && std::mem::take(&mut self.last_overflow);
        if is_full || waits >= self.faults.topic_records_max {
            self.counts.topics_lost += 1;
            let of_boot = |((owner, _), _): &(&(u64, u16), &mut Partition)| *owner == boot;
            self.topics
                .iter_mut()
                .filter(of_boot)
                .for_each(|(_, topic)| topic.drop_all());
            self.after(0, Event::TopicLost(life, boot));
        } else if let Some(topic) = self.topics.get_mut(&(boot, partition)) {
            topic.append(number, record);
        } else {
            // The boot died while the record was on its way.
            return self.after(0, Event::Core(life, Box::new(Input::GatewayGone(boot))));
        }
        for at in 0..self.links.len() {
            if self.links[at].is_up {
                self.serve(at);
            }
        }
    }

    /// Nothing waits for what was published to this boot before.
    pub(crate) fn topic_lost(&mut self, life: u32, boot: u64) {
        if life == self.life {
            for waits in self.rows_wait.values_mut() {
                waits.retain(|(owner, _, _)| *owner != boot);
            }
            self.core_input(life, Input::TopicLost(boot));
        }
    }

    /// What a link fetches and is there.
    fn serve(&mut self, at: usize) {
        let Some(boot) = self.links[at].peer.as_ref().map(|peer| peer.boot) else {
            return;
        };
        for partition in 0..PARTITIONS {
            loop {
                let count = self.rng.between(1, 4) as usize;
                let Some((from, credit)) = self.links[at].fetches.get_mut(&partition) else {
                    break;
                };
                let Some(topic) = self.topics.get(&(boot, partition)) else {
                    break;
                };
                let (first, records, lost) = topic.read(*from, count);
                if (records.is_empty() && !lost) || *credit == 0 {
                    break;
                }
                if self.trace {
                    eprintln!(
                        "          {boot} gets {} of {partition} from {first}, lost: {lost}",
                        records.len()
                    );
                }
                *from = first + records.len() as u64;
                *credit = credit.saturating_sub(records.iter().map(|record| record.len() as u64).sum());
                let body = frame::archive(&BusBatch {
                    partition,
                    from: first,
                    lost,
                    records,
                });
                self.push(at, RecordKind::BusBatch, 2, 0, 0, &body);
            }
        }
    }

    pub(crate) fn push(
        &mut self,
        at: usize,
        kind: RecordKind,
        priority: u8,
        conn: u64,
        reference: u32,
        body: &[u8],
    ) {
        let link = &mut self.links[at];
        if link.is_up {
            let record = Record {
                kind: kind as u8,
                priority,
                conn,
                reference,
                body,
                ..Record::default()
            };
            link.codec
                .push(&record)
                .expect("little is under way, so there is credit");
        }
    }

    /// Sends what was pushed in this turn.
    pub(crate) fn flush_links(&mut self) {
        for at in 0..self.links.len() {
            if !self.links[at].is_up || !self.links[at].codec.has_output() {
                continue;
            }
            let delay = self.delay();
            let link = &mut self.links[at];
            let mut bytes = Vec::new();
            link.codec.output(&mut bytes);
            link.out_at = (self.now + delay).max(link.out_at + 1);
            let arrives = link.out_at;
            self.at_time(arrives, Event::LinkOut(at, bytes));
        }
    }

    /// A backend changes the group.
    pub(crate) fn change_group(&mut self, join: Vec<UserId>, leave: Vec<UserId>, create: bool) {
        let number = self.next_api;
        self.next_api += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.clock().wall_ms.to_be_bytes()[2..]);
        (id[6], id[8]) = (0x7f, 0x80);
        id[9..].copy_from_slice(&number.to_be_bytes()[1..]);
        let append = Append {
            app: APP,
            conv: self.group.clone(),
            sender: UserId::new("backend").expect("a short name"),
            client_msg_id: ClientMsgId(id),
            kind: kind::GROUP_CHANGE,
            flags: 0,
            ref_seq: 0,
            content_type: 1,
            payload: Vec::new(),
            extensions: Vec::new(),
            origin_terminal: 0,
            origin_device: String::new(),
            members: MemberChange { create, join, leave },
            check_member: false,
            moves_read_mark: false,
        };
        let deadline_ms = self.clock().mono.as_millis() as u64 + 5_000;
        let origin = Origin::Api(number);
        let submission = Submission {
            origin,
            append,
            restart: true,
            deadline_ms,
            stamp: 0,
        };
        self.core_input(self.life, Input::Submit(submission));
    }
}

fn recovered((outbox, lane, conv, frames): Left) -> Recovered {
    Recovered {
        outbox,
        lane,
        app: APP,
        conv,
        frames,
    }
}

fn route(session: &Session) -> Route {
    Route {
        boot: session.boot,
        conn: session.conn,
    }
}
