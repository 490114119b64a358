//! The log in memory, by the rules of `decide`: what a store adapter does in its transaction.
//!
//! Owns the only truth of a run. It outlives routers; a commit of a router that died before it was applied never is.
//! A transaction has the time at which it began and is seen later, as in a store that is elsewhere.

use std::collections::BTreeMap;

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::frame::kind;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};
use corelane_router_core::append::{Append, Appended, Batch, Committed, Dedupe, Facts, Head, Member};
use corelane_router_core::decide::{self, Decision, decide, oldest_id_ms};

/// A message of the log.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sender: UserId,
    pub(crate) id: ClientMsgId,
    pub(crate) n: u64,
    /// When it was seen first, on the clock of the run.
    pub(crate) stored_at: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) frame: Vec<u8>,
}

/// A conversation.
#[derive(Debug, Default)]
pub(crate) struct Conv {
    pub(crate) head: Head,
    pub(crate) log: Vec<Entry>,
    /// Of groups: when each user joined and left; `u64::MAX` for "is there".
    members: BTreeMap<UserId, Vec<(u64, u64)>>,
    /// Read marks: seq and n.
    reads: BTreeMap<UserId, (u64, u64)>,
}

/// An outbox row: its lane, and per conversation the first and last seq.
pub(crate) type OutboxRow = (Lane, Vec<(ConvId, u64, u64)>);

/// What an outbox row names of a conversation: row, lane, conversation, seq and frame of each message.
pub(crate) type Left = (u64, Lane, ConvId, Vec<(u64, Vec<u8>)>);

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) convs: BTreeMap<ConvId, Conv>,
    dedupe: BTreeMap<(ConvId, UserId, [u8; 16]), Dedupe>,
    pub(crate) outbox: BTreeMap<u64, OutboxRow>,
    last_row: u64,
    /// What sync reads: the bucket that a user's row of a conversation stands in.
    recent: BTreeMap<(UserId, ConvId), u64>,
}

