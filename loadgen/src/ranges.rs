//! Which places of a conversation a terminal has: everything up to one place, and islands beyond it.

/// A set of seqs that is dense at its start nearly always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    upto: u64,
    /// Sorted, disjoint, not touching each other or `upto`; both ends inclusive.
    islands: Vec<(u64, u64)>,
}

impl Ranges {
    /// All of 1 to `upto`.
    pub const fn upto(upto: u64) -> Self {
        Self {
            upto,
            islands: Vec::new(),
        }
    }

    /// Whether `seq` is in it.
    pub fn contains(&self, seq: u64) -> bool {
        seq <= self.upto || {
            let at = self.islands.partition_point(|(_, last)| *last < seq);
            self.islands.get(at).is_some_and(|(first, _)| *first <= seq)
        }
    }

    /// Adds `seq`; false if it was there.
    pub fn insert(&mut self, seq: u64) -> bool {
        if seq == self.upto + 1 {
            self.upto = seq;
            self.absorb();
            return true;
        }
        if self.contains(seq) {
            return false;
        }
        let at = self.islands.partition_point(|(_, last)| *last < seq);
        let joins_before = at > 0 && self.islands.get(at - 1).is_some_and(|(_, last)| last + 1 == seq);
        let joins_after = self.islands.get(at).is_some_and(|(first, _)| seq + 1 == *first);
        match (joins_before, joins_after) {
            (true, true) => {
                let (_, last) = self.islands.remove(at);
                if let Some(before) = self.islands.get_mut(at - 1) {
                    before.1 = last;
                }
            }
            (true, false) => {
                if let Some(before) = self.islands.get_mut(at - 1) {
                    before.1 = seq;
                }
            }
            (false, true) => {
                if let Some(after) = self.islands.get_mut(at) {
                    after.0 = seq;
                }
            }
            (false, false) => self.islands.insert(at, (seq, seq)),
        }
        true
    }

    /// Adds everything from `first` to `last`.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // Islands that it overlaps or touches become one with it.
        let from = self
            .islands
            .partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self
            .islands
            .partition_point(|(start, _)| *start <= last.saturating_add(1));
        let touched = self.islands.get(from..to).unwrap_or(&[]);
        let start = touched.first().map_or(first, |(start, _)| first.min(*start));
        let end = touched.last().map_or(last, |(_, end)| last.max(*end));
        self.islands.splice(from..to, [(start, end)]);
        self.absorb();
    }

    /// Everything up to here is in it.
    pub const fn complete_upto(&self) -> u64 {
        self.upto
    }

    /// The highest seq in it.
    pub fn last(&self) -> u64 {
        self.islands.last().map_or(self.upto, |(_, last)| *last)
    }

    /// What is missing up to and with `head`.
    pub fn holes(&self, head: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let ends = self.islands.iter().copied().chain([(u64::MAX, u64::MAX)]);
        ends.scan(self.upto, move |before, (first, last)| {
            let hole = (*before + 1, (first - 1).min(head));
            *before = last;
            Some(hole)
        })
        .filter(|(first, last)| first <= last)
    }

    /// How many are missing up to and with `head`.
    pub fn holes_count(&self, head: u64) -> u64 {
        self.holes(head).map(|(first, last)| last - first + 1).sum()
    }

    /// How many up to and with `head` are neither in it nor in `other`.
    pub fn common_holes_count(&self, other: &Self, head: u64) -> u64 {
        let overlap = |(first, last): (u64, u64)| {
            other
                .holes(last)
                .map(move |(start, end)| (end + 1).saturating_sub(start.max(first)))
                .sum::<u64>()
        };
        self.holes(head).map(overlap).sum()
    }

    fn absorb(&mut self) {
        while let Some((first, last)) = self.islands.first().copied() {
            if first > self.upto + 1 {
                break;
            }
            self.upto = self.upto.max(last);
            self.islands.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeSet;

    #[test]
    fn it_agrees_with_a_plain_set() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed, 0);
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for _ in 0..60 {
                let seq = 1 + rng.below(40);
                assert_eq!(ranges.insert(seq), set.insert(seq), "seed {seed}");
                if rng.below(20) == 0 {
                    let last = (seq + rng.below(8)).saturating_sub(2);
                    ranges.insert_range(seq, last);
                    set.extend(seq..=last);
                }
            }
            let mut other = Ranges::default();
            other.insert_range(1 + rng.below(10), 10 + rng.below(10));
            let common = (1..=45).filter(|seq| !set.contains(seq) && !other.contains(*seq));
            assert_eq!(
                ranges.common_holes_count(&other, 45),
                common.count() as u64,
                "seed {seed}"
            );
            for seq in 1..=42 {
                assert_eq!(ranges.contains(seq), set.contains(&seq), "seed {seed}");
            }
            for head in [0, 1, 20, 45] {
                let holes: Vec<u64> = ranges.holes(head).flat_map(|(a, b)| a..=b).collect();
                let expected: Vec<u64> = (1..=head).filter(|seq| !set.contains(seq)).collect();
                assert_eq!(holes, expected, "seed {seed}");
                assert_eq!(ranges.holes_count(head), expected.len() as u64, "seed {seed}");
            }
            assert_eq!(ranges.last(), set.last().copied().unwrap_or(0));
        }
    }
}
