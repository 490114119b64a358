//! The connection to PD and TiKV: transactions and snapshots under deadlines of our own.
//!
//! The client waits without bound in places, loses its timestamp stream for good when PD dies at the wrong moment, and gives
//! no sign of a connection that is dead. So every call has a deadline, and after some failures in a row
//! ([`super::health`]) a new client is made in place of the old; calls that are on their way end with theirs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tikv_client::transaction::HeartbeatOption;
use tikv_client::{
    Backoff, CheckLevel, Config, Key, KvPair, ProtoLockInfo, RetryOptions, Snapshot, Timestamp, TimestampExt,
    Transaction, TransactionClient, TransactionOptions,
};
use tokio::sync::{Mutex, RwLock};

use super::fault::{Fault, FaultCounts, Lock};
use super::health::{Asked, Health};
use super::keys::KeyRange;
use super::options::TikvTls;

/// Largest answer that is taken: 200 of the largest messages.
const ANSWER_BYTES_MAX: usize = 20 * 1024 * 1024;
/// What the client itself waits for one request.
const REQUEST: Duration = Duration::from_secs(2);
/// Rows of a scan whose rows are small.
pub(super) const SCAN_ROWS: u32 = 1_024;
/// Locks that are looked at together.
const LOCKS_MAX: u32 = 16 * 1_024;
/// How long one round of garbage collection may take: it asks every region for its locks.
const COLLECT: Duration = Duration::from_mins(2);

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    /// Addresses of PD.
    pub(super) pd: Vec<String>,
    /// TLS, if any.
    pub(super) tls: Option<TikvTls>,
    /// Deadline of one call.
    pub(super) call: Duration,
}

/// The connection.
pub(super) struct Kv {
    reach: Reach,
    client: RwLock<Option<TransactionClient>>,
    /// Held by who connects: the others take what he gets.
    connecting: Mutex<()>,
    health: Health,
    pub(super) faults: FaultCounts,
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kv")
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

impl Kv {
    pub(super) fn new(reach: Reach) -> Arc<Self> {
        Arc::new(Self {
            reach,
            client: RwLock::new(None),
            connecting: Mutex::new(()),
            health: Health::default(),
            faults: FaultCounts::default(),
        })
    }

    /// Times that the connection was made anew.
    pub(super) fn rebuilt(&self) -> u64 {
        self.health.rebuilt()
    }

    /// Waits for `call` as long as a call may take, and counts how it ended.
    async fn within<T>(
        &self,
        asked: Asked,
        what: &str,
        call: impl Future<Output = tikv_client::Result<T>>,
    ) -> Result<T, Fault> {
        self.within_time(self.reach.call, asked, what, call).await
    }

    async fn within_time<T>(
        &self,
        time: Duration,
        asked: Asked,
        what: &str,
        call: impl Future<Output = tikv_client::Result<T>>,
    ) -> Result<T, Fault> {
        let connection = self.health.rebuilt();
        let outcome = match tokio::time::timeout(time, call).await {
            Ok(outcome) => outcome.map_err(Fault::from),
            Err(_) => Err(Fault::timeout(what)),
        };
        match outcome {
            Ok(answer) => {
                self.health.answered(asked, connection);
                Ok(answer)
            }
            Err(fault) => {
                self.faults.count(fault.class);
                tracing::debug!(what, %fault, "a call to TiKV failed");
                if fault.class.is_of_connection() && self.health.failed(asked, connection) {
                    tracing::warn!(what, %fault, "the connection to TiKV is made anew");
                    *self.client.write().await = None;
                }
                Err(fault)
            }
        }
    }

    async fn connected(&self) -> Option<TransactionClient> {
        self.client.read().await.clone()
    }

    async fn client(&self) -> Result<TransactionClient, Fault> {
        if let Some(client) = self.connected().await {
            return Ok(client);
        }
        let turn = tokio::time::timeout(self.reach.call, self.connecting.lock()).await;
        let Ok(_turn) = turn else {
            return Err(Fault::timeout("connecting"));
        };
        if let Some(client) = self.connected().await {
            return Ok(client);
        }
        let mut config = Config::default()
            .with_timeout(REQUEST)
            .with_grpc_max_decoding_message_size(ANSWER_BYTES_MAX);
        if let Some(tls) = &self.reach.tls {
            config = config.with_security(&tls.ca, &tls.cert, &tls.key);
        }
        let connect = TransactionClient::new_with_config(self.reach.pd.clone(), config);
        let client = self.within(Asked::Pd, "connecting", Box::pin(connect)).await?;
        *self.client.write().await = Some(client.clone());
        Ok(client)
    }

