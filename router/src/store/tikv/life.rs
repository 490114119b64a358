//! Opening a TiKV store, and its end.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_protocol::id::Lane;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc};

use super::super::StoreError;
use super::super::moment::Moments;
use super::client::{Kv, Reach};
use super::keys::Keys;
use super::options::TikvOptions;
use super::queue::Queue;
use super::rows::Cluster;
use super::shared::{Counts, Shared};
use super::{READS_MAX, TikvStore, cluster, garbage};

/// Outbox rows that were handed over and not taken; while there are more the lanes that hand over wait.
const STRAYS_MAX: usize = 1_024;
/// How long dropping the store waits for what was handed over.
const CLOSE: Duration = Duration::from_secs(20);

impl TikvStore {
    /// Opens the store, making it if there is none. Waits for PD and TiKV, see `Limits::open`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`]: it cannot be reached, or belongs to another cluster or has another number of lanes.
    pub fn open(options: &TikvOptions) -> Result<Self, StoreError> {
        let wrong = |problem: String| StoreError::Open {
            path: format!("tikv at {}", options.pd.join(", ")),
            problem,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store-tikv")
            .enable_all()
            .build()
            .map_err(|error| wrong(format!("its threads cannot be started: {error}")))?;
        let kv = Kv::new(Reach {
            pd: options.pd.clone(),
            tls: options.tls.clone(),
            call: options.limits.call,
        });
        let (done, opened) = std::sync::mpsc::channel();
        let (client, wanted) = (Arc::clone(&kv), options.clone());
        runtime.spawn(async move {
            let _ = done.send(cluster::open(&client, &wanted).await);
        });
        let found = opened
            .recv()
            .unwrap_or_else(|_| Err(wrong("the client panicked; see the log".to_owned())));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Self::with(options, kv, found, runtime))
    }

    fn with(options: &TikvOptions, kv: Arc<Kv>, found: Cluster, runtime: Runtime) -> Self {
        let (strays, taken) = mpsc::channel(STRAYS_MAX);
        let shared = Arc::new(Shared {
            kv,
            keys: Keys::new(&options.prefix, found.lanes),
            boot: options.boot,
            cluster_id: found.id,
            epoch: AtomicU64::new(found.epoch),
            clock: options.clock,
            limits: options.limits,
            moments: options.wall.clone().map(|wall| Moments::new(wall, 0)),
            counts: Counts::default(),
            marks_waiting: AtomicUsize::new(0),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            told: Mutex::default(),
            strays,
            dice: AtomicU64::new(options.boot ^ options.random),
        });
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        for lane in (0..found.lanes).map(Lane) {
            let (sender, receiver) = mpsc::unbounded_channel();
            let queue = Queue::new(Arc::clone(&shared), lane, receiver);
            tasks.push(runtime.spawn(queue.run()));
            lanes.push(sender);
        }
        let collector = runtime.spawn(garbage::run(Arc::clone(&shared), options.collects_garbage));
        Self {
            shared,
            lanes,
            tasks,
            strays: tokio::sync::Mutex::new(taken),
            collector,
            runtime: Some(runtime),
        }
    }
}

impl Drop for TikvStore {
    fn drop(&mut self) {
        self.lanes.clear();
        self.collector.abort();
        // A lane that hands rows over to nobody must not wait.
        self.strays.get_mut().close();
        let tasks = std::mem::take(&mut self.tasks);
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // On a thread of its own: a runtime is neither waited for nor dropped on one of another runtime.
        let closing = std::thread::spawn(move || {
            let all = async {
                for task in tasks {
                    let _ = task.await;
                }
            };
            if runtime
                .block_on(async { tokio::time::timeout(CLOSE, all).await })
                .is_err()
            {
                tracing::warn!("what was handed to the store at its end could not be written in time");
            }
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        let _ = closing.join();
    }
}
