//! The embedded store: `SQLite` in WAL mode, one thread that writes (`writer`), a few that read (`readers`).
//!
//! Owns the data directory: `corelane.db`, its journal, a lock that keeps other processes out, and the witness of the last
//! commit.
//! What bounds the queues, and what happens when the disk is full or fails, is said where it happens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_router_core::append::{Batch, Committed};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{oneshot, watch};

use super::checkpoint::{Checkpointer, DatabaseFile};
use super::journal::Journal;
use super::log_syncer::{LogFile, LogSyncer};
use super::moment::{Moments, WallClock};
use super::readers::{Readers, spawn};
use super::recovery::{Recovered, recover};
use super::schema::{self, Durability};
use super::timing::{CommitHistograms, CommitStats, Timings};
use super::witness::Witness;
use super::writer::{ReadRequest, Shared, Write, Writer};
use super::{
    DeliveredMark, Members, MessageStore, OutboxRow, Pulled, ReadMark, Readable, StoreError, StoreInfo,
    Synced, read, sync,
};
use crate::clock::Clock;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// The data directory; it is made if there is none.
    pub dir: PathBuf,
    /// How sure an acknowledgement is.
    pub durability: Durability,
    /// Lanes of a store that is made now. An older one keeps its own.
    pub lanes: u16,
    /// Random: names a new cluster and new epochs.
    pub random: u64,
    /// For timing.
    pub clock: Clock,
    /// Store time.
    pub wall: WallClock,
    /// Most bytes of the database file, 0 for no bound but the disk. When it is reached, commits are refused as
    /// on a full disk.
    pub bytes_max: u64,
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("dir", &self.dir)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl StoreOptions {
    /// The usual ones: time from `clock`, no bound but the disk.
    pub fn new(dir: &Path, durability: Durability, lanes: u16, random: u64, clock: Clock) -> Self {
        let wall: WallClock = Arc::new(move || clock.now().wall_ms);
        Self {
            dir: dir.to_owned(),
            durability,
            lanes,
            random,
            clock,
            wall,
            bytes_max: 0,
        }
    }
}

/// The store. Dropping it waits for the writer to finish what was handed to it, and marks the end as clean.
#[derive(Debug)]
pub struct SqliteStore {
    cluster_id: u64,
    lanes: u16,
    writer: Option<Sender<Write>>,
    readers: Option<Readers>,
    thread: Option<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
    clock: Clock,
    /// The last outbox row of earlier lives.
    left: u64,
    /// Closed last, see there.
    _file: DatabaseFile,
}

impl SqliteStore {
    /// Opens the store in `dir` (`corelane.db`), making it with `lanes` lanes if there is none. `random` names a new
    /// cluster and new epochs.
    ///
    /// # Errors
    ///
    /// [`StoreError`], naming the file and what to do. Nothing was changed.
    pub fn open(
        dir: &Path,
        durability: Durability,
        lanes: u16,
        random: u64,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        Self::open_with(&StoreOptions::new(dir, durability, lanes, random, clock))
    }

    /// Opens the store.
    ///
    /// # Errors
    ///
    /// [`StoreError`], naming the file and what to do. Nothing was changed.
    pub fn open_with(options: &StoreOptions) -> Result<Self, StoreError> {
        let dir = &options.dir;
        let wrong = |problem: String| StoreError::Open {
            path: dir.display().to_string(),
            problem,
        };
        if !options.lanes.is_power_of_two() {
            return Err(wrong(format!(
                "cannot have {} lanes; store.lanes is a power of two",
                options.lanes
            )));
        }
        std::fs::create_dir_all(dir).map_err(|error| {
            wrong(format!(
                "is not a writable directory: {error}; set store.data_dir to one"
            ))
        })?;
        let lock = lock_dir(dir)?;
        let path = dir.join("corelane.db");
        let witness_path = dir.join("corelane.witness");
        let commits_noted = Witness::commits_noted(&witness_path);
        let mut db = schema::open(&path, options.lanes, options.random, commits_noted)?;
        let file = DatabaseFile::open(&path).map_err(|error| wrong(format!("cannot be synced: {error}")))?;
        let at_open = |error: rusqlite::Error| StoreError::Open {
            path: path.display().to_string(),
            problem: schema::explain(&error),
        };
        let cluster_id = schema::meta(&db, "cluster").map_err(at_open)?;
        let recovered = recover(&db, dir)?;
        let (commits, outbox) = schema::progress(&db).map_err(at_open)?;
        let (witness, seen) = Witness::open(&witness_path, cluster_id)
            .map_err(|error| wrong(format!("the witness file cannot be written: {error}")))?;
        let life = life().map_err(|error| wrong(format!("gets no random name for its journal: {error}")))?;
        let seen = seen.max(recovered.last);
        let epoch = begin(&db, options, life, (commits, seen), recovered).map_err(at_open)?;
        let journal = journal(options, &path, life).map_err(wrong)?;
        if options.bytes_max > 0 {
            let pages = (options.bytes_max / 4096).max(1);
            let limit = format!("PRAGMA max_page_count = {pages}");
            db.query_row(&limit, [], |_| Ok(())).map_err(at_open)?;
        }
        let lanes = u16::try_from(schema::meta(&db, "lanes").map_err(at_open)?)
            .ok()
            .filter(|lanes| lanes.is_power_of_two())
            .ok_or_else(|| wrong("says an impossible number of lanes; restore a backup".to_owned()))?;
        let bucket = schema::meta(&db, "bucket").map_err(at_open)?;
        let forgotten_ms = schema::meta_or(&db, schema::FORGOTTEN, 0).map_err(at_open)?;
        let shared = Arc::new(Shared {
            poison: watch::Sender::new(None),
            timings: Timings::default(),
            moments: Moments::new(Arc::clone(&options.wall), bucket),
            epoch: AtomicU64::new(epoch),
            marks_waiting: AtomicUsize::new(0),
        });
        let readers = Readers::open(&path)?;
        let log_pages = Arc::new(AtomicI64::new(0));
        count_log_pages(&mut db, &log_pages).map_err(at_open)?;
        let state = Writer {
            db,
            shared: Arc::clone(&shared),
            clock: options.clock,
            log_pages,
            witness,
            checkpointer: Checkpointer::open(&path, file.clone(), options.clock)?,
            journal,
            durability: options.durability,
            commits: commits.max(seen),
            outbox,
            bucket,
            forgotten_ms,
            name: options.random,
            _lock: lock,
        };
        let (sender, receiver) = channel();
        let thread = spawn("store-writer", move || state.run(&receiver))?;
        let (writer, readers, thread) = (Some(sender), Some(readers), Some(thread));
        Ok(Self {
            cluster_id,
            lanes,
            writer,
            readers,
            thread,
            shared,
            clock: options.clock,
            left: outbox,
            _file: file,
        })
    }

