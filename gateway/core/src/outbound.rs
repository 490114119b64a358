//! What one connection is still to be sent.
//!
//! ```text
//! Idle -- first frame of a turn --> Ready(shared span) -- turn ends --> InFlight -- Sent --> Idle or InFlight
//! ```
//!
//! A connection with nothing in flight takes spans of the shared arenas, which cost it nothing; spans that touch
//! become one. Answers to one connection lie there, too, but count as its own. Everything else is *copied* into the
//! boxed backlog, five lanes of bytes: so a reader that is stuck keeps at most the one shared chunk alive that is in
//! flight. When the send completes the backlog leaves
//! as a span of its own, control lane first, at most [`SEND_BYTES`] at a time, cut between frames. An idle
//! connection owns no memory beyond this struct.
//!
//! Bounds and what happens when they are reached are decided in `deliver.rs`; this file only counts.

use corelane_protocol::arena::Span;
use corelane_protocol::ws::header;

use crate::places::Places;
use crate::wheel::Tick;

/// Most bytes of backlog that leave in one send, unless one frame alone is larger.
pub(crate) const SEND_BYTES: usize = 64 * 1024;
/// Most memory that a backlog keeps while it waits in the pool.
const POOLED_LANE_BYTES: usize = 16 * 1024;

/// Priority of a frame. They leave in this order, but pages before transient ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Control = 0,
    Calls = 1,
    Messages = 2,
    Transient = 3,
    /// Pages that the client asked for: they wait for an answer, so they are kept when payload is dropped.
    Pages = 4,
}

impl Lane {
    /// The lane with this number in a bus record.
    pub(crate) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Control,
            1 => Self::Calls,
            2 => Self::Messages,
            _ => Self::Transient,
        }
    }
}

/// What happens to the socket right now.
#[derive(Debug)]
pub(crate) enum Sending {
    Idle,
    /// Leaves at the end of the turn.
    Ready(Span),
    /// `owned_bytes` of it count against the shard.
    InFlight {
        bytes: u32,
        owned_bytes: u32,
        since: Tick,
    },
}

/// Backlogs that wait for their next use.
pub(crate) type BacklogPool = Vec<Box<Backlog>>;

/// Frames that could not be shared, by lane.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    lanes: [LaneBytes; 5],
    /// Places of what is in the message lane.
    places: Places,
}

#[derive(Debug, Default)]
struct LaneBytes {
    bytes: Vec<u8>,
    start: usize,
}

impl LaneBytes {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Moves whole frames to `into` while it stays within `limit`; returns whether the lane is empty.
    fn take(&mut self, into: &mut Vec<u8>, limit: usize) -> bool {
        while let Some(unsent) = self.bytes.get(self.start..).filter(|unsent| !unsent.is_empty()) {
            let frame = unsent.get(..frame_bytes(unsent)).unwrap_or(unsent);
            if !into.is_empty() && into.len() + frame.len() > limit {
                return false;
            }
            into.extend_from_slice(frame);
            self.start += frame.len();
        }
        self.clear();
        true
    }

