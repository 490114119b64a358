//! forward: a client's frame goes to its router, and its answer comes back.
//!
//! Owns, per connection that waits for something, the box of what is unanswered ([`SEND_WINDOW`] sends and
//! [`REQUEST_WINDOW`] requests; when either is full the socket is not read) and the gates that are closed (more than
//! [`GATES_MAX`]: 4007); and one queue of frames that wait for credit of the link ([`WAITING_SLOTS`] frames,
//! [`WAITING_BYTES_MAX`]; full: `overloaded`).
//!
//! A *gate* is closed for (connection, conversation) whenever a send is refused here in a way that invites a second
//! try: later sends of that conversation are then refused too, in order, until one with the restart flag comes, so
//! that a terminal's messages never overtake each other. When a link is lost everything unanswered on it is
//! answered `retry` and its gates close.

use std::collections::VecDeque;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameError, FrameKind, read};
use corelane_protocol::hash::{content_hash, lane_of};
use corelane_protocol::id::{AppId, ConnId, ConvId, Lane as StoreLane, UserId};
use corelane_protocol::limits::{GATES_MAX, SEND_WINDOW};
use corelane_protocol::link::record::RecordKind;
use corelane_protocol::ws::CloseCode;

use crate::deliver::{kind_of, reference_of};
use crate::outbound::Lane;
use crate::session::record_of;
use crate::shard::Shard;
use crate::table::Stage;
use crate::wheel::{Tick, ticks_in};

/// Most requests other than sends that may be unanswered at a time.
pub(crate) const REQUEST_WINDOW: usize = 64;
/// Most frames that wait for credit.
const WAITING_SLOTS: usize = 8192;
/// Most bytes of frames that wait for credit.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Boxes kept for their next use.
const POOLED: usize = 1024;
/// How often silence of a router is looked for.
const SWEEP_PACE: Duration = Duration::from_millis(500);
/// One of so many sends carries a trace stamp.
const STAMP_PACE: u32 = 64;

/// What a connection waits for.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    /// Place in the list of all that wait for something.
    position: usize,
    unanswered: VecDeque<Unanswered>,
    /// Closed gates, by conversation key.
    gates: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Unanswered {
    /// Tells it from another frame with the same reference.
    ticket: u32,
    reference: u32,
    /// Key of the conversation; 0 for requests.
    conv: u64,
    since: Tick,
    /// Waits for credit: no router has seen it.
    waits: bool,
    is_send: bool,
}

impl Forwarding {
    /// Unanswered sends and requests.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let sends = self.unanswered.iter().filter(|each| each.is_send).count();
        (sends, self.unanswered.len() - sends)
    }

    fn is_empty(&self) -> bool {
        self.unanswered.is_empty() && self.gates.is_empty()
    }
}

/// Frames that wait for credit, and the list of connections that wait for something.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Deferred>,
    bytes: usize,
    ticket: u32,
    active: Vec<ConnId>,
    #[expect(
        clippy::vec_box,
        reason = "the boxes themselves move between the pool and the connections"
    )]
    pool: Vec<Box<Forwarding>>,
    sweep_at: Duration,
}

#[derive(Debug)]
struct Deferred {
    id: ConnId,
    ticket: u32,
    due: Duration,
    lane: StoreLane,
    is_send: bool,
    reference: u32,
    frame: Box<[u8]>,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }
}

/// What gates know a conversation by. Two of one connection that collide share a gate, which is harmless.
pub(crate) fn key_of(conv: &ConvId) -> u64 {
    content_hash(conv.as_bytes())
}

/// A frame on its way.
struct Outgoing<'a> {
    reference: u32,
    /// Key of the conversation of a send.
    conv: Option<u64>,
    lane: StoreLane,
    frame: &'a [u8],
}

impl Shard {
    /// A `Send`.
    pub(crate) fn forward_send(
        &mut self,
        id: ConnId,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), FrameError> {
        need_reference(frame)?;
        let send = read::send(frame)?;
        let Some((app, user)) = self.sender(id) else {
            return Ok(());
        };
        let conv = send.target.conv_for(&user)?;
        let key = key_of(&conv);
        if send.restart {
            self.open_gate(id, key);
        } else if self.is_gate_closed(id, key) {
            self.metrics.forward_gate_closed += 1;
            let text = "an earlier send of this conversation was refused";
            self.reply_error(id, frame.reference, ErrorCode::GateClosed, text);
            return Ok(());
        }
        let Some(lanes) = self.link.lanes() else {
            self.metrics.forward_unavailable += 1;
            self.refuse_send(
                id,
                frame.reference,
                key,
                ErrorCode::Unavailable,
                "no router can be reached",
            );
            return Ok(());
        };
        let outgoing = Outgoing {
            reference: frame.reference,
            conv: Some(key),
            lane: lane_of(app, &conv, lanes),
            frame: bytes,
        };
        self.forward(id, &outgoing);
        Ok(())
    }

