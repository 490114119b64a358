//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::plan::Arrivals;
use crate::sources::Sources;
use crate::threshold::Threshold;
use crate::units;

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Connections that only keep their heartbeat; optionally one message to each of some at the end.
    Idle,
    /// Any WebSocket server that sends back what it gets.
    Echo,
    /// Messages between two users each.
    Direct,
    /// Messages in groups.
    Group,
}

impl Scenario {
    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Echo => "echo",
            Self::Direct => "direct",
            Self::Group => "group",
        }
    }

    /// Whether users log in to Corelane.
    pub const fn is_corelane(self) -> bool {
        !matches!(self, Self::Echo)
    }
}

/// Whom a user of `direct` writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Any other user, drawn for each message.
    Random,
    /// Always the same: users 0 and 1, 2 and 3, and so on.
    Pairs,
    /// Always the next user; the last one the first.
    Ring,
}

/// Readers that stop for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// How many connections.
    pub connections: u32,
    /// When they stop reading, from the start of the run.
    pub after: Duration,
    /// For how long.
    pub length: Duration,
}

impl Pause {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no pause; allowed: COUNT@AFTER+LENGTH, such as 1@10s+20s");
        let (connections, times) = text.split_once('@').ok_or_else(wrong)?;
        let (after, length) = times.split_once('+').ok_or_else(wrong)?;
        Ok(Self {
            connections: units::count(connections)?,
            after: units::duration(after)?,
            length: units::duration(length)?,
        })
    }
}

