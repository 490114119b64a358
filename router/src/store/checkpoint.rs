//! Moving the log into the database in two steps, so that the writer stands still only for the second.
//!
//! The first step runs on a thread of its own beside the commits and moves what was in the log when it began: nearly
//! all of it. The second is the writer's, between two commits: it moves what came meanwhile, and as nothing is left
//! then, the log starts over and does not grow. Owns a connection; one checkpoint at a time.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use rusqlite::Connection;

use super::StoreError;
use super::readers::spawn;
use super::schema::{self, Durability, failed};

/// The thread of the first step.
#[derive(Debug)]
pub(super) struct Checkpointer {
    wanted: Option<Sender<()>>,
    done: Receiver<Result<(), StoreError>>,
    thread: Option<thread::JoinHandle<()>>,
    state: State,
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
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Self, StoreError> {
        let db = schema::open_checkpointer(path, durability)?;
        let (wanted, wishes) = channel();
        let (answers, done) = channel();
        let thread = spawn("store-checkpoint", move || {
            while wishes.recv().is_ok() {
                if answers.send(passive(&db)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            wanted: Some(wanted),
            done,
            thread: Some(thread),
            state: State::Idle,
        })
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
