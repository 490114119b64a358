//! Routers: their lives, what their cores ask for, and the answers of the store and the registry with their delays and
//! faults.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::id::{ConnId, ConvId, UserId};
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::RouterCore;
use corelane_router_core::event::{Input, LaneList, Origin, Output, Recovered, Route, Submission};

use crate::claims::Kept;
use crate::lease::REAP_GRACE_US;
use crate::member::Member;
use crate::mend::Doubts;
use crate::pause::Standstill;
use crate::planted::Bug;
use crate::registry::{Registry, Session};
use crate::store::{APP, Left};
use crate::world::{Event, PARTITIONS, World};

/// Epoch of the log.
pub(crate) const EPOCH: u64 = 7;
/// Commits of a lane that wait with their messages while lookups fail now and then.
const PUBLICATIONS_MAX: usize = 3;
/// Longest time that nobody can be looked up.
const LOOKUPS_AWAY_US_MAX: u64 = 3_000_000;

/// A router.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) node: &'static str,
    /// Its present life, or the last.
    pub(crate) life: u32,
    pub(crate) core: Option<RouterCore>,
    pub(crate) still: Standstill,
    /// One of several.
    pub(crate) member: Option<Member>,
    /// It is about to start.
    pub(crate) returns: bool,
    /// Whose connections were given up here.
    pub(crate) left_conns: BTreeMap<(u64, u64), UserId>,
    pub(crate) kicks: Vec<Kept>,
    /// Boots that are gone.
    pub(crate) gone: BTreeSet<u64>,
    /// Records that each outbox row waits for.
    pub(crate) rows_wait: BTreeMap<u64, BTreeSet<(u64, u16, u64)>>,
    /// Records that the bus has not taken, and versions that are drained when it has taken some of them.
    pub(crate) untaken: BTreeSet<u64>,
    pub(crate) drains: Vec<(u64, BTreeSet<u64>)>,
    /// Outbox rows that it was told of.
    pub(crate) told_rows: BTreeSet<u64>,
    /// Until then it publishes what it had when others may have served its lanes.
    pub(crate) catches_up_until: u64,
    /// Records that it published.
    pub(crate) published: BTreeSet<(u64, u16, u64)>,
    /// Those of them that were left, and may have been published before.
    pub(crate) left_rows: BTreeSet<u64>,
    /// Own commits that it did not see whole.
    pub(crate) doubts: Doubts,
    /// Users who had no route once: what a router must not remember.
    offline: BTreeSet<UserId>,
    locate_from: u64,
    /// Of the registry, as far as it knows.
    pub(crate) incarnation: u64,
    pub(crate) is_noticing: bool,
    /// So many dead boots it has forgotten.
    pub(crate) reaped: usize,
    pub(crate) looked_at: u64,
    pub(crate) reap_from: u64,
}

impl Router {
    /// One that has not lived.
    pub(crate) const fn new(node: &'static str) -> Self {
        Self {
            node,
            life: 0,
            core: None,
            still: Standstill::new(),
            member: None,
            returns: false,
            left_conns: BTreeMap::new(),
            kicks: Vec::new(),
            gone: BTreeSet::new(),
            rows_wait: BTreeMap::new(),
            untaken: BTreeSet::new(),
            drains: Vec::new(),
            told_rows: BTreeSet::new(),
            catches_up_until: 0,
            published: BTreeSet::new(),
            left_rows: BTreeSet::new(),
            doubts: Doubts::new(),
            offline: BTreeSet::new(),
            locate_from: 0,
            incarnation: 0,
            is_noticing: false,
            reaped: 0,
            looked_at: 0,
            reap_from: 0,
        }
    }

    /// Whether gateways can link with it.
    pub(crate) fn is_open(&self) -> bool {
        self.core.is_some() && self.member.as_ref().is_none_or(Member::has_joined)
    }
}

/// What the core asks a port.
#[derive(Debug)]
pub(crate) enum Question {
    Members(u64, ConvId, u64),
    Routes(u64, Vec<UserId>),
    Rows(u64, Vec<u64>),
}

/// The boot of a router's life.
pub(crate) fn boot_of(life: u32) -> u64 {
    9000 + u64::from(life)
}

impl World {
    /// The router that lives this life.
    pub(crate) fn router_of(&self, life: u32) -> Option<usize> {
        let is_it = |router: &Router| router.life == life && router.core.is_some();
        self.routers.iter().position(is_it)
    }

    /// The router at the far end of a link.
    pub(crate) fn router_at(&self, link: usize) -> Option<usize> {
        self.router_of(self.links[link].life)
    }

    /// Those that run and do not stand still.
    pub(crate) fn running(&self) -> Vec<usize> {
        let routers = 0..self.routers.len();
        let runs = |at: &usize| self.routers[*at].core.is_some() && !self.routers[*at].still.is_on;
        routers.filter(runs).collect()
    }

