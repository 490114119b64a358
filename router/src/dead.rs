//! Gateway boots that this router knows to be over: they left, were declared dead, or were given up here.
//!
//! Keeps the newest [`BOOTS_MAX`]. One that is forgotten has no link for long: who is told that his boot is dead takes
//! another one within a moment.

use std::collections::{HashSet, VecDeque};

/// Most boots that are remembered.
const BOOTS_MAX: usize = 4_096;

/// The boots that went last.
#[derive(Debug, Default)]
pub(crate) struct DeadBoots {
    boots: HashSet<u64>,
    order: VecDeque<u64>,
}

impl DeadBoots {
    pub(crate) fn add(&mut self, boot: u64) {
        if self.boots.insert(boot) {
            self.order.push_back(boot);
        }
        if self.order.len() > BOOTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.boots.remove(&oldest);
        }
    }

    pub(crate) fn has(&self, boot: u64) -> bool {
        self.boots.contains(&boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered() {
        let mut dead = DeadBoots::default();
        for boot in 0..=BOOTS_MAX as u64 {
            dead.add(boot);
            dead.add(boot);
        }
        assert!(!dead.has(0) && dead.has(1) && dead.has(BOOTS_MAX as u64));
        assert_eq!((dead.boots.len(), dead.order.len()), (BOOTS_MAX, BOOTS_MAX));
    }
}
