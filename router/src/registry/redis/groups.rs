//! What this router knows of each slot group: the number of its last change there, so that a registry that forgot the
//! end of what it was told is noticed.
//!
//! Every change carries a number of its own and those that may have been the last before it: the last one that was
//! answered, and any since whose answer was lost. The registry applies it only if it remembers one of them, so a command
//! that was stuck on its way and comes too late changes nothing. Changes of one group are made one after the other;
//! there are 1,024 groups.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::keys::{GROUPS, Group};

/// What this router knows of one group.
#[derive(Debug)]
pub(super) struct Memory {
    /// In whose name changes are made. Another one begins with each incarnation.
    writer: u64,
    /// The last change that was answered; 0: none was made.
    last: u64,
    /// Changes since that may have been made.
    unknown: Vec<u64>,
}

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    memories: Vec<Mutex<Memory>>,
    change: AtomicU64,
}

impl Groups {
    pub(super) fn new() -> Self {
        let nothing = || {
            Mutex::new(Memory {
                writer: 0,
                last: 0,
                unknown: Vec::new(),
            })
        };
        Self {
            memories: (0..GROUPS).map(|_| nothing()).collect(),
            change: AtomicU64::new(1),
        }
    }

    /// Waits for the changes of a group that are under way.
    ///
    /// # Panics
    ///
    /// Never: there is a memory for every group.
    pub(super) async fn lock(&self, group: Group) -> MutexGuard<'_, Memory> {
        let memory = self.memories.get(group.index());
        memory.expect("one for every group").lock().await
    }

    /// A number for a change, above all before.
    pub(super) fn next_change(&self) -> u64 {
        self.change.fetch_add(1, Ordering::Relaxed)
    }
}

impl Memory {
    pub(super) const fn writer(&self) -> u64 {
        self.writer
    }

    /// Begins anew under another name.
    pub(super) fn reset(&mut self, writer: u64) {
        *self = Self {
            writer,
            last: 0,
            unknown: Vec::new(),
        };
    }

    /// A change is sent. Returns what may have been the last one before it.
    pub(super) fn sent(&mut self, change: u64) -> Vec<u64> {
        let before = self.may_be_last();
        self.unknown.push(change);
        before
    }

    /// It was made.
    pub(super) fn made(&mut self, change: u64) {
        self.last = change;
        self.unknown.clear();
    }

    /// It was not made, and cannot be any more.
    pub(super) fn not_made(&mut self, change: u64) {
        self.unknown.retain(|each| *each != change);
    }

    /// Whether the registry may rightly say that `change` was the last one.
    pub(super) fn remembers(&self, change: u64) -> bool {
        self.last == change || self.unknown.contains(&change)
    }

    fn may_be_last(&self) -> Vec<u64> {
        let mut all = vec![self.last];
        all.extend(&self.unknown);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_whose_answer_was_lost_may_be_the_last_until_another_is_answered() {
        let groups = Groups::new();
        let group = Group::all().next().unwrap();
        let mut memory = groups.lock(group).await;
        memory.reset(9);
        assert_eq!(memory.sent(1), [0]);
        memory.made(1);
        assert_eq!(memory.sent(2), [1]);
        assert_eq!(memory.sent(3), [1, 2]);
        memory.not_made(3);
        assert!(memory.remembers(1) && memory.remembers(2) && !memory.remembers(3));
        assert_eq!(memory.sent(4), [1, 2]);
        memory.made(4);
        assert!(memory.remembers(4) && !memory.remembers(2));
    }
}