/// An open-loop load generator for WebSocket services that checks what it receives.
///
/// Exit codes: 0 pass, 1 internal error, 2 usage, 3 target unreachable, 4 a promise was broken (lost, doubled,
/// reordered, dropped, incomplete, or the log differs), 5 void (the generator itself was the bottleneck), 99 a threshold
/// failed, 130 interrupted.
#[derive(Debug, Clone, Parser)]
#[command(name = "corelane-loadgen", version, args_override_self = true)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct Options {
    /// What to do.
    #[arg(value_enum)]
    pub scenario: Scenario,
    /// Where: `ws://host:port/path`, several for a cluster. Corelane scenarios use /ws if there is no path. Connections
    /// are spread evenly, the two users of a pair onto different ones; whoever reconnects goes to the next.
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// Connections.
    #[arg(short = 'c', long, default_value = "100", value_parser = units::count)]
    pub connections: u32,
    /// Messages per second, all connections together.
    #[arg(short = 'r', long, default_value = "1k/s", value_parser = units::rate)]
    pub rate: f64,
    /// Length of the measured part.
    #[arg(short = 'd', long, default_value = "10s", value_parser = units::duration)]
    pub duration: Duration,
    /// Length of the warm-up before it, at full rate, verified but not measured.
    #[arg(short = 'w', long, default_value = "1s", value_parser = units::duration)]
    pub warmup: Duration,
    /// Payload size.
    #[arg(short = 's', long, default_value = "128", value_parser = units::size)]
    pub size: usize,
    /// Header to add to the upgrade request (repeatable).
    #[arg(short = 'H', long = "header", value_parser = units::header)]
    pub headers: Vec<(String, String)>,
    /// New connections per second.
    #[arg(long, default_value = "2k/s", value_parser = units::rate)]
    pub connect_rate: f64,
    /// How long all connections together may take beyond what the connect rate needs.
    #[arg(long, default_value = "30s", value_parser = units::duration)]
    pub connect_timeout: Duration,
    /// Limit that the run must keep, such as deliver.p99<20ms (repeatable).
    #[arg(long = "threshold", value_parser = Threshold::parse)]
    pub thresholds: Vec<Threshold>,
    /// Writes the report as JSON ("-" for standard output).
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Writes histograms, one interval per second.
    #[arg(long)]
    pub hlog: Option<PathBuf>,
    /// Writes one line per second as CSV: second, sent, acked, delivered, p50 and p99 of due to delivery, reconnects.
    #[arg(long, value_name = "FILE")]
    pub per_second: Option<PathBuf>,
    /// Brings back a plan; drawn and printed if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The target's token secret (DATA/token.key): the run's users are minted from it.
    #[arg(long)]
    pub secret_file: Option<PathBuf>,
    /// A router's HTTP API (repeatable: any of them may answer) [default: <http://HOST:7080> of each target].
    #[arg(long, value_name = "URL")]
    pub http: Vec<String>,
    /// Gateway or router whose Prometheus counters are read before and after the run (repeatable).
    #[arg(long, value_name = "URL", value_parser = crate::metrics::address)]
    pub metrics: Vec<String>,
    /// The API's key (DATA/admin.key): needed for groups and for comparing the log.
    #[arg(long)]
    pub admin_key_file: Option<PathBuf>,
    /// Process whose CPU and memory are reported (repeatable).
    #[arg(long = "target-pid")]
    pub target_pids: Vec<u32>,
    /// Threads of the generator.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Members of each group.
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub group_size: u32,
    /// Groups [default: as many as fit the connections].
    #[arg(long, value_parser = units::count)]
    pub groups: Option<u32>,
    /// Addresses to connect from [default: enough of 127.0.0.0/8 for a target on this machine].
    #[arg(long, value_parser = Sources::parse)]
    pub source_addrs: Option<Sources>,
    /// Time between heartbeats of a connection.
    #[arg(long, default_value = "25s", value_parser = units::duration)]
    pub heartbeat: Duration,
    /// Connections that log in and then never read until the end.
    #[arg(long, default_value = "0", value_parser = units::count)]
    pub stall: u32,
    /// Readers that stop for a while: COUNT@AFTER+LENGTH.
    #[arg(long, value_parser = Pause::parse)]
    pub pause_reader: Option<Pause>,
    /// Reconnects when a connection dies, and goes on.
    #[arg(long)]
    pub reconnect: bool,
    /// Faults are made on purpose: reconnects without end, sends again what was not answered, counts what comes twice
    /// as redelivered, and fails if a terminal is not complete when the settling time is over.
    #[arg(long)]
    pub faults: bool,
    /// With --faults: how long terminals may take to be complete after the last send was due.
    #[arg(long, default_value = "30s", value_parser = units::duration)]
    pub settle: Duration,
    /// File that gets one line per ack, as it comes.
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Directory in which an appending fdatasync is timed ten times a second.
    #[arg(long)]
    pub fsync_probe: Option<PathBuf>,
    /// Times waking another thread, a hundred times a second.
    #[arg(long)]
    pub wake_probe: bool,
    /// How due times are spread.
    #[arg(long, value_enum, default_value = "fixed")]
    pub arrivals: Arrivals,
    /// Whom users of `direct` write to.
    #[arg(long, value_enum, default_value = "random")]
    pub pattern: Pattern,
    /// `idle`: at the end, one message to each of so many random users must arrive within a second.
    #[arg(long, default_value = "0", value_parser = units::count)]
    pub reach: u32,
    /// `echo`: sends text instead of binary frames.
    #[arg(long)]
    pub text: bool,
    /// `echo`: subprotocol to ask for.
    #[arg(long)]
    pub subprotocol: Option<String>,
    /// How long answers and deliveries may take after the last send.
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    pub drain: Duration,
    /// No line per second on the terminal.
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Two options that do not go together, or a value that the scenario cannot use.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl Options {
    /// Checks what one option alone cannot show.
    ///
    /// # Errors
    ///
    /// [`UsageError`]: print it and exit with 2.
    pub fn check(&self) -> Result<(), UsageError> {
        let wrong = |text: String| Err(UsageError(text));
        let size_min = if self.text {
            crate::payload::TEXT_BYTES_MIN
        } else {
            crate::payload::HEADER_BYTES
        };
        if self.size < size_min {
            return wrong(format!(
                "--size {} is too small; allowed: {size_min} or more, because every message carries its own proof",
                self.size
            ));
        }
        if self.connections == 0 {
            return wrong("--connections 0 is not allowed; allowed: 1 or more".to_owned());
        }
        if self.connect_rate <= 0.0 {
            return wrong("--connect-rate 0 is not allowed; allowed: more than 0".to_owned());
        }
        if self.threads > self.connections {
            return wrong(format!(
                "--threads {} is more than --connections {}; allowed: as many or fewer",
                self.threads, self.connections
            ));
        }
        if self.urls.len() > self.connections as usize {
            return wrong(format!(
                "{} targets are more than --connections {}; allowed: as many or fewer",
                self.urls.len(),
                self.connections
            ));
        }
        if !self.scenario.is_corelane() {
            return Ok(());
        }
        if self.secret_file.is_none() {
            return wrong(format!(
                "scenario {} logs users in: give --secret-file DATA/token.key of the target",
                self.scenario.name()
            ));
        }
        if self.text || self.subprotocol.is_some() {
            return wrong("--text and --subprotocol are for scenario echo only".to_owned());
        }
        if self.size > corelane_protocol::limits::PAYLOAD_BYTES_MAX {
            return wrong(format!(
                "--size {} is too large; allowed: up to {}",
                self.size,
                corelane_protocol::limits::PAYLOAD_BYTES_MAX
            ));
        }
        let paused = self.pause_reader.map_or(0, |pause| pause.connections);
        let readers = self.connections.saturating_sub(self.stall).saturating_sub(paused);
        if readers < 2 && (self.scenario != Scenario::Idle || self.reach > 0) {
            return wrong(format!(
                "--connections {} leaves {readers} that read and send; allowed: two or more",
                self.connections
            ));
        }
        if self.reach > self.connections {
            return wrong(format!(
                "--reach {} is more than --connections {}; allowed: as many or fewer",
                self.reach, self.connections
            ));
        }
        if self.scenario == Scenario::Group {
            if self.group_size > self.connections {
                return wrong(format!(
                    "--group-size {} is more than --connections {}; allowed: as many or fewer",
                    self.group_size, self.connections
                ));
            }
            if self.admin_key_file.is_none() {
                return wrong(
                    "scenario group creates its groups: give --admin-key-file DATA/admin.key of the target"
                        .to_owned(),
                );
            }
            if self.groups == Some(0) {
                return wrong("--groups 0 is not allowed; allowed: 1 or more".to_owned());
            }
        }
        Ok(())
    }

    /// Whether a connection that ends is made again.
    pub const fn reconnects(&self) -> bool {
        self.reconnect || self.faults
    }

    /// Number of groups of the run.
    pub fn group_count(&self) -> u32 {
        if self.scenario != Scenario::Group {
            return 0;
        }
        self.groups.unwrap_or((self.connections / self.group_size).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args = std::iter::once("corelane-loadgen").chain(args.iter().copied());
        let options = Options::try_parse_from(args).map_err(|error| error.to_string())?;
        options.check().map_err(|error| error.to_string())?;
        Ok(options)
    }

    #[test]
    fn the_conventions_people_know_are_understood() {
        let options = parse(&[
            "echo",
            "ws://h/p",
            "-c",
            "1000",
            "-r",
            "5k/s",
            "-d",
            "30s",
            "-w",
            "5s",
            "-s",
            "512B",
            "-H",
            "K: V",
            "--connect-rate",
            "2k/s",
            "--threshold",
            "deliver.p99<20ms",
            "--json",
            "out.json",
            "--seed",
            "7",
        ])
        .unwrap();
        assert_eq!(
            (options.connections, options.size, options.seed),
            (1000, 512, Some(7))
        );
        assert!((options.rate - 5000.0).abs() < 1e-9);
        assert_eq!(options.headers, [("K".to_owned(), "V".to_owned())]);
    }

    #[test]
    fn mistakes_name_the_value_and_what_is_allowed() {
        for (args, named) in [
            (&["echo", "ws://h", "-r", "fast"][..], "fast"),
            (&["echo", "ws://h", "-s", "8"], "8"),
            (&["direct", "ws://h"], "--secret-file"),
            (&["group", "ws://h", "--secret-file", "k"], "--admin-key-file"),
            (&["echo", "ws://h", "-c", "0"], "0"),
            (&["echo", "ws://h", "ws://i", "-c", "1"], "2 targets"),
            (&["echo", "ws://h", "--metrics", "ftp://h"], "ftp://h"),
            (&["echo"], "URL"),
            (&["idle", "ws://h", "--secret-file", "k", "--reach", "200"], "200"),
            (&["echo", "ws://h", "--pause-reader", "often"], "often"),
            (&["echo", "ws://h", "--source-addrs", "::1"], "::1"),
            (&["fly", "ws://h"], "fly"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
