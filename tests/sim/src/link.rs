//! Far ends of links: handshake, records in and out, and how a link ends.

use std::collections::{BTreeMap, BTreeSet};

use corelane_gateway_core::event::{Input as ShardInput, LinkId};
use corelane_protocol::frame;
use corelane_protocol::id::{ConvId, UserId};
use corelane_protocol::link::body::{ArchivedBounce, ArchivedBusFetch, ArchivedConsumed};
use corelane_protocol::link::codec::{LinkCodec, LinkEvent, LinkRole, PeerInfo};
use corelane_protocol::link::handshake::feature;
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_router_core::event::Input;

use crate::lease::LEASE_US;
use crate::router::{EPOCH, boot_of};
use crate::world::{Event, PARTITIONS, World, secret};

/// A link between a shard and one life of a router.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) shard: usize,
    pub(crate) id: LinkId,
    pub(crate) is_up: bool,
    pub(crate) life: u32,
    codec: LinkCodec,
    pub(crate) peer: Option<PeerInfo>,
    pub(crate) in_at: u64,
    pub(crate) out_at: u64,
    /// Claims and unclaims are carried out in order.
    pub(crate) session_at: u64,
    /// Claims that hold a route, until all are made.
    pub(crate) claimed: Option<BTreeSet<(u64, u64)>>,
    /// The registry's, when it came up.
    pub(crate) incarnation: u64,
    /// No routes are compared before.
    pub(crate) compare_from: u64,
    /// Open fetches: next offset and credit left.
    pub(crate) fetches: BTreeMap<u16, (u64, u64)>,
}

impl Link {
    /// Boot of its gateway.
    pub(crate) fn boot(&self) -> Option<u64> {
        self.peer.as_ref().map(|peer| peer.boot)
    }
}

/// A record, owned.
pub(crate) struct Taken {
    pub(crate) kind: RecordKind,
    pub(crate) user: String,
    pub(crate) terminal: u8,
    pub(crate) device: String,
    pub(crate) conn: u64,
    pub(crate) reference: u32,
    pub(crate) deadline_ms: u32,
    /// Of `ClaimsDone`: up to which claim.
    pub(crate) stamp: u64,
    pub(crate) body: Vec<u8>,
}

impl World {
    pub(crate) fn link_of(&self, shard: usize, id: LinkId) -> Option<usize> {
        self.links
            .iter()
            .rposition(|link| link.shard == shard && link.id == id)
    }

