//! What the target's processes counted during a run: Prometheus text, read before and after.
//!
//! Knows the names of Corelane's gateways and routers (`router/src/metrics.rs`, `gateway/src/admin.rs`); a process may be
//! both. What it does not show is left out of the report. A process that was started again in between counts from
//! nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::shared::Shared;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest text that is read of a process.
const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Counters of stages: by their label at routers, by their name at gateways.
const STAGES: &str = "corelane_stage_messages_total";
const GATEWAY_STAGES: [(&str, &str); 3] = [
    ("corelane_gateway_forward_messages_total", "forward"),
    ("corelane_gateway_consume_messages_total", "consume"),
    ("corelane_gateway_deliver_messages_total", "deliver"),
];
const STAGE_SECONDS: &str = "corelane_stage_seconds";
const COMMIT_SECONDS: &str = "corelane_router_commit_seconds";
const COMMITS: &str = "corelane_store_commits_total";
const COMMITTED: &str = "corelane_store_messages_total";

/// Reads the address of a process on the command line: an HTTP URL; `/metrics` is its path if it has none.
///
/// # Errors
///
/// A text for people that names the value and what is allowed.
pub fn address(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .filter(|rest| !rest.is_empty() && !rest.starts_with('/'))
        .ok_or_else(|| format!("`{text}` is no address of metrics; allowed: http://host:port[/path]"))?;
    Ok(match rest.trim_end_matches('/') {
        host if host.contains('/') => text.to_owned(),
        host => format!("http://{host}/metrics"),
    })
}

/// One process, for the report.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TargetMetrics {
    /// Where it was asked.
    pub url: String,
    /// Why there are no figures.
    pub error: Option<String>,
    /// It was started again during the run: its figures count from there.
    pub restarted: bool,
    /// Transactions of the store.
    pub commits: Option<u64>,
    /// The same per second of offered load.
    pub commits_per_s: Option<f64>,
    /// Messages in each of them.
    pub messages_per_commit: Option<f64>,
    /// Messages that passed each stage.
    pub stages: BTreeMap<String, u64>,
    /// Time of sampled messages from decode to a stage.
    pub stage_latency_us: BTreeMap<String, Spread>,
    /// Time of commits.
    pub commit_latency_us: Option<Spread>,
}

/// A histogram of Prometheus in few figures, in us. Quantiles are interpolated within its buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99 % are at most about this.
    pub p99: f64,
    /// Number of values.
    pub count: u64,
}

/// Asks processes at both ends of a run.
#[derive(Debug, Default)]
pub(crate) struct Scraper {
    before: Vec<Result<Sample, String>>,
    after: Vec<Result<Sample, String>>,
}

impl Scraper {
    /// Reads what they counted so far. At most two seconds each.
    pub(crate) fn read_before(&mut self, urls: &[String]) {
        self.before = urls.iter().map(|url| fetch(url)).collect();
    }

    /// Reads it again.
    pub(crate) fn read_after(&mut self, urls: &[String]) {
        self.after = urls.iter().map(|url| fetch(url)).collect();
    }

    /// What they counted in between.
    pub(crate) fn report(&self, shared: &Shared) -> Vec<TargetMetrics> {
        let (load_ns, _) = shared.plan_shape();
        let seconds = Duration::from_nanos(load_ns).as_secs_f64();
        let pairs = self.before.iter().zip(&self.after);
        let rows = shared.options.metrics.iter().zip(pairs);
        rows.map(|(url, ends)| match ends {
            (Ok(before), Ok(after)) => after.since(before, url, seconds),
            (Err(error), _) | (_, Err(error)) => TargetMetrics {
                url: url.clone(),
                error: Some(error.clone()),
                ..TargetMetrics::default()
            },
        })
        .collect()
    }
}

fn fetch(url: &str) -> Result<Sample, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let text = agent.get(url).call().and_then(|mut answer| {
        let body = answer.body_mut().with_config().limit(TEXT_BYTES_MAX);
        body.read_to_string()
    });
    text.map(|text| Sample::read(&text))
        .map_err(|error| error.to_string())
}

/// Counts of one histogram: values at most as large as each bound in seconds, their sum, and their number.
#[derive(Debug, Clone, Default, PartialEq)]
struct Buckets {
    bounds: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

/// What one process showed at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sample {
    commits: Option<f64>,
    committed: f64,
    stages: BTreeMap<String, f64>,
    stage_seconds: BTreeMap<String, Buckets>,
    commit_seconds: Buckets,
}

