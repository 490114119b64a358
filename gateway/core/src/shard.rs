//! One shard's rules: the state, and the way from each input to the file that knows what to do with it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use corelane_protocol::arena::Arena;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::codec::LinkError;
use corelane_protocol::time::Now;

use crate::config::ShardConfig;
use crate::consume::Consumer;
use crate::deliver::Encoded;
use crate::drain::Drain;
use crate::event::{Input, Output, ShardMessage};
use crate::links::Links;
use crate::memory::Memory;
use crate::metrics::ShardMetrics;
use crate::outbound::BacklogPool;
use crate::planted::Bug;
use crate::proxy::ProxyRefusal;
use crate::session::Walks;
use crate::table::Table;
use crate::waiting::Waiting;
use crate::wheel::{Tick, Wheel, tick_at};
use crate::window::Windows;

/// The rules of one shard of a gateway.
///
/// The caller feeds what happened to [`Shard::handle`] and carries out what is appended to its `outputs`, in their
/// order. After the inputs of a turn it feeds [`Input::TurnEnded`]; frames leave only then. When
/// [`Shard::next_deadline`] has passed it feeds [`Input::DeadlineReached`]. Between calls nothing is pending but
/// what these two will bring.
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    /// Number of this shard.
    pub(crate) number: u16,
    pub(crate) now: Now,
    pub(crate) tick: Tick,
    pub(crate) outputs: Vec<Output>,
    pub(crate) conns: Table,
    pub(crate) wheel: Wheel,
    /// Connections with something to flush.
    pub(crate) listed: Vec<ConnId>,
    /// Connections whose held bytes may be used now.
    pub(crate) unblocked: Vec<ConnId>,
    pub(crate) arenas: Arenas,
    /// Backlogs that wait for their next use.
    pub(crate) backlogs: BacklogPool,
    pub(crate) scratch: Vec<u8>,
    pub(crate) memory: Memory,
    pub(crate) addresses: HashMap<u32, IpAddr>,
    pub(crate) per_address: HashMap<IpAddr, u32>,
    /// The last one, until somebody takes it.
    pub(crate) proxy_refusal: Option<ProxyRefusal>,
    pub(crate) waiting: Waiting,
    pub(crate) windows: Windows,
    pub(crate) links: Links,
    pub(crate) consumer: Consumer,
    pub(crate) walks: Walks,
    pub(crate) drain: Drain,
    pub(crate) owner_seq: u64,
    pub(crate) metrics: ShardMetrics,
    pub(crate) inputs: u64,
    /// Reused between records.
    pub(crate) encoded: Vec<Encoded>,
    /// Reused between records.
    pub(crate) gone: Vec<u64>,
    /// Reused between deadlines.
    pub(crate) fired: Vec<u32>,
}

/// Where frames are written. Apart by encoding, so that what goes to the same receivers lies side by side.
#[derive(Debug, Default)]
pub(crate) struct Arenas {
    /// Frames for many, binary.
    pub(crate) frames: Arena,
    /// Frames for many, JSON.
    pub(crate) texts: Arena,
    /// Frames for one.
    pub(crate) own: Arena,
}

impl Shard {
    /// Shard number `shard` of a gateway.
    pub fn new(config: ShardConfig, shard: u16, now: Now) -> Self {
        let tick = tick_at(now.mono);
        Self {
            links: Links::new(&config.routers, config.cluster_id, now.mono),
            config,
            number: shard,
            now,
            tick,
            outputs: Vec::new(),
            conns: Table::new(shard),
            wheel: Wheel::new(tick),
            listed: Vec::new(),
            unblocked: Vec::new(),
            arenas: Arenas::default(),
            backlogs: Vec::new(),
            scratch: Vec::new(),
            memory: Memory::default(),
            addresses: HashMap::new(),
            per_address: HashMap::new(),
            proxy_refusal: None,
            waiting: Waiting::default(),
            windows: Windows::default(),
            consumer: Consumer::default(),
            walks: Walks::default(),
            drain: Drain::default(),
            owner_seq: 0,
            metrics: ShardMetrics::default(),
            inputs: 0,
            encoded: Vec::new(),
            gone: Vec::new(),
            fired: Vec::new(),
        }
    }

