//! How a TiKV store is opened, and what it says of itself.

use std::path::PathBuf;
use std::time::Duration;

use super::super::moment::WallClock;
use super::fault::FaultClass;
use crate::clock::Clock;

/// Deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one call. Too little: a busy server is taken for a dead one; too much: a dead one holds up its lanes.
    pub call: Duration,
    /// Of a commit with all its attempts, but for the last one's calls; then its outcome is unknown.
    pub commit: Duration,
    /// Of a read with all its attempts.
    pub read: Duration,
    /// Of finding what dead routers left. Their locks outlive them by up to 20 s, so less finds nothing.
    pub adopt: Duration,
    /// Of the start: how long PD and TiKV are waited for.
    pub open: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(4),
            commit: Duration::from_secs(12),
            read: Duration::from_secs(8),
            adopt: Duration::from_secs(30),
            open: Duration::from_secs(20),
        }
    }
}

/// Files (PEM) of a connection with TLS. The client shows its own certificate, so it needs all three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TikvTls {
    /// Certificates of the authorities that are trusted.
    pub ca: PathBuf,
    /// The certificate of this router.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a store is opened.
#[derive(Clone)]
pub struct TikvOptions {
    /// Addresses of PD, `host:port`.
    pub pd: Vec<String>,
    /// TLS to PD and TiKV; `None`: none.
    pub tls: Option<TikvTls>,
    /// Stands before every key, so that a cluster may hold more than this store. Usually empty.
    pub prefix: Vec<u8>,
    /// The cluster that the store must belong to; `None` for whichever it does.
    pub cluster_id: Option<u64>,
    /// Whether a store is made where there is none. Not by a router that has known one: its messages are gone.
    pub makes: bool,
    /// Lanes, also of a store that is made now.
    pub lanes: u16,
    /// This start of the router: heads and outbox rows carry it.
    pub boot: u64,
    /// Random: names a new cluster and new epochs.
    pub random: u64,
    /// For deadlines.
    pub clock: Clock,
    /// Store time instead of the timestamp oracle's. Only for tests: routers would differ.
    pub wall: Option<WallClock>,
    /// Deadlines.
    pub limits: Limits,
    /// Whether this router may tell TiKV which versions are read no more. One cluster of TiKV, one who does: not where
    /// others (TiDB) do.
    pub collects_garbage: bool,
}

impl std::fmt::Debug for TikvOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TikvOptions")
            .field("pd", &self.pd)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl TikvOptions {
    /// The usual ones.
    pub fn new(pd: Vec<String>, lanes: u16, boot: u64, random: u64, clock: Clock) -> Self {
        Self {
            pd,
            tls: None,
            prefix: Vec::new(),
            cluster_id: None,
            makes: true,
            lanes,
            boot,
            random,
            clock,
            wall: None,
            limits: Limits::default(),
            collects_garbage: true,
        }
    }
}

/// What happened since the start: totals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TikvStats {
    /// Batches committed and seen.
    pub commits: u64,
    /// Messages stored in them.
    pub messages: u64,
    /// Transactions begun for commits.
    pub attempts: u64,
    /// Commits that gave no answer that says enough, or could not be read back at the first attempt.
    pub unsure: u64,
    /// Commits that failed by what the client said and were there.
    pub resolved: u64,
    /// Commits that succeeded by what the client said and were not there, or not all of them.
    pub torn: u64,
    /// Commits whose outcome was not found out in time.
    pub unknown: u64,
    /// Conversations that were mended.
    pub repairs: u64,
    /// Places made void.
    pub voids: u64,
    /// Messages refused because another's lock held their conversation.
    pub aside: u64,
    /// Outbox rows that no commit announced, handed over to be published.
    pub strays: u64,
    /// Times that the connection was made anew.
    pub rebuilt: u64,
    /// Ids forgotten because they are refused as stale.
    pub ids_forgotten: u64,
    /// Failed calls, by kind.
    pub faults: Vec<(FaultClass, u64)>,
}
