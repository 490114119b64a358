//! A user's terminal: what an SDK does, with real frames. Sends go-back-N, syncs from its cursor and pulls what is
//! missing, reads, and comes and goes. Now and then it sends another message under an id that it used before.

use std::collections::{BTreeMap, VecDeque};

use corelane_protocol::frame::body::{
    ArchivedErrorBody, ArchivedMessage, ArchivedPullPage, ArchivedPullRequired, ArchivedReadUpTo,
    ArchivedSendAck, ArchivedSyncPage, ConvSeq, Hello, Pull, Read, Send, Sync, Target,
};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, kind};
use corelane_protocol::id::{ConvId, UserId};
use corelane_protocol::terminal::Terminal as Class;
use corelane_protocol::ws::{Item, Opcode, client_frame};

use crate::rng::Rng;
use crate::world::{Acked, CALM_AT, Event, World};

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
    target: u64,
    is_pulling: bool,
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

#[derive(Debug)]
struct Pending {
    id: [u8; 16],
    kind: u16,
    ref_seq: u64,
    payload: Vec<u8>,
    /// Of the frame that is unanswered; 0: none.
    reference: u32,
}

/// What a terminal wants to say in a conversation, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Pending>,
    /// One was refused: nothing is sent until all are answered and a while has passed.
    has_failed: bool,
    restart: bool,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[derive(Debug)]
enum Asked {
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
    class: Class,
    device: String,
    pub(crate) socket: Option<usize>,
    pub(crate) is_live: bool,
    pub(crate) is_replaced: bool,
    /// It left and does not come back.
    pub(crate) has_left: bool,
    pub(crate) views: BTreeMap<ConvId, View>,
    pub(crate) outgoing: BTreeMap<ConvId, Outgoing>,
    /// Where its last sync ended.
    cursor: Vec<u8>,
    /// Up to where it has read, as the platform has confirmed.
    pub(crate) marks: BTreeMap<ConvId, u64>,
    /// The state of all conversations, in the end.
    pub(crate) looked: Option<BTreeMap<ConvId, Looked>>,
    last_index: u32,
    last_acked: Option<(ConvId, [u8; 16])>,
    last_reference: u32,
    asked: BTreeMap<u32, Asked>,
    window: usize,
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

    fn ask(&mut self, asked: Asked) -> u32 {
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
        self.users[self.terminals[terminal].owner].clone()
    }

