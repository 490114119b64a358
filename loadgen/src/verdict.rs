//! How a run ends: what was broken, and whether its figures mean anything.

use crate::cli::{Options, Scenario};
use crate::history::Findings;
use crate::report::{Report, ThresholdResult, Verdict};
use crate::text::human_us;
use crate::threshold::Threshold;

/// Decides how the run ends.
pub(crate) fn judge(report: &mut Report, options: &Options, planned: f64, interrupted: bool) {
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
    let strict = |count: u64| if options.reconnects() { 0 } else { count };
    let log = report.log.as_ref().map_or(0, Findings::broken);
    [
        (c.lost, "lost: live gaps that nothing explains, or no reply"),
        (c.missing, "places that a terminal lacks at the end"),
        (
            c.differing,
            "conversations of which a terminal has other messages than the log",
        ),
        (
            c.incomplete,
            "terminals incomplete or offline when the settling time was over",
        ),
        (c.duplicated, "doubled on a connection without a fault"),
        (c.reordered, "reordered on a connection without a fault"),
        (
            c.returned,
            "delivered to the connection that sent them, without a fault",
        ),
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