    /// Any other frame that a router answers.
    pub(crate) fn forward_request(
        &mut self,
        id: ConnId,
        kind: FrameKind,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), FrameError> {
        let Some((app, user)) = self.sender(id) else {
            return Ok(());
        };
        let mut asks = false;
        let conv = match kind {
            FrameKind::Sync => {
                read::sync(frame)?;
                asks = true;
                None
            }
            FrameKind::Pull => {
                asks = true;
                Some(read::pull(frame)?.conv)
            }
            FrameKind::Read => Some(read::read(frame)?.conv),
            FrameKind::CallStep => Some(read::call(frame)?.target.conv_for(&user)?),
            FrameKind::TypingStep => Some(read::typing(frame)?.target.conv_for(&user)?),
            FrameKind::Delivered => {
                read::delivered(frame)?;
                None
            }
            _ => {
                read::presence_query(frame)?;
                None
            }
        };
        if asks || kind == FrameKind::PresenceQuery {
            need_reference(frame)?;
        }
        let Some(lanes) = self.link.lanes() else {
            self.metrics.forward_unavailable += 1;
            if frame.reference != 0 {
                self.reply_error(
                    id,
                    frame.reference,
                    ErrorCode::Unavailable,
                    "no router can be reached",
                );
            }
            return Ok(());
        };
        if asks {
            self.turn_live(id);
        }
        let outgoing = Outgoing {
            reference: frame.reference,
            conv: None,
            lane: conv.map_or(StoreLane(0), |conv| lane_of(app, &conv, lanes)),
            frame: bytes,
        };
        self.forward_awaited(id, &outgoing, awaits_answer(frame.kind));
        Ok(())
    }

    fn sender(&self, id: ConnId) -> Option<(AppId, UserId)> {
        let session = self.conns.get(id)?.session.as_ref()?;
        Some((AppId(session.app), UserId::new(session.user()).ok()?))
    }

    fn forward(&mut self, id: ConnId, outgoing: &Outgoing<'_>) {
        self.forward_awaited(id, outgoing, true);
    }

    fn forward_awaited(&mut self, id: ConnId, outgoing: &Outgoing<'_>, is_awaited: bool) {
        self.waiting.ticket = self.waiting.ticket.wrapping_add(1);
        let ticket = self.waiting.ticket;
        let waits = self.waiting.len() > 0 || !self.link.has_room_for(outgoing.frame.len());
        if waits {
            let bytes = self.waiting.bytes + outgoing.frame.len();
            if self.waiting.len() >= WAITING_SLOTS || bytes > WAITING_BYTES_MAX {
                return self.refuse_overloaded(id, outgoing);
            }
            self.waiting.bytes = bytes;
            self.waiting.queue.push_back(Deferred {
                id,
                ticket,
                due: self.now.mono + self.config.send_deadline,
                lane: outgoing.lane,
                is_send: outgoing.conv.is_some(),
                reference: outgoing.reference,
                frame: outgoing.frame.into(),
            });
        } else {
            let deadline = self.config.send_deadline;
            self.write(
                id,
                outgoing.lane,
                outgoing.reference,
                deadline,
                outgoing.conv.is_some(),
                outgoing.frame,
            );
        }
        if is_awaited || waits {
            let since = self.tick;
            self.forwarding(id, |forwarding| {
                forwarding.unanswered.push_back(Unanswered {
                    ticket,
                    reference: outgoing.reference,
                    conv: outgoing.conv.unwrap_or(0),
                    since,
                    waits,
                    is_send: outgoing.conv.is_some(),
                });
            });
        }
    }

    fn refuse_overloaded(&mut self, id: ConnId, outgoing: &Outgoing<'_>) {
        self.metrics.forward_overloaded += 1;
        let text = "too many frames wait for the router";
        match outgoing.conv {
            Some(key) => self.refuse_send(id, outgoing.reference, key, ErrorCode::Overloaded, text),
            None if outgoing.reference != 0 => {
                self.reply_error(id, outgoing.reference, ErrorCode::Overloaded, text);
            }
            None => {}
        }
    }

