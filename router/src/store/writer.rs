//! Stage persist, the commit: the one thread that writes.
//!
//! Owns the only connection that writes, the witness, and what waits to be written. The queue is bounded by its callers
//! (one batch per lane, one read mark per request, [`MARKS_MAX`] delivered marks), a transaction by [`MESSAGES_MAX`] and
//! [`BYTES_MAX`]: what is over waits for the next one. [`LAZY_MAX`] lazy changes are written at once.
//!
//! Takes everything that queued up while the last commit was in flight, from all lanes, into one transaction: one
//! fdatasync for all, of the journal ([`Journal`]), and no waiting for more; without syncs, commits keep a distance
//! ([`commit_pace`]). COMMIT comes behind the sync, so that nobody reads what a power cut may take. Answers as soon
//! as COMMIT has returned; the log is checkpointed only then, so that a checkpoint delays the next commit and never the
//! answers of this one. Clearing outbox rows and delivered marks are lazy: they join the next commit, or get one of
//! their own after [`LAZY`].
//!
//! When there is no room, or another program holds the file, nothing was written: every message is refused as
//! `unavailable`, and the next commit tries again. When a write or an fdatasync fails for another reason, the outcome is
//! `Unknown` and the store is poisoned: nothing is acknowledged after the first failure, because what the kernel
//! dropped cannot be known.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, UserId};
use corelane_router_core::append::{Appended, Batch, Committed};
use corelane_router_core::decide::{self, DEDUPE_RETENTION_MS, RECENT_BUCKET_MS};
use rusqlite::{Connection, params};
use tokio::sync::{oneshot, watch};

use super::apply::{Apply, Heads};
use super::changes::{Change, Tables};
use super::checkpoint::{self, Checkpointer};
use super::journal::{AppendError, Journal};
use super::log_syncer::LogSyncer;
use super::moment::Moments;
use super::schema::{self, Durability, failed};
use super::timing::{CommitTiming, Timings};
use super::witness::Witness;
use super::{DeliveredMark, ReadMark, StoreError};
use crate::clock::Clock;

/// Most messages of one transaction: bounds how long one commit takes.
const MESSAGES_MAX: usize = 8_192;
/// Most payload bytes of one transaction, but for its last batch.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long clearing and delivered marks wait for a commit to join.
const LAZY: Duration = Duration::from_millis(50);
/// Lazy changes that wait; more are written at once.
const LAZY_MAX: usize = 8_192;
/// Delivered marks on their way to the writer; while there are more they are dropped, and the terminals repeat them.
const MARKS_MAX: usize = 16_384;
/// The log is checkpointed when it has more pages of 4 KiB than this, and starts over then. Seldom, because each checkpoint
/// stalls a commit, and moves a page once that many commits wrote. Beyond 16,000 moving takes so long that it is the disk
/// that stalls commits.
const CHECKPOINT_PAGES: i64 = 16_000;
const PAGE_SIZE: i64 = 4_096;
/// Least time from the beginning of one commit to that of the next. A sync takes its time and so gathers messages by
/// itself. Without syncs a commit costs as much CPU as several messages, and at 5,000 messages per second many small ones
/// would keep the thread busy: 28 % less of its CPU, and a p99 that stands under load from elsewhere.
const fn commit_pace(durability: Durability) -> Duration {
    match durability {
        Durability::Full => Duration::ZERO,
        Durability::Os => Duration::from_micros(1_500),
    }
}
/// How far the witness lags.
const WITNESS_LAG: Duration = Duration::from_secs(1);
/// How often dedupe rows past their retention are looked for, and how many go at a time.
const PURGE_EVERY: Duration = Duration::from_mins(1);
const PURGE_ROWS: i64 = 1_000;
/// Ids are refused as stale this long before their rows go.
const PURGE_MARGIN_MS: u64 = 3_600_000;

/// Something to write.
pub(super) enum Write {
    /// A lane's batch, and when it came.
    Batch(Batch, Duration, oneshot::Sender<Committed>),
    /// A read mark.
    Read(ReadRequest, oneshot::Sender<Result<ReadMark, StoreError>>),
    /// A new epoch.
    Epoch(u64, oneshot::Sender<Result<u64, StoreError>>),
    /// Outbox rows to forget.
    Clear(Vec<u64>),
    /// What a terminal has.
    Delivered(DeliveredMark),
}

