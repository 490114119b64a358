//! The store's clock: wall time that never goes back, and the buckets that are cut from it.
//!
//! A bucket, once used, is never followed by a smaller one, not even over a restart with a clock that was set back:
//! the highest one is kept in the database. Sync cursors depend on it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_router_core::decide::RECENT_BUCKET_MS;

/// Wall time in ms since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The clock, shared by the writer and the readers.
pub(super) struct Moments {
    wall: WallClock,
    floor_ms: AtomicU64,
    /// Bucket of the transaction that is being written; `u64::MAX` for none.
    writing: AtomicU64,
}

impl fmt::Debug for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moments")
            .field("floor_ms", &self.floor_ms)
            .finish_non_exhaustive()
    }
}

impl Moments {
    /// A clock that does not go below `bucket`.
    pub(super) fn new(wall: WallClock, bucket: u64) -> Self {
        Self {
            wall,
            floor_ms: AtomicU64::new(bucket.saturating_mul(RECENT_BUCKET_MS)),
            writing: AtomicU64::new(u64::MAX),
        }
    }

    /// What the machine's clock says, in ms since 1970. It may go back.
    pub(super) fn wall_ms(&self) -> u64 {
        (self.wall)()
    }

    /// Now, in ms since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        let wall = (self.wall)();
        self.floor_ms.fetch_max(wall, Ordering::SeqCst).max(wall)
    }

    /// A transaction begins; what it writes has this time.
    pub(super) fn begin(&self) -> u64 {
        let now_ms = self.now_ms();
        self.writing.store(now_ms / RECENT_BUCKET_MS, Ordering::SeqCst);
        now_ms
    }

    /// The transaction is visible, or gone.
    pub(super) fn end(&self) {
        self.writing.store(u64::MAX, Ordering::SeqCst);
    }

    /// The lowest bucket that anything not yet visible may have.
    pub(super) fn open_bucket(&self) -> u64 {
        let now = self.now_ms() / RECENT_BUCKET_MS;
        now.min(self.writing.load(Ordering::SeqCst))
    }
}
