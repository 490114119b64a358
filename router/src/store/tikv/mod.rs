//! The cluster's store: TiKV, through `tikv-client`.
//!
//! Owns a runtime of two threads, on which everything that speaks to TiKV runs, and one task per lane that writes
//! (`lane`). What bounds the queue of a lane is said there; `READS_MAX` reads run at a time, one more is refused with
//! [`StoreError::Busy`]. Nothing is ever poisoned: what TiKV did not answer is `Unknown` or an error, and the next request
//! finds out.
//!
//! Messages carry the time of the timestamp oracle, so that all routers have one clock.

mod client;
mod cluster;
mod doubt;
mod draft;
mod fault;
mod garbage;
mod health;
mod job;
mod keys;
mod known;
mod lane;
mod life;
mod options;
mod outbox;
mod queue;
mod read;
mod repair;
mod rows;
mod seen;
mod settle;
mod shared;
mod stays;
mod sync;
mod value;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_router_core::append::{Batch, Committed};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{
    DeliveredMark, Members, MessageStore, OutboxRow, Pulled, ReadMark, Readable, StoreError, StoreInfo,
    Synced,
};
use client::{Counted, Read, Rows};
use fault::Fault;
pub use fault::FaultClass;
use job::ReadRequest;
use keys::ConvKey;
pub use options::{Limits, TikvOptions, TikvStats, TikvTls};
use queue::Order;
use read::Trouble;
use rows::{Cluster, Value};
use shared::{Shared, Tries};

/// Delivered marks that wait for their lanes; while there are more they are dropped, and the terminals repeat them.
const MARKS_MAX: usize = 16_384;
/// Reads at a time.
const READS_MAX: usize = 1_024;

/// Something to do on the store's own threads.
type Work<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Attempts a read at fresh snapshots until it answers or its time is over.
macro_rules! reading {
    ($store:expr, |$shared:ident, $read:ident| $work:expr) => {{
        let $shared = Arc::clone(&$store.shared);
        let Ok(room) = Arc::clone(&$shared.reads).try_acquire_owned() else {
            return Err(StoreError::Busy {
                waiting: READS_MAX,
                allowed: READS_MAX,
            });
        };
        $store
            .on_runtime(Box::pin(async move {
                let _room = room;
                let mut tries = $shared.tries();
                loop {
                    let outcome = match $shared.kv.snapshot().await {
                        Ok(mut $read) => $work.await,
                        Err(fault) => Err(Trouble::Fault(fault)),
                    };
                    match outcome {
                        Ok(answer) => return Ok(answer),
                        Err(Trouble::Store(error)) => return Err(error),
                        Err(Trouble::Fault(fault)) => tries.wait(&fault).await?,
                    }
                }
            }))
            .await
    }};
}

/// The store. Dropping it waits for the lanes to write what was handed to them.
#[derive(Debug)]
pub struct TikvStore {
    shared: Arc<Shared>,
    lanes: Vec<mpsc::UnboundedSender<Order>>,
    tasks: Vec<JoinHandle<()>>,
    strays: tokio::sync::Mutex<mpsc::Receiver<OutboxRow>>,
    collector: JoinHandle<()>,
    runtime: Option<Runtime>,
}

impl TikvStore {
    /// What happened since the start.
    pub fn stats(&self) -> TikvStats {
        let counts = &self.shared.counts;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TikvStats {
            commits: load(&counts.commits),
            messages: load(&counts.messages),
            attempts: load(&counts.attempts),
            unsure: load(&counts.unsure),
            resolved: load(&counts.resolved),
            torn: load(&counts.torn),
            unknown: load(&counts.unknown),
            repairs: load(&counts.repairs),
            voids: load(&counts.voids),
            aside: load(&counts.aside),
            strays: load(&counts.strays),
            rebuilt: self.shared.kv.rebuilt(),
            ids_forgotten: load(&counts.ids_forgotten),
            faults: self.shared.kv.faults.all(),
        }
    }

