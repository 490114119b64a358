//! The main thread of a run, which leads the others through the phases.
//!
//! connect, run, quiet (answers are awaited), settle (the rest is given up and the log is read back), check
//! (every terminal must become complete), repair (what is missing is pulled), close.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::api::{Api, ApiError};
use crate::cli::Scenario;
use crate::clock::ns_of;
use crate::driver::{self, DriverError, Finish};
use crate::history::{self, Findings};
use crate::ledger::Ledger;
use crate::names::ConvKey;
use crate::proc::{self, Usage};
use crate::record::Recorder;
use crate::report::human_us;
use crate::run::RunError;
use crate::shared::{Phase, Shared, Tally};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(50);
/// How long the run starts after all connections stand, so that all threads see its start first.
const START_AFTER_NS: u64 = 200_000_000;

/// What the phases gave.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Somebody stopped it.
    pub(crate) interrupted: bool,
    /// The log beside the ledger.
    pub(crate) log: Option<Findings>,
    /// Why it was not compared.
    pub(crate) log_not_compared: Option<String>,
    /// How long making the connections took.
    pub(crate) connect_seconds: f64,
}

/// The main thread.
pub(crate) struct Leader {
    shared: Arc<Shared>,
    api: Option<Api>,
    reports: Receiver<driver::Report>,
    threads: usize,
    interrupted: Arc<AtomicBool>,
    /// Latencies of all threads.
    pub(crate) recorder: Recorder,
    /// Counters of all threads.
    pub(crate) tally: Tally,
    heads: HashMap<ConvKey, u64>,
    ledger: Ledger,
    /// What is left of the threads that are done.
    pub(crate) finished: Vec<Finish>,
    /// The latencies of each second with its end, if the run keeps them.
    pub(crate) intervals: Vec<(u64, Recorder)>,
    tick_at_ns: u64,
    tick_tally: Tally,
    is_terminal: bool,
    /// Usage of the target at both ends of the measured part, and when it was read.
    pub(crate) usage: [(Option<Usage>, u64); 2],
}