/// A read mark to move.
pub(super) struct ReadRequest {
    pub(super) app: AppId,
    pub(super) user: UserId,
    pub(super) conv: ConvId,
    pub(super) seq: u64,
}

/// What the writer shares with its store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) poison: watch::Sender<Option<String>>,
    pub(super) timings: Timings,
    pub(super) moments: Moments,
    pub(super) epoch: AtomicU64,
    /// Delivered marks that wait for the writer.
    pub(super) marks_waiting: AtomicUsize,
}

impl Shared {
    pub(super) fn poisoned(&self) -> Option<String> {
        self.poison.borrow().clone()
    }

    /// Room for a delivered mark on its way to the writer. False: too many wait.
    pub(super) fn begin_mark(&self) -> bool {
        let taken = self
            .marks_waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < MARKS_MAX).then_some(waiting + 1)
            });
        taken.is_ok()
    }
}

/// The writing thread.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    /// Pages in the log after the last commit.
    pub(super) log_pages: Arc<AtomicI64>,
    pub(super) witness: Witness,
    pub(super) checkpointer: Checkpointer,
    /// With durability full: what commits sync, and what syncs the log behind them.
    pub(super) journal: Option<(Journal, LogSyncer)>,
    pub(super) durability: Durability,
    /// Number of the last commit and of the last outbox row.
    pub(super) commits: u64,
    pub(super) outbox: u64,
    /// Highest bucket that the database knows.
    pub(super) bucket: u64,
    /// Ids up to this time may have been forgotten.
    pub(super) forgotten_ms: u64,
    /// This life of the store, as heads name it.
    pub(super) name: u64,
    /// Held as long as the store is open.
    pub(super) _lock: std::fs::File,
}

#[derive(Default)]
struct Turn {
    batches: Vec<(Batch, Duration, oneshot::Sender<Committed>)>,
    reads: Vec<(ReadRequest, oneshot::Sender<Result<ReadMark, StoreError>>)>,
    epochs: Vec<(u64, oneshot::Sender<Result<u64, StoreError>>)>,
    clears: Vec<u64>,
    delivered: HashMap<(AppId, UserId, u8, String, ConvId), DeliveredMark>,
    messages: usize,
    bytes: usize,
}

