//! When a partition that brings nothing is believed to stand still, to have lost records, or to be gone.
//!
//! Owns what was seen of each partition at earlier looks. One look proves nothing: a broker that just came back may not
//! know a topic yet, or not all of its records. What ends a topic must be seen twice, [`GONE_AFTER`] apart.

use std::time::Duration;

/// How far apart a topic must be missed twice to be gone.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(2);
/// Looks at which a partition stood before its end, at the same place, before it is read anew.
const STALLED_LOOKS: u32 = 2;
/// Looks after which reading anew did not help and the consumer is replaced.
const HOPELESS_LOOKS: u32 = 4;

/// What was seen.
#[derive(Debug)]
pub(super) struct Watch {
    partitions: Vec<Seen>,
    missed_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Where it stood at the last look.
    next: Option<u64>,
    /// Looks in a row at which it stood there before its end.
    stood: u32,
    beyond_since: Option<Duration>,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing is wrong that was seen long enough.
    Fine,
    /// The first offset that is left.
    Lost(u64),
    /// It stands behind the end.
    Beyond,
    /// It stands behind the end for good: this is not the topic that was read.
    Gone,
    /// It stands still before its end.
    Stalled,
    /// As before, although it was read anew.
    StalledAgain,
}

impl Watch {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            partitions: vec![Seen::default(); partitions],
            missed_since: None,
        }
    }

    /// Whether a partition stands where it stood at the last look. This is the look.
    pub(super) fn has_rested(&mut self, partition: u16, next: u64) -> bool {
        let Some(seen) = self.partitions.get_mut(usize::from(partition)) else {
            return false;
        };
        let has_rested = seen.next == Some(next);
        if !has_rested {
            *seen = Seen {
                next: Some(next),
                ..Seen::default()
            };
        }
        has_rested
    }

    /// What a partition's ends say of where it stood.
    pub(super) fn find(
        &mut self,
        partition: u16,
        stood: u64,
        first: Option<u64>,
        end: u64,
        now: Duration,
    ) -> Finding {
        let Some(seen) = self.partitions.get_mut(usize::from(partition)) else {
            return Finding::Fine;
        };
        if let Some(first) = first.filter(|first| *first > stood) {
            *seen = Seen::default();
            return Finding::Lost(first);
        }
        if end < stood {
            let since = *seen.beyond_since.get_or_insert(now);
            let is_long = now.saturating_sub(since) >= GONE_AFTER;
            return if is_long { Finding::Gone } else { Finding::Beyond };
        }
        seen.beyond_since = None;
        if end == stood {
            seen.stood = 0;
            return Finding::Fine;
        }
        seen.stood += 1;
        match seen.stood {
            STALLED_LOOKS => Finding::Stalled,
            looks if looks > STALLED_LOOKS => Finding::StalledAgain,
            _ => Finding::Fine,
        }
    }

    /// Whether reading anew did not help.
    pub(super) fn is_hopeless(&self, partition: u16) -> bool {
        let seen = self.partitions.get(usize::from(partition));
        seen.is_some_and(|seen| seen.stood >= HOPELESS_LOOKS)
    }

    /// A broker does not know the topic. True: it is gone.
    pub(super) fn topic_missed(&mut self, now: Duration) -> bool {
        let since = *self.missed_since.get_or_insert(now);
        now.saturating_sub(since) >= GONE_AFTER
    }

    /// The topic is there, or nobody knows.
    pub(super) fn topic_unknown(&mut self) {
        self.missed_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_partition_is_stalled_when_two_looks_find_it_at_one_place_before_its_end() {
        let mut watch = Watch::new(2);
        assert!(!watch.has_rested(0, 5), "seen for the first time");
        assert!(watch.has_rested(0, 5));
        assert_eq!(watch.find(0, 5, None, 6, at(2)), Finding::Fine);
        assert_eq!(
            watch.find(1, 5, None, 6, at(2)),
            Finding::Fine,
            "another partition"
        );
        assert_eq!(watch.find(0, 5, None, 6, at(4)), Finding::Stalled);
        assert!(!watch.is_hopeless(0));
        assert_eq!(watch.find(0, 5, None, 7, at(6)), Finding::StalledAgain);
        assert_eq!(watch.find(0, 5, None, 7, at(8)), Finding::StalledAgain);
        assert!(watch.is_hopeless(0));
        assert!(!watch.has_rested(0, 6), "it moved");
        assert_eq!(watch.find(0, 6, None, 7, at(10)), Finding::Fine);
        assert_eq!(watch.find(0, 6, None, 6, at(12)), Finding::Fine);
        assert_eq!(
            watch.find(0, 6, None, 7, at(14)),
            Finding::Fine,
            "it had caught up"
        );
    }

    #[test]
    fn what_retention_took_is_lost_at_once_and_a_place_behind_the_end_only_after_a_while() {
        let mut watch = Watch::new(1);
        assert_eq!(watch.find(0, 5, Some(9), 12, at(1)), Finding::Lost(9));
        assert_eq!(watch.find(0, 9, Some(0), 3, at(2)), Finding::Beyond);
        assert_eq!(watch.find(0, 9, Some(0), 3, at(3)), Finding::Beyond);
        assert_eq!(
            watch.find(0, 9, Some(0), 9, at(4)),
            Finding::Fine,
            "the broker had not known all of it"
        );
        assert_eq!(watch.find(0, 9, None, 3, at(10)), Finding::Beyond);
        assert_eq!(watch.find(0, 9, None, 3, at(12)), Finding::Gone);
    }

    #[test]
    fn a_topic_is_gone_when_it_is_missed_twice_with_time_between() {
        let mut watch = Watch::new(1);
        assert!(!watch.topic_missed(at(10)));
        assert!(!watch.topic_missed(at(11)));
        watch.topic_unknown();
        assert!(!watch.topic_missed(at(12)));
        assert!(watch.topic_missed(at(14)));
    }
}