impl Sample {
    fn read(text: &str) -> Self {
        let mut sample = Self::default();
        let mut of_gateway: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, labels, value) in text.lines().filter_map(series) {
            let stage = || label(labels, "stage").unwrap_or_default().to_owned();
            if let Some((_, stage)) = GATEWAY_STAGES.iter().find(|(metric, _)| *metric == name) {
                *of_gateway.entry(*stage).or_default() += value;
            } else if name == STAGES {
                *sample.stages.entry(stage()).or_default() += value;
            } else if name == COMMITS {
                *sample.commits.get_or_insert_default() += value;
            } else if name == COMMITTED {
                sample.committed += value;
            } else if let Some(part) = name.strip_prefix(STAGE_SECONDS) {
                sample
                    .stage_seconds
                    .entry(stage())
                    .or_default()
                    .add(part, labels, value);
            } else if let Some(part) = name.strip_prefix(COMMIT_SECONDS) {
                sample.commit_seconds.add(part, labels, value);
            }
        }
        for (stage, count) in of_gateway {
            sample.stages.entry(stage.to_owned()).or_insert(count);
        }
        sample
    }

    /// Whether it counted more at an earlier moment.
    fn is_behind(&self, before: &Self) -> bool {
        let of = |sample: &Self, stage: &str| sample.stages.get(stage).copied().unwrap_or(0.0);
        self.commits < before.commits
            || before
                .stages
                .iter()
                .any(|(stage, count)| of(self, stage) < *count)
    }

    fn since(&self, before: &Self, url: &str, load_s: f64) -> TargetMetrics {
        let restarted = self.is_behind(before);
        let nothing = Self::default();
        let before = if restarted { &nothing } else { before };
        let commits = self
            .commits
            .map(|commits| commits - before.commits.unwrap_or(0.0));
        let committed = self.committed - before.committed;
        let stages = self.stages.iter().map(|(stage, count)| {
            let earlier = before.stages.get(stage).copied().unwrap_or(0.0);
            (stage.clone(), whole(count - earlier))
        });
        let stage_latency_us = self.stage_seconds.iter().filter_map(|(stage, buckets)| {
            let earlier = before.stage_seconds.get(stage);
            Some((stage.clone(), buckets.since(earlier)?))
        });
        TargetMetrics {
            url: url.to_owned(),
            error: None,
            restarted,
            commits: commits.map(whole),
            commits_per_s: commits
                .filter(|_| load_s > 0.0)
                .map(|commits| tenths(commits / load_s)),
            messages_per_commit: commits
                .filter(|commits| *commits > 0.0)
                .map(|commits| (committed / commits * 100.0).round() / 100.0),
            stages: stages.collect(),
            stage_latency_us: stage_latency_us.collect(),
            commit_latency_us: self.commit_seconds.since(Some(&before.commit_seconds)),
        }
    }
}

impl Buckets {
    /// Adds one series of the histogram: `_bucket`, `_sum` or `_count`.
    fn add(&mut self, part: &str, labels: &str, value: f64) {
        match part {
            "_sum" => self.sum += value,
            "_count" => self.count += value,
            "_bucket" => {
                let bound = label(labels, "le").and_then(|le| le.parse().ok());
                let Some(bound) = bound else { return };
                match self.bounds.iter_mut().find(|(known, _)| is_same(*known, bound)) {
                    Some((_, count)) => *count += value,
                    None => self.bounds.push((bound, value)),
                }
            }
            _ => {}
        }
    }

    /// What came since then; `None` if nothing did.
    fn since(&self, before: Option<&Self>) -> Option<Spread> {
        let nothing = Self::default();
        let before = before.unwrap_or(&nothing);
        let earlier = |bound: f64| {
            let found = before.bounds.iter().find(|(known, _)| is_same(*known, bound));
            found.map_or(0.0, |(_, count)| *count)
        };
        let mut bounds: Vec<(f64, f64)> = self
            .bounds
            .iter()
            .map(|(bound, count)| (*bound, count - earlier(*bound)))
            .collect();
        bounds.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let (sum, count) = (self.sum - before.sum, self.count - before.count);
        (count > 0.0).then(|| Spread {
            mean: tenths(sum / count * 1e6),
            p50: tenths(quantile(&bounds, 0.5 * count) * 1e6),
            p99: tenths(quantile(&bounds, 0.99 * count) * 1e6),
            count: whole(count),
        })
    }
}

/// Whether two bounds are one: both were read from the same text.
fn is_same(one: f64, other: f64) -> bool {
    one.total_cmp(&other).is_eq()
}

/// Where the value of this rank lies: between the bounds of its bucket, as far as its rank says. The last bucket has no
/// end, so it counts as its beginning.
fn quantile(bounds: &[(f64, f64)], rank: f64) -> f64 {
    let (mut from, mut below) = (0.0, 0.0);
    for (bound, count) in bounds {
        if *count >= rank {
            return if bound.is_finite() && *count > below {
                from + (bound - from) * (rank - below) / (count - below)
            } else {
                from
            };
        }
        (from, below) = (*bound, *count);
    }
    from
}