    /// How commits went since the start: totals.
    pub fn stats(&self) -> CommitStats {
        self.shared.timings.stats()
    }

    /// How commits went since the start: distributions.
    pub fn histograms(&self) -> CommitHistograms {
        self.shared.timings.histograms()
    }

    fn write(&self, write: Write) {
        if let Some(writer) = &self.writer {
            // Fails only when the thread is gone; who waits for an answer then sees its channel closed.
            let _ = writer.send(write);
        }
    }

    async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.as_ref().ok_or_else(closed)?.read(read).await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.readers = None;
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn closed() -> StoreError {
    StoreError::Failed("the store is closed".to_owned())
}

/// The journal, and what syncs the log behind it; with durability `os` none, and none of before. Or what is wrong.
fn journal(options: &StoreOptions, path: &Path, life: u64) -> Result<Option<(Journal, LogSyncer)>, String> {
    let dir = &options.dir;
    if options.durability == Durability::Os {
        return Journal::remove(dir)
            .map(|()| None)
            .map_err(|error| format!("has a journal that cannot be removed: {error}"));
    }
    let journal = Journal::begin(dir, path, life).map_err(|error| {
        format!("cannot have a journal: {error}; make its files writable for this user, and free some space")
    })?;
    let log = LogFile::open(path).map_err(|error| format!("has a log that cannot be synced: {error}"))?;
    let syncer = LogSyncer::start(log).map_err(|error| error.to_string())?;
    Ok(Some((journal, syncer)))
}

/// A name for this opening of the store: nobody outside can know it, unlike the epoch ([`super::journal`]).
fn life() -> Result<u64, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

/// Marks the store as open and draws a new epoch if commits may be missing, of which there are some and were seen more. Returns
/// the epoch. All that the log has is synced then, and COMMIT waits for no sync any more.
fn begin(
    db: &Connection,
    options: &StoreOptions,
    life: u64,
    (commits, seen): (u64, u64),
    recovered: Recovered,
) -> rusqlite::Result<u64> {
    let before = schema::meta(db, "epoch")?;
    let unclean = schema::meta(db, "clean")? != 1;
    // What counts is how the start wrote that did not end cleanly, not how this one will.
    let was_synced = schema::meta_or(db, schema::SYNCED, 1)? == 1;
    let mut epoch = before;
    if seen > commits {
        tracing::error!(
            commits,
            seen,
            "commits are missing from the log: clients will drop their cursors"
        );
        epoch = schema::new_epoch(options.random, before);
    } else if recovered.is_incomplete {
        tracing::error!(
            "the end was not clean and the journal is missing, so commits may be: clients will drop their cursors"
        );
        epoch = schema::new_epoch(options.random, before);
    } else if unclean && !was_synced {
        tracing::warn!("the end was not clean and durability was os: clients will drop their cursors");
        epoch = schema::new_epoch(options.random, before);
    }
    db.execute_batch("BEGIN IMMEDIATE")?;
    schema::set_format(db)?;
    schema::set_meta(db, schema::LIFE, life)?;
    schema::set_meta(db, "epoch", epoch)?;
    schema::set_meta(db, "clean", 0)?;
    schema::set_meta(
        db,
        schema::SYNCED,
        u64::from(options.durability == Durability::Full),
    )?;
    // What is missing must not be counted a second time under the same numbers.
    db.execute(
        "UPDATE progress SET commits = max(commits, ?1)",
        [seen.cast_signed()],
    )?;
    db.execute_batch("COMMIT")?;
    // So that a log that is lost does not take the name with which what the journal has is found. Without room it stays in the
    // log, which is synced.
    match db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!(%error, "there is no room to move the log into the database");
        }
        moved => moved?,
    }
    schema::sync_commits(db, false)?;
    Ok(epoch)
}

