//! A run from its beginning to its report: the main thread, which leads the others through the phases.
//!
//! connect, run, quiet (answers are awaited), settle (the rest is given up and the log is read back), check
//! (every terminal must become complete), repair (what is missing is pulled), close.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::api::{Api, ApiError};
use crate::cli::{Options, Scenario, UsageError};
use crate::clock::{Clock, ns_of};
use crate::driver::{self, DriverError, Finish};
use crate::history::{self, End, Findings};
use crate::ledger::{AckFile, Ledger};
use crate::names::{ConvKey, Names};
use crate::probe::Probe;
use crate::proc::{self, Usage};
use crate::record::Recorder;
use crate::report::{GeneratorUsage, Latencies, Report, TargetUsage, ThresholdResult, Verdict, human_us};
use crate::shared::{Groups, Phase, Shared, Tally};
use crate::target::{Target, TargetError};
use crate::threshold::Threshold;
use crate::token::{Minter, TokenError, read_hex_file};

/// A run that has no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line contradicts itself.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A key file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The HTTP API does not do what the run needs.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Not all connections could be made.
    #[error("only {connected} of {wanted} connections could be made: {problems}")]
    Connections {
        /// How many stood.
        connected: u64,
        /// How many were asked for.
        wanted: u32,
        /// What went wrong.
        problems: String,
    },
    /// A thread failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A thread ended without a word.
    #[error("a thread of the generator ended unexpectedly")]
    ThreadLost,
    /// Somebody stopped it before it had begun.
    #[error("interrupted")]
    Interrupted,
}

const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(50);
/// How long the run starts after all connections stand, so that all threads see its start first.
const START_AFTER_NS: u64 = 200_000_000;

/// Runs what the command line asks for.
///
/// # Errors
///
/// [`RunError`], when there is nothing to report.
pub fn run(options: Options) -> Result<Report, RunError> {
    options.check()?;
    let target = Target::parse(&options)?;
    let clock = Clock::start();
    let minter = options
        .secret_file
        .as_deref()
        .map(Minter::from_file)
        .transpose()?;
    let admin_key = options.admin_key_file.as_deref().map(read_hex_file).transpose()?;
    let address = target.resolve()?;
    TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .map_err(|source| TargetError::Connect { address, source })?;
    let seed = options.seed.unwrap_or_else(random);
    let run_id = random();
    let names = Names::new(run_id);
    let http = options.http.clone().unwrap_or_else(|| target.http_guess());
    let api = admin_key
        .map(|key| Api::new(&http, &key))
        .filter(|_| options.scenario.is_corelane());
    let groups = make_groups(&options, names, api.as_ref())?;
    let ack_file = options
        .ledger
        .as_deref()
        .map(|path| AckFile::open(path, names).map_err(|source| file_error(path, source)))
        .transpose()?;
    let hlog = options.hlog.as_deref().map(create).transpose()?;
    // Opened now, so that a mistake in the path does not cost a run.
    let json = options
        .json
        .as_deref()
        .filter(|path| path.as_os_str() != "-")
        .map(create)
        .transpose()?;
    let fsync = options
        .fsync_probe
        .as_deref()
        .map(|dir| Probe::fsync(dir, clock).map_err(|source| file_error(dir, source)))
        .transpose()?;
    let wake = options.wake_probe.then(|| Probe::wake(clock));

    let shared = Arc::new(Shared::new(
        options,
        (run_id, seed),
        clock,
        target,
        address,
        minter,
        groups,
        ack_file,
    ));
    let mut leader = Leader::start(Arc::clone(&shared), api)?;
    leader.hlog = hlog.map(HlogFile);
    let outcome = leader.lead()?;
    let report = finish(&shared, leader, outcome, fsync, wake);
    write_json(&shared.options, json, &report)?;
    Ok(report)
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(0x5eed)
}

fn file_error(path: &Path, source: std::io::Error) -> RunError {
    RunError::File {
        path: path.to_owned(),
        source,
    }
}

fn create(path: &Path) -> Result<std::fs::File, RunError> {
    std::fs::File::create(path).map_err(|source| file_error(path, source))
}

fn make_groups(options: &Options, names: Names, api: Option<&Api>) -> Result<Groups, RunError> {
    let mut groups = Groups::new(options.group_count(), options.group_size, options.connections);
    let Some(api) = api else { return Ok(groups) };
    for group in 0..groups.count() {
        let members: Vec<String> = groups.members(group).map(|user| names.user(user)).collect();
        api.create_group(&names.group(group), &members)?;
        let conv = names.conv_id(ConvKey::group(group)).to_string();
        let base = api.history(&conv, 1, 1)?.head_seq;
        if let Some(entry) = groups.bases.get_mut(group as usize) {
            *entry = base;
        }
    }
    Ok(groups)
}

