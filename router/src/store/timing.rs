//! How long commits take, and where the time goes.
//!
//! Owns histograms since the start. A commit over [`SLOW_COMMIT`] is logged with its stages and with the checkpoint
//! it waited for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// A commit that takes longer is logged.
pub const SLOW_COMMIT: Duration = Duration::from_millis(50);

/// One commit, by stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitTiming {
    /// Its oldest batch waited for the commit or checkpoint before it.
    pub waited: Duration,
    /// The statements.
    pub write: Duration,
    /// COMMIT: appending to the log and its fdatasync, which is nearly all of it.
    pub fsync: Duration,
    /// From the arrival of its oldest batch to its answers.
    pub total: Duration,
    /// Messages stored.
    pub messages: u64,
    /// Batches joined.
    pub batches: u64,
    /// How much of `waited` a checkpoint took.
    pub checkpoint: Duration,
}

impl CommitTiming {
    /// Whether it waited for a checkpoint.
    pub fn checkpointed(&self) -> bool {
        !self.checkpoint.is_zero()
    }
}

/// How commits went since the start: totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Transactions committed.
    pub commits: u64,
    /// Messages stored in them.
    pub messages: u64,
    /// Time in SQL before COMMIT, in microseconds.
    pub write_us: u64,
    /// Time in COMMIT, which holds the fdatasync, in microseconds.
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

/// The statistics, shared between the writer and who reads them.
#[derive(Debug, Default)]
pub(super) struct Timings(Mutex<(CommitStats, CommitHistograms)>);

impl Timings {
    pub(super) fn committed(&self, timing: &CommitTiming) {
        let slow = timing.total > SLOW_COMMIT;
        {
            let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (stats, histograms) = &mut *locked;
            stats.commits += 1;
            stats.messages += timing.messages;
            stats.slow += u64::from(slow);
            stats.write_us += micros(timing.write);
            stats.sync_us += micros(timing.fsync);
            histograms.waited_us.saturating_record(micros(timing.waited));
            histograms.write_us.saturating_record(micros(timing.write));
            histograms.fsync_us.saturating_record(micros(timing.fsync));
            histograms.total_us.saturating_record(micros(timing.total));
        }
        if slow {
            tracing::warn!(
                total_us = micros(timing.total),
                waited_us = micros(timing.waited),
                write_us = micros(timing.write),
                fsync_us = micros(timing.fsync),
                checkpoint_us = micros(timing.checkpoint),
                checkpointed = timing.checkpointed(),
                messages = timing.messages,
                batches = timing.batches,
                "slow commit"
            );
        }
    }

    pub(super) fn checkpointed(&self, took: Duration) {
        let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stats, histograms) = &mut *locked;
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
