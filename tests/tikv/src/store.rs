//! The store: rows, regions and what PD must remember, behind one lock, made durable by the log.
//!
//! A request is decided and applied under the lock, its changes are queued for the log in the same order, and the answer
//! waits until they, and everything that it tells of, are on the disk. Opening replays the log; when most of a large log is
//! history, it is written anew first.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::log::{Log, LogError, push_record};
use crate::record::{Batch, Change, Identity, KeyRange, Region, Row};
use crate::region::Regions;
use crate::rows::{Rows, View};
use crate::txn::Command;

/// A log below this is never written anew.
const REWRITE_LOG_BYTES_MIN: u64 = 64 << 20;
/// Rows of one checkpoint record.
const CHECKPOINT_ROWS: usize = 1_000;
/// Keys that garbage collection looks at while it holds the lock.
const GARBAGE_KEYS: usize = 2_000;

#[derive(Default)]
struct State {
    rows: Rows,
    regions: Regions,
    identity: Option<Identity>,
    time_bound: u64,
    safe_point: u64,
}

/// What the store holds, for the control port.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Keys with a version, a mark or a lock.
    pub keys: usize,
    /// Locked keys.
    pub locks: usize,
    /// Records in the log since the start, those replayed included.
    pub records: u64,
    /// Of those, on the disk.
    pub records_durable: u64,
    /// Versions that only snapshots below this saw are dropped.
    pub safe_point: u64,
}

/// See the module.
pub(crate) struct Store {
    state: Mutex<State>,
    log: Log,
}

