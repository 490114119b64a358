//! The embedded store: SQLite in WAL mode, one writing thread, group commit.
//!
//! Owns the database file. The writer takes everything that queued up while the last commit was in flight, from all
//! lanes, into one transaction: one fdatasync for all. It answers as soon as the commit is durable and checkpoints
//! the log only then, so that a checkpoint delays the next commit and not this one's answers. Reads run on threads of
//! their own and see every commit that was answered.
//!
//! When the disk is full a commit is answered `Unknown` (senders try again) and the store goes on when there is
//! room. When a write or an fdatasync fails for another reason the store is poisoned: nothing is acknowledged after
//! the first failure, and the process must end, because what the kernel dropped cannot be known. The queue of the
//! writer is bounded by the lanes: one batch each.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_router_core::append::{Appended, Batch, Committed, Head};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::rows::{self, failed};
use super::schema::{self, Durability};
use super::{Members, MessageStore, OutboxRow, Pulled, ReadMark, StoreError, StoreInfo, Synced};
use crate::clock::Clock;

/// Most messages of one transaction: bounds how long one commit takes.
const TRANSACTION_MESSAGES_MAX: usize = 8_192;
/// The log is checkpointed when it has more pages of 4 KiB than this.
const CHECKPOINT_PAGES: i64 = 1_000;
/// Threads that read.
const READERS: usize = 2;
/// Most bytes of messages in an answer to a pull, unless the first is longer.
const PULL_BYTES_MAX: usize = corelane_protocol::limits::PAGE_BYTES;
/// Rows of the outbox per read.
const OUTBOX_ROWS: i64 = 256;
/// A commit that takes longer is logged with its stages.
const SLOW_COMMIT: Duration = Duration::from_millis(50);

/// How commits went.
#[derive(Debug, Clone, Default)]
pub struct CommitStats {
    /// Transactions committed.
    pub commits: u64,
    /// Messages in them.
    pub messages: u64,
    /// Time in SQL before COMMIT, in microseconds.
    pub write_us: u64,
    /// Time in COMMIT, which holds the fdatasync, in microseconds.
    pub sync_us: u64,
    /// Time in checkpoints, in microseconds.
    pub checkpoint_us: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Commits over 50 ms.
    pub slow: u64,
}

