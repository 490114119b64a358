//! Syncing the log while it grows, beside the commits, so that the journal may forget them.
//!
//! With a journal no commit waits for the log. Left to a checkpoint, its sync would keep the disk from commits for as long as
//! it takes to write 64 MB; a little at a time goes between them, and the checkpoint finds little to do. Owns a thread and a
//! descriptor of the log. One sync is under way at a time and one may wait: when the disk is slower than the log grows, the
//! syncs become larger, and the journal with them.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::StoreError;
use super::readers::spawn;

/// The log is synced when it has so many pages more.
const SYNC_PAGES: i64 = 256;

/// A descriptor of the log's file that is not `SQLite`'s, for syncing. `SQLite` takes no locks on it.
#[derive(Debug)]
pub(super) struct LogFile(File);

impl LogFile {
    /// Opens the log of the database at `path`, which has one: something was written.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for writing.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let mut path = path.as_os_str().to_owned();
        path.push("-wal");
        File::options().read(true).write(true).open(path).map(Self)
    }

    /// Waits until every commit that has returned is on disk.
    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync_data().map_err(|error| {
            StoreError::Failed(format!(
                "the log could not be synced: {error}; the disk failed: look into the kernel's log"
            ))
        })
    }
}

/// The thread that syncs the log.
#[derive(Debug)]
pub(super) struct LogSyncer {
    /// The last commit that is in the log when a sync is wanted. One may wait.
    wanted: Option<SyncSender<u64>>,
    /// The last commit that was in the log when a sync began that has succeeded; or why one failed.
    state: Arc<Mutex<Result<u64, StoreError>>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Pages of the log when a sync was last wanted.
    pages: i64,
}

impl LogSyncer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] if there is no thread to be had.
    pub(super) fn start(log: LogFile) -> Result<Self, StoreError> {
        Self::start_with(move || log.sync())
    }

    /// As [`Self::start`], with `sync` in the place of the log's.
    pub(super) fn start_with(
        sync: impl Fn() -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (wanted, wishes) = sync_channel(1);
        let state = Arc::new(Mutex::new(Ok(0)));
        let own = Arc::clone(&state);
        let thread = spawn("store-log", move || {
            while let Ok(commit) = wishes.recv() {
                let synced = sync().map(|()| commit);
                // What the kernel dropped cannot be known: a later sync that succeeds says nothing.
                let is_last = synced.is_err();
                *own.lock().unwrap_or_else(PoisonError::into_inner) = synced;
                if is_last {
                    return;
                }
            }
        })?;
        Ok(Self {
            wanted: Some(wanted),
            state,
            thread: Some(thread),
            pages: 0,
        })
    }

    /// The log has `pages`, and `commit` is the last one in it. Has it synced if there is enough.
    ///
    /// # Errors
    ///
    /// See [`Self::synced`].
    pub(super) fn grown(&mut self, pages: i64, commit: u64) -> Result<(), StoreError> {
        if pages < self.pages {
            // It started over.
            self.pages = 0;
        }
        if pages - self.pages < SYNC_PAGES {
            return Ok(());
        }
        let sent = self.wanted.as_ref().map(|wanted| wanted.try_send(commit));
        match sent {
            Some(Ok(())) => self.pages = pages,
            // One waits that may not know of this commit: the next one asks again.
            Some(Err(TrySendError::Full(_))) => {}
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.synced()?;
                return Err(StoreError::Failed(
                    "the thread that syncs the log is gone".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// The last commit that is surely on the disk: in the log, or in the database, if the log started over since.
    ///
    /// # Errors
    ///
    /// A sync failed: nothing more may be acknowledged.
    pub(super) fn synced(&self) -> Result<u64, StoreError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the last sync has ended.
    ///
    /// # Errors
    ///
    /// See [`Self::synced`].
    pub(super) fn end(mut self) -> Result<(), StoreError> {
        self.join();
        self.synced().map(|_| ())
    }

    fn join(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LogSyncer {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// A syncer whose syncs begin when they are told how to end.
    fn told() -> (LogSyncer, SyncSender<Result<(), StoreError>>) {
        let (tell, told) = sync_channel(0);
        let told = Mutex::new(told);
        let syncer = LogSyncer::start_with(move || told.lock().unwrap().recv().unwrap()).unwrap();
        (syncer, tell)
    }

    #[test]
    fn commits_count_as_synced_only_when_a_sync_began_behind_them_and_has_ended() {
        let (mut syncer, tell) = told();
        syncer.grown(SYNC_PAGES - 1, 1).unwrap();
        syncer.grown(SYNC_PAGES, 2).unwrap();
        assert_eq!(
            syncer.synced().unwrap(),
            0,
            "a sync that has not ended says nothing"
        );
        // At last one waits behind the one that was taken; from then on commits are not remembered.
        let mut waits = 0;
        for commit in 3..50 {
            syncer.grown(2 * SYNC_PAGES, commit).unwrap();
            if syncer.pages == 2 * SYNC_PAGES && waits == 0 {
                waits = commit;
            }
            thread::yield_now();
        }
        tell.send(Ok(())).unwrap();
        if waits > 0 {
            tell.send(Ok(())).unwrap();
        }
        let state = Arc::clone(&syncer.state);
        syncer.end().unwrap();
        let last = state.lock().unwrap().clone().unwrap();
        assert_eq!(last, waits.max(2), "not those that came later");
    }

    #[test]
    fn a_log_that_started_over_is_synced_again_from_its_beginning() {
        let (began, syncs) = channel();
        let mut syncer = LogSyncer::start_with(move || {
            began.send(()).unwrap();
            Ok(())
        })
        .unwrap();
        syncer.grown(60 * SYNC_PAGES, 1).unwrap();
        syncs.recv().unwrap();
        syncer.grown(SYNC_PAGES - 1, 2).unwrap();
        syncer.grown(SYNC_PAGES, 3).unwrap();
        syncs.recv().unwrap();
        let state = Arc::clone(&syncer.state);
        syncer.end().unwrap();
        assert_eq!(state.lock().unwrap().clone().unwrap(), 3);
    }

    #[test]
    fn a_sync_that_failed_is_the_last() {
        let (mut syncer, tell) = told();
        syncer.grown(SYNC_PAGES, 1).unwrap();
        tell.send(Err(StoreError::Failed("no disk".to_owned()))).unwrap();
        let error = loop {
            if let Err(error) = syncer.synced() {
                break error;
            }
            thread::yield_now();
        };
        assert!(error.to_string().contains("no disk"), "{error}");
        let mut pages = SYNC_PAGES;
        while syncer.grown(pages, 9).is_ok() {
            pages += SYNC_PAGES;
        }
        assert!(syncer.synced().is_err(), "a later one does not make up for it");
        assert!(syncer.end().is_err());
    }
}
