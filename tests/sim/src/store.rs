//! The log in memory, by the rules of `decide`: what a store adapter does in its transaction.
//!
//! Owns the only truth of a run. It outlives routers; a commit of a router that died before it was applied never is.

use std::collections::BTreeMap;

use corelane_protocol::frame::kind;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};
use corelane_router_core::append::{Append, Appended, Batch, Committed, Dedupe, Facts, Head};
use corelane_router_core::decide::{Decision, decide, oldest_id_ms};

/// A message of the log.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sender: UserId,
    pub(crate) id: ClientMsgId,
    pub(crate) frame: Vec<u8>,
}

/// A conversation.
#[derive(Debug, Default)]
pub(crate) struct Conv {
    pub(crate) head: Head,
    pub(crate) log: Vec<Entry>,
    /// Of groups: when each user joined and left; `u64::MAX` for "is there".
    members: BTreeMap<UserId, Vec<(u64, u64)>>,
}

/// An outbox row: its lane, and per conversation the first and last seq.
pub(crate) type OutboxRow = (Lane, Vec<(ConvId, u64, u64)>);

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) convs: BTreeMap<ConvId, Conv>,
    dedupe: BTreeMap<(ConvId, UserId, [u8; 16]), Dedupe>,
    pub(crate) outbox: BTreeMap<u64, OutboxRow>,
    last_row: u64,
}

impl Store {
    /// One transaction.
    pub(crate) fn commit(&mut self, batch: &Batch, now_ms: u64) -> Committed {
        let mut spans: Vec<(ConvId, u64, u64)> = Vec::new();
        let mut answers = Vec::new();
        for append in &batch.appends {
            let answer = self.append(append, now_ms);
            if let Appended::Stored {
                seq, repeated: false, ..
            } = &answer
            {
                match spans.iter_mut().find(|(conv, _, _)| *conv == append.conv) {
                    Some((_, _, last)) => *last = *seq,
                    None => spans.push((append.conv.clone(), *seq, *seq)),
                }
            }
            answers.push(answer);
        }
        let mut outbox = 0;
        if !spans.is_empty() {
            self.last_row += 1;
            outbox = self.last_row;
            self.outbox.insert(outbox, (batch.lane, spans));
        }
        Committed::Done { answers, outbox }
    }

    fn append(&mut self, append: &Append, now_ms: u64) -> Appended {
        let key = (append.conv.clone(), append.sender.clone(), append.client_msg_id.0);
        let known = self.convs.get(&append.conv);
        let facts = Facts {
            head: known.map(|conv| conv.head),
            dedupe: self.dedupe.get(&key).copied(),
            sender_is_member: known.is_some_and(|conv| conv.is_member(&append.sender)),
            member_count: known.map_or(0, |conv| {
                conv.members.keys().filter(|user| conv.is_member(user)).count() as u64
            }),
        };
        let row = match decide(append, &facts, now_ms, oldest_id_ms(now_ms, now_ms, 0)) {
            Decision::Store(row) => row,
            Decision::Repeat(answer) => return answer,
            Decision::Refuse(code, text) => return Appended::Refused(code, text),
        };
        let dedupe = Dedupe {
            seq: row.seq,
            n: row.n,
            time_ms: row.time_ms,
            hash: row.hash,
        };
        self.dedupe.insert(key, dedupe);
        let conv = self.convs.entry(append.conv.clone()).or_default();
        conv.head = row.head;
        conv.log.push(Entry {
            sender: append.sender.clone(),
            id: append.client_msg_id,
            frame: row.frame.clone(),
        });
        if append.kind == kind::GROUP_CHANGE {
            conv.change(append, row.seq);
        }
        Appended::Stored {
            seq: row.seq,
            n: row.n,
            time_ms: row.time_ms,
            frame: row.frame,
            member_version: row.head.conv_version,
            repeated: false,
        }
    }

    pub(crate) fn members(&self, conv: &ConvId) -> (u64, Vec<UserId>) {
        self.convs.get(conv).map_or((0, Vec::new()), |conv| {
            let present = conv.members.keys().filter(|user| conv.is_member(user));
            (conv.head.conv_version, present.cloned().collect())
        })
    }

    /// Up to where a user may read; `None` for somebody who was never in it.
    pub(crate) fn readable_upto(&self, id: &ConvId, user: &UserId) -> Option<u64> {
        let head = self.convs.get(id).map_or(0, |conv| conv.head.seq);
        if let Some((small, large)) = id.direct_users() {
            return (small == *user || large == *user).then_some(head);
        }
        let (_, leave) = self.convs.get(id)?.members.get(user)?.last()?;
        Some((*leave).min(head))
    }

    /// Whether a message may be shown to a user: he is in it, or was until later.
    pub(crate) fn may_see(&self, id: &ConvId, user: &UserId, seq: u64) -> bool {
        self.readable_upto(id, user).is_some_and(|upto| seq <= upto)
    }

    /// The conversations of a user, with the last place he may read.
    pub(crate) fn conversations(&self, user: &UserId) -> Vec<(ConvId, u64)> {
        let upto = |id: &ConvId| Some((id.clone(), self.readable_upto(id, user)?));
        self.convs.keys().filter_map(upto).collect()
    }

    pub(crate) fn is_member(&self, id: &ConvId, user: &UserId) -> bool {
        match id.direct_users() {
            Some((small, large)) => small == *user || large == *user,
            None => self.convs.get(id).is_some_and(|conv| conv.is_member(user)),
        }
    }

    /// What an earlier life left: row, lane, conversation, frames.
    pub(crate) fn left(&self) -> Vec<(u64, Lane, ConvId, Vec<(u64, Vec<u8>)>)> {
        let mut left = Vec::new();
        for (row, (lane, spans)) in &self.outbox {
            for (id, first, last) in spans {
                left.push((*row, *lane, id.clone(), self.range(id, *first, *last)));
            }
        }
        left
    }

    pub(crate) fn range(&self, id: &ConvId, first: u64, last: u64) -> Vec<(u64, Vec<u8>)> {
        let log = self.convs.get(id).map_or(&[][..], |conv| &conv.log);
        let numbered = (1..).zip(log).filter(|(seq, _)| (first..=last).contains(seq));
        numbered.map(|(seq, entry)| (seq, entry.frame.clone())).collect()
    }
}

impl Conv {
    fn is_member(&self, user: &UserId) -> bool {
        let stay = self.members.get(user).and_then(|stays| stays.last());
        stay.is_some_and(|(_, leave)| *leave == u64::MAX)
    }

    fn change(&mut self, append: &Append, seq: u64) {
        for user in &append.members.join {
            if !self.is_member(user) {
                self.members
                    .entry(user.clone())
                    .or_default()
                    .push((seq, u64::MAX));
            }
        }
        for user in &append.members.leave {
            if let Some((_, leave)) = self.members.get_mut(user).and_then(|stays| stays.last_mut()) {
                *leave = (*leave).min(seq);
            }
        }
    }
}

/// The tenant of all simulated users.
pub(crate) const APP: AppId = AppId(0);
