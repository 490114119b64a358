//! What each connection waits for: its window and its gates.
//!
//! Owns, per connection that waits for something, a box with what is unanswered ([`SEND_WINDOW`] sends and
//! [`REQUEST_WINDOW`] requests; when either is full the socket is not read) and the gates that are closed (more than
//! [`GATES_MAX`]: 4007), and the list of all such connections.
//!
//! A *gate* is closed for (connection, conversation) whenever a send is refused here in a way that invites a second
//! try: later sends of that conversation are then refused too, in order, until one with the restart flag comes, so
//! that a terminal's messages never overtake each other; so it is when a router refuses one, because a router that
//! starts anew knows no gates. When a link is lost everything unanswered on it is answered `retry` and its gates close;
//! so is what a router does not answer within twice `send_deadline`, and what is unanswered of a conversation whose lane
//! has moved to another router.

use std::collections::VecDeque;
use std::time::Duration;

use corelane_protocol::frame::body::{ArchivedErrorBody, ArchivedSendAck};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameKind};
use corelane_protocol::hash::content_hash;
use corelane_protocol::id::{ConnId, ConvId};
use corelane_protocol::limits::{GATES_MAX, SEND_WINDOW};
use corelane_protocol::ws::CloseCode;

use crate::deliver::{kind_of, reference_of};
use crate::forward::Outgoing;
use crate::links::{LINKS_MAX, LinkIndex};
use crate::outbound::Lane;
use crate::planted::Bug;
use crate::shard::Shard;
use crate::table::{Conn, Stage};
use crate::wheel::{Tick, ticks_in};

/// Most requests other than sends that may be unanswered at a time.
pub(crate) const REQUEST_WINDOW: usize = 64;
/// Boxes kept for their next use.
const POOLED: usize = 1024;
/// How often a part of all that wait is looked at for silence of the router, and what part: all are within half a second,
/// and no turn is held up by many of them.
const SWEEP_PACE: Duration = Duration::from_millis(50);
const SWEEP_PART: usize = 10;

const _: () = assert!(SEND_WINDOW > 0, "a window of none would send nothing");

/// Whether it is an `Error` after which the same frame may succeed.
fn is_retryable_error(bytes: &[u8]) -> bool {
    let code = Frame::parse(bytes)
        .ok()
        .filter(|frame| frame.known_kind() == Some(FrameKind::Error))
        .and_then(|frame| Some(frame.access::<ArchivedErrorBody>().ok()?.code.to_native()));
    code.and_then(ErrorCode::from_number)
        .is_some_and(ErrorCode::is_retryable)
}

/// What a connection waits for.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Place in the list of all that wait for something.
    position: usize,
    unanswered: VecDeque<Unanswered>,
    /// How many of them are sends.
    sends: usize,
    /// Closed gates, by conversation key.
    gates: Vec<u64>,
}

/// A frame without its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unanswered {
    /// Tells it from another frame with the same reference.
    pub(crate) ticket: u32,
    reference: u32,
    /// Key of the conversation; 0 for requests.
    conv: u64,
    since: Tick,
    /// The link that it is on.
    link: LinkIndex,
    /// Waits for credit: no router has seen it.
    waits: bool,
    is_send: bool,
    /// Its conversation was restarted after it was sent: its refusal says nothing of what came later.
    is_overtaken: bool,
}

impl Window {
    /// Whether a send, or another request, would be one too many.
    pub(crate) fn is_full(&self) -> bool {
        self.sends >= usize::from(SEND_WINDOW) || self.unanswered.len() - self.sends >= REQUEST_WINDOW
    }

    fn is_empty(&self) -> bool {
        self.unanswered.is_empty() && self.gates.is_empty()
    }

    /// Whether the count of sends is right, and no conversation is on two links.
    pub(crate) fn is_sound(&self) -> bool {
        let sends = || self.unanswered.iter().filter(|each| each.is_send);
        let is_together =
            |one: &Unanswered| sends().all(|each| each.conv != one.conv || each.link == one.link);
        self.sends == sends().count() && sends().all(is_together)
    }

    /// The links that something unanswered is on.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkIndex> {
        self.unanswered.iter().map(|each| each.link)
    }
}

