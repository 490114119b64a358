//! Sends as planned, and what every terminal should have at the end.

use std::collections::BTreeSet;

use corelane_protocol::ws::{Opcode, client_frame};

use super::conn::{Conn, Speaker, Stage};
use super::{Env, Worker, env};
use crate::cli::{Pattern, Scenario};
use crate::clock::ns_of;
use crate::names::ConvKey;
use crate::payload::Stamp;
use crate::shared::{Phase, Shared};
use crate::spread::random_peer;

/// Bytes that may wait at a connection of an echo server before sends wait in front of it.
const ECHO_OUT_BYTES_MAX: usize = 1024 * 1024;
/// Sends that may wait in front of such a connection.
const ECHO_WAITING_MAX: usize = 100_000;

/// Who sends, and how far the list of users to reach is.
#[derive(Debug)]
pub(super) struct Senders {
    /// Places of connections that send.
    places: Vec<u32>,
    /// Groups of each, in the scenario of that name.
    groups: Vec<Vec<u32>>,
    reached: u64,
}

impl Senders {
    pub(super) fn new(shared: &Shared, own: &[u32]) -> Self {
        let mut by_user = shared.groups.by_user();
        let (mut places, mut groups) = (Vec::new(), Vec::new());
        for (place, index) in (0_u32..).zip(own) {
            if shared.is_stalled(*index) || shared.is_pausing(*index) {
                continue;
            }
            let of_user = by_user.remove(index).unwrap_or_default();
            if shared.options.scenario == Scenario::Group && of_user.is_empty() {
                continue;
            }
            places.push(place);
            groups.push(of_user);
        }
        Self {
            places,
            groups,
            reached: 0,
        }
    }
}

impl Worker {
    /// Takes up every send that is due.
    pub(super) fn send_due(&mut self) {
        let start_ns = self.shared.plan_start_ns();
        let since = self.now_ns.saturating_sub(start_ns);
        if self.now_ns < start_ns {
            return;
        }
        loop {
            let Some(offset) = self.plan.as_mut().and_then(|plan| plan.take(since)) else {
                return;
            };
            let due_ns = start_ns + offset;
            self.tally.due += 1;
            if (self.measured.0..self.measured.1).contains(&due_ns) {
                self.tally.offered += 1;
                self.recorder.lateness.record_ns(due_ns, self.now_ns);
            }
            self.take_up(due_ns);
        }
    }

    fn take_up(&mut self, due_ns: u64) {
        let count = self.senders.places.len() as u64;
        let chosen = usize::try_from(self.rng.below(count)).unwrap_or(0);
        let Some(place) = self.senders.places.get(chosen).copied() else {
            self.tally.unsent += 1;
            return;
        };
        let Some(me) = self.conns.get(place as usize).map(|conn| conn.index) else {
            return;
        };
        let key = match self.shared.options.scenario {
            Scenario::Echo => ConvKey::group(me),
            Scenario::Direct => ConvKey::direct(me, self.peer_of(me)),
            Scenario::Group => {
                let groups = self.senders.groups.get(chosen).map_or(&[][..], Vec::as_slice);
                let group = usize::try_from(self.rng.below(groups.len() as u64)).unwrap_or(0);
                ConvKey::group(groups.get(group).copied().unwrap_or(0))
            }
            Scenario::Idle => {
                let threads = u64::from(self.shared.options.threads);
                let at = usize::try_from(self.senders.reached * threads + u64::from(self.thread))
                    .unwrap_or(usize::MAX);
                self.senders.reached += 1;
                let Some(peer) = self.shared.reach.get(at).copied() else {
                    self.tally.unsent += 1;
                    return;
                };
                ConvKey::direct(me, if peer == me { self.peer_of(me) } else { peer })
            }
        };
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        if conn.stage == Stage::Gone {
            self.tally.unsent += 1;
            return;
        }
        let mut env = env!(self);
        match &mut conn.speaker {
            Speaker::User(session) => session.offer(key, due_ns, &mut env),
            Speaker::Echo(matcher, waiting) => {
                if conn.stage != Stage::Ready || waiting.len() >= ECHO_WAITING_MAX {
                    env.tally.unsent += 1;
                    return;
                }
                waiting.push_back((matcher.send(), due_ns));
            }
        }
        self.list(place);
    }