    /// Advances the safepoint to `lag` behind now, if this router holds the lease of the collector. Versions that are
    /// older are gone for readers.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`]: try again later.
    pub async fn collect_garbage(&self, lag: Duration) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.on_runtime(Box::pin(async move {
            let collected = garbage::collect(&shared, lag).await;
            collected.map_err(|fault| StoreError::Failed(fault.to_string()))
        }))
        .await
    }

    /// Forgets ids that are refused as stale by now, if this router holds the lease of the collector.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`]: some of them may be forgotten; try again later.
    pub async fn forget_ids(&self) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.on_runtime(Box::pin(async move {
            let forgotten = garbage::forget_ids(&shared).await;
            forgotten.map_err(|fault| StoreError::Failed(fault.to_string()))
        }))
        .await
    }

    fn order(&self, lane: Lane, order: Order) {
        if let Some(orders) = self.lanes.get(usize::from(lane.0)) {
            // Fails only when the task is gone; who waits for an answer then sees its channel closed.
            let _ = orders.send(order);
        }
    }

    /// Everything that speaks to TiKV runs on the store's own threads, to its end: a caller who goes away leaves no
    /// transaction half open.
    async fn on_runtime<T: Send + 'static>(&self, work: Work<T>) -> Result<T, StoreError> {
        let Some(runtime) = &self.runtime else {
            return Err(closed());
        };
        match runtime.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(StoreError::Failed(format!("the client failed: {error}"))),
        }
    }

    /// Has conversations of a lane mended whose last commit was another's.
    async fn mend(&self, lane: Lane, convs: Vec<ConvKey>) -> Result<(), StoreError> {
        let (done, mended) = oneshot::channel();
        self.order(lane, Order::Mend(convs, done));
        mended.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Has the conversations mended that others' outbox rows name, so that what the rows name can be read. Locks outlive
    /// whoever died with them, so this takes its time.
    async fn mend_named(&self, rows: &[OutboxRow]) -> Result<(), StoreError> {
        for (lane, convs) in outbox::named(rows) {
            let convs: Vec<ConvKey> = convs.into_iter().collect();
            let mut tries = Tries::new(self.shared.clock, self.shared.limits.adopt);
            while let Err(error) = self.mend(lane, convs.clone()).await {
                let fault = Fault::new(FaultClass::Other, error.to_string());
                tries.wait(&fault).await?;
            }
        }
        Ok(())
    }

    async fn pull_once(&self, conv: ConvKey, places: (u64, u64), limit: u16) -> Result<Pulled, StoreError> {
        reading!(self, |shared, read| read::pull(
            &mut read,
            &shared.keys,
            &conv,
            places,
            limit
        ))
    }
}

fn closed() -> StoreError {
    StoreError::Failed("the store is closed".to_owned())
}