    pub(crate) fn start_routers(&mut self) {
        if !self.shape.is_cluster() {
            return self.start_router(0);
        }
        let count = if self.rng.chance(500) {
            self.routers.len()
        } else {
            2
        };
        for at in 0..count {
            let wait = self.rng.between(0, 30_000);
            self.restart_router(at, wait);
        }
    }

    pub(crate) fn restart_router(&mut self, at: usize, wait: u64) {
        self.routers[at].returns = true;
        self.after(wait, Event::Restart(at));
    }

    /// Faults are over: somebody must serve.
    pub(crate) fn see_to_a_router(&mut self) {
        let lives = |router: &Router| router.core.is_some() || router.returns;
        if !self.routers.iter().any(lives) {
            self.restart_router(0, 0);
        }
    }

    pub(crate) fn start_router(&mut self, at: usize) {
        if self.routers[at].core.is_some() {
            return;
        }
        self.last_life += 1;
        let life = self.last_life;
        if !self.shape.is_cluster() {
            // What its last life published may have arrived, and is published again.
            self.disturbed_at = self.now;
            self.registry = Registry::of(u64::from(life));
            self.topics.clear();
        }
        let router = &mut self.routers[at];
        *router = Router::new(router.node);
        router.life = life;
        router.incarnation = self.registry.incarnation;
        router.reaped = self.registry.dead_count();
        router.looked_at = self.now;
        let lanes = self.shape.lanes();
        let mut core = RouterCore::new(boot_of(life), EPOCH, lanes, PARTITIONS);
        if self.faults.lookups {
            // So few that lanes are behind in this short time.
            core.keep_publications(PUBLICATIONS_MAX);
        }
        router.core = Some(core);
        if self.shape.is_cluster() {
            self.routers[at].reap_from = self.now + REAP_GRACE_US;
            self.after(0, Event::Reap(life));
            return self.begin_membership(at);
        }
        self.recover_alone(at);
        self.core_input(life, Input::Lanes(LaneList::alone(u64::from(life), lanes)));
        self.after(0, Event::Reap(life));
    }

    /// All rows are those of earlier lives.
    fn recover_alone(&mut self, at: usize) {
        let life = self.routers[at].life;
        let left = self.store.left();
        self.routers[at].locate_from = if left.is_empty() { 0 } else { self.now + 500_000 };
        for left in left {
            self.core_input(life, Input::Recovered(recovered(left)));
        }
    }

    pub(crate) fn crash(&mut self, life: u32) {
        if let Some(at) = self.router_of(life) {
            self.crash_router(at);
        }
    }

    pub(crate) fn crash_router(&mut self, at: usize) {
        if self.routers[at].core.is_none() {
            return;
        }
        self.counts.crashes += 1;
        self.end_router(at);
        let down = self.rng.between(1_000, 600_000);
        self.restart_router(at, down);
    }

    pub(crate) fn end_router(&mut self, at: usize) {
        let router = &mut self.routers[at];
        router.core = None;
        router.member = None;
        router.still = Standstill::new();
        let life = router.life;
        self.lost_kicks.append(&mut router.kicks);
        let doubts = std::mem::take(&mut router.doubts).into_values().flatten();
        self.dead_doubts.extend(doubts.map(|conv| (life, conv)));
        for link in 0..self.links.len() {
            if self.links[link].life == life {
                self.cut(link);
            }
        }
    }

    /// Whether the registry answers a router. One that finds that it forgot something knows so soon.
    pub(crate) fn asks(&mut self, at: usize) -> bool {
        if self.now < self.registry.away_until {
            return false;
        }
        let router = &mut self.routers[at];
        if router.incarnation == self.registry.incarnation {
            return true;
        }
        if !std::mem::replace(&mut router.is_noticing, true) {
            let life = router.life;
            let delay = self.registry_delay();
            self.after(delay, Event::Noticed(life));
        }
        false
    }

    /// Its gateways link anew, and claim again.
    pub(crate) fn noticed(&mut self, life: u32) {
        let Some(at) = self.router_of(life) else { return };
        self.routers[at].incarnation = self.registry.incarnation;
        self.routers[at].is_noticing = false;
        for link in 0..self.links.len() {
            if self.links[link].life == life {
                self.cut(link);
            }
        }
    }