    /// Whom a user writes to.
    fn peer_of(&mut self, me: u32) -> u32 {
        let users = self.shared.options.connections;
        let next = |user: u32| if user + 1 == users { 0 } else { user + 1 };
        match self.shared.options.pattern {
            Pattern::Pairs if me ^ 1 < users => me ^ 1,
            Pattern::Pairs | Pattern::Ring => next(me),
            Pattern::Random => random_peer(me, users, self.shared.target_count(), &mut self.rng),
        }
    }

    /// Sends that are not answered for good.
    pub(super) fn unsettled(&self) -> u64 {
        self.conns
            .iter()
            .map(|conn| match &conn.speaker {
                Speaker::User(session) => session.unsettled(),
                Speaker::Echo(matcher, _) => matcher.unanswered(),
            })
            .sum()
    }

    /// Sets when readers stop and go on.
    pub(super) fn set_pauses(&mut self) {
        let Some(pause) = self.shared.options.pause_reader else {
            return;
        };
        let from = self.shared.start_ns() + ns_of(pause.after);
        for place in 0..u32::try_from(self.conns.len()).unwrap_or(u32::MAX) {
            let Some(conn) = self.conns.get_mut(place as usize) else {
                continue;
            };
            if self.shared.is_pausing(conn.index) {
                conn.pause_ns = (from.max(1), from + ns_of(pause.length).max(1));
                self.set_timer(place);
            }
        }
    }

    /// Lets those read who did not: from now on they are ordinary terminals that have something to catch up.
    pub(super) fn wake_readers(&mut self) {
        for place in 0..u32::try_from(self.conns.len()).unwrap_or(u32::MAX) {
            let Some(conn) = self.conns.get_mut(place as usize) else {
                continue;
            };
            let was_paused = std::mem::take(&mut conn.pause_ns).1 != 0;
            if !conn.is_stalled && !was_paused {
                continue;
            }
            if let Some(socket) = conn.socket {
                self.engine.resume_receive(socket);
            }
            if let Speaker::User(session) = &mut conn.speaker
                && session.is_ready()
            {
                session.resync(self.now_ns, self.now_ns);
            }
            self.list(place);
        }
    }

    /// Works out what every terminal should have.
    pub(super) fn expect_heads(&mut self) {
        let heads = self.shared.heads();
        let (threads, own) = (self.shared.options.threads, self.conns.len());
        let place_of = |index: u32| {
            let place = index / threads;
            (index % threads == self.thread && (place as usize) < own).then_some(place)
        };
        let mut expected = std::collections::VecDeque::new();
        for (conv, end) in heads.iter() {
            if let Some((small, large)) = conv.users() {
                expected.extend(
                    [small, large]
                        .into_iter()
                        .filter_map(place_of)
                        .map(|place| (place, *conv, *end)),
                );
            } else if let Some(group) = conv.group_index() {
                let members = self.shared.groups.members(group).filter_map(place_of);
                expected.extend(members.map(|place| (place, *conv, *end)));
            }
        }
        self.expected = expected;
    }

    /// Whether every terminal that can has everything. Terminals that are gone for good are not waited for.
    pub(super) fn is_complete(&mut self) -> bool {
        let mut expected = std::mem::take(&mut self.expected);
        let mut at = 0;
        while let Some((place, conv, end)) = expected.get(at).copied() {
            let Some(conn) = self.conns.get_mut(place as usize) else {
                break;
            };
            let env = env!(self);
            let is_done = match &mut conn.speaker {
                Speaker::User(session) => {
                    let stream = session.stream(conv, &env);
                    let is_done = stream.is_complete(end.seq);
                    env.tally.differing += u64::from(is_done && stream.differs_from(end));
                    is_done
                }
                Speaker::Echo(..) => true,
            };
            if is_done || conn.stage == Stage::Gone {
                expected.swap_remove_back(at);
            } else {
                at += 1;
            }
            // The rest is looked at the next time: one that is missing is enough to wait.
            if at >= 64 {
                break;
            }
        }
        let is_complete = expected.is_empty();
        self.expected = expected;
        is_complete
    }

    /// Where faults are made on purpose: whether every terminal that may come back is back.
    pub(super) fn is_back(&self) -> bool {
        let is_settled = |conn: &Conn| matches!(conn.stage, Stage::Ready | Stage::Gone);
        !self.shared.options.faults || self.conns.iter().all(is_settled)
    }

    /// Whether every terminal that is online has fetched what it asked for.
    pub(super) fn is_caught_up(&self) -> bool {
        self.conns.iter().all(|conn| match &conn.speaker {
            Speaker::User(session) if conn.stage == Stage::Ready => session.is_caught_up(),
            _ => true,
        })
    }

