//! What other shards and foreign threads hand to a shard: one bounded queue per shard, emptied once a turn.
//!
//! Owns the queue, the overflow bits and the shard's waker. When the queue is full the message is not waited
//! for: a record's receivers on that shard are all marked ([`ShardMessage::OverflowedAll`] follows as soon as
//! there is room), so a slow shard costs its own connections a pull and the other shards nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corelane_gateway_core::event::ShardMessage;
use corelane_net::Waker;

/// Most messages that wait in one inbox.
pub const INBOX_SLOTS: usize = 4096;
/// Most bytes of records that wait in one inbox.
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The sending side. Cloned to whoever may send.
#[derive(Debug, Clone)]
pub struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    overflowed: AtomicBool,
    draining: AtomicBool,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Queue {
    messages: Vec<ShardMessage>,
    bytes: usize,
}

impl Inbox {
    /// An empty inbox whose shard is woken by `waker`.
    pub fn new(waker: Waker) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                overflowed: AtomicBool::new(false),
                draining: AtomicBool::new(false),
                waker,
            }),
        }
    }

    /// Hands over `messages` and wakes the shard once. What finds no room becomes the overflow bit.
    pub fn push(&self, messages: impl IntoIterator<Item = ShardMessage>) {
        {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            for message in messages {
                let bytes = bytes_of(&message);
                if queue.messages.len() >= INBOX_SLOTS || queue.bytes + bytes > INBOX_BYTES_MAX {
                    self.shared.overflowed.store(true, Ordering::Release);
                } else {
                    queue.bytes += bytes;
                    queue.messages.push(message);
                }
            }
        }
        self.shared.waker.wake();
    }

    /// Wakes the shard for something that stands beside its inbox.
    pub fn wake(&self) {
        self.shared.waker.wake();
    }

    /// Asks the shard to drain.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.waker.wake();
    }

    /// Whether the shard was asked to drain.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// Takes everything that waits, into `into` (emptied first; its memory is reused).
    pub fn take(&self, into: &mut Vec<ShardMessage>) {
        into.clear();
        {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(into, &mut queue.messages);
            queue.bytes = 0;
        }
        if self.shared.overflowed.swap(false, Ordering::AcqRel) {
            into.push(ShardMessage::OverflowedAll);
        }
    }
}

fn bytes_of(message: &ShardMessage) -> usize {
    match message {
        ShardMessage::Record(record) => record.len(),
        ShardMessage::Overflowed(_) | ShardMessage::OverflowedAll => 0,
    }
}
