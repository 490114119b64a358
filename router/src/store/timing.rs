//! How long commits take, and where the time goes.
//!
//! Owns histograms since the start. A commit over [`SLOW_COMMIT`] is logged with its stages and with the checkpoint that
//! it waited for or that ran beside it: at most [`LINES_PER_SECOND`], the next line counts those left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// A commit that takes longer is logged.
pub const SLOW_COMMIT: Duration = Duration::from_millis(50);
/// Most of them that are logged in a second; all are counted.
pub const LINES_PER_SECOND: u32 = 10;

/// One commit, by stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitTiming {
    /// Its oldest batch waited for the commit or checkpoint before it.
    pub waited: Duration,
    /// The statements, and COMMIT.
    pub write: Duration,
    /// Appending to the journal and its fdatasync, which is nearly all of it. Nothing with durability `os`.
    pub fsync: Duration,
    /// From the arrival of its oldest batch to its answers.
    pub total: Duration,
    /// Messages stored.
    pub messages: u64,
    /// Batches joined.
    pub batches: u64,
    /// How much of `waited` the writer's own step of a checkpoint took.
    pub checkpoint_waited: Duration,
    /// How long the other step ran beside it, on the same disk.
    pub checkpoint_beside: Duration,
}

/// How commits went since the start: totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Transactions committed.
    pub commits: u64,
    /// Messages stored in them.
    pub messages: u64,
    /// Time in SQL, COMMIT included, in microseconds.
    pub write_us: u64,
    /// Time in which the journal was written and synced, in microseconds.
    pub sync_us: u64,
    /// Time in checkpoints, in microseconds.
    pub checkpoint_us: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Commits over [`SLOW_COMMIT`].
    pub slow: u64,
}

/// How commits went since the start: distributions, in microseconds.
#[derive(Debug, Clone)]
pub struct CommitHistograms {
    /// Of [`CommitTiming::waited`].
    pub waited_us: Histogram<u64>,
    /// Of [`CommitTiming::write`].
    pub write_us: Histogram<u64>,
    /// Of [`CommitTiming::fsync`].
    pub fsync_us: Histogram<u64>,
    /// Of [`CommitTiming::total`].
    pub total_us: Histogram<u64>,
    /// Of checkpoints.
    pub checkpoint_us: Histogram<u64>,
}

impl Default for CommitHistograms {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are in range");
        Self {
            waited_us: histogram(),
            write_us: histogram(),
            fsync_us: histogram(),
            total_us: histogram(),
            checkpoint_us: histogram(),
        }
    }
}

/// Which slow commits are logged.
#[derive(Debug, Default)]
struct LogPace {
    second: u64,
    lines: u32,
    left_out: u64,
}

impl LogPace {
    /// Whether a commit that ended at `now` is logged; if so, how many before it were not.
    fn take(&mut self, now: Duration) -> Option<u64> {
        if now.as_secs() != self.second {
            (self.second, self.lines) = (now.as_secs(), 0);
        }
        if self.lines >= LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The statistics, shared between the writer and who reads them.
#[derive(Debug, Default)]
pub(super) struct Timings(Mutex<(CommitStats, CommitHistograms, LogPace)>);

impl Timings {
    /// A commit ended at `now`.
    pub(super) fn committed(&self, timing: &CommitTiming, now: Duration) {
        let slow = timing.total > SLOW_COMMIT;
        let left_out = {
            let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (stats, histograms, pace) = &mut *locked;
            stats.commits += 1;
            stats.messages += timing.messages;
            stats.slow += u64::from(slow);
            stats.write_us += micros(timing.write);
            stats.sync_us += micros(timing.fsync);
            histograms.waited_us.saturating_record(micros(timing.waited));
            histograms.write_us.saturating_record(micros(timing.write));
            histograms.fsync_us.saturating_record(micros(timing.fsync));
            histograms.total_us.saturating_record(micros(timing.total));
            if slow { pace.take(now) } else { None }
        };
        if let Some(left_out) = left_out {
            tracing::warn!(
                total_us = micros(timing.total),
                waited_us = micros(timing.waited),
                write_us = micros(timing.write),
                fsync_us = micros(timing.fsync),
                checkpoint_waited_us = micros(timing.checkpoint_waited),
                checkpoint_beside_us = micros(timing.checkpoint_beside),
                messages = timing.messages,
                batches = timing.batches,
                left_out,
                "slow commit"
            );
        }
    }

    pub(super) fn checkpointed(&self, took: Duration) {
        let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stats, histograms, _) = &mut *locked;
        stats.checkpoints += 1;
        stats.checkpoint_us += micros(took);
        histograms.checkpoint_us.saturating_record(micros(took));
    }

    pub(super) fn stats(&self) -> CommitStats {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn histograms(&self) -> CommitHistograms {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_slow_commits_of_a_second_are_logged_and_the_next_line_counts_the_rest() {
        let mut pace = LogPace::default();
        let at = Duration::from_millis;
        assert_eq!(
            (0..25)
                .filter_map(|ms| pace.take(at(5_000 + ms)))
                .collect::<Vec<_>>(),
            [0; 10]
        );
        assert_eq!(pace.take(at(6_000)), Some(15));
        assert_eq!(pace.take(at(6_001)), Some(0));
    }
}