/// All connections that wait for something.
#[derive(Debug)]
pub(crate) struct Windows {
    open: Vec<ConnId>,
    /// How much is unanswered, by the place of the link.
    on_links: [u32; LINKS_MAX],
    #[expect(
        clippy::vec_box,
        reason = "the boxes themselves move between the pool and the connections"
    )]
    pool: Vec<Box<Window>>,
    sweep_at: Duration,
    /// Where in the list the next part begins.
    sweep_next: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            on_links: [0; LINKS_MAX],
            pool: Vec::new(),
            sweep_at: Duration::ZERO,
            sweep_next: 0,
        }
    }
}

impl Windows {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// How much is unanswered on a link.
    pub(crate) fn unanswered_on(&self, link: LinkIndex) -> u32 {
        self.on_links.get(link.get()).copied().unwrap_or(0)
    }

    fn put_on(&mut self, link: LinkIndex) {
        if let Some(count) = self.on_links.get_mut(link.get()) {
            *count += 1;
        }
    }

    fn take_off(&mut self, link: LinkIndex) {
        if let Some(count) = self.on_links.get_mut(link.get()) {
            *count -= 1;
        }
    }

    /// When silence is looked for.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        (!self.open.is_empty()).then_some(self.sweep_at)
    }
}

/// What gates know a conversation by. Two of one connection that collide share a gate, which is harmless.
pub(crate) fn key_of(conv: &ConvId) -> u64 {
    content_hash(conv.as_bytes())
}

impl Shard {
    /// Notes that a frame is to be answered, or waits for credit.
    pub(crate) fn await_answer(&mut self, id: ConnId, ticket: u32, outgoing: &Outgoing<'_>, waits: bool) {
        let since = self.tick;
        let is_noted = self.with_window(id, |window| {
            window.sends += usize::from(outgoing.conv.is_some());
            window.unanswered.push_back(Unanswered {
                ticket,
                reference: outgoing.reference,
                conv: outgoing.conv.unwrap_or(0),
                since,
                link: outgoing.link,
                waits,
                is_send: outgoing.conv.is_some(),
                is_overtaken: false,
            });
        });
        if is_noted {
            self.windows.put_on(outgoing.link);
        }
    }

    /// A frame that waited for credit gets it. False if nobody waits for it any more.
    pub(crate) fn has_left_queue(&mut self, id: ConnId, ticket: u32) -> bool {
        let window = self.conns.get_mut(id).and_then(|conn| conn.window.as_mut());
        let entry = window.and_then(|window| window.unanswered.iter_mut().find(|each| each.ticket == ticket));
        if let Some(entry) = entry {
            entry.waits = false;
            return true;
        }
        false
    }

    /// Gives up on a router that does not answer.
    pub(crate) fn expire_unanswered(&mut self) {
        let now = self.now.mono;
        if self.windows.open.is_empty() || now < self.windows.sweep_at {
            return;
        }
        self.windows.sweep_at = now + SWEEP_PACE;
        let patience = ticks_in(2 * self.config.send_deadline);
        let tick = self.tick;
        let from = self.windows.sweep_next.min(self.windows.open.len());
        let until = (from + self.windows.open.len().div_ceil(SWEEP_PART)).min(self.windows.open.len());
        self.windows.sweep_next = if until == self.windows.open.len() {
            0
        } else {
            until
        };
        for id in self.windows.open.get(from..until).unwrap_or_default().to_vec() {
            while let Some(silent) = self.forget(id, |each| !each.waits && each.since + patience <= tick) {
                self.give_up(id, silent, "the router did not answer in time");
                // The others of its conversation come after it: they are answered with it, in order.
                while let Some(next) = self.forget(id, |each| silent.is_send && each.conv == silent.conv) {
                    self.give_up(id, next, "the router did not answer in time");
                }
                if silent.is_send {
                    self.close_gate(id, silent.conv);
                }
            }
        }
    }

    /// Answers what may or may not have been stored.
    fn give_up(&mut self, id: ConnId, given_up: Unanswered, text: &str) {
        self.metrics.forward_retry += 1;
        if given_up.reference != 0 && !Bug::LostNotAnswered.is_planted() {
            self.reply_error(id, given_up.reference, ErrorCode::Retry, text);
        }
        self.unblock(id);
    }