/// Name, labels and value of a line; `None` if it is a comment or nothing.
fn series(line: &str) -> Option<(&str, &str, f64)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (name, labels, value) = if let Some((name, rest)) = line.split_once('{') {
        let (labels, value) = rest.rsplit_once('}')?;
        (name, labels, value)
    } else {
        let (name, value) = line.split_once(' ')?;
        (name, "", value)
    };
    let value = value.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name.trim(), labels, value))
}

/// The value of a label. Corelane's have none that would need escapes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|each| {
        let (key, value) = each.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole and fit; what is negative is nothing"
)]
fn whole(count: f64) -> u64 {
    count.max(0.0).round() as u64
}

fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"# HELP corelane_stage_messages_total Messages that passed a stage.
# TYPE corelane_stage_messages_total counter
corelane_stage_messages_total{stage="admit"} 10
corelane_stage_messages_total{stage="persist"} 9
corelane_stage_seconds_bucket{stage="persist",le="0.001000"} 1
corelane_stage_seconds_bucket{stage="persist",le="0.002000"} 1
corelane_stage_seconds_bucket{stage="persist",le="+Inf"} 1
corelane_stage_seconds_sum{stage="persist"} 0.0005
corelane_stage_seconds_count{stage="persist"} 1
corelane_store_commits_total 4
corelane_store_messages_total 9
corelane_router_links 2
"#;
    const AFTER: &str = r#"corelane_stage_messages_total{stage="admit"} 1010
corelane_stage_messages_total{stage="persist"} 1009
corelane_stage_seconds_bucket{stage="persist",le="0.001000"} 51
corelane_stage_seconds_bucket{stage="persist",le="0.002000"} 101
corelane_stage_seconds_bucket{stage="persist",le="+Inf"} 101
corelane_stage_seconds_sum{stage="persist"} 0.1005
corelane_stage_seconds_count{stage="persist"} 101
corelane_store_commits_total 404
corelane_store_messages_total 1009
corelane_gateway_deliver_messages_total{shard="0"} 3
corelane_gateway_deliver_messages_total{shard="1"} 4
"#;

    #[test]
    fn what_was_counted_in_between_is_told_by_stage() {
        let (before, after) = (Sample::read(BEFORE), Sample::read(AFTER));
        let told = after.since(&before, "u", 10.0);
        let stages: Vec<(&str, u64)> = told
            .stages
            .iter()
            .map(|(stage, count)| (stage.as_str(), *count))
            .collect();
        assert_eq!(stages, [("admit", 1000), ("deliver", 7), ("persist", 1000)]);
        assert_eq!(
            (
                told.commits,
                told.commits_per_s,
                told.messages_per_commit,
                told.restarted
            ),
            (Some(400), Some(40.0), Some(2.5), false)
        );
        let expected = Spread {
            mean: 1000.0,
            p50: 1000.0,
            p99: 1980.0,
            count: 100,
        };
        assert_eq!(told.stage_latency_us["persist"], expected);
        assert_eq!(told.commit_latency_us, None);
    }

    #[test]
    fn a_process_that_was_started_again_counts_from_nothing() {
        let (before, after) = (Sample::read(AFTER), Sample::read(BEFORE));
        let told = after.since(&before, "u", 10.0);
        assert!(told.restarted);
        assert_eq!((told.commits, told.stages["admit"]), (Some(4), 10));
        let expected = Spread {
            mean: 500.0,
            p50: 500.0,
            p99: 990.0,
            count: 1,
        };
        assert_eq!(told.stage_latency_us["persist"], expected);
    }

    #[test]
    fn a_process_that_is_no_router_has_no_commits() {
        let gateway = Sample::read("corelane_gateway_forward_messages_total{shard=\"0\"} 5\n");
        let told = gateway.since(&Sample::default(), "u", 1.0);
        assert_eq!(
            (told.commits, told.commits_per_s, told.stages["forward"]),
            (None, None, 5)
        );
    }

    #[test]
    fn values_beyond_the_last_bound_are_as_large_as_it() {
        let bounds = [(1.0, 1.0), (2.0, 2.0), (f64::INFINITY, 10.0)];
        for rank in [2.0, 9.0] {
            assert!(is_same(quantile(&bounds, rank), 2.0), "{rank}");
        }
    }

    #[test]
    fn addresses_get_the_path_that_everybody_uses() {
        assert_eq!(address("http://h:1").unwrap(), "http://h:1/metrics");
        assert_eq!(address("http://h:1/").unwrap(), "http://h:1/metrics");
        assert_eq!(address("http://h:1/x").unwrap(), "http://h:1/x");
        for text in ["h:1", "https://h", "http://"] {
            assert!(address(text).unwrap_err().contains(text), "{text}");
        }
    }
}
