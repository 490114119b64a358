//! The report for people.

use std::fmt::Write as _;

use crate::metrics::{Spread, TargetMetrics};
use crate::record::Summary;
use crate::report::Report;

impl Report {
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
            "  connections  {} of {} in {:.1} s, {} dropped, {} of them untold, {} made again, {} offline at the end",
            self.connected,
            self.connections,
            self.connect_seconds,
            self.dropped,
            c.untold,
            c.reconnected,
            c.offline
        )?;
        if self.targets.len() > 1 {
            let spread = self.targets.iter().map(|target| {
                let count = target.connections;
                format!("{count} at {}", target.url)
            });
            writeln!(out, "  targets      {}", spread.collect::<Vec<_>>().join(", "))?;
        }
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
        self.write_faults(out)?;
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

    fn write_faults(&self, out: &mut String) -> std::fmt::Result {
        let c = &self.counters;
        let faults = &self.faults;
        if faults.seen + self.redelivered + c.late > 0 {
            writeln!(
                out,
                "  faults       {} seen: {} Resync, {} told to retry, {} ended; put down to them: {} redelivered, {} late",
                faults.seen,
                c.resyncs,
                c.retries,
                faults.seen - c.resyncs - c.retries,
                self.redelivered,
                c.late
            )?;
        }
        if let Some(seconds) = faults.complete_after_s {
            writeln!(
                out,
                "  settled      every terminal complete {seconds:.1} s after the last send was due"
            )?;
        } else if faults.incomplete > 0 {
            writeln!(
                out,
                "  settled      {} terminals are not complete, or were not in time",
                faults.incomplete
            )?;
        }
        Ok(())
    }

    fn write_latencies(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "  latency          p50       p90       p99     p99.9       max     count"
        )?;
        for (name, summary) in [
            ("due-deliver", &self.latency_us.due_to_delivery),
            ("  1st half", &self.halves.first),
            ("  2nd half", &self.halves.second),
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
        for process in &self.targets_metrics {
            write_metrics(process, out)?;
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

/// What one process counted: commits, stages, and how long they took.
fn write_metrics(process: &TargetMetrics, out: &mut String) -> std::fmt::Result {
    write!(out, "  metrics      {}", process.url)?;
    if let Some(error) = &process.error {
        return writeln!(out, ": {error}");
    }
    if process.restarted {
        write!(out, " (started again)")?;
    }
    if let (Some(commits), Some(messages)) = (process.commits_per_s, process.messages_per_commit) {
        write!(out, ": {commits} commits/s of {messages} messages")?;
    }
    writeln!(out)?;
    if !process.stages.is_empty() {
        let stages = process
            .stages
            .iter()
            .map(|(stage, count)| format!("{stage} {count}"));
        writeln!(out, "    messages   {}", stages.collect::<Vec<_>>().join(", "))?;
    }
    for (stage, spread) in &process.stage_latency_us {
        spread_line(out, &format!("decode to {stage}"), spread)?;
    }
    if let Some(spread) = &process.commit_latency_us {
        spread_line(out, "commit", spread)?;
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole microseconds, for people"
)]
fn spread_line(out: &mut String, name: &str, spread: &Spread) -> std::fmt::Result {
    let [p50, p99, mean] = [spread.p50, spread.p99, spread.mean].map(|us| human_us(us.round() as u64));
    writeln!(
        out,
        "    {name:<19}p50 about {p50}, p99 about {p99}, mean {mean} of {}",
        spread.count
    )
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
