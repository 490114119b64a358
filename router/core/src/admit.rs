//! Stage admit: a message gets its place in its lane's queue, or an answer that says why not.
//!
//! Owns the queues of the lanes (at most 8,192 messages and 8 MiB each, 64 MiB together) and the gates. When a queue
//! is full the message is answered `overloaded`. After any retryable refusal the gate of (connection, conversation)
//! is closed: later sends are refused until one comes with the restart flag, so none overtakes the one that failed.

use std::collections::{HashMap, VecDeque};

use corelane_protocol::frame::encode_error;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::hash;
use corelane_protocol::id::{ConvId, Lane};
use corelane_protocol::limits::COMMIT_BYTES_MAX;

use crate::append::Batch;
use crate::core::RouterCore;
use crate::event::{Origin, Output, Submission};
use crate::planted::Bug;

/// Most messages that wait in one lane.
pub(crate) const LANE_MESSAGES_MAX: usize = 8_192;
/// Most bytes that wait in one lane.
pub(crate) const LANE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes that wait in all lanes.
pub(crate) const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most commits of a lane that wait to be published before it stops committing.
pub(crate) const PUBLICATIONS_MAX: usize = 64;
/// Most closed gates of all connections; past it the oldest knowledge is dropped with its connection's gates.
const GATES_MAX: usize = 1_000_000;

const _: () = assert!(COMMIT_BYTES_MAX < LANE_BYTES_MAX && LANE_BYTES_MAX < QUEUED_BYTES_MAX);

/// Messages of a lane that wait for a commit.
#[derive(Debug, Default)]
pub(crate) struct LaneQueue {
    waiting: VecDeque<Submission>,
    pub(crate) bytes: usize,
}

impl LaneQueue {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn bytes_of(submission: &Submission) -> usize {
    let append = &submission.append;
    let members = append.members.join.len() + append.members.leave.len();
    512 + append.payload.len() + append.extensions.len() + members * 80
}

/// Closed gates, by connection.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    closed: HashMap<(u64, u64), Vec<u64>>,
    count: usize,
}

impl Gates {
    fn key(origin: Origin) -> Option<(u64, u64)> {
        match origin {
            Origin::Client { boot, conn, .. } => Some((boot, conn)),
            Origin::Api(_) => None,
        }
    }

    pub(crate) fn close(&mut self, origin: Origin, conv: &ConvId) {
        let Some(key) = Self::key(origin).filter(|_| !Bug::GateNotClosed.is_planted()) else {
            return;
        };
        let hash = hash::content_hash(conv.as_bytes());
        if self.count >= GATES_MAX {
            self.closed.clear();
            self.count = 0;
        }
        let gates = self.closed.entry(key).or_default();
        if !gates.contains(&hash) {
            gates.push(hash);
            self.count += 1;
        }
    }

    fn open(&mut self, origin: Origin, conv: &ConvId) {
        let Some(key) = Self::key(origin) else { return };
        let Some(gates) = self.closed.get_mut(&key) else {
            return;
        };
        let before = gates.len();
        let hash = hash::content_hash(conv.as_bytes());
        gates.retain(|gate| *gate != hash);
        self.count -= before - gates.len();
        if gates.is_empty() {
            self.closed.remove(&key);
        }
    }

    fn is_closed(&self, origin: Origin, conv: &ConvId) -> bool {
        Self::key(origin)
            .and_then(|key| self.closed.get(&key))
            .is_some_and(|gates| gates.contains(&hash::content_hash(conv.as_bytes())))
    }

    pub(crate) fn forget(&mut self, boot: u64, conn: u64) {
        if let Some(gates) = self.closed.remove(&(boot, conn)) {
            self.count -= gates.len();
        }
    }

    pub(crate) fn forget_gateway(&mut self, boot: u64) {
        self.closed.retain(|(owner, _), _| *owner != boot);
        self.count = self.closed.values().map(Vec::len).sum();
    }
}

impl RouterCore {
    pub(crate) fn submit(&mut self, submission: Submission, outputs: &mut Vec<Output>) {
        let (origin, conv) = (submission.origin, submission.append.conv.clone());
        if submission.restart {
            self.gates.open(origin, &conv);
        } else if self.gates.is_closed(origin, &conv) {
            let text = "an earlier send of this conversation was refused; restart from the oldest";
            return self.refuse(origin, ErrorCode::GateClosed, text, outputs);
        }
        let lane = hash::lane_of(submission.append.app, &conv, self.lane_count);
        let bytes = bytes_of(&submission);
        let state = self.lanes.entry(lane).or_default();
        let full = state.queue.len() >= LANE_MESSAGES_MAX
            || state.queue.bytes + bytes > LANE_BYTES_MAX
            || self.queued_bytes + bytes > QUEUED_BYTES_MAX;
        if full {
            return self.refuse_retryably(
                origin,
                &conv,
                ErrorCode::Overloaded,
                "the router's queue is full",
                outputs,
            );
        }
        self.metrics.admitted += 1;
        state.queue.bytes += bytes;
        self.queued_bytes += bytes;
        state.queue.waiting.push_back(submission);
        self.start_commit(lane, outputs);
    }

