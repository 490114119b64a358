//! deliver: a frame finds its connections' queues, or the answer that there is no room.
//!
//! Owns nothing between records: queues are the connections' own (`outbound.rs`), counted together in `memory.rs`. Each
//! frame is written once per encoding and shard; JSON only when somebody here speaks it.
//!
//! When a queue is full (`queue_bytes_max`; `queue_total_bytes_max` for all together): transient frames go when it
//! is half full; a payload frame that finds no room *demotes* its connection. All payload of a demoted
//! connection is dropped, its places are remembered and told by `PullRequired` (too many: `Resync`) as soon as the
//! socket takes bytes again, and payload flows again from its next sync or pull on. Pages that a client asked for
//! have a room of the same size to themselves; one that does not fit is answered `overloaded`. Control frames that
//! nobody asked for (read marks) have `CONTROL_BYTES_MAX`; then the connection is demoted with a `Resync`.

use std::borrow::Cow;

use corelane_protocol::arena::Span;
use corelane_protocol::bus::{ArchivedBusFrame, ArchivedBusRecord, ArchivedReceivers};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::id::ConnId;
use corelane_protocol::ws::{Opcode, server_header};

use crate::decode::CONTROL_BYTES_MAX;
use crate::encoding;
use crate::outbound::{BacklogPool, Lane};
use crate::planted::Bug;
use crate::shard::{Arenas, Shard};
use crate::table::{Conn, Stage, flag};
use crate::wheel::ticks_in;

/// The conversation and place of a message.
pub(crate) type Place<'a> = (&'a [u8], u64);

/// One frame in the encodings it was needed in so far.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    frame: Option<Span>,
    text: Option<Span>,
}

impl Encoded {
    /// The frame in one encoding; `None` if it has no JSON form, which a JSON client skips like any unknown frame.
    fn span(&mut self, is_json: bool, frame: &[u8], arenas: &mut Arenas) -> Option<Span> {
        let (span, arena, opcode) = if is_json {
            (&mut self.text, &mut arenas.texts, Opcode::Text)
        } else {
            (&mut self.frame, &mut arenas.frames, Opcode::Binary)
        };
        if span.is_none() {
            let text = if is_json {
                Some(encoding::to_json(frame)?)
            } else {
                None
            };
            let bytes = text.as_deref().unwrap_or(frame);
            *span = Some(arena.push(&[&server_header(opcode, bytes.len(), true), bytes]));
        }
        span.clone()
    }
}

/// Number of a frame's kind, from its header.
pub(crate) fn kind_of(frame: &[u8]) -> u16 {
    frame.first_chunk().map_or(0, |kind| u16::from_le_bytes(*kind))
}

/// Whether a frame is a message that this connection is to get.
fn is_message_for(id: ConnId, frame: &ArchivedBusFrame) -> bool {
    frame.receivers.include(id.0) && kind_of(&frame.frame) == FrameKind::Message as u16
}

