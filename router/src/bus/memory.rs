//! The bus of one router: records wait in memory until their gateway has consumed them.
//!
//! Owns the records of every gateway that is linked to this router. A topic holds at most [`BYTES_MAX`] bytes over
//! all its partitions; one record more and everything in it is dropped and declared lost, because a gateway that is
//! so far behind is cheaper to resync than to feed. Nothing here survives the process: the outbox does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_protocol::id::BootId;
use corelane_protocol::limits::BUS_RECORD_BYTES_MAX;
use tokio::sync::Notify;

use super::{Bus, BusError, Fetched};

/// Bytes that may wait for one gateway boot.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a record costs beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Most partitions of a topic.
pub const PARTITIONS_MAX: u16 = 64;

const _: () = assert!(
    BUS_RECORD_BYTES_MAX * 8 < BYTES_MAX,
    "a few of the largest records fit a topic"
);

/// The memory bus.
#[derive(Debug)]
pub struct MemoryBus {
    topics: Mutex<HashMap<BootId, Topic>>,
    bytes_max: usize,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::with_bytes_max(BYTES_MAX)
    }
}

/// What a topic holds at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicDepth {
    /// Records that are not consumed.
    pub records: u64,
    /// Their bytes, overhead included.
    pub bytes: usize,
    /// How often it overflowed.
    pub overflows: u64,
}

#[derive(Debug)]
struct Topic {
    partitions: Vec<Partition>,
    bytes: usize,
    overflows: u64,
}

#[derive(Debug, Default)]
struct Partition {
    /// Offset of the first record that is kept.
    first_offset: u64,
    /// Below this offset records were dropped that nobody had consumed.
    lost_below: u64,
    records: VecDeque<Kept>,
    arrived: Arc<Notify>,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    bytes: Arc<[u8]>,
}

impl Kept {
    fn cost_bytes(&self) -> usize {
        self.bytes.len() + RECORD_OVERHEAD_BYTES
    }
}

impl MemoryBus {
    /// A bus whose topics hold this many bytes each.
    pub fn with_bytes_max(bytes_max: usize) -> Self {
        Self {
            topics: Mutex::default(),
            bytes_max,
        }
    }

    /// What waits for a gateway.
    pub fn depth(&self, boot: BootId) -> Option<TopicDepth> {
        self.lock().get(&boot).map(|topic| TopicDepth {
            records: topic
                .partitions
                .iter()
                .map(|each| each.records.len() as u64)
                .sum(),
            bytes: topic.bytes,
            overflows: topic.overflows,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BootId, Topic>> {
        // A panic elsewhere leaves the map whole: every change below is made in one go.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, boot: BootId, partition: u16, kept: Kept) -> Result<u64, BusError> {
        if kept.bytes.len() > BUS_RECORD_BYTES_MAX {
            return Err(BusError::TooLarge(kept.bytes.len()));
        }
        let mut topics = self.lock();
        let topic = topics.get_mut(&boot).ok_or(BusError::NoTopic(boot.0))?;
        if topic.bytes + kept.cost_bytes() > self.bytes_max {
            topic.drop_all();
            return Err(BusError::Overflow {
                boot: boot.0,
                bytes_max: self.bytes_max,
            });
        }
        let cost = kept.cost_bytes();
        let slot = topic.partition(partition)?;
        let offset = slot.next_offset();
        slot.records.push_back(kept);
        slot.arrived.notify_waiters();
        topic.bytes += cost;
        Ok(offset)
    }
}

impl Topic {
    fn partition(&mut self, partition: u16) -> Result<&mut Partition, BusError> {
        let partitions = u16::try_from(self.partitions.len()).unwrap_or(u16::MAX);
        self.partitions
            .get_mut(usize::from(partition))
            .ok_or(BusError::NoPartition {
                partition,
                partitions,
            })
    }

    /// Drops what waits, the record that did not fit included: its offset is spent, so that the loss shows.
    fn drop_all(&mut self) {
        for partition in &mut self.partitions {
            partition.first_offset = partition.next_offset() + 1;
            partition.lost_below = partition.first_offset;
            partition.records.clear();
            partition.arrived.notify_waiters();
        }
        self.bytes = 0;
        self.overflows += 1;
    }
}

impl Partition {
    fn next_offset(&self) -> u64 {
        self.first_offset + self.records.len() as u64
    }

    fn read(&self, from: u64, bytes_max: usize) -> Option<Fetched> {
        let lost = from < self.lost_below;
        let start = from.max(self.first_offset);
        let mut fetched = Fetched {
            from: start,
            lost,
            records: Vec::new(),
        };
        let mut bytes = 0;
        let skipped = usize::try_from(start - self.first_offset).unwrap_or(usize::MAX);
        for kept in self.records.iter().skip(skipped) {
            bytes += kept.bytes.len();
            if bytes > bytes_max && !fetched.records.is_empty() {
                break;
            }
            fetched.records.push(Arc::clone(&kept.bytes));
        }
        (lost || !fetched.records.is_empty()).then_some(fetched)
    }
}

impl Bus for MemoryBus {
    async fn create(&self, boot: BootId, partitions: u16) -> Result<(), BusError> {
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return Err(BusError::NoPartition {
                partition: partitions,
                partitions: PARTITIONS_MAX,
            });
        }
        self.lock().entry(boot).or_insert_with(|| Topic {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            bytes: 0,
            overflows: 0,
        });
        Ok(())
    }

    async fn publish(
        &self,
        boot: BootId,
        partition: u16,
        number: u64,
        record: Arc<[u8]>,
    ) -> Result<u64, BusError> {
        self.append(
            boot,
            partition,
            Kept {
                number,
                bytes: record,
            },
        )
    }

    async fn fetch(
        &self,
        boot: BootId,
        partition: u16,
        from: u64,
        bytes_max: usize,
    ) -> Result<Fetched, BusError> {
        loop {
            let arrived = {
                let mut topics = self.lock();
                let topic = topics.get_mut(&boot).ok_or(BusError::NoTopic(boot.0))?;
                let slot = topic.partition(partition)?;
                if let Some(fetched) = slot.read(from, bytes_max) {
                    return Ok(fetched);
                }
                // Made under the lock: what arrives from here on wakes it, polled or not.
                Arc::clone(&slot.arrived).notified_owned()
            };
            arrived.await;
        }
    }

    fn consumed(&self, boot: BootId, partition: u16, number: u64) {
        let mut topics = self.lock();
        let Some(topic) = topics.get_mut(&boot) else {
            return;
        };
        let Ok(slot) = topic.partition(partition) else {
            return;
        };
        let mut freed = 0;
        while let Some(kept) = slot.records.pop_front_if(|kept| kept.number <= number) {
            freed += kept.cost_bytes();
            slot.first_offset += 1;
        }
        topic.bytes -= freed;
    }

    async fn delete(&self, boot: BootId) -> Result<(), BusError> {
        if let Some(topic) = self.lock().remove(&boot) {
            for partition in &topic.partitions {
                partition.arrived.notify_waiters();
            }
        }
        Ok(())
    }
}
