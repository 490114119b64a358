//! One conversation as the store keeps it: its head, its messages, who is in it, and how far each has read.
//!
//! The head says who wrote it last, in which commit, and where that commit began in the conversation: whoever meets a
//! head that he does not know to be whole looks the conversation through from there (`mend.rs`).

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::id::{ClientMsgId, ConvId, UserId};
use corelane_router_core::append::{Dedupe, Head, MemberChange};

/// A message of the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// `None`: a void record, which is for nobody.
    pub(crate) sender: Option<UserId>,
    pub(crate) id: ClientMsgId,
    /// When it was seen first, on the clock of the run.
    pub(crate) stored_at: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) frame: Vec<u8>,
    /// What its dedupe row says.
    pub(crate) dedupe: Dedupe,
    /// Of a change of members: what it changes.
    pub(crate) change: Option<MemberChange>,
}

/// Who wrote a head, and when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Author {
    /// Boot of the router.
    pub(crate) writer: u64,
    pub(crate) commit: u64,
    /// First place of that commit.
    pub(crate) first_seq: u64,
}

/// Joins and leaves of one user; `u64::MAX` for "is there".
pub(crate) type Stays = Vec<(u64, u64)>;

/// A conversation.
#[derive(Debug, Default)]
pub(crate) struct Conv {
    pub(crate) head: Head,
    pub(crate) author: Author,
    /// By place. There are holes only where a commit was torn, and messages above the head.
    pub(crate) log: BTreeMap<u64, Entry>,
    /// Of groups.
    pub(crate) members: BTreeMap<UserId, Stays>,
    /// Whose joins or leaves were made or unmade by mending. Who read the members before that goes by what he read until
    /// they change again: their version is the same.
    pub(crate) mended: BTreeSet<UserId>,
    /// Read marks: seq and n.
    pub(crate) reads: BTreeMap<UserId, (u64, u64)>,
}

impl Conv {
    pub(crate) fn is_member(&self, user: &UserId) -> bool {
        let stay = self.members.get(user).and_then(|stays| stays.last());
        stay.is_some_and(|(_, leave)| *leave == u64::MAX)
    }

    pub(crate) fn present(&self) -> impl Iterator<Item = &UserId> {
        self.members.keys().filter(|user| self.is_member(user))
    }

    /// Countable messages up to a place.
    pub(crate) fn n_at(&self, seq: u64) -> u64 {
        if seq == self.head.seq {
            return self.head.n;
        }
        self.log.get(&seq).map_or(0, |entry| entry.dedupe.n)
    }

    /// Last place that anything is at.
    pub(crate) fn end(&self) -> u64 {
        let above = self.log.last_key_value().map_or(0, |(seq, _)| *seq);
        above.max(self.head.seq)
    }

    /// Last place of a message that is for somebody.
    pub(crate) fn last_said(&self) -> u64 {
        let is_said = |(_, entry): &(&u64, &Entry)| entry.sender.is_some();
        self.log.iter().rev().find(is_said).map_or(0, |(seq, _)| *seq)
    }

    /// Members come and go with the message at `seq`, `n` countable ones up to it. Once more changes nothing.
    pub(crate) fn change(&mut self, change: &MemberChange, seq: u64, n: u64) {
        for user in &change.join {
            let has_joined = |stays: &Stays| stays.iter().any(|(join, _)| *join == seq);
            if !self.is_member(user) && !self.members.get(user).is_some_and(has_joined) {
                let stays = self.members.entry(user.clone()).or_default();
                stays.push((seq, u64::MAX));
                // What was said before he came is not unread for him.
                self.reads.insert(user.clone(), (seq - 1, n));
            }
        }
        for user in &change.leave {
            if let Some((_, leave)) = self.members.get_mut(user).and_then(|stays| stays.last_mut()) {
                *leave = (*leave).min(seq);
            }
        }
    }

    /// The message at `seq` that let members come and go is not there.
    pub(crate) fn unmake_change(&mut self, seq: u64) {
        let joined = self
            .members
            .iter()
            .filter(|(_, stays)| stays.iter().any(|(join, leave)| *join == seq || *leave == seq));
        self.mended.extend(joined.map(|(user, _)| user.clone()));
        for stays in self.members.values_mut() {
            stays.retain(|(join, _)| *join != seq);
            for (_, leave) in stays.iter_mut().filter(|(_, leave)| *leave == seq) {
                *leave = u64::MAX;
            }
        }
        self.members.retain(|_, stays| !stays.is_empty());
    }

    /// What sync says of it to a user who may read up to `head_seq`.
    pub(crate) fn state(&self, id: &ConvId, user: &UserId, head_seq: u64) -> ConvState {
        let (read_seq, read_n) = self.reads.get(user).copied().unwrap_or_default();
        ConvState {
            conv: id.as_bytes().to_vec(),
            head_seq,
            head_n: self.n_at(head_seq),
            floor_seq: 0,
            conv_version: self.head.conv_version,
            read_seq,
            read_n,
            last: Vec::new(),
        }
    }
}
