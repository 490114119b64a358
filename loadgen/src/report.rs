//! The verdict of a run and the report about it: for people, and as JSON (`schema.json`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::history::Findings;
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
    /// Target.
    pub url: String,
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
    pub faults: u64,
    /// Latencies.
    pub latency_us: Latencies,
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
            "cpu_us_per_message" => return self.target_cpu_us_per_message.unwrap_or(f64::NAN),
            "rss" => return self.target_rss_bytes.map_or(f64::NAN, |bytes| bytes as f64),
            "lost" => self.lost,
            "duplicated" => self.duplicated,
            "reordered" => self.reordered,
            "redelivered" => self.redelivered,
            "repaired" => self.repaired,
            "dropped" => self.dropped,
            "refused" => self.counters.refused,
            "unanswered" => self.counters.unanswered,
            "acked" => self.acked,
            "delivered" => self.delivered,
            _ => self.problems.values().sum(),
        };
        count as f64
    }

    /// The summary for a terminal.
    ///
    /// # Panics
    ///
    /// Never: a `String` takes everything.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out)
            .expect("writing to a String cannot fail");
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let c = &self.counters;
        writeln!(
            out,
            "{} {}  run {} seed {}",
            self.scenario, self.url, self.run_id, self.seed
        )?;
        writeln!(
            out,
            "  connections  {} of {} in {:.1} s, {} dropped, {} made again, {} offline at the end",
            self.connected, self.connections, self.connect_seconds, self.dropped, c.reconnected, c.offline
        )?;
        writeln!(
            out,
            "  plan         {:.0}/s for {:.0} s, {} B; offered {:.0}/s",
            self.planned_per_s, self.duration_s, self.size_bytes, self.offered_per_s
        )?;
        writeln!(
            out,
            "  sends        {} sent, {} acked, {} refused, {} unanswered, {} unsent, {} resent",
            self.sent, self.acked, c.refused, c.unanswered, c.unsent, c.resent
        )?;
        writeln!(
            out,
            "  deliveries   {} delivered, {} lost, {} repaired, {} missing, {} doubled, {} reordered, {} returned",
            self.delivered, self.lost, self.repaired, c.missing, self.duplicated, self.reordered, c.returned
        )?;
        if self.faults > 0 {
            writeln!(
                out,
                "  faults       {} seen: {} Resync, {} told to retry, {} ended; put down to them: {} redelivered, {} late",
                self.faults,
                c.resyncs,
                c.retries,
                self.faults - c.resyncs - c.retries,
                self.redelivered,
                c.late
            )?;
        }
        if c.pull_required + c.resyncs + c.stalled_closed + c.pulled > 0 {
            writeln!(
                out,
                "  catching up  {} PullRequired, {} Resync, {} pulled, {} readers closed as slow",
                c.pull_required, c.resyncs, c.pulled, c.stalled_closed
            )?;
        }
        self.write_latencies(out)?;
        self.write_usage(out)?;
        self.write_log(out)?;
        self.write_end(out)
    }

    fn write_latencies(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "  latency          p50       p90       p99     p99.9       max     count"
        )?;
        for (name, summary) in [
            ("due-deliver", &self.latency_us.due_to_delivery),
            ("sent-deliver", &self.latency_us.sent_to_delivery),
            ("due-ack", &self.latency_us.due_to_ack),
            ("plan late", &self.latency_us.lateness),
            ("connect", &self.latency_us.connect),
        ] {
            latency_line(out, name, summary)?;
        }
        for (name, summary) in [
            ("fdatasync", &self.fsync_probe_us),
            ("thread wake", &self.wake_probe_us),
        ] {
            if let Some(summary) = summary {
                latency_line(out, name, summary)?;
            }
        }
        Ok(())
    }

    fn write_usage(&self, out: &mut String) -> std::fmt::Result {
        if let Some(target) = &self.target {
            writeln!(
                out,
                "  target       {:.1} % of a CPU, {} us per message, {:.1} MiB resident ({:.1} MiB anonymous), {} descriptors",
                target.cpu_percent,
                self.target_cpu_us_per_message
                    .map_or("-".to_owned(), |us| format!("{us:.1}")),
                mebibytes(target.rss_bytes),
                mebibytes(target.rss_anon_bytes),
                target.descriptors
            )?;
        }
        let g = &self.generator;
        writeln!(
            out,
            "  generator    {:.1} % of a CPU in its busiest thread, which waited for one {:.1} % of the time; {} rings",
            g.cpu_percent, g.cpu_wait_percent, g.rings
        )?;
        Ok(())
    }

    fn write_log(&self, out: &mut String) -> std::fmt::Result {
        match (&self.log, &self.log_not_compared) {
            (Some(log), _) => {
                writeln!(
                    out,
                    "  log          {} messages in {} conversations: {} acked found, {} missing, {} elsewhere, {} holes, {} doubled, {} refused but stored, {} phantom, {} corrupt, {} misordered",
                    log.messages,
                    log.conversations,
                    log.acked_found,
                    log.acked_missing,
                    log.acked_elsewhere,
                    log.holes,
                    log.doubled,
                    log.refused_stored,
                    log.phantom,
                    log.corrupt,
                    log.misordered
                )?;
                for example in &log.examples {
                    writeln!(out, "               {example}")?;
                }
            }
            (None, Some(why)) => writeln!(out, "  log          not compared: {why}")?,
            (None, None) => {}
        }
        Ok(())
    }

    fn write_end(&self, out: &mut String) -> std::fmt::Result {
        for (problem, count) in &self.problems {
            writeln!(out, "  problem      {count} x {problem}")?;
        }
        for result in &self.thresholds {
            let word = if result.ok { "held" } else { "FAILED" };
            writeln!(
                out,
                "  threshold    {} {word} ({})",
                result.threshold, result.value
            )?;
        }
        for broken in &self.broken {
            writeln!(out, "  BROKEN       {broken}")?;
        }
        if let Some(reason) = &self.void_reason {
            writeln!(out, "  VOID         {reason}")?;
        }
        writeln!(out, "  verdict      {:?} (exit {})", self.verdict, self.exit_code)
    }
}

fn latency_line(out: &mut String, name: &str, summary: &Summary) -> std::fmt::Result {
    if summary.count == 0 {
        return Ok(());
    }
    let Summary {
        p50,
        p90,
        p99,
        p999,
        max,
        count,
        ..
    } = *summary;
    let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(human_us);
    writeln!(
        out,
        "  {name:<12}{p50:>8}  {p90:>8}  {p99:>8}  {p999:>8}  {max:>8}  {count:>8}"
    )
}

/// A span of time in the unit that people would choose.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn human_us(us: u64) -> String {
    let us = us as f64;
    if us < 1_000.0 {
        format!("{us}us")
    } else if us < 1_000_000.0 {
        format!("{:.2}ms", us / 1e3)
    } else {
        format!("{:.2}s", us / 1e6)
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shown_in_fitting_units() {
        assert_eq!(
            [human_us(7), human_us(1_500), human_us(2_000_000)],
            ["7us", "1.50ms", "2.00s"]
        );
    }
}
