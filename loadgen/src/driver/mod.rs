//! One thread of the generator: its engine, its connections, its part of the plan.
//!
//! The loop never waits for an answer: whatever is due is taken up, then the engine turns until the next
//! moment at which something is due. How late sends are taken up is recorded, because a late generator
//! measures itself.

pub mod catchup;
pub mod conn;
pub mod echo;
mod open;
pub mod outbox;
mod patience;
mod receive;
pub mod session;
mod traffic;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use corelane_net::{Engine, EngineConfig, EngineError, Event};
use corelane_protocol::arena::Arena;
use corelane_protocol::limits;

use self::conn::{Conn, Speaker, Stage};
use self::echo::Matcher;
use self::session::Session;
use crate::clock::ns_of;
use crate::faults::Faults;
use crate::ledger::{Entry, Ledger};
use crate::names::ConvKey;
use crate::plan::Plan;
use crate::proc;
use crate::record::Recorder;
use crate::rng::Rng;
use crate::shared::{Phase, SECOND_NS, Shared, Tally};
use crate::spread::first_target;
use crate::verify::LogEnd;

/// Longest turn of the engine.
const TURN_MAX_NS: u64 = 20_000_000;
/// Shortest time to a timer.
const TIMER_NS_MIN: u64 = 100_000;
/// How often state is looked through in the phases that wait for something.
const LOOK_PERIOD_NS: u64 = 20_000_000;
/// Longest time that closing may take; what is left is cut off.
const CLOSE_NS_MAX: u64 = 5_000_000_000;
/// Kinds of problems that are told apart.
const PROBLEMS_MAX: usize = 100;

/// A thread cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ledger's side file could not be written.
    #[error("cannot write the ledger file: {0}")]
    AckFile(#[from] std::io::Error),
}

/// What a thread tells the main thread.
#[derive(Debug)]
pub enum Report {
    /// Every connection stands, or is gone for good.
    Connected,
    /// Everything is answered.
    Quiet,
    /// What was not answered was given up: highest acked seqs, and the ledger.
    Settled(HashMap<ConvKey, u64>, Ledger),
    /// Every terminal has what it should have.
    Complete,
    /// Every terminal has fetched what it could.
    Repaired,
    /// The thread is done.
    Done(Box<Finish>),
    /// The thread failed.
    Failed(DriverError),
}

/// What is left of a thread.
#[derive(Debug, Default)]
pub struct Finish {
    /// What went wrong, and how often.
    pub problems: BTreeMap<String, u64>,
    /// Connections that stood at each target, those made again included.
    pub connections: Vec<u64>,
    /// When the last thing came that a terminal lacked.
    pub completed_ns: u64,
    /// CPU time and time waiting for a CPU during the measured part, in ns, and its length.
    pub cpu_ns: (u64, u64, u64),
    /// Rings, system calls, receives without a buffer.
    pub engine: (u64, u64, u64),
}

/// What a session needs besides itself.
#[derive(Debug)]
pub struct Env<'a> {
    /// The moment.
    pub now_ns: u64,
    /// The measured part.
    pub measured: (u64, u64),
    /// What all threads share.
    pub shared: &'a Shared,
    /// Latencies.
    pub recorder: &'a mut Recorder,
    /// Counters.
    pub tally: &'a mut Tally,
    /// Sends.
    pub ledger: &'a mut Ledger,
    /// Sends acked in this turn, for the side file.
    pub acked: &'a mut Vec<Entry>,
    /// Highest acked seq of each conversation.
    pub acked_heads: &'a mut HashMap<ConvKey, u64>,
    /// Random numbers.
    pub rng: &'a mut Rng,
    /// What went wrong.
    pub problems: &'a mut BTreeMap<String, u64>,
}

impl Env<'_> {
    /// Where the second half of the measured part begins.
    pub const fn half_ns(&self) -> u64 {
        let (from, to) = self.measured;
        from + (to - from) / 2
    }

    /// Counts a problem under its text.
    pub fn problem(&mut self, text: &str) {
        count_problem(self.problems, text);
    }
}

fn count_problem(problems: &mut BTreeMap<String, u64>, text: &str) {
    if let Some(count) = problems.get_mut(text) {
        *count += 1;
    } else if problems.len() < PROBLEMS_MAX {
        problems.insert(text.to_owned(), 1);
    }
}

