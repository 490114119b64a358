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
            }
            for seq in 1..=42 {
                assert_eq!(ranges.contains(seq), set.contains(&seq), "seed {seed}");
            }
            for head in [0, 1, 20, 45] {
                let holes: Vec<u64> = ranges.holes(head).flat_map(|(a, b)| a..=b).collect();
                let expected: Vec<u64> = (1..=head).filter(|seq| !set.contains(seq)).collect();
                assert_eq!(holes, expected, "seed {seed}");
            }
            assert_eq!(ranges.last(), set.last().copied().unwrap_or(0));
        }
    }
}
