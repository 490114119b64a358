//! Moving the log into the database in two steps, so that the writer stands still only for the second.
//!
//! The first step runs on a thread of its own beside the commits and moves what was in the log when it began: nearly
//! all of it. The second is the writer's, between two commits: it moves what came meanwhile, and as nothing is left
//! then, the log starts over and does not grow. Owns a connection; one checkpoint at a time. Knows when the first step
//! last ran, because it keeps the disk busy that commits wait for.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;
use super::readers::spawn;
use super::schema::{self, Durability, failed};
use crate::clock::Clock;

/// The thread of the first step.
#[derive(Debug)]
pub(super) struct Checkpointer {
    wanted: Option<Sender<()>>,
    done: Receiver<Result<(), StoreError>>,
    thread: Option<thread::JoinHandle<()>>,
    state: State,
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
    pub(super) fn open(path: &Path, durability: Durability, clock: Clock) -> Result<Self, StoreError> {
        let db = schema::open_checkpointer(path, durability)?;
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
                let outcome = passive(&db);
                let ended = Some(clock.now().mono);
                note(Span { began, ended });
                if answers.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            wanted: Some(wanted),
            done,
            thread: Some(thread),
            state: State::Idle,
            last,
        })
    }

    /// How long the first step ran between two moments, of which the second is not in the future.
    pub(super) fn ran_within(&self, from: Duration, to: Duration) -> Duration {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.within(from, to)
    }

    /// Whether the second step is due. Starts the first one if it was not.
    ///
    /// # Errors
    ///
    /// The first step's: what the log held may not be in the database.
    pub(super) fn advance(&mut self) -> Result<bool, StoreError> {
        match self.state {
            State::Idle => {
                if let Some(wanted) = &self.wanted
                    && wanted.send(()).is_ok()
                {
                    self.state = State::Running;
                }
            }
            State::Running => match self.done.try_recv() {
                Ok(outcome) => {
                    self.state = State::Done;
                    outcome?;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.state = State::Done,
            },
            State::Done => {}
        }
        Ok(self.state == State::Done)
    }

    /// The second step was made.
    pub(super) fn finished(&mut self) {
        self.state = State::Idle;
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

/// Moves what it can without waiting for anybody. A full disk moves nothing and loses nothing.
///
/// # Errors
///
/// The database's.
pub(super) fn passive(db: &Connection) -> Result<(), StoreError> {
    run(db, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// Moves everything, waiting for readers (and a first step that runs) up to the busy timeout.
///
/// # Errors
///
/// The database's.
pub(super) fn restart(db: &Connection) -> Result<(), StoreError> {
    run(db, "PRAGMA wal_checkpoint(RESTART)")
}

fn run(db: &Connection, sql: &str) -> Result<(), StoreError> {
    let outcome = db
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([], |_| Ok(())));
    match outcome.map_err(failed) {
        Ok(()) | Err(StoreError::Full(_)) => Ok(()),
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
