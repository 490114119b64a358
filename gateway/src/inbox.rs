//! What other shards and foreign threads hand to a shard: one bounded queue per shard, emptied once a turn.
//!
//! Owns the queue, one overflow bit per slot of the shard, one flag for all of it, and the shard's waker. When the queue
//! is full the message is not waited for: the listed receivers of a record get their bits set, a record for a group or
//! for users sets the flag, typing and the like are dropped. As soon as the shard looks, those connections are demoted
//! (the flag: all are told to sync), so a slow shard costs its own connections a pull and the other shards nothing.
//!
//! What was read of the bus for this shard (`bus.rs`) is always taken and does not count: the shard asked for it, up to a
//! bound of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corelane_gateway_core::event::ShardMessage;
use corelane_net::Waker;
use corelane_protocol::bus::{self, ArchivedReceivers, class};
use corelane_protocol::id::ConnId;

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
    shard: u16,
    queue: Mutex<Queue>,
    draining: AtomicBool,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Queue {
    messages: Vec<ShardMessage>,
    /// Of those that count.
    count: usize,
    bytes: usize,
    overflowed: Overflow,
}

/// Whom something was for that found no room.
#[derive(Debug, Default)]
struct Overflow {
    /// One bit per slot, up to the highest that is set.
    slots: Vec<u64>,
    all: bool,
}

impl Overflow {
    fn note(&mut self, shard: u16, message: &ShardMessage) {
        match message {
            ShardMessage::Record(record) => match bus::read(record) {
                Ok((_, record)) if record.class == class::TRANSIENT => {}
                Ok((_, record)) => match &record.receivers {
                    ArchivedReceivers::Conns(conns) => {
                        for conn in conns.iter().map(|conn| ConnId(conn.to_native())) {
                            self.note_one(shard, conn);
                        }
                    }
                    ArchivedReceivers::GroupExcept(_) | ArchivedReceivers::Users(_) => self.all = true,
                },
                Err(_) => self.all = true,
            },
            ShardMessage::Overflowed(conn) => self.note_one(shard, *conn),
            ShardMessage::OverflowedAll | ShardMessage::Fetched { .. } | ShardMessage::TopicLost(_) => {
                self.all = true;
            }
        }
    }

    fn note_one(&mut self, shard: u16, conn: ConnId) {
        let (word, bit) = (conn.slot() as usize / 64, conn.slot() % 64);
        if conn.shard() != shard {
            return;
        }
        if self.slots.len() <= word {
            self.slots.resize(word + 1, 0);
        }
        if let Some(word) = self.slots.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    fn slots(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.slots).flat_map(|(at, word)| {
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| at * 64 + bit)
        })
    }
}

impl Inbox {
    /// An empty inbox of shard number `shard`, which is woken by `waker`.
    pub fn new(shard: u16, waker: Waker) -> Self {
        Self {
            shared: Arc::new(Shared {
                shard,
                queue: Mutex::default(),
                draining: AtomicBool::new(false),
                waker,
            }),
        }
    }

