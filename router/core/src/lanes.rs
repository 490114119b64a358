//! Which lanes are served here, and how one moves from router to router without a message out of order.
//!
//! Owns the role of each lane as of the newest router list. A lane that is lost is finished: what has its place in it
//! is committed and published, what comes is refused; when no lost lane holds anything the list's version is said to be
//! drained. A lane that is gained is held until the shell knows that its earlier routers have drained: what arrives
//! waits in the lane's queue, with the queue's bounds (`admit.rs`), at most until its deadline. What arrives for a lane
//! of another router waits too, while the list is looked at again: its sender may know a newer one. When the list is
//! older than `until` the router may have been paused while others took over; nothing is committed then before the list
//! was looked at.
//!
//! The log does not depend on any of this, the store's transactions decide there; order of delivery does.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::Lane;

use crate::core::RouterCore;
use crate::event::{LaneList, LaneRole, Output};
use crate::planted::Bug;

/// The lanes as last listed. Before the first list all are foreign.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    version: u64,
    roles: Vec<LaneRole>,
    until: Duration,
    /// The version to be said drained.
    drains: Option<u64>,
    /// The list was asked for and has not come.
    is_asked_for: bool,
}

impl Lanes {
    pub(crate) fn role(&self, lane: Lane) -> LaneRole {
        let role = self.roles.get(usize::from(lane.0));
        role.copied().unwrap_or(LaneRole::Foreign)
    }

    pub(crate) fn are_believed(&self, now: Duration) -> bool {
        now <= self.until
    }
}

impl RouterCore {
    /// Takes over a list, a newer one or the same one with other roles.
    pub(crate) fn lanes_listed(&mut self, list: LaneList, outputs: &mut Vec<Output>) {
        let LaneList {
            version,
            roles,
            until,
            lapsed,
        } = list;
        let is_other = version != self.served.version;
        let drains = if is_other {
            Some(version)
        } else {
            self.served.drains
        };
        let served = Lanes {
            version,
            roles,
            until,
            drains,
            is_asked_for: false,
        };
        let before = std::mem::replace(&mut self.served, served);
        let mut lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        lanes.sort_unstable();
        for lane in lanes {
            match self.served.role(lane) {
                LaneRole::Foreign => {
                    let was_served = before.role(lane) == LaneRole::Served;
                    self.not_served(lane, was_served && !lapsed, lapsed, outputs);
                }
                LaneRole::Held => {
                    self.set_draining(lane, false);
                    self.expire_held(lane, outputs);
                }
                LaneRole::Served => {
                    self.set_draining(lane, false);
                    self.start_commit(lane, outputs);
                }
            }
        }
    }

    /// Another router serves the lane. What has its place in it is finished if that router waits for it; what only
    /// waited for the lane to come here is refused.
    fn not_served(&mut self, lane: Lane, was_lost: bool, lapsed: bool, outputs: &mut Vec<Output>) {
        let is_draining = self.lanes.get(&lane).is_some_and(|state| state.is_draining);
        let drains = was_lost || (is_draining && !lapsed);
        self.set_draining(lane, drains);
        if drains {
            self.start_commit(lane, outputs);
        } else {
            self.refuse_waiting(lane, outputs);
        }
    }

    fn set_draining(&mut self, lane: Lane, is_draining: bool) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.is_draining = is_draining;
        }
    }

    /// Whether what waits in a lane may be handed to the store.
    pub(crate) fn may_commit(&self, lane: Lane) -> bool {
        let is_draining = || self.lanes.get(&lane).is_some_and(|state| state.is_draining);
        let is_served = match self.served.role(lane) {
            LaneRole::Served => true,
            LaneRole::Held => Bug::HeldLaneServed.is_planted(),
            LaneRole::Foreign => false,
        };
        self.served.are_believed(self.now.mono) && (is_served || is_draining())
    }

    /// Something arrived that waits until the list was looked at.
    pub(crate) fn look_at_routers(&mut self, outputs: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.served.is_asked_for, true) {
            outputs.push(Output::LookAtRouters);
        }
    }

    /// Refuses all that waits in a lane.
    fn refuse_waiting(&mut self, lane: Lane, outputs: &mut Vec<Output>) {
        let text = "another router serves this conversation; send again";
        let waiting = self.take_waiting(lane, |_| true).into_iter();
        let refused = waiting.map(|submission| (submission, ErrorCode::Retry, text.to_owned()));
        self.refuse_placed(lane, refused.collect(), outputs);
    }

    /// Refuses what waits in a lane for longer than it is worth.
    fn expire_held(&mut self, lane: Lane, outputs: &mut Vec<Output>) {
        let now_ms = self.now_ms();
        let text = "waited too long for another router to finish";
        let expired = self
            .take_waiting(lane, |next| next.deadline_ms < now_ms)
            .into_iter();
        let refused = expired.map(|submission| (submission, ErrorCode::Overloaded, text.to_owned()));
        self.refuse_placed(lane, refused.collect(), outputs);
    }

    /// Says that the list's version is drained, once, when no lane of another router holds anything.
    pub(crate) fn say_drained(&mut self, outputs: &mut Vec<Output>) {
        let Some(version) = self.served.drains else { return };
        let mut lanes = self.lanes.iter();
        if lanes.any(|(lane, state)| self.served.role(*lane) == LaneRole::Foreign && state.has_work()) {
            return;
        }
        for state in self.lanes.values_mut() {
            state.is_draining = false;
        }
        self.served.drains = None;
        outputs.push(Output::Drained(version));
    }
}
