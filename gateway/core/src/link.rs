//! link: this shard's way to a router.
//!
//! Owns one link: its codec, its pace of reconnecting (`link_retry`, doubling with jitter up to [`RETRY_MAX`]) and the
//! control records that wait for the end of the turn. A link that says nothing for `link_silence` is given up; leases are
//! renewed (`lease.rs`) more often than that, so that a living router always has something to answer.
//!
//! Control records need no credit and are bounded by the number of connections; what carries payload is bounded by
//! the link's credit and waits in `waiting.rs`.

use std::time::Duration;

use corelane_protocol::arena::Span;
use corelane_protocol::frame;
use corelane_protocol::hash::content_hash;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{
    ArchivedBusBatch, ArchivedClaimed, ArchivedKick, ArchivedRenewed, ArchivedRouterList,
};
use corelane_protocol::link::codec::{LinkCodec, LinkError, LinkEvent, LinkRole, PeerInfo};
use corelane_protocol::link::handshake::feature;
use corelane_protocol::link::record::{Record, RecordKind};

use crate::event::{LinkId, Output};
use crate::lease::Lease;
use crate::shard::Shard;

/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Longest time that an attempt may take, proof included.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// A close that is not answered within this time is not waited for.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Most addresses that are remembered.
const ADDRESSES_MAX: usize = 256;

/// How far the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Down {
        retry_at: Duration,
    },
    Connecting {
        since: Duration,
    },
    Open {
        since: Duration,
    },
    /// The shell was told to close it; `LinkClosed` is awaited.
    Closing {
        since: Duration,
    },
}

/// The link of a shard.
#[derive(Debug)]
pub(crate) struct Link {
    state: State,
    id: LinkId,
    codec: Option<Box<LinkCodec>>,
    /// Encoded control records of this turn.
    outbox: Vec<u8>,
    in_flight: bool,
    attempts: u32,
    addresses: Vec<String>,
    router_list_version: u64,
    shard: u16,
    heard_at: Duration,
    pub(crate) lease: Lease,
    /// What the last router that was reached said of itself.
    router: Option<PeerInfo>,
    /// The cluster that routers must belong to; 0 until one has said.
    cluster_id: u64,
    error: Option<LinkError>,
}

impl Link {
    pub(crate) fn new(addresses: Vec<String>, cluster_id: u64, now: Duration, shard: u16) -> Self {
        Self {
            state: State::Down { retry_at: now },
            id: LinkId(0),
            codec: None,
            outbox: Vec::new(),
            in_flight: false,
            attempts: 0,
            addresses,
            router_list_version: 0,
            shard,
            heard_at: now,
            lease: Lease::default(),
            router: None,
            cluster_id,
            error: None,
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        matches!(self.state, State::Open { .. })
            && self.codec.as_ref().is_some_and(|codec| codec.is_established())
    }

    /// Lanes of the store, while there is a link.
    pub(crate) fn lanes(&self) -> Option<u16> {
        self.router
            .as_ref()
            .filter(|_| self.is_established())
            .map(|router| router.lanes)
    }

    /// Epoch of the log, as last heard.
    pub(crate) fn epoch(&self) -> u64 {
        self.router.as_ref().map_or(0, |router| router.epoch)
    }

    /// Partitions of this gateway's topic.
    pub(crate) fn partitions(&self) -> u16 {
        self.router.as_ref().map_or(0, |router| router.partitions)
    }

    /// Queues a control record; it leaves at the end of the turn, or is forgotten with the link.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        if self.codec.is_some() || matches!(self.state, State::Open { .. }) {
            record.encode(&mut self.outbox);
        }
    }

    /// Whether a frame of `bytes` may be written: there is credit for it, and the lease stands.
    pub(crate) fn has_room_for(&self, bytes: usize, now: Duration) -> bool {
        self.codec
            .as_ref()
            .is_some_and(|codec| codec.is_established() && codec.has_room_for(bytes))
            && self.lease.stands(now)
    }

    /// Writes a record that needs credit.
    pub(crate) fn write(&mut self, record: &Record<'_>) -> bool {
        self.codec
            .as_mut()
            .is_some_and(|codec| codec.push(record).is_ok())
    }

    pub(crate) const fn take_error(&mut self) -> Option<LinkError> {
        self.error.take()
    }

    /// Whether everything has left.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.in_flight
            && self.outbox.is_empty()
            && self.codec.as_ref().is_none_or(|codec| !codec.has_output())
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        match self.state {
            State::Down { retry_at } => {
                (!self.addresses.is_empty() && !self.lease.is_lost()).then_some(retry_at)
            }
            State::Connecting { since } => Some(since + ATTEMPT_MAX),
            State::Open { since } if !self.is_established() => Some(since + ATTEMPT_MAX),
            State::Open { .. } => Some(self.lease.renew_at()),
            State::Closing { since } => Some(since + CLOSE_MAX),
        }
    }

    fn retry_pause(&self, first: Duration) -> Duration {
        let pause = first.saturating_mul(1 << self.attempts.min(8)).min(RETRY_MAX);
        // Shards of one gateway, and gateways that lost the same router, do not come back in step.
        let spread =
            content_hash(&[self.shard.to_le_bytes(), (self.id.0 as u16).to_le_bytes()].concat()) % 512;
        pause / 2 + pause / 1024 * spread as u32
    }
}

