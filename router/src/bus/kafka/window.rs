//! What was read of one partition and is not yet left behind: the rules by which a reader's records become answers.
//!
//! Owns the records from the offset that was fetched last up to the next one that is to be read, without a gap. It
//! believes no offset that does not follow the one before: what comes twice is dropped, and behind a hole the partition
//! is read again from the hole; if that is still there, its records are lost and the next fetch says so. When it holds
//! more than its bytes it is full, and the partition is not read until half of that was left behind.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::super::Fetched;

/// What a record costs beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// The window on one partition.
#[derive(Debug)]
pub(super) struct Window {
    /// Offset of the first record that is kept.
    first: u64,
    records: VecDeque<Arc<[u8]>>,
    bytes: usize,
    bytes_max: usize,
    /// Below this offset records are gone that were never handed out.
    lost_below: u64,
    reading: Reading,
    /// The record behind a hole came already once: the hole is real if it comes again.
    saw_hole: bool,
    arrived: Arc<Notify>,
}

/// Whether the partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Nobody asked yet.
    Off,
    /// It shall be read from the next offset on; what comes until then is of before.
    Wanted,
    /// It is read.
    On,
    /// The window is full.
    Full,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is kept.
    Kept,
    /// It is kept, and records before it are lost.
    Lost,
    /// It is not the next one: it is of before, or the partition is read again from the one that is missing.
    Dropped,
}

