//! A router as one of the list: what its membership asks the registry, in virtual time. How it leaves is in `drain.rs`.
//!
//! What follows from a list is the core's (`place.rs`, `lanes.rs`). Each question reaches the registry some time after it
//! was asked, and its answer comes some time after that; a turn asks one after the other. Times are a tenth of the shipped
//! ones, as leases are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::frame;
use corelane_protocol::id::{BootId, Lane, NodeId};
use corelane_protocol::link::body::{RouterInfo, RouterList};
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::event::Input;
use corelane_router_core::place::{Place, RouterEntry, RouterSet};

use crate::lease::LEASE_US;
use crate::router::boot_of;
use crate::world::{Event, World, at};

/// How often the list is looked at.
const LOOK_US: u64 = 100_000;
/// The same while something is waited for.
const WAITING_US: u64 = 5_000;
/// Looks that somebody asks for are at least so far apart.
const LOOK_DISTANCE_US: u64 = 2_000;
/// How often a router that may not be in the list yet tries to be.
const JOIN_US: u64 = 20_000;

/// What happens to a membership.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is time for a turn.
    Turn,
    /// A question that was asked then reaches the registry.
    Do(Errand, u64),
    /// Its answer comes.
    Done(Answer, u64),
    /// One that leaves gives up its lanes.
    GiveUp,
    /// It looks whether all it published is consumed.
    LookConsumed,
    /// It has waited long enough.
    GraceOver,
}

/// What the registry is asked.
#[derive(Debug)]
pub(crate) enum Errand {
    NoteDrained(u64),
    Renew,
    Look,
    /// With a version above this.
    Join(u64),
    Leave,
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Noted(u64),
    Renewed(bool),
    /// The list, and the incarnation of the registry.
    Looked(RouterSet, u64),
    /// The version, unless another one of this name lives; and the incarnation.
    Joined(Option<u64>, u64),
    Left(Option<RouterSet>),
    /// Nothing, to a look or to something else.
    Away(bool),
}

/// How far a router has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    No,
    Draining,
    Over,
}

/// A router as one of the list.
#[derive(Debug)]
pub(crate) struct Member {
    place: Place,
    entry: RouterEntry,
    has_joined: bool,
    renew_at: u64,
    /// The version that was noted as drained, and the last one that is.
    noted: u64,
    pub(crate) drained: u64,
    /// When the next turn is.
    turn_at: u64,
    turned_at: u64,
    is_turning: bool,
    /// Somebody wants another look.
    is_asked: bool,
    todo: VecDeque<Errand>,
    looks_left: u32,
    pub(crate) leaving: Leaving,
}

impl Member {
    fn new(node: &str, boot: BootId, lanes: u16) -> Self {
        let entry = RouterEntry {
            node: NodeId::new(node).expect("a short name"),
            boot,
            address: node.to_owned(),
            http: String::new(),
            cluster: 0,
        };
        Self {
            place: Place::new(boot, lanes, Some(Duration::from_micros(LEASE_US))),
            entry,
            has_joined: false,
            renew_at: 0,
            noted: 0,
            drained: 0,
            turn_at: u64::MAX,
            turned_at: 0,
            is_turning: false,
            is_asked: false,
            todo: VecDeque::new(),
            looks_left: 0,
            leaving: Leaving::No,
        }
    }

    /// It was in the list.
    pub(crate) const fn has_joined(&self) -> bool {
        self.has_joined
    }

    /// Whether the list gives it a lane.
    pub(crate) fn owns(&self, lane: Lane) -> bool {
        let owner = self.place.list().owner(lane);
        owner.is_some_and(|owner| owner.boot == self.entry.boot)
    }

    /// Whether others could go on without it.
    pub(crate) fn may_leave(&self) -> bool {
        self.has_joined && self.leaving == Leaving::No && self.place.is_listed() && self.place.has_others()
    }

    fn pace(&self) -> u64 {
        if self.is_asked {
            LOOK_DISTANCE_US
        } else if !self.has_joined {
            JOIN_US
        } else if self.place.waits() {
            WAITING_US
        } else {
            LOOK_US
        }
    }
}

