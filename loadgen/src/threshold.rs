//! Limits that a run must keep: `deliver.p99<20ms`, `lost<1`, `offered>=4990`.

use crate::units;

/// Names that a threshold may use, for error texts.
const METRICS: &str = "ack|deliver|service|connect|lateness followed by .p50 .p90 .p99 .p999 .max .mean (a duration), or \
     lost, duplicated, reordered, redelivered, repaired, dropped, untold, reconnected, refused, unanswered, \
     incomplete, errors, offered, acked, delivered (a number), or second_half_ratio (median of the second half over that of \
     the first), complete_after_s, cpu_us_per_message, rss (a number)";

/// What to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A limit on one figure of the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    text: String,
    metric: String,
    comparison: Comparison,
    limit: f64,
}

const LATENCIES: [&str; 5] = ["ack", "deliver", "service", "connect", "lateness"];
const QUANTILES: [&str; 6] = ["p50", "p90", "p99", "p999", "max", "mean"];
const NUMBERS: [&str; 19] = [
    "lost",
    "duplicated",
    "reordered",
    "redelivered",
    "repaired",
    "dropped",
    "untold",
    "reconnected",
    "refused",
    "unanswered",
    "incomplete",
    "errors",
    "offered",
    "acked",
    "delivered",
    "second_half_ratio",
    "complete_after_s",
    "cpu_us_per_message",
    "rss",
];

impl Threshold {
    /// Reads `metric<limit` (also `<=`, `>`, `>=`).
    ///
    /// # Errors
    ///
    /// A text for people that names the value and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("{what} in `{text}`; allowed: METRIC<LIMIT (or <=, >, >=) where METRIC is {METRICS}")
        };
        let at = text.find(['<', '>']).ok_or_else(|| wrong("no comparison"))?;
        let (metric, rest) = text.split_at(at);
        let (comparison, limit) = match rest.as_bytes() {
            [b'<', b'=', ..] => (Comparison::AtMost, rest.get(2..)),
            [b'>', b'=', ..] => (Comparison::AtLeast, rest.get(2..)),
            [b'<', ..] => (Comparison::Less, rest.get(1..)),
            _ => (Comparison::More, rest.get(1..)),
        };
        let (metric, limit) = (metric.trim(), limit.unwrap_or("").trim());
        let limit = match metric.split_once('.') {
            Some((series, quantile)) if LATENCIES.contains(&series) && QUANTILES.contains(&quantile) => {
                units::duration(limit)?.as_secs_f64() * 1e6
            }
            None if NUMBERS.contains(&metric) => limit
                .parse()
                .map_err(|_| wrong(&format!("limit `{limit}` is no number")))?,
            _ => return Err(wrong(&format!("unknown metric `{metric}`"))),
        };
        Ok(Self {
            text: text.to_owned(),
            metric: metric.to_owned(),
            comparison,
            limit,
        })
    }

    /// The figure it wants: latencies in us, everything else as it is.
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `value` keeps it.
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Less => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::More => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_compare_in_their_units() {
        let limit = Threshold::parse("deliver.p99<20ms").unwrap();
        assert_eq!(limit.metric(), "deliver.p99");
        assert!(limit.holds(19_999.0) && !limit.holds(20_000.0));
        assert!(Threshold::parse("deliver.p99 <= 20ms").unwrap().holds(20_000.0));
        assert!(Threshold::parse("lost<1").unwrap().holds(0.0));
        assert!(!Threshold::parse("offered>=4990").unwrap().holds(4000.0));
        let halves = Threshold::parse("second_half_ratio<=1.2").unwrap();
        assert!(halves.holds(1.2) && !halves.holds(1.3) && !halves.holds(f64::NAN));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for text in [
            "deliver.p98<1ms",
            "deliver.p99",
            "speed<1",
            "lost<many",
            "ack.p99<1parsec",
        ] {
            let error = Threshold::parse(text).unwrap_err();
            assert!(error.contains("allowed"), "{error}");
        }
    }
}
