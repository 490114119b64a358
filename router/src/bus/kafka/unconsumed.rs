//! What was published to each boot and is not reported consumed: the bound of what may wait for one gateway.
//!
//! Owns the numbers and lengths of those records, per boot and partition. Kafka would hold more, but whoever publishes
//! keeps each record until it is reported; a gateway that is so far behind is cheaper to resync than to feed. When a
//! boot's bound is crossed its topic is given up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use corelane_protocol::id::BootId;

/// Records that wait to be reported.
#[derive(Debug)]
pub(super) struct Unconsumed {
    bytes_max: usize,
    boots: Mutex<HashMap<BootId, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    /// Lengths by number.
    partitions: HashMap<u16, BTreeMap<u64, usize>>,
}

impl Unconsumed {
    /// Boots may have so many bytes each.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            boots: Mutex::default(),
        }
    }

    /// Counts a record, once however often it is published. False: the bound would be crossed. Records without a number
    /// are reported by nobody and not counted.
    pub(super) fn add(&self, boot: BootId, partition: u16, number: u64, bytes: usize) -> bool {
        if number == 0 {
            return true;
        }
        let mut boots = self.lock();
        let waiting = boots.entry(boot).or_default();
        let numbers = waiting.partitions.entry(partition).or_default();
        if numbers.contains_key(&number) {
            return true;
        }
        if waiting.bytes + bytes > self.bytes_max {
            return false;
        }
        numbers.insert(number, bytes);
        waiting.bytes += bytes;
        true
    }

    /// All up to and with this number were consumed.
    pub(super) fn consumed(&self, boot: BootId, partition: u16, number: u64) {
        let mut boots = self.lock();
        let Some(waiting) = boots.get_mut(&boot) else {
            return;
        };
        let Some(numbers) = waiting.partitions.get_mut(&partition) else {
            return;
        };
        let rest = numbers.split_off(&number.saturating_add(1));
        let consumed = std::mem::replace(numbers, rest);
        waiting.bytes -= consumed.into_values().sum::<usize>();
    }

    /// Nothing waits for this boot any more.
    pub(super) fn forget(&self, boot: BootId) {
        self.lock().remove(&boot);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BootId, Waiting>> {
        // A panic elsewhere leaves the map whole: every change is made in one go.
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId(7);

    #[test]
    fn a_boot_may_have_so_many_bytes_until_they_are_reported() {
        let unconsumed = Unconsumed::new(100);
        assert!(unconsumed.add(BOOT, 0, 1, 40) && unconsumed.add(BOOT, 1, 1, 40));
        assert!(unconsumed.add(BOOT, 0, 1, 40), "published again, counted once");
        assert!(!unconsumed.add(BOOT, 0, 2, 21));
        assert!(
            unconsumed.add(BootId(8), 0, 2, 100),
            "another boot has its own bound"
        );
        assert!(unconsumed.add(BOOT, 0, 0, 1000), "no number, no report");
        unconsumed.consumed(BOOT, 1, 1);
        assert!(unconsumed.add(BOOT, 0, 2, 60));
        assert!(!unconsumed.add(BOOT, 0, 3, 1));
        unconsumed.consumed(BOOT, 0, 2);
        assert!(unconsumed.add(BOOT, 0, 3, 100));
        unconsumed.forget(BOOT);
        assert!(unconsumed.add(BOOT, 0, 4, 100));
    }
}
