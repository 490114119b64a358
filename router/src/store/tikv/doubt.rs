//! Own commits that were never seen whole: which heads cannot be built on, what is to be found out, and what their messages
//! would be answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use corelane_router_core::append::{Append, Appended};

use super::keys::ConvKey;
use super::known::Identity;
use super::rows::HeadRow;

/// Own commits of unknown outcome that are known one by one; with more of them all older heads count as another's.
const OPEN_MAX: usize = 64;
/// How long until they are looked at, at first and at most.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Messages of unknown outcome that are kept, and their bytes.
const ORPHANS_MAX: usize = 1_024;
const ORPHAN_BYTES_MAX: usize = 1024 * 1024;

/// A transaction of unknown outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Its primary key.
    pub(super) primary: Vec<u8>,
    /// Conversations that it may have left in pieces.
    pub(super) convs: BTreeSet<ConvKey>,
}

/// Own commits that were not seen whole.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// By start timestamp.
    open: BTreeMap<u64, Doubt>,
    /// All own heads up to this commit are doubted.
    up_to: u64,
    /// What was doubted is forgotten: everything before the next transaction is.
    are_lost: bool,
    /// Whether there may be outbox rows that nobody was told of.
    is_unswept: bool,
    /// When to look, and how long that was waited for.
    due: Duration,
    wait: Duration,
}

impl Doubts {
    /// After a failure of the writer: nothing is known of what was doubted.
    pub(super) fn lost(now: Duration) -> Self {
        let mut doubts = Self {
            are_lost: true,
            ..Self::default()
        };
        doubts.unsettled(now);
        doubts
    }

    /// A transaction ended without being seen.
    pub(super) fn add(&mut self, start: u64, doubt: Doubt, now: Duration) {
        self.open.insert(start, doubt);
        if self.open.len() > OPEN_MAX {
            let last = self.open.keys().next_back().copied();
            self.up_to = self.up_to.max(last.unwrap_or(0));
            self.open.clear();
        }
        self.unsettled(now);
    }

    /// A later transaction, which was seen, stands in for it.
    pub(super) fn remove(&mut self, start: u64) {
        self.open.remove(&start);
    }

    /// There may be outbox rows that nobody was told of.
    pub(super) fn unsettled(&mut self, now: Duration) {
        if !self.is_unswept {
            self.is_unswept = true;
            self.wait = WAIT_FIRST;
            self.due = now + self.wait;
        }
    }

    /// Everything was looked at.
    pub(super) fn settled(&mut self) {
        self.open.clear();
        self.is_unswept = false;
    }

    /// It could not be looked at: later.
    pub(super) fn put_off(&mut self, now: Duration) {
        self.wait = (self.wait * 2).min(WAIT_MAX);
        self.due = now + self.wait;
    }

    /// When to look; `None` while there is nothing to find out.
    pub(super) fn due(&self) -> Option<Duration> {
        self.is_unswept.then_some(self.due)
    }

    /// What is to be found out.
    pub(super) fn open(&self) -> Vec<(u64, Doubt)> {
        self.open
            .iter()
            .map(|(start, doubt)| (*start, doubt.clone()))
            .collect()
    }

    /// Whether one of them may have left a conversation in pieces. Its head may not show it: where that was not written, rows
    /// above it may have been, and the next message would take their place.
    pub(super) fn names(&self, conv: &ConvKey) -> bool {
        self.open.values().any(|doubt| doubt.convs.contains(conv))
    }

    pub(super) fn contains(&self, start: u64) -> bool {
        start <= self.up_to || self.open.contains_key(&start)
    }

    /// Whether a head was written by this boot, in a commit that was seen whole.
    pub(super) fn is_whole(&self, boot: u64, head: &HeadRow) -> bool {
        head.writer == boot && !self.contains(head.commit)
    }

    /// A transaction begins.
    pub(super) fn begins(&mut self, start: u64) {
        if std::mem::take(&mut self.are_lost) {
            self.up_to = start.saturating_sub(1);
        }
    }
}

/// What commits of unknown outcome would have answered: if they are there after all, their messages were published by
/// nobody, so a resend is answered as the first. Bounded: when it is full all of it is forgotten, and what was not published
/// is found in the outbox.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    known: HashMap<Identity, Vec<Appended>>,
    bytes: usize,
}

impl Orphans {
    pub(super) fn take(&mut self, append: &Append) -> Vec<Appended> {
        let conv = (append.app, append.conv.clone());
        let found = self
            .known
            .remove(&(conv, append.sender.clone(), append.client_msg_id));
        let found = found.unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(bytes_of(&found));
        found
    }

    pub(super) fn keep(&mut self, append: &Append, answers: Vec<Appended>) {
        if self.known.len() >= ORPHANS_MAX || self.bytes + bytes_of(&answers) > ORPHAN_BYTES_MAX {
            *self = Self::default();
        }
        self.bytes += bytes_of(&answers);
        let conv = (append.app, append.conv.clone());
        let before = self
            .known
            .insert((conv, append.sender.clone(), append.client_msg_id), answers);
        self.bytes = self.bytes.saturating_sub(bytes_of(&before.unwrap_or_default()));
    }
}

fn bytes_of(answers: &[Appended]) -> usize {
    answers
        .iter()
        .map(|answer| match answer {
            Appended::Stored { frame, .. } => frame.len(),
            Appended::Refused(..) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use corelane_protocol::id::{AppId, ConvId, UserId};

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn more_doubts_than_are_kept_make_everything_older_doubtful() {
        let mut doubts = Doubts::default();
        for start in 1..=OPEN_MAX as u64 {
            doubts.add(10 * start, Doubt::default(), NOW);
        }
        assert!(doubts.contains(20) && !doubts.contains(25));
        doubts.add(5, Doubt::default(), NOW);
        assert!(doubts.contains(25) && doubts.contains(640) && !doubts.contains(641));
        let mut doubts = Doubts::lost(NOW);
        doubts.begins(100);
        assert!(doubts.contains(99) && !doubts.contains(100));
        doubts.begins(200);
        assert!(!doubts.contains(150));
    }

    #[test]
    fn conversations_of_a_doubted_commit_are_doubted_whatever_their_heads_say() {
        let conv = |peer: &str| {
            let user = |name: &str| UserId::new(name).unwrap();
            (AppId(0), ConvId::direct(&user("alice"), &user(peer)))
        };
        let mut doubts = Doubts::default();
        let doubt = Doubt {
            convs: BTreeSet::from([conv("bob")]),
            ..Doubt::default()
        };
        doubts.add(7, doubt, NOW);
        assert!(doubts.names(&conv("bob")) && !doubts.names(&conv("carol")));
        doubts.settled();
        assert!(!doubts.names(&conv("bob")));
    }

    #[test]
    fn what_is_doubted_is_looked_at_until_it_is_settled() {
        let mut doubts = Doubts::default();
        assert_eq!(doubts.due(), None);
        doubts.add(7, Doubt::default(), NOW);
        doubts.add(8, Doubt::default(), NOW + WAIT_FIRST);
        assert_eq!(
            doubts.due(),
            Some(NOW + WAIT_FIRST),
            "a second one puts nothing off"
        );
        doubts.remove(7);
        assert_eq!(doubts.open().len(), 1);
        doubts.put_off(NOW);
        assert_eq!(doubts.due(), Some(NOW + 2 * WAIT_FIRST));
        (0..9).for_each(|_| doubts.put_off(NOW));
        assert_eq!(doubts.due(), Some(NOW + WAIT_MAX));
        doubts.settled();
        assert_eq!((doubts.due(), doubts.contains(8)), (None, false));
    }
}
