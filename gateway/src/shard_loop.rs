//! Drives one shard: completions of the engine become inputs of the core, its outputs become operations.
//!
//! Owns the shard's [`Engine`], [`Shard`] and the table from socket to connection. The only file of the
//! gateway that drives the core. Runs as the one task of a glommio executor and never yields to it: the engine's
//! wait is the shard's wait. (Yielding was tried: glommio 0.9 can park the thread for ever although this task
//! is runnable and a periodic timer is armed; eleven of twelve idle shards hung within two minutes.) Whatever is full is
//! answered by the core or by the inbox; nothing here waits for a peer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corelane_gateway_core::event::{Accepted, Input, LinkId, Output, ShardMessage};
use corelane_gateway_core::{Shard, ShardConfig, ShardMetrics};
use corelane_net::{Engine, EngineError, Event, ListenOptions, ListenerId, Socket};
use corelane_protocol::id::ConnId;

use crate::boot::ProcessBoot;
use crate::bus::{BusRequests, Fetch};
use crate::clock::Clock;
use crate::inbox::Inbox;
use crate::resolver::Resolver;
use crate::token::Verifier;

/// Longest wait of a shard: the inbox's drain flag, a new boot and the snapshots are at most this late.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// A shard that saw nothing but heartbeats for this long gathers them.
const QUIET_AFTER: Duration = Duration::from_millis(100);
/// Time between two snapshots of the metrics.
const SNAPSHOT_PACE: Duration = Duration::from_millis(250);
/// Time between two log lines about refused PROXY headers: whoever can connect can cause them.
const REFUSALS_PACE: Duration = Duration::from_secs(10);

/// What a shard is started with.
#[derive(Debug)]
pub struct ShardSetup {
    /// Number of this shard.
    pub shard: u16,
    /// The rules' configuration; its boot is that of the process at the start.
    pub config: ShardConfig,
    /// The listener, bound by the shard's engine.
    pub listen: SocketAddr,
    /// Inboxes of all shards, this one's included, in the order of their numbers.
    pub inboxes: Vec<Inbox>,
    /// The boot of the process.
    pub boot: Arc<ProcessBoot>,
    /// What reads the bus, if that stands apart from the routers.
    pub bus: Option<BusRequests>,
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// Where the shard leaves its figures.
    pub snapshot: Arc<Mutex<Snapshot>>,
    /// How long a quiet shard gathers heartbeats before it wakes up for them.
    pub gather: Duration,
    /// The clock of the process.
    pub clock: Clock,
}

/// Figures of a shard for whoever serves metrics.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counters of the rules.
    pub shard: ShardMetrics,
    /// Counters of the engine.
    pub engine: corelane_net::EngineStats,
    /// Whether the shard has a home: a router that it is linked with and claims its sessions at.
    pub linked: bool,
    /// Whether the shard has drained and ended.
    pub drained: bool,
}

/// Whom a socket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Client(ConnId),
    Link(LinkId),
}

/// One running shard.
pub struct ShardLoop {
    setup: ShardSetup,
    engine: Engine,
    listener: ListenerId,
    core: Shard,
    /// By [`Socket::index`].
    owners: Vec<Option<(Socket, Owner)>>,
    link_sockets: HashMap<LinkId, Socket>,
    resolver: Resolver,
    outputs: Vec<Output>,
    to_shards: Vec<Vec<ShardMessage>>,
    /// The boot that the core has.
    boot: u64,
    /// No refusal is told before.
    refusals_from: Duration,
    drained: bool,
}

