//! The router's rules: their state, and where each input goes.
//!
//! Owns, per lane, the messages that wait for a commit and the commits that wait to be published, in order, with their
//! messages or as rows of the outbox; and per gateway boot and partition the numbers that are not reported consumed; the
//! members of groups as last read; and which lanes are served here. All of it is bounded: see the files that are named for
//! the stages, and `lanes.rs`.

use std::collections::HashMap;

use corelane_protocol::id::{AppId, ConvId, Lane};
use corelane_protocol::time::Now;

use crate::admit::{Gates, LaneQueue};
use crate::append::Member;
use crate::behind::{Behind, PUBLICATIONS_MAX};
use crate::event::{Input, Output};
use crate::lanes::Lanes;
use crate::outbox::Outbox;
use crate::planted::Bug;
use crate::publish::Publication;

/// Counters by stage. Plain numbers: the core is their only writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouterMetrics {
    /// Sends taken.
    pub admitted: u64,
    /// Sends refused, here or by the store.
    pub refused: u64,
    /// Messages newly stored.
    pub persisted: u64,
    /// Sends that were stored before.
    pub repeated: u64,
    /// Commits with at least one new message.
    pub commits: u64,
    /// Commits whose outcome is not known.
    pub unknown: u64,
    /// Messages that an earlier life had stored and may not have published.
    pub recovered: u64,
    /// Messages that were let go of and read from the store again.
    pub read_back: u64,
    /// Messages whose receivers were looked up.
    pub located: u64,
    /// Messages published, or found to have nobody online.
    pub published: u64,
    /// Bus records published.
    pub records: u64,
    /// Messages in them: each once per gateway where it has a receiver.
    pub record_messages: u64,
    /// Deliveries that they ask for: each message once per connection that is to get it.
    pub record_deliveries: u64,
    /// Bus records published again under their number.
    pub republished: u64,
    /// Outbox rows cleared.
    pub cleared: u64,
}

/// One lane.
#[derive(Debug, Default)]
pub(crate) struct LaneState {
    pub(crate) queue: LaneQueue,
    /// Messages of the batch that is with the store.
    pub(crate) committing: Vec<crate::event::Submission>,
    pub(crate) publications: std::collections::VecDeque<Publication>,
    /// What is to be published after them.
    pub(crate) behind: Behind,
    /// Another router serves it now, and waits until what has its place here is published.
    pub(crate) is_draining: bool,
}

impl LaneState {
    /// Whether anything in it is still to be published here. What waits in a lane that was never served here is not.
    pub(crate) fn has_work(&self) -> bool {
        let is_published =
            (self.publications.is_empty() && self.behind.len() == 0) || Bug::DrainedTooEarly.is_planted();
        let is_finished = self.committing.is_empty() && is_published;
        !is_finished || (self.is_draining && self.queue.len() > 0)
    }
}

/// Members of a group as of a version, and who left shortly before it.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    pub(crate) version: u64,
    pub(crate) stays: Vec<Member>,
}

/// The rules of one router.
#[derive(Debug)]
pub struct RouterCore {
    pub(crate) now: Now,
    pub(crate) boot: u64,
    pub(crate) epoch: u64,
    pub(crate) partitions: u16,
    pub(crate) lanes: HashMap<Lane, LaneState>,
    pub(crate) lane_count: u16,
    pub(crate) served: Lanes,
    pub(crate) queued_bytes: usize,
    pub(crate) gates: Gates,
    pub(crate) outbox: Outbox,
    pub(crate) members: HashMap<(AppId, ConvId), Members>,
    /// Stays in all of `members`, and one more for each group.
    pub(crate) members_cached: usize,
    /// Lane whose publication waits for this ticket.
    pub(crate) tickets: HashMap<u64, Lane>,
    pub(crate) next_ticket: u64,
    /// Most commits of a lane that wait to be published with their messages.
    pub(crate) publications_max: usize,
    pub(crate) metrics: RouterMetrics,
}

impl RouterCore {
    /// Rules without any state. `boot` numbers the records of this life; `lane_count` and `epoch` are the store's. No
    /// lane is served before the first [`Input::Lanes`].
    pub fn new(boot: u64, epoch: u64, lane_count: u16, partitions: u16) -> Self {
        Self {
            now: Now::default(),
            boot,
            epoch,
            partitions,
            lanes: HashMap::new(),
            lane_count,
            served: Lanes::default(),
            queued_bytes: 0,
            gates: Gates::default(),
            outbox: Outbox::default(),
            members: HashMap::new(),
            members_cached: 0,
            tickets: HashMap::new(),
            next_ticket: 1,
            publications_max: PUBLICATIONS_MAX,
            metrics: RouterMetrics::default(),
        }
    }

    /// Applies one input at `now`, appending what must be done to `outputs`, to be done in that order.
    ///
    /// `now` must not be earlier than in the call before.
    pub fn handle(&mut self, now: Now, input: Input, outputs: &mut Vec<Output>) {
        self.now = now;
        match input {
            Input::Lanes(list) => self.lanes_listed(list, outputs),
            Input::Submit(submission) => self.submit(submission, outputs),
            Input::Committed(lane, outcome) => self.committed(lane, outcome, outputs),
            Input::Located(ticket, routes) => self.located(ticket, &routes, outputs),
            Input::Members(ticket, version, stays) => self.members_loaded(ticket, version, stays, outputs),
            Input::Rows(ticket, rows) => self.rows_read(ticket, rows, outputs),
            Input::Failed(ticket) => self.ask_again(ticket, outputs),
            Input::Consumed {
                boot,
                partition,
                number,
                gaps,
            } => {
                self.consumed(boot, partition, number, &gaps, outputs);
            }
            Input::GatewayGone(boot) => self.gateway_gone(boot, outputs),
            Input::TopicLost(boot) => self.topic_lost(boot, outputs),
            Input::ConnClosed(boot, conn) => self.gates.forget(boot, conn),
            Input::Recovered(recovered) => self.recovered(recovered, outputs),
            Input::Notice(notice) => self.notice(notice, outputs),
        }
        self.say_drained(outputs);
        debug_assert_eq!(
            self.queued_bytes,
            self.lanes.values().map(|lane| lane.queue.bytes).sum::<usize>(),
            "the total counts what the lanes hold"
        );
        debug_assert!(
            self.lanes.values().all(LaneState::comes_to_what_is_behind),
            "rows that were let go of are read back, or have their turn after a publication"
        );
    }

    /// Counters so far.
    pub const fn metrics(&self) -> &RouterMetrics {
        &self.metrics
    }

    /// Messages that wait for a commit or are being committed.
    pub fn in_flight(&self) -> usize {
        self.lanes
            .values()
            .map(|lane| lane.queue.len() + lane.committing.len())
            .sum()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.now.mono.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn ticket(&mut self, lane: Lane) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, lane);
        ticket
    }
}
