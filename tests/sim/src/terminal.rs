//! A user's terminal: what an SDK does, with real frames. It comes and goes, says something (`say.rs`), and goes by what
//! comes down to it (`receive.rs`). Now and then it sends another message under an id that it used before.

use std::collections::{BTreeMap, VecDeque};

use corelane_protocol::id::{ConvId, UserId};
use corelane_protocol::terminal::Terminal as Class;
use corelane_protocol::ws::{Opcode, client_frame};

use crate::rng::Rng;
use crate::world::{CALM_AT, Event, World};

/// The terminal that leaves for good.
const PHONE: usize = 5;
/// It does so from here on.
const PHONE_AWAY_FROM: u64 = CALM_AT - 2_000_000;

/// What a terminal knows of a conversation.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Id of the message at each place, and whether it counts as unread.
    pub(crate) seen: BTreeMap<u64, ([u8; 16], bool)>,
    /// There is something up to here.
    pub(crate) target: u64,
    pub(crate) is_pulling: bool,
}

impl View {
    /// Everything up to here is there.
    pub(crate) fn complete_upto(&self) -> u64 {
        (1..)
            .find(|seq| !self.seen.contains_key(seq))
            .map_or(0, |seq| seq - 1)
    }

    /// Messages above a read mark that count.
    pub(crate) fn count_above(&self, read_seq: u64) -> u64 {
        let above = self.seen.range(read_seq + 1..);
        above.filter(|(_, (_, counts))| *counts).count() as u64
    }
}

/// What the platform says of a conversation.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) head_n: u64,
    pub(crate) read_seq: u64,
    pub(crate) read_n: u64,
}

/// A message that is not acknowledged.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: [u8; 16],
    pub(crate) kind: u16,
    pub(crate) ref_seq: u64,
    pub(crate) payload: Vec<u8>,
    /// Of the frame that is unanswered; 0: none.
    pub(crate) reference: u32,
}

/// What a terminal wants to say in a conversation, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) queue: VecDeque<Pending>,
    /// One was refused: nothing is sent until all are answered and a while has passed.
    pub(crate) has_failed: bool,
    pub(crate) restart: bool,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

/// What a frame that is unanswered asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    Send(ConvId),
    /// Another message under a known id.
    Forged,
    Sync,
    /// The sync that tells of everything.
    Look,
    Pull(ConvId),
    Read,
}

/// A terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) index: usize,
    pub(crate) owner: usize,
    pub(crate) class: Class,
    pub(crate) device: String,
    pub(crate) socket: Option<usize>,
    pub(crate) is_live: bool,
    pub(crate) is_replaced: bool,
    /// It left and does not come back.
    pub(crate) has_left: bool,
    pub(crate) views: BTreeMap<ConvId, View>,
    pub(crate) outgoing: BTreeMap<ConvId, Outgoing>,
    /// Where its last sync ended.
    pub(crate) cursor: Vec<u8>,
    /// Up to where it has read, as the platform has confirmed.
    pub(crate) marks: BTreeMap<ConvId, u64>,
    /// The state of all conversations, in the end.
    pub(crate) looked: Option<BTreeMap<ConvId, Looked>>,
    pub(crate) last_index: u32,
    pub(crate) last_acked: Option<(ConvId, [u8; 16])>,
    pub(crate) last_reference: u32,
    pub(crate) asked: BTreeMap<u32, Asked>,
    pub(crate) window: usize,
}

impl Terminal {
    pub(crate) fn new(index: usize, owner: usize, class: Class, device: &str, rng: &mut Rng) -> Self {
        Self {
            index,
            owner,
            class,
            device: device.to_owned(),
            socket: None,
            is_live: false,
            is_replaced: false,
            has_left: false,
            views: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            cursor: Vec::new(),
            marks: BTreeMap::new(),
            looked: None,
            last_index: 0,
            last_acked: None,
            last_reference: 0,
            asked: BTreeMap::new(),
            window: rng.between(1, 8) as usize,
        }
    }

    /// What it waits for, for the text of a violation.
    pub(crate) fn state(&self, conv: &ConvId) -> String {
        let view = self
            .views
            .get(conv)
            .map(|view| (view.complete_upto(), view.target, view.is_pulling));
        format!("complete, target, pulling {view:?}, asked {:?}", self.asked)
    }

    pub(crate) fn ask(&mut self, asked: Asked) -> u32 {
        self.last_reference += 1;
        self.asked.insert(self.last_reference, asked);
        self.last_reference
    }
}

/// Terminal and count of its messages, from an id that [`World::say`] made.
pub(crate) fn origin_of(id: [u8; 16]) -> (u8, u32) {
    let [.., a, b, c, d] = id;
    (id[7], u32::from_be_bytes([a, b, c, d]))
}

