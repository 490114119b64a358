//! The main thread of a run, which leads the others through the phases.
//!
//! connect, run, quiet (answers are awaited), settle (the rest is given up and the log is read back), check
//! (every terminal must become complete), repair (what is missing is pulled), close. Where faults are made on purpose,
//! quiet and check together may last until the settling time is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::api::Api;
use crate::cli::Scenario;
use crate::clock::ns_of;
use crate::driver::{self, DriverError, Finish};
use crate::history::{self, Findings};
use crate::ledger::Ledger;
use crate::live::Live;
use crate::metrics::Scraper;
use crate::names::ConvKey;
use crate::proc::{self, Usage};
use crate::record::Recorder;
use crate::run::RunError;
use crate::seconds::Seconds;
use crate::shared::{Interval, Phase, SECOND_NS, Shared, Tally};
use crate::verify::LogEnd;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// Shortest time for a look at every terminal, however late it is.
const CHECK_TIME_MIN: Duration = Duration::from_secs(2);
/// Gateways leave their counters four times a second.
const METRICS_DELAY: Duration = Duration::from_millis(500);
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
    heads: HashMap<ConvKey, LogEnd>,
    ledger: Ledger,
    /// What is left of the threads that are done.
    pub(crate) finished: Vec<Finish>,
    /// The latencies of each second with its end, if the run keeps them.
    pub(crate) intervals: Vec<(u64, Recorder)>,
    /// What happened in each second, if the run keeps that.
    pub(crate) seconds: Seconds,
    /// What the target's processes counted.
    pub(crate) scraper: Scraper,
    tick_at_ns: u64,
    live: Live,
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
            live: Live::new(shared.options.quiet),
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
            seconds: Seconds::default(),
            scraper: Scraper::default(),
            tick_at_ns: now_ns + SECOND_NS,
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
            self.scraper.read_before(&self.shared.options.metrics);
            self.run_plan()?;
        }
        outcome.interrupted = self.is_interrupted();
        if !outcome.interrupted {
            self.wait_for(Phase::Quiet, self.patience())?;
            self.wait_for(Phase::Settle, Duration::from_secs(30))?;
            self.compare_log(&mut outcome);
            self.shared.set_heads(std::mem::take(&mut self.heads));
            if !self.wait_for(Phase::Check, self.time_to_check())? {
                self.wait_for(Phase::Repair, Duration::from_secs(10))?;
            }
            outcome.interrupted = self.is_interrupted();
            self.read_metrics()?;
        }
        self.wait_for(Phase::Close, CLOSE_TIMEOUT)?;
        self.take_interval(true);
        self.live.clear();
        Ok(outcome)
    }

    /// How long answers and deliveries may still take.
    fn patience(&self) -> Duration {
        let options = &self.shared.options;
        if options.faults {
            Duration::from_nanos(self.shared.settled_by_ns().saturating_sub(self.now_ns()))
        } else {
            options.drain
        }
    }

    fn time_to_check(&self) -> Duration {
        let patience = self.patience();
        if self.shared.options.faults {
            // What came in time is known by its own time.
            patience.max(CHECK_TIME_MIN)
        } else {
            patience
        }
    }

    fn read_metrics(&mut self) -> Result<(), RunError> {
        if self.shared.options.metrics.is_empty() {
            return Ok(());
        }
        let end_ns = self.now_ns() + ns_of(METRICS_DELAY);
        while self.now_ns() < end_ns {
            self.receive(TICK)?;
        }
        self.scraper.read_after(&self.shared.options.metrics);
        Ok(())
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
        self.live.clear();
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
        // A whole second, so that the seconds in which things are counted are those of the run.
        let start_ns = (self.now_ns() + START_AFTER_NS).next_multiple_of(SECOND_NS);
        self.shared.set_start(start_ns);
        self.shared.enter(Phase::Run);
        let options = &self.shared.options;
        let marks = [
            start_ns + ns_of(options.warmup),
            start_ns + ns_of(options.warmup) + ns_of(options.duration),
        ];
        let reaches = options.scenario == Scenario::Idle && options.reach > 0;
        let end_ns = if reaches {
            self.shared.load_end_ns()
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
                for (conv, seq) in heads {
                    raise(&mut self.heads, conv, LogEnd { seq, digest: None });
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
        let shared = Arc::clone(&self.shared);
        let end_ns = self.now_ns() + 20_000_000_000;
        loop {
            match history::read_back(&api, shared.names, shared.run_id, &self.ledger, &shared.groups) {
                Ok(read_back) => {
                    for (conv, end) in read_back.heads {
                        raise(&mut self.heads, conv, end);
                    }
                    outcome.log = Some(read_back.findings);
                    return;
                }
                // A target that is being restarted is worth waiting for.
                Err(error)
                    if error.is_away()
                        && shared.options.reconnects()
                        && self.now_ns() < end_ns
                        && !self.is_interrupted() =>
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
            self.tick_at_ns += SECOND_NS;
            self.take_interval(false);
        }
    }

    fn take_interval(&mut self, at_end: bool) {
        let intervals = std::mem::take(&mut *self.shared.intervals());
        let mut taken = Interval::default();
        for (second, interval) in &intervals {
            taken.merge(interval);
            if self.shared.options.per_second.is_some() {
                self.seconds.add(*second, interval);
            }
        }
        let now_second = self.now_ns() / SECOND_NS;
        self.seconds.close((!at_end).then_some(now_second));
        self.recorder.merge(&taken.recorder);
        self.tally.merge(&taken.tally);
        if self.shared.options.hlog.is_some() {
            self.intervals.push((self.now_ns(), taken.recorder.clone()));
        }
        if !at_end {
            let elapsed_s = now_second.saturating_sub(1);
            self.live
                .show(elapsed_s, self.shared.phase(), &taken, &self.tally);
        }
    }

    /// Connections that stood at each target, those made again included.
    pub(crate) fn connections(&self) -> Vec<u64> {
        let mut connections = vec![0; self.shared.endpoints.len()];
        for finish in &self.finished {
            for (total, count) in connections.iter_mut().zip(&finish.connections) {
                *total += count;
            }
        }
        connections
    }

    /// How long after the last send was due the last thing came that a terminal lacked.
    pub(crate) fn complete_after(&self) -> Duration {
        let completed_ns = self.finished.iter().map(|finish| finish.completed_ns).max();
        let late_ns = completed_ns
            .unwrap_or(0)
            .saturating_sub(self.shared.load_end_ns());
        Duration::from_nanos(late_ns)
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

/// What was read of the log says more than an ack of the same place.
fn raise(heads: &mut HashMap<ConvKey, LogEnd>, conv: ConvKey, end: LogEnd) {
    let entry = heads.entry(conv).or_insert(end);
    if end.seq > entry.seq || end.seq == entry.seq && end.digest.is_some() {
        *entry = end;
    }
}
