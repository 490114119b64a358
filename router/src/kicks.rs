//! Kicks on their way to shards that this router may have no link to, or only one that is about to end.
//!
//! Owns the kicks that wait for a link, and those that were sent in the last [`SENT_KEPT`]: a link that nobody reads any
//! more takes as long to end, and the shard's next link gets them again. Repeating one does no harm, it names the claim
//! that it is about. At most [`KICKS_MAX`] are kept; one more and the oldest is dropped, and counted: its session stays
//! until the next comparison of routes finds it (`sessions.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::hub::Outgoing;

/// Most kicks that are kept: about 15 MB.
pub(crate) const KICKS_MAX: usize = 65_536;
/// Longer than a link can be dead without anybody noticing.
const SENT_KEPT: Duration = Duration::from_secs(20);

/// A shard of a gateway's boot.
type Shard = (u64, u16);

#[derive(Debug)]
struct Kept {
    shard: Shard,
    kick: Outgoing,
    sent_at: Option<Duration>,
}

/// The kicks that are kept, by numbers that count up. However many there are, one more costs no pass over them: logins
/// come in storms, and links wait for the lock that these are behind.
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    kept: HashMap<u64, Kept>,
    next: u64,
    by_shard: BTreeMap<Shard, BTreeSet<u64>>,
    waiting: BTreeSet<u64>,
    sent: BTreeSet<(Duration, u64)>,
    dropped: u64,
}

impl Kicks {
    /// Keeps a kick that was sent, or waits for a link.
    pub(crate) fn keep(&mut self, now: Duration, shard: Shard, kick: Outgoing, is_sent: bool) {
        self.expire(now);
        if self.kept.len() >= KICKS_MAX {
            self.make_room();
        }
        let number = self.next;
        self.next += 1;
        let sent_at = is_sent.then_some(now);
        match sent_at {
            Some(at) => self.sent.insert((at, number)),
            None => self.waiting.insert(number),
        };
        self.by_shard.entry(shard).or_default().insert(number);
        self.kept.insert(number, Kept { shard, kick, sent_at });
    }

    /// Drops those that were sent long ago.
    fn expire(&mut self, now: Duration) {
        while let Some((at, number)) = self.sent.first().copied()
            && now.saturating_sub(at) > SENT_KEPT
        {
            self.remove(number);
        }
    }

    /// Drops the oldest: of those that were sent, which most likely arrived, else of those that wait.
    fn make_room(&mut self) {
        if let Some((_, oldest)) = self.sent.first().copied() {
            self.remove(oldest);
        } else if let Some(oldest) = self.waiting.first().copied() {
            self.remove(oldest);
            self.dropped += 1;
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(kept) = self.kept.remove(&number) else {
            return;
        };
        match kept.sent_at {
            Some(at) => self.sent.remove(&(at, number)),
            None => self.waiting.remove(&number),
        };
        if let Some(numbers) = self.by_shard.get_mut(&kept.shard) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_shard.remove(&kept.shard);
            }
        }
    }

    /// What a new link of a shard must be told. From here on it counts as sent.
    pub(crate) fn sent_again(&mut self, now: Duration, shard: Shard) -> Vec<Outgoing> {
        self.expire(now);
        let mut kicks = Vec::new();
        for number in self.by_shard.get(&shard).into_iter().flatten() {
            let Some(kept) = self.kept.get_mut(number) else {
                continue;
            };
            if kept.sent_at.is_none() {
                kept.sent_at = Some(now);
                self.waiting.remove(number);
                self.sent.insert((now, *number));
            }
            kicks.push(kept.kick.clone());
        }
        kicks
    }

    /// Forgets those for a boot that is gone.
    pub(crate) fn forget(&mut self, boot: u64) {
        let shards = self.by_shard.range((boot, 0)..=(boot, u16::MAX));
        let numbers: Vec<u64> = shards.flat_map(|(_, numbers)| numbers).copied().collect();
        for number in numbers {
            self.remove(number);
        }
    }

    /// How many wait for a link.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many were dropped and never sent.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use corelane_protocol::link::record::RecordKind;

    use super::*;

    fn kick(conn: u64) -> Outgoing {
        Outgoing {
            kind: RecordKind::Kick,
            priority: 0,
            conn,
            reference: 0,
            body: Vec::new(),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_kick_waits_for_the_first_link_of_its_shard() {
        let mut kicks = Kicks::default();
        kicks.keep(at(1), (7, 0), kick(1), false);
        kicks.keep(at(1), (7, 1), kick(2), false);
        assert!(kicks.sent_again(at(500), (8, 0)).is_empty());
        assert_eq!(
            kicks.sent_again(at(500), (7, 0)),
            [kick(1)],
            "however late it comes"
        );
        assert_eq!(kicks.waiting(), 1);
        kicks.forget(7);
        assert_eq!(kicks.waiting(), 0);
        assert!(kicks.sent_again(at(501), (7, 1)).is_empty());
    }

    #[test]
    fn what_went_to_a_link_that_may_have_been_dead_goes_to_the_next_one_too() {
        let mut kicks = Kicks::default();
        kicks.keep(at(1), (7, 0), kick(1), true);
        assert_eq!(kicks.sent_again(at(10), (7, 0)), [kick(1)]);
        kicks.keep(at(22), (7, 0), kick(2), true);
        assert_eq!(kicks.sent_again(at(22), (7, 0)), [kick(2)], "20 s are over");
        assert_eq!((kicks.waiting(), kicks.dropped()), (0, 0));
    }

    #[test]
    fn the_oldest_gives_way_when_too_many_wait() {
        let mut kicks = Kicks::default();
        for conn in 0..=KICKS_MAX as u64 {
            kicks.keep(at(1), (7, 0), kick(conn), false);
        }
        assert_eq!((kicks.waiting(), kicks.dropped()), (KICKS_MAX, 1));
        assert_eq!(kicks.sent_again(at(2), (7, 0)).first(), Some(&kick(1)));
    }

    #[test]
    fn what_was_sent_gives_way_before_what_waits() {
        let mut kicks = Kicks::default();
        kicks.keep(at(1), (7, 0), kick(1), false);
        for conn in 2..=2 * KICKS_MAX as u64 {
            kicks.keep(at(2), (7, 1), kick(conn), true);
        }
        assert_eq!((kicks.waiting(), kicks.dropped()), (1, 0));
        assert_eq!(kicks.sent_again(at(3), (7, 0)), [kick(1)]);
        kicks.forget(7);
        assert!(kicks.kept.is_empty() && kicks.by_shard.is_empty() && kicks.sent.is_empty());
    }

    /// With a pass over all that are kept for each, this took minutes.
    #[test]
    fn a_storm_of_logins_costs_no_pass_over_all_kicks_for_each() {
        let storm = 16 * KICKS_MAX as u64;
        let clock = crate::clock::Clock::start();
        let mut kicks = Kicks::default();
        for conn in 0..storm {
            kicks.keep(at(1), (7, (conn % 64) as u16), kick(conn), true);
        }
        for shard in 0..64 {
            assert!(!kicks.sent_again(at(2), (7, shard)).is_empty());
        }
        let took = clock.now().mono;
        assert!(took < at(20), "{storm} kicks took {took:?}");
    }
}