impl ShardLoop {
    /// Binds the listener and makes the shard.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: no `io_uring`, or the address is taken.
    pub fn new(setup: ShardSetup, mut engine: Engine) -> Result<Self, EngineError> {
        let options = ListenOptions {
            backlog: 4096,
            reuse_port: true,
            kind: setup.config.listener_kind(),
        };
        let (listener, _) = engine.listen(setup.listen, options)?;
        let core = Shard::new(setup.config.clone(), setup.shard, setup.clock.now());
        let resolver = Resolver::new(engine.waker(), usize::from(setup.shard));
        let to_shards = setup.inboxes.iter().map(|_| Vec::new()).collect();
        Ok(Self {
            boot: setup.config.boot,
            setup,
            engine,
            listener,
            core,
            owners: Vec::new(),
            link_sockets: HashMap::new(),
            resolver,
            outputs: Vec::new(),
            to_shards,
            refusals_from: Duration::ZERO,
            drained: false,
        })
    }

    /// Runs until the shard has drained.
    ///
    /// # Errors
    ///
    /// [`EngineError`] if the rings fail for good; the process cannot go on.
    pub fn run(mut self) -> Result<(), EngineError> {
        let mut events = Vec::new();
        let (mut messages, mut overflowed) = (Vec::new(), Vec::new());
        let mut draining = false;
        let mut snapshot_at = Duration::ZERO;
        let (mut traffic, mut busy_at) = (0, Duration::ZERO);
        while !self.drained {
            let now = self.setup.clock.now().mono;
            if self.core.traffic() != traffic {
                (traffic, busy_at) = (self.core.traffic(), now);
            }
            let is_quiet = now.saturating_sub(busy_at) >= QUIET_AFTER;
            self.engine.gather(if is_quiet {
                self.setup.gather
            } else {
                Duration::ZERO
            });
            let deadline = self.core.next_deadline().unwrap_or(now + WAIT_MAX);
            let wait = deadline.saturating_sub(now).min(WAIT_MAX);
            self.engine.turn(wait, &mut events)?;
            for event in events.drain(..) {
                self.handle_event(event);
            }
            while let Some((link, address)) = self.resolver.take() {
                self.connect_link(link, address);
                self.carry_out();
            }
            let inbox = self.inbox();
            inbox.take(&mut messages, &mut overflowed);
            for message in messages.drain(..) {
                self.handle(Input::FromShard(message));
            }
            for slot in overflowed.drain(..) {
                if let Some(conn) = self.client_at(slot) {
                    self.handle(Input::FromShard(ShardMessage::Overflowed(conn)));
                }
            }
            let boot = self.setup.boot.current();
            if boot != self.boot {
                self.boot = boot;
                self.handle(Input::NewBoot(boot));
            }
            if !draining && inbox.is_draining() {
                draining = true;
                self.engine.stop_listening(self.listener);
                self.handle(Input::Drain);
            }
            let now = self.setup.clock.now().mono;
            if self.core.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.handle(Input::DeadlineReached);
            }
            self.handle(Input::TurnEnded);
            self.flush_shards();
            if now.saturating_sub(snapshot_at) >= SNAPSHOT_PACE {
                snapshot_at = now;
                self.leave_snapshot();
                self.tell_refusal(now);
                if let Some(error) = self.core.take_link_error() {
                    tracing::warn!(shard = self.setup.shard, %error, "a router could not be linked");
                }
            }
        }
        self.leave_snapshot();
        Ok(())
    }

    fn inbox(&self) -> Inbox {
        self.setup
            .inboxes
            .get(usize::from(self.setup.shard))
            .expect("a shard has an inbox of its own")
            .clone()
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Accepted {
                socket,
                kind,
                peer,
                reserve,
                ..
            } => {
                let conn = self.conn_of(socket);
                self.own(socket, Owner::Client(conn));
                let accepted = Accepted {
                    listener: 0,
                    kind,
                    peer,
                    reserve,
                };
                self.handle(Input::Accepted(conn, accepted));
            }
            Event::Connected(socket) => {
                if let Some(Owner::Link(link)) = self.owner(socket) {
                    let mut nonce = [0; 16];
                    getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
                    self.handle(Input::LinkConnected(link, nonce));
                }
            }
            Event::Received(socket, buffer) => {
                let now = self.setup.clock.now();
                let owner = self.owner(socket);
                let bytes = self.engine.received(buffer);
                match owner {
                    Some(Owner::Client(conn)) => {
                        self.core
                            .handle(now, Input::Received(conn, bytes), &mut self.outputs);
                    }
                    Some(Owner::Link(link)) => {
                        self.core
                            .handle(now, Input::LinkReceived(link, bytes), &mut self.outputs);
                    }
                    None => {}
                }
                self.engine.recycle(buffer);
                self.carry_out();
            }
            Event::PeerClosed(socket) => match self.owner(socket) {
                Some(Owner::Client(conn)) => self.handle(Input::PeerClosed(conn)),
                Some(Owner::Link(_)) => self.engine.abort(socket),
                None => {}
            },
            Event::Sent(socket) => match self.owner(socket) {
                Some(Owner::Client(conn)) => self.handle(Input::Sent(conn)),
                Some(Owner::Link(link)) => self.handle(Input::LinkSent(link)),
                None => {}
            },
            Event::Closed(socket, _) => {
                let owner = self.owner(socket);
                if let Some(slot) = self.owners.get_mut(socket.index()) {
                    *slot = None;
                }
                match owner {
                    Some(Owner::Client(conn)) => self.handle(Input::Closed(conn)),
                    Some(Owner::Link(link)) => {
                        self.link_sockets.remove(&link);
                        self.handle(Input::LinkClosed(link));
                    }
                    None => {}
                }
            }
            Event::Woken => {}
        }
    }

    /// One input into the core, and what it asks for.
    fn handle(&mut self, input: Input<'_>) {
        let now = self.setup.clock.now();
        self.core.handle(now, input, &mut self.outputs);
        self.carry_out();
    }

    /// Carries the outputs out. Answers to the core (token verdicts, links that cannot be connected) may add more.
    fn carry_out(&mut self) {
        while !self.outputs.is_empty() {
            let mut outputs = std::mem::take(&mut self.outputs);
            for output in outputs.drain(..) {
                self.carry_out_one(output);
            }
            if self.outputs.is_empty() {
                self.outputs = outputs;
                return;
            }
        }
    }

    fn carry_out_one(&mut self, output: Output) {
        match output {
            Output::Send(conn, span) => {
                if let Some(socket) = self.socket_of(conn) {
                    self.engine.send(socket, span);
                }
            }
            Output::Close(conn) => {
                if let Some(socket) = self.socket_of(conn) {
                    self.engine.close(socket);
                }
            }
            Output::Abort(conn) => {
                if let Some(socket) = self.socket_of(conn) {
                    self.engine.abort(socket);
                }
            }
            Output::PauseReceive(conn) => {
                if let Some(socket) = self.socket_of(conn) {
                    self.engine.pause_receive(socket);
                }
            }
            Output::ResumeReceive(conn) => {
                if let Some(socket) = self.socket_of(conn) {
                    self.engine.resume_receive(socket);
                }
            }
            Output::Verify(conn, token) => {
                let verdict = self.setup.verifier.verify(&token);
                let now = self.setup.clock.now();
                self.core
                    .handle(now, Input::Verified(conn, verdict), &mut self.outputs);
            }
            Output::LinkConnect(link, address) => self.find_router(link, &address),
            Output::LinkSend(link, span) => {
                if let Some(socket) = self.link_sockets.get(&link) {
                    self.engine.send(*socket, span);
                }
            }
            Output::LinkClose(link) => {
                if let Some(socket) = self.link_sockets.get(&link) {
                    self.engine.abort(*socket);
                } else if self.resolver.abandon(link) {
                    self.link_failed(link);
                }
            }
            Output::ToShard(shard, message) => {
                if let Some(batch) = self.to_shards.get_mut(usize::from(shard)) {
                    batch.push(message);
                }
            }
            Output::Fetch {
                boot,
                partition,
                from,
                credit_bytes,
            } => {
                if let Some(bus) = &self.setup.bus {
                    bus.fetch(Fetch {
                        shard: self.setup.shard,
                        boot,
                        partition,
                        from,
                        credit_bytes,
                    });
                }
            }
            Output::BootLost(boot) => self.replace_boot(boot),
            Output::Drained => self.drained = true,
        }
    }

    /// Whichever shard of the process says so first draws the next boot; all of them take it in their next turn. Where
    /// the boot has a topic, that comes first.
    fn replace_boot(&mut self, lost: u64) {
        if let Some(bus) = &self.setup.bus {
            return bus.boot_lost(lost);
        }
        let is_new = self
            .setup
            .boot
            .replace(lost)
            .expect("the kernel gives random bytes");
        if is_new {
            let (lost, boot) = (
                format!("{lost:016x}"),
                format!("{:016x}", self.setup.boot.current()),
            );
            tracing::warn!(
                lost,
                boot,
                "the lease ran out: the gateway goes on under a new boot"
            );
        }
        for inbox in &self.setup.inboxes {
            inbox.wake();
        }
    }

    /// A router by its address, or by a name that must be looked up first.
    fn find_router(&mut self, link: LinkId, address: &str) {
        match address.parse() {
            Ok(to) => self.connect_link(link, Some(to)),
            Err(_) if self.resolver.begin(link, address) => {}
            Err(_) => self.link_failed(link),
        }
    }

    fn connect_link(&mut self, link: LinkId, to: Option<SocketAddr>) {
        let socket = to.and_then(|to| match self.engine.connect(to, None) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%to, %error, "link cannot be connected");
                None
            }
        });
        if let Some(socket) = socket {
            self.link_sockets.insert(link, socket);
            self.own(socket, Owner::Link(link));
        } else {
            self.link_failed(link);
        }
    }

    fn link_failed(&mut self, link: LinkId) {
        let now = self.setup.clock.now();
        self.core.handle(now, Input::LinkClosed(link), &mut self.outputs);
    }

    fn flush_shards(&mut self) {
        for (inbox, batch) in self.setup.inboxes.iter().zip(&mut self.to_shards) {
            if !batch.is_empty() {
                inbox.push(batch.drain(..));
            }
        }
    }

    fn leave_snapshot(&self) {
        let snapshot = Snapshot {
            shard: self.core.metrics().clone(),
            engine: self.engine.stats(),
            linked: self.core.is_linked(),
            drained: self.drained,
        };
        *self.setup.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// Says now and then who was refused: where a proxy is not listed, that is everybody.
    fn tell_refusal(&mut self, now: Duration) {
        if now >= self.refusals_from
            && let Some(refusal) = self.core.take_proxy_refusal()
        {
            self.refusals_from = now + REFUSALS_PACE;
            tracing::warn!(%refusal, "a connection was closed; the metrics count all of them");
        }
    }

    fn conn_of(&self, socket: Socket) -> ConnId {
        let slot = u32::try_from(socket.index()).expect("a shard has below 2^24 slots");
        // Never 0: the id 0 means "no connection" on links and in bus records.
        let generation = socket.generation() % (ConnId::GENERATION_MASK - 1) + 1;
        ConnId::new(self.setup.shard, slot, generation)
    }

    fn own(&mut self, socket: Socket, owner: Owner) {
        let index = socket.index();
        if self.owners.len() <= index {
            self.owners.resize(index + 1, None);
        }
        if let Some(slot) = self.owners.get_mut(index) {
            *slot = Some((socket, owner));
        }
    }

    fn owner(&self, socket: Socket) -> Option<Owner> {
        let (held, owner) = (*self.owners.get(socket.index())?)?;
        (held == socket).then_some(owner)
    }

    fn client_at(&self, slot: u32) -> Option<ConnId> {
        match (*self.owners.get(slot as usize)?)? {
            (_, Owner::Client(conn)) => Some(conn),
            (_, Owner::Link(_)) => None,
        }
    }

    fn socket_of(&self, conn: ConnId) -> Option<Socket> {
        let (socket, owner) = (*self.owners.get(conn.slot() as usize)?)?;
        (owner == Owner::Client(conn)).then_some(socket)
    }
}