impl Shard {
    /// Connects when it is time, and gives up on what is silent.
    pub(crate) fn tend_link(&mut self) {
        let now = self.now.mono;
        match self.link.state {
            State::Down { retry_at }
                if retry_at <= now && !self.drain.is_over() && !self.link.lease.is_lost() =>
            {
                let link = &mut self.link;
                let at = link.attempts as usize % link.addresses.len().max(1);
                let Some(address) = link.addresses.get(at).cloned() else {
                    return;
                };
                link.id = LinkId(link.id.0.wrapping_add(1));
                link.state = State::Connecting { since: now };
                let id = link.id;
                self.outputs.push(Output::LinkConnect(id, address));
            }
            State::Connecting { since } | State::Open { since }
                if !self.link.is_established() && since + ATTEMPT_MAX <= now =>
            {
                self.close_link();
            }
            State::Closing { since } if since + CLOSE_MAX <= now => self.link_closed(self.link.id),
            State::Open { .. } if self.link.is_established() && self.link.lease.renew_at() <= now => {
                if now.saturating_sub(self.link.heard_at) >= self.config.link_silence {
                    return self.close_link();
                }
                self.renew();
            }
            _ => {}
        }
    }

    pub(crate) fn link_connected(&mut self, id: LinkId, nonce: [u8; 16]) {
        if self.link.id != id || !matches!(self.link.state, State::Connecting { .. }) {
            return;
        }
        let info = PeerInfo {
            node: self.config.node.clone(),
            boot: self.config.boot,
            shard: self.number,
            shards: self.config.shards,
            cluster_id: self.link.cluster_id,
            partitions: self.config.bus_partitions,
            features: if self.bus_is_apart() {
                feature::BUS_APART
            } else {
                0
            },
            ..PeerInfo::default()
        };
        let codec = LinkCodec::new(LinkRole::Gateway, info, self.config.link_secret.clone(), nonce);
        self.link.codec = Some(Box::new(codec));
        self.link.state = State::Open { since: self.now.mono };
        self.link.in_flight = false;
        self.link.heard_at = self.now.mono;
    }

    pub(crate) fn link_received(&mut self, id: LinkId, bytes: &[u8]) {
        if self.link.id != id || !matches!(self.link.state, State::Open { .. }) {
            return;
        }
        let Some(mut codec) = self.link.codec.take() else {
            return;
        };
        self.link.heard_at = self.now.mono;
        let mut established = None;
        let fed = codec.feed(bytes, &mut |event| match event {
            LinkEvent::Established(router) => established = Some(router.clone()),
            LinkEvent::Record(record) => self.take_record(&record),
            LinkEvent::Room => {}
        });
        self.link.codec = Some(codec);
        if let Err(error) = fed {
            self.link.error = Some(error);
            self.metrics.link_errors += 1;
            self.close_link();
        } else if let Some(router) = established {
            self.established(router);
        }
        if self.link.lease.is_lost() {
            self.boot_lost();
        }
        self.write_waiting();
    }

    pub(crate) fn link_sent(&mut self, id: LinkId) {
        if self.link.id == id {
            self.link.in_flight = false;
        }
    }

