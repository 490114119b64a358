//! The rows: per key its lock and its write records, in memory. A change is applied as it was logged; nothing here
//! decides whether it may be.
//!
//! What a snapshot at a timestamp sees of a key is its newest put or delete at or below that timestamp. Each row knows the
//! number of the log record that changed it last: an answer that tells of the row waits until that record is durable, so
//! nobody ever learns of something that a crash takes back.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::record::{Decision, Kind, Lock, Row, Write};

type Key = Box<[u8]>;

/// A lock or a write record without its key and value, in the log.
const RECORD_BYTES: usize = 32;

/// One key's columns.
#[derive(Debug, Default)]
struct Columns {
    lock: Option<Box<Lock>>,
    /// Ascending by `commit_ts`, which is unique among them.
    writes: Vec<Write>,
    changed_by: u64,
}

/// How a transaction ended on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// At this timestamp.
    Committed(u64),
    /// It must not come again.
    RolledBack,
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    keys: BTreeMap<Key, Columns>,
    locked: BTreeSet<Key>,
}

impl Rows {
    /// Sets the key's lock.
    pub(crate) fn lock(&mut self, key: Vec<u8>, lock: Lock, number: u64) {
        let key = key.into_boxed_slice();
        self.locked.insert(key.clone());
        let columns = self.keys.entry(key).or_default();
        columns.lock = Some(Box::new(lock));
        columns.changed_by = number;
    }

    /// Ends a transaction on a key.
    ///
    /// # Errors
    /// A commit without its lock: the log is not the one that was written.
    pub(crate) fn decide(&mut self, decision: Decision, number: u64) -> Result<(), String> {
        let Decision {
            key,
            start_ts,
            commit_ts,
        } = decision;
        let key = key.into_boxed_slice();
        let columns = self.keys.entry(key.clone()).or_default();
        columns.changed_by = number;
        let lock = columns.lock.take_if(|lock| lock.start_ts == start_ts);
        if lock.is_some() {
            self.locked.remove(&key);
        }
        if commit_ts == 0 {
            columns.mark_rolled_back(start_ts);
            return Ok(());
        }
        let lock = lock.ok_or_else(|| format!("a commit of {start_ts} on a key that it has not locked"))?;
        let Lock { kind, value, .. } = *lock;
        columns.insert(Write {
            commit_ts,
            start_ts,
            kind,
            value,
            overlapped_rollback: false,
        });
        Ok(())
    }

    /// Sets a whole row, from a checkpoint.
    pub(crate) fn restore(&mut self, row: Row) {
        let key = row.key.into_boxed_slice();
        if row.lock.is_some() {
            self.locked.insert(key.clone());
        }
        let columns = Columns {
            lock: row.lock.map(Box::new),
            writes: row.writes,
            changed_by: 0,
        };
        self.keys.insert(key, columns);
    }

    /// Empties a range, whatever the versions. An empty `end` is without end.
    pub(crate) fn destroy(&mut self, start: &[u8], end: &[u8]) {
        let doomed: Vec<Key> = range(&self.keys, start, end)
            .map(|(key, _)| key.clone())
            .collect();
        for key in doomed {
            self.keys.remove(&key);
            self.locked.remove(&key);
        }
    }

    /// Drops versions that no snapshot at or above `safe_point` sees, of at most `limit` keys from `from` on.
    /// Returns where to go on, or `None` at the end.
    pub(crate) fn collect_garbage(&mut self, safe_point: u64, from: &[u8], limit: usize) -> Option<Vec<u8>> {
        let mut emptied = Vec::new();
        let mut next = None;
        let bounds = (Bound::Included(from), Bound::<&[u8]>::Unbounded);
        for (index, (key, columns)) in self.keys.range_mut::<[u8], _>(bounds).enumerate() {
            if index == limit {
                next = Some(key.to_vec());
                break;
            }
            columns.collect_garbage(safe_point);
            if columns.writes.is_empty() && columns.lock.is_none() {
                emptied.push(key.clone());
            }
        }
        for key in emptied {
            self.keys.remove(&key);
        }
        next
    }

    /// How many keys there are, and how many are locked.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.keys.len(), self.locked.len())
    }

    /// About how many bytes the rows take in a checkpoint.
    pub(crate) fn bytes(&self) -> u64 {
        let of_lock = |lock: &Lock| lock.primary.len() + lock.value.len() + RECORD_BYTES;
        let of_row = |(key, columns): (&Key, &Columns)| {
            let values: usize = columns
                .writes
                .iter()
                .map(|write| write.value.len() + RECORD_BYTES)
                .sum();
            key.len() + values + columns.lock.as_deref().map_or(0, of_lock)
        };
        self.keys.iter().map(of_row).map(|bytes| bytes as u64).sum()
    }

    /// Every row, for a checkpoint.
    pub(crate) fn all(&self) -> impl Iterator<Item = Row> {
        self.keys.iter().map(|(key, columns)| Row {
            key: key.to_vec(),
            lock: columns.lock.as_deref().cloned(),
            writes: columns.writes.clone(),
        })
    }
}

