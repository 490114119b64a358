//! Stage admit: a message gets its place in its lane's queue, or an answer that says why not.
//!
//! Owns the queues of the lanes (at most 8,192 messages and 8 MiB each, 64 MiB together) and the gates (1,000,000; past
//! it all count as closed for a while). When a queue is full the message is answered `overloaded`. After any retryable refusal the gate of (connection, conversation)
//! is closed: later sends are refused until one comes with the restart flag, so none overtakes the one that failed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use corelane_protocol::frame::encode_error;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::hash;
use corelane_protocol::id::{ConvId, Lane};
use corelane_protocol::limits::COMMIT_BYTES_MAX;

use crate::append::Batch;
use crate::core::RouterCore;
use crate::event::{LaneRole, Origin, Output, Submission};
use crate::planted::Bug;

/// Most messages that wait in one lane.
pub(crate) const LANE_MESSAGES_MAX: usize = 8_192;
/// Most bytes that wait in one lane.
pub(crate) const LANE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes that wait in all lanes.
pub(crate) const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most closed gates that are remembered. Past it every gate counts as closed until what was on its way is over.
const GATES_MAX: usize = 1_000_000;
/// Longer than a send can be on its way: its deadline is 5 s.
const ON_ITS_WAY: Duration = Duration::from_secs(6);

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

/// Connection (gateway boot and number) and conversation.
type Gate = ((u64, u64), ConvId);

/// Closed gates, by connection.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    closed: HashMap<(u64, u64), Vec<u64>>,
    count: usize,
    /// One more than can be remembered was closed: all are, until then.
    all_until: Duration,
}

impl Gates {
    fn key(origin: Origin) -> Option<(u64, u64)> {
        match origin {
            Origin::Client { boot, conn, .. } => Some((boot, conn)),
            Origin::Api(_) => None,
        }
    }