    /// Writes a frame into the link's batch. There is credit for it.
    fn write(
        &mut self,
        id: ConnId,
        lane: StoreLane,
        reference: u32,
        left: Duration,
        is_send: bool,
        frame: &[u8],
    ) {
        let Some(session) = self.conns.get(id).and_then(|conn| conn.session.as_ref()) else {
            return;
        };
        let is_sampled = is_send && self.waiting.ticket.is_multiple_of(STAMP_PACE);
        let mut record = record_of(RecordKind::ClientFrame, id, session, frame);
        record.lane = lane.0;
        record.priority = Lane::Messages as u8;
        record.reference = reference;
        record.deadline_ms = (left.as_millis() as u32).max(1);
        record.stamp = if is_sampled { self.now.wall_ms * 1000 } else { 0 };
        let is_written = self.link.write(&record);
        debug_assert!(is_written, "room was asked for");
        self.metrics.forward_messages += u64::from(is_send);
        self.metrics.forward_requests += u64::from(!is_send);
    }

    /// Writes what waits, as far as there is credit.
    pub(crate) fn write_waiting(&mut self) {
        while let Some(deferred) = self.waiting.queue.front() {
            if !self.link.has_room_for(deferred.frame.len()) {
                return;
            }
            let Some(deferred) = self.waiting.queue.pop_front() else {
                return;
            };
            self.waiting.bytes -= deferred.frame.len();
            let (id, ticket) = (deferred.id, deferred.ticket);
            let entry = self
                .conns
                .get_mut(id)
                .and_then(|conn| conn.forwarding.as_mut())
                .and_then(|forwarding| {
                    forwarding
                        .unanswered
                        .iter_mut()
                        .find(|each| each.ticket == ticket)
                });
            // Its connection is gone, or it was answered when its gate closed.
            let Some(entry) = entry else {
                continue;
            };
            entry.waits = false;
            let left = deferred.due.saturating_sub(self.now.mono);
            self.write(
                id,
                deferred.lane,
                deferred.reference,
                left,
                deferred.is_send,
                &deferred.frame,
            );
            let is_awaited = deferred.is_send || awaits_answer(kind_of(&deferred.frame));
            if !is_awaited {
                self.forget(id, |each| each.ticket == ticket);
            }
        }
    }