/// A histogram log that is being written.
struct HlogFile(std::fs::File);

/// What the phases gave.
#[derive(Default)]
struct Outcome {
    interrupted: bool,
    log: Option<Findings>,
    log_not_compared: Option<String>,
    connect_seconds: f64,
    usage: [Option<Usage>; 2],
    usage_at_ns: [u64; 2],
}

/// The main thread.
struct Leader {
    shared: Arc<Shared>,
    api: Option<Api>,
    reports: Receiver<driver::Report>,
    threads: usize,
    interrupted: Arc<AtomicBool>,
    recorder: Recorder,
    tally: Tally,
    ends: HashMap<ConvKey, End>,
    ledger: Ledger,
    finished: Vec<Finish>,
    hlog: Option<HlogFile>,
    intervals: Vec<(u64, Recorder)>,
    tick_at_ns: u64,
    tick_tally: Tally,
    is_terminal: bool,
    usage: [Option<Usage>; 2],
    usage_at_ns: [u64; 2],
}

impl Leader {
    fn start(shared: Arc<Shared>, api: Option<Api>) -> Result<Self, RunError> {
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
            ends: HashMap::new(),
            ledger: Ledger::default(),
            finished: Vec::new(),
            hlog: None,
            intervals: Vec::new(),
            tick_at_ns: now_ns + 1_000_000_000,
            tick_tally: Tally::default(),
            usage: [None; 2],
            usage_at_ns: [0; 2],
        })
    }

    fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// Goes through the phases.
    fn lead(&mut self) -> Result<Outcome, RunError> {
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
            self.shared.set_ends(std::mem::take(&mut self.ends));
            if !self.wait_for(Phase::Check, self.shared.options.drain)? {
                self.wait_for(Phase::Repair, Duration::from_secs(10))?;
            }
            outcome.interrupted = self.is_interrupted();
        }
        self.wait_for(Phase::Close, CLOSE_TIMEOUT)?;
        self.take_interval(true);
        outcome.usage = self.usage;
        outcome.usage_at_ns = self.usage_at_ns;
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
        if let (Some(usage), Some(at)) = (self.usage.get_mut(place), self.usage_at_ns.get_mut(place))
            && *at == 0
        {
            *usage = proc::usage(pids);
            *at = now_ns;
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
                    raise(&mut self.ends, conv, End { head, digest: None });
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
                    for (conv, end) in read_back.ends {
                        raise(&mut self.ends, conv, end);
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
        if self.hlog.is_some() {
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

    fn problems(&self) -> BTreeMap<String, u64> {
        let mut problems = BTreeMap::new();
        for finish in &self.finished {
            for (problem, count) in &finish.problems {
                *problems.entry(problem.clone()).or_insert(0) += count;
            }
        }
        problems
    }
}

fn raise(ends: &mut HashMap<ConvKey, End>, conv: ConvKey, end: End) {
    let entry = ends.entry(conv).or_insert(end);
    if end.head >= entry.head {
        *entry = end;
    }
}

/// Puts the report together.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn finish(
    shared: &Shared,
    leader: Leader,
    outcome: Outcome,
    fsync: Option<Probe>,
    wake: Option<Probe>,
) -> Report {
    let options = &shared.options;
    let tally = leader.tally;
    let recorder = &leader.recorder;
    let problems = leader.problems();
    let (plan_length_ns, plan_rate) = shared.plan_shape();
    let is_idle = options.scenario == Scenario::Idle;
    let measured_s = if is_idle {
        plan_length_ns as f64 / 1e9
    } else {
        options.duration.as_secs_f64()
    };
    let target = target_usage(&outcome);
    let messages = if options.scenario == Scenario::Echo {
        recorder.due_to_delivery.count()
    } else {
        recorder.due_to_ack.count()
    };
    let generator = generator_usage(&leader.finished);
    let mut report = Report {
        scenario: options.scenario.name(),
        url: options.url.clone(),
        verdict: Verdict::Pass,
        exit_code: 0,
        void: false,
        void_reason: None,
        broken: Vec::new(),
        run_id: format!("{:016x}", shared.run_id),
        seed: shared.seed,
        connections: options.connections,
        connected: tally.connected,
        connect_seconds: outcome.connect_seconds,
        size_bytes: options.size,
        duration_s: options.duration.as_secs_f64(),
        planned_per_s: plan_rate,
        offered_per_s: if measured_s > 0.0 {
            tally.offered as f64 / measured_s
        } else {
            0.0
        },
        sent: tally.sent,
        acked: tally.acked,
        delivered: tally.delivered,
        lost: tally.lost,
        duplicated: tally.duplicated,
        reordered: tally.reordered,
        redelivered: tally.redelivered,
        repaired: tally.repaired,
        dropped: tally.dropped,
        counters: tally,
        faults: shared.faults.count(),
        latency_us: Latencies {
            due_to_ack: recorder.due_to_ack.summary(),
            due_to_delivery: recorder.due_to_delivery.summary(),
            sent_to_delivery: recorder.sent_to_delivery.summary(),
            lateness: recorder.lateness.summary(),
            connect: recorder.connect.summary(),
        },
        log: outcome.log,
        log_not_compared: outcome.log_not_compared,
        target_cpu_us_per_message: target
            .filter(|_| messages > 0 && !is_idle)
            .map(|usage| (usage.cpu_us as f64 / messages as f64 * 100.0).round() / 100.0),
        target_rss_bytes: target.map(|usage| usage.rss_bytes),
        target,
        generator,
        fsync_probe_us: fsync.map(|probe| probe.finish().summary()),
        wake_probe_us: wake.map(|probe| probe.finish().summary()),
        thresholds: Vec::new(),
        problems,
        machine: proc::machine(),
        commit: commit(),
    };
    write_hlog(shared, leader.hlog, &leader.intervals, &mut report);
    judge(&mut report, options, measured_s * plan_rate, outcome.interrupted);
    report
}

fn target_usage(outcome: &Outcome) -> Option<TargetUsage> {
    let [Some(before), Some(after)] = outcome.usage else {
        return None;
    };
    let [from_ns, to_ns] = outcome.usage_at_ns;
    let cpu_us = after.cpu_us.saturating_sub(before.cpu_us);
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let cpu_percent = cpu_us as f64 * 1e5 / to_ns.saturating_sub(from_ns).max(1) as f64;
    Some(TargetUsage {
        cpu_us,
        cpu_percent,
        rss_bytes: after.rss_bytes,
        rss_anon_bytes: after.rss_anon_bytes,
        rss_anon_bytes_before: before.rss_anon_bytes,
        descriptors: after.descriptors,
    })
}

#[expect(clippy::cast_precision_loss, reason = "percentages for people")]
fn generator_usage(finished: &[Finish]) -> GeneratorUsage {
    let mut usage = GeneratorUsage::default();
    for finish in finished {
        let (cpu, waited, length) = finish.cpu_ns;
        let percent = |part: u64| (part as f64 * 1000.0 / length.max(1) as f64).round() / 10.0;
        if percent(cpu) >= usage.cpu_percent {
            usage.cpu_percent = percent(cpu);
            usage.cpu_wait_percent = percent(waited);
        }
        let (rings, enters, buffers_empty) = finish.engine;
        usage.rings += rings;
        usage.enters += enters;
        usage.buffers_empty += buffers_empty;
    }
    usage
}

/// Decides how the run ends.
fn judge(report: &mut Report, options: &Options, planned: f64, interrupted: bool) {
    report.broken = broken(report, options);
    report.void_reason = void_reason(report, planned, interrupted);
    report.void = report.void_reason.is_some();
    let mut thresholds = options.thresholds.clone();
    if options.scenario == Scenario::Idle && options.reach > 0 {
        thresholds.extend(Threshold::parse("deliver.max<=1s"));
    }
    report.thresholds = thresholds
        .iter()
        .map(|threshold| {
            let value = report.figure(threshold.metric());
            ThresholdResult {
                threshold: threshold.text().to_owned(),
                value: if value.is_nan() { -1.0 } else { value },
                ok: threshold.holds(value),
            }
        })
        .collect();
    report.verdict = if interrupted {
        Verdict::Interrupted
    } else if !report.broken.is_empty() {
        Verdict::Broken
    } else if report.log_not_compared.is_some() && options.admin_key_file.is_some() {
        Verdict::Unreachable
    } else if report.void {
        Verdict::Void
    } else if report.thresholds.iter().any(|result| !result.ok) {
        Verdict::Threshold
    } else {
        Verdict::Pass
    };
    report.exit_code = report.verdict.exit_code();
}

/// Everything that must not have happened.
fn broken(report: &Report, options: &Options) -> Vec<String> {
    let c = &report.counters;
    let strict = |count: u64| if options.reconnect { 0 } else { count };
    // Without reconnecting each of them was counted as dropped.
    let offline = if options.reconnect { c.offline } else { 0 };
    let log = report.log.as_ref().map_or(0, Findings::broken);
    [
        (c.lost, "lost: live gaps that nothing explains, or no reply"),
        (c.missing, "places that a terminal lacks at the end"),
        (
            c.differing,
            "conversations of terminals that are not what the log says",
        ),
        (offline, "terminals that did not come back"),
        (c.duplicated, "doubled on a connection without a fault"),
        (c.reordered, "reordered on a connection without a fault"),
        (c.corrupt, "payloads that changed on the way"),
        (c.misdelivered, "delivered to somebody they were not for"),
        (c.stray, "answers to nothing that was asked"),
        (c.malformed, "frames that break the protocol"),
        (strict(c.dropped), "connections dropped"),
        (strict(c.unanswered), "sends never answered"),
        (log, "differences between the log and the ledger"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

/// Whether the generator was the bottleneck, and why it says so.
#[expect(
    clippy::cast_precision_loss,
    reason = "a comparison with one percent of slack"
)]
fn void_reason(report: &Report, planned: f64, interrupted: bool) -> Option<String> {
    let c = &report.counters;
    if c.ports_exhausted > 0 && report.connected < u64::from(report.connections) {
        return Some(format!(
            "{} connects found no source port: widen net.ipv4.ip_local_port_range or give more --source-addrs",
            c.ports_exhausted
        ));
    }
    if c.slots_exhausted > 0 && report.connected < u64::from(report.connections) {
        return Some(format!(
            "{} connects found no descriptor: raise RLIMIT_NOFILE (ulimit -n)",
            c.slots_exhausted
        ));
    }
    if interrupted {
        return Some("interrupted before its end".to_owned());
    }
    let usage = &report.generator;
    let cause = format!(
        "its busiest thread used {} % of a CPU and waited for one {} % of the time",
        usage.cpu_percent, usage.cpu_wait_percent
    );
    let late = report.latency_us.lateness.p99;
    let measured = if report.latency_us.due_to_delivery.count > 0 {
        report.latency_us.due_to_delivery.p99
    } else {
        report.latency_us.due_to_ack.p99
    };
    // What `idle` promises is a second: being late makes that harder to keep, never easier.
    let late_allowed = if report.scenario == Scenario::Idle.name() {
        100_000
    } else {
        1_000
    };
    if late > late_allowed && late * 10 > measured {
        return Some(format!(
            "the plan ran late by {} at p99, beside a measured p99 of {}: {cause}",
            human_us(late),
            human_us(measured)
        ));
    }
    // Drawn arrivals vary around the plan by themselves.
    if (c.offered as f64) < planned * 0.99 - 4.0 * planned.sqrt() || (c.offered as f64) < planned * 0.95 - 1.0
    {
        return Some(format!(
            "only {} of {planned:.0} planned sends were taken up: {cause}",
            c.offered
        ));
    }
    (usage.cpu_percent > 95.0).then(|| format!("the generator's own CPU was saturated: {cause}"))
}

/// The commit of the tree around the working directory.
fn commit() -> String {
    if let Ok(commit) = std::env::var("CORELANE_COMMIT") {
        return commit;
    }
    let output = std::process::Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    output
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |commit| commit.trim().to_owned())
}

fn write_hlog(shared: &Shared, hlog: Option<HlogFile>, intervals: &[(u64, Recorder)], report: &mut Report) {
    use hdrhistogram::serialization::V2DeflateSerializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
    let Some(HlogFile(file)) = hlog else { return };
    let mut file = std::io::BufWriter::new(file);
    let mut serializer = V2DeflateSerializer::new();
    let write = || -> Result<(), String> {
        let mut builder = IntervalLogWriterBuilder::new();
        builder
            .add_comment("corelane-loadgen, values in us")
            .with_start_time(shared.clock.wall_start())
            .with_max_value_divisor(1.0);
        let mut log = builder
            .begin_log_with(&mut file, &mut serializer)
            .map_err(|error| error.to_string())?;
        let mut before_ns = 1_000_000_000;
        for (at_ns, recorder) in intervals {
            for (tag, latency) in recorder.tagged() {
                if latency.count() == 0 {
                    continue;
                }
                let start = Duration::from_nanos(before_ns - 1_000_000_000);
                let length = Duration::from_nanos(at_ns - before_ns);
                log.write_histogram(latency.histogram(), start, length, Tag::new(tag))
                    .map_err(|error| format!("{error:?}"))?;
            }
            before_ns = *at_ns;
        }
        Ok(())
    };
    let mut write = write;
    if let Err(error) = write().and_then(|()| file.flush().map_err(|error| error.to_string())) {
        report
            .problems
            .insert(format!("the .hlog could not be written: {error}"), 1);
    }
}

fn write_json(options: &Options, file: Option<std::fs::File>, report: &Report) -> Result<(), RunError> {
    let mut text = serde_json::to_string_pretty(report).expect("a report is plain data");
    text.push('\n');
    let path = options.json.clone().unwrap_or_default();
    match file {
        Some(mut file) => file.write_all(text.as_bytes()),
        None if path.as_os_str() == "-" => std::io::stdout().write_all(text.as_bytes()),
        None => Ok(()),
    }
    .map_err(|source| file_error(&path, source))
}
