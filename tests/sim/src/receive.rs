//! What comes down to a terminal, and what it asks because of that: it syncs from its cursor, pulls what is missing, reads.

use std::collections::BTreeMap;

use corelane_protocol::frame::body::{
    ArchivedMessage, ArchivedPullPage, ArchivedPullRequired, ArchivedReadUpTo, ArchivedSyncPage, ConvSeq,
    Hello, Pull, Read, Sync,
};
use corelane_protocol::frame::{self, Frame, FrameKind, kind};
use corelane_protocol::id::ConvId;
use corelane_protocol::ws::Item;

use crate::terminal::{Asked, Looked, View};
use crate::world::{Event, World};
impl World {
    pub(crate) fn read_all(&mut self, at: usize, socket: usize, conv: &ConvId) {
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

    pub(crate) fn ask_again(&mut self, at: usize, socket: usize, conv: Option<ConvId>) {
        if self.terminals[at].socket != Some(socket) {
            return;
        }
        match conv {
            None => self.sync(at, socket),
            Some(conv) => self.pull(at, &conv, 0),
        }
    }

    pub(crate) fn sync(&mut self, at: usize, socket: usize) {
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
    pub(crate) fn know(&mut self, at: usize, socket: usize, conv: &ConvId) {
        let upto = self.known_upto(at, conv);
        self.sockets[socket].known.insert(conv.clone(), upto);
    }

    pub(crate) fn known_upto(&self, at: usize, conv: &ConvId) -> u64 {
        let view = self.terminals[at].views.get(conv);
        view.map_or(0, |view| {
            let last = view.seen.keys().next_back().copied().unwrap_or(0);
            view.target.max(last)
        })
    }

    pub(crate) fn synced(&mut self, at: usize, socket: usize, reference: u32, page: &ArchivedSyncPage) {
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
    pub(crate) fn pull(&mut self, at: usize, conv: &ConvId, upto: u64) {
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
            self.told_to_go(at, socket, code);
            self.terminals[at].is_replaced = code == 4501;
            self.up(
                socket,
                [&[0x88, 0x82, 0, 0, 0, 0][..], &code.to_be_bytes()].concat(),
            );
        }
    }

    pub(crate) fn frame(&mut self, at: usize, socket: usize, bytes: &[u8]) {
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

    pub(crate) fn message(&mut self, at: usize, socket: usize, bytes: &[u8], is_live: bool) {
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
            let is_doubled = seqs.contains(&seq) && self.disturbed_at < since;
            let is_reordered = seqs.last().is_some_and(|last| *last > seq)
                && self.disturbed_at < since
                && self.reordered_at < since;
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
}