    /// Applies one input at `now`, appending what must be done to `outputs`.
    ///
    /// `now` must not be earlier than in the previous call.
    pub fn handle(&mut self, now: Now, input: Input<'_>, outputs: &mut Vec<Output>) {
        self.now = now;
        self.tick = tick_at(now.mono);
        std::mem::swap(&mut self.outputs, outputs);
        match input {
            Input::Accepted(conn, accepted) => self.accept(conn, accepted),
            Input::Received(conn, bytes) => self.receive(conn, bytes),
            Input::PeerClosed(conn) => self.peer_closed(conn),
            Input::Sent(conn) => self.sent(conn),
            Input::Closed(conn) => self.closed(conn),
            Input::Verified(conn, verdict) => self.verified(conn, verdict),
            Input::LinkConnected(link, nonce) => self.link_connected(link, nonce),
            Input::LinkReceived(link, bytes) => self.link_received(link, bytes),
            Input::LinkSent(link) => self.link_sent(link),
            Input::LinkClosed(link) => self.link_closed(link),
            Input::FromShard(ShardMessage::Record(record)) => self.take_handed_over(&record),
            Input::FromShard(ShardMessage::Overflowed(conn)) => self.overflowed(conn),
            Input::FromShard(ShardMessage::OverflowedAll) if Bug::OverflowIgnored.is_planted() => {}
            Input::FromShard(ShardMessage::OverflowedAll) => self.resync_all(),
            Input::FromShard(ShardMessage::Fetched {
                boot,
                partition,
                from,
                lost,
                records,
            }) => self.take_fetched(boot, partition, from, lost, &records),
            Input::FromShard(ShardMessage::TopicLost(boot)) => self.topic_lost(boot),
            Input::DeadlineReached => self.deadline_reached(),
            Input::TurnEnded => self.turn_ended(),
            Input::Drain => self.begin_drain(),
            Input::NewBoot(boot) => self.new_boot(boot),
        }
        self.settle_memory();
        self.read_unblocked();
        self.check();
        std::mem::swap(&mut self.outputs, outputs);
    }

    /// When [`Input::DeadlineReached`] is wanted, on the clock of [`Now::mono`]. It may be in the past.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.walks.are_pending() || !self.listed.is_empty() {
            return Some(self.now.mono);
        }
        [
            self.wheel.next_deadline(),
            self.links.next_deadline(),
            self.consumer.next_deadline(),
            self.waiting.next_deadline(),
            self.windows.next_deadline(),
            self.drain.next_deadline(),
            self.walks.next_deadline(),
            self.next_check(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What was counted.
    pub fn metrics(&self) -> &ShardMetrics {
        &self.metrics
    }

    /// What happened so far that somebody may wait for: everything but heartbeats.
    pub const fn traffic(&self) -> u64 {
        let counted = &self.metrics;
        counted.decode_frames - counted.heartbeat_pings
            + counted.echo_messages
            + counted.consume_records
            + counted.handshake_upgraded
    }

    /// Whether there is a home: a router that sessions can be claimed at.
    pub fn is_linked(&self) -> bool {
        self.links.home.is_some()
    }

    /// Why a router could not be talked to, the last time and once: for the log.
    pub fn take_link_error(&mut self) -> Option<LinkError> {
        self.links.error.take()
    }

    /// Who was last refused for his PROXY header or the lack of one, once: for the log.
    pub const fn take_proxy_refusal(&mut self) -> Option<ProxyRefusal> {
        self.proxy_refusal.take()
    }

    fn deadline_reached(&mut self) {
        self.fire_timers();
        self.expire_waiting();
        self.expire_unanswered();
        self.tend_links();
        self.tend_drain();
    }

    fn turn_ended(&mut self) {
        self.tend_links();
        self.walk();
        self.tend_fetches();
        self.report_consumed();
        self.tend_drain();
        // What was held may be used before frames leave, so that its answers leave with them.
        self.read_unblocked();
        self.flush();
        self.flush_links();
        self.finish_drain();
        self.gauge();
    }

    fn gauge(&mut self) {
        self.metrics.connections = self.conns.len() as u64;
        self.metrics.sessions = self.conns.sessions() as u64;
        self.metrics.queued_bytes = self.memory.bytes();
        self.metrics.forward_waiting = self.waiting.len() as u64;
        self.metrics.links = self.links.established() as u64;
    }
}