    /// A link is lost: whatever is unanswered on it may or may not have been stored.
    pub(crate) fn retry_all(&mut self, link: LinkIndex) {
        self.waiting.clear(link);
        if self.windows.unanswered_on(link) == 0 {
            return;
        }
        for id in self.windows.open.clone() {
            let mut gates = Vec::new();
            while let Some(lost) = self.forget(id, |each| each.link == link) {
                self.give_up(id, lost, "the link to the router was lost");
                if lost.is_send && !gates.contains(&lost.conv) {
                    gates.push(lost.conv);
                }
            }
            for key in gates {
                self.close_gate(id, key);
            }
        }
    }

    /// A conversation goes to `link` from here on: what is unanswered of it on another one may or may not be stored.
    pub(crate) fn leave_other_link(&mut self, id: ConnId, key: u64, link: LinkIndex) {
        let window = self.conns.get(id).and_then(|conn| conn.window.as_ref());
        // All that is unanswered of a conversation is on one link: the last tells of the others.
        let last = window.and_then(|window| {
            let mut newest_first = window.unanswered.iter().rev();
            newest_first.find(|each| each.is_send && each.conv == key)
        });
        if last.is_some_and(|last| last.link != link) {
            self.retry_conversation(id, key);
        }
    }

    /// The lane of a conversation has moved: what is unanswered of it is answered, in order, and its gate closes.
    pub(crate) fn retry_conversation(&mut self, id: ConnId, key: u64) {
        while let Some(left) = self.forget(id, |each| each.is_send && each.conv == key) {
            self.give_up(id, left, "the conversation moved to another router");
        }
        if !Bug::MovedGateOpen.is_planted() {
            self.close_gate(id, key);
        }
    }

    /// A frame from a router for one connection.
    pub(crate) fn answered(&mut self, link: LinkIndex, id: ConnId, frame: &[u8]) {
        let (number, reference) = (kind_of(frame), reference_of(frame));
        let kind = FrameKind::from_number(number);
        let is_answer = matches!(kind, Some(FrameKind::SendAck | FrameKind::Error));
        if self.conns.get(id).is_some_and(|conn| conn.stage != Stage::Live) {
            // Nothing comes before the welcome; what was to be pulled is found by the sync after it.
            return;
        }
        if reference != 0 {
            let is_send_answer = kind == Some(FrameKind::SendAck);
            let known = self.forget(id, |each| {
                each.reference == reference
                    && each.link == link
                    && !each.waits
                    && (each.is_send || !is_send_answer)
            });
            // Exactly one answer per send: one that was given up was answered `retry`. But the record of this message
            // leaves its sender's connection out, and nobody must send the same again.
            if known.is_none() && is_send_answer && !Bug::LateAckPassed.is_planted() {
                self.metrics.forward_late_answers += 1;
                return self.miss_own(id, frame);
            }
            // What was given up on this link may be on its way on another one, under the same reference.
            if known.is_none() && self.is_unanswered(id, reference) {
                self.metrics.forward_late_answers += 1;
                return;
            }
            // The router's lane closed its gate, and forgets that with its process; sends are on their way.
            if let Some(refused) = known.filter(|each| each.is_send)
                && is_retryable_error(frame)
            {
                self.reply(id, Lane::Control, frame);
                if !refused.is_overtaken {
                    self.close_gate(id, refused.conv);
                }
                return self.unblock(id);
            }
        }
        match kind {
            _ if is_answer => self.reply(id, Lane::Control, frame),
            Some(FrameKind::SyncPage | FrameKind::PullPage | FrameKind::Presence) => {
                self.reply_page(id, frame);
            }
            Some(FrameKind::Typing) => self.reply_payload(id, Lane::Transient, frame),
            Some(FrameKind::Call) => self.reply_payload(id, Lane::Calls, frame),
            Some(FrameKind::Message) => self.reply_payload(id, Lane::Messages, frame),
            _ if self.is_room_for(id, Lane::Control, frame.len()) => self.reply(id, Lane::Control, frame),
            _ => self.miss_unknown(id),
        }
        self.unblock(id);
    }

    /// A message of this connection was stored, and its answer came too late to be one: it is to be pulled.
    fn miss_own(&mut self, id: ConnId, ack: &[u8]) {
        if let Ok(ack) = Frame::parse(ack).and_then(|ack| ack.access::<ArchivedSendAck>()) {
            self.miss(id, Some((&ack.conv, ack.seq.to_native())));
        }
    }