impl World {
    pub(crate) fn user_of(&self, terminal: usize) -> UserId {
        self.user_at(terminal).clone()
    }

    pub(crate) fn user_at(&self, terminal: usize) -> &UserId {
        &self.users[self.terminals[terminal].owner]
    }

    pub(crate) fn login(&mut self, at: usize) {
        let terminal = &self.terminals[at];
        if terminal.socket.is_some() || terminal.has_left || (self.calm && terminal.is_replaced) {
            return;
        }
        let shard = self.rng.below(self.gateways.len() as u64) as usize;
        if self.processes[self.gateways[shard].process].is_down {
            // Nobody listens there: another try.
            let wait = self.rng.between(1_000, 50_000);
            return self.after(wait, Event::Login(at));
        }
        let socket = self.accept(shard, at);
        let terminal = &mut self.terminals[at];
        terminal.socket = Some(socket);
        (terminal.is_live, terminal.is_replaced) = (false, false);
        terminal.asked.clear();
        for view in terminal.views.values_mut() {
            view.is_pulling = false;
        }
        for outgoing in terminal.outgoing.values_mut() {
            (outgoing.has_failed, outgoing.restart) = (false, true);
            for pending in &mut outgoing.queue {
                pending.reference = 0;
            }
        }
        let upgrade = "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: corelane.rkyv.v1\r\n\r\n";
        self.up(socket, upgrade.as_bytes().to_vec());
    }

    pub(crate) fn up(&mut self, socket: usize, bytes: Vec<u8>) {
        let delay = self.delay();
        let end = &mut self.sockets[socket];
        end.up_at = (self.now + delay).max(end.up_at + 1);
        let arrives = end.up_at;
        self.at_time(arrives, Event::Bytes(socket, bytes));
    }

    pub(crate) fn up_frame(&mut self, socket: usize, frame: &[u8]) {
        let mut bytes = Vec::new();
        client_frame(Opcode::Binary, frame, [7, 1, 250, 3], &mut bytes);
        self.up(socket, bytes);
    }

    /// The terminal gives its connection up: tells so, or just is not there any more.
    pub(crate) fn leave(&mut self, at: usize, is_told: bool) {
        let Some(socket) = self.terminals[at].socket.take() else {
            return;
        };
        self.terminals[at].is_live = false;
        if is_told {
            let delay = self.delay();
            let arrives = self.sockets[socket].up_at.max(self.now + delay) + 1;
            self.at_time(arrives, Event::Fin(socket));
        }
    }

    /// What a person does.
    pub(crate) fn act(&mut self, at: usize) {
        if self.calm {
            return;
        }
        let wait = self.rng.between(5_000, 150_000);
        self.after(wait, Event::Act(at));
        let Some(socket) = self.terminals[at].socket else {
            if self.rng.chance(300) {
                self.login(at);
            }
            return;
        };
        // One user's phone is put away shortly before all is calm: nothing that comes later takes its route. (Where
        // records are lost it stays, because a loss shows only when something follows.)
        let may_leave = at == PHONE && self.faults.logins && !self.faults.bus_loses;
        if may_leave && self.now > PHONE_AWAY_FROM && self.rng.chance(200) {
            self.terminals[at].has_left = true;
            // Its gateway may find no link to say so on.
            let shard = self.sockets[socket].shard;
            let link = self.links.iter().rposition(|link| link.shard == shard);
            if let Some(link) = link.filter(|_| self.faults.links && self.rng.chance(500)) {
                self.cut(link);
            }
            return self.leave(at, true);
        }
        match self.rng.below(100) {
            0..4 if self.faults.logins => self.leave(at, true),
            4..8 if self.faults.logins => {
                // The same terminal comes by another way; its old connection does not know.
                self.leave(at, false);
                self.login(at);
            }
            8..14 if self.faults.readers => {
                let stall = self.rng.between(50_000, 1_500_000);
                self.sockets[socket].stuck_until = self.now + stall;
            }
            20..75 => {
                let user = self.user_of(at);
                let peers: Vec<UserId> = self.users.iter().filter(|peer| **peer != user).cloned().collect();
                let peer = self.rng.pick(&peers).cloned().unwrap_or(user.clone());
                let owner = self.terminals[at].owner;
                let conv = if owner != 0 && self.rng.chance(500) {
                    self.group.clone()
                } else {
                    ConvId::direct(&user, &peer)
                };
                for _ in 0..self.rng.between(1, 4) {
                    self.say(at, conv.clone());
                }
            }
            75..85 => {
                let convs: Vec<ConvId> = self.terminals[at].views.keys().cloned().collect();
                if let Some(conv) = self.rng.pick(&convs).cloned() {
                    self.read_all(at, socket, &conv);
                }
            }
            85..88 => self.forge(at, socket),
            _ => {}
        }
    }
}
