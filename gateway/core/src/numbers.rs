//! Which of a router's numbered records were taken: everything up to a number, and some above it.
//!
//! Owns at most [`AHEAD_MAX`] numbers above the first gap. When there are more, the gap is given up: whoever asks is
//! told that something is lost, and the sessions are told to sync. So it is with what the bus declares lost: nobody can
//! send it again, and counting goes on with the next number that comes.

use std::collections::BTreeSet;

use crate::planted::Bug;

/// Most numbers remembered above the first gap.
const AHEAD_MAX: usize = 65_536;
/// Most gaps in a report.
const GAPS_REPORTED: usize = 256;

/// What a number turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Not seen before; so many numbers directly below it are missing.
    New { gap: u64 },
    /// Seen before.
    Repeated,
    /// Not seen before, and a gap below it was given up.
    Lost,
}

/// The numbers of one router boot and partition.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Everything up to here was taken.
    done: u64,
    ahead: BTreeSet<u64>,
}

impl Numbers {
    pub(crate) fn take(&mut self, number: u64) -> Taken {
        if number <= self.done || self.ahead.contains(&number) {
            return Taken::Repeated;
        }
        if number == self.done + 1 || Bug::GapIgnored.is_planted() {
            self.done = number;
            self.close_up();
            return Taken::New { gap: 0 };
        }
        let below = self
            .ahead
            .range(..number)
            .next_back()
            .copied()
            .unwrap_or(self.done);
        self.ahead.insert(number);
        if self.ahead.len() > AHEAD_MAX {
            self.give_up_gaps();
            return Taken::Lost;
        }
        Taken::New {
            gap: number - below - 1,
        }
    }

    /// Gives up the gaps below what was seen.
    pub(crate) fn give_up_gaps(&mut self) {
        self.done = self.ahead.last().copied().unwrap_or(self.done);
        self.ahead.clear();
    }

    /// Gives up everything below a number that is above all that were seen.
    pub(crate) fn skip_to(&mut self, number: u64) {
        debug_assert!(number > self.done && self.ahead.is_empty(), "gaps were given up");
        self.done = number - 1;
    }

    fn close_up(&mut self) {
        while self.ahead.first() == Some(&(self.done + 1)) {
            self.ahead.pop_first();
            self.done += 1;
        }
    }

    pub(crate) const fn done(&self) -> u64 {
        self.done
    }

    /// Missing numbers below one that was seen.
    pub(crate) fn gaps(&self) -> Vec<u64> {
        let mut gaps = Vec::new();
        let mut expected = self.done + 1;
        for seen in &self.ahead {
            gaps.extend((expected..*seen).take(GAPS_REPORTED - gaps.len()));
            if gaps.len() == GAPS_REPORTED {
                break;
            }
            expected = seen + 1;
        }
        gaps
    }

    pub(crate) fn has_gaps(&self) -> bool {
        !self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_named_until_they_are_filled() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(1), Taken::New { gap: 0 });
        assert_eq!(numbers.take(4), Taken::New { gap: 2 });
        assert_eq!(numbers.take(6), Taken::New { gap: 1 });
        assert_eq!(numbers.take(4), Taken::Repeated);
        assert_eq!((numbers.done(), numbers.gaps()), (1, vec![2, 3, 5]));
        numbers.take(3);
        numbers.take(2);
        assert_eq!((numbers.done(), numbers.gaps()), (4, vec![5]));
        numbers.take(5);
        assert_eq!((numbers.done(), numbers.has_gaps()), (6, false));
    }

    #[test]
    fn a_gap_that_is_never_filled_is_given_up() {
        let mut numbers = Numbers::default();
        let lost = (2..1_000_000)
            .map(|number| numbers.take(number))
            .position(|taken| taken == Taken::Lost);
        assert_eq!(lost, Some(AHEAD_MAX));
        assert_eq!(numbers.done(), AHEAD_MAX as u64 + 2);
        assert_eq!(numbers.take(1), Taken::Repeated);
    }

    #[test]
    fn a_huge_gap_reports_only_its_first_numbers() {
        let mut numbers = Numbers::default();
        numbers.take(u64::MAX - 1);
        assert_eq!(numbers.gaps().len(), GAPS_REPORTED);
    }
}
