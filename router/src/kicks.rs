//! Kicks on their way to shards that this router may have no link to, or only one that is about to end.
//!
//! Owns the kicks that wait for a link, and those that were sent in the last [`SENT_KEPT`]: a link that nobody reads any
//! more takes as long to end, and the shard's next link gets them again. Repeating one does no harm, it names the claim
//! that it is about. At most [`KICKS_MAX`] are kept; one more and the oldest is dropped, and counted: its session stays
//! until the registry's own pass over the routes finds it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::hub::Outgoing;

/// Most kicks that are kept: about 10 MB.
pub(crate) const KICKS_MAX: usize = 65_536;
/// Longer than a link can be dead without anybody noticing.
const SENT_KEPT: Duration = Duration::from_secs(20);

/// A shard of a gateway's boot.
type Shard = (u64, u16);

#[derive(Debug)]
struct Kept {
    shard: Shard,
    kick: Outgoing,
    at: Duration,
    is_sent: bool,
}

/// The kicks that are kept, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    kept: VecDeque<Kept>,
    waiting: usize,
    dropped: u64,
}

impl Kicks {
    /// Keeps a kick that was sent, or waits for a link.
    pub(crate) fn keep(&mut self, now: Duration, shard: Shard, kick: Outgoing, is_sent: bool) {
        let is_over = |kept: &mut Kept| kept.is_sent && now.saturating_sub(kept.at) > SENT_KEPT;
        while self.kept.pop_front_if(is_over).is_some() {}
        if self.kept.len() >= KICKS_MAX {
            self.make_room(now);
        }
        self.waiting += usize::from(!is_sent);
        self.kept.push_back(Kept {
            shard,
            kick,
            at: now,
            is_sent,
        });
    }

    fn make_room(&mut self, now: Duration) {
        self.kept
            .retain(|kept| !kept.is_sent || now.saturating_sub(kept.at) <= SENT_KEPT);
        if self.kept.len() < KICKS_MAX {
            return;
        }
        if let Some(oldest) = self.kept.pop_front() {
            self.waiting -= usize::from(!oldest.is_sent);
            self.dropped += u64::from(!oldest.is_sent);
        }
    }

    /// What a new link of a shard must be told. From here on it counts as sent.
    pub(crate) fn sent_again(&mut self, now: Duration, shard: Shard) -> Vec<Outgoing> {
        let mut kicks = Vec::new();
        for kept in self.kept.iter_mut().filter(|kept| kept.shard == shard) {
            if !kept.is_sent {
                kept.is_sent = true;
                kept.at = now;
                self.waiting -= 1;
            }
            kicks.push(kept.kick.clone());
        }
        kicks
    }

    /// Forgets those for a boot that is gone.
    pub(crate) fn forget(&mut self, boot: u64) {
        self.kept.retain(|kept| kept.shard.0 != boot);
        self.waiting = self.kept.iter().filter(|kept| !kept.is_sent).count();
    }

    /// How many wait for a link.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
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
}
