//! The append-only file that makes the store durable. A record is `length u32 | crc32 u32 | batch`, little-endian.
//!
//! One thread writes what queued up while its last `fdatasync` was in flight, so requests share a sync (group commit).
//! Each record has a number; an answer waits until its record is on the disk. The queue has no bound of its own: every
//! entry belongs to a request that waits for it. When writing fails the log is [`Failed`](LogError::Failed) for good and
//! nothing is answered any more, since memory would be ahead of the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use prost::Message;
use tokio::sync::watch;

use crate::record::Batch;

/// Length and checksum.
const HEADER_BYTES: usize = 8;
/// A longer record is damage: gRPC requests end at 16 MiB.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened, read or cut.
    #[error("log {path}")]
    File {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("log {0} belongs to another process")]
    InUse(String),
    /// A whole record that does not follow from those before it.
    #[error("log record {number} is wrong: {what}")]
    Damaged {
        /// Counted from 1.
        number: u64,
        /// Why.
        what: String,
    },
    /// Writing failed; the store has stopped.
    #[error("the log could not be written, see the store's own log")]
    Failed,
}

/// How far the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    durable: u64,
    failed: bool,
}

struct Queue {
    bytes: Vec<u8>,
    appended: u64,
    closing: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open log. Dropping it writes what is queued and closes the file.
pub(crate) struct Log {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the log, hands every whole record to `apply`, and cuts off a torn end.
    ///
    /// # Errors
    /// The file cannot be used, or `apply` refused a record: the store must not start.
    pub(crate) fn open(
        path: &Path,
        mut apply: impl FnMut(Batch, u64) -> Result<(), String>,
    ) -> Result<Self, LogError> {
        let named = |source| LogError::File {
            path: path.display().to_string(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(named)?;
        file.try_lock()
            .map_err(|_| LogError::InUse(path.display().to_string()))?;
        let length = file.metadata().map_err(named)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &mut file);
        let (mut whole, mut number) = (0, 0);
        while let Some((batch, bytes)) = read_record(&mut reader).map_err(named)? {
            number += 1;
            whole += bytes;
            apply(batch, number).map_err(|what| LogError::Damaged { number, what })?;
        }
        if whole < length {
            tracing::warn!(bytes = length - whole, "cut a torn end off the log");
            file.set_len(whole).map_err(named)?;
            file.sync_data().map_err(named)?;
        }
        file.seek(SeekFrom::Start(whole)).map_err(named)?;
        Ok(Self::start(file, number))
    }

    fn start(file: File, number: u64) -> Self {
        let queue = Queue {
            bytes: Vec::new(),
            appended: number,
            closing: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
        });
        let (publish, progress) = watch::channel(Progress {
            durable: number,
            failed: false,
        });
        let own = Arc::clone(&shared);
        let writer = std::thread::spawn(move || write_until_closed(file, &own, &publish));
        Self {
            shared,
            progress,
            writer: Some(writer),
        }
    }

    /// Queues a batch and says its number. The caller holds the lock of what the batch changes, so that records stand
    /// in the order in which their changes were made.
    pub(crate) fn append(&self, batch: &Batch) -> u64 {
        let mut queue = self.shared.lock();
        push_record(&mut queue.bytes, batch);
        queue.appended += 1;
        self.shared.wake.notify_one();
        queue.appended
    }

    /// Returns when record `number` and all before it are on the disk.
    ///
    /// # Errors
    /// Writing failed: the caller must not answer.
    pub(crate) async fn durable(&self, number: u64) -> Result<(), LogError> {
        let mut progress = self.progress.clone();
        match progress.wait_for(|at| at.failed || at.durable >= number).await {
            Ok(at) if !at.failed => Ok(()),
            _ => Err(LogError::Failed),
        }
    }

    /// Records so far, and how many of them are on the disk.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        (self.shared.lock().appended, self.progress.borrow().durable)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

fn write_until_closed(mut file: File, shared: &Shared, publish: &watch::Sender<Progress>) {
    let mut bytes = Vec::new();
    loop {
        let number = {
            let queue = shared.lock();
            let mut queue = shared
                .wake
                .wait_while(queue, |queue| queue.bytes.is_empty() && !queue.closing)
                .unwrap_or_else(PoisonError::into_inner);
            if queue.bytes.is_empty() {
                return;
            }
            bytes.clear();
            std::mem::swap(&mut bytes, &mut queue.bytes);
            queue.appended
        };
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        if let Err(error) = &written {
            tracing::error!(%error, "cannot write the log; the store stops answering");
        }
        publish.send_replace(Progress {
            durable: number,
            failed: written.is_err(),
        });
        if written.is_err() {
            return;
        }
    }
}

/// Appends one record to `bytes`.
pub(crate) fn push_record(bytes: &mut Vec<u8>, batch: &Batch) {
    let body = batch.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
}

/// The next record and its length in the file; `None` at the end or where the rest is torn.
fn read_record(reader: &mut impl Read) -> io::Result<Option<(Batch, u64)>> {
    let mut header = [0; HEADER_BYTES];
    if !read_whole(reader, &mut header)? {
        return Ok(None);
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > RECORD_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; length];
    if !read_whole(reader, &mut body)? || crc32fast::hash(&body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Ok(None);
    }
    Ok(Batch::decode(body.as_slice())
        .ok()
        .map(|batch| (batch, (HEADER_BYTES + length) as u64)))
}

/// Fills `target`, or says that the file ended before.
fn read_whole(reader: &mut impl Read, target: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Change;

    fn bound(ts: u64) -> Batch {
        Batch::from(vec![Change::TimeBound(ts)])
    }

    fn replay(path: &Path) -> (Log, Vec<Batch>) {
        let mut seen = Vec::new();
        let log = Log::open(path, |batch, _| {
            seen.push(batch);
            Ok(())
        });
        (log.unwrap(), seen)
    }

    #[tokio::test]
    async fn records_come_back_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (log, seen) = replay(&path);
        assert!(seen.is_empty());
        assert_eq!(log.append(&bound(7)), 1);
        assert_eq!(log.append(&bound(8)), 2);
        log.durable(2).await.unwrap();
        drop(log);
        assert_eq!(replay(&path).1, [bound(7), bound(8)]);
    }

    #[tokio::test]
    async fn a_torn_end_is_cut_off_and_what_follows_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (log, _) = replay(&path);
        log.append(&bound(1));
        log.append(&bound(2));
        drop(log);
        let length = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - 1)
            .unwrap();
        let (log, seen) = replay(&path);
        assert_eq!(seen, [bound(1)]);
        log.append(&bound(3));
        drop(log);
        assert_eq!(replay(&path).1, [bound(1), bound(3)]);
    }

    #[test]
    fn a_flipped_bit_ends_the_replay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (log, _) = replay(&path);
        log.append(&bound(1));
        log.append(&bound(2));
        drop(log);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(replay(&path).1, [bound(1)]);
    }

    #[test]
    fn a_second_process_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let _first = replay(&path).0;
        assert!(matches!(Log::open(&path, |_, _| Ok(())), Err(LogError::InUse(_))));
    }
}
