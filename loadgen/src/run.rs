//! A run from its beginning to its report.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::{Api, ApiError};
use crate::cli::{Options, Scenario, UsageError};
use crate::clock::Clock;
use crate::driver::{DriverError, Finish};
use crate::hlog;
use crate::leader::{Leader, Outcome};
use crate::ledger::AckFile;
use crate::names::{ConvKey, Names};
use crate::probe::Probe;
use crate::proc::{self, Usage};
use crate::report::{
    FaultsSeen, GeneratorUsage, Halves, Latencies, Report, TargetConnections, TargetUsage, Verdict,
};
use crate::shared::{Groups, SECOND_NS, Shared};
use crate::target::{Endpoint, Target, TargetError};
use crate::token::{Minter, TokenError, read_hex_file};
use crate::verdict::judge;

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

/// Runs what the command line asks for.
///
/// # Errors
///
/// [`RunError`], when there is nothing to report.
pub fn run(options: Options) -> Result<Report, RunError> {
    options.check()?;
    let targets = Target::parse_all(&options)?;
    let clock = Clock::start();
    let minter = options
        .secret_file
        .as_deref()
        .map(Minter::from_file)
        .transpose()?;
    let admin_key = options.admin_key_file.as_deref().map(read_hex_file).transpose()?;
    let endpoints = targets
        .into_iter()
        .map(Endpoint::find)
        .collect::<Result<Vec<_>, _>>()?;
    let seed = options.seed.unwrap_or_else(random);
    let run_id = random();
    let names = Names::new(run_id);
    let api = admin_key
        .map(|key| Api::new(&routers(&options, &endpoints), &key))
        .filter(|_| options.scenario.is_corelane());
    let groups = make_groups(&options, names, api.as_ref())?;
    let ack_file = options
        .ledger
        .as_deref()
        .map(|path| AckFile::open(path, names).map_err(|source| file_error(path, source)))
        .transpose()?;
    let hlog = options.hlog.as_deref().map(create).transpose()?;
    let per_second = options.per_second.as_deref().map(create).transpose()?;
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
        endpoints,
        minter,
        groups,
        ack_file,
    ));
    let mut leader = Leader::start(Arc::clone(&shared), api)?;
    let outcome = leader.lead()?;
    let mut report = summarize(&shared, &leader, outcome, [fsync, wake]);
    if let Some(file) = hlog
        && let Err(error) = hlog::write(file, &shared, &leader.intervals)
    {
        let problem = format!("the .hlog could not be written: {error}");
        report.problems.insert(problem, 1);
    }
    if let Some(file) = per_second
        && let Err(error) = leader.seconds.write(file, shared.start_ns() / SECOND_NS)
    {
        let problem = format!("the seconds could not be written: {error}");
        report.problems.insert(problem, 1);
    }
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

/// Where routers are asked.
fn routers(options: &Options, endpoints: &[Endpoint]) -> Vec<String> {
    if !options.http.is_empty() {
        return options.http.clone();
    }
    let mut guessed: Vec<String> = Vec::new();
    for endpoint in endpoints {
        let guess = endpoint.target.http_guess();
        if !guessed.contains(&guess) {
            guessed.push(guess);
        }
    }
    guessed
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

/// Puts the report together.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn summarize(shared: &Shared, leader: &Leader, outcome: Outcome, probes: [Option<Probe>; 2]) -> Report {
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
    let target = target_usage(leader.usage);
    let [fsync, wake] = probes.map(|probe| probe.map(|probe| probe.finish().summary()));
    let messages = if options.scenario == Scenario::Echo {
        recorder.due_to_delivery.count()
    } else {
        recorder.due_to_ack.count()
    };
    let generator = generator_usage(&leader.finished);
    let mut report = Report {
        scenario: options.scenario.name(),
        url: options.urls.join(" "),
        targets: target_connections(shared, leader),
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
        faults: faults_seen(shared, leader, outcome.interrupted),
        latency_us: Latencies {
            due_to_ack: recorder.due_to_ack.summary(),
            due_to_delivery: recorder.due_to_delivery.summary(),
            sent_to_delivery: recorder.sent_to_delivery.summary(),
            lateness: recorder.lateness.summary(),
            connect: recorder.connect.summary(),
        },
        halves: Halves::new(recorder.halves()),
        log: outcome.log,
        log_not_compared: outcome.log_not_compared,
        target_cpu_us_per_message: target
            .filter(|_| messages > 0 && !is_idle)
            .map(|usage| (usage.cpu_us as f64 / messages as f64 * 100.0).round() / 100.0),
        target_rss_bytes: target.map(|usage| usage.rss_bytes),
        target,
        targets_metrics: leader.scraper.report(shared),
        generator,
        fsync_probe_us: fsync,
        wake_probe_us: wake,
        thresholds: Vec::new(),
        problems,
        machine: proc::machine(),
        commit: commit(),
    };
    judge(&mut report, options, measured_s * plan_rate, outcome.interrupted);
    report
}

fn target_connections(shared: &Shared, leader: &Leader) -> Vec<TargetConnections> {
    let urls = shared.options.urls.iter().cloned();
    urls.zip(leader.connections())
        .map(|(url, connections)| TargetConnections { url, connections })
        .collect()
}

fn faults_seen(shared: &Shared, leader: &Leader, was_interrupted: bool) -> FaultsSeen {
    let (options, tally) = (&shared.options, &leader.tally);
    let was_judged =
        options.faults && options.scenario.is_corelane() && shared.start_ns() > 0 && !was_interrupted;
    let complete_after_ms = (leader.complete_after().as_secs_f64() * 1e3).round();
    FaultsSeen {
        seen: tally.faults,
        disconnects: tally.dropped,
        resends: tally.resent,
        incomplete: tally.incomplete,
        complete_after_s: (was_judged && tally.incomplete == 0).then_some(complete_after_ms / 1e3),
    }
}

fn target_usage(samples: [(Option<Usage>, u64); 2]) -> Option<TargetUsage> {
    let [(Some(before), from_ns), (Some(after), to_ns)] = samples else {
        return None;
    };
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
