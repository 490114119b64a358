//! What the lanes and the readers of a store share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::Lane;
use corelane_router_core::decide::RECENT_BUCKET_MS;
use tokio::sync::{Semaphore, mpsc};

use super::super::moment::Moments;
use super::super::{OutboxRow, StoreError};
use super::client::{Kv, millis};
use super::draft::Author;
use super::fault::Fault;
use super::keys::Keys;
use super::lane::{WAIT_FIRST, WAIT_MAX};
use super::options::Limits;
use crate::clock::Clock;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) commits: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) attempts: AtomicU64,
    pub(super) unsure: AtomicU64,
    pub(super) resolved: AtomicU64,
    pub(super) torn: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) repairs: AtomicU64,
    pub(super) voids: AtomicU64,
    pub(super) aside: AtomicU64,
    pub(super) strays: AtomicU64,
    pub(super) ids_forgotten: AtomicU64,
}

/// What the lanes and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) kv: Arc<Kv>,
    pub(super) keys: Keys,
    pub(super) boot: u64,
    pub(super) cluster_id: u64,
    pub(super) epoch: AtomicU64,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    /// Store time of tests.
    pub(super) moments: Option<Moments>,
    pub(super) counts: Counts,
    /// Delivered marks that wait for their lanes.
    pub(super) marks_waiting: AtomicUsize,
    /// Room for reads.
    pub(super) reads: Arc<Semaphore>,
    /// Lanes of outbox rows that the shell was told of and that are not forgotten.
    pub(super) told: Mutex<HashMap<u64, Lane>>,
    /// Outbox rows that no commit announced.
    pub(super) strays: mpsc::Sender<OutboxRow>,
    pub(super) dice: AtomicU64,
}

impl Shared {
    /// Who writes the transaction that began at `start`, and when.
    pub(super) fn author(&self, start: u64) -> Author {
        let (now_ms, wall_ms) = match &self.moments {
            Some(moments) => (moments.now_ms(), moments.wall_ms()),
            None => (millis(start), self.clock.now().wall_ms),
        };
        Author {
            now_ms,
            wall_ms,
            boot: self.boot,
            start,
        }
    }

    /// The store's time at a version.
    pub(super) fn time_at(&self, version: u64) -> u64 {
        match &self.moments {
            Some(moments) => moments.now_ms(),
            None => millis(version),
        }
    }

    /// The lowest bucket that anything not yet visible at `at` may have; cursors lag behind it by more than a commit takes.
    pub(super) fn open_bucket(&self, at: u64) -> u64 {
        match &self.moments {
            Some(moments) => moments.open_bucket(),
            None => millis(at) / RECENT_BUCKET_MS,
        }
    }

    /// Between half and all of `wait`.
    pub(super) fn jitter(&self, wait: Duration) -> Duration {
        let mut dice = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let part = u32::try_from((dice >> 32) % 1_000).unwrap_or(0);
        wait / 2 + wait * part / 2_000
    }

    /// The shell is told of an outbox row: it will say when to forget it.
    pub(super) fn remember(&self, row: u64, lane: Lane) {
        self.told().insert(row, lane);
    }

    /// These rows are gone.
    pub(super) fn forget(&self, rows: &[u64]) {
        let mut told = self.told();
        for row in rows {
            told.remove(row);
        }
    }

    pub(super) fn is_told(&self, row: u64) -> bool {
        self.told().contains_key(&row)
    }

    /// The lane of a row that the shell was told of.
    pub(super) fn lane_of(&self, row: u64) -> Option<Lane> {
        self.told().get(&row).copied()
    }

    fn told(&self) -> MutexGuard<'_, HashMap<u64, Lane>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no row is known to anybody.
    pub(super) fn knows_no_row(&self) -> bool {
        self.told().is_empty()
    }

    /// Hands an outbox row over that no commit announces. False: too many wait, and it is to be looked for again; a lane
    /// never waits for who takes them, because that one may wait for the lane.
    pub(super) fn hand_over(&self, row: OutboxRow) -> bool {
        let id = row.id;
        self.remember(id, row.lane);
        let is_taken = self.strays.try_send(row).is_ok();
        if is_taken {
            self.counts.strays.fetch_add(1, Ordering::Relaxed);
        } else {
            self.forget(&[id]);
        }
        is_taken
    }

    /// Attempts of a read.
    pub(super) fn tries(&self) -> Tries {
        Tries::new(self.clock, self.limits.read)
    }
}

/// Attempts of something until its time is over.
#[derive(Debug)]
pub(super) struct Tries {
    clock: Clock,
    until: Duration,
    wait: Duration,
}

impl Tries {
    pub(super) fn new(clock: Clock, time: Duration) -> Self {
        Self {
            clock,
            until: clock.now().mono + time,
            wait: WAIT_FIRST,
        }
    }

    /// Waits before the next.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`]: the time is over.
    pub(super) async fn wait(&mut self, fault: &Fault) -> Result<(), StoreError> {
        if self.clock.now().mono + self.wait >= self.until {
            return Err(StoreError::Failed(fault.to_string()));
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(WAIT_MAX);
        Ok(())
    }
}
