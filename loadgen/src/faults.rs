//! The faults of one connection, and what is put down to them.
//!
//! A fault is the end of the connection, a `Resync`, or a send that was answered `retry` or `unavailable`. It explains
//! frames that come twice or late for `FAULT_ECHO_NS` behind it. What a fault sets loose may overtake the word of it,
//! so a broken rule counts only when no fault follows within `SUSPECT_NS`. Nothing is put down to faults of others.
//!
//! Where faults are made on purpose, what comes twice, late, or back to its sender is put down to them wherever it comes:
//! a router that takes over publishes again what the dead one may have published, to terminals whose connections stand.
//! What never comes is not.

use crate::shared::Tally;
use crate::verify::{GAP_AGE_NS, Moment, Verdict};

/// How long after a fault doubled and swapped frames are put down to it.
const FAULT_ECHO_NS: u64 = 10_000_000_000;
/// How long before the word of a fault they are.
const SUSPECT_NS: u64 = 2_000_000_000;
/// Most frames that wait for a fault that explains them; more are counted at once.
const SUSPECTS_MAX: usize = 1_000;

/// Faults of one connection.
#[derive(Debug)]
pub struct Faults {
    /// They are made on purpose.
    are_expected: bool,
    gap_age_ns: u64,
    count: u64,
    last_ns: u64,
    /// Frames that broke a rule, and when.
    suspects: Vec<(u64, Verdict)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Faults {
    /// None so far. Where they are made on purpose, `settle_ns` is how long they may take to be mended: a gap that was open
    /// for less when a fault is told of may be its doing.
    pub fn new(settle_ns: Option<u64>) -> Self {
        Self {
            are_expected: settle_ns.is_some(),
            gap_age_ns: settle_ns.map_or(GAP_AGE_NS, |settle_ns| settle_ns.max(GAP_AGE_NS)),
            count: 0,
            last_ns: 0,
            suspects: Vec::new(),
        }
    }

    /// A gap that has been open so long is not put down to a fault that comes then.
    pub const fn gap_age_ns(&self) -> u64 {
        self.gap_age_ns
    }

    /// A fault.
    pub fn note(&mut self, now_ns: u64, tally: &mut Tally) {
        self.count += 1;
        self.last_ns = now_ns;
        tally.faults += 1;
        for (at_ns, verdict) in self.suspects.drain(..) {
            let is_explained = at_ns + SUSPECT_NS >= now_ns;
            count(if is_explained { explained(verdict) } else { verdict }, tally);
        }
    }

    /// The connection stands again: what its end explains goes on until now.
    pub fn is_back(&mut self, now_ns: u64) {
        self.last_ns = now_ns;
    }

    /// How things stand.
    pub const fn moment(&self, now_ns: u64) -> Moment {
        Moment {
            now_ns,
            epoch: self.count,
            calm: self.is_calm(now_ns),
            gap_age_ns: self.gap_age_ns,
        }
    }

    /// No fault in the last seconds.
    pub const fn is_calm(&self, now_ns: u64) -> bool {
        self.last_ns == 0 || now_ns > self.last_ns + FAULT_ECHO_NS
    }

    /// Whether a message sent at `sent_ns` may come back to its sender: it may belong to an earlier connection, or the
    /// router that knew its connection is gone.
    pub const fn may_return(&self, sent_ns: u64) -> bool {
        sent_ns < self.last_ns
    }

    /// Counts a frame.
    pub fn judge(&mut self, verdict: Verdict, now_ns: u64, tally: &mut Tally) {
        if !matches!(verdict, Verdict::Doubled | Verdict::Reordered | Verdict::Returned) {
            return count(verdict, tally);
        }
        if self.are_expected {
            return count(explained(verdict), tally);
        }
        let old = self
            .suspects
            .partition_point(|(at_ns, _)| at_ns + SUSPECT_NS < now_ns);
        for (_, verdict) in self.suspects.drain(..old) {
            count(verdict, tally);
        }
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.push((now_ns, verdict));
        } else {
            count(verdict, tally);
        }
    }

    /// No fault will follow any more.
    pub fn settle(&mut self, tally: &mut Tally) {
        for (_, verdict) in self.suspects.drain(..) {
            count(verdict, tally);
        }
    }
}

/// The same frame beside a fault.
const fn explained(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Doubled | Verdict::Returned => Verdict::Redelivered,
        Verdict::Reordered => Verdict::Late,
        other => other,
    }
}

const fn count(verdict: Verdict, tally: &mut Tally) {
    match verdict {
        Verdict::New => {}
        Verdict::Late => tally.late += 1,
        Verdict::Redelivered => tally.redelivered += 1,
        Verdict::Doubled => tally.duplicated += 1,
        Verdict::Reordered => tally.reordered += 1,
        Verdict::Returned => tally.returned += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_fault_is_remembered_for_a_while() {
        let (mut faults, mut tally) = (Faults::default(), Tally::default());
        assert!(faults.is_calm(5));
        faults.note(100 * S, &mut tally);
        assert!(!faults.is_calm(101 * S));
        assert!(faults.is_calm(101 * S + FAULT_ECHO_NS));
        faults.is_back(130 * S);
        assert!(!faults.is_calm(131 * S) && faults.may_return(129 * S) && !faults.may_return(131 * S));
        assert_eq!((faults.moment(0).epoch, tally.faults), (1, 1));
    }

    #[test]
    fn only_what_comes_shortly_before_a_fault_is_put_down_to_it() {
        let (mut faults, mut tally) = (Faults::default(), Tally::default());
        for (at_ns, verdict) in [
            (90 * S, Verdict::Doubled),
            (99 * S, Verdict::Doubled),
            (99 * S, Verdict::Returned),
            (99 * S, Verdict::Reordered),
        ] {
            faults.judge(verdict, at_ns, &mut tally);
        }
        faults.note(100 * S, &mut tally);
        let found = (
            tally.duplicated,
            tally.redelivered,
            tally.returned,
            tally.late,
            tally.reordered,
        );
        assert_eq!(found, (1, 2, 0, 1, 0));
        faults.judge(Verdict::Reordered, 120 * S, &mut tally);
        assert_eq!(tally.reordered, 0);
        faults.settle(&mut tally);
        assert_eq!(tally.reordered, 1);
    }

    #[test]
    fn what_breaks_the_rules_by_the_thousand_is_counted_at_once() {
        let (mut faults, mut tally) = (Faults::default(), Tally::default());
        (0..=SUSPECTS_MAX).for_each(|_| faults.judge(Verdict::Doubled, S, &mut tally));
        assert_eq!(tally.duplicated, 1);
    }

    #[test]
    fn where_faults_are_made_on_purpose_nothing_waits_for_one_of_its_own() {
        let (mut faults, mut tally) = (Faults::new(Some(30 * S)), Tally::default());
        for verdict in [Verdict::Doubled, Verdict::Returned, Verdict::Reordered] {
            faults.judge(verdict, S, &mut tally);
        }
        faults.settle(&mut tally);
        let strict = (tally.duplicated, tally.returned, tally.reordered);
        assert_eq!((strict, tally.redelivered, tally.late), ((0, 0, 0), 2, 1));
        assert_eq!(faults.gap_age_ns(), 30 * S);
        assert_eq!(Faults::new(Some(0)).gap_age_ns(), Faults::default().gap_age_ns());
    }
}