    /// Answers a send that may be tried again, closes its gate, and answers those that wait behind it.
    pub(crate) fn refuse_send(&mut self, id: ConnId, reference: u32, key: u64, code: ErrorCode, text: &str) {
        self.reply_error(id, reference, code, text);
        self.close_gate(id, key);
    }

    /// Refuses later sends of a conversation, and those that already wait for credit.
    fn close_gate(&mut self, id: ConnId, key: u64) {
        let mut gates = 0;
        self.with_window(id, |window| {
            if !window.gates.contains(&key) {
                window.gates.push(key);
            }
            gates = window.gates.len();
        });
        while let Some(behind) = self.forget(id, |each| each.waits && each.is_send && each.conv == key) {
            self.metrics.forward_gate_closed += 1;
            let text = "an earlier send of this conversation was refused";
            self.reply_error(id, behind.reference, ErrorCode::GateClosed, text);
        }
        if gates > GATES_MAX {
            self.close(
                id,
                CloseCode::Overloaded as u16,
                "too many conversations wait for a restart",
            );
        }
    }

    pub(crate) fn refuse(&mut self, id: ConnId, refused: Unanswered, code: ErrorCode, text: &str) {
        if refused.is_send {
            self.refuse_send(id, refused.reference, refused.conv, code, text);
        } else if refused.reference != 0 {
            self.reply_error(id, refused.reference, code, text);
        }
        self.unblock(id);
    }

    pub(crate) fn is_gate_closed(&self, id: ConnId, key: u64) -> bool {
        let window = self.conns.get(id).and_then(|conn| conn.window.as_ref());
        window.is_some_and(|window| window.gates.contains(&key) && !Bug::GatewayGateOpen.is_planted())
    }

    fn is_unanswered(&self, id: ConnId, reference: u32) -> bool {
        let window = self.conns.get(id).and_then(|conn| conn.window.as_ref());
        window.is_some_and(|window| window.unanswered.iter().any(|each| each.reference == reference))
    }

    pub(crate) fn open_gate(&mut self, id: ConnId, key: u64) {
        if let Some(window) = self.conns.get_mut(id).and_then(|conn| conn.window.as_mut()) {
            window.gates.retain(|gate| *gate != key);
            for earlier in window.unanswered.iter_mut().filter(|each| each.conv == key) {
                earlier.is_overtaken = true;
            }
            self.trim_window(id);
        }
    }

    /// Takes the first entry that `matches` out of what the connection waits for.
    pub(crate) fn forget(&mut self, id: ConnId, matches: impl Fn(&Unanswered) -> bool) -> Option<Unanswered> {
        let window = self.conns.get_mut(id)?.window.as_mut()?;
        let at = window.unanswered.iter().position(matches)?;
        let taken = window.unanswered.remove(at)?;
        window.sends -= usize::from(taken.is_send);
        self.windows.take_off(taken.link);
        self.trim_window(id);
        Some(taken)
    }

    /// False if the connection waits for nothing any more, because nobody is logged in on it.
    fn with_window(&mut self, id: ConnId, change: impl FnOnce(&mut Window)) -> bool {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.session.is_some()) else {
            return false;
        };
        let window = conn.window.get_or_insert_with(|| {
            let mut window = self.windows.pool.pop().unwrap_or_default();
            window.position = self.windows.open.len();
            self.windows.open.push(id);
            window
        });
        change(window);
        true
    }

    /// Frees the box once the connection waits for nothing.
    fn trim_window(&mut self, id: ConnId) {
        let is_empty = |conn: &Conn| conn.window.as_ref().is_some_and(|each| each.is_empty());
        if self.conns.get(id).is_some_and(is_empty) {
            self.close_window(id);
        }
    }

    /// The connection waits for nothing any more: what waits for credit is dropped when its turn comes.
    pub(crate) fn close_window(&mut self, id: ConnId) {
        let Some(mut window) = self.conns.get_mut(id).and_then(|conn| conn.window.take()) else {
            return;
        };
        let position = window.position;
        self.windows.open.swap_remove(position);
        let moved = self.windows.open.get(position).copied();
        if let Some(moved) = moved.and_then(|moved| self.conns.get_mut(moved)?.window.as_mut()) {
            moved.position = position;
        }
        for left in window.unanswered.drain(..) {
            self.windows.take_off(left.link);
        }
        window.sends = 0;
        window.gates.clear();
        if self.windows.pool.len() < POOLED {
            self.windows.pool.push(window);
        }
    }
}