/// Reference of a frame, from its header.
pub(crate) fn reference_of(frame: &[u8]) -> u32 {
    frame
        .get(frame::HEADER_BYTES - 4..frame::HEADER_BYTES)
        .and_then(|reference| reference.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

impl Shard {
    /// Delivers a record to its receivers on this shard. Connections that are gone are appended to `gone`.
    pub(crate) fn deliver(&mut self, record: &ArchivedBusRecord, gone: &mut Vec<u64>) {
        let mut encoded = std::mem::take(&mut self.encoded);
        encoded.clear();
        encoded.resize_with(record.frames.len(), Encoded::default);
        match &record.receivers {
            ArchivedReceivers::Conns(conns) => {
                for conn in conns.iter().map(|conn| conn.to_native()) {
                    let id = ConnId(conn);
                    if id.shard() == self.number && !self.deliver_to(id, record, &mut encoded) {
                        let messages = record.frames.iter().filter(|frame| is_message_for(id, frame));
                        self.metrics.deliver_messages_gone += messages.count() as u64;
                        gone.push(conn);
                    }
                }
            }
            ArchivedReceivers::Users(users) => {
                let mut conns = Vec::new();
                for user in users.iter() {
                    self.conns.of_user(record.app.to_native(), user, &mut conns);
                }
                for id in conns {
                    self.deliver_to(id, record, &mut encoded);
                }
            }
            // This shard keeps no member lists: whoever may be meant is told to sync, so that there is no hole.
            ArchivedReceivers::GroupExcept(_) => self.resync_all(),
        }
        // Spans are dropped here, so that the arena can be used again when the sends are done.
        encoded.clear();
        self.encoded = encoded;
    }

    fn deliver_to(&mut self, id: ConnId, record: &ArchivedBusRecord, encoded: &mut [Encoded]) -> bool {
        let Some(conn) = self.conns.get(id) else {
            return false;
        };
        let is_json = conn.has(flag::JSON);
        let welcome = match conn.stage {
            Stage::Live => true,
            Stage::Claiming => false,
            _ => return false,
        };
        let lane = Lane::from_number(record.priority);
        for (frame, encoded) in record.frames.iter().zip(encoded) {
            if !frame.receivers.include(id.0) {
                continue;
            }
            let is_message = is_message_for(id, frame);
            let place = is_message.then(|| (record.conv.as_slice(), frame.seq.to_native()));
            if welcome {
                let span = encoded.span(is_json, &frame.frame, &mut self.arenas);
                let is_queued = span.is_some_and(|span| self.queue_shared(id, lane, &span, place));
                self.metrics.deliver_messages += u64::from(is_message && is_queued);
                self.metrics.deliver_messages_missed += u64::from(is_message && !is_queued);
            } else if kind_of(&frame.frame) == FrameKind::PullRequired as u16 {
                self.miss_unknown(id);
            } else {
                self.metrics.deliver_messages_missed += u64::from(is_message);
                self.miss(id, place);
            }
        }
        true
    }

    /// A payload frame was not sent: its place is remembered until the client can be told.
    pub(crate) fn miss(&mut self, id: ConnId, place: Option<Place<'_>>) {
        self.metrics.deliver_dropped += 1;
        let Some((conv, seq)) = place else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(id) {
            conn.rare().missed.note(conv, seq);
            self.list(id);
        }
    }

    /// Something that the client would have to act on came before its welcome, or beyond what its queue holds: it is
    /// told to sync instead.
    pub(crate) fn miss_unknown(&mut self, id: ConnId) {
        self.metrics.deliver_dropped += 1;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.rare().missed.overflow();
            self.list(id);
        }
    }

    /// Queues a frame that others share. Returns whether it will leave.
    pub(crate) fn queue_shared(
        &mut self,
        id: ConnId,
        lane: Lane,
        span: &Span,
        place: Option<Place<'_>>,
    ) -> bool {
        if !self.is_room_for(id, lane, span.len()) {
            if lane == Lane::Control {
                self.miss_unknown(id);
            } else {
                self.miss(id, place);
            }
            return false;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        if !conn.transform.takes_shared() || !conn.out.share(span, false) {
            let backlog = conn
                .out
                .backlog
                .get_or_insert_with(|| self.backlogs.pop().unwrap_or_default());
            backlog.push_span(lane, span);
            if let Some((conv, seq)) = place {
                backlog.note(conv, seq);
            }
            self.weigh(id);
        }
        self.metrics.deliver_frames += 1;
        self.list(id);
        true
    }

    /// Queues bytes for this connection alone, WebSocket header included. They are always taken: what asks for them is
    /// not read any more once too many wait.
    pub(crate) fn queue_own(&mut self, id: ConnId, lane: Lane, parts: &[&[u8]]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.stage == Stage::Closed {
            return;
        }
        // Who is not logged in keeps no shared chunk alive.
        let is_trusted = matches!(conn.stage, Stage::Live | Stage::Echo);
        let is_shared = is_trusted && !conn.out.is_in_flight() && conn.out.backlog.is_none() && {
            let span = self.arenas.own.push(parts);
            conn.out.share(&span, true)
        };
        if !is_shared {
            push_to_backlog(conn, &mut self.backlogs, lane, parts);
        }
        self.weigh(id);
        self.list(id);
    }

    /// Sends a frame to one client, in its encoding.
    pub(crate) fn reply(&mut self, id: ConnId, lane: Lane, frame: &[u8]) {
        if let Some((opcode, payload)) = self.encode_for(id, frame) {
            self.queue_reply(id, lane, opcode, &payload);
        }
    }

    /// A frame as a client is to get it; `None` if it is to get nothing.
    fn encode_for<'a>(&self, id: ConnId, frame: &'a [u8]) -> Option<(Opcode, Cow<'a, [u8]>)> {
        let conn = self.conns.get(id)?;
        if matches!(conn.stage, Stage::Closing | Stage::Closed) {
            None
        } else if conn.has(flag::JSON) {
            Some((Opcode::Text, Cow::Owned(encoding::to_json(frame)?)))
        } else {
            Some((Opcode::Binary, Cow::Borrowed(frame)))
        }
    }

    fn queue_reply(&mut self, id: ConnId, lane: Lane, opcode: Opcode, payload: &[u8]) {
        self.metrics.deliver_frames += 1;
        let header = server_header(opcode, payload.len(), true);
        self.queue_own(id, lane, &[&header, payload]);
    }

    /// Sends a payload frame to one client, if there is room.
    pub(crate) fn reply_payload(&mut self, id: ConnId, lane: Lane, frame: &[u8]) {
        if self.is_room_for(id, lane, frame.len()) {
            self.reply(id, lane, frame);
        } else {
            self.metrics.deliver_dropped += 1;
        }
    }

    /// Sends a page that the client asked for.
    pub(crate) fn reply_page(&mut self, id: ConnId, frame: &[u8]) {
        let Some((opcode, payload)) = self.encode_for(id, frame) else {
            return;
        };
        let asked_bytes = self.conns.get(id).map_or(0, |conn| conn.out.asked_bytes);
        if asked_bytes > self.config.queue_bytes_max || !self.make_room(id, payload.len()) {
            let text = "earlier pages were not read yet; ask again when they are";
            return self.reply_error(id, reference_of(frame), ErrorCode::Overloaded, text);
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.out.asked_bytes = asked_bytes.saturating_add(payload.len() as u32 + 16);
        }
        self.queue_reply(id, Lane::Pages, opcode, &payload);
    }

    pub(crate) fn reply_error(&mut self, id: ConnId, reference: u32, code: ErrorCode, text: &str) {
        self.reply(id, Lane::Control, &frame::encode_error(reference, code, text));
    }

    pub(crate) fn reply_pong(&mut self, id: ConnId, reference: u32, time_ms: u64) {
        let pong = body::Pong {
            time_ms,
            server_time_ms: self.now.wall_ms,
        };
        self.reply(
            id,
            Lane::Control,
            &frame::encode(FrameKind::Pong, reference, &pong),
        );
    }

    /// Whether a frame may be queued; if there is no room, the connection is demoted.
    pub(crate) fn is_room_for(&mut self, id: ConnId, lane: Lane, len: usize) -> bool {
        let Some(conn) = self.conns.get(id) else {
            return false;
        };
        if matches!(conn.stage, Stage::Closing | Stage::Closed) {
            return false;
        }
        if lane == Lane::Control {
            // What routers send unasked (read marks) must not grow without bound either.
            let waiting = conn
                .out
                .backlog
                .as_ref()
                .map_or(0, |backlog| backlog.control_bytes());
            if waiting + len > CONTROL_BYTES_MAX {
                self.demote(id);
                return false;
            }
            return true;
        }
        if conn.has(flag::DEMOTED) {
            return false;
        }
        let queue_bytes_max = self.config.queue_bytes_max as usize;
        let (queued, unasked) = (conn.out.queued_bytes(), conn.out.unasked_bytes());
        if lane == Lane::Transient && unasked * 2 > queue_bytes_max {
            self.metrics.deliver_transient_dropped += 1;
            return false;
        }
        let copied = conn.out.is_in_flight() || conn.out.backlog.is_some();
        let over_own = queued > 0 && unasked + len > queue_bytes_max;
        let over_total = copied && self.memory.bytes() + len as u64 > self.config.queue_total_bytes_max;
        if (over_own || over_total) && lane == Lane::Transient {
            self.metrics.deliver_transient_dropped += 1;
            return false;
        }
        if over_own || (over_total && !self.make_room(id, len)) {
            self.demote(id);
            return false;
        }
        true
    }

    /// Drops all payload of a connection until its next sync or pull.
    pub(crate) fn demote(&mut self, id: ConnId) {
        let due = self.tick + ticks_in(self.config.slow);
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.stage == Stage::Live) else {
            return;
        };
        if conn.has(flag::DEMOTED) {
            return;
        }
        conn.set(flag::DEMOTED);
        self.drop_payload(id);
        self.metrics.deliver_demotions += 1;
        self.metrics.demoted += 1;
        self.wheel.arm_by(id.slot(), due);
        self.list(id);
    }

    /// The client asks for what it missed: from here on it gets payload again. Called before the request is
    /// forwarded, so that nothing falls between what the answer holds and what is delivered live.
    pub(crate) fn turn_live(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.clear(flag::DEMOTED) {
            self.metrics.demoted -= 1;
            self.tell_missed(id);
        }
    }

    /// Tells the client what it was not sent.
    pub(crate) fn tell_missed(&mut self, id: ConnId) {
        let spread_ms = self.config.resync_spread.as_millis() as u32;
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.stage == Stage::Live) else {
            return;
        };
        let told = conn
            .rare
            .as_mut()
            .and_then(|rare| rare.missed.take_frame(spread_ms))
            .filter(|_| !Bug::DropWithoutPullRequired.is_planted());
        conn.trim();
        if let Some((frame, is_resync)) = told {
            self.metrics.deliver_resyncs += u64::from(is_resync);
            self.metrics.deliver_pull_required += u64::from(!is_resync);
            self.reply(id, Lane::Control, &frame);
        }
    }

    /// Another shard had something for this connection and found no room in the inbox.
    pub(crate) fn overflowed(&mut self, id: ConnId) {
        let known = self
            .conns
            .get_mut(id)
            .filter(|conn| matches!(conn.stage, Stage::Live | Stage::Claiming));
        if let Some(conn) = known {
            conn.rare().missed.overflow();
            self.demote(id);
            self.list(id);
        }
    }

    /// Has the connection looked at when the turn ends.
    pub(crate) fn list(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.has(flag::LISTED)
            && !conn.out.is_in_flight()
        {
            conn.set(flag::LISTED);
            self.listed.push(id);
        }
    }
}

fn push_to_backlog(conn: &mut Conn, pool: &mut BacklogPool, lane: Lane, parts: &[&[u8]]) {
    conn.out
        .backlog
        .get_or_insert_with(|| pool.pop().unwrap_or_default())
        .push(lane, parts);
}