    pub(crate) fn login(&mut self, at: usize) {
        let terminal = &self.terminals[at];
        if terminal.socket.is_some() || terminal.has_left || (self.calm && terminal.is_replaced) {
            return;
        }
        let shard = self.rng.below(self.gateways.len() as u64) as usize;
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

    fn up(&mut self, socket: usize, bytes: Vec<u8>) {
        let delay = self.delay();
        let end = &mut self.sockets[socket];
        end.up_at = (self.now + delay).max(end.up_at + 1);
        let arrives = end.up_at;
        self.at_time(arrives, Event::Bytes(socket, bytes));
    }

    fn up_frame(&mut self, socket: usize, frame: &[u8]) {
        let mut bytes = Vec::new();
        client_frame(Opcode::Binary, frame, [7, 1, 250, 3], &mut bytes);
        self.up(socket, bytes);
    }

    /// The terminal gives its connection up: tells so, or just is not there any more.
    fn leave(&mut self, at: usize, is_told: bool) {
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

    pub(crate) fn say(&mut self, at: usize, conv: ConvId) {
        let time = self.clock().wall_ms.to_be_bytes();
        let length = self.rng.between(8, 300) as usize;
        let wants_control = self.rng.chance(150);
        let terminal = &mut self.terminals[at];
        let seen = terminal.views.get(&conv).map_or(0, View::complete_upto);
        let (kind, ref_seq) = if wants_control && seen > 0 {
            (kind::REACTION, seen)
        } else {
            (kind::TEXT, 0)
        };
        terminal.last_index += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&time[2..]);
        (id[6], id[7], id[8]) = (0x70, terminal.index as u8, 0x80);
        id[12..].copy_from_slice(&terminal.last_index.to_be_bytes());
        let pending = Pending {
            id,
            kind,
            ref_seq,
            payload: vec![b'a' + (terminal.last_index % 26) as u8; length],
            reference: 0,
        };
        terminal
            .outgoing
            .entry(conv)
            .or_default()
            .queue
            .push_back(pending);
        self.counts.said += 1;
        self.pump(at);
    }

    /// Sends what the window allows.
    fn pump(&mut self, at: usize) {
        let terminal = &mut self.terminals[at];
        let Some(socket) = terminal.socket.filter(|_| terminal.is_live) else {
            return;
        };
        let mut frames = Vec::new();
        let all = terminal.outgoing.values().flat_map(|outgoing| &outgoing.queue);
        let mut free = terminal
            .window
            .saturating_sub(all.filter(|pending| pending.reference != 0).count());
        for (conv, outgoing) in &mut terminal.outgoing {
            if outgoing.has_failed {
                continue;
            }
            for pending in outgoing.queue.iter_mut().filter(|pending| pending.reference == 0) {
                if free == 0 {
                    break;
                }
                free -= 1;
                terminal.last_reference += 1;
                pending.reference = terminal.last_reference;
                terminal
                    .asked
                    .insert(pending.reference, Asked::Send(conv.clone()));
                let send = Send {
                    target: Target::Conv(conv.as_bytes().to_vec()),
                    kind: pending.kind,
                    flags: 0,
                    ref_seq: pending.ref_seq,
                    client_msg_id: pending.id,
                    content_type: 1,
                    payload: pending.payload.clone(),
                };
                let flags = if std::mem::take(&mut outgoing.restart) {
                    frame::flag::RESTART
                } else {
                    0
                };
                frames.push(frame::encode_with(
                    FrameKind::Send,
                    flags,
                    pending.reference,
                    &send,
                    &[],
                ));
            }
        }
        for frame in frames {
            self.up_frame(socket, &frame);
        }
    }

    fn read_all(&mut self, at: usize, socket: usize, conv: &ConvId) {
        let terminal = &mut self.terminals[at];
        let seq = terminal.views.get(conv).map_or(0, View::complete_upto);
        if terminal.is_live && seq > 0 {
            let reference = terminal.ask(Asked::Read);
            let upto = ConvSeq {
                conv: conv.as_bytes().to_vec(),
                seq,
            };
            self.up_frame(socket, &frame::encode(FrameKind::Read, reference, &Read { upto }));
        }
    }

    /// Sends another message under the id of one that is acknowledged.
    fn forge(&mut self, at: usize, socket: usize) {
        let terminal = &mut self.terminals[at];
        let Some((conv, id)) = terminal.last_acked.clone().filter(|_| terminal.is_live) else {
            return;
        };
        let reference = terminal.ask(Asked::Forged);
        let send = Send {
            target: Target::Conv(conv.as_bytes().to_vec()),
            kind: kind::TEXT,
            flags: 0,
            ref_seq: 0,
            client_msg_id: id,
            content_type: 1,
            payload: b"another".to_vec(),
        };
        self.up_frame(socket, &frame::encode(FrameKind::Send, reference, &send));
    }

    /// After a refusal and a pause: from the oldest on.
    pub(crate) fn resend(&mut self, at: usize, conv: &ConvId) {
        if let Some(outgoing) = self.terminals[at].outgoing.get_mut(conv)
            && outgoing.has_failed
            && outgoing.queue.iter().all(|pending| pending.reference == 0)
        {
            (outgoing.has_failed, outgoing.restart) = (false, true);
            self.pump(at);
        }
    }

    pub(crate) fn ask_again(&mut self, at: usize, socket: usize, conv: Option<ConvId>) {
        if self.terminals[at].socket != Some(socket) {
            return;
        }
        match conv {
            None => self.sync(at, socket),
            Some(conv) => self.pull(at, &conv, 0),
        }
    }

    fn sync(&mut self, at: usize, socket: usize) {
        let terminal = &mut self.terminals[at];
        let reference = terminal.ask(Asked::Sync);
        let sync = Sync {
            cursor: terminal.cursor.clone(),
            limit: 200,
        };
        self.up_frame(socket, &frame::encode(FrameKind::Sync, reference, &sync));
    }

    /// Asks for the state of all conversations.
    pub(crate) fn look(&mut self, at: usize) {
        let terminal = &mut self.terminals[at];
        let Some(socket) = terminal.socket.filter(|_| terminal.is_live) else {
            return;
        };
        let reference = terminal.ask(Asked::Look);
        let sync = Sync {
            cursor: Vec::new(),
            limit: 200,
        };
        self.up_frame(socket, &frame::encode(FrameKind::Sync, reference, &sync));
    }

    /// What a terminal knows to be there need not come live.
    fn know(&mut self, at: usize, socket: usize, conv: &ConvId) {
        let upto = self.known_upto(at, conv);
        self.sockets[socket].known.insert(conv.clone(), upto);
    }

    fn known_upto(&self, at: usize, conv: &ConvId) -> u64 {
        let view = self.terminals[at].views.get(conv);
        view.map_or(0, |view| {
            let last = view.seen.keys().next_back().copied().unwrap_or(0);
            view.target.max(last)
        })
    }

    fn synced(&mut self, at: usize, socket: usize, reference: u32, page: &ArchivedSyncPage) {
        let terminal = &mut self.terminals[at];
        let is_look = matches!(terminal.asked.remove(&reference), Some(Asked::Look));
        if !is_look {
            terminal.cursor = page.cursor.to_vec();
        }
        let mut looked = BTreeMap::new();
        for state in page.conversations.iter() {
            let conv = ConvId::parse(&state.conv).expect("a conversation");
            // The last look finds what is missing; it must not mend it.
            if !is_look {
                self.pull(at, &conv, state.head_seq.to_native());
                self.know(at, socket, &conv);
            }
            let state = Looked {
                head_n: state.head_n.to_native(),
                read_seq: state.read_seq.to_native(),
                read_n: state.read_n.to_native(),
            };
            looked.insert(conv, state);
        }
        if is_look {
            self.terminals[at].looked = Some(looked);
            return;
        }
        for (conv, seq) in std::mem::take(&mut self.sockets[socket].owed) {
            let known = self.known_upto(at, &conv);
            if known < seq {
                self.violation(format!(
                    "the sync of terminal {at} at its login told of {conv} up to {known}, there was {seq}"
                ));
            }
        }
    }

    /// There is something up to `upto`: pulls what is missing.
    fn pull(&mut self, at: usize, conv: &ConvId, upto: u64) {
        let terminal = &mut self.terminals[at];
        let Some(socket) = terminal.socket.filter(|_| terminal.is_live) else {
            return;
        };
        let view = terminal.views.entry(conv.clone()).or_default();
        view.target = view.target.max(upto);
        let from_seq = view.complete_upto() + 1;
        if view.is_pulling || view.target < from_seq {
            return;
        }
        view.is_pulling = true;
        let pull = Pull {
            conv: conv.as_bytes().to_vec(),
            from_seq,
            to_seq: u64::MAX,
            limit: 7,
        };
        let reference = terminal.ask(Asked::Pull(conv.clone()));
        self.up_frame(socket, &frame::encode(FrameKind::Pull, reference, &pull));
    }

    pub(crate) fn hangup(&mut self, socket: usize) {
        let at = self.sockets[socket].terminal;
        if self.terminals[at].socket == Some(socket) {
            self.terminals[at].socket = None;
            self.terminals[at].is_live = false;
            let wait = self.rng.between(1_000, 200_000);
            if !self.terminals[at].is_replaced {
                self.after(wait, Event::Login(at));
            }
        }
    }

    pub(crate) fn down(&mut self, socket: usize, mut bytes: Vec<u8>) {
        let end = &mut self.sockets[socket];
        let at = end.terminal;
        if self.terminals[at].socket != Some(socket) {
            return;
        }
        let mut has_upgraded = false;
        if let Some(head) = &mut end.head {
            head.append(&mut bytes);
            let Some(stop) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            bytes = head.split_off(stop + 4);
            assert!(head.starts_with(b"HTTP/1.1 101"), "the upgrade is taken");
            end.head = None;
            has_upgraded = true;
        }
        let (mut frames, mut closed) = (Vec::new(), None);
        let mut items = end.decoder.feed(&mut bytes);
        while let Some(item) = items.next() {
            match item.expect("a shard's frames are in order") {
                Item::Binary(frame) => frames.push(frame.to_vec()),
                Item::Close(said) => closed = Some(said.map_or(1005, |(code, _)| code)),
                Item::Text(_) | Item::Ping(_) | Item::Pong(_) => {}
            }
        }
        if has_upgraded {
            let token = self.user_of(at).as_str().to_owned();
            let terminal = &self.terminals[at];
            let (class, device) = (terminal.class as u8, terminal.device.clone());
            let hello = Hello {
                token,
                terminal: class,
                device,
                epoch: 0,
            };
            self.up_frame(socket, &frame::encode(FrameKind::Hello, 1, &hello));
        }
        for frame in frames {
            self.frame(at, socket, &frame);
        }
        if let Some(code) = closed {
            self.terminals[at].is_replaced = code == 4501;
            self.up(
                socket,
                [&[0x88, 0x82, 0, 0, 0, 0][..], &code.to_be_bytes()].concat(),
            );
        }
    }

    fn frame(&mut self, at: usize, socket: usize, bytes: &[u8]) {
        let frame = Frame::parse(bytes).expect("a server frame");
        match frame.known_kind() {
            Some(FrameKind::Welcome) => {
                self.terminals[at].is_live = true;
                self.counts.logins += 1;
                self.sync(at, socket);
                // What an earlier connection knew to be missing lies before the cursor.
                let convs: Vec<ConvId> = self.terminals[at].views.keys().cloned().collect();
                for conv in convs {
                    self.know(at, socket, &conv);
                    self.pull(at, &conv, 0);
                }
                self.pump(at);
            }
            Some(FrameKind::Message) => self.message(at, socket, bytes, true),
            Some(FrameKind::SendAck) => self.sent_ack(at, socket, &frame),
            Some(FrameKind::Error) => self.refused(at, socket, &frame),
            Some(FrameKind::SyncPage) => {
                self.synced(at, socket, frame.reference, frame.access().expect("a page"));
            }
            Some(FrameKind::ReadUpTo) => {
                self.terminals[at].asked.remove(&frame.reference);
                let mark = frame.access::<ArchivedReadUpTo>().expect("a mark");
                let conv = ConvId::parse(&mark.conv).expect("a conversation");
                let known = self.terminals[at].marks.entry(conv).or_default();
                *known = mark.seq.to_native().max(*known);
                self.counts.read += 1;
            }
            Some(FrameKind::PullPage) => {
                self.terminals[at].asked.remove(&frame.reference);
                let page = frame.access::<ArchivedPullPage>().expect("a page");
                let conv = ConvId::parse(&page.conv).expect("a conversation");
                for message in page.messages.iter() {
                    self.message(at, socket, message, false);
                }
                if let Some(view) = self.terminals[at].views.get_mut(&conv) {
                    view.is_pulling = false;
                }
                self.pull(at, &conv, page.head_seq.to_native());
            }
            Some(FrameKind::PullRequired) => {
                self.counts.pull_required += 1;
                let wanted = frame.access::<ArchivedPullRequired>().expect("places");
                for place in wanted.upto.iter() {
                    let conv = ConvId::parse(&place.conv).expect("a conversation");
                    let seq = place.seq.to_native();
                    let told = self.sockets[socket].told.entry(conv.clone()).or_default();
                    *told = seq.max(*told);
                    self.pull(at, &conv, seq);
                }
            }
            Some(FrameKind::Resync) => {
                self.counts.resyncs += 1;
                self.sockets[socket].resync_at = self.now;
                let wait = self.rng.below(300_000);
                self.after(wait, Event::AskAgain(at, socket, None));
            }
            _ => {}
        }
    }

    fn message(&mut self, at: usize, socket: usize, bytes: &[u8], is_live: bool) {
        let frame = Frame::parse(bytes).expect("a message");
        let message = frame.access::<ArchivedMessage>().expect("a message");
        let conv = ConvId::parse(&message.conv).expect("a conversation");
        let (seq, id) = (message.seq.to_native(), message.client_msg_id);
        let user = self.user_of(at);
        if is_live && !self.store.may_see(&conv, &user, seq) {
            self.violation(format!("{user} got {conv} {seq} and is not in it"));
        }
        if is_live {
            self.counts.live += 1;
            let since = self.sockets[socket].since;
            let seqs = self.sockets[socket].live.entry(conv.clone()).or_default();
            let is_doubled = seqs.contains(&seq) && self.restarted_at < since;
            let is_reordered = seqs.last().is_some_and(|last| *last > seq)
                && self.restarted_at < since
                && self.bus_disturbed_at < since;
            seqs.push(seq);
            if is_doubled {
                self.violation(format!(
                    "{conv} {seq} came twice to {user} ({at}) on one connection"
                ));
            }
            if is_reordered {
                self.violation(format!(
                    "{conv} {seq} came late to {user} ({at}) on one connection"
                ));
            }
        }
        let counts = kind::is_countable(message.kind.to_native(), message.flags.to_native());
        let view = self.terminals[at].views.entry(conv.clone()).or_default();
        if view
            .seen
            .insert(seq, (id, counts))
            .is_some_and(|(known, _)| known != id)
        {
            self.violation(format!("{conv} {seq} is two messages for {user} ({at})"));
        }
        if is_live {
            self.pull(at, &conv, seq);
        }
    }

    fn sent_ack(&mut self, at: usize, socket: usize, frame: &Frame<'_>) {
        let conv = match self.terminals[at].asked.remove(&frame.reference) {
            Some(Asked::Send(conv)) => conv,
            Some(Asked::Forged) => {
                return self.violation(format!(
                    "terminal {at} got an ack for another message under a known id"
                ));
            }
            _ => return self.violation(format!("terminal {at} got an ack for ref {}", frame.reference)),
        };
        let seq = frame.access::<ArchivedSendAck>().expect("an ack").seq.to_native();
        let outgoing = self.terminals[at].outgoing.entry(conv.clone()).or_default();
        let place = outgoing
            .queue
            .iter()
            .position(|pending| pending.reference == frame.reference);
        let Some(pending) = place.and_then(|place| outgoing.queue.remove(place)) else {
            return;
        };
        self.counts.acked += 1;
        self.sockets[socket]
            .acks
            .entry(conv.clone())
            .or_default()
            .insert(seq);
        let view = self.terminals[at].views.entry(conv.clone()).or_default();
        view.seen
            .insert(seq, (pending.id, kind::is_countable(pending.kind, 0)));
        self.terminals[at].last_acked = Some((conv.clone(), pending.id));
        self.acked.push(Acked {
            conv: conv.clone(),
            terminal: at,
            id: pending.id,
            seq,
            payload: pending.payload,
        });
        self.pull(at, &conv, seq);
        self.answered(at, &conv);
        self.pump(at);
    }

    fn refused(&mut self, at: usize, socket: usize, frame: &Frame<'_>) {
        let code = frame
            .access::<ArchivedErrorBody>()
            .expect("an error")
            .code
            .to_native();
        let is_retryable = ErrorCode::from_number(code).is_none_or(ErrorCode::is_retryable);
        let wait = self.rng.between(2_000, 150_000);
        match self.terminals[at].asked.remove(&frame.reference) {
            Some(Asked::Sync) => self.after(wait, Event::AskAgain(at, socket, None)),
            Some(Asked::Look) => self.after(wait, Event::Look(at)),
            Some(Asked::Forged) if code == ErrorCode::Conflict as u16 => self.counts.conflicts += 1,
            Some(Asked::Pull(conv)) => {
                let view = self.terminals[at].views.entry(conv.clone()).or_default();
                view.is_pulling = false;
                if is_retryable {
                    self.after(wait, Event::AskAgain(at, socket, Some(conv)));
                } else {
                    view.target = 0;
                }
            }
            Some(Asked::Send(conv)) => {
                self.counts.refused += 1;
                let outgoing = self.terminals[at].outgoing.entry(conv.clone()).or_default();
                let place = outgoing
                    .queue
                    .iter()
                    .position(|pending| pending.reference == frame.reference);
                if let Some(pending) = place.and_then(|place| outgoing.queue.get_mut(place)) {
                    pending.reference = 0;
                }
                if is_retryable {
                    outgoing.has_failed = true;
                } else if let Some(place) = place {
                    outgoing.queue.remove(place);
                }
                self.answered(at, &conv);
                self.pump(at);
            }
            // The last: late, the gateway had given it up.
            Some(Asked::Forged | Asked::Read) | None => {}
        }
    }

    /// When the last unanswered send of a conversation that failed is answered, it starts again after a pause.
    fn answered(&mut self, at: usize, conv: &ConvId) {
        let outgoing = self.terminals[at].outgoing.entry(conv.clone()).or_default();
        if outgoing.has_failed && outgoing.queue.iter().all(|pending| pending.reference == 0) {
            let wait = self.rng.between(1_000, 100_000);
            self.after(wait, Event::Resend(at, conv.clone()));
        }
    }
}