fn count_log_pages(db: &mut Connection, log_pages: &Arc<AtomicI64>) -> rusqlite::Result<()> {
    let seen = Arc::clone(log_pages);
    db.wal_hook(Some(
        move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            seen.store(i64::from(pages), Ordering::Relaxed);
            Ok(())
        },
    ))
}

/// One process per data directory: `SQLite` would let two writers take turns, and their routers would not know.
fn lock_dir(dir: &Path) -> Result<std::fs::File, StoreError> {
    let path: PathBuf = dir.join("lock");
    let wrong = |problem: String| StoreError::Open {
        path: path.display().to_string(),
        problem,
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| {
            wrong(format!(
                "cannot be written: {error}; make store.data_dir writable for this user"
            ))
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(wrong(
            "is held: another process uses this data directory; stop it or set store.data_dir".to_owned(),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(wrong(format!("cannot be locked: {error}"))),
    }
}

impl MessageStore for SqliteStore {
    fn info(&self) -> StoreInfo {
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        StoreInfo {
            cluster_id: self.cluster_id,
            epoch,
            lanes: self.lanes,
        }
    }

    async fn commit(&self, batch: Batch) -> Committed {
        let (done, answer) = oneshot::channel();
        self.write(Write::Batch(batch, self.clock.now().mono, done));
        answer
            .await
            .unwrap_or_else(|_| Committed::Unknown("the store is closed".to_owned()))
    }

    fn clear_outbox(&self, rows: Vec<u64>) {
        self.write(Write::Clear(rows));
    }

    /// Earlier lives, which are dead: one process at a time has the data directory.
    async fn writers(&self) -> Result<Vec<u64>, StoreError> {
        Ok(vec![read::EARLIER])
    }

    async fn outbox(&self, of: Vec<u64>, lanes: Vec<Lane>, after: u64) -> Result<Vec<OutboxRow>, StoreError> {
        let last = if of.contains(&read::EARLIER) { self.left } else { 0 };
        self.query(move |db| read::outbox(db, &lanes, after, last)).await
    }

    async fn outbox_rows(&self, lane: Lane, rows: Vec<u64>) -> Result<Vec<OutboxRow>, StoreError> {
        self.query(move |db| read::outbox_rows(db, lane, &rows)).await
    }

    /// Never: a commit is whole, and when its outcome is not known the store is poisoned.
    async fn stray(&self) -> OutboxRow {
        std::future::pending().await
    }

    async fn pull(
        &self,
        app: AppId,
        conv: ConvId,
        from: u64,
        to: u64,
        limit: u16,
    ) -> Result<Pulled, StoreError> {
        self.query(move |db| read::pull(db, app, &conv, from, to, limit))
            .await
    }

    async fn sync(
        &self,
        app: AppId,
        user: UserId,
        cursor: Vec<u8>,
        limit: u16,
    ) -> Result<Synced, StoreError> {
        let epoch = self.info().epoch;
        let shared = Arc::clone(&self.shared);
        let open_bucket = shared.moments.open_bucket();
        self.query(move |db| {
            let asked = sync::Asked {
                app,
                user: &user,
                epoch,
                open_bucket,
            };
            sync::sync(db, &asked, &cursor, limit)
        })
        .await
    }

    async fn members(&self, app: AppId, conv: ConvId, since: u64) -> Result<Members, StoreError> {
        self.query(move |db| read::members(db, app, &conv, since)).await
    }

    async fn readable(&self, app: AppId, conv: ConvId, user: UserId) -> Result<Option<Readable>, StoreError> {
        self.query(move |db| read::readable(db, app, &conv, &user)).await
    }

    async fn read(&self, app: AppId, user: UserId, conv: ConvId, seq: u64) -> Result<ReadMark, StoreError> {
        let (done, answer) = oneshot::channel();
        self.write(Write::Read(ReadRequest { app, user, conv, seq }, done));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn delivered(&self, mark: DeliveredMark) {
        if self.shared.begin_mark() {
            self.write(Write::Delivered(mark));
        }
    }

    async fn bump_epoch(&self, random: u64) -> Result<u64, StoreError> {
        let (done, answer) = oneshot::channel();
        self.write(Write::Epoch(random, done));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn is_cleared(&self) -> bool {
        true
    }

    fn poisoned(&self) -> Option<String> {
        self.shared.poisoned()
    }

    async fn failed(&self) -> String {
        let mut poison = self.shared.poison.subscribe();
        loop {
            let reason = poison.borrow_and_update().clone();
            if let Some(reason) = reason {
                return reason;
            }
            if poison.changed().await.is_err() {
                // The store is gone without having failed.
                std::future::pending::<()>().await;
            }
        }
    }
}
