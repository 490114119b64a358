//! Lanes that a router loses or gives up are drained: all that it has in them is published, and the bus has taken it. How a
//! router leaves in order follows from that.

use std::time::Duration;

use corelane_router_core::RouterCore;
use corelane_router_core::event::{Input, LaneList};
use corelane_router_core::place::RouterSet;

use crate::member::{Errand, Leaving, Member, Step};
use crate::world::{Event, World};

/// How long a router that leaves waits for its lanes to drain. Its lease is not renewed meanwhile, and must not end.
const DRAIN_GRACE_US: u64 = 300_000;
/// How often it looks whether gateways have reported all.
const CONSUMED_US: u64 = 5_000;
/// A router that left comes back after this time at the latest.
const RETURN_US_MAX: u64 = 2_000_000;
/// Version of the list by which a router that leaves gives up its lanes.
const LEAVING: u64 = u64::MAX;

impl World {
    /// The core holds nothing of lost lanes any more. That counts when the bus has taken what was published.
    pub(crate) fn core_drained(&mut self, at: usize, version: u64) {
        if self.shape.is_cluster() {
            let router = &mut self.routers[at];
            router.drains.push((version, router.untaken.clone()));
            self.say_drained(at);
        }
    }

    /// The bus has taken a record; 0: one that was not waited for.
    pub(crate) fn taken(&mut self, life: u32, token: u64) {
        let Some(at) = self.router_of(life).filter(|_| token != 0) else {
            return;
        };
        let router = &mut self.routers[at];
        router.untaken.remove(&token);
        for (_, waits) in &mut router.drains {
            waits.remove(&token);
        }
        self.say_drained(at);
    }

    /// A later version is not drained before an earlier one.
    pub(crate) fn say_drained(&mut self, at: usize) {
        let drains = &mut self.routers[at].drains;
        let count = drains.iter().take_while(|(_, waits)| waits.is_empty()).count();
        let Some((version, _)) = drains.drain(..count).next_back() else {
            return;
        };
        let life = self.routers[at].life;
        let member = self.member_of(at);
        member.drained = version;
        if member.leaving == Leaving::No {
            self.plan_turn(at, self.now);
        } else {
            self.after(0, Event::Member(life, Step::LookConsumed));
        }
    }

    /// Some router leaves in order, if others go on.
    pub(crate) fn begin_leaving(&mut self) {
        let others = self.running();
        let may_leave = |at: &usize| {
            let member = self.routers[*at].member.as_ref();
            member.is_some_and(Member::may_leave)
        };
        let willing: Vec<usize> = others.iter().copied().filter(may_leave).collect();
        let Some(at) = self.rng.pick(&willing).copied().filter(|_| willing.len() > 1) else {
            return;
        };
        self.counts.leaves += 1;
        let life = self.routers[at].life;
        self.member_of(at).leaving = Leaving::Draining;
        self.after(0, Event::Member(life, Step::GiveUp));
        self.after(DRAIN_GRACE_US, Event::Member(life, Step::GraceOver));
    }

    pub(crate) fn give_up_lanes(&mut self, at: usize) {
        let none = LaneList {
            version: LEAVING,
            roles: Vec::new(),
            until: Duration::MAX,
            lapsed: false,
        };
        self.core_input(self.routers[at].life, Input::Lanes(none));
    }

    /// Others would publish again what is left in the outbox.
    pub(crate) fn leave_when_consumed(&mut self, at: usize) {
        let rows = self.routers[at].core.as_ref().map_or(0, RouterCore::rows_held);
        let member = self.member_of(at);
        if member.drained != LEAVING || member.leaving != Leaving::Draining {
            return;
        }
        if rows == 0 {
            return self.leave_list(at);
        }
        let life = self.routers[at].life;
        self.after(CONSUMED_US, Event::Member(life, Step::LookConsumed));
    }

    /// What is left others publish, while it is published here, too.
    pub(crate) fn leave_undrained(&mut self, at: usize) {
        if self.member_of(at).leaving == Leaving::Draining {
            self.leave_list(at);
        }
    }

    pub(crate) fn leave_list(&mut self, at: usize) {
        let (now, life) = (self.now, self.routers[at].life);
        let member = self.member_of(at);
        if member.leaving == Leaving::Draining {
            member.leaving = Leaving::Over;
            let delay = self.registry_delay();
            self.after(delay, Event::Member(life, Step::Do(Errand::Leave, now)));
        }
    }

    /// Tells its gateways who is left, and ends when that has reached them.
    pub(crate) fn has_left(&mut self, at: usize, list: Option<RouterSet>) {
        let life = self.routers[at].life;
        for link in 0..self.links.len() {
            if let Some(list) = list.as_ref().filter(|_| self.links[link].life == life) {
                self.say_list(link, list);
            }
        }
        self.flush_links();
        let links = self.links.iter().filter(|link| link.life == life);
        let arrived_at = links.map(|link| link.out_at).max().unwrap_or(0);
        self.at_time(arrived_at + 1, Event::Stop(life));
    }

    /// A router that left ends. It comes back later.
    pub(crate) fn stop(&mut self, life: u32) {
        let Some(at) = self.router_of(life) else { return };
        self.end_router(at);
        let wait = self.rng.between(100_000, RETURN_US_MAX);
        self.restart_router(at, wait);
    }
}
