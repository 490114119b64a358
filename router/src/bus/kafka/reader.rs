//! What is read of one topic: the windows on its partitions, between who fetches and the thread that reads.
//!
//! Owns one [`Window`] per partition. Who fetches says where it is; the thread ([`super::consumer`]) brings the consumer
//! there. A reader that nobody asked anything for [`IDLE_MAX`] ends, and the next fetch starts another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::BootId;
use tokio::sync::futures::OwnedNotified;

use super::super::{BusError, Fetched};
use super::window::Window;
use crate::clock::Clock;

/// How long a reader lives that nobody asks.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// The reader of one topic.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) boot: BootId,
    pub(super) topic: String,
    clock: Clock,
    shared: Mutex<Windows>,
}

/// What is shared between who fetches and the thread.
#[derive(Debug)]
pub(super) struct Windows {
    pub(super) partitions: Vec<Window>,
    asked_at: Duration,
    end: Option<End>,
}

/// Why nothing is read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The topic is gone.
    NoTopic,
    /// Nobody asked for long, or the bus is gone.
    Idle,
}

/// How a fetch goes on.
#[derive(Debug)]
pub(super) enum Step {
    /// It is answered.
    Done(Result<Fetched, BusError>),
    /// Something may have changed once this is over.
    Wait(OwnedNotified),
    /// The reader has ended: another one is needed.
    Ended,
}

impl Reader {
    pub(super) fn new(boot: BootId, topic: String, partitions: u16, bytes_max: usize) -> Self {
        let clock = Clock::start();
        Self {
            boot,
            topic,
            clock,
            shared: Mutex::new(Windows {
                partitions: (0..partitions).map(|_| Window::new(bytes_max)).collect(),
                asked_at: clock.now().mono,
                end: None,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Windows> {
        // A panic elsewhere leaves the windows whole: every change is made in one go.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fetch(&self, partition: u16, from: u64, bytes_max: usize) -> Step {
        let mut shared = self.lock();
        match shared.end {
            Some(End::NoTopic) => return Step::Done(Err(BusError::NoTopic(self.boot.0))),
            Some(End::Idle) => return Step::Ended,
            None => {}
        }
        shared.asked_at = self.clock.now().mono;
        let partitions = u16::try_from(shared.partitions.len()).unwrap_or(u16::MAX);
        let Some(window) = shared.partitions.get_mut(usize::from(partition)) else {
            return Step::Done(Err(BusError::NoPartition {
                partition,
                partitions,
            }));
        };
        match window.fetch(from, bytes_max) {
            Some(fetched) => Step::Done(Ok(fetched)),
            // Made under the lock: what arrives from here on wakes it, polled or not.
            None => Step::Wait(Arc::clone(window.arrived()).notified_owned()),
        }
    }

    /// The topic is gone: who waits learns so.
    pub(super) fn end_without_topic(&self) {
        self.end(End::NoTopic);
    }

    /// Nothing is to be read any more.
    pub(super) fn end_idle(&self) {
        self.end(End::Idle);
    }

    fn end(&self, end: End) {
        let mut shared = self.lock();
        shared.finish(end);
    }

    /// Whether the thread shall end. Ends itself if nobody holds it but the bus and the thread, for long.
    pub(super) fn is_over(self: &Arc<Self>) -> bool {
        const BUS_AND_THREAD: usize = 2;
        let mut shared = self.lock();
        let quiet = self.clock.now().mono.saturating_sub(shared.asked_at);
        if quiet > IDLE_MAX && Arc::strong_count(self) <= BUS_AND_THREAD {
            shared.finish(End::Idle);
        }
        shared.end.is_some()
    }
}

impl Windows {
    /// Nothing is kept any more, and whoever waits looks again. The first reason stays.
    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        for window in &mut self.partitions {
            window.clear();
            window.arrived().notify_waiters();
        }
    }
}
