//! The bus of a single router, in memory: the embedded default. Gateways read it over their links.
//!
//! Owns the records of each gateway boot until they are reported consumed, at most 64 MiB per boot. When a topic is
//! full its records are dropped and it is marked lost: the gateway learns so with its next fetch, and has its
//! sessions sync again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Bus, BusError, Fetched};

/// Most bytes that wait for one gateway boot.
pub const TOPIC_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bus.
#[derive(Debug, Default)]
pub struct MemoryBus {
    topics: Mutex<HashMap<u64, Topic>>,
}

#[derive(Debug, Default)]
struct Topic {
    partitions: Vec<Partition>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Partition {
    /// Offset of the first record that is kept.
    first: u64,
    records: VecDeque<Arc<[u8]>>,
    lost: bool,
}

impl MemoryBus {
    /// Records from `from` on, at most `bytes_max` but at least one if there is one.
    pub fn fetch(&self, boot: u64, partition: u16, from: u64, bytes_max: usize) -> Fetched {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(partition) =
            topics.get_mut(&boot).and_then(|topic| topic.partitions.get_mut(usize::from(partition)))
        else {
            return Fetched::default();
        };
        let end = partition.first + partition.records.len() as u64;
        // A reader ahead of the log read another life's; one behind it asks for what is gone.
        let lost = std::mem::take(&mut partition.lost) || from < partition.first || from > end;
        let from = from.clamp(partition.first, end);
        let mut fetched = Fetched { from, lost, records: Vec::new() };
        let mut bytes = 0;
        for record in partition.records.iter().skip((from - partition.first) as usize) {
            if bytes > 0 && bytes + record.len() > bytes_max {
                break;
            }
            bytes += record.len();
            fetched.records.push(Arc::clone(record));
        }
        fetched
    }

    /// The reader has taken everything below `upto`.
    pub fn consumed(&self, boot: u64, partition: u16, upto: u64) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(topic) = topics.get_mut(&boot) else { return };
        let Some(partition) = topic.partitions.get_mut(usize::from(partition)) else { return };
        while partition.first < upto {
            let Some(record) = partition.records.pop_front() else { return };
            topic.bytes -= record.len();
            partition.first += 1;
        }
    }

    /// Bytes that wait for all gateways.
    pub fn bytes(&self) -> usize {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).values().map(|topic| topic.bytes).sum()
    }
}

impl Bus for MemoryBus {
    async fn create(&self, boot: u64, partitions: u16) -> Result<(), BusError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.entry(boot).or_insert_with(|| Topic {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            bytes: 0,
        });
        Ok(())
    }

    async fn publish(&self, boot: u64, partition: u16, record: Arc<[u8]>) -> Result<(), BusError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.get_mut(&boot).ok_or(BusError::Gone(boot))?;
        if topic.bytes + record.len() > TOPIC_BYTES_MAX {
            for partition in &mut topic.partitions {
                partition.first += partition.records.len() as u64;
                partition.records.clear();
                partition.lost = true;
            }
            topic.bytes = 0;
        }
        let Some(partition) = topic.partitions.get_mut(usize::from(partition)) else {
            return Err(BusError::Gone(boot));
        };
        topic.bytes += record.len();
        partition.records.push_back(record);
        Ok(())
    }

    async fn delete(&self, boot: u64) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).remove(&boot);
    }
}