impl Store {
    /// Opens the store in a folder, which is made if need be.
    ///
    /// # Errors
    /// The log cannot be used or is damaged.
    pub(crate) fn open(folder: &Path) -> Result<Self, LogError> {
        let path = folder.join("store.log");
        let named = |source| LogError::File {
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(named)?;
        let mut state = State::default();
        // What is replayed is on the disk: no reader has to wait for it.
        let mut log = Log::open(&path, |batch, _| state.apply(batch, 0))?;
        let length = fs::metadata(&path).map_err(named)?.len();
        if length > REWRITE_LOG_BYTES_MIN && length / 2 > state.rows.bytes() {
            drop(log);
            state.write_checkpoint(&path).map_err(named)?;
            log = Log::open(&path, |_, _| Ok(()))?;
        }
        Ok(Self {
            state: Mutex::new(state),
            log,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a command and returns its answer once it may be told.
    ///
    /// # Errors
    /// The log failed: nothing may be answered.
    pub(crate) async fn execute<C: Command>(&self, command: &C) -> Result<C::Answer, LogError> {
        let (answer, number) = self.decide(command)?;
        self.log.durable(number).await?;
        Ok(answer)
    }

    fn decide<C: Command>(&self, command: &C) -> Result<(C::Answer, u64), LogError> {
        let mut state = self.lock();
        let region = match state.regions.admit(command.context(), command.keys()) {
            Ok(region) => region,
            Err(error) => return Ok((C::refuse(*error), 0)),
        };
        let mut changes = Vec::new();
        let view = View::new(&state.rows);
        let answer = command.run(&view, region, &mut changes);
        let seen = view.seen();
        if changes.is_empty() {
            return Ok((answer, seen));
        }
        let number = self.append(&mut state, changes)?;
        Ok((answer, number.max(seen)))
    }

    fn append(&self, state: &mut State, changes: Vec<Change>) -> Result<u64, LogError> {
        let batch = Batch::from(changes);
        let number = self.log.append(&batch);
        state
            .apply(batch, number)
            .map_err(|what| LogError::Damaged { number, what })?;
        Ok(number)
    }

    async fn change(&self, changes: Vec<Change>) -> Result<(), LogError> {
        let number = self.append(&mut self.lock(), changes)?;
        self.log.durable(number).await
    }

    /// Who this store is; `None` before it joined a cluster.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.lock().identity
    }

    /// Joins a cluster with a region that holds every key.
    ///
    /// # Errors
    /// The log failed.
    pub(crate) async fn join(&self, identity: Identity, region: Region) -> Result<(), LogError> {
        self.change(vec![Change::Identity(identity), Change::Region(region)])
            .await
    }

    /// The regions as they are.
    pub(crate) fn regions(&self) -> Regions {
        self.lock().regions.clone()
    }

    /// Splits the region of `key` there and returns both parts; `None` where the key is a bound already.
    ///
    /// # Errors
    /// The log failed.
    pub(crate) async fn split(
        &self,
        key: &[u8],
        new_id: u64,
        new_peer_id: u64,
    ) -> Result<Option<[Region; 2]>, LogError> {
        let (parts, number) = {
            let mut state = self.lock();
            let Some(parts) = state.regions.split(key, new_id, new_peer_id) else {
                return Ok(None);
            };
            let number = self.append(&mut state, parts.clone().map(Change::Region).into())?;
            (parts, number)
        };
        self.log.durable(number).await?;
        Ok(Some(parts))
    }

    /// Timestamps below this (physical part) may have been given out.
    pub(crate) fn time_bound(&self) -> u64 {
        self.lock().time_bound
    }

    /// Lets timestamps below `bound_ms` be given out.
    ///
    /// # Errors
    /// The log failed.
    pub(crate) async fn raise_time_bound(&self, bound_ms: u64) -> Result<(), LogError> {
        self.change(vec![Change::TimeBound(bound_ms)]).await
    }

    /// Empties a range of keys, whatever their versions.
    ///
    /// # Errors
    /// The log failed.
    pub(crate) async fn destroy(&self, start: Vec<u8>, end: Vec<u8>) -> Result<(), LogError> {
        self.change(vec![Change::Destroy(KeyRange { start, end })]).await
    }

    /// Where versions may be dropped.
    pub(crate) fn safe_point(&self) -> u64 {
        self.lock().safe_point
    }

    /// Raises the safe point; a lower one is ignored. Versions go when [`Self::collect_garbage`] is called.
    ///
    /// # Errors
    /// The log failed.
    pub(crate) async fn raise_safe_point(&self, safe_point: u64) -> Result<(), LogError> {
        if safe_point <= self.safe_point() {
            return Ok(());
        }
        self.change(vec![Change::SafePoint(safe_point)]).await
    }

    /// Drops versions that no snapshot at or above the safe point sees, from `from` on, a bounded number of keys.
    /// Returns where to go on.
    pub(crate) fn collect_garbage(&self, from: &[u8]) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let safe_point = state.safe_point;
        state.rows.collect_garbage(safe_point, from, GARBAGE_KEYS)
    }

    /// What there is.
    pub(crate) fn summary(&self) -> Summary {
        let (records, records_durable) = self.log.numbers();
        let state = self.lock();
        let (keys, locks) = state.rows.counts();
        Summary {
            keys,
            locks,
            records,
            records_durable,
            safe_point: state.safe_point,
        }
    }
}

impl State {
    fn apply(&mut self, batch: Batch, number: u64) -> Result<(), String> {
        for item in batch.items {
            match item.change.ok_or("a change of an unknown kind")? {
                Change::Lock(Row {
                    key,
                    lock: Some(lock),
                    ..
                }) => self.rows.lock(key, lock, number),
                Change::Lock(_) => return Err("a lock that is none".to_owned()),
                Change::Decide(decision) => self.rows.decide(decision, number)?,
                Change::Restore(row) => self.rows.restore(row),
                Change::Region(region) => self.regions.set(region),
                Change::Identity(identity) => {
                    self.identity = Some(identity);
                    self.regions.of_store(identity.store_id);
                }
                Change::TimeBound(bound) => self.time_bound = self.time_bound.max(bound),
                Change::SafePoint(safe_point) => self.safe_point = self.safe_point.max(safe_point),
                Change::Destroy(range) => self.rows.destroy(&range.start, &range.end),
            }
        }
        Ok(())
    }

    /// Everything that a log which ends here comes to.
    fn checkpoint(&self) -> impl Iterator<Item = Batch> {
        let mut first = vec![
            Change::TimeBound(self.time_bound),
            Change::SafePoint(self.safe_point),
        ];
        first.extend(self.identity.map(Change::Identity));
        first.extend(self.regions.all().iter().cloned().map(Change::Region));
        let mut rows = self.rows.all().map(Change::Restore);
        let rest = std::iter::from_fn(move || {
            let some: Vec<Change> = rows.by_ref().take(CHECKPOINT_ROWS).collect();
            (!some.is_empty()).then(|| Batch::from(some))
        });
        std::iter::once(Batch::from(first)).chain(rest)
    }

    /// Puts a checkpoint in the log's place. A crash leaves the one or the other, whole.
    fn write_checkpoint(&self, path: &Path) -> io::Result<()> {
        let fresh: PathBuf = path.with_extension("log.new");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&fresh)?);
        let mut bytes = Vec::new();
        for batch in self.checkpoint() {
            bytes.clear();
            push_record(&mut bytes, &batch);
            file.write_all(&bytes)?;
        }
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvrpcpb::{Context, GetRequest, Op, PrewriteRequest};
    use crate::proto::metapb::RegionEpoch;
    use crate::txn::bench::prewrite;

    const IDENTITY: Identity = Identity {
        cluster_id: 7,
        store_id: 1,
    };

    async fn joined(folder: &Path) -> Store {
        let store = Store::open(folder).unwrap();
        store.join(IDENTITY, Region::whole(2, 3)).await.unwrap();
        store
    }

    fn context() -> Context {
        let epoch = RegionEpoch {
            conf_ver: 1,
            version: 1,
        };
        Context {
            region_id: 2,
            region_epoch: Some(epoch),
            ..Context::default()
        }
    }

    async fn lock_key(store: &Store, start_ts: u64, key: &str) {
        let request = PrewriteRequest {
            context: Some(context()),
            ..prewrite(start_ts, &[(Op::Put, key, "value")])
        };
        assert_eq!(store.execute(&request).await.unwrap().errors, []);
    }

    #[tokio::test]
    async fn a_reopened_store_is_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = joined(folder.path()).await;
        lock_key(&store, 10, "a").await;
        store.raise_time_bound(99).await.unwrap();
        store.split(b"m", 4, 5).await.unwrap().unwrap();
        let before = (store.summary(), store.regions().all().to_vec());
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!((store.summary(), store.regions().all().to_vec()), before);
        assert_eq!((store.identity(), store.time_bound()), (Some(IDENTITY), 99));
    }

    #[tokio::test]
    async fn a_checkpoint_takes_the_place_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.log");
        let store = joined(folder.path()).await;
        for index in 0..50 {
            lock_key(&store, 10 + index, &format!("key {index}")).await;
        }
        let before = store.summary();
        let state = store.state.into_inner().unwrap();
        drop(store.log);
        state.write_checkpoint(&path).unwrap();
        let store = Store::open(folder.path()).unwrap();
        let after = store.summary();
        assert_eq!((after.keys, after.locks), (before.keys, before.locks));
        assert_eq!(after.records, 2);
        let read = GetRequest {
            context: Some(context()),
            key: b"key 7".to_vec(),
            version: 99,
        };
        assert!(
            store
                .execute(&read)
                .await
                .unwrap()
                .error
                .unwrap()
                .locked
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_stale_request_is_refused_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = joined(folder.path()).await;
        store.split(b"m", 4, 5).await.unwrap().unwrap();
        let request = PrewriteRequest {
            context: Some(context()),
            ..prewrite(10, &[(Op::Put, "z", "value")])
        };
        let answer = store.execute(&request).await.unwrap();
        assert!(answer.region_error.unwrap().epoch_not_match.is_some());
        assert_eq!(store.summary().locks, 0);
    }
}