    /// The link of one life of a router to a connection's shard.
    pub(crate) fn link_to(&self, life: u32, boot: u64, shard: u16) -> Option<usize> {
        self.links.iter().rposition(|link| {
            link.is_up
                && link.life == life
                && link
                    .peer
                    .as_ref()
                    .is_some_and(|peer| peer.boot == boot && peer.shard == shard)
        })
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

    pub(crate) fn link_up(&mut self, shard: usize, id: LinkId, address: &str) {
        let open = self.routers.iter().find(|router| router.node == address);
        let Some(router) = open.filter(|router| router.is_open()) else {
            return self.shard_input(shard, ShardInput::LinkClosed(id));
        };
        let is_apart = self.shape.is_cluster();
        let info = PeerInfo {
            node: router.node.to_owned(),
            boot: boot_of(router.life),
            epoch: EPOCH,
            lanes: self.shape.lanes(),
            partitions: PARTITIONS,
            registry_incarnation: router.incarnation,
            features: if is_apart {
                feature::BUS_APART | feature::OWNED
            } else {
                0
            },
            ..PeerInfo::default()
        };
        let (life, incarnation) = (router.life, router.incarnation);
        let mut nonce = [9; 16];
        nonce[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        let codec = LinkCodec::new(LinkRole::Router, info, secret(), nonce);
        self.links.push(Link {
            shard,
            id,
            is_up: true,
            life,
            codec,
            peer: None,
            in_at: 0,
            out_at: 0,
            session_at: 0,
            claimed: Some(BTreeSet::new()),
            incarnation,
            compare_from: 0,
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
                stamp: record.stamp,
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
        if self.renew(at, boot) == Some(false) {
            self.say_alive(at, 0, false);
        }
        for record in taken {
            self.record(at, boot, &record);
        }
    }

    fn link_proved(&mut self, at: usize, peer: PeerInfo) {
        let (boot, number, life) = (peer.boot, peer.shard, self.links[at].life);
        let Some(router) = self.router_at(at) else { return };
        if !self.asks(router) {
            return self.cut(at);
        }
        // What older links of the shard asked this router for is done first.
        let shard = self.links[at].shard;
        let older = self.links.iter();
        let older = older.filter(|link| link.shard == shard && link.life == life);
        let session_at = older.map(|link| link.session_at).max().unwrap_or(0);
        self.links[at].session_at = session_at;
        self.links[at].peer = Some(peer);
        let is_apart = self.shape.is_cluster();
        if is_apart && !self.topics.contains_key(&(boot, 0)) {
            return self.give_up(life, boot);
        }
        if self.registry.join(boot, self.now + LEASE_US) && !is_apart {
            for partition in 0..PARTITIONS {
                self.topics.entry((boot, partition)).or_default();
            }
        }
        self.send_kicks(router, at, boot, number);
        self.tell_list(at);
    }

    fn record(&mut self, at: usize, boot: u64, record: &Taken) {
        let life = self.links[at].life;
        match record.kind {
            RecordKind::ClientFrame => self.client_frame(at, boot, record),
            RecordKind::Claim
            | RecordKind::Unclaim
            | RecordKind::Owned
            | RecordKind::ClaimsBegin
            | RecordKind::ClaimsDone
            | RecordKind::Leave => {
                self.session(at, boot, record);
            }
            RecordKind::ConnClosed => self.core_input(life, Input::ConnClosed(boot, record.conn)),
            RecordKind::Consumed => self.consumed(at, boot, &record.body),
            RecordKind::Bounce => self.bounce(at, boot, &record.body),
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
                if let Some(alive) = self.renew(at, boot) {
                    self.say_alive(at, record.reference, alive);
                }
            }
            _ => {}
        }
    }

    fn bounce(&mut self, at: usize, boot: u64, body: &[u8]) {
        let Some(router) = self.router_at(at) else { return };
        let body = frame::access::<ArchivedBounce>(body).expect("a bounce");
        let conv = ConvId::parse(&body.conv).expect("a conversation");
        let left = &self.routers[router].left_conns;
        let gone = body
            .conns
            .iter()
            .filter_map(|conn| left.get(&(boot, conn.to_native())));
        let users: Vec<UserId> = gone.cloned().collect();
        self.counts.bounces += 1;
        let (delay, seq) = (self.delay(), body.seq.to_native());
        self.after(delay, Event::Bounced(self.links[at].life, conv, seq, users));
    }

    /// Reports about another router's records, or about an earlier life of this one, mean nothing here.
    fn consumed(&mut self, at: usize, boot: u64, body: &[u8]) {
        let body = frame::access::<ArchivedConsumed>(body).expect("a report");
        let life = self.links[at].life;
        let Some(router) = self.router_at(at) else { return };
        if body.router_boot.to_native() != boot_of(life) {
            return;
        }
        let (partition, number) = (body.partition.to_native(), body.number.to_native());
        if !self.shape.is_cluster()
            && let Some(topic) = self.topics.get_mut(&(boot, partition))
        {
            topic.consumed(number);
        }
        for waits in self.routers[router].rows_wait.values_mut() {
            waits.retain(|(b, p, n)| *b != boot || *p != partition || *n > number);
        }
        let gaps: Vec<u64> = body.gaps.iter().map(|gap| gap.to_native()).collect();
        if self.trace {
            eprintln!("          {boot} has consumed {number} of {partition}, gaps {gaps:?}");
        }
        let consumed = Input::Consumed {
            boot,
            partition,
            number,
            gaps,
        };
        self.core_input(life, consumed);
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

    /// Sends what was pushed in this turn, unless its router stands still.
    pub(crate) fn flush_links(&mut self) {
        for at in 0..self.links.len() {
            if !self.links[at].is_up || !self.links[at].codec.has_output() {
                continue;
            }
            let router = self.router_at(at);
            if router.is_some_and(|router| self.routers[router].still.is_on) {
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
}