impl Store {
    /// One transaction, which began at `begun_ms` and is seen from `now` on.
    pub(crate) fn commit(&mut self, batch: &Batch, begun_ms: u64, now: u64) -> Committed {
        let mut spans: Vec<(ConvId, u64, u64)> = Vec::new();
        let mut answers = Vec::new();
        for append in &batch.appends {
            let answer = self.append(append, begun_ms, now);
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

    fn append(&mut self, append: &Append, begun_ms: u64, now: u64) -> Appended {
        let key = (append.conv.clone(), append.sender.clone(), append.client_msg_id.0);
        let known = self.convs.get(&append.conv);
        let facts = Facts {
            head: known.map(|conv| conv.head),
            dedupe: self.dedupe.get(&key).copied(),
            sender_is_member: known.is_some_and(|conv| conv.is_member(&append.sender)),
            member_count: known.map_or(0, |conv| conv.present().count() as u64),
        };
        let row = match decide(append, &facts, begun_ms, oldest_id_ms(begun_ms, begun_ms, 0)) {
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
            n: row.n,
            stored_at: now,
            payload: append.payload.clone(),
            frame: row.frame.clone(),
        });
        if append.kind == kind::GROUP_CHANGE {
            conv.change(append, row.seq, row.n);
        }
        if append.moves_read_mark {
            conv.reads.insert(append.sender.clone(), (row.seq, row.n));
        }
        // Who joins or leaves has a row of his own; the others' move with the first message of a bucket.
        let mut moved = [&append.members.join[..], &append.members.leave[..]].concat();
        if row.move_recent_from.is_some() {
            match append.conv.direct_users() {
                Some((small, large)) => moved.extend([small, large]),
                None => moved.extend(conv.present().cloned()),
            }
        }
        for user in moved {
            self.recent
                .insert((user, append.conv.clone()), row.head.recent_bucket);
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

    /// Who is in a group, and who left it at `since` or later. Of a user's stays it is the last.
    pub(crate) fn members(&self, conv: &ConvId, since: u64) -> (u64, Vec<Member>) {
        let Some(conv) = self.convs.get(conv) else {
            return (0, Vec::new());
        };
        let stays = conv.members.iter().filter_map(|(user, stays)| {
            let (join_seq, leave) = *stays.last()?;
            (leave >= since).then(|| Member {
                user: user.clone(),
                join_seq,
                leave_seq: if leave == u64::MAX { 0 } else { leave },
            })
        });
        (conv.head.conv_version, stays.collect())
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

    /// Whether a message may be pushed to a user: he was in it then, or it is the change that let him in or out.
    pub(crate) fn may_see(&self, id: &ConvId, user: &UserId, seq: u64) -> bool {
        if let Some((small, large)) = id.direct_users() {
            return small == *user || large == *user;
        }
        let stays = self.convs.get(id).and_then(|conv| conv.members.get(user));
        stays.is_some_and(|stays| stays.iter().any(|(join, leave)| (*join..=*leave).contains(&seq)))
    }

    /// Whether a message must be pushed to a user who is online: of a user's stays the last counts.
    pub(crate) fn must_see(&self, id: &ConvId, user: &UserId, seq: u64) -> bool {
        let stays = self.convs.get(id).and_then(|conv| conv.members.get(user));
        match stays.and_then(|stays| stays.last()) {
            Some((join, leave)) => (*join..=*leave).contains(&seq),
            None => !id.is_group(),
        }
    }

    /// How far each conversation of a user goes for him.
    pub(crate) fn places(&self, user: &UserId) -> BTreeMap<ConvId, u64> {
        let upto = |id: &ConvId| Some((id.clone(), self.readable_upto(id, user)?));
        self.convs.keys().filter_map(upto).collect()
    }

    /// The conversations of a user.
    pub(crate) fn conversations(&self, user: &UserId) -> Vec<ConvId> {
        let is_his = |id: &&ConvId| self.readable_upto(id, user).is_some();
        self.convs.keys().filter(is_his).cloned().collect()
    }

    /// What changed for a user since a cursor (8 bytes: the lowest bucket wanted; none: everything), and the next one.
    pub(crate) fn sync(&self, user: &UserId, cursor: &[u8], now_ms: u64) -> (Vec<u8>, Vec<ConvState>) {
        let since = cursor.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let states = self
            .recent
            .iter()
            .filter(|((owner, _), bucket)| owner == user && **bucket >= since);
        let states = states.filter_map(|((_, id), _)| self.state(id, user)).collect();
        let next = decide::since_after(now_ms / decide::RECENT_BUCKET_MS).max(since);
        (next.to_le_bytes().to_vec(), states)
    }

    fn state(&self, id: &ConvId, user: &UserId) -> Option<ConvState> {
        let (conv, head_seq) = (self.convs.get(id)?, self.readable_upto(id, user)?);
        let (read_seq, read_n) = conv.reads.get(user).copied().unwrap_or_default();
        Some(ConvState {
            conv: id.as_bytes().to_vec(),
            head_seq,
            head_n: conv.n_at(head_seq),
            floor_seq: 0,
            conv_version: conv.head.conv_version,
            read_seq,
            read_n,
            last: Vec::new(),
        })
    }

    /// Moves a read mark. Returns where it is, and whether it moved.
    pub(crate) fn read(&mut self, id: &ConvId, user: &UserId, seq: u64) -> Option<((u64, u64), bool)> {
        let seq = seq.min(self.readable_upto(id, user)?);
        let conv = self.convs.get_mut(id)?;
        let n = conv.n_at(seq);
        let mark = conv.reads.entry(user.clone()).or_default();
        let moves = seq > mark.0;
        if moves {
            *mark = (seq, n);
        }
        Some((*mark, moves))
    }

    pub(crate) fn is_member(&self, id: &ConvId, user: &UserId) -> bool {
        match id.direct_users() {
            Some((small, large)) => small == *user || large == *user,
            None => self.convs.get(id).is_some_and(|conv| conv.is_member(user)),
        }
    }

    /// What an earlier life left.
    pub(crate) fn left(&self) -> Vec<Left> {
        self.outbox.keys().flat_map(|row| self.row(*row)).collect()
    }

    /// What a row names, by conversation.
    pub(crate) fn row(&self, row: u64) -> Vec<Left> {
        let Some((lane, spans)) = self.outbox.get(&row) else {
            return Vec::new();
        };
        let left = |(id, first, last): &(ConvId, u64, u64)| {
            let frames = self.range(id, *first, *last);
            (row, *lane, id.clone(), frames)
        };
        spans.iter().map(left).collect()
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

    fn present(&self) -> impl Iterator<Item = &UserId> {
        self.members.keys().filter(|user| self.is_member(user))
    }

    fn n_at(&self, seq: u64) -> u64 {
        let entry = self.log.get((seq as usize).wrapping_sub(1));
        entry.map_or(0, |entry| entry.n)
    }

    fn change(&mut self, append: &Append, seq: u64, n: u64) {
        for user in &append.members.join {
            if !self.is_member(user) {
                self.members
                    .entry(user.clone())
                    .or_default()
                    .push((seq, u64::MAX));
                // What was said before he came is not unread for him.
                self.reads.insert(user.clone(), (seq - 1, n));
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