/// The store. Dropping it waits for the writer to finish what was handed to it.
#[derive(Debug)]
pub struct SqliteStore {
    info: StoreInfo,
    writer: Option<Sender<Write>>,
    readers: Option<Sender<Read>>,
    threads: Vec<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Shared {
    poisoned: Mutex<Option<String>>,
    stats: Mutex<CommitStats>,
}

enum Write {
    Batch(Batch, oneshot::Sender<Committed>),
    Clear(Vec<u64>),
    Mark { app: AppId, user: UserId, conv: ConvId, seq: u64, done: oneshot::Sender<Result<ReadMark, StoreError>> },
}

type Read = Box<dyn FnOnce(&Connection) + Send>;

impl SqliteStore {
    /// Opens the store in `dir` (`corelane.db`), making it with `lanes` lanes if there is none. `random` names a new
    /// cluster and, after an unclean end with [`Durability::Os`], a new epoch.
    ///
    /// # Errors
    ///
    /// [`StoreError`], naming the file and what to do. Nothing was changed.
    pub fn open(dir: &Path, durability: Durability, lanes: u16, random: u64, clock: Clock) -> Result<Self, StoreError> {
        let path = dir.join("corelane.db");
        let unwritable = |error: std::io::Error| StoreError::Open {
            path: dir.display().to_string(),
            problem: format!("is not a writable directory: {error}; set store.data_dir to one"),
        };
        std::fs::create_dir_all(dir).map_err(unwritable)?;
        let lock = lock_dir(dir)?;
        let mut db = schema::open(&path, durability, lanes, random)?;
        let wal_pages = Arc::new(AtomicI64::new(0));
        let pages_seen = Arc::clone(&wal_pages);
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            pages_seen.store(i64::from(pages), Ordering::Relaxed);
            Ok(())
        }))
        .map_err(failed)?;
        db.set_prepared_statement_cache_capacity(128);
        let clean = schema::meta(&db, "clean").map_err(failed)? == 1;
        if !clean && durability == Durability::Os {
            // What the kernel had not written may be gone: clients must drop their cursors.
            schema::set_meta(&db, "epoch", random.rotate_left(17) >> 1 | 1).map_err(failed)?;
        }
        schema::set_meta(&db, "clean", 0).map_err(failed)?;
        let info = StoreInfo {
            cluster_id: schema::meta(&db, "cluster").map_err(failed)?,
            epoch: schema::meta(&db, "epoch").map_err(failed)?,
            lanes: u16::try_from(schema::meta(&db, "lanes").map_err(failed)?).unwrap_or(lanes),
        };
        let shared = Arc::new(Shared::default());
        let (writer, writes) = channel();
        let (readers, reads) = channel();
        let reads = Arc::new(Mutex::new(reads));
        let mut threads = Vec::new();
        for number in 0..READERS {
            threads.push(spawn_reader(number, &path, Arc::clone(&reads))?);
        }
        let state = Writer { db, wal_pages, clock, shared: Arc::clone(&shared), _lock: lock };
        threads.push(spawn("store-writer", move || state.run(&writes))?);
        Ok(Self { info, writer: Some(writer), readers: Some(readers), threads, shared, clock })
    }

    /// How commits went since the start.
    pub fn stats(&self) -> CommitStats {
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let job: Read = Box::new(move |db| {
            let _ = done.send(read(db));
        });
        let closed = || StoreError::Failed("the store is closed".to_owned());
        self.readers.as_ref().ok_or_else(closed)?.send(job).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    fn write(&self, write: Write) {
        if let Some(writer) = &self.writer {
            let _ = writer.send(write);
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        (self.writer, self.readers) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, StoreError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| StoreError::Failed(format!("no thread for the store: {error}")))
}

fn spawn_reader(
    number: usize,
    path: &Path,
    reads: Arc<Mutex<Receiver<Read>>>,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let db = schema::open_reader(path)?;
    spawn(&format!("store-reader-{number}"), move || {
        loop {
            let next = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(read) = next else { return };
            read(&db);
        }
    })
}

/// One process per data directory: SQLite would let two writers take turns, and their routers would not know.
fn lock_dir(dir: &Path) -> Result<std::fs::File, StoreError> {
    let path: PathBuf = dir.join("lock");
    let wrong = |problem: String| StoreError::Open { path: path.display().to_string(), problem };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| wrong(format!("cannot be written: {error}; make the directory writable for this user")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(wrong("is held: another process uses this data directory; stop it or set store.data_dir".to_owned()))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(wrong(format!("cannot be locked: {error}"))),
    }
}

/// The writing thread.
struct Writer {
    db: Connection,
    /// Pages in the log after the last commit.
    wal_pages: Arc<AtomicI64>,
    clock: Clock,
    shared: Arc<Shared>,
    _lock: std::fs::File,
}

impl Writer {
    fn run(mut self, writes: &Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            let mut batches = Vec::new();
            let mut marks = Vec::new();
            let mut clears = Vec::new();
            let mut messages = 0;
            let mut next = Some(first);
            while let Some(write) = next {
                match write {
                    Write::Batch(batch, done) => {
                        messages += batch.appends.len();
                        batches.push((batch, done));
                    }
                    Write::Clear(rows) => clears.extend(rows),
                    Write::Mark { app, user, conv, seq, done } => marks.push((app, user, conv, seq, done)),
                }
                next = if messages < TRANSACTION_MESSAGES_MAX { writes.try_recv().ok() } else { None };
            }
            self.transact(batches, marks, &clears);
            self.checkpoint();
        }
        if self.poison().is_none() {
            let _ = schema::set_meta(&self.db, "clean", 1);
            let _ = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }

    fn poison(&self) -> Option<String> {
        self.shared.poisoned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn transact(
        &mut self,
        batches: Vec<(Batch, oneshot::Sender<Committed>)>,
        marks: Vec<(AppId, UserId, ConvId, u64, oneshot::Sender<Result<ReadMark, StoreError>>)>,
        clears: &[u64],
    ) {
        if let Some(reason) = self.poison() {
            for (_, done) in batches {
                let _ = done.send(Committed::Unknown(reason.clone()));
            }
            return;
        }
        let started = self.clock.now();
        let messages = batches.iter().map(|(batch, _)| batch.appends.len() as u64).sum();
        let lanes: Vec<&Batch> = batches.iter().map(|(batch, _)| batch).collect();
        let wanted: Vec<_> = marks.iter().map(|(app, user, conv, seq, _)| (*app, user, conv, *seq)).collect();
        let outcome = self.commit(&lanes, &wanted, clears, started.wall_ms);
        match outcome {
            Ok((answers, moved, written)) => {
                for ((_, done), (answers, outbox)) in batches.into_iter().zip(answers) {
                    let _ = done.send(Committed::Done { answers, outbox });
                }
                for ((.., done), moved) in marks.into_iter().zip(moved) {
                    let _ = done.send(moved);
                }
                self.count(started.mono, written, messages);
            }
            Err(error) => {
                let text = error.to_string();
                for (_, done) in batches {
                    let _ = done.send(Committed::Unknown(text.clone()));
                }
                for (.., done) in marks {
                    let _ = done.send(Err(StoreError::Failed(text.clone())));
                }
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "the parts of one answer, taken apart by the one caller")]
    fn commit(
        &mut self,
        batches: &[&Batch],
        marks: &[(AppId, &UserId, &ConvId, u64)],
        clears: &[u64],
        now_ms: u64,
    ) -> Result<(Vec<(Vec<Appended>, u64)>, Vec<Result<ReadMark, StoreError>>, Duration), StoreError> {
        let outcome = (|| {
            let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut answers = Vec::with_capacity(batches.len());
            for batch in batches {
                match rows::apply(&transaction, batch, now_ms) {
                    Ok(answer) => answers.push(answer),
                    Err(error) => return Ok(Err(error)),
                }
            }
            let moved: Vec<_> =
                marks.iter().map(|(app, user, conv, seq)| move_mark(&transaction, *app, user, conv, *seq, now_ms)).collect();
            {
                let mut delete = transaction.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
                for row in clears {
                    delete.execute(params![*row as i64])?;
                }
            }
            let written = self.clock.now().mono;
            transaction.commit()?;
            Ok(Ok((answers, moved, written)))
        })();
        match outcome {
            Ok(inner) => inner,
            Err(error) => {
                let error: rusqlite::Error = error;
                let text = schema::explain(&error);
                let full = matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull));
                if !full {
                    tracing::error!(error = %text, "the store failed; nothing is acknowledged any more");
                    *self.shared.poisoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
                }
                Err(StoreError::Failed(text))
            }
        }
    }

    fn count(&self, started: Duration, written: Duration, messages: u64) {
        let ended = self.clock.now().mono;
        let (write, sync) = (written.saturating_sub(started), ended.saturating_sub(written));
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.commits += 1;
        stats.messages += messages;
        stats.write_us += micros(write);
        stats.sync_us += micros(sync);
        if write + sync > SLOW_COMMIT {
            stats.slow += 1;
            tracing::warn!(
                write_ms = write.as_millis() as u64,
                sync_ms = sync.as_millis() as u64,
                messages,
                checkpoints_so_far = stats.checkpoints,
                "slow commit"
            );
        }
    }

    /// Moves the log into the database when it has grown, after the answers and before the next transaction.
    fn checkpoint(&self) {
        if self.wal_pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES {
            return;
        }
        let started = self.clock.now().mono;
        let outcome = self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = outcome {
            tracing::error!(error = %schema::explain(&error), "checkpoint failed");
        }
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.checkpoints += 1;
        stats.checkpoint_us += micros(self.clock.now().mono.saturating_sub(started));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn move_mark(
    db: &Connection,
    app: AppId,
    user: &UserId,
    conv: &ConvId,
    seq: u64,
    now_ms: u64,
) -> Result<ReadMark, StoreError> {
    let (id, head) = rows::head(db, app, conv).map_err(failed)?.ok_or(StoreError::Ahead)?;
    if seq > head.seq {
        return Err(StoreError::Ahead);
    }
    let n: Option<i64> = db
        .prepare_cached("SELECT n FROM message WHERE conv = ?1 AND seq = ?2")
        .and_then(|mut statement| statement.query_row(params![id, seq as i64], |row| row.get(0)).optional())
        .map_err(failed)?;
    let n = n.map_or(0, |n| n as u64);
    let moved = rows::move_mark(db, app, user, id, seq, n).map_err(failed)?;
    if moved {
        let bucket = (now_ms / corelane_router_core::decide::RECENT_BUCKET_MS) as i64;
        rows::touch_recent(db, app, user, id, bucket).map_err(failed)?;
    }
    let (seq, n) = rows::mark(db, app, user, id).map_err(failed)?;
    Ok(ReadMark { seq, n, moved })
}

impl MessageStore for SqliteStore {
    fn info(&self) -> StoreInfo {
        self.info
    }

    async fn commit(&self, batch: Batch) -> Committed {
        let (done, answer) = oneshot::channel();
        self.write(Write::Batch(batch, done));
        answer.await.unwrap_or_else(|_| Committed::Unknown("the store is closed".to_owned()))
    }

    fn clear_outbox(&self, rows: Vec<u64>) {
        self.write(Write::Clear(rows));
    }

    async fn outbox(&self, after: u64) -> Result<Vec<OutboxRow>, StoreError> {
        self.query(move |db| {
            let mut statement = db
                .prepare_cached("SELECT id, lane, entries FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2")
                .map_err(failed)?;
            let rows = statement
                .query_map(params![after as i64, OUTBOX_ROWS], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
                })
                .map_err(failed)?;
            rows.map(|row| {
                let (id, lane, entries) = row.map_err(failed)?;
                let damaged =
                    || StoreError::Damaged { what: format!("outbox row {id}"), problem: "does not decode".to_owned() };
                let entries = rows::decode_entries(&entries).ok_or_else(damaged)?;
                Ok(OutboxRow { id: id as u64, lane: Lane(u16::try_from(lane).map_err(|_| damaged())?), entries })
            })
            .collect()
        })
        .await
    }

    async fn pull(&self, app: AppId, conv: ConvId, from: u64, to: u64, limit: u16) -> Result<Pulled, StoreError> {
        self.query(move |db| {
            let Some((id, head)) = rows::head(db, app, &conv).map_err(failed)? else {
                return if from <= 1 { Ok(Pulled::default()) } else { Err(StoreError::Ahead) };
            };
            pull(db, id, head, from.max(head.floor_seq + 1), to.min(head.seq), limit)
        })
        .await
    }

    async fn sync(&self, app: AppId, user: UserId, cursor: Vec<u8>, limit: u16) -> Result<Synced, StoreError> {
        let now_ms = self.clock.now().wall_ms;
        self.query(move |db| super::sync::sync(db, app, &user, &cursor, limit, now_ms)).await
    }

    async fn members(&self, app: AppId, conv: ConvId) -> Result<Members, StoreError> {
        self.query(move |db| {
            let Some((id, head)) = rows::head(db, app, &conv).map_err(failed)? else { return Ok(Members::default()) };
            let mut statement = db
                .prepare_cached("SELECT user FROM member WHERE conv = ?1 AND leave_seq = 0 ORDER BY user")
                .map_err(failed)?;
            let users = statement.query_map(params![id], |row| row.get::<_, String>(0)).map_err(failed)?;
            let users = users.filter_map(|user| user.map(|user| UserId::new(&user).ok()).transpose());
            Ok(Members { version: head.conv_version, users: users.collect::<Result<_, _>>().map_err(failed)? })
        })
        .await
    }

    async fn readable_upto(&self, app: AppId, conv: ConvId, user: UserId) -> Result<Option<u64>, StoreError> {
        if let Some((small, large)) = conv.direct_users() {
            return Ok((small == user || large == user).then_some(u64::MAX));
        }
        self.query(move |db| {
            let Some((id, _)) = rows::head(db, app, &conv).map_err(failed)? else { return Ok(None) };
            let mut statement = db
                .prepare_cached("SELECT leave_seq FROM member WHERE conv = ?1 AND user = ?2")
                .map_err(failed)?;
            let leave: Option<i64> =
                statement.query_row(params![id, user.as_str()], |row| row.get(0)).optional().map_err(failed)?;
            // A leaver may read what lies below his leave.
            Ok(leave.map(|leave| if leave == 0 { u64::MAX } else { leave as u64 }))
        })
        .await
    }

    async fn read(&self, app: AppId, user: UserId, conv: ConvId, seq: u64) -> Result<ReadMark, StoreError> {
        let (done, answer) = oneshot::channel();
        self.write(Write::Mark { app, user, conv, seq, done });
        answer.await.unwrap_or_else(|_| Err(StoreError::Failed("the store is closed".to_owned())))
    }

    fn poisoned(&self) -> Option<String> {
        self.shared.poisoned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn pull(db: &Connection, conv: i64, head: Head, from: u64, to: u64, limit: u16) -> Result<Pulled, StoreError> {
    let mut statement = db
        .prepare_cached(
            "SELECT seq, n, time_ms, hash, format, crc, client_id, frame FROM message
             WHERE conv = ?1 AND seq BETWEEN ?2 AND ?3 ORDER BY seq LIMIT ?4",
        )
        .map_err(failed)?;
    let mut rows = statement
        .query(params![conv, from as i64, i64::try_from(to).unwrap_or(i64::MAX), limit])
        .map_err(failed)?;
    let mut pulled = Pulled { messages: Vec::new(), next_seq: 0, head };
    let (mut bytes, mut expected) = (0, from);
    while let Some(row) = rows.next().map_err(failed)? {
        let message = rows::checked(row).map_err(failed)??;
        if message.seq != expected {
            let what = format!("conversation with {} messages", head.seq);
            return Err(StoreError::Damaged { what, problem: format!("seq {expected} is missing") });
        }
        if bytes > 0 && bytes + message.frame.len() > PULL_BYTES_MAX {
            break;
        }
        bytes += message.frame.len();
        expected += 1;
        pulled.messages.push((message.seq, message.frame));
    }
    if pulled.messages.is_empty() && from <= to {
        let what = format!("conversation with {} messages", head.seq);
        return Err(StoreError::Damaged { what, problem: format!("seq {from} is missing") });
    }
    pulled.next_seq = if expected <= to { expected } else { 0 };
    Ok(pulled)
}
