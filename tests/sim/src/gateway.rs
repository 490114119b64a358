//! The shell of the shards in virtual time: sockets, links' near ends, inboxes, deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use corelane_gateway_core::event::{Accepted, Claims, Input, LinkId, Output, ShardMessage};
use corelane_protocol::id::{AppId, ConnId, ConvId, UserId};
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::ws::{Decoder, Role};

use crate::planted::Bug;
use crate::world::{Event, Gateway, World};

/// One connection, both ends.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) shard: usize,
    pub(crate) conn: ConnId,
    pub(crate) terminal: usize,
    pub(crate) since: u64,
    /// The shard's end is gone.
    pub(crate) is_gone: bool,
    in_flight: bool,
    closing: bool,
    paused: bool,
    held: Vec<u8>,
    pub(crate) up_at: u64,
    pub(crate) down_at: u64,
    /// The client does not read before.
    pub(crate) stuck_until: u64,
    // What the client knows of it.
    pub(crate) head: Option<Vec<u8>>,
    pub(crate) decoder: Decoder,
    pub(crate) live: BTreeMap<ConvId, Vec<u64>>,
    pub(crate) acks: BTreeMap<ConvId, BTreeSet<u64>>,
    /// Places that the client knew of before they came, by a sync or from an earlier connection.
    pub(crate) known: BTreeMap<ConvId, u64>,
    /// It was told to pull up to here.
    pub(crate) told: BTreeMap<ConvId, u64>,
    /// When it was last told to sync.
    pub(crate) resync_at: u64,
    /// What was in the log when its route was claimed: its first sync tells of that.
    pub(crate) owed: BTreeMap<ConvId, u64>,
}

impl World {
    /// A client connects.
    pub(crate) fn accept(&mut self, shard: usize, terminal: usize) -> usize {
        let gateway = &mut self.gateways[shard];
        let free = gateway.free_slots.pop();
        self.counts.reused_slots += u64::from(free.is_some());
        let (slot, generation) = free.unwrap_or_else(|| {
            gateway.next_slot += 1;
            (gateway.next_slot - 1, 1)
        });
        let conn = ConnId::new(gateway.number, slot, generation);
        self.sockets.push(Socket {
            shard,
            conn,
            terminal,
            since: self.now,
            is_gone: false,
            in_flight: false,
            closing: false,
            paused: false,
            held: Vec::new(),
            up_at: 0,
            down_at: 0,
            stuck_until: 0,
            head: Some(Vec::new()),
            decoder: Decoder::new(Role::Client, 4 * 1024 * 1024),
            live: BTreeMap::new(),
            acks: BTreeMap::new(),
            known: BTreeMap::new(),
            told: BTreeMap::new(),
            resync_at: 0,
            owed: BTreeMap::new(),
        });
        let socket = self.sockets.len() - 1;
        self.happen(Event::Accepted(socket));
        socket
    }

    pub(crate) fn accepted(&mut self, at: usize) {
        let (shard, conn) = (self.sockets[at].shard, self.sockets[at].conn);
        let accepted = Accepted {
            listener: 0,
            kind: ListenerKind::Plain,
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            reserve: false,
        };
        self.shard_input(shard, Input::Accepted(conn, accepted));
    }

    fn socket_of(&self, shard: usize, conn: ConnId) -> Option<usize> {
        self.sockets
            .iter()
            .rposition(|socket| socket.shard == shard && socket.conn == conn)
    }

    pub(crate) fn socket_at(&self, boot: u64, conn: ConnId) -> Option<usize> {
        let mut shards = 0..self.gateways.len();
        let shard = shards
            .find(|shard| self.boot_of(*shard) == boot && self.gateways[*shard].number == conn.shard())?;
        self.socket_of(shard, conn)
    }

    pub(crate) fn shard_input(&mut self, shard: usize, input: Input<'_>) {
        let now = self.clock();
        let mut outputs = Vec::new();
        let gateway = &mut self.gateways[shard];
        gateway.dirty = true;
        gateway.shard.handle(now, input, &mut outputs);
        for output in outputs {
            self.shard_output(shard, output);
        }
    }