impl MessageStore for TikvStore {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            cluster_id: self.shared.cluster_id,
            epoch: self.shared.epoch.load(Ordering::Relaxed),
            lanes: self.shared.keys.lanes(),
        }
    }

    async fn commit(&self, batch: Batch) -> Committed {
        let (done, answer) = oneshot::channel();
        self.order(batch.lane, Order::Batch(batch, done));
        answer
            .await
            .unwrap_or_else(|_| Committed::Unknown("the store is closed".to_owned()))
    }

    fn clear_outbox(&self, rows: Vec<u64>) {
        for row in rows {
            if let Some(lane) = self.shared.lane_of(row) {
                self.order(lane, Order::Clear(row));
            } else {
                // Only rows that this store has named are cleared; the next start finds it.
                tracing::debug!(row, "an outbox row that nobody was told of is not cleared");
            }
        }
    }

    async fn writers(&self) -> Result<Vec<u64>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.on_runtime(Box::pin(outbox::writers(shared))).await
    }

    async fn outbox(&self, of: Vec<u64>, lanes: Vec<Lane>, after: u64) -> Result<Vec<OutboxRow>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let found = async move { outbox::find(&shared, &of, &lanes, after).await };
        let rows = self.on_runtime(Box::pin(found)).await?;
        self.mend_named(&rows).await?;
        let shared = Arc::clone(&self.shared);
        let cut = async move { outbox::cut(&shared, &rows).await };
        let rows = self.on_runtime(Box::pin(cut)).await?;
        for row in &rows {
            self.shared.remember(row.id, row.lane);
        }
        Ok(rows)
    }

    async fn outbox_rows(&self, lane: Lane, rows: Vec<u64>) -> Result<Vec<OutboxRow>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.on_runtime(Box::pin(
            async move { outbox::named_by(&shared, lane, &rows).await },
        ))
        .await
    }

    async fn stray(&self) -> OutboxRow {
        match self.strays.lock().await.recv().await {
            Some(row) => row,
            // The store has a sender itself.
            None => std::future::pending().await,
        }
    }

    async fn pull(
        &self,
        app: AppId,
        conv: ConvId,
        from: u64,
        to: u64,
        limit: u16,
    ) -> Result<Pulled, StoreError> {
        let conv = (app, conv);
        let pulled = self.pull_once(conv.clone(), (from, to), limit).await;
        let Err(StoreError::Damaged { .. }) = pulled else {
            return pulled;
        };
        // A hole may be of a commit that is in pieces.
        self.mend(self.shared.keys.lane(&conv), vec![conv.clone()])
            .await?;
        self.pull_once(conv, (from, to), limit).await
    }

    async fn sync(
        &self,
        app: AppId,
        user: UserId,
        cursor: Vec<u8>,
        limit: u16,
    ) -> Result<Synced, StoreError> {
        reading!(self, |shared, read| page(
            &shared,
            &mut read,
            (app, &user),
            &cursor,
            limit
        ))
    }

    async fn members(&self, app: AppId, conv: ConvId, since: u64) -> Result<Members, StoreError> {
        let conv = (app, conv);
        reading!(self, |shared, read| read::members(
            &mut read,
            &shared.keys,
            &conv,
            since
        ))
    }

    async fn readable(&self, app: AppId, conv: ConvId, user: UserId) -> Result<Option<Readable>, StoreError> {
        let conv = (app, conv);
        reading!(self, |shared, read| read::readable(
            &mut read,
            &shared.keys,
            &conv,
            &user
        ))
    }

    async fn read(&self, app: AppId, user: UserId, conv: ConvId, seq: u64) -> Result<ReadMark, StoreError> {
        let (done, answer) = oneshot::channel();
        let lane = self.shared.keys.lane(&(app, conv.clone()));
        self.order(lane, Order::Read(ReadRequest { app, user, conv, seq }, done));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn delivered(&self, mark: DeliveredMark) {
        let waiting = &self.shared.marks_waiting;
        let taken = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < MARKS_MAX).then_some(waiting + 1)
        });
        if taken.is_ok() {
            let lane = self.shared.keys.lane(&(mark.app, mark.conv.clone()));
            self.order(lane, Order::Delivered(mark));
        }
    }

    async fn bump_epoch(&self, random: u64) -> Result<u64, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.on_runtime(Box::pin(async move {
            let epoch = cluster::bump_epoch(&shared.kv, &shared.keys, random, shared.tries()).await?;
            shared.epoch.store(epoch, Ordering::Relaxed);
            Ok(epoch)
        }))
        .await
    }

    fn is_cleared(&self) -> bool {
        self.shared.knows_no_row()
    }

    /// Never: what TiKV did not answer may succeed the next time.
    fn poisoned(&self) -> Option<String> {
        None
    }

    async fn failed(&self) -> String {
        std::future::pending().await
    }
}

/// A page of sync, by the epoch that the store has now: another router may have drawn a new one.
async fn page(
    shared: &Shared,
    read: &mut Read,
    (app, user): (AppId, &UserId),
    cursor: &[u8],
    limit: u16,
) -> Result<Synced, Trouble> {
    let (key, at) = (shared.keys.cluster(), read.at);
    let mut read = Counted::new(read);
    let found = read.many(vec![key.clone()]).await?;
    if let Some((_, value)) = found.first() {
        let row = Cluster::decode(&key, value)?;
        shared.epoch.store(row.epoch, Ordering::Relaxed);
    }
    let asked = sync::Asked {
        app,
        user,
        epoch: shared.epoch.load(Ordering::Relaxed),
        open_bucket: shared.open_bucket(at),
    };
    sync::sync(&mut read, &shared.keys, &asked, cursor, limit).await
}