impl Leader {
    /// Starts the threads.
    pub(crate) fn start(shared: Arc<Shared>, api: Option<Api>) -> Result<Self, RunError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second signal ends the process at once. Without handlers the first one does.
            drop(signal_hook::flag::register_conditional_shutdown(
                signal,
                130,
                Arc::clone(&interrupted),
            ));
            drop(signal_hook::flag::register(signal, Arc::clone(&interrupted)));
        }
        let (sender, reports) = channel();
        for thread in 0..shared.options.threads {
            let (shared, sender) = (Arc::clone(&shared), sender.clone());
            std::thread::Builder::new()
                .name(format!("loadgen-{thread}"))
                .spawn(move || driver::run(shared, thread, &sender))
                .map_err(DriverError::AckFile)?;
        }
        let now_ns = shared.clock.now_ns();
        Ok(Self {
            is_terminal: !shared.options.quiet && std::io::stderr().is_terminal(),
            threads: shared.options.threads as usize,
            shared,
            api,
            reports,
            interrupted,
            recorder: Recorder::default(),
            tally: Tally::default(),
            heads: HashMap::new(),
            ledger: Ledger::default(),
            finished: Vec::new(),
            intervals: Vec::new(),
            tick_at_ns: now_ns + 1_000_000_000,
            tick_tally: Tally::default(),
            usage: [(None, 0); 2],
        })
    }

    fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// Goes through the phases.
    pub(crate) fn lead(&mut self) -> Result<Outcome, RunError> {
        let mut outcome = Outcome::default();
        if !self.connect(&mut outcome)? {
            return Ok(outcome);
        }
        if !self.is_interrupted() {
            self.run_plan()?;
        }
        outcome.interrupted = self.is_interrupted();
        if !outcome.interrupted {
            self.wait_for(Phase::Quiet, self.shared.options.drain)?;
            self.wait_for(Phase::Settle, Duration::from_secs(30))?;
            self.compare_log(&mut outcome);
            self.shared.set_heads(std::mem::take(&mut self.heads));
            if !self.wait_for(Phase::Check, self.shared.options.drain)? {
                self.wait_for(Phase::Repair, Duration::from_secs(10))?;
            }
            outcome.interrupted = self.is_interrupted();
        }
        self.wait_for(Phase::Close, CLOSE_TIMEOUT)?;
        self.take_interval(true);
        self.clear_line();
        Ok(outcome)
    }

    /// Makes all connections; false if that failed for a reason of our own.
    fn connect(&mut self, outcome: &mut Outcome) -> Result<bool, RunError> {
        let from_ns = self.now_ns();
        let options = &self.shared.options;
        let wanted = options.connections;
        let planned = Duration::from_secs_f64(f64::from(wanted) / options.connect_rate);
        let is_all = self.wait_for(Phase::Connect, planned + options.connect_timeout)?;
        self.take_interval(true);
        outcome.connect_seconds = Duration::from_nanos(self.now_ns() - from_ns).as_secs_f64();
        if is_all && self.tally.connected >= u64::from(wanted) || self.is_interrupted() {
            return Ok(true);
        }
        self.wait_for(Phase::Close, CLOSE_TIMEOUT)?;
        self.take_interval(true);
        self.clear_line();
        if self.tally.ports_exhausted + self.tally.slots_exhausted > 0 {
            // The report says so: void.
            return Ok(false);
        }
        let mut problems: Vec<String> = self
            .problems()
            .into_iter()
            .map(|(problem, count)| format!("{count} x {problem}"))
            .collect();
        if problems.is_empty() {
            problems.push("no answer in time".to_owned());
        }
        Err(RunError::Connections {
            connected: self.tally.connected,
            wanted,
            problems: problems.join("; "),
        })
    }

    fn run_plan(&mut self) -> Result<(), RunError> {
        let start_ns = self.now_ns() + START_AFTER_NS;
        self.shared.set_start(start_ns);
        self.shared.enter(Phase::Run);
        let options = &self.shared.options;
        let (plan_length, _) = self.shared.plan_shape();
        let marks = [
            start_ns + ns_of(options.warmup),
            start_ns + ns_of(options.warmup) + ns_of(options.duration),
        ];
        let reaches = options.scenario == Scenario::Idle && options.reach > 0;
        let end_ns = if reaches {
            self.shared.plan_start_ns() + plan_length
        } else {
            marks[1]
        };
        while self.now_ns() < end_ns && !self.is_interrupted() {
            self.receive(TICK)?;
            for (place, at) in marks.into_iter().enumerate() {
                if self.now_ns() >= at {
                    self.sample(place);
                }
            }
        }
        self.sample(1);
        Ok(())
    }

    /// Reads the target's usage, once for each end of the measured part.
    fn sample(&mut self, place: usize) {
        let now_ns = self.now_ns();
        let pids = &self.shared.options.target_pids;
        if pids.is_empty() {
            return;
        }
        if let Some(sample) = self.usage.get_mut(place)
            && sample.1 == 0
        {
            *sample = (proc::usage(pids), now_ns);
        }
    }

    /// Enters `phase` and waits until all threads are through with it; false if the time ran out.
    fn wait_for(&mut self, phase: Phase, timeout: Duration) -> Result<bool, RunError> {
        self.shared.enter(phase);
        let end_ns = self.now_ns() + ns_of(timeout);
        let mut done = 0;
        while done < self.threads {
            if self.now_ns() >= end_ns {
                return Ok(false);
            }
            if self.is_interrupted() && phase != Phase::Close {
                return Ok(false);
            }
            if let Some(of_phase) = self.receive(TICK)? {
                done += usize::from(of_phase == phase);
            }
        }
        Ok(true)
    }

    /// Takes a word of a thread, if one comes in time. Returns the phase it is through with.
    fn receive(&mut self, wait: Duration) -> Result<Option<Phase>, RunError> {
        let report = match self.reports.recv_timeout(wait) {
            Ok(report) => report,
            Err(RecvTimeoutError::Timeout) => {
                self.tick();
                return Ok(None);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(RunError::ThreadLost),
        };
        self.tick();
        Ok(Some(match report {
            driver::Report::Connected => Phase::Connect,
            driver::Report::Quiet => Phase::Quiet,
            driver::Report::Settled(heads, ledger) => {
                for (conv, head) in heads {
                    raise(&mut self.heads, conv, head);
                }
                self.ledger.append(ledger);
                Phase::Settle
            }
            driver::Report::Complete => Phase::Check,
            driver::Report::Repaired => Phase::Repair,
            driver::Report::Done(finish) => {
                self.finished.push(*finish);
                Phase::Close
            }
            driver::Report::Failed(error) => return Err(error.into()),
        }))
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Reads the whole log back.
    fn compare_log(&mut self, outcome: &mut Outcome) {
        if !self.shared.options.scenario.is_corelane() {
            return;
        }
        let Some(api) = self.api.clone() else {
            outcome.log_not_compared = Some("no --admin-key-file was given".to_owned());
            return;
        };
        let groups: Vec<ConvKey> = (0..self.shared.groups.count()).map(ConvKey::group).collect();
        let end_ns = self.now_ns() + 20_000_000_000;
        loop {
            match history::read_back(&api, self.shared.names, self.shared.run_id, &self.ledger, &groups) {
                Ok(read_back) => {
                    for (conv, head) in read_back.heads {
                        raise(&mut self.heads, conv, head);
                    }
                    outcome.log = Some(read_back.findings);
                    return;
                }
                // A target that is being restarted is worth waiting for.
                Err(ApiError::Transport { .. })
                    if self.shared.options.reconnect && self.now_ns() < end_ns && !self.is_interrupted() =>
                {
                    if self.receive(Duration::from_millis(500)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    outcome.log_not_compared = Some(error.to_string());
                    return;
                }
            }
        }
    }

    /// Once a second: takes what threads handed in, and writes the live line.
    fn tick(&mut self) {
        if self.now_ns() >= self.tick_at_ns {
            self.tick_at_ns += 1_000_000_000;
            self.take_interval(false);
        }
    }

    fn take_interval(&mut self, at_end: bool) {
        let interval = std::mem::take(&mut *self.shared.interval());
        self.recorder.merge(&interval.recorder);
        self.tally.merge(&interval.tally);
        if self.shared.options.hlog.is_some() {
            self.intervals.push((self.now_ns(), interval.recorder.clone()));
        }
        if self.is_terminal && !at_end {
            let since = self.tally.since(&self.tick_tally);
            self.tick_tally = self.tally;
            let delivery = &interval.recorder.due_to_delivery;
            let elapsed_s = Duration::from_nanos(self.now_ns() - 1_000_000_000).as_secs();
            let phase = self.shared.phase();
            let line = format!(
                "\r\x1b[K{elapsed_s}s {phase:?}: {} connected, {}/s sent, {}/s acked, {}/s delivered, p50 {} p99 {}, {} lost {} doubled {} reordered {} dropped",
                self.tally.connected,
                since.sent,
                since.acked,
                since.delivered,
                human_us(delivery.quantile_us(0.5)),
                human_us(delivery.quantile_us(0.99)),
                self.tally.lost,
                self.tally.duplicated,
                self.tally.reordered,
                self.tally.dropped
            );
            // The live line is a courtesy; a terminal that went away does not end the run.
            drop(std::io::stderr().write_all(line.as_bytes()));
        }
    }

    fn clear_line(&self) {
        if self.is_terminal {
            // As above.
            drop(std::io::stderr().write_all(b"\r\x1b[K"));
        }
    }

    /// What went wrong in all threads, and how often.
    pub(crate) fn problems(&self) -> BTreeMap<String, u64> {
        let mut problems = BTreeMap::new();
        for finish in &self.finished {
            for (problem, count) in &finish.problems {
                *problems.entry(problem.clone()).or_insert(0) += count;
            }
        }
        problems
    }
}

fn raise(heads: &mut HashMap<ConvKey, u64>, conv: ConvKey, head: u64) {
    let entry = heads.entry(conv).or_insert(0);
    *entry = (*entry).max(head);
}