    fn shard_output(&mut self, shard: usize, output: Output) {
        match output {
            Output::Send(conn, span) => {
                let Some(at) = self.socket_of(shard, conn) else {
                    return;
                };
                let delay = self.delay();
                let socket = &mut self.sockets[at];
                assert!(
                    !socket.in_flight && !socket.is_gone,
                    "one send at a time, of a socket that is there"
                );
                socket.in_flight = true;
                let left_at = (self.now + delay / 4).max(socket.stuck_until);
                self.at_time(left_at, Event::Left(at, span.to_vec()));
            }
            Output::Close(conn) | Output::Abort(conn) => {
                let Some(at) = self.socket_of(shard, conn) else {
                    return;
                };
                let socket = &mut self.sockets[at];
                socket.closing = true;
                if !socket.in_flight || matches!(output, Output::Abort(_)) {
                    self.after(50, Event::SocketGone(at));
                }
            }
            Output::PauseReceive(conn) => {
                if let Some(at) = self.socket_of(shard, conn) {
                    self.sockets[at].paused = true;
                }
            }
            Output::ResumeReceive(conn) => {
                if let Some(at) = self.socket_of(shard, conn) {
                    self.sockets[at].paused = false;
                    self.after(0, Event::Bytes(at, Vec::new()));
                }
            }
            Output::Verify(conn, token) => {
                let claims = Claims {
                    app: AppId(0),
                    user: UserId::new(&token).expect("tokens are names here"),
                    terminal: None,
                    device: None,
                    expires_at_s: 4_000_000_000,
                    issued_at_s: self.clock().wall_ms / 1000,
                    scopes: Vec::new(),
                };
                self.shard_input(shard, Input::Verified(conn, Ok(claims)));
            }
            Output::LinkConnect(id, address) => {
                let delay = self.delay();
                self.after(delay, Event::LinkUp(shard, id, address));
            }
            Output::LinkSend(id, span) => self.link_send(shard, id, span.to_vec()),
            Output::LinkClose(id) => {
                if let Some(link) = self.link_of(shard, id) {
                    self.links[link].is_up = false;
                }
                self.after(100, Event::LinkLost(shard, id));
            }
            Output::ToShard(number, message) => self.to_shard(shard, number, message),
            Output::BootLost(boot) => self.boot_lost(shard, boot),
            Output::Fetch {
                boot,
                partition,
                from,
                credit_bytes,
            } => self.fetch_apart(shard, boot, partition, from, u64::from(credit_bytes)),
            Output::Drained => {}
        }
    }

    fn to_shard(&mut self, from: usize, number: u16, message: ShardMessage) {
        let process = self.gateways[from].process;
        let is_wanted = |gateway: &Gateway| gateway.process == process && gateway.number == number;
        let Some(to) = self.gateways.iter().position(is_wanted) else {
            return;
        };
        let message = match message {
            ShardMessage::Record(record) if self.faults.readers && !self.calm && self.rng.chance(20) => {
                // The inbox is full.
                self.counts.inbox_overflows += 1;
                drop(record);
                ShardMessage::OverflowedAll
            }
            other => other,
        };
        let wait = self.rng.between(10, 2_000);
        self.to_inbox_after(to, wait, message);
    }

    /// The reader of the bus has something for a shard.
    pub(crate) fn to_inbox(&mut self, shard: usize, message: ShardMessage) {
        let delay = self.delay();
        self.to_inbox_after(shard, delay, message);
    }

    /// Messages arrive in their order.
    fn to_inbox_after(&mut self, shard: usize, wait: u64, message: ShardMessage) {
        let arrives = (self.now + wait).max(self.gateways[shard].inbox_at + 1);
        self.gateways[shard].inbox_at = arrives;
        self.at_time(arrives, Event::Inbox(shard, message));
    }

    pub(crate) fn inbox(&mut self, shard: usize, message: ShardMessage) {
        self.shard_input(shard, Input::FromShard(message));
    }

    pub(crate) fn wake(&mut self, shard: usize) {
        if self.gateways[shard].wake_at > self.now {
            // An earlier deadline came between, and this one was set again if it still stands. (One that passed while
            // the process stood still is due.)
            return;
        }
        self.gateways[shard].wake_at = u64::MAX;
        self.shard_input(shard, Input::DeadlineReached);
    }