/// The thread.
pub struct Worker {
    shared: Arc<Shared>,
    thread: u32,
    engine: Engine,
    arena: Arena,
    events: Vec<Event>,
    conns: Vec<Conn>,
    /// Connection of each socket, by the socket's index.
    by_socket: Vec<u32>,
    /// Connections with something to send.
    listed: Vec<u32>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    /// Next connection to open for the first time, when the opening began, and how many are being opened.
    opening: (usize, u64, u32),
    plan: Option<Plan>,
    senders: traffic::Senders,
    phase: Phase,
    reported: Option<Phase>,
    look_at_ns: u64,
    close_by_ns: u64,
    /// End of the second that counters belong to.
    report_at_ns: u64,
    /// What terminals still lack: connection, conversation, its end.
    expected: VecDeque<(u32, ConvKey, LogEnd)>,
    /// Terminals that are not complete were counted.
    has_judged: bool,
    measured: (u64, u64),
    cpu_mark: Option<(u64, u64, u64)>,
    recorder: Recorder,
    tally: Tally,
    ledger: Ledger,
    acked: Vec<Entry>,
    acked_heads: HashMap<ConvKey, u64>,
    rng: Rng,
    finish: Finish,
    now_ns: u64,
}

/// Splits a worker into the environment of a session and the connections.
macro_rules! env {
    ($worker:ident) => {
        $crate::driver::Env {
            now_ns: $worker.now_ns,
            measured: $worker.measured,
            shared: &$worker.shared,
            recorder: &mut $worker.recorder,
            tally: &mut $worker.tally,
            ledger: &mut $worker.ledger,
            acked: &mut $worker.acked,
            acked_heads: &mut $worker.acked_heads,
            rng: &mut $worker.rng,
            problems: &mut $worker.finish.problems,
        }
    };
}
pub(crate) use env;

/// Runs thread number `thread` to its end and reports.
pub fn run(shared: Arc<Shared>, thread: u32, reports: &Sender<Report>) {
    let result = Worker::new(shared, thread).and_then(|mut worker| worker.run(reports));
    let last = match result {
        Ok(finish) => Report::Done(Box::new(finish)),
        Err(error) => Report::Failed(error),
    };
    // The main thread may have given up already; then nobody needs to know.
    drop(reports.send(last));
}

impl Worker {
    fn new(shared: Arc<Shared>, thread: u32) -> Result<Self, DriverError> {
        let threads = shared.options.threads;
        let own: Vec<u32> = (thread..shared.options.connections)
            .step_by(threads as usize)
            .collect();
        let mut config = EngineConfig::default();
        let rings = own.len() / (config.slots_per_ring as usize).max(1) + 2;
        config.rings_max = u32::try_from(rings).unwrap_or(u32::MAX);
        config.receive_buffers = 4096;
        let heartbeat_ns = ns_of(shared.options.heartbeat);
        let message_bytes_max = message_bytes_max(&shared);
        let faults_ns = shared.options.faults.then(|| ns_of(shared.options.settle));
        let conns = own
            .iter()
            .map(|index| {
                let speaker = if shared.options.scenario.is_corelane() {
                    let mut session = Session::new(*index, Faults::new(faults_ns));
                    session.is_unmeasured = shared.is_stalled(*index) || shared.is_pausing(*index);
                    Speaker::User(Box::new(session))
                } else {
                    Speaker::Echo(Matcher::default(), VecDeque::new())
                };
                let target = first_target(*index, shared.target_count());
                let mut conn = Conn::new(*index, target, speaker, message_bytes_max, heartbeat_ns);
                conn.is_stalled = shared.is_stalled(*index);
                conn
            })
            .collect();
        let now_ns = shared.clock.now_ns();
        Ok(Self {
            engine: Engine::new(config)?,
            arena: Arena::new(),
            events: Vec::new(),
            conns,
            by_socket: Vec::new(),
            listed: Vec::new(),
            timers: BinaryHeap::new(),
            opening: (0, now_ns, 0),
            plan: None,
            senders: traffic::Senders::new(&shared, &own),
            phase: Phase::Connect,
            reported: None,
            look_at_ns: 0,
            close_by_ns: 0,
            report_at_ns: next_second_ns(now_ns),
            expected: VecDeque::new(),
            has_judged: false,
            measured: (u64::MAX, u64::MAX),
            cpu_mark: None,
            recorder: Recorder::default(),
            tally: Tally::default(),
            ledger: Ledger::default(),
            acked: Vec::new(),
            acked_heads: HashMap::new(),
            rng: Rng::new(shared.seed, 0x776f_726b_0000 + u64::from(thread)),
            finish: Finish {
                connections: vec![0; shared.endpoints.len()],
                ..Finish::default()
            },
            now_ns,
            shared,
            thread,
        })
    }