    /// Hands over `messages` and wakes the shard once. What finds no room becomes overflow bits.
    pub fn push(&self, messages: impl IntoIterator<Item = ShardMessage>) {
        {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            for message in messages {
                let Some(bytes) = counted_bytes(&message) else {
                    queue.messages.push(message);
                    continue;
                };
                if queue.count >= INBOX_SLOTS || queue.bytes + bytes > INBOX_BYTES_MAX {
                    queue.overflowed.note(self.shared.shard, &message);
                } else {
                    queue.count += 1;
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

    /// Takes everything that waits, into `into` (emptied first; its memory is reused). Slots whose bit was set come in
    /// `overflowed`; the flag comes as [`ShardMessage::OverflowedAll`].
    pub fn take(&self, into: &mut Vec<ShardMessage>, overflowed: &mut Vec<u32>) {
        into.clear();
        overflowed.clear();
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(into, &mut queue.messages);
        (queue.count, queue.bytes) = (0, 0);
        let overflow = std::mem::take(&mut queue.overflowed);
        drop(queue);
        overflowed.extend(overflow.slots());
        if overflow.all {
            into.push(ShardMessage::OverflowedAll);
        }
    }
}

/// What a message counts with; nothing for one that is always taken.
fn counted_bytes(message: &ShardMessage) -> Option<usize> {
    match message {
        ShardMessage::Record(record) => Some(record.len()),
        ShardMessage::Overflowed(_) | ShardMessage::OverflowedAll => Some(0),
        ShardMessage::Fetched { .. } | ShardMessage::TopicLost(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use corelane_net::{Engine, EngineConfig};
    use corelane_protocol::bus::{BusRecord, Receivers};

    use super::*;

    const SHARD: u16 = 2;

    fn record(class: u8, receivers: Receivers) -> ShardMessage {
        let record = BusRecord {
            class,
            priority: 2,
            app: 0,
            conv: Vec::new(),
            first_seq: 1,
            last_seq: 1,
            member_version: 0,
            epoch: 0,
            router_boot: 1,
            number: 1,
            outbox: 0,
            expires_ms: 0,
            published_us: 0,
            receivers,
            frames: Vec::new(),
        };
        ShardMessage::Record(record.encode().into())
    }

    /// What the shard finds when `late` came after its inbox was full.
    fn overflow_of(late: ShardMessage) -> (Vec<u32>, bool) {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let inbox = Inbox::new(SHARD, engine.waker());
        let empty = record(class::STORED, Receivers::Conns(Vec::new()));
        inbox.push(std::iter::repeat_n(empty, INBOX_SLOTS));
        inbox.push([late]);
        let (mut messages, mut overflowed) = (Vec::new(), vec![7]);
        inbox.take(&mut messages, &mut overflowed);
        let all = messages.len() > INBOX_SLOTS;
        assert_eq!(messages.contains(&ShardMessage::OverflowedAll), all);
        let slots = std::mem::take(&mut overflowed);
        inbox.take(&mut messages, &mut overflowed);
        assert!(messages.is_empty() && overflowed.is_empty(), "told once");
        (slots, all)
    }

    #[test]
    fn only_the_receivers_here_of_what_found_no_room_are_marked() {
        let conns = [(SHARD, 3), (SHARD, 64), (SHARD, 1000), (1, 5)];
        let conns = conns.map(|(shard, slot)| ConnId::new(shard, slot, 1).0).to_vec();
        let marked = overflow_of(record(class::STORED, Receivers::Conns(conns)));
        assert_eq!(marked, (vec![3, 64, 1000], false));
        let one = overflow_of(ShardMessage::Overflowed(ConnId::new(SHARD, 63, 9)));
        assert_eq!(one, (vec![63], false));
    }

    #[test]
    fn what_is_not_for_listed_connections_marks_all() {
        for late in [
            record(class::STORED, Receivers::GroupExcept(0)),
            record(class::STORED, Receivers::Users(vec!["bob".to_owned()])),
            ShardMessage::OverflowedAll,
            ShardMessage::Record([1, 2, 3].as_slice().into()),
        ] {
            assert_eq!(overflow_of(late), (Vec::new(), true));
        }
    }

    #[test]
    fn what_was_read_of_the_bus_is_taken_however_full_the_inbox_is() {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let inbox = Inbox::new(SHARD, engine.waker());
        let fetched = ShardMessage::Fetched {
            boot: 1,
            partition: 0,
            from: 0,
            lost: false,
            records: vec![[7; 100].as_slice().into()],
        };
        let empty = record(class::STORED, Receivers::Conns(Vec::new()));
        inbox.push([fetched.clone()]);
        inbox.push(std::iter::repeat_n(empty, INBOX_SLOTS));
        inbox.push([fetched.clone(), ShardMessage::TopicLost(1)]);
        let (mut messages, mut overflowed) = (Vec::new(), Vec::new());
        inbox.take(&mut messages, &mut overflowed);
        assert_eq!(messages.len(), INBOX_SLOTS + 3, "it takes nobody's room");
        assert_eq!((&messages[0], &messages[INBOX_SLOTS + 1]), (&fetched, &fetched));
        assert!(overflowed.is_empty());
    }

    #[test]
    fn typing_that_finds_no_room_is_dropped() {
        let typing = record(class::TRANSIENT, Receivers::GroupExcept(0));
        assert_eq!(overflow_of(typing), (Vec::new(), false));
    }
}