impl Columns {
    fn insert(&mut self, write: Write) {
        let place = self
            .writes
            .partition_point(|other| other.commit_ts < write.commit_ts);
        match self
            .writes
            .get_mut(place)
            .filter(|other| other.commit_ts == write.commit_ts)
        {
            // Only the mark of a rollback can stand where a commit goes: timestamps are given out once.
            Some(mark) => {
                *mark = Write {
                    overlapped_rollback: true,
                    ..write
                }
            }
            None => self.writes.insert(place, write),
        }
    }

    fn mark_rolled_back(&mut self, start_ts: u64) {
        let place = self.writes.partition_point(|other| other.commit_ts < start_ts);
        match self
            .writes
            .get_mut(place)
            .filter(|other| other.commit_ts == start_ts)
        {
            Some(write) if write.kind() == Kind::Rollback => {}
            Some(write) => write.overlapped_rollback = true,
            None => {
                let kind = Kind::Rollback.into();
                self.writes.insert(
                    place,
                    Write {
                        commit_ts: start_ts,
                        start_ts,
                        kind,
                        ..Write::default()
                    },
                );
            }
        }
    }

    fn collect_garbage(&mut self, safe_point: u64) {
        let old = self.writes.partition_point(|write| write.commit_ts <= safe_point);
        let is_data = |write: &Write| matches!(write.kind(), Kind::Put | Kind::Delete);
        let kept = self.writes.iter().take(old).rposition(is_data).filter(|index| {
            self.writes
                .get(*index)
                .is_some_and(|write| write.kind() == Kind::Put)
        });
        let mut index = 0;
        self.writes.retain(|_| {
            let keep = index >= old || Some(index) == kept;
            index += 1;
            keep
        });
    }
}

fn range<'a, T>(
    map: &'a BTreeMap<Key, T>,
    start: &[u8],
    end: &[u8],
) -> impl DoubleEndedIterator<Item = (&'a Key, &'a T)> {
    let upper = if end.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Excluded(end)
    };
    // An inverted range is empty; `BTreeMap::range` would panic.
    let is_empty = !end.is_empty() && start >= end;
    let lower = Bound::Included(start);
    (!is_empty)
        .then(|| map.range::<[u8], _>((lower, upper)))
        .into_iter()
        .flatten()
}

/// The rows as one request reads them; remembers the newest log record among what it was told.
#[derive(Debug)]
pub(crate) struct View<'a> {
    rows: &'a Rows,
    seen: Cell<u64>,
}

impl<'a> View<'a> {
    /// A view that has seen nothing.
    pub(crate) fn new(rows: &'a Rows) -> Self {
        Self {
            rows,
            seen: Cell::new(0),
        }
    }

    /// The log record that must be durable before what was read may be told.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.get()
    }

    fn columns(&self, key: &[u8]) -> Option<&'a Columns> {
        let columns = self.rows.keys.get(key)?;
        self.saw(columns);
        Some(columns)
    }

    fn saw(&self, columns: &Columns) {
        self.seen.set(self.seen.get().max(columns.changed_by));
    }

    /// The key's lock.
    pub(crate) fn lock_of(&self, key: &[u8]) -> Option<&'a Lock> {
        self.columns(key)?.lock.as_deref()
    }

    /// The key's newest write record of any kind.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<&'a Write> {
        self.columns(key)?.writes.last()
    }

    /// What a snapshot at `ts` sees of the key.
    pub(crate) fn value_at(&self, key: &[u8], ts: u64) -> Option<&'a [u8]> {
        visible(&self.columns(key)?.writes, ts)
    }

    /// How the transaction ended on this key, if it did.
    pub(crate) fn ended(&self, key: &[u8], start_ts: u64) -> Option<Ended> {
        // A transaction's record never stands before its start.
        let records = self
            .columns(key)?
            .writes
            .iter()
            .rev()
            .take_while(|write| write.commit_ts >= start_ts);
        for write in records {
            if write.start_ts == start_ts {
                let rolled_back = write.kind() == Kind::Rollback;
                return Some(if rolled_back {
                    Ended::RolledBack
                } else {
                    Ended::Committed(write.commit_ts)
                });
            }
            if write.commit_ts == start_ts && write.overlapped_rollback {
                return Some(Ended::RolledBack);
            }
        }
        None
    }

    /// The keys of a range with their lock and what a snapshot at `ts` sees; may be walked from its end.
    pub(crate) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        ts: u64,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Option<&'a Lock>, Option<&'a [u8]>)> {
        range(&self.rows.keys, start, end).map(move |(key, columns)| {
            self.saw(columns);
            (&**key, columns.lock.as_deref(), visible(&columns.writes, ts))
        })
    }

    /// The locked keys of a range.
    pub(crate) fn locks(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a Lock)> {
        let upper = if end.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(end)
        };
        let is_empty = !end.is_empty() && start >= end;
        let keys = (!is_empty).then(|| self.rows.locked.range::<[u8], _>((Bound::Included(start), upper)));
        keys.into_iter()
            .flatten()
            .filter_map(|key| Some((&**key, self.lock_of(key)?)))
    }
}

