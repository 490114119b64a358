//! One timer per connection, for any number of connections, without a heap.
//!
//! Owns a ring of [`BUCKETS`] buckets of one [`TICK`] each, and two links per slot that chain the slots of a
//! bucket. Arming, moving and disarming are O(1) and allocate nothing once a slot was seen. A deadline beyond
//! the ring's end is put into its last bucket: whoever is woken asks himself whether it is time, and arms
//! again. So a connection that is active never touches the wheel; it only notes the tick.

use std::time::Duration;

/// Resolution of all deadlines of connections.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Ticks that the ring covers.
pub(crate) const BUCKETS: u32 = 1024;

const NONE: u32 = u32::MAX;

/// A moment, in ticks since the start of the process.
pub(crate) type Tick = u32;

/// The tick that `mono` lies in.
pub(crate) fn tick_at(mono: Duration) -> Tick {
    (mono.as_millis() / TICK.as_millis()) as u32
}

/// How many ticks cover `time`, at least one.
pub(crate) fn ticks_in(time: Duration) -> u32 {
    (time
        .as_millis()
        .div_ceil(TICK.as_millis())
        .min(u128::from(u32::MAX / 4)) as u32)
        .max(1)
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    previous: u32,
    next: u32,
    /// The armed tick; `NONE` when it is not armed.
    due: Tick,
}

const FREE: Entry = Entry {
    previous: NONE,
    next: NONE,
    due: NONE,
};

/// The timers of a shard.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: Vec<u32>,
    entries: Vec<Entry>,
    /// The next tick that was not fired yet.
    at: Tick,
    armed: usize,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            heads: vec![NONE; BUCKETS as usize],
            entries: Vec::new(),
            at: now,
            armed: 0,
        }
    }

    /// Wakes `slot` at `due`, and not at the tick it was armed for before.
    pub(crate) fn arm(&mut self, slot: u32, due: Tick) {
        self.disarm(slot);
        let due = due.clamp(self.at, self.at + BUCKETS - 1);
        if self.entries.len() <= slot as usize {
            self.entries.resize(slot as usize + 1, FREE);
        }
        let Some(head) = self.heads.get_mut((due % BUCKETS) as usize) else {
            return;
        };
        let next = std::mem::replace(head, slot);
        self.set(
            slot,
            Entry {
                previous: NONE,
                next,
                due,
            },
        );
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = slot;
        }
        self.armed += 1;
    }

    /// Wakes `slot` at `due` unless it is woken earlier anyway.
    pub(crate) fn arm_by(&mut self, slot: u32, due: Tick) {
        if self.due(slot).is_none_or(|armed| armed > due) {
            self.arm(slot, due);
        }
    }

    /// Does not wake `slot`.
    pub(crate) fn disarm(&mut self, slot: u32) {
        let Some(entry) = self
            .entries
            .get(slot as usize)
            .copied()
            .filter(|entry| entry.due != NONE)
        else {
            return;
        };
        if let Some(next) = self.entries.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        if let Some(previous) = self.entries.get_mut(entry.previous as usize) {
            previous.next = entry.next;
        } else if let Some(head) = self.heads.get_mut((entry.due % BUCKETS) as usize) {
            *head = entry.next;
        }
        self.set(slot, FREE);
        self.armed -= 1;
    }

    /// When `slot` is woken.
    pub(crate) fn due(&self, slot: u32) -> Option<Tick> {
        self.entries
            .get(slot as usize)
            .map(|entry| entry.due)
            .filter(|due| *due != NONE)
    }

    /// Moves every slot that is due up to and with `now` to `fired`, disarmed.
    pub(crate) fn fire(&mut self, now: Tick, fired: &mut Vec<u32>) {
        // After a long pause each bucket is visited once; what it holds is due in any case.
        let last = now.min(self.at + BUCKETS - 1);
        while self.at <= last {
            let bucket = (self.at % BUCKETS) as usize;
            while let Some(slot) = self.heads.get(bucket).copied().filter(|slot| *slot != NONE) {
                fired.push(slot);
                self.disarm(slot);
            }
            self.at += 1;
        }
        self.at = self.at.max(now + 1);
    }

    /// The earliest moment at which [`Self::fire`] could have something, if anything is armed.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        (self.armed > 0).then(|| TICK * self.at)
    }

    fn set(&mut self, slot: u32, entry: Entry) {
        if let Some(stored) = self.entries.get_mut(slot as usize) {
            *stored = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel, now: Tick) -> Vec<u32> {
        let mut slots = Vec::new();
        wheel.fire(now, &mut slots);
        slots.sort_unstable();
        slots
    }

    #[test]
    fn each_slot_fires_once_at_its_last_armed_tick() {
        let mut wheel = Wheel::new(10);
        wheel.arm(1, 12);
        wheel.arm(2, 12);
        wheel.arm(3, 14);
        wheel.arm(1, 20);
        wheel.arm_by(1, 30);
        wheel.arm_by(3, 13);
        assert_eq!(fired(&mut wheel, 11), [0_u32; 0]);
        assert_eq!(fired(&mut wheel, 12), [2]);
        assert_eq!(fired(&mut wheel, 13), [3]);
        wheel.disarm(3);
        assert_eq!(fired(&mut wheel, 19), [0_u32; 0]);
        assert_eq!(fired(&mut wheel, 21), [1]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn what_lies_beyond_the_ring_fires_early_and_what_was_slept_through_fires_late() {
        let mut wheel = Wheel::new(0);
        wheel.arm(7, 5 * BUCKETS);
        wheel.arm(8, 3);
        assert_eq!(fired(&mut wheel, 100_000), [7, 8]);
        wheel.arm(9, 5);
        assert_eq!(wheel.due(9), Some(100_001));
    }
}
