//! The verdict of a run and the report about it, as JSON (`schema.json`); `text.rs` has it for people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::Findings;
use crate::metrics::TargetMetrics;
use crate::proc::Machine;
use crate::record::Summary;
use crate::shared::Tally;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything held.
    Pass,
    /// This program failed.
    Internal,
    /// The command line is wrong.
    Usage,
    /// The target cannot be reached.
    Unreachable,
    /// A promise was broken.
    Broken,
    /// The generator was the bottleneck: the figures mean nothing.
    Void,
    /// A threshold failed.
    Threshold,
    /// Somebody stopped it.
    Interrupted,
}

impl Verdict {
    /// The exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Broken => 4,
            Self::Void => 5,
            Self::Threshold => 99,
            Self::Interrupted => 130,
        }
    }
}

/// The latencies.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latencies {
    /// Due time to ack.
    pub due_to_ack: Summary,
    /// Due time to delivery, live or by a pull: the headline.
    pub due_to_delivery: Summary,
    /// First actual send to delivery.
    pub sent_to_delivery: Summary,
    /// How late the generator itself was.
    pub lateness: Summary,
    /// Making a connection, to `Welcome` or the end of the upgrade.
    pub connect: Summary,
}

/// The latencies from due time to delivery, by the half of the measured part in which sends were due: a target that falls
/// behind slowly shows here.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Halves {
    /// The first half.
    pub first: Summary,
    /// The second half.
    pub second: Summary,
    /// Median of the second half over that of the first; absent if one of them has none.
    pub p50_ratio: Option<f64>,
}

impl Halves {
    /// Compares two halves.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people's limits")]
    pub fn new([first, second]: [Summary; 2]) -> Self {
        let has_ratio = first.p50 > 0 && second.count > 0;
        let ratio = second.p50 as f64 / first.p50.max(1) as f64;
        Self {
            first,
            second,
            p50_ratio: has_ratio.then(|| (ratio * 1000.0).round() / 1000.0),
        }
    }
}

/// What went wrong on the target's side, and whether it was mended.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct FaultsSeen {
    /// Faults: connections that ended, `Resync`, sends answered `retry` or `unavailable`.
    pub seen: u64,
    /// Connections that ended without being asked to.
    pub disconnects: u64,
    /// Sends handed to a socket again.
    pub resends: u64,
    /// Terminals that were not complete, or not online, when the settling time was over.
    pub incomplete: u64,
    /// How long after the last send was due the last terminal was complete; absent if one is not, or without `--faults`.
    pub complete_after_s: Option<f64>,
}

/// One of the targets.
#[derive(Debug, Clone, Serialize)]
pub struct TargetConnections {
    /// As it was given.
    pub url: String,
    /// Connections that stood there, those made again included.
    pub connections: u64,
}

/// The target process.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct TargetUsage {
    /// CPU time within the measured part, in us.
    pub cpu_us: u64,
    /// Part of one CPU, in percent.
    pub cpu_percent: f64,
    /// Resident memory at its end.
    pub rss_bytes: u64,
    /// The part of it that is no file.
    pub rss_anon_bytes: u64,
    /// The same before the run, with all connections made.
    pub rss_anon_bytes_before: u64,
    /// Open descriptors at its end.
    pub descriptors: u64,
}

/// The generator itself.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct GeneratorUsage {
    /// CPU of the busiest thread within the measured part, in percent.
    pub cpu_percent: f64,
    /// How long that thread waited for a CPU, in percent.
    pub cpu_wait_percent: f64,
    /// Rings of all engines.
    pub rings: u64,
    /// System calls of all engines.
    pub enters: u64,
    /// Receives that found no buffer.
    pub buffers_empty: u64,
}

/// A threshold and how it went.
#[derive(Debug, Clone, Serialize)]
pub struct ThresholdResult {
    /// As it was written.
    pub threshold: String,
    /// The figure (latencies in us).
    pub value: f64,
    /// Whether it held.
    pub ok: bool,
}