fn visible(writes: &[Write], ts: u64) -> Option<&[u8]> {
    let old = writes.partition_point(|write| write.commit_ts <= ts);
    let data = writes
        .iter()
        .take(old)
        .rev()
        .find(|write| matches!(write.kind(), Kind::Put | Kind::Delete))?;
    (data.kind() == Kind::Put).then_some(data.value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(rows: &mut Rows, key: &str, start_ts: u64, commit_ts: u64, kind: Kind, value: &str) {
        let lock = Lock {
            start_ts,
            kind: kind.into(),
            value: value.into(),
            ..Lock::default()
        };
        rows.lock(key.into(), lock, 1);
        rows.decide(
            Decision {
                key: key.into(),
                start_ts,
                commit_ts,
            },
            2,
        )
        .unwrap();
    }

    fn rollback(rows: &mut Rows, key: &str, start_ts: u64) {
        rows.decide(
            Decision {
                key: key.into(),
                start_ts,
                commit_ts: 0,
            },
            3,
        )
        .unwrap();
    }

    #[test]
    fn a_snapshot_sees_the_newest_version_at_its_time() {
        let mut rows = Rows::default();
        put(&mut rows, "a", 10, 11, Kind::Put, "one");
        put(&mut rows, "a", 20, 21, Kind::Put, "two");
        put(&mut rows, "a", 30, 31, Kind::Lock, "");
        put(&mut rows, "a", 40, 41, Kind::Delete, "");
        rollback(&mut rows, "a", 50);
        let view = View::new(&rows);
        let seen = [10, 11, 20, 21, 35, 41, 60].map(|ts| view.value_at(b"a", ts));
        let (one, two) = (Some(&b"one"[..]), Some(&b"two"[..]));
        assert_eq!(seen, [None, one, one, two, two, None, None]);
    }

    #[test]
    fn how_a_transaction_ended_is_remembered_even_where_timestamps_meet() {
        let mut rows = Rows::default();
        put(&mut rows, "a", 10, 12, Kind::Put, "one");
        rollback(&mut rows, "a", 11);
        rollback(&mut rows, "a", 12);
        rollback(&mut rows, "b", 30);
        put(&mut rows, "b", 29, 30, Kind::Put, "two");
        let view = View::new(&rows);
        assert_eq!(view.ended(b"a", 10), Some(Ended::Committed(12)));
        assert_eq!(view.ended(b"a", 11), Some(Ended::RolledBack));
        assert_eq!(view.ended(b"a", 12), Some(Ended::RolledBack));
        assert_eq!(view.ended(b"a", 9), None);
        assert_eq!(view.ended(b"b", 30), Some(Ended::RolledBack));
        assert_eq!(view.value_at(b"b", 30), Some(&b"two"[..]));
    }

    #[test]
    fn garbage_collection_changes_no_snapshot_at_or_above_the_safe_point() {
        let mut rows = Rows::default();
        for (key, last) in [("a", Kind::Put), ("b", Kind::Delete), ("c", Kind::Lock)] {
            put(&mut rows, key, 10, 11, Kind::Put, "one");
            put(&mut rows, key, 20, 21, last, "two");
            rollback(&mut rows, key, 22);
            put(&mut rows, key, 40, 41, Kind::Put, "three");
        }
        put(&mut rows, "gone", 10, 11, Kind::Delete, "");
        let reads = |rows: &Rows| {
            let view = View::new(rows);
            let at =
                |ts| ["a", "b", "c", "gone"].map(|key| view.value_at(key.as_bytes(), ts).map(<[u8]>::to_vec));
            [30, 40, 41, 50].map(at)
        };
        let before = reads(&rows);
        let mut from = Some(Vec::new());
        while let Some(at) = from {
            from = rows.collect_garbage(30, &at, 2);
        }
        assert_eq!(reads(&rows), before);
        assert_eq!(rows.counts(), (3, 0));
        assert_eq!(View::new(&rows).value_at(b"a", 11), None);
    }

    #[test]
    fn a_view_knows_the_newest_record_it_was_told_of() {
        let mut rows = Rows::default();
        rows.lock(b"a".to_vec(), Lock::default(), 5);
        rows.lock(b"b".to_vec(), Lock::default(), 9);
        let view = View::new(&rows);
        assert_eq!(view.seen(), 0);
        view.lock_of(b"a");
        assert_eq!(view.seen(), 5);
        assert_eq!(view.locks(b"", b"").count(), 2);
        assert_eq!(view.seen(), 9);
    }

    #[test]
    fn an_inverted_range_is_empty() {
        let mut rows = Rows::default();
        rows.lock(b"b".to_vec(), Lock::default(), 1);
        let view = View::new(&rows);
        assert_eq!(view.scan(b"c", b"a", 1).count(), 0);
        assert_eq!(view.locks(b"c", b"a").count(), 0);
        assert_eq!(view.scan(b"a", b"", 1).count(), 1);
    }
}
