//! Latencies: one set of histograms per thread, merged once a second.
//!
//! Values are microseconds with three significant digits, up to one hour; longer ones count as one hour.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::payload::Stamp;

const HIGHEST_US: u64 = 3_600_000_000;

/// One histogram of latencies.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, HIGHEST_US, 3).expect("constant bounds are valid"))
    }
}

impl Latency {
    /// Records a span of time in ns; what is negative counts as nothing.
    pub fn record_ns(&mut self, from_ns: u64, to_ns: u64) {
        self.0
            .saturating_record(to_ns.saturating_sub(from_ns).div_ceil(1000));
    }

    /// Adds everything of `other`.
    ///
    /// # Panics
    ///
    /// Never: all histograms here have the same bounds.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Without what is in `part`, which is a part of it.
    ///
    /// # Panics
    ///
    /// Only if it is none.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        let mut rest = self.0.clone();
        rest.subtract(&part.0).expect("a part of it");
        Self(rest)
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value at quantile `q` of 1, in us; 0 if there is none.
    pub fn quantile_us(&self, q: f64) -> u64 {
        if self.0.is_empty() {
            0
        } else {
            self.0.value_at_quantile(q)
        }
    }

    /// The histogram itself.
    pub const fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// The figures for people.
    pub fn summary(&self) -> Summary {
        Summary {
            p50: self.quantile_us(0.5),
            p90: self.quantile_us(0.9),
            p99: self.quantile_us(0.99),
            p999: self.quantile_us(0.999),
            max: if self.0.is_empty() { 0 } else { self.0.max() },
            mean: (self.0.mean() * 10.0).round() / 10.0,
            count: self.count(),
        }
    }
}

/// Figures of one histogram, in us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Median.
    pub p50: u64,
    /// 90 % are at most this.
    pub p90: u64,
    /// 99 % are at most this.
    pub p99: u64,
    /// 99.9 % are at most this.
    pub p999: u64,
    /// The largest.
    pub max: u64,
    /// Mean.
    pub mean: f64,
    /// Number of values.
    pub count: u64,
}

/// All histograms of a thread, or of a run.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    /// From due time to the ack at the sender.
    pub due_to_ack: Latency,
    /// From due time to the moment at which a receiver had the message, live or in a page: the headline.
    pub due_to_delivery: Latency,
    /// The part of it that was due in the second half.
    pub second_half: Latency,
    /// The same from the first actual send: service time.
    pub sent_to_delivery: Latency,
    /// From due time to the moment at which the driver took the send up: how late we were ourselves.
    pub lateness: Latency,
    /// From the connect call to `Welcome` (or the upgrade, without a session).
    pub connect: Latency,
}

impl Recorder {
    /// A receiver has a message of the measured part, whose second half begins at `half_ns`.
    pub fn delivered(&mut self, stamp: &Stamp, half_ns: u64, now_ns: u64) {
        self.due_to_delivery.record_ns(stamp.due_ns, now_ns);
        self.sent_to_delivery.record_ns(stamp.sent_ns, now_ns);
        if stamp.due_ns >= half_ns {
            self.second_half.record_ns(stamp.due_ns, now_ns);
        }
    }

    /// What was due in the first and in the second half, from due time to delivery.
    pub fn halves(&self) -> [Summary; 2] {
        let first = self.due_to_delivery.without(&self.second_half);
        [first.summary(), self.second_half.summary()]
    }

    /// Adds everything of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.due_to_ack.merge(&other.due_to_ack);
        self.due_to_delivery.merge(&other.due_to_delivery);
        self.second_half.merge(&other.second_half);
        self.sent_to_delivery.merge(&other.sent_to_delivery);
        self.lateness.merge(&other.lateness);
        self.connect.merge(&other.connect);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        for latency in [
            &mut self.due_to_ack,
            &mut self.due_to_delivery,
            &mut self.second_half,
            &mut self.sent_to_delivery,
            &mut self.lateness,
            &mut self.connect,
        ] {
            latency.reset();
        }
    }

    /// The histograms that go into a `.hlog`, with their tags.
    pub const fn tagged(&self) -> [(&'static str, &Latency); 4] {
        [
            ("due_to_ack", &self.due_to_ack),
            ("due_to_delivery", &self.due_to_delivery),
            ("sent_to_delivery", &self.sent_to_delivery),
            ("lateness", &self.lateness),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_histograms_hold_both() {
        let (mut one, mut other) = (Recorder::default(), Recorder::default());
        one.due_to_ack.record_ns(0, 1_000_000);
        other.due_to_ack.record_ns(5, 5);
        other.due_to_ack.record_ns(9, 3);
        one.merge(&other);
        let summary = one.due_to_ack.summary();
        assert_eq!((summary.count, summary.p50), (3, 0));
        assert!((1000..=1001).contains(&summary.max), "{}", summary.max);
        assert_eq!(Latency::default().summary(), Summary::default());
    }

    #[test]
    fn each_half_has_what_was_due_in_it() {
        let mut recorder = Recorder::default();
        for (due_ns, latency_us) in [(10, 100), (19, 200), (20, 5_000), (29, 7_000), (25, 6_000)] {
            let stamp = Stamp {
                run: 1,
                sender: 2,
                conv: 3,
                counter: 4,
                due_ns,
                sent_ns: due_ns,
            };
            recorder.delivered(&stamp, 20, due_ns + latency_us * 1_000);
        }
        let [first, second] = recorder.halves();
        assert_eq!((first.count, second.count), (2, 3));
        assert_eq!((first.p50, first.max), (100, 200));
        assert!((5_995..=6_005).contains(&second.p50), "{}", second.p50);
        assert_eq!(recorder.due_to_delivery.count(), 5);
    }
}