    pub(crate) fn core_input(&mut self, life: u32, input: Input) {
        let Some(at) = self.router_of(life) else { return };
        let (now, router) = (self.clock(), &mut self.routers[at]);
        match &input {
            // Its gates are forgotten; its gateway answers when the link ends.
            Input::Submit(Submission {
                origin: Origin::Client { boot, .. },
                ..
            }) if router.gone.contains(boot) => return,
            Input::GatewayGone(boot) => {
                for waits in router.rows_wait.values_mut() {
                    waits.retain(|(owner, _, _)| owner != boot);
                }
            }
            _ => {}
        }
        let Some(core) = router.core.as_mut() else { return };
        let mut outputs = Vec::new();
        core.handle(now, input, &mut outputs);
        self.carry_out(at, outputs);
    }

    fn carry_out(&mut self, at: usize, outputs: Vec<Output>) {
        let life = self.routers[at].life;
        for output in outputs {
            match output {
                Output::Answer(
                    Origin::Client {
                        boot,
                        conn,
                        reference,
                    },
                    frame,
                ) => {
                    if let Some(link) = self.link_to(life, boot, ConnId(conn).shard()) {
                        self.push(link, RecordKind::ServerFrame, 0, conn, reference, &frame);
                    }
                }
                Output::Persist(batch) => self.persist(life, batch),
                Output::LoadMembers(ticket, _, conv, since) => {
                    let delay = self.delay();
                    self.after(delay, Event::Ask(life, Question::Members(ticket, conv, since)));
                }
                Output::Locate(ticket, _, users) => {
                    let when = (self.now + self.delay()).max(self.routers[at].locate_from);
                    self.at_time(when, Event::Ask(life, Question::Routes(ticket, users)));
                }
                Output::ReadRows(ticket, _, rows) => {
                    let delay = self.delay();
                    self.after(delay, Event::Ask(life, Question::Rows(ticket, rows)));
                }
                Output::Publish {
                    boot,
                    partition,
                    number,
                    record,
                    ..
                } => self.publish(life, (boot, partition, number), record),
                Output::ClearOutbox(rows) => self.clear(at, &rows),
                // Nobody asks through the API.
                Output::Answer(Origin::Api(_), _) => {}
                Output::Drained(version) => self.core_drained(at, version),
                Output::LookAtRouters => self.look_at_routers(at),
            }
        }
    }

    /// A port reads now and answers later, or fails.
    pub(crate) fn ask(&mut self, life: u32, question: Question) {
        let Some(at) = self.router_of(life) else { return };
        let (Question::Members(ticket, ..) | Question::Routes(ticket, _) | Question::Rows(ticket, _)) =
            &question;
        let (ticket, delay) = (*ticket, self.delay());
        let mut has_failed = !self.calm && self.faults.store && self.rng.chance(50);
        if let Question::Routes(..) = &question {
            has_failed |= !self.asks(at) || self.are_lookups_away();
        }
        if has_failed {
            let failed = Box::new(Input::Failed(ticket));
            return self.after(delay + 50_000, Event::Core(life, failed));
        }
        let answer = match question {
            Question::Members(_, conv, since) => {
                let (version, stays) = self.store.members(&conv, since);
                Input::Members(ticket, version, stays)
            }
            Question::Routes(_, users) => {
                let routes = |user| self.registry.routes(user).iter().map(route).collect();
                let mut found: Vec<Vec<Route>> = users.iter().map(routes).collect();
                if Bug::OfflineCached.is_planted() {
                    self.remember_offline(at, &users, &mut found);
                }
                Input::Located(ticket, found)
            }
            Question::Rows(_, rows) => {
                self.counts.read_back += rows.len() as u64;
                let read = |row| self.store.left_of(row).into_iter().map(recovered).collect();
                Input::Rows(ticket, rows.into_iter().map(read).collect())
            }
        };
        self.after(delay, Event::Core(life, Box::new(answer)));
    }

    /// Whether nobody can be looked up now, by any router.
    fn are_lookups_away(&mut self) -> bool {
        if self.calm || !self.faults.lookups {
            return false;
        }
        if self.now >= self.lookups_from && self.rng.chance(10) {
            self.lookups_from = self.now + self.rng.between(100_000, LOOKUPS_AWAY_US_MAX);
        }
        self.now < self.lookups_from
    }
}

impl World {
    /// What the router that has this bug does.
    fn remember_offline(&mut self, at: usize, users: &[UserId], found: &mut [Vec<Route>]) {
        let offline = &mut self.routers[at].offline;
        for (user, routes) in users.iter().zip(found) {
            if routes.is_empty() {
                offline.insert(user.clone());
            } else if offline.contains(user) {
                routes.clear();
            }
        }
    }
}

/// What the store has of an outbox row, in the words of the core.
pub(crate) fn recovered((outbox, lane, conv, frames): Left) -> Recovered {
    Recovered {
        outbox,
        lane,
        app: APP,
        conv,
        frames,
    }
}

/// A session in the words of the core.
pub(crate) fn route(session: &Session) -> Route {
    Route {
        boot: session.boot,
        conn: session.conn,
    }
}