    fn run(&mut self, reports: &Sender<Report>) -> Result<Finish, DriverError> {
        loop {
            self.read_clock();
            let phase = self.shared.phase();
            if phase != self.phase {
                self.phase = phase;
                self.enter(phase);
            }
            self.open_due();
            self.fire_timers();
            self.send_due();
            self.flush();
            if self.look(reports)? {
                break;
            }
            self.append_acks()?;
            let wait = self.wait_ns();
            let mut events = std::mem::take(&mut self.events);
            self.engine.turn(Duration::from_nanos(wait), &mut events)?;
            self.arena.turn_ended();
            self.read_clock();
            for event in events.drain(..) {
                self.event(event);
            }
            self.events = events;
            self.flush();
        }
        self.append_acks()?;
        self.hand_in();
        let stats = self.engine.stats();
        self.finish.engine = (u64::from(stats.rings), stats.enters, stats.buffers_empty);
        Ok(std::mem::take(&mut self.finish))
    }

    /// Begins a phase.
    fn enter(&mut self, phase: Phase) {
        match phase {
            Phase::Connect => {}
            Phase::Run => {
                self.measured = self.shared.measured();
                let (length, rate) = self.shared.plan_shape();
                let options = &self.shared.options;
                self.plan = Some(Plan::new(
                    options.arrivals,
                    rate,
                    self.thread,
                    options.threads,
                    length,
                    self.shared.seed,
                ));
                self.set_pauses();
            }
            Phase::Quiet => {
                self.plan = None;
                self.wake_readers();
            }
            Phase::Settle => self.abandon_unsettled(),
            Phase::Check => self.expect_heads(),
            Phase::Repair => {
                self.judge_completeness();
                self.repair();
            }
            Phase::Close => {
                self.plan = None;
                self.judge_completeness();
                self.count_holes();
                self.close_by_ns = self.now_ns + CLOSE_NS_MAX;
                self.close_all();
            }
        }
    }

    /// Looks whether the phase is done, and reports it once. True when the thread may end.
    fn look(&mut self, reports: &Sender<Report>) -> Result<bool, DriverError> {
        if self.now_ns < self.look_at_ns {
            return Ok(false);
        }
        self.look_at_ns = self.now_ns + LOOK_PERIOD_NS;
        self.mark_cpu();
        let is_done = match self.phase {
            Phase::Connect => self
                .conns
                .iter()
                .all(|conn| matches!(conn.stage, Stage::Ready | Stage::Gone)),
            Phase::Run => false,
            Phase::Quiet => self.unsettled() == 0,
            Phase::Settle => true,
            Phase::Check => self.is_complete() && self.is_back(),
            Phase::Repair => self.is_complete() || self.is_caught_up(),
            Phase::Close => {
                let is_over =
                    self.now_ns > self.close_by_ns || self.conns.iter().all(|conn| conn.socket.is_none());
                return Ok(is_over);
            }
        };
        if is_done && self.reported != Some(self.phase) {
            self.reported = Some(self.phase);
            self.append_acks()?;
            self.hand_in();
            let report = match self.phase {
                Phase::Connect | Phase::Run | Phase::Close => Report::Connected,
                Phase::Quiet => Report::Quiet,
                Phase::Settle => Report::Settled(
                    std::mem::take(&mut self.acked_heads),
                    std::mem::take(&mut self.ledger),
                ),
                Phase::Check => Report::Complete,
                Phase::Repair => Report::Repaired,
            };
            // As above: without a listener there is nothing to tell.
            drop(reports.send(report));
        }
        Ok(false)
    }

    /// CPU time at both ends of the measured part.
    fn mark_cpu(&mut self) {
        if self.now_ns < self.measured.0 || self.finish.cpu_ns.2 > 0 {
            return;
        }
        let (cpu, waited) = proc::thread_cpu_ns();
        let Some((cpu_before, waited_before, at)) = self.cpu_mark else {
            self.cpu_mark = Some((cpu, waited, self.now_ns));
            return;
        };
        if self.now_ns >= self.measured.1 {
            self.finish.cpu_ns = (cpu - cpu_before, waited - waited_before, self.now_ns - at);
        }
    }

    /// Takes the time. What was counted belongs to the second before it, if one has ended.
    fn read_clock(&mut self) {
        self.now_ns = self.shared.clock.now_ns();
        if self.now_ns >= self.report_at_ns {
            self.hand_in();
        }
    }

    /// Writes what was acked into the side file.
    fn append_acks(&mut self) -> Result<(), DriverError> {
        if let Some(file) = self.shared.ack_file.as_ref().filter(|_| !self.acked.is_empty()) {
            file.append(&self.acked)?;
            self.acked.clear();
        }
        Ok(())
    }

