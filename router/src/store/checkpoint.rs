//! Moving the log into the database in two steps, so that the writer stands still only for the second.
//!
//! The first step runs on a thread of its own beside the commits and moves what was in the log when it began. It is
//! made again until what came meanwhile is little ([`REST_PAGES_MAX`]), at most [`PASSES_MAX`] times: each pass moves
//! less than the one before, as long as the disk is faster than the commits. The second step is the writer's, between
//! two commits: it moves the rest, and as nothing is left then, the log starts over and does not grow.
//!
//! `SQLite` syncs the database only in the checkpoint that moves the last page, which is the writer's. So the thread syncs
//! it after each pass, by a descriptor of its own ([`DatabaseFile`]), and the writer's sync finds little to do. Before it moves
//! a page it syncs the log; with a journal that is done already ([`super::log_syncer`]). Owns a connection; one checkpoint at a
//! time. Knows when the first step last ran, because it keeps the disk busy that commits wait for.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;
use super::readers::spawn;
use super::schema::{self, failed};
use crate::clock::Clock;

/// The writer moves so many pages itself: two syncs of about 1 MB.
const REST_PAGES_MAX: i64 = 256;
/// Passes of the first step before the writer moves whatever is left.
const PASSES_MAX: u32 = 6;

/// A descriptor of the database file that is not `SQLite`'s, for syncing. Closing any descriptor of a file gives up all
/// locks that the process holds on it, so this one must outlive every connection.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFile(Arc<File>);

impl DatabaseFile {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for writing.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self(Arc::new(file)))
    }

    /// Waits until what was moved into the file is on disk.
    fn sync(&self) -> Result<(), StoreError> {
        self.0
            .sync_data()
            .map_err(|error| StoreError::Failed(format!("the database file could not be synced: {error}")))
    }
}

/// The thread of the first step.
#[derive(Debug)]
pub(super) struct Checkpointer {
    wanted: Option<Sender<()>>,
    /// Pages of the log that are in the database after a pass.
    done: Receiver<Result<i64, StoreError>>,
    thread: Option<thread::JoinHandle<()>>,
    state: State,
    passes: u32,
    last: Arc<Mutex<Span>>,
}

/// When the first step ran. Commits see at most one: the next begins after another commit only.
#[derive(Debug, Clone, Copy)]
struct Span {
    began: Duration,
    /// `None` while it runs.
    ended: Option<Duration>,
}

impl Span {
    fn within(self, from: Duration, to: Duration) -> Duration {
        let ended = self.ended.unwrap_or(to).min(to);
        ended.saturating_sub(self.began.max(from))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Running,
    Done,
}

impl Checkpointer {
    /// Opens the connection and starts the thread.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`], or [`StoreError::Failed`] if there is no thread to be had.
    pub(super) fn open(path: &Path, file: DatabaseFile, clock: Clock) -> Result<Self, StoreError> {
        let db = schema::open_checkpointer(path)?;
        let (wanted, wishes) = channel();
        let (answers, done) = channel();
        let last = Arc::new(Mutex::new(Span {
            began: Duration::ZERO,
            ended: Some(Duration::ZERO),
        }));
        let running = Arc::clone(&last);
        let note = move |span| *running.lock().unwrap_or_else(PoisonError::into_inner) = span;
        let thread = spawn("store-checkpoint", move || {
            while wishes.recv().is_ok() {
                let began = clock.now().mono;
                note(Span { began, ended: None });
                let moved = passive(&db).and_then(|moved| file.sync().map(|()| moved));
                let ended = Some(clock.now().mono);
                note(Span { began, ended });
                if answers.send(moved).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            wanted: Some(wanted),
            done,
            thread: Some(thread),
            state: State::Idle,
            passes: 0,
            last,
        })
    }

    /// How long the first step ran between two moments, of which the second is not in the future.
    pub(super) fn ran_within(&self, from: Duration, to: Duration) -> Duration {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.within(from, to)
    }

    /// Whether the second step is due, with `log_pages` in the log. Starts the first one if it was not.
    ///
    /// # Errors
    ///
    /// The first step's: what the log held may not be in the database.
    pub(super) fn advance(&mut self, log_pages: i64) -> Result<bool, StoreError> {
        match self.state {
            State::Idle => self.begin(),
            State::Running => match self.done.try_recv() {
                Ok(moved) => {
                    if log_pages - moved? > REST_PAGES_MAX && self.passes < PASSES_MAX {
                        self.begin();
                    } else {
                        self.state = State::Done;
                    }
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.state = State::Done,
            },
            State::Done => {}
        }
        Ok(self.state == State::Done)
    }

    fn begin(&mut self) {
        self.passes += 1;
        self.state = match &self.wanted {
            Some(wanted) if wanted.send(()).is_ok() => State::Running,
            // The thread is gone: the writer moves everything.
            _ => State::Done,
        };
    }

    /// The second step was made.
    pub(super) fn finished(&mut self) {
        self.state = State::Idle;
        self.passes = 0;
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves what it can without waiting for anybody; says how many pages of the log are in the database. A full disk moves
/// nothing and loses nothing.
///
/// # Errors
///
/// The database's.
pub(super) fn passive(db: &Connection) -> Result<i64, StoreError> {
    run(db, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// Moves everything, waiting for readers (and a first step that runs) up to the busy timeout.
///
/// # Errors
///
/// The database's.
pub(super) fn restart(db: &Connection) -> Result<i64, StoreError> {
    run(db, "PRAGMA wal_checkpoint(RESTART)")
}

fn run(db: &Connection, sql: &str) -> Result<i64, StoreError> {
    // Columns: whether it was held up, pages in the log, pages of it that are in the database.
    let outcome = db
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([], |row| row.get(2)));
    match outcome.map_err(failed) {
        Ok(moved) => Ok(moved),
        Err(StoreError::Full(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_beside_a_commit_is_what_both_have_in_common() {
        let at = Duration::from_millis;
        let ended = Span {
            began: at(10),
            ended: Some(at(30)),
        };
        for (from, to, common) in [(0, 5, 0), (0, 15, 5), (12, 20, 8), (20, 90, 10), (40, 90, 0)] {
            assert_eq!(ended.within(at(from), at(to)), at(common), "{from} to {to}");
        }
        let runs = Span {
            began: at(10),
            ended: None,
        };
        assert_eq!(runs.within(at(0), at(50)), at(40));
    }
}