    /// Ends the turns of the shards that something happened to, and has them woken at their deadlines.
    pub(crate) fn end_turns(&mut self) {
        for shard in 0..self.gateways.len() {
            if !self.gateways[shard].dirty {
                continue;
            }
            self.shard_input(shard, Input::TurnEnded);
            let gateway = &mut self.gateways[shard];
            gateway.dirty = false;
            let Some(deadline) = gateway.shard.next_deadline() else {
                continue;
            };
            let start = crate::world::at(0).mono;
            let wanted = (deadline.saturating_sub(start).as_micros() as u64).max(self.now) + 100;
            if wanted < gateway.wake_at {
                gateway.wake_at = wanted;
                self.at_time(wanted, Event::Wake(shard));
            }
        }
        self.flush_links();
    }

    pub(crate) fn bytes(&mut self, at: usize, bytes: Vec<u8>) {
        let socket = &mut self.sockets[at];
        socket.held.extend(bytes);
        if socket.is_gone || socket.paused || socket.held.is_empty() {
            return;
        }
        let mut bytes = std::mem::take(&mut socket.held);
        let (shard, conn) = (socket.shard, socket.conn);
        self.shard_input(shard, Input::Received(conn, &mut bytes));
    }

    pub(crate) fn fin(&mut self, at: usize) {
        let socket = &self.sockets[at];
        if !socket.is_gone {
            let (shard, conn) = (socket.shard, socket.conn);
            self.shard_input(shard, Input::PeerClosed(conn));
        }
    }

    pub(crate) fn left(&mut self, at: usize, bytes: Vec<u8>) {
        let delay = self.delay();
        let socket = &mut self.sockets[at];
        if socket.is_gone {
            return;
        }
        socket.in_flight = false;
        socket.down_at = (self.now + delay).max(socket.down_at + 1);
        let (arrives, shard, conn, closing) = (socket.down_at, socket.shard, socket.conn, socket.closing);
        self.at_time(arrives, Event::Down(at, bytes));
        self.shard_input(shard, Input::Sent(conn));
        if closing {
            self.after(50, Event::SocketGone(at));
        }
    }

    pub(crate) fn socket_gone(&mut self, at: usize) {
        let delay = self.delay();
        let socket = &mut self.sockets[at];
        if socket.is_gone {
            return;
        }
        socket.is_gone = true;
        let (shard, conn) = (socket.shard, socket.conn);
        let arrives = (self.now + delay).max(socket.down_at + 1);
        self.at_time(arrives, Event::Hangup(at));
        self.shard_input(shard, Input::Closed(conn));
        // The next one to come gets the slot: what is under way to this connection must not reach him.
        let generation = conn.generation() + u32::from(!Bug::SlotReusedEarly.is_planted());
        self.gateways[shard].free_slots.push((conn.slot(), generation));
    }

    fn link_send(&mut self, shard: usize, id: LinkId, bytes: Vec<u8>) {
        let Some(at) = self.link_of(shard, id) else { return };
        let delay = self.delay();
        let link = &mut self.links[at];
        link.in_at = (self.now + delay).max(link.in_at + 1);
        let arrives = link.in_at;
        self.at_time(arrives, Event::LinkIn(at, bytes));
        self.after(delay / 2, Event::LinkSent(shard, id));
    }

    pub(crate) fn link_sent(&mut self, shard: usize, id: LinkId) {
        if self.link_of(shard, id).is_some_and(|link| self.links[link].is_up) {
            self.shard_input(shard, Input::LinkSent(id));
        }
    }

    pub(crate) fn link_out(&mut self, at: usize, bytes: &[u8]) {
        let link = &self.links[at];
        if link.is_up {
            let (shard, id) = (link.shard, link.id);
            self.shard_input(shard, Input::LinkReceived(id, bytes));
        }
    }

    pub(crate) fn link_lost(&mut self, shard: usize, id: LinkId) {
        self.shard_input(shard, Input::LinkClosed(id));
    }
}