    /// Has terminals pull what they lack.
    pub(super) fn repair(&mut self) {
        let expected = std::mem::take(&mut self.expected);
        let mut listed = Vec::new();
        for (place, conv, end) in &expected {
            let Some(conn) = self.conns.get_mut(*place as usize) else {
                continue;
            };
            let (stage, env) = (conn.stage, env!(self));
            let Speaker::User(session) = &mut conn.speaker else {
                continue;
            };
            if stage == Stage::Ready && !session.stream(*conv, &env).has_all(end.seq) {
                session.repair(*conv);
                listed.push(*place);
            }
        }
        self.expected = expected;
        for place in listed {
            self.list(place);
        }
    }

    /// Where faults are made on purpose: counts the terminals that are not complete, or were not in time. Once, and before
    /// what they lack is pulled.
    pub(super) fn judge_completeness(&mut self) {
        let was_judged = std::mem::replace(&mut self.has_judged, true);
        let options = &self.shared.options;
        if was_judged || !options.faults || !options.scenario.is_corelane() {
            return;
        }
        let settled_by_ns = self.shared.settled_by_ns();
        let expected = std::mem::take(&mut self.expected);
        let mut incomplete = BTreeSet::new();
        for (place, conv, end) in &expected {
            let Some(conn) = self.conns.get_mut(*place as usize) else {
                continue;
            };
            let env = env!(self);
            if let Speaker::User(session) = &mut conn.speaker
                && !session.stream(*conv, &env).is_complete(end.seq)
            {
                incomplete.insert(*place);
            }
        }
        self.expected = expected;
        for (place, conn) in (0_u32..).zip(&self.conns) {
            let Speaker::User(session) = &conn.speaker else {
                continue;
            };
            self.finish.completed_ns = self.finish.completed_ns.max(session.completed_ns);
            let is_away = match conn.stage {
                Stage::Ready => false,
                Stage::Gone => true,
                // Then it was back, and is on its way somewhere else.
                _ => self.reported != Some(Phase::Check),
            };
            if is_away || session.completed_ns > settled_by_ns {
                incomplete.insert(place);
            }
        }
        self.tally.incomplete += incomplete.len() as u64;
    }

    /// Counts what is lost and what is missing after everything was tried.
    pub(super) fn count_holes(&mut self) {
        self.tally.offline += self
            .conns
            .iter()
            .filter(|conn| conn.stage != Stage::Ready)
            .count() as u64;
        let expected = std::mem::take(&mut self.expected);
        for (place, conv, end) in &expected {
            let Some(conn) = self.conns.get_mut(*place as usize) else {
                continue;
            };
            let (stage, env) = (conn.stage, env!(self));
            if let Speaker::User(session) = &mut conn.speaker
                && stage == Stage::Ready
            {
                let holes = session.stream(*conv, &env).holes(end.seq);
                env.tally.lost += holes.lost;
                env.tally.repaired += holes.repaired;
                env.tally.missing += holes.missing;
            }
        }
        for conn in &mut self.conns {
            if let Speaker::User(session) = &mut conn.speaker {
                session.settle_faults(&mut env!(self));
            }
        }
    }

    /// Gives up what was not answered.
    pub(super) fn abandon_unsettled(&mut self) {
        for conn in &mut self.conns {
            match &mut conn.speaker {
                Speaker::User(session) => session.give_up(&mut env!(self)),
                Speaker::Echo(matcher, _) => self.tally.lost += matcher.abandon(),
            }
        }
    }
}

/// Sends to an echo server what waits, as far as there is room.
pub(super) fn pump_echo(conn: &mut Conn, env: &mut Env<'_>) {
    let Speaker::Echo(_, waiting) = &mut conn.speaker else {
        return;
    };
    let options = &env.shared.options;
    let mut payload = Vec::with_capacity(options.size);
    while conn.out.len() < ECHO_OUT_BYTES_MAX
        && let Some((counter, due_ns)) = waiting.pop_front()
    {
        let stamp = Stamp {
            run: env.shared.run_id,
            sender: conn.index,
            conv: ConvKey::group(conn.index).number(),
            counter,
            due_ns,
            sent_ns: env.now_ns,
        };
        payload.clear();
        stamp.write(options.size, options.text, &mut payload);
        let opcode = if options.text {
            Opcode::Text
        } else {
            Opcode::Binary
        };
        client_frame(opcode, &payload, env.rng.mask(), &mut conn.out);
        env.tally.sent += 1;
    }
}