impl Window {
    /// A window of so many bytes on a partition that nobody asked for.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            first: 0,
            records: VecDeque::new(),
            bytes: 0,
            bytes_max,
            lost_below: 0,
            reading: Reading::Off,
            saw_hole: false,
            arrived: Arc::default(),
        }
    }

    /// The next offset that is to be read.
    pub(super) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// What wakes when something came.
    pub(super) fn arrived(&self) -> &Arc<Notify> {
        &self.arrived
    }

    /// Whether records are expected: somebody asked, and there is room.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.reading, Reading::On | Reading::Wanted)
    }

    /// Whether it shall not be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.reading == Reading::Full
    }

    /// Where the reader shall go; asked until [`Window::placed`] is said.
    pub(super) fn wanted(&self) -> Option<u64> {
        (self.reading == Reading::Wanted).then(|| self.next())
    }

    /// The reader is there.
    pub(super) fn placed(&mut self) {
        if self.reading == Reading::Wanted {
            self.reading = Reading::On;
        }
    }

    /// The reader shall come again from the next offset on.
    pub(super) fn read_again(&mut self) {
        if self.is_read() {
            self.reading = Reading::Wanted;
        }
    }

    /// What there is from an offset on; nothing if that must still be read. Leaves behind what lies before.
    pub(super) fn fetch(&mut self, from: u64, bytes_max: usize) -> Option<Fetched> {
        let lost = from < self.lost_below;
        let start = from.max(self.lost_below);
        if self.reading == Reading::Off || start < self.first || start > self.next() {
            self.move_to(start);
        }
        while self.first < start
            && let Some(record) = self.records.pop_front()
        {
            self.first += 1;
            self.bytes -= record.len() + RECORD_OVERHEAD_BYTES;
        }
        if self.is_full() && self.bytes <= self.bytes_max / 2 {
            self.reading = Reading::Wanted;
        }
        let mut fetched = Fetched {
            from: start,
            lost,
            records: Vec::new(),
        };
        let mut bytes = 0;
        for record in &self.records {
            bytes += record.len();
            if bytes > bytes_max && !fetched.records.is_empty() {
                break;
            }
            fetched.records.push(Arc::clone(record));
        }
        (lost || !fetched.records.is_empty()).then_some(fetched)
    }

    /// A record was read.
    pub(super) fn push(&mut self, offset: u64, record: Arc<[u8]>) -> Taken {
        if self.reading != Reading::On || offset < self.next() {
            return Taken::Dropped;
        }
        let mut taken = Taken::Kept;
        if offset > self.next() {
            if !std::mem::replace(&mut self.saw_hole, true) {
                self.reading = Reading::Wanted;
                return Taken::Dropped;
            }
            self.lose_below(offset);
            self.reading = Reading::On;
            taken = Taken::Lost;
        }
        self.saw_hole = false;
        self.bytes += record.len() + RECORD_OVERHEAD_BYTES;
        self.records.push_back(record);
        if self.bytes > self.bytes_max {
            self.reading = Reading::Full;
        }
        taken
    }

    /// Everything below an offset is gone, what is kept of it included: who is told so syncs all the same.
    pub(super) fn lose_below(&mut self, offset: u64) {
        self.move_to(offset);
        self.lost_below = offset;
        self.arrived.notify_waiters();
    }

    /// Nobody asks any more.
    pub(super) fn clear(&mut self) {
        self.move_to(self.first);
        self.reading = Reading::Off;
    }

    fn move_to(&mut self, offset: u64) {
        self.first = offset;
        // Not cleared: its memory goes with it.
        self.records = VecDeque::new();
        self.bytes = 0;
        self.saw_hole = false;
        self.reading = Reading::Wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: usize) -> Arc<[u8]> {
        vec![7; bytes].into()
    }

    /// A window that is read from an offset on and holds `count` records.
    fn filled(from: u64, count: u64) -> Window {
        let mut window = Window::new(1000);
        assert_eq!(window.fetch(from, 100), None);
        assert_eq!(window.wanted(), Some(from));
        window.placed();
        for offset in from..from + count {
            assert_eq!(window.push(offset, record(36)), Taken::Kept);
        }
        window
    }

    #[test]
    fn nothing_is_kept_before_the_reader_is_where_it_was_wanted() {
        let mut window = Window::new(1000);
        assert_eq!(window.push(0, record(1)), Taken::Dropped);
        assert_eq!(window.fetch(5, 100), None);
        assert_eq!(window.push(5, record(1)), Taken::Dropped, "a record of before");
        window.placed();
        assert_eq!(window.push(5, record(1)), Taken::Kept);
        assert_eq!(window.wanted(), None);
    }

    #[test]
    fn an_offset_can_be_fetched_again_and_an_older_one_is_read_again() {
        let mut window = filled(3, 4);
        for _ in 0..2 {
            let fetched = window.fetch(5, 1000).unwrap();
            assert_eq!((fetched.from, fetched.lost, fetched.records.len()), (5, false, 2));
        }
        assert_eq!(window.fetch(4, 1000), None, "it was left behind");
        assert_eq!(window.wanted(), Some(4));
        window.placed();
        assert_eq!(window.push(4, record(1)), Taken::Kept);
        assert_eq!(window.fetch(4, 1000).unwrap().records.len(), 1);
    }

    #[test]
    fn what_comes_twice_is_dropped_and_a_hole_is_looked_at_twice_before_it_is_a_loss() {
        let mut window = filled(0, 3);
        assert_eq!(window.push(1, record(1)), Taken::Dropped);
        assert_eq!(window.push(7, record(1)), Taken::Dropped);
        assert_eq!(window.wanted(), Some(3), "read again from the hole");
        window.placed();
        assert_eq!(window.push(3, record(1)), Taken::Kept, "there was none");
        assert_eq!(window.push(7, record(1)), Taken::Dropped);
        window.placed();
        assert_eq!(window.push(7, record(1)), Taken::Lost);
        let fetched = window.fetch(2, 1000).unwrap();
        assert_eq!((fetched.from, fetched.lost, fetched.records.len()), (7, true, 1));
        assert!(!window.fetch(7, 1000).unwrap().lost, "who goes on is told once");
    }

    #[test]
    fn a_loss_is_told_where_nothing_follows() {
        let mut window = filled(0, 2);
        window.lose_below(10);
        assert_eq!(window.wanted(), Some(10));
        let fetched = window.fetch(1, 1000).unwrap();
        assert_eq!((fetched.from, fetched.lost, fetched.records.len()), (10, true, 0));
        assert_eq!(window.fetch(10, 1000), None);
    }

    #[test]
    fn a_full_window_is_not_read_until_half_of_it_was_left_behind() {
        let mut window = filled(0, 10);
        assert!(!window.is_full());
        assert_eq!(window.push(10, record(36)), Taken::Kept);
        assert!(window.is_full() && window.wanted().is_none());
        assert_eq!(
            window.push(11, record(36)),
            Taken::Dropped,
            "it is on its way still"
        );
        assert_eq!(window.fetch(5, 1000).unwrap().records.len(), 6);
        assert!(window.is_full());
        assert_eq!(window.fetch(6, 1000).unwrap().records.len(), 5);
        assert_eq!(window.wanted(), Some(11));
    }

    #[test]
    fn an_answer_is_bounded_by_bytes_but_gives_one() {
        let mut window = filled(0, 5);
        assert_eq!(window.fetch(0, 80).unwrap().records.len(), 2);
        assert_eq!(window.fetch(2, 1).unwrap().records.len(), 1);
    }
}