    pub(crate) fn link_closed(&mut self, id: LinkId) {
        if self.link.id != id || matches!(self.link.state, State::Down { .. }) {
            return;
        }
        self.lose_link();
        let pause = self.link.retry_pause(self.config.link_retry);
        self.link.attempts = self.link.attempts.saturating_add(1);
        self.link.state = State::Down {
            retry_at: self.now.mono + pause,
        };
    }

    /// Closes the link, if there is one; the next one is connected after the shortest pause.
    pub(crate) fn leave_link(&mut self) {
        self.link.attempts = 0;
        if matches!(self.link.state, State::Open { .. }) {
            self.close_link();
        }
    }

    pub(crate) fn close_link(&mut self) {
        self.outputs.push(Output::LinkClose(self.link.id));
        self.lose_link();
        self.link.state = State::Closing { since: self.now.mono };
    }

    fn lose_link(&mut self) {
        let was_established = self.link.is_established();
        self.link.codec = None;
        self.link.outbox.clear();
        self.link.in_flight = false;
        if was_established {
            self.metrics.link_lost += 1;
            self.retry_all();
        }
    }

    fn established(&mut self, router: PeerInfo) {
        self.metrics.link_established += 1;
        self.link.attempts = 0;
        if self.link.cluster_id == 0 {
            self.link.cluster_id = router.cluster_id;
        }
        if let State::Open { since } = self.link.state {
            self.link.lease.begin(since, self.config.lease, self.now.mono);
        }
        let before = self.link.router.replace(router);
        let (is_other_boot, has_forgotten) = match (&before, &self.link.router) {
            (Some(before), Some(now)) => (
                before.boot != now.boot,
                before.registry_incarnation != now.registry_incarnation,
            ),
            _ => (false, false),
        };
        self.claim_all(has_forgotten);
        self.fetch_all(is_other_boot);
    }

    fn take_record(&mut self, record: &Record<'_>) {
        let id = ConnId(record.conn);
        match record.known_kind() {
            Some(RecordKind::ServerFrame) => self.answered(id, record.body),
            Some(RecordKind::BusBatch) => {
                if let Ok(batch) = frame::access::<ArchivedBusBatch>(record.body) {
                    self.take_batch(batch);
                }
            }
            Some(RecordKind::Claimed) => {
                if let Ok(claimed) = frame::access::<ArchivedClaimed>(record.body) {
                    self.claimed(id, claimed);
                }
            }
            Some(RecordKind::Kick) => {
                if let Ok(kick) = frame::access::<ArchivedKick>(record.body) {
                    self.kicked(id, kick);
                }
            }
            Some(RecordKind::RouterList) => {
                if let Ok(list) = frame::access::<ArchivedRouterList>(record.body) {
                    self.take_router_list(list);
                }
            }
            Some(RecordKind::Renewed) => {
                if let Ok(renewed) = frame::access::<ArchivedRenewed>(record.body) {
                    self.renewed(record.reference, renewed);
                }
            }
            _ => {}
        }
    }

    fn take_router_list(&mut self, list: &ArchivedRouterList) {
        let version = list.version.to_native();
        if version <= self.link.router_list_version {
            return;
        }
        let addresses: Vec<String> = list
            .routers
            .iter()
            .map(|router| router.address.as_str().to_owned())
            .filter(|address| !address.is_empty())
            .take(ADDRESSES_MAX)
            .collect();
        if !addresses.is_empty() {
            self.link.router_list_version = version;
            self.link.addresses = addresses;
        }
    }

    /// Hands what was gathered for the router to the engine.
    pub(crate) fn flush_link(&mut self) {
        let link = &mut self.link;
        let Some(codec) = link.codec.as_mut() else {
            return;
        };
        if codec.is_established() {
            let mut rest: &[u8] = &link.outbox;
            while let Ok((record, after)) = Record::split(rest) {
                rest = after;
                codec.push(&record).expect("control records need no credit");
            }
            link.outbox.clear();
        }
        if link.in_flight || !codec.has_output() {
            return;
        }
        self.scratch.clear();
        codec.output(&mut self.scratch);
        link.in_flight = true;
        self.outputs
            .push(Output::LinkSend(link.id, Span::copied_from(&self.scratch)));
    }
}