impl World {
    /// The list that a router goes by.
    pub(crate) fn known_list(&self, at: usize) -> Arc<RouterSet> {
        let member = self.routers[at].member.as_ref();
        member.map_or_else(Arc::default, |member| Arc::clone(member.place.list()))
    }

    pub(crate) fn member_of(&mut self, at: usize) -> &mut Member {
        let member = self.routers[at].member.as_mut();
        member.expect("a router of several that runs is a member")
    }

    /// A router begins: publishes what the dead left, and joins.
    pub(crate) fn begin_membership(&mut self, at: usize) {
        let (life, lanes) = (self.routers[at].life, self.shape.lanes());
        let member = Member::new(self.routers[at].node, BootId(boot_of(life)), lanes);
        self.routers[at].member = Some(member);
        self.adopt_from_all(at);
        self.plan_turn(at, self.now);
    }

    /// Has a turn begin at `time`, or earlier.
    pub(crate) fn plan_turn(&mut self, at: usize, time: u64) {
        let (now, life) = (self.now, self.routers[at].life);
        let member = self.member_of(at);
        if member.is_turning {
            member.is_asked = true;
            return;
        }
        let time = time.max(member.turned_at + LOOK_DISTANCE_US).max(now);
        if time < member.turn_at {
            member.turn_at = time;
            self.at_time(time, Event::Member(life, Step::Turn));
        }
    }

