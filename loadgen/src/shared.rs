//! What the threads of a run share: the phase they are in, and counters.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cli::{Options, Scenario};
use crate::clock::{Clock, ns_of};
use crate::ledger::AckFile;
use crate::names::{ConvKey, Names};
use crate::record::Recorder;
use crate::target::Endpoint;
use crate::token::Minter;
use crate::verify::LogEnd;

/// Length of the seconds by which counters are kept apart.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections are made.
    Connect,
    /// Sends leave as planned.
    Run,
    /// No new sends; answers to the old ones are awaited.
    Quiet,
    /// What was not answered is given up.
    Settle,
    /// What every terminal should have is known; the rest is awaited.
    Check,
    /// What is missing is pulled.
    Repair,
    /// Connections are closed.
    Close,
}

impl Phase {
    const ALL: [Self; 7] = [
        Self::Connect,
        Self::Run,
        Self::Quiet,
        Self::Settle,
        Self::Check,
        Self::Repair,
        Self::Close,
    ];
}

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a thread, or of a run.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Tally { $($(#[$doc])* pub $name: u64,)* }

        impl Tally {
            /// Adds everything of `other`.
            pub fn merge(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What was added since `before`.
            #[must_use]
            pub fn since(&self, before: &Self) -> Self {
                Self { $($name: self.$name - before.$name,)* }
            }
        }
    };
}

tally! {
    /// Sends that became due within the measured part.
    offered,
    /// Sends that became due at all.
    due,
    /// Sends handed to a socket, the first time each.
    sent,
    /// Sends handed to a socket again.
    resent,
    /// Sends acked.
    acked,
    /// Sends refused for good.
    refused,
    /// Refusals that were tried again.
    retryable,
    /// Those of them that said `retry` or `unavailable`.
    retries,
    /// Sends that never got an answer.
    unanswered,
    /// Sends that were not handed to a socket.
    unsent,
    /// Live messages, each once per terminal; replies of an echo server.
    delivered,
    /// Twice on a connection without a fault.
    duplicated,
    /// A smaller seq after a larger one without a fault.
    reordered,
    /// Twice across a reconnect or a fault.
    redelivered,
    /// A smaller seq after a larger one shortly after a fault.
    late,
    /// Came back to the connection that sent them, without a fault.
    returned,
    /// Faults: connections that ended, `Resync`, sends answered `retry` or `unavailable`; each at the connection it befell.
    faults,
    /// Live gaps that nothing explains.
    lost,
    /// Lost ones that a pull brought after all.
    repaired,
    /// Places that a terminal lacks at the end, whatever was tried.
    missing,
    /// Conversations of which a terminal has other messages than the log.
    differing,
    /// Terminals that were not complete, or not online, when the settling time was over.
    incomplete,
    /// Messages taken from pages.
    pulled,
    /// Payloads that changed on the way.
    corrupt,
    /// Messages that came to somebody who is no member, or under another conversation's name.
    misdelivered,
    /// Acks for nothing that was asked, or for another conversation.
    stray,
    /// Frames that this program does not understand.
    malformed,
    /// `PullRequired` frames.
    pull_required,
    /// `Resync` frames.
    resyncs,
    /// Connections established.
    connected,
    /// Attempts that failed.
    connect_failures,
    /// Connections that ended without being asked to.
    dropped,
    /// Those of them that had not been told to go (`GoAway`).
    untold,
    /// Connections that never read and were closed by the target.
    stalled_closed,
    /// Connections made again.
    reconnected,
    /// Terminals that were offline at the end.
    offline,
    /// Attempts that found no source port.
    ports_exhausted,
    /// Attempts that found no descriptor or slot.
    slots_exhausted,
}

/// Who is in which group.
#[derive(Debug, Default)]
pub struct Groups {
    size: u32,
    users: u32,
    /// Last seq of each group before the run.
    pub bases: Vec<u64>,
}

impl Groups {
    /// `count` groups of `size` out of `users`; each takes up where the one before ended.
    pub fn new(count: u32, size: u32, users: u32) -> Self {
        Self {
            size,
            users,
            bases: vec![0; count as usize],
        }
    }

    /// Number of groups.
    #[expect(clippy::cast_possible_truncation, reason = "made from a u32")]
    pub fn count(&self) -> u32 {
        self.bases.len() as u32
    }

    /// Members of a group.
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a u32")]
    pub fn members(&self, group: u32) -> impl Iterator<Item = u32> + use<> {
        let (size, users) = (u64::from(self.size), u64::from(self.users));
        (0..size).map(move |place| ((u64::from(group) * size + place) % users) as u32)
    }

    /// Whether `user` is in `group`.
    pub fn is_member(&self, group: u32, user: u32) -> bool {
        let (size, users) = (u64::from(self.size), u64::from(self.users));
        let first = u64::from(group) * size % users;
        (u64::from(user) + users - first) % users < size
    }

    /// Groups of each user.
    pub fn by_user(&self) -> HashMap<u32, Vec<u32>> {
        let mut by_user: HashMap<u32, Vec<u32>> = HashMap::new();
        for group in 0..self.count() {
            for user in self.members(group) {
                by_user.entry(user).or_default().push(group);
            }
        }
        by_user
    }

    /// Last seq of the conversation before the run.
    pub fn base(&self, conv: ConvKey) -> u64 {
        conv.group_index()
            .and_then(|group| self.bases.get(group as usize))
            .copied()
            .unwrap_or(0)
    }
}

/// What threads hand in about one second.
#[derive(Debug, Default)]
pub struct Interval {
    /// Its latencies.
    pub recorder: Recorder,
    /// Its counters.
    pub tally: Tally,
}

impl Interval {
    /// Adds everything of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.recorder.merge(&other.recorder);
        self.tally.merge(&other.tally);
    }
}

/// Everything that all threads see.
#[derive(Debug)]
pub struct Shared {
    /// The command line.
    pub options: Options,
    /// The run's id.
    pub run_id: u64,
    /// The run's seed.
    pub seed: u64,
    /// The clock.
    pub clock: Clock,
    /// Names of users and groups.
    pub names: Names,
    /// Where to connect to; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Makes tokens.
    pub minter: Option<Minter>,
    /// Groups.
    pub groups: Groups,
    /// Connections per source address.
    pub ports_per_source: u32,
    /// Users that a message is sent to at the end of `idle`.
    pub reach: Vec<u32>,
    /// File that gets the acks.
    pub ack_file: Option<AckFile>,
    phase: AtomicU8,
    start_ns: AtomicU64,
    /// By the number of the second, counted by the clock.
    intervals: Mutex<BTreeMap<u64, Interval>>,
    heads: Mutex<Arc<HashMap<ConvKey, LogEnd>>>,
}

impl Shared {
    /// Puts the parts together; the phase is [`Phase::Connect`].
    pub fn new(
        options: Options,
        ids: (u64, u64),
        clock: Clock,
        endpoints: Vec<Endpoint>,
        minter: Option<Minter>,
        groups: Groups,
        ack_file: Option<AckFile>,
    ) -> Self {
        let (run_id, seed) = ids;
        let mut rng = crate::rng::Rng::new(seed, 0x7265_6163_6800);
        let mut reach: Vec<u32> = Vec::new();
        if options.scenario == Scenario::Idle && options.reach > 0 {
            reach = (0..options.connections).collect();
            for place in 0..options.reach {
                let other = place + rng.below_u32(options.connections - place);
                reach.swap(place as usize, other as usize);
            }
            reach.truncate(options.reach as usize);
        }
        Self {
            ports_per_source: crate::proc::local_ports() / 4 * 3,
            names: Names::new(run_id),
            options,
            run_id,
            seed,
            clock,
            endpoints,
            minter,
            groups,
            reach,
            ack_file,
            phase: AtomicU8::new(0),
            start_ns: AtomicU64::new(0),
            intervals: Mutex::default(),
            heads: Mutex::default(),
        }
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        let number = usize::from(self.phase.load(Ordering::Acquire));
        Phase::ALL.get(number).copied().unwrap_or(Phase::Close)
    }

    /// Moves on to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Sets the start of the run, a whole second of the clock; then enter [`Phase::Run`].
    pub fn set_start(&self, start_ns: u64) {
        self.start_ns.store(start_ns, Ordering::Release);
    }

    /// When the run started.
    pub fn start_ns(&self) -> u64 {
        self.start_ns.load(Ordering::Acquire)
    }

    /// First moment of the plan. `idle` sends only at its end.
    pub fn plan_start_ns(&self) -> u64 {
        match self.options.scenario {
            Scenario::Idle => self.start_ns() + ns_of(self.options.warmup) + ns_of(self.options.duration),
            _ => self.start_ns(),
        }
    }

    /// Length of the plan and its rate.
    pub fn plan_shape(&self) -> (u64, f64) {
        match self.options.scenario {
            Scenario::Idle => (1_000_000_000, f64::from(self.options.reach)),
            _ => (
                ns_of(self.options.warmup) + ns_of(self.options.duration),
                self.options.rate,
            ),
        }
    }

    /// The measured part: what is due from the first to before the second moment.
    pub fn measured(&self) -> (u64, u64) {
        let start = self.plan_start_ns();
        let (length, _) = self.plan_shape();
        match self.options.scenario {
            Scenario::Idle => (start, start + length),
            _ => (start + ns_of(self.options.warmup), start + length),
        }
    }

    /// When the last send is due.
    pub fn load_end_ns(&self) -> u64 {
        self.plan_start_ns() + self.plan_shape().0
    }

    /// When every terminal has to be complete, where faults are made on purpose.
    pub fn settled_by_ns(&self) -> u64 {
        self.load_end_ns() + ns_of(self.options.settle)
    }

    /// Number of targets.
    #[expect(clippy::cast_possible_truncation, reason = "at most as many as connections")]
    pub const fn target_count(&self) -> u32 {
        self.endpoints.len() as u32
    }

    /// The target with this number.
    ///
    /// # Panics
    ///
    /// Never: the command line asks for one at least, and what is too high starts over.
    pub fn endpoint(&self, target: u32) -> &Endpoint {
        let place = target % self.target_count().max(1);
        self.endpoints.get(place as usize).expect("there is a target")
    }

    /// A problem with a target, under its name if there are several.
    pub fn problem_at(&self, target: u32, problem: &str) -> String {
        if self.target_count() > 1 {
            format!("{}: {problem}", self.endpoint(target).target.authority)
        } else {
            problem.to_owned()
        }
    }

    /// What threads hand in once a second, and nobody took yet.
    pub fn intervals(&self) -> MutexGuard<'_, BTreeMap<u64, Interval>> {
        self.intervals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where conversations end; then enter [`Phase::Check`].
    pub fn set_heads(&self, heads: HashMap<ConvKey, LogEnd>) {
        *self.heads.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(heads);
    }

    /// Where conversations end.
    pub fn heads(&self) -> Arc<HashMap<ConvKey, LogEnd>> {
        Arc::clone(&self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether user `index` never reads: they are spread evenly over all users.
    pub fn is_stalled(&self, index: u32) -> bool {
        is_chosen(index, self.options.stall, self.options.connections)
    }

    /// Whether user `index` stops reading for a while: the users right behind the stalled ones.
    pub fn is_pausing(&self, index: u32) -> bool {
        let pausing = self.options.pause_reader.map_or(0, |pause| pause.connections);
        !self.is_stalled(index) && index > 0 && is_chosen(index - 1, pausing, self.options.connections)
    }
}

/// Whether `index` is one of `chosen` evenly spread out of `all`.
fn is_chosen(index: u32, chosen: u32, all: u32) -> bool {
    let (index, chosen, all) = (u64::from(index), u64::from(chosen), u64::from(all.max(1)));
    (index * chosen) % all < chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_agree_with_membership() {
        for (count, size, users) in [(1, 50, 50), (4, 3, 10), (7, 9, 10)] {
            let groups = Groups::new(count, size, users);
            for group in 0..count {
                let members: Vec<u32> = groups.members(group).collect();
                for user in 0..users {
                    assert_eq!(
                        groups.is_member(group, user),
                        members.contains(&user),
                        "{group} {user}"
                    );
                }
            }
        }
    }

    #[test]
    fn exactly_as_many_are_chosen_as_asked() {
        for (chosen, all) in [(0, 10), (1, 50), (3, 10), (10, 10), (100, 151)] {
            let count = (0..all).filter(|index| is_chosen(*index, chosen, all)).count();
            assert_eq!(count, chosen as usize, "{chosen} of {all}");
        }
    }
}