    /// Hands in what was counted since the last time.
    fn hand_in(&mut self) {
        let second = self.report_at_ns / SECOND_NS - 1;
        if self.now_ns >= self.report_at_ns {
            self.report_at_ns = next_second_ns(self.now_ns);
        }
        let mut intervals = self.shared.intervals();
        let interval = intervals.entry(second).or_default();
        interval.recorder.merge(&self.recorder);
        interval.tally.merge(&self.tally);
        drop(intervals);
        self.recorder.reset();
        self.tally = Tally::default();
    }

    /// How long the engine may wait.
    fn wait_ns(&self) -> u64 {
        let plan = self
            .plan
            .as_ref()
            .and_then(Plan::peek)
            .map(|at| at + self.shared.plan_start_ns());
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let open = self.next_open_ns();
        let next = [plan, timer, open]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX);
        let now = self.shared.clock.now_ns();
        next.saturating_sub(now).min(TURN_MAX_NS)
    }

    /// Runs timers that are due.
    fn fire_timers(&mut self) {
        while let Some(Reverse((at, place))) = self.timers.peek().copied() {
            if at > self.now_ns {
                break;
            }
            self.timers.pop();
            if let Some(conn) = self.conns.get_mut(place as usize)
                && conn.timer_ns == at
            {
                conn.timer_ns = 0;
                self.timer(place);
            }
        }
    }

    fn timer(&mut self, place: u32) {
        if self.end_slow_attempt(place) {
            return;
        }
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        let now_ns = self.now_ns;
        let (pause, resume) = conn.pause_ns;
        if let Some(socket) = conn.socket {
            if pause != 0 && pause <= now_ns {
                self.engine.pause_receive(socket);
            } else if resume != 0 && resume <= now_ns {
                self.engine.resume_receive(socket);
            }
        }
        if pause != 0 && pause <= now_ns {
            conn.pause_ns.0 = 0;
        } else if resume != 0 && resume <= now_ns {
            conn.pause_ns.1 = 0;
        }
        match conn.stage {
            Stage::Waiting if conn.open_at_ns != 0 && conn.open_at_ns <= now_ns => {
                conn.open_at_ns = 0;
                return self.open(place);
            }
            Stage::Ready => {
                if conn.leave_at_ns != 0 && conn.leave_at_ns <= now_ns {
                    conn.leave_at_ns = 0;
                    return self.leave(place);
                }
                if conn.heartbeat_at_ns != 0 && conn.heartbeat_at_ns <= now_ns {
                    let dead_for = patience::beat(conn, &mut env!(self));
                    if let Some(why) = dead_for {
                        conn.heartbeat_at_ns = 0;
                        return self.end(place, why);
                    }
                }
                // Its next timer is set when it was pumped: until then what is due now would be due for ever.
                return self.list(place);
            }
            _ => {}
        }
        self.set_timer(place);
    }

    /// Sets the timer of a connection to its next moment, if that is earlier than the one that is set. What is
    /// due already comes a little later, so that a connection that cannot act on it does not keep the thread busy.
    fn set_timer(&mut self, place: u32) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        if let Some(at) = conn.next_timer_ns().map(|at| at.max(self.now_ns + TIMER_NS_MIN))
            && (conn.timer_ns == 0 || at < conn.timer_ns)
        {
            conn.timer_ns = at;
            self.timers.push(Reverse((at, place)));
        }
    }

    /// Notes that a connection may have something to send.
    fn list(&mut self, place: u32) {
        if let Some(conn) = self.conns.get_mut(place as usize)
            && !conn.is_listed
        {
            conn.is_listed = true;
            self.listed.push(place);
        }
    }

    /// Hands to the engine what connections have to send: one send per connection and turn.
    fn flush(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        for place in listed.drain(..) {
            let Some(conn) = self.conns.get_mut(place as usize) else {
                continue;
            };
            conn.is_listed = false;
            let mut env = env!(self);
            if conn.stage == Stage::Ready && !conn.is_closing {
                match &mut conn.speaker {
                    Speaker::User(session) => session.pump(&mut env, &mut conn.out),
                    Speaker::Echo(..) => traffic::pump_echo(conn, &mut env),
                }
            }
            if let Some(socket) = conn.socket
                && !conn.is_sending
                && !conn.out.is_empty()
            {
                self.engine.send(socket, self.arena.push(&[&conn.out]));
                conn.is_sending = true;
                conn.out.clear();
                conn.out.shrink_to(16 * 1024);
            }
            self.set_timer(place);
        }
        self.listed = listed;
    }
}

const fn next_second_ns(now_ns: u64) -> u64 {
    (now_ns / SECOND_NS + 1) * SECOND_NS
}

/// Largest message that a connection takes.
fn message_bytes_max(shared: &Shared) -> u32 {
    let bytes = if shared.options.scenario.is_corelane() {
        limits::SERVER_FRAME_BYTES_MAX
    } else {
        16 * 1024 * 1024
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