/// Everything about a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Scenario.
    pub scenario: &'static str,
    /// Targets, with spaces between them.
    pub url: String,
    /// Each of them.
    pub targets: Vec<TargetConnections>,
    /// How the process ends.
    pub verdict: Verdict,
    /// Exit code.
    pub exit_code: u8,
    /// The figures mean nothing.
    pub void: bool,
    /// Why.
    pub void_reason: Option<String>,
    /// What was broken, in words.
    pub broken: Vec<String>,
    /// Run id (32 bits of it are in the names of its users).
    pub run_id: String,
    /// Seed.
    pub seed: u64,
    /// Connections asked for and made.
    pub connections: u32,
    /// Connections made.
    pub connected: u64,
    /// How long making them took.
    pub connect_seconds: f64,
    /// Payload size.
    pub size_bytes: usize,
    /// Length of the measured part.
    pub duration_s: f64,
    /// Rate of the plan.
    pub planned_per_s: f64,
    /// Rate at which sends became due and were taken up.
    pub offered_per_s: f64,
    /// Sends handed to a socket, in the whole run.
    pub sent: u64,
    /// Sends acked.
    pub acked: u64,
    /// Live deliveries (replies of an echo server).
    pub delivered: u64,
    /// Live gaps that nothing explains.
    pub lost: u64,
    /// Twice without a fault.
    pub duplicated: u64,
    /// Out of order without a fault.
    pub reordered: u64,
    /// Twice across a fault.
    pub redelivered: u64,
    /// Lost, but brought by a pull.
    pub repaired: u64,
    /// Connections that ended unasked.
    pub dropped: u64,
    /// All counters.
    pub counters: Tally,
    /// Faults seen.
    pub faults: FaultsSeen,
    /// Latencies.
    pub latency_us: Latencies,
    /// The headline by halves, in us.
    pub halves: Halves,
    /// The log beside the ledger; absent if it was not compared.
    pub log: Option<Findings>,
    /// Why the log was not compared.
    pub log_not_compared: Option<String>,
    /// CPU of the target per acked message (per reply of an echo server).
    pub target_cpu_us_per_message: Option<f64>,
    /// Resident memory of the target.
    pub target_rss_bytes: Option<u64>,
    /// The target in full.
    pub target: Option<TargetUsage>,
    /// What its processes counted.
    pub targets_metrics: Vec<TargetMetrics>,
    /// The generator itself.
    pub generator: GeneratorUsage,
    /// An appending fdatasync of 4 KiB, sampled during the run.
    pub fsync_probe_us: Option<Summary>,
    /// Waking another thread, sampled during the run.
    pub wake_probe_us: Option<Summary>,
    /// Thresholds.
    pub thresholds: Vec<ThresholdResult>,
    /// What went wrong, and how often.
    pub problems: BTreeMap<String, u64>,
    /// The machine.
    pub machine: Machine,
    /// The commit of the tree that this ran in.
    pub commit: String,
}

impl Report {
    /// The figure that a threshold names.
    #[expect(
        clippy::cast_precision_loss,
        reason = "figures for a comparison by people's limits"
    )]
    pub fn figure(&self, metric: &str) -> f64 {
        if let Some((series, quantile)) = metric.split_once('.') {
            let summary = match series {
                "ack" => self.latency_us.due_to_ack,
                "service" => self.latency_us.sent_to_delivery,
                "connect" => self.latency_us.connect,
                "lateness" => self.latency_us.lateness,
                _ => self.latency_us.due_to_delivery,
            };
            if summary.count == 0 {
                // A latency that was never measured keeps no limit.
                return f64::NAN;
            }
            return match quantile {
                "p50" => summary.p50 as f64,
                "p90" => summary.p90 as f64,
                "p99" => summary.p99 as f64,
                "p999" => summary.p999 as f64,
                "mean" => summary.mean,
                _ => summary.max as f64,
            };
        }
        let count = match metric {
            "offered" => return self.offered_per_s,
            "second_half_ratio" => return self.halves.p50_ratio.unwrap_or(f64::NAN),
            "complete_after_s" => return self.faults.complete_after_s.unwrap_or(f64::NAN),
            "cpu_us_per_message" => return self.target_cpu_us_per_message.unwrap_or(f64::NAN),
            "rss" => return self.target_rss_bytes.map_or(f64::NAN, |bytes| bytes as f64),
            "lost" => self.lost,
            "duplicated" => self.duplicated,
            "reordered" => self.reordered,
            "redelivered" => self.redelivered,
            "repaired" => self.repaired,
            "dropped" => self.dropped,
            "untold" => self.counters.untold,
            "incomplete" => self.faults.incomplete,
            "reconnected" => self.counters.reconnected,
            "refused" => self.counters.refused,
            "unanswered" => self.counters.unanswered,
            "acked" => self.acked,
            "delivered" => self.delivered,
            _ => self.problems.values().sum(),
        };
        count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_compared_if_both_have_something() {
        let of = |p50, count| Summary {
            p50,
            count,
            ..Summary::default()
        };
        let ratio = |first, second| {
            Halves::new([first, second])
                .p50_ratio
                .map(|ratio| ratio.to_string())
        };
        assert_eq!(ratio(of(1000, 5), of(1250, 5)).as_deref(), Some("1.25"));
        assert_eq!(ratio(of(1000, 5), of(0, 0)), None);
        assert_eq!(ratio(of(0, 0), of(1000, 5)), None);
    }
}