    /// Begins a transaction. End it with [`Write::abandon`] or [`Write::commit`].
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Write, Fault> {
        let client = self.client().await?;
        let options = options();
        let inner = self
            .within(
                Asked::Pd,
                "beginning",
                Box::pin(client.begin_with_options(options)),
            )
            .await?;
        Ok(Write {
            kv: Arc::clone(self),
            inner,
            has_changes: false,
        })
    }

    /// What is there now.
    pub(super) async fn snapshot(self: &Arc<Self>) -> Result<Read, Fault> {
        let client = self.client().await?;
        let now = self.time(&client).await?;
        Ok(Read {
            kv: Arc::clone(self),
            at: now.version(),
            inner: client.snapshot(now, options()),
        })
    }

    async fn time(&self, client: &TransactionClient) -> Result<Timestamp, Fault> {
        let now = Box::pin(client.current_timestamp());
        self.within(Asked::Pd, "asking the time", now).await
    }

    /// Ends a transaction whose commit is over: by what became of its primary key, and if nothing did, by rolling it
    /// back. Its other locks then end with whoever meets them.
    ///
    /// A lock that has no time left is what makes the client do so at once, without waiting until it is too old.
    pub(super) async fn end(&self, primary: &[u8], start: u64) -> Result<(), Fault> {
        let client = self.client().await?;
        let lock = ProtoLockInfo {
            primary_lock: primary.to_vec(),
            key: primary.to_vec(),
            lock_version: start,
            lock_ttl: 0,
            ..ProtoLockInfo::default()
        };
        let at = Timestamp::from_version(start);
        let ending = client.resolve_locks(vec![lock], at, Backoff::no_backoff());
        let alive = self
            .within(Asked::Tikv, "ending a transaction", Box::pin(ending))
            .await?;
        match alive.first() {
            None => Ok(()),
            Some(_) => Err(Fault::locked("a transaction that is over cannot be ended")),
        }
    }

    /// The locks in a range.
    pub(super) async fn locks(&self, range: KeyRange) -> Result<Vec<Lock>, Fault> {
        let client = self.client().await?;
        let now = self.time(&client).await?;
        let scan = client.scan_locks(&now, bounds(range), LOCKS_MAX);
        let found = self.within(Asked::Tikv, "scanning locks", Box::pin(scan)).await?;
        Ok(found.iter().map(Lock::from).collect())
    }

    /// Lets the servers forget versions that nobody reads any more, `until` the version. Transactions that began before
    /// are ended. False: somebody else holds the safepoint back.
    pub(super) async fn collect_garbage(&self, until: u64) -> Result<bool, Fault> {
        let client = self.client().await?;
        let collect = client.gc(Timestamp::from_version(until));
        self.within_time(COLLECT, Asked::Tikv, "collecting garbage", collect)
            .await
    }
}

fn options() -> TransactionOptions {
    // Short waits for locks: who waits longer is the caller, who can let others go first meanwhile.
    let retry = RetryOptions {
        region_backoff: Backoff::no_jitter_backoff(2, 500, 8),
        lock_backoff: Backoff::no_jitter_backoff(2, 100, 8),
    };
    TransactionOptions::new_optimistic()
        .retry_options(retry)
        .drop_check(CheckLevel::Warn)
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
}

/// Milliseconds since 1970 in a version.
pub(super) const fn millis(version: u64) -> u64 {
    version >> 18
}

/// The first version of a millisecond.
pub(super) const fn version_of(millis: u64) -> u64 {
    millis << 18
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The key must not be there.
    Insert(Vec<u8>),
    /// Whatever is there.
    Put(Vec<u8>),
    /// It must be gone.
    Delete,
}

impl Change {
    /// What a reader finds afterwards.
    pub(super) fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Insert(value) | Self::Put(value) => Some(value),
            Self::Delete => None,
        }
    }
}

/// A row: key and value.
pub(super) type RawRow = (Vec<u8>, Vec<u8>);

