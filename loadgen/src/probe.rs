//! What this machine's disk and scheduler cost by themselves, sampled during the run: a latency means
//! something only beside them.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::record::Latency;

const FSYNC_PERIOD: Duration = Duration::from_millis(100);
const FSYNC_BYTES: usize = 4096;
const WAKE_PERIOD: Duration = Duration::from_millis(10);

/// A probe that runs until it is asked for its figures.
#[derive(Debug)]
pub struct Probe {
    stop: Sender<()>,
    thread: JoinHandle<Latency>,
}

impl Probe {
    /// Appends 4 KiB to a file in `dir` and times `fdatasync`, ten times a second. The file is deleted at the end.
    ///
    /// # Errors
    ///
    /// The system's, when the file cannot be made: a mistake in the command line.
    pub fn fsync(dir: &Path, clock: Clock) -> std::io::Result<Self> {
        let path = dir.join(format!(".corelane-loadgen-probe-{}", std::process::id()));
        let mut file = File::options().create(true).append(true).open(&path)?;
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut latency = Latency::default();
            let block = [0x5a_u8; FSYNC_BYTES];
            while waited(&stopped, FSYNC_PERIOD) {
                let from = clock.now_ns();
                if file.write_all(&block).and_then(|()| file.sync_data()).is_err() {
                    break;
                }
                latency.record_ns(from, clock.now_ns());
            }
            // The probe's file is of no use to anybody; if it cannot be deleted, that hurts nothing.
            drop(std::fs::remove_file(&path));
            latency
        });
        Ok(Self { stop, thread })
    }

    /// Times how long a thread that waits takes to notice another one, a hundred times a second.
    pub fn wake(clock: Clock) -> Self {
        let (stop, stopped) = channel();
        let (bell, rung) = channel::<u64>();
        let listener = std::thread::spawn(move || {
            let mut latency = Latency::default();
            while let Ok(from) = rung.recv() {
                latency.record_ns(from, clock.now_ns());
            }
            latency
        });
        let thread = std::thread::spawn(move || {
            while waited(&stopped, WAKE_PERIOD) && bell.send(clock.now_ns()).is_ok() {}
            drop(bell);
            listener.join().unwrap_or_default()
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn finish(self) -> Latency {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

/// Waits for one period; false when the probe is over.
fn waited(stopped: &Receiver<()>, period: Duration) -> bool {
    stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout)
}