impl Turn {
    fn take(&mut self, write: Write) {
        match write {
            Write::Batch(batch, arrived, done) => {
                self.messages += batch.appends.len();
                self.bytes += batch
                    .appends
                    .iter()
                    .map(|append| append.payload.len())
                    .sum::<usize>();
                self.batches.push((batch, arrived, done));
            }
            Write::Read(request, done) => self.reads.push((request, done)),
            Write::Epoch(random, done) => self.epochs.push((random, done)),
            Write::Clear(rows) => self.clears.extend(rows),
            Write::Delivered(mark) => {
                let terminal = mark.terminal as u8;
                let key = (
                    mark.app,
                    mark.user.clone(),
                    terminal,
                    mark.device.clone(),
                    mark.conv.clone(),
                );
                let known = self.delivered.entry(key).or_insert_with(|| mark.clone());
                known.seq = known.seq.max(mark.seq);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.messages < MESSAGES_MAX
            && self.bytes < BYTES_MAX
            && self.reads.len() < MESSAGES_MAX
            && self.lazy_count() <= LAZY_MAX
    }

    fn is_lazy(&self) -> bool {
        self.batches.is_empty() && self.reads.is_empty() && self.epochs.is_empty()
    }

    fn lazy_count(&self) -> usize {
        self.clears.len() + self.delivered.len()
    }
}

/// What a transaction came to.
struct Outcome {
    batches: Vec<(Vec<Appended>, u64)>,
    reads: Vec<Result<ReadMark, StoreError>>,
    epoch: Option<u64>,
    outbox: u64,
    bucket: u64,
    forgotten_ms: Option<u64>,
    messages: u64,
    /// How long it took until the journal was synced.
    synced: Duration,
    ended: Duration,
}

/// Why a transaction came to nothing.
enum CommitError {
    /// Before it was in the journal.
    Database(rusqlite::Error),
    /// It could not be written to the journal, or not be synced.
    Journal(AppendError),
    /// It is in the journal, and the database refused it.
    Refused(rusqlite::Error),
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<AppendError> for CommitError {
    fn from(error: AppendError) -> Self {
        Self::Journal(error)
    }
}

/// Where the last checkpoint was in time.
#[derive(Debug, Clone, Copy, Default)]
struct Checkpoint {
    began: Duration,
    ended: Duration,
}

impl Writer {
    pub(super) fn run(mut self, writes: &Receiver<Write>) {
        let mut heads = Heads::default();
        let mut turn = Turn::default();
        let mut lazy_since = None;
        let mut began = Duration::ZERO;
        let mut checkpoint = Checkpoint::default();
        let mut checkpoint_above = 0;
        let (mut witnessed, mut witnessed_at, mut purged_at) = (0, Duration::ZERO, None);
        loop {
            let open = self.gather(writes, &mut turn, &mut lazy_since, began);
            if turn.is_lazy() && turn.lazy_count() == 0 && !open {
                break;
            }
            let now = self.clock.now().mono;
            let purge = purged_at.is_none_or(|before| now.saturating_sub(before) >= PURGE_EVERY);
            if purge {
                purged_at = Some(now);
            }
            began = now;
            self.transact(std::mem::take(&mut turn), &mut heads, purge, &checkpoint);
            lazy_since = None;
            if self.shared.poisoned().is_none() {
                checkpoint_above = self.checkpoint(checkpoint_above, &mut checkpoint);
            }
            let now = self.clock.now().mono;
            if self.commits != witnessed && now.saturating_sub(witnessed_at) >= WITNESS_LAG {
                (witnessed, witnessed_at) = (self.commits, now);
                self.note();
            }
        }
        self.close();
    }

    /// Waits for something to write and takes all there is; `last` is when the last commit began. False: the store is
    /// being closed.
    fn gather(
        &self,
        writes: &Receiver<Write>,
        turn: &mut Turn,
        lazy_since: &mut Option<Duration>,
        last: Duration,
    ) -> bool {
        let pace = commit_pace(self.durability);
        loop {
            let now = self.clock.now().mono;
            let next = match *lazy_since {
                _ if !turn.is_lazy() => writes.recv_timeout((last + pace).saturating_sub(now)),
                None => writes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => writes.recv_timeout((since + LAZY).saturating_sub(now)),
            };
            match next {
                Ok(write) => self.take(write, turn),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            while turn.has_room()
                && let Ok(write) = writes.try_recv()
            {
                self.take(write, turn);
            }
            let now = self.clock.now().mono;
            let is_due = !turn.is_lazy() && now >= last + pace;
            if is_due || !turn.has_room() {
                return true;
            }
            if turn.is_lazy() {
                lazy_since.get_or_insert(now);
            }
        }
    }

    fn take(&self, write: Write, turn: &mut Turn) {
        if matches!(write, Write::Delivered(_)) {
            self.shared.marks_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        turn.take(write);
    }

    fn transact(&mut self, turn: Turn, heads: &mut Heads, purge: bool, checkpoint: &Checkpoint) {
        if let Some(reason) = self.shared.poisoned() {
            return answer_unknown(turn, &reason);
        }
        if let Some((_, syncer)) = &self.journal
            && let Err(error) = syncer.synced()
        {
            let reason = error.to_string();
            answer_unknown(turn, &reason);
            return self.poison(reason);
        }
        let started = self.clock.now().mono;
        let outcome = self.commit(&turn, heads, purge);
        self.shared.moments.end();
        match outcome {
            Ok(outcome) => {
                self.answer(turn, outcome, started, checkpoint);
                if cfg!(feature = "plant-ack-before-fsync")
                    && let Some((journal, _)) = &self.journal
                {
                    let _ = journal.sync();
                }
            }
            Err(error) => {
                heads.forget();
                if !self.db.is_autocommit()
                    && let Err(error) = self.db.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "rollback failed");
                }
                match self.give_up(error) {
                    StoreError::Full(reason) => answer_refused(turn, &reason),
                    error => {
                        let reason = error.to_string();
                        answer_unknown(turn, &reason);
                        self.poison(reason);
                    }
                }
            }
        }
    }

    /// What became of a commit that failed: [`StoreError::Full`] if nothing of it is left anywhere.
    fn give_up(&mut self, error: CommitError) -> StoreError {
        let disk = |what: &str, error: &std::io::Error| {
            StoreError::Failed(format!(
                "the journal could not be {what}: {error}; the disk failed: look into the kernel's log"
            ))
        };
        match error {
            CommitError::Database(error) => failed(error),
            CommitError::Journal(AppendError::Write(error)) if is_full(&error) => {
                StoreError::Full(format!("the journal: {error}; the disk is full: free some space"))
            }
            CommitError::Journal(AppendError::Write(error)) => disk("written", &error),
            CommitError::Journal(AppendError::Sync(error)) => disk("synced", &error),
            CommitError::Refused(error) => match (failed(error), &mut self.journal) {
                (StoreError::Full(reason), Some((journal, _))) => match journal.take_back() {
                    Ok(()) => StoreError::Full(reason),
                    Err(error) => disk("cut", &error),
                },
                (error, _) => error,
            },
        }
    }

    fn commit(&mut self, turn: &Turn, heads: &mut Heads, purge: bool) -> Result<Outcome, CommitError> {
        let now_ms = self.shared.moments.begin();
        let room = self.journal.as_mut().map(|(journal, _)| journal.room());
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let tables = Tables::new(&self.db, room);
        let oldest = decide::oldest_id_ms(now_ms, self.shared.moments.wall_ms(), self.forgotten_ms);
        let mut apply = Apply::new(&tables, heads, now_ms, oldest, self.name, self.outbox);
        let batches = turn
            .batches
            .iter()
            .map(|(batch, ..)| apply.batch(batch))
            .collect::<Result<_, _>>()?;
        let reads = turn
            .reads
            .iter()
            .map(|(wanted, _)| apply.read(wanted.app, &wanted.user, &wanted.conv, wanted.seq));
        let reads = reads.collect::<Result<_, _>>()?;
        turn.delivered
            .values()
            .try_for_each(|mark| apply.delivered(mark))?;
        apply.clear(&turn.clears)?;
        let (outbox, messages) = apply.finish()?;
        let set = |key: &str, value: u64| tables.change(Change::Meta, params![key, value.cast_signed()]);
        let bucket = now_ms / RECENT_BUCKET_MS;
        if bucket > self.bucket {
            set("bucket", bucket)?;
        }
        let before = self.shared.epoch.load(Ordering::Relaxed);
        let epoch = turn
            .epochs
            .last()
            .map(|(random, _)| schema::new_epoch(*random, before));
        if let Some(epoch) = epoch {
            set("epoch", epoch)?;
        }
        let forgotten_ms = if purge { self.purge(&tables, now_ms)? } else { None };
        if let Some(forgotten_ms) = forgotten_ms {
            set(schema::FORGOTTEN, forgotten_ms)?;
        }
        let commit = self.commits + 1;
        tables.change(
            Change::Progress,
            params![commit.cast_signed(), outbox.cast_signed()],
        )?;
        let record = tables.into_notes();
        let written = self.clock.now().mono;
        if let Some((journal, _)) = &mut self.journal {
            journal.write(commit, record)?;
            if !cfg!(feature = "plant-ack-before-fsync") {
                journal.sync()?;
            }
        }
        let synced = self.clock.now().mono;
        self.db
            .prepare_cached("COMMIT")
            .and_then(|mut statement| statement.execute([]))
            .map_err(CommitError::Refused)?;
        let ended = self.clock.now().mono;
        Ok(Outcome {
            batches,
            reads,
            epoch,
            outbox,
            bucket,
            forgotten_ms,
            messages,
            synced: synced.saturating_sub(written),
            ended,
        })
    }

    /// Forgets ids that are refused as stale by now: the first rows, because ids begin with their time. Says the time of
    /// the last one that went; ids up to it are refused from then on, whatever the clock says.
    fn purge(&self, tables: &Tables<'_>, now_ms: u64) -> rusqlite::Result<Option<u64>> {
        let cut_ms = now_ms.saturating_sub(DEDUPE_RETENTION_MS + PURGE_MARGIN_MS);
        let mut first_kept = ClientMsgId([0; 16]).0;
        for (into, byte) in first_kept
            .iter_mut()
            .zip(cut_ms.to_be_bytes().into_iter().skip(2))
        {
            *into = byte;
        }
        let last: Option<[u8; 16]> = self
            .db
            .prepare_cached(
                "SELECT max(client_id) FROM
                 (SELECT client_id FROM dedupe WHERE client_id < ?1 ORDER BY client_id LIMIT ?2)",
            )?
            .query_row(params![first_kept, PURGE_ROWS], |row| row.get(0))?;
        let Some(last) = last else { return Ok(None) };
        tables.change(Change::Purge, params![last])?;
        Ok(Some(self.forgotten_ms.max(ClientMsgId(last).time_ms())))
    }

    fn answer(&mut self, turn: Turn, outcome: Outcome, started: Duration, checkpoint: &Checkpoint) {
        self.commits += 1;
        self.outbox = outcome.outbox;
        self.bucket = self.bucket.max(outcome.bucket);
        self.forgotten_ms = outcome.forgotten_ms.unwrap_or(self.forgotten_ms);
        let joined = turn.batches.len() as u64;
        let arrived = turn.batches.iter().map(|(_, arrived, _)| *arrived).min();
        for ((_, _, done), (answers, outbox)) in turn.batches.into_iter().zip(outcome.batches) {
            let _ = done.send(Committed::Done { answers, outbox });
        }
        for ((_, done), mark) in turn.reads.into_iter().zip(outcome.reads) {
            let _ = done.send(mark);
        }
        if let Some(epoch) = outcome.epoch {
            self.shared.epoch.store(epoch, Ordering::Relaxed);
            for (_, done) in turn.epochs {
                let _ = done.send(Ok(epoch));
            }
        }
        let Some(arrived) = arrived else { return };
        let timing = CommitTiming {
            waited: started.saturating_sub(arrived),
            write: outcome.ended.saturating_sub(started + outcome.synced),
            fsync: outcome.synced,
            total: outcome.ended.saturating_sub(arrived),
            messages: outcome.messages,
            batches: joined,
            checkpoint_waited: checkpoint.ended.saturating_sub(checkpoint.began.max(arrived)),
            checkpoint_beside: self.checkpointer.ran_within(arrived, outcome.ended),
        };
        self.shared.timings.committed(&timing, outcome.ended);
    }

    /// Has the log synced when it has grown, so that the journal may forget what is in it. Moves it into the database when it
    /// has grown much, in two steps ([`Checkpointer`]); above the log's bound, waits for readers so that it starts over. Returns
    /// above how many pages to try next.
    fn checkpoint(&mut self, above: i64, last: &mut Checkpoint) -> i64 {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if let Some((journal, syncer)) = &mut self.journal
            && let Err(error) = forget(journal, syncer, pages, self.commits)
        {
            self.poison(error.to_string());
            return above;
        }
        if pages < CHECKPOINT_PAGES {
            return CHECKPOINT_PAGES;
        }
        if pages < above {
            return above;
        }
        let whole = pages * PAGE_SIZE > schema::LOG_BYTES_MAX;
        if !whole {
            match self.checkpointer.advance(pages) {
                Ok(true) => {}
                Ok(false) => return above,
                Err(error) => {
                    self.poison(format!("checkpoint: {error}"));
                    return above;
                }
            }
        }
        last.began = self.clock.now().mono;
        let outcome = if whole {
            checkpoint::restart(&self.db)
        } else {
            checkpoint::passive(&self.db)
        };
        self.checkpointer.finished();
        last.ended = self.clock.now().mono;
        self.shared
            .timings
            .checkpointed(last.ended.saturating_sub(last.began));
        match outcome {
            // Readers may have held some of it: what is left goes with the next try.
            Ok(_) => pages + CHECKPOINT_PAGES,
            Err(error) => {
                self.poison(format!("checkpoint: {error}"));
                above
            }
        }
    }

    fn poison(&self, reason: String) {
        tracing::error!(reason, "the store failed; nothing is acknowledged any more");
        // Nor written: the end would move the log into the database on a disk that has just failed. The next start
        // reads the log as far as its checksums hold.
        if let Err(error) = schema::leave_log(&self.db) {
            tracing::error!(%error, "the log may be moved when the store is closed");
        }
        self.shared.poison.send_replace(Some(reason));
    }

    fn note(&self) {
        if let Err(error) = self.witness.write(self.commits) {
            tracing::warn!(%error, "the witness of the last commit cannot be written");
        }
    }

    /// The clean end: everything is on disk, then the mark that says so.
    fn close(mut self) {
        if self.shared.poisoned().is_some() {
            return;
        }
        let mut journal = None;
        if let Some((left, syncer)) = self.journal.take() {
            journal = Some(left);
            if let Err(error) = syncer.end() {
                return self.poison(error.to_string());
            }
        }
        self.note();
        drop(self.checkpointer);
        let closed = schema::sync_commits(&self.db, true)
            .and_then(|()| {
                self.db
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            })
            .and_then(|()| schema::set_meta(&self.db, "clean", 1));
        if let Err(error) = closed {
            tracing::warn!(%error, "the store could not be closed cleanly; the next start will say so");
        } else if let Some(Err(error)) = journal.map(Journal::end) {
            tracing::warn!(%error, "the journal could not be emptied");
        }
    }
}

/// Has the log synced if it has grown, with `pages` in it and `commit` as the last one, and lets the journal forget what is
/// synced by now.
fn forget(journal: &mut Journal, syncer: &mut LogSyncer, pages: i64, commit: u64) -> Result<(), StoreError> {
    syncer.grown(pages, commit)?;
    journal.cover(syncer.synced()?);
    Ok(())
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Nothing was written: senders try again.
fn answer_refused(turn: Turn, reason: &str) {
    tracing::warn!(reason, "a commit was refused");
    for (batch, _, done) in turn.batches {
        let refused = Appended::Refused(
            ErrorCode::Unavailable,
            format!("the store cannot write now: {reason}"),
        );
        let _ = done.send(Committed::Done {
            answers: vec![refused; batch.appends.len()],
            outbox: 0,
        });
    }
    for (_, done) in turn.reads {
        let _ = done.send(Err(StoreError::Full(reason.to_owned())));
    }
    for (_, done) in turn.epochs {
        let _ = done.send(Err(StoreError::Full(reason.to_owned())));
    }
}

fn answer_unknown(turn: Turn, reason: &str) {
    for (_, _, done) in turn.batches {
        let _ = done.send(Committed::Unknown(reason.to_owned()));
    }
    for (_, done) in turn.reads {
        let _ = done.send(Err(StoreError::Failed(reason.to_owned())));
    }
    for (_, done) in turn.epochs {
        let _ = done.send(Err(StoreError::Failed(reason.to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::journal::Left;

    #[test]
    fn the_journal_forgets_only_what_the_log_has_synced() {
        const BYTES: usize = 1024 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("corelane.db");
        std::fs::write(&database, b"").unwrap();
        let mut journal = Journal::begin(dir.path(), &database, 7).unwrap();
        // Who tells it to go on is gone before it is waited for, whatever the test comes to.
        let (mut syncer, go) = {
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let gone = std::sync::Mutex::new(gone);
            let sync = move || {
                let _ = gone.lock().unwrap().recv();
                Ok(())
            };
            (LogSyncer::start_with(sync).unwrap(), go)
        };
        let mut write = |commit: u64, syncer: &mut LogSyncer| {
            let mut record = journal.room();
            record.resize(record.len() + BYTES, 1);
            journal.write(commit, record).unwrap();
            forget(&mut journal, syncer, 1_000 * commit.cast_signed(), commit).unwrap();
        };
        let first = || {
            let mut left = Left::of(dir.path(), 7).unwrap();
            left.next().unwrap().unwrap().commit
        };
        (1..=30).for_each(|commit| write(commit, &mut syncer));
        assert_eq!(first(), 1, "the sync of the log has not ended");
        // One sync is under way or wanted all the time.
        for commit in 31.. {
            let before = syncer.synced().unwrap();
            go.send(()).unwrap();
            while syncer.synced().unwrap() == before {
                std::thread::yield_now();
            }
            write(commit, &mut syncer);
            assert!(first() <= syncer.synced().unwrap() + 1);
            assert!(commit < 60, "what is synced is written over");
            if first() > 1 {
                break;
            }
        }
    }

    #[test]
    fn delivered_marks_that_wait_are_bounded() {
        let shared = Shared {
            poison: watch::Sender::new(None),
            timings: Timings::default(),
            moments: Moments::new(Arc::new(|| 0), 0),
            epoch: AtomicU64::new(1),
            marks_waiting: AtomicUsize::new(0),
        };
        assert_eq!(
            (0..2 * MARKS_MAX).filter(|_| shared.begin_mark()).count(),
            MARKS_MAX
        );
        shared.marks_waiting.fetch_sub(1, Ordering::Relaxed);
        assert!(shared.begin_mark(), "the writer took one");
    }
}