    /// Hands what waits in a lane to the store, unless a batch of the lane is there already: at most 1 MiB.
    pub(crate) fn start_commit(&mut self, lane: Lane, outputs: &mut Vec<Output>) {
        let now_ms = u64::try_from(self.now.mono.as_millis()).unwrap_or(u64::MAX);
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        if !state.committing.is_empty() || state.publications.len() >= PUBLICATIONS_MAX {
            return;
        }
        let mut batch_bytes = 0;
        let mut expired = Vec::new();
        while let Some(next) = state.queue.waiting.front() {
            let bytes = bytes_of(next);
            if batch_bytes > 0 && batch_bytes + bytes > COMMIT_BYTES_MAX {
                break;
            }
            let Some(submission) = state.queue.waiting.pop_front() else {
                break;
            };
            state.queue.bytes -= bytes;
            self.queued_bytes -= bytes;
            // A message behind one that expired must not overtake it: its gate is closed by then.
            let gated = expired.iter().any(|other: &Submission| {
                other.origin_conn() == submission.origin_conn() && other.append.conv == submission.append.conv
            });
            if submission.deadline_ms < now_ms || (gated && !submission.restart) {
                expired.push(submission);
            } else {
                batch_bytes += bytes;
                state.committing.push(submission);
            }
        }
        if !state.committing.is_empty() {
            let appends = state
                .committing
                .iter()
                .map(|submission| submission.append.clone())
                .collect();
            outputs.push(Output::Persist(Batch { lane, appends }));
        }
        for submission in expired {
            let text = "waited too long to be stored";
            self.refuse_placed(lane, &submission, ErrorCode::Overloaded, text, outputs);
        }
    }

    /// Refuses a message that had its place in the lane, and with it those of the same gate that wait behind it, so
    /// that none of them is stored before it. A restart among them has opened the gate already: it stays open.
    pub(crate) fn refuse_placed(
        &mut self,
        lane: Lane,
        refused: &Submission,
        code: ErrorCode,
        text: &str,
        outputs: &mut Vec<Output>,
    ) {
        let conv = &refused.append.conv;
        let is_behind = |other: &Submission| {
            other.origin_conn().is_some()
                && other.origin_conn() == refused.origin_conn()
                && other.append.conv == *conv
        };
        let mut behind = Vec::new();
        let mut is_restarted = false;
        if let Some(state) = self.lanes.get_mut(&lane) {
            for submission in std::mem::take(&mut state.queue.waiting) {
                is_restarted |=
                    is_behind(&submission) && (submission.restart || Bug::LaneOvertakes.is_planted());
                if is_behind(&submission) && !is_restarted {
                    state.queue.bytes -= bytes_of(&submission);
                    self.queued_bytes -= bytes_of(&submission);
                    behind.push(submission.origin);
                } else {
                    state.queue.waiting.push_back(submission);
                }
            }
        }
        if !is_restarted {
            self.gates.close(refused.origin, conv);
        }
        self.refuse(refused.origin, code, text, outputs);
        for origin in behind {
            let text = "an earlier send of this conversation was refused; restart from the oldest";
            self.refuse(origin, ErrorCode::GateClosed, text, outputs);
        }
    }

    /// Refuses and closes the gate.
    pub(crate) fn refuse_retryably(
        &mut self,
        origin: Origin,
        conv: &ConvId,
        code: ErrorCode,
        text: &str,
        outputs: &mut Vec<Output>,
    ) {
        self.gates.close(origin, conv);
        self.refuse(origin, code, text, outputs);
    }

    pub(crate) fn refuse(&mut self, origin: Origin, code: ErrorCode, text: &str, outputs: &mut Vec<Output>) {
        self.metrics.refused += 1;
        outputs.push(Output::Answer(
            origin,
            encode_error(origin.reference(), code, text),
        ));
    }
}

impl Origin {
    /// The client's reference; 0 for the API.
    pub const fn reference(self) -> u32 {
        match self {
            Self::Client { reference, .. } => reference,
            Self::Api(_) => 0,
        }
    }
}

impl Submission {
    fn origin_conn(&self) -> Option<(u64, u64)> {
        Gates::key(self.origin)
    }
}