    pub(crate) fn member(&mut self, life: u32, step: Step) {
        let Some(at) = self.router_of(life) else { return };
        match step {
            Step::Turn => self.turn(at),
            Step::Do(errand, asked_at) => self.run_errand(at, errand, asked_at),
            Step::Done(Answer::Left(list), _) => self.has_left(at, list),
            // Whoever leaves goes by no list any more.
            Step::Done(..) if self.member_of(at).leaving != Leaving::No => {}
            Step::Done(answer, asked_at) => self.errand_done(at, answer, asked_at),
            Step::GiveUp => self.give_up_lanes(at),
            Step::LookConsumed => self.leave_when_consumed(at),
            Step::GraceOver => self.leave_undrained(at),
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.now;
        let member = self.member_of(at);
        // An earlier turn came between.
        if member.is_turning || now < member.turn_at || member.leaving != Leaving::No {
            return;
        }
        member.turn_at = u64::MAX;
        (member.is_turning, member.is_asked, member.looks_left) = (true, false, 2);
        if member.has_joined {
            if member.drained != member.noted && member.place.is_listed() {
                member.todo.push_back(Errand::NoteDrained(member.drained));
            }
            if now >= member.renew_at {
                member.todo.push_back(Errand::Renew);
            }
            member.todo.push_back(Errand::Look);
        } else {
            member.todo.push_back(Errand::Join(0));
        }
        self.next_errand(at);
    }

    fn next_errand(&mut self, at: usize) {
        let (now, life) = (self.now, self.routers[at].life);
        let member = self.member_of(at);
        if let Some(errand) = member.todo.pop_front() {
            let delay = self.registry_delay();
            return self.after(delay, Event::Member(life, Step::Do(errand, now)));
        }
        member.is_turning = false;
        member.turned_at = now;
        let pace = member.pace();
        self.plan_turn(at, now + pace);
    }

    fn run_errand(&mut self, at: usize, errand: Errand, asked_at: u64) {
        let (now, life) = (self.now, self.routers[at].life);
        let (until, boot) = (now + LEASE_US, BootId(boot_of(life)));
        let answer = if self.asks(at) {
            let entry = self.member_of(at).entry.clone();
            let registry = &mut self.registry;
            match errand {
                Errand::NoteDrained(version) => {
                    registry.set_drained(boot, version);
                    Answer::Noted(version)
                }
                Errand::Renew => Answer::Renewed(registry.renew_router(boot, until)),
                Errand::Look => Answer::Looked(registry.routers(now), registry.incarnation),
                Errand::Join(above) => {
                    let joined = registry.join_router(&entry, above, now, until);
                    let answer = Answer::Joined(joined, registry.incarnation);
                    if self.member_of(at).has_joined() {
                        self.has_rejoined(at);
                    }
                    answer
                }
                Errand::Leave => {
                    registry.leave_router(boot);
                    Answer::Left(Some(registry.routers(now)))
                }
            }
        } else {
            match errand {
                Errand::Leave => Answer::Left(None),
                other => Answer::Away(matches!(other, Errand::Look)),
            }
        };
        let delay = self.registry_delay();
        self.after(delay, Event::Member(life, Step::Done(answer, asked_at)));
    }

    fn errand_done(&mut self, at_router: usize, answer: Answer, asked_at: u64) {
        let now = at(self.now).mono;
        let asked = at(asked_at).mono;
        let member = self.member_of(at_router);
        match answer {
            Answer::Noted(version) => member.noted = version,
            Answer::Renewed(true) => {
                member.place.renewed(asked);
                member.renew_at = asked_at + LEASE_US / 3;
            }
            Answer::Joined(Some(version), incarnation) => {
                member.place.joined(version, asked, incarnation);
                member.renew_at = asked_at + LEASE_US / 3;
                member.noted = 0;
                if member.looks_left > 0 {
                    member.todo.push_back(Errand::Look);
                }
            }
            Answer::Looked(list, incarnation) => self.looked(at_router, list, incarnation),
            Answer::Away(true) => {
                member.place.not_answered(now);
                self.tell_core(at_router);
            }
            // The look that follows finds out why.
            Answer::Renewed(false) | Answer::Joined(None, _) | Answer::Away(false) | Answer::Left(_) => {}
        }
        self.next_errand(at_router);
    }

    fn looked(&mut self, at_router: usize, list: RouterSet, incarnation: u64) {
        let now = at(self.now).mono;
        let member = self.member_of(at_router);
        member.looks_left = member.looks_left.saturating_sub(1);
        // A registry that forgot its end forgot what was noted in it.
        let noted = list.drained.get(&member.entry.boot).copied().unwrap_or(0);
        member.noted = member.noted.min(noted);
        let before = Arc::clone(member.place.list());
        let look = member.place.looked(now, list, incarnation);
        let is_first = !std::mem::replace(&mut member.has_joined, true);
        if look.must_join {
            let above = member.place.list().version;
            member.todo.push_back(Errand::Join(above));
        }
        // The core before the gateways: no lane is still admitted here when a gateway hears that another has it.
        self.tell_core(at_router);
        if look.is_newer {
            self.counts.lists += 1;
            self.tell_gateways(at_router);
            self.adopt_from(at_router, &before);
        }
        if is_first {
            self.after(0, Event::Sweep(self.routers[at_router].life));
        }
    }

    fn tell_core(&mut self, at: usize) {
        let list = self.member_of(at).place.lane_list();
        self.core_input(self.routers[at].life, Input::Lanes(list));
    }

    fn tell_gateways(&mut self, at: usize) {
        let life = self.routers[at].life;
        for link in 0..self.links.len() {
            if self.links[link].life == life && self.links[link].peer.is_some() {
                self.tell_list(link);
            }
        }
    }

    /// Tells a gateway which routers there are.
    pub(crate) fn tell_list(&mut self, link: usize) {
        let router = self.router_at(link).map(|at| &self.routers[at]);
        let member = router.and_then(|router| router.member.as_ref());
        if let Some(list) = member.map(|member| Arc::clone(member.place.list())) {
            self.say_list(link, &list);
        }
    }

    pub(crate) fn say_list(&mut self, link: usize, list: &RouterSet) {
        let info = |router: &RouterEntry| RouterInfo {
            node: router.node.as_str().to_owned(),
            boot: router.boot.0,
            address: router.address.clone(),
        };
        let body = frame::archive(&RouterList {
            version: list.version,
            routers: list.routers.iter().map(info).collect(),
        });
        self.push(link, RecordKind::RouterList, 0, 0, 0, &body);
    }

    /// Something waits for another look at the list.
    pub(crate) fn look_at_routers(&mut self, at: usize) {
        if !self.shape.is_cluster() {
            return self.violation("a lone router looks for others".to_owned());
        }
        if self.member_of(at).leaving == Leaving::No {
            return self.plan_turn(at, self.now);
        }
        // Something arrived: it is refused by the next list.
        let life = self.routers[at].life;
        self.after(0, Event::Member(life, Step::GiveUp));
    }
}