    /// Gives the front of the buffer back once it is the larger part.
    fn compact(&mut self) {
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

/// Length of the server frame at the front of `bytes`, header included.
fn frame_bytes(bytes: &[u8]) -> usize {
    match header::parse(bytes, false) {
        Ok(Some(header)) => {
            header.header_bytes + usize::try_from(header.payload_bytes).unwrap_or(usize::MAX / 2)
        }
        // Only whole frames of this gateway's own are ever queued.
        Ok(None) | Err(_) => bytes.len(),
    }
}

impl Backlog {
    /// Appends one frame.
    pub(crate) fn push(&mut self, lane: Lane, parts: &[&[u8]]) {
        let lane = self.lane(lane);
        for part in parts {
            lane.bytes.extend_from_slice(part);
        }
    }

    /// Appends one frame or several.
    pub(crate) fn push_span(&mut self, lane: Lane, span: &Span) {
        span.copy_to(&mut self.lane(lane).bytes);
    }

    /// Notes the place of a message that was pushed.
    pub(crate) fn note(&mut self, conv: &[u8], seq: u64) {
        self.places.note(conv, seq);
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneBytes {
        let [control, calls, messages, transient, pages] = &mut self.lanes;
        match lane {
            Lane::Control => control,
            Lane::Calls => calls,
            Lane::Messages => messages,
            Lane::Transient => transient,
            Lane::Pages => pages,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(LaneBytes::len).sum()
    }

    pub(crate) fn control_bytes(&self) -> usize {
        let [control, ..] = &self.lanes;
        control.len()
    }

    /// What [`Self::drop_payload`] would drop.
    pub(crate) fn payload_bytes(&self) -> usize {
        let [_, calls, messages, transient, _] = &self.lanes;
        calls.len() + messages.len() + transient.len()
    }

    /// Appends whole frames to `into`, in the order of the lanes (pages before transient ones), up to `limit` bytes in
    /// all.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>, limit: usize) {
        let [control, calls, messages, transient, pages] = &mut self.lanes;
        for lane in [&mut *control, &mut *calls] {
            if !lane.take(into, limit) {
                lane.compact();
                return;
            }
        }
        if !messages.take(into, limit) {
            messages.compact();
            return;
        }
        self.places.clear();
        if !pages.take(into, limit) {
            pages.compact();
            return;
        }
        if !transient.take(into, limit) {
            transient.compact();
        }
    }

    /// Drops everything but control frames and pages; the places of the messages go to `missed`.
    pub(crate) fn drop_payload(&mut self, missed: &mut Places) {
        missed.absorb(&mut self.places);
        let [_, calls, messages, transient, _] = &mut self.lanes;
        for lane in [calls, messages, transient] {
            *lane = LaneBytes::default();
        }
    }

    /// Drops the pages, too: nobody waits for them any more.
    pub(crate) fn drop_pages(&mut self) {
        let [.., pages] = &mut self.lanes;
        *pages = LaneBytes::default();
    }

    /// Empties it for the next connection, keeping a little memory.
    pub(crate) fn recycle(&mut self) {
        self.places.clear();
        for lane in &mut self.lanes {
            lane.clear();
            lane.bytes.shrink_to(POOLED_LANE_BYTES);
        }
    }
}

/// The queue of one connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) sending: Sending,
    pub(crate) backlog: Option<Box<Backlog>>,
    /// Bytes of pages that the client asked for, at most; 0 whenever the queue is empty.
    pub(crate) asked_bytes: u32,
    /// Whether what is ready was written for this connection alone.
    pub(crate) is_own: bool,
}

impl Outbound {
    pub(crate) const EMPTY: Self = Self {
        sending: Sending::Idle,
        backlog: None,
        asked_bytes: 0,
        is_own: false,
    };

    /// All that is queued: ready, in flight and in the backlog.
    pub(crate) fn queued_bytes(&self) -> usize {
        let sending = match &self.sending {
            Sending::Idle => 0,
            Sending::Ready(span) => span.len(),
            Sending::InFlight { bytes, .. } => *bytes as usize,
        };
        sending + self.backlog_bytes()
    }

    /// What is queued without having been asked for.
    pub(crate) fn unasked_bytes(&self) -> usize {
        self.queued_bytes().saturating_sub(self.asked_bytes as usize)
    }

    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.len())
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.payload_bytes())
    }

    /// Bytes that belong to this connection alone.
    pub(crate) fn owned_bytes(&self) -> usize {
        let sending = match &self.sending {
            Sending::InFlight { owned_bytes, .. } => *owned_bytes as usize,
            Sending::Ready(span) if self.is_own => span.len(),
            Sending::Idle | Sending::Ready(_) => 0,
        };
        sending + self.backlog_bytes()
    }

    pub(crate) const fn is_in_flight(&self) -> bool {
        matches!(self.sending, Sending::InFlight { .. })
    }

    pub(crate) const fn is_empty(&self) -> bool {
        matches!(self.sending, Sending::Idle) && self.backlog.is_none()
    }

    /// Takes `span` without copying, if nothing stands between; `is_own` if no other receiver has it. Later frames must
    /// not overtake a backlog.
    pub(crate) fn share(&mut self, span: &Span, is_own: bool) -> bool {
        if self.backlog.is_some() {
            return false;
        }
        match &mut self.sending {
            Sending::Idle => {
                self.sending = Sending::Ready(span.clone());
                self.is_own = is_own;
                true
            }
            Sending::Ready(ready) => ready.join(span),
            Sending::InFlight { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize, byte: u8) -> Vec<u8> {
        let header = corelane_protocol::ws::server_header(corelane_protocol::ws::Opcode::Binary, len, true);
        let mut frame = header.to_vec();
        frame.resize(header.len() + len, byte);
        frame
    }

    #[test]
    fn a_backlog_leaves_control_first_and_is_cut_between_frames() {
        let mut backlog = Backlog::default();
        let (message, pong) = (frame(1000, 1), frame(3, 2));
        for _ in 0..3 {
            backlog.push(Lane::Messages, &[&message]);
        }
        backlog.push(Lane::Transient, &[&pong]);
        backlog.push(Lane::Control, &[&pong]);
        let mut sent = Vec::new();
        backlog.take(&mut sent, 2100);
        assert_eq!(sent, [pong.clone(), message.clone(), message.clone()].concat());
        sent.clear();
        backlog.take(&mut sent, 2100);
        assert_eq!(sent, [message, pong].concat());
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn a_frame_larger_than_a_send_leaves_alone() {
        let mut backlog = Backlog::default();
        let page = frame(300_000, 1);
        backlog.push(Lane::Messages, &[&page]);
        backlog.push(Lane::Messages, &[&page]);
        let mut sent = Vec::new();
        backlog.take(&mut sent, SEND_BYTES);
        assert_eq!(sent.len(), page.len());
    }

    #[test]
    fn spans_that_touch_are_shared_and_nothing_overtakes_a_copy() {
        let mut arena = corelane_protocol::arena::Arena::new();
        let (one, two, three) = (arena.push(&[b"a"]), arena.push(&[b"b"]), arena.push(&[b"c"]));
        let mut out = Outbound::EMPTY;
        assert!(out.share(&one, false) && out.share(&two, false));
        assert!(!out.share(&one, false));
        out.backlog = Some(Box::default());
        assert!(!out.share(&three, false));
    }
}