    /// Refuses what has waited for credit too long, and gives up on routers that do not answer.
    pub(crate) fn expire_forwarded(&mut self) {
        let now = self.now.mono;
        while self
            .waiting
            .queue
            .front()
            .is_some_and(|deferred| deferred.due <= now)
        {
            let Some(deferred) = self.waiting.queue.pop_front() else {
                return;
            };
            self.waiting.bytes -= deferred.frame.len();
            if let Some(expired) = self.forget(deferred.id, |each| each.ticket == deferred.ticket) {
                self.metrics.forward_overloaded += 1;
                self.refuse(
                    deferred.id,
                    expired,
                    ErrorCode::Overloaded,
                    "the router takes no more",
                );
            }
        }
        if self.waiting.active.is_empty() || now < self.waiting.sweep_at {
            return;
        }
        self.waiting.sweep_at = now + SWEEP_PACE;
        let patience = ticks_in(2 * self.config.send_deadline);
        let tick = self.tick;
        for id in self.waiting.active.clone() {
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
        if given_up.reference != 0 {
            self.reply_error(id, given_up.reference, ErrorCode::Retry, text);
        }
        self.unblock(id);
    }

    /// When [`Self::expire_forwarded`] has something to do.
    pub(crate) fn forward_deadline(&self) -> Option<Duration> {
        let sweep = (!self.waiting.active.is_empty()).then_some(self.waiting.sweep_at.max(self.now.mono));
        let expiry = self.waiting.queue.front().map(|deferred| deferred.due);
        [sweep, expiry].into_iter().flatten().min()
    }

    /// The link is lost: whatever is unanswered may or may not have been stored.
    pub(crate) fn retry_all(&mut self) {
        self.waiting.queue.clear();
        self.waiting.bytes = 0;
        for id in self.waiting.active.clone() {
            let mut gates = Vec::new();
            while let Some(lost) = self.forget(id, |_| true) {
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

    /// A frame from a router for one connection.
    pub(crate) fn answered(&mut self, id: ConnId, frame: &[u8]) {
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
                each.reference == reference && !each.waits && (each.is_send || !is_send_answer)
            });
            // Exactly one answer per send: one that was given up was answered `retry`.
            if known.is_none() && is_send_answer {
                self.metrics.forward_late_answers += 1;
                return;
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

    /// Answers a send that may be tried again, closes its gate, and answers those that wait behind it.
    pub(crate) fn refuse_send(&mut self, id: ConnId, reference: u32, key: u64, code: ErrorCode, text: &str) {
        self.reply_error(id, reference, code, text);
        self.close_gate(id, key);
    }

    /// Refuses later sends of a conversation, and those that already wait for credit.
    fn close_gate(&mut self, id: ConnId, key: u64) {
        let mut gates = 0;
        self.forwarding(id, |forwarding| {
            if !forwarding.gates.contains(&key) {
                forwarding.gates.push(key);
            }
            gates = forwarding.gates.len();
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

    fn refuse(&mut self, id: ConnId, refused: Unanswered, code: ErrorCode, text: &str) {
        if refused.is_send {
            self.refuse_send(id, refused.reference, refused.conv, code, text);
        } else if refused.reference != 0 {
            self.reply_error(id, refused.reference, code, text);
        }
        self.unblock(id);
    }

    fn is_gate_closed(&self, id: ConnId, key: u64) -> bool {
        let forwarding = self.conns.get(id).and_then(|conn| conn.forwarding.as_ref());
        forwarding.is_some_and(|forwarding| forwarding.gates.contains(&key))
    }

    fn open_gate(&mut self, id: ConnId, key: u64) {
        if let Some(forwarding) = self.conns.get_mut(id).and_then(|conn| conn.forwarding.as_mut()) {
            forwarding.gates.retain(|gate| *gate != key);
            self.trim_forwarding(id);
        }
    }

    /// Takes the first entry that `matches` out of what the connection waits for.
    fn forget(&mut self, id: ConnId, matches: impl Fn(&Unanswered) -> bool) -> Option<Unanswered> {
        let forwarding = self.conns.get_mut(id)?.forwarding.as_mut()?;
        let at = forwarding.unanswered.iter().position(matches)?;
        let taken = forwarding.unanswered.remove(at);
        self.trim_forwarding(id);
        taken
    }

    fn forwarding(&mut self, id: ConnId, change: impl FnOnce(&mut Forwarding)) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.session.is_some()) else {
            return;
        };
        let forwarding = conn.forwarding.get_or_insert_with(|| {
            let mut forwarding = self.waiting.pool.pop().unwrap_or_default();
            forwarding.position = self.waiting.active.len();
            self.waiting.active.push(id);
            forwarding
        });
        change(forwarding);
    }

    /// Frees the box once the connection waits for nothing.
    fn trim_forwarding(&mut self, id: ConnId) {
        let is_empty =
            |conn: &crate::table::Conn| conn.forwarding.as_ref().is_some_and(|each| each.is_empty());
        if self.conns.get(id).is_some_and(is_empty) {
            self.drop_forwarding(id);
        }
    }

    /// The connection waits for nothing any more: what waits for credit is dropped when its turn comes.
    pub(crate) fn drop_forwarding(&mut self, id: ConnId) {
        let Some(mut forwarding) = self.conns.get_mut(id).and_then(|conn| conn.forwarding.take()) else {
            return;
        };
        let position = forwarding.position;
        self.waiting.active.swap_remove(position);
        let moved = self.waiting.active.get(position).copied();
        if let Some(moved) = moved.and_then(|moved| self.conns.get_mut(moved)?.forwarding.as_mut()) {
            moved.position = position;
        }
        forwarding.unanswered.clear();
        forwarding.gates.clear();
        if self.waiting.pool.len() < POOLED {
            self.waiting.pool.push(forwarding);
        }
    }
}

const _: () = assert!(SEND_WINDOW > 0, "a window of none would send nothing");

/// Whether every frame of this kind gets an answer.
fn awaits_answer(kind: u16) -> bool {
    matches!(
        FrameKind::from_number(kind),
        Some(FrameKind::Sync | FrameKind::Pull | FrameKind::PresenceQuery)
    )
}

fn need_reference(frame: &Frame<'_>) -> Result<(), FrameError> {
    if frame.reference == 0 {
        return Err(FrameError::Field {
            field: "ref",
            problem: "is 0, but this frame is answered".to_owned(),
        });
    }
    Ok(())
}
