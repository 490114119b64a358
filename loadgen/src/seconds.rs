//! What happened in each second of a run, as a CSV file.
//!
//! Threads hand their counters in by the second in which things happened, so a rate per second is exact. Owns one small
//! row per second, and histograms of the last few only: what a thread hands in later than that is counted, but moves
//! no quantile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};

use crate::record::Latency;
use crate::shared::Interval;

/// Seconds that threads may still hand something in for.
const OPEN_SECONDS: u64 = 3;

/// One second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Row {
    sent: u64,
    acked: u64,
    delivered: u64,
    reconnects: u64,
    /// Median and 99th percentile from due time to delivery, in us.
    quantiles_us: Option<(u64, u64)>,
}

/// All of them, by the clock's number.
#[derive(Debug, Default)]
pub(crate) struct Seconds {
    rows: BTreeMap<u64, Row>,
    open: BTreeMap<u64, Latency>,
}

impl Seconds {
    /// Adds what was handed in about a second.
    pub(crate) fn add(&mut self, second: u64, interval: &Interval) {
        let tally = &interval.tally;
        let row = self.rows.entry(second).or_default();
        row.sent += tally.sent;
        row.acked += tally.acked;
        row.delivered += tally.delivered;
        row.reconnects += tally.reconnected;
        if row.quantiles_us.is_none() {
            let latency = self.open.entry(second).or_default();
            latency.merge(&interval.recorder.due_to_delivery);
        }
    }

    /// Works out the quantiles of seconds that have ended for a while; of all of them without a `now_ns`.
    pub(crate) fn close(&mut self, now_second: Option<u64>) {
        let first_open = now_second.map_or(u64::MAX, |now| now.saturating_sub(OPEN_SECONDS));
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < first_open) {
            let (second, latency) = entry.remove_entry();
            if latency.count() > 0
                && let Some(row) = self.rows.get_mut(&second)
            {
                row.quantiles_us = Some((latency.quantile_us(0.5), latency.quantile_us(0.99)));
            }
        }
    }

    /// Writes a line per second, counted from the second `start`.
    ///
    /// # Errors
    ///
    /// The system's; the report names it.
    pub(crate) fn write(&self, file: File, start: u64) -> std::io::Result<()> {
        let mut file = BufWriter::new(file);
        writeln!(file, "second,sent,acked,delivered,p50_us,p99_us,reconnects")?;
        let ends = self.rows.first_key_value().zip(self.rows.last_key_value());
        let Some(((first, _), (last, _))) = ends else {
            return file.flush();
        };
        for second in *first..=*last {
            let row = self.rows.get(&second).copied().unwrap_or_default();
            // Nothing is no latency of zero.
            let (p50, p99) = row
                .quantiles_us
                .map_or_else(Default::default, |(p50, p99)| (p50.to_string(), p99.to_string()));
            writeln!(
                file,
                "{},{},{},{},{p50},{p99},{}",
                second.cast_signed() - start.cast_signed(),
                row.sent,
                row.acked,
                row.delivered,
                row.reconnects
            )?;
        }
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(sent: u64, latency_us: u64) -> Interval {
        let mut interval = Interval::default();
        interval.tally.sent = sent;
        interval.recorder.due_to_delivery.record_ns(0, latency_us * 1_000);
        interval
    }

    fn written(seconds: &Seconds, start: u64) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        seconds.write(file.reopen().unwrap(), start).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        text.lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn what_threads_hand_in_about_a_second_is_one_row_and_quiet_seconds_have_theirs() {
        let mut seconds = Seconds::default();
        for (second, sent, latency_us) in [(9, 1, 10), (11, 2, 20), (9, 4, 30)] {
            seconds.add(second, &interval(sent, latency_us));
        }
        seconds.close(None);
        assert_eq!(
            written(&seconds, 10),
            ["-1,5,0,0,10,30,0", "0,0,0,0,,,0", "1,2,0,0,20,20,0"]
        );
        assert_eq!(written(&Seconds::default(), 10), [""; 0]);
    }

    #[test]
    fn what_comes_too_late_is_counted_and_nothing_is_kept_open() {
        let mut seconds = Seconds::default();
        seconds.add(5, &interval(1, 10));
        seconds.close(Some(5 + OPEN_SECONDS));
        assert_eq!(seconds.open.len(), 1, "it may go on");
        seconds.close(Some(6 + OPEN_SECONDS));
        seconds.add(5, &interval(1, 90));
        assert_eq!(seconds.open.len(), 0);
        assert_eq!(written(&seconds, 5), ["0,2,0,0,10,10,0"]);
    }
}
