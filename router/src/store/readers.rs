//! The threads that read: a few connections of their own, one queue.
//!
//! A read sees every commit that was answered before it was asked for, and one moment of the database. The queue holds
//! at most [`WAITING_MAX`] requests; one more is refused with [`StoreError::Busy`].

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::StoreError;
use super::schema::{self, failed};

/// Threads that read.
const READERS: usize = 2;
/// Requests that may wait.
const WAITING_MAX: usize = 4096;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The readers. Dropping them lets each finish what it reads; what waits is dropped.
#[derive(Debug)]
pub(super) struct Readers {
    queue: Arc<Queue>,
    threads: Vec<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    arrived: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Readers {
    /// Opens the connections and starts the threads.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`], or [`StoreError::Failed`] if there is no thread to be had.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut readers = Self {
            queue: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..READERS {
            let db = schema::open_reader(path)?;
            let queue = Arc::clone(&readers.queue);
            let name = format!("store-reader-{number}");
            readers.threads.push(spawn(&name, move || queue.serve(&db))?);
        }
        Ok(readers)
    }

    /// Reads on one of the threads, within one read transaction.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            if !done.is_closed() {
                let _ = done.send(within_transaction(db, read));
            }
        });
        self.queue.push(job)?;
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Failed("the store is closed".to_owned())))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        {
            let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            state.waiting.clear();
        }
        self.queue.arrived.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.len() >= WAITING_MAX {
            return Err(StoreError::Busy {
                waiting: state.waiting.len(),
                allowed: WAITING_MAX,
            });
        }
        state.waiting.push_back(job);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    fn serve(&self, db: &Connection) {
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let job = loop {
                if state.closed {
                    return;
                }
                match state.waiting.pop_front() {
                    Some(job) => break job,
                    None => state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            job(db);
        }
    }
}

fn within_transaction<T>(
    db: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let moment = db.unchecked_transaction().map_err(failed)?;
    let answer = read(&moment);
    moment.finish().map_err(failed)?;
    answer
}

/// Starts a thread.
///
/// # Errors
///
/// [`StoreError::Failed`].
pub(super) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| StoreError::Failed(format!("no thread for the store: {error}")))
}