/// Something with keys to read.
pub(super) trait Rows {
    /// Values of those of `keys` that are there.
    async fn many(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<RawRow>, Fault>;

    /// The first rows in a range, at most `limit`.
    async fn scan(&mut self, range: KeyRange, limit: u32) -> Result<Vec<RawRow>, Fault>;

    /// All rows in a range.
    async fn all(&mut self, (mut from, to): KeyRange) -> Result<Vec<RawRow>, Fault> {
        let mut rows = Vec::new();
        loop {
            let page = self.scan((from.clone(), to.clone()), SCAN_ROWS).await?;
            let is_last = page.len() < SCAN_ROWS as usize;
            if let Some((key, _)) = page.last() {
                from.clone_from(key);
                from.push(0);
            }
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
    }
}

/// Counts the rows that were found.
pub(super) struct Counted<'r, R> {
    inner: &'r mut R,
    /// So many so far.
    pub(super) rows: u64,
}

impl<'r, R: Rows> Counted<'r, R> {
    pub(super) const fn new(inner: &'r mut R) -> Self {
        Self { inner, rows: 0 }
    }
}

impl<R: Rows> Rows for Counted<'_, R> {
    async fn many(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<RawRow>, Fault> {
        let found = self.inner.many(keys).await?;
        self.rows += found.len() as u64;
        Ok(found)
    }

    async fn scan(&mut self, range: KeyRange, limit: u32) -> Result<Vec<RawRow>, Fault> {
        let found = self.inner.scan(range, limit).await?;
        self.rows += found.len() as u64;
        Ok(found)
    }
}

fn pair(pair: KvPair) -> RawRow {
    let (key, value) = pair.into();
    (Vec::from(key), value)
}

fn bounds((from, to): KeyRange) -> (Key, Option<Key>) {
    (Key::from(from), (!to.is_empty()).then(|| Key::from(to)))
}

/// A range that ends before it begins makes the client panic, and holds nothing.
fn is_empty((from, to): &KeyRange) -> bool {
    !to.is_empty() && from >= to
}

/// A snapshot.
pub(super) struct Read {
    kv: Arc<Kv>,
    /// Its version.
    pub(super) at: u64,
    inner: Snapshot,
}

impl Rows for Read {
    async fn many(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<RawRow>, Fault> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let found = self
            .kv
            .within(Asked::Tikv, "reading", Box::pin(self.inner.batch_get(keys)))
            .await?;
        Ok(found.map(pair).collect())
    }

    async fn scan(&mut self, range: KeyRange, limit: u32) -> Result<Vec<RawRow>, Fault> {
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        let scan = self.inner.scan(bounds(range), limit);
        let found = self.kv.within(Asked::Tikv, "scanning", Box::pin(scan)).await?;
        Ok(found.map(pair).collect())
    }
}

/// A transaction.
pub(super) struct Write {
    kv: Arc<Kv>,
    inner: Transaction,
    /// Whether anything is to be written: else ending it asks nobody.
    has_changes: bool,
}

impl Rows for Write {
    async fn many(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<RawRow>, Fault> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let found = self
            .kv
            .within(Asked::Tikv, "reading", Box::pin(self.inner.batch_get(keys)))
            .await?;
        Ok(found.map(pair).collect())
    }

    async fn scan(&mut self, range: KeyRange, limit: u32) -> Result<Vec<RawRow>, Fault> {
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        let scan = self.inner.scan(bounds(range), limit);
        let found = self.kv.within(Asked::Tikv, "scanning", Box::pin(scan)).await?;
        Ok(found.map(pair).collect())
    }
}

impl Write {
    /// Its start timestamp.
    pub(super) fn start(&self) -> u64 {
        self.inner.start_timestamp().version()
    }

    /// Ends it without writing. Only for what was not committed, or whose commit was refused.
    pub(super) async fn abandon(mut self) {
        let rollback = Box::pin(self.inner.rollback());
        let outcome = if self.has_changes {
            self.kv.within(Asked::Tikv, "rolling back", rollback).await
        } else {
            rollback.await.map_err(Fault::from)
        };
        if let Err(fault) = outcome {
            tracing::debug!(%fault, "a transaction could not be rolled back; its locks end with their time");
        }
    }

    /// Writes `changes`, the first of which is the primary key. An Ok says that the client believes it, and an error that
    /// is no refusal says nothing at all: then its locks stay, because a rollback does not look at the primary key, and
    /// where that one is committed it would tear the transaction.
    pub(super) async fn commit<'c>(
        mut self,
        changes: impl Iterator<Item = (&'c Vec<u8>, &'c Change)>,
    ) -> Result<(), Fault> {
        for (key, change) in changes {
            self.has_changes = true;
            let key = key.clone();
            let outcome = match change {
                Change::Insert(value) => self.inner.insert(key, value.clone()).await,
                Change::Put(value) => self.inner.put(key, value.clone()).await,
                Change::Delete => self.inner.delete(key).await,
            };
            if let Err(error) = outcome {
                let fault = Fault::from(error);
                self.kv.faults.count(fault.class);
                self.abandon().await;
                return Err(fault);
            }
        }
        let committed = self
            .kv
            .within(Asked::Tikv, "committing", Box::pin(self.inner.commit()))
            .await;
        match committed {
            Ok(_) => Ok(()),
            Err(fault) => {
                if fault.class.is_refusal() {
                    self.abandon().await;
                }
                Err(fault)
            }
        }
    }
}