    pub(crate) fn close(&mut self, now: Duration, origin: Origin, conv: &ConvId) {
        let Some(key) = Self::key(origin).filter(|_| !Bug::GateNotClosed.is_planted()) else {
            return;
        };
        let hash = hash::content_hash(conv.as_bytes());
        if self.count >= GATES_MAX {
            self.all_until = now + ON_ITS_WAY;
            return;
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

    fn is_closed(&self, now: Duration, origin: Origin, conv: &ConvId) -> bool {
        let Some(key) = Self::key(origin) else {
            return false;
        };
        let gates = self.closed.get(&key);
        let is_known = gates.is_some_and(|gates| gates.contains(&hash::content_hash(conv.as_bytes())));
        is_known || now < self.all_until
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
        } else if self.gates.is_closed(self.now.mono, origin, &conv) {
            let text = "an earlier send of this conversation was refused; restart from the oldest";
            return self.refuse(origin, ErrorCode::GateClosed, text, outputs);
        }
        let lane = hash::lane_of(submission.append.app, &conv, self.lane_count);
        let bytes = bytes_of(&submission);
        let is_foreign = self.served.role(lane) == LaneRole::Foreign;
        let state = self.lanes.entry(lane).or_default();
        if is_foreign && state.is_draining {
            let text = "another router serves this conversation from here on; send again";
            return self.refuse_retryably(origin, &conv, ErrorCode::Retry, text, outputs);
        }
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
        if is_foreign || !self.served.are_believed(self.now.mono) {
            self.look_at_routers(outputs);
        }
        self.start_commit(lane, outputs);
    }

    /// Hands what waits in a lane to the store, unless a batch of the lane is there already: at most 1 MiB.
    pub(crate) fn start_commit(&mut self, lane: Lane, outputs: &mut Vec<Output>) {
        if !self.may_commit(lane) {
            return;
        }
        let now_ms = self.now_ms();
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        if !state.committing.is_empty() || !state.may_take_commit(self.publications_max) {
            return;
        }
        let mut batch_bytes = 0;
        let mut expired = Vec::new();
        let mut gated = HashSet::new();
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
            let is_behind = !gated.is_empty() && submission.gate().is_some_and(|gate| gated.contains(&gate));
            if submission.deadline_ms < now_ms || (is_behind && !submission.restart) {
                gated.extend(submission.gate());
                let text = "waited too long to be stored".to_owned();
                expired.push((submission, ErrorCode::Overloaded, text));
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
        self.refuse_placed(lane, expired, outputs);
    }

    /// Takes what waits in a lane off its front, as long as it is `wanted`.
    pub(crate) fn take_waiting(
        &mut self,
        lane: Lane,
        wanted: impl Fn(&Submission) -> bool,
    ) -> Vec<Submission> {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        while let Some(submission) = state.queue.waiting.pop_front_if(|next| wanted(next)) {
            state.queue.bytes -= bytes_of(&submission);
            self.queued_bytes -= bytes_of(&submission);
            taken.push(submission);
        }
        taken
    }

    /// Refuses messages that had their place in the lane, and with them those of the same gates that wait behind, so
    /// that none of them is stored before. A restart among them has opened its gate already: it stays open.
    pub(crate) fn refuse_placed(
        &mut self,
        lane: Lane,
        refused: Vec<(Submission, ErrorCode, String)>,
        outputs: &mut Vec<Output>,
    ) {
        if refused.is_empty() {
            return;
        }
        // Each gate, and whether it was opened again meanwhile.
        let gates = refused.iter().filter_map(|(submission, ..)| submission.gate());
        let mut gates: HashMap<Gate, bool> = gates.map(|gate| (gate, false)).collect();
        let mut behind = Vec::new();
        if let Some(state) = self.lanes.get_mut(&lane) {
            for submission in std::mem::take(&mut state.queue.waiting) {
                let is_restarted = submission.gate().and_then(|gate| gates.get_mut(&gate));
                let is_behind = is_restarted.is_some_and(|is_restarted| {
                    *is_restarted |= submission.restart || Bug::LaneOvertakes.is_planted();
                    !*is_restarted
                });
                if is_behind {
                    state.queue.bytes -= bytes_of(&submission);
                    self.queued_bytes -= bytes_of(&submission);
                    behind.push(submission.origin);
                } else {
                    state.queue.waiting.push_back(submission);
                }
            }
        }
        for (submission, code, text) in &refused {
            let is_restarted = submission.gate().and_then(|gate| gates.get(&gate).copied());
            if is_restarted == Some(false) {
                self.gates
                    .close(self.now.mono, submission.origin, &submission.append.conv);
            }
            self.refuse(submission.origin, *code, text, outputs);
        }
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
        self.gates.close(self.now.mono, origin, conv);
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
    fn gate(&self) -> Option<Gate> {
        Some((Gates::key(self.origin)?, self.append.conv.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_protocol::id::{GroupId, UserId};

    fn client(conn: u64) -> Origin {
        Origin::Client {
            boot: 1,
            conn,
            reference: 1,
        }
    }

    #[test]
    fn a_gate_too_many_closes_all_until_what_was_on_its_way_is_over() {
        let group = ConvId::group(&GroupId::new("team").unwrap());
        let name = |name| UserId::new(name).unwrap();
        let direct = ConvId::direct(&name("alice"), &name("bob"));
        let mut gates = Gates::default();
        let now = Duration::from_secs(1);
        for conn in 0..GATES_MAX as u64 {
            gates.close(now, client(conn), &group);
        }
        assert!(!gates.is_closed(now, client(0), &direct));
        gates.close(now, client(u64::MAX), &direct);
        assert_eq!(gates.count, GATES_MAX, "nothing is forgotten, and nothing grows");
        assert!(gates.is_closed(now, client(u64::MAX), &direct));
        assert!(gates.is_closed(now, client(0), &direct));
        let over = now + ON_ITS_WAY;
        assert!(!gates.is_closed(over, client(0), &direct));
        assert!(gates.is_closed(over, client(0), &group), "these are remembered");
    }
}
