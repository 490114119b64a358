//! The log in memory, by the rules of `decide`: what a store adapter does in its transaction.
//!
//! Owns the only truth of a run. It outlives routers. A transaction has the time at which it began and is seen later, as in
//! a store that is elsewhere; one of a router that lives decides by what it reads when it is applied, and what becomes of
//! one whose router died is looked at in `persist.rs`.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::frame::kind;
use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_router_core::append::{Append, Appended, Batch, Committed, Dedupe, Facts, Head, Member};
use corelane_router_core::decide::{self, Decision, Row, decide, oldest_id_ms};

use crate::conv::{Author, Conv, Entry, Stays};
use crate::planted::Bug;

/// An outbox row.
#[derive(Debug)]
pub(crate) struct OutboxRow {
    lane: Lane,
    /// Boot of the router that wrote it.
    writer: u64,
    /// Per conversation the first and last seq.
    spans: Vec<(ConvId, u64, u64)>,
}

impl OutboxRow {
    /// Whether it says that these places of a conversation are to be published.
    pub(crate) fn names(&self, id: &ConvId, from: u64, last: u64) -> bool {
        let mut spans = self.spans.iter();
        spans.any(|(conv, first, end)| conv == id && *first <= from && last <= *end)
    }

    /// Conversations that it names.
    pub(crate) fn convs(&self) -> BTreeSet<ConvId> {
        self.spans.iter().map(|(conv, ..)| conv.clone()).collect()
    }
}

/// When a transaction began, when it is seen, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Txn {
    /// By the store's clock.
    pub(crate) begun_ms: u64,
    pub(crate) now: u64,
    /// Boot of the router.
    pub(crate) writer: u64,
}

/// Conversation, sender and id of a message.
pub(crate) type Identity = (ConvId, UserId, [u8; 16]);

/// A row that a transaction wrote, and what stood there.
#[derive(Debug)]
pub(crate) enum Written {
    Message(ConvId, u64),
    Dedupe(Identity, Option<Dedupe>),
    Head(ConvId, Head, Author),
    Stays(ConvId, UserId, Option<Stays>),
    Recent((UserId, ConvId), Option<u64>),
    Outbox(u64),
}

/// What an outbox row has to publish in a conversation: row, lane, conversation, seq and frame of each message.
pub(crate) type Left = (u64, Lane, ConvId, Vec<(u64, Vec<u8>)>);

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) convs: BTreeMap<ConvId, Conv>,
    pub(crate) dedupe: BTreeMap<Identity, Dedupe>,
    pub(crate) outbox: BTreeMap<u64, OutboxRow>,
    /// Rows that somebody else than their writer published.
    adopted: BTreeSet<u64>,
    last_commit: u64,
    /// What sync reads: the bucket that a user's row of a conversation stands in.
    pub(crate) recent: BTreeMap<(UserId, ConvId), u64>,
    /// Commits that are there in part.
    pub(crate) torn: BTreeSet<u64>,
    /// Those of them whose outbox row is not there.
    pub(crate) rowless: BTreeSet<u64>,
    /// Messages of such commits where all else was there when another router met them, so that they looked as if they had been
    /// consumed: they are told of by what follows.
    pub(crate) untold: BTreeSet<(ConvId, u64)>,
    /// Rows of the last transaction, in the order in which they were written.
    pub(crate) written: Vec<Written>,
}

pub(crate) fn identity(append: &Append) -> Identity {
    (append.conv.clone(), append.sender.clone(), append.client_msg_id.0)
}

impl Store {
    /// Where the conversations of a batch end, in the order of its messages.
    pub(crate) fn heads(&self, batch: &Batch) -> Vec<u64> {
        let head = |append: &Append| self.convs.get(&append.conv).map_or(0, Conv::end);
        batch.appends.iter().map(head).collect()
    }

    /// One transaction, which is seen from `txn.now` on.
    pub(crate) fn commit(&mut self, batch: &Batch, txn: Txn) -> Committed {
        self.begin();
        let mut spans: Vec<(ConvId, u64, u64)> = Vec::new();
        let mut answers = Vec::new();
        for append in &batch.appends {
            let answer = self.append(append, txn);
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
        let is_empty = spans.is_empty();
        for (conv, first_seq, _) in &spans {
            let author = Author {
                writer: txn.writer,
                commit: self.last_commit,
                first_seq: *first_seq,
            };
            self.convs.entry(conv.clone()).or_default().author = author;
        }
        let outbox = if is_empty {
            0
        } else {
            self.put_row(batch.lane, txn.writer, spans)
        };
        Committed::Done { answers, outbox }
    }

    /// A transaction begins.
    pub(crate) fn begin(&mut self) {
        self.last_commit += 1;
        self.written.clear();
    }

    /// Number of the last transaction.
    pub(crate) const fn last_commit(&self) -> u64 {
        self.last_commit
    }

    /// Writes the outbox row of the transaction under way.
    pub(crate) fn put_row(&mut self, lane: Lane, writer: u64, spans: Vec<(ConvId, u64, u64)>) -> u64 {
        let id = self.last_commit;
        self.outbox.insert(id, OutboxRow { lane, writer, spans });
        self.written.push(Written::Outbox(id));
        id
    }

    /// What is known of an id. It counts only if its message is there.
    pub(crate) fn dedupe(&self, append: &Append) -> Option<Dedupe> {
        let known = self.dedupe.get(&identity(append)).copied()?;
        let message = self.convs.get(&append.conv)?.log.get(&known.seq);
        let is_there = message.is_some_and(|entry| {
            entry.sender.as_ref() == Some(&append.sender) && entry.id == append.client_msg_id
        });
        (is_there || Bug::DedupeWithoutRow.is_planted()).then_some(known)
    }

    fn append(&mut self, append: &Append, txn: Txn) -> Appended {
        let known = self.convs.get(&append.conv);
        let head = known.map(|conv| conv.head).filter(|head| head.seq > 0);
        let facts = Facts {
            head,
            dedupe: self.dedupe(append),
            sender_is_member: known.is_some_and(|conv| conv.is_member(&append.sender)),
            member_count: known.map_or(0, |conv| conv.present().count() as u64),
        };
        let oldest_ms = oldest_id_ms(txn.begun_ms, txn.begun_ms, 0);
        match decide(append, &facts, txn.begun_ms, oldest_ms) {
            Decision::Store(row) => self.write(append, row, txn.now),
            Decision::Repeat(answer) => answer,
            Decision::Refuse(code, text) => Appended::Refused(code, text),
        }
    }

    fn write(&mut self, append: &Append, row: Row, now: u64) -> Appended {
        let dedupe = Dedupe {
            seq: row.seq,
            n: row.n,
            time_ms: row.time_ms,
            hash: row.hash,
        };
        let key = identity(append);
        let before = self.dedupe.insert(key.clone(), dedupe);
        self.written.push(Written::Dedupe(key, before));
        let conv = self.convs.entry(append.conv.clone()).or_default();
        let id = &append.conv;
        self.written
            .push(Written::Head(id.clone(), conv.head, conv.author));
        conv.head = row.head;
        let entry = Entry {
            sender: Some(append.sender.clone()),
            id: append.client_msg_id,
            stored_at: now,
            payload: append.payload.clone(),
            frame: row.frame.clone(),
            dedupe,
            change: (append.kind == kind::GROUP_CHANGE).then(|| append.members.clone()),
        };
        self.written.push(Written::Message(id.clone(), row.seq));
        conv.log.insert(row.seq, entry);
        if append.kind == kind::GROUP_CHANGE {
            for user in append.members.join.iter().chain(&append.members.leave) {
                let stays = conv.members.get(user).cloned();
                self.written.push(Written::Stays(id.clone(), user.clone(), stays));
            }
            conv.change(&append.members, row.seq, row.n);
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
            self.move_recent(user, id, row.head.recent_bucket);
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

    pub(crate) fn move_recent(&mut self, user: UserId, id: &ConvId, bucket: u64) {
        let key = (user, id.clone());
        let before = self.recent.insert(key.clone(), bucket);
        self.written.push(Written::Recent(key, before));
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
        let Some(conv) = self.convs.get(id) else {
            return false;
        };
        let mut stays = conv.members.get(user).into_iter().flatten();
        stays.any(|(join, leave)| (*join..=*leave).contains(&seq)) || conv.mended.contains(user)
    }

    /// Whether a message must be pushed to a user who is online: of a user's stays the last counts.
    pub(crate) fn must_see(&self, id: &ConvId, user: &UserId, seq: u64) -> bool {
        let conv = self.convs.get(id);
        if conv.is_some_and(|conv| conv.mended.contains(user)) || self.untold.contains(&(id.clone(), seq)) {
            return false;
        }
        match conv
            .and_then(|conv| conv.members.get(user))
            .and_then(|stays| stays.last())
        {
            Some((join, leave)) => (*join..=*leave).contains(&seq),
            None => !id.is_group(),
        }
    }

    /// How far each conversation of a user goes for him. What is there in part was acknowledged to nobody; it is found and
    /// published later, to the routes that there are then, or taken back: neither that nor a stay that began with it counts.
    pub(crate) fn places(&self, user: &UserId) -> BTreeMap<ConvId, u64> {
        let upto = |(id, conv): (&ConvId, &Conv)| {
            let is_torn = self.torn.contains(&conv.author.commit);
            let whole = if is_torn {
                conv.author.first_seq - 1
            } else {
                conv.head.seq
            };
            if id.is_group() {
                let mut stays = conv.members.get(user)?.iter().rev();
                let (_, leave) = stays.find(|(join, _)| *join <= whole)?;
                return Some((id.clone(), (*leave).min(whole)));
            }
            Some((id.clone(), self.readable_upto(id, user)?.min(whole)))
        };
        self.convs.iter().filter_map(upto).collect()
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
        let head_seq = self.readable_upto(id, user)?;
        Some(self.convs.get(id)?.state(id, user, head_seq))
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

    /// What all outbox rows have to publish, oldest first.
    pub(crate) fn left(&self) -> Vec<Left> {
        self.outbox.keys().flat_map(|id| self.left_of(*id)).collect()
    }

    /// What an outbox row has to publish, by conversation; nothing if it is gone.
    pub(crate) fn left_of(&self, id: u64) -> Vec<Left> {
        let Some(row) = self.outbox.get(&id) else {
            return Vec::new();
        };
        let left = |(conv, first, last): &(ConvId, u64, u64)| {
            // What is missing is of a commit that is to be mended; what is void is for nobody.
            let found = self.range(conv, *first, *last).unwrap_or_default().into_iter();
            let told = found.filter(|(_, entry)| entry.sender.is_some());
            let frames = told.map(|(seq, entry)| (seq, entry.frame.clone()));
            let frames: Vec<(u64, Vec<u8>)> = frames.collect();
            (!frames.is_empty()).then(|| (id, row.lane, conv.clone(), frames))
        };
        row.spans.iter().filter_map(left).collect()
    }

    /// Who has outbox rows.
    pub(crate) fn writers(&self) -> BTreeSet<u64> {
        self.outbox.values().map(|row| row.writer).collect()
    }

    /// Rows of those writers that are `wanted`, oldest first.
    pub(crate) fn rows_of(&self, wanted: impl Fn(u64) -> bool) -> Vec<u64> {
        let rows = self.outbox.iter().filter(|(_, row)| wanted(row.writer));
        rows.map(|(id, _)| *id).collect()
    }

    pub(crate) fn note_adopted(&mut self, row: u64) {
        self.adopted.insert(row);
    }

    pub(crate) fn is_adopted(&self, row: u64) -> bool {
        self.adopted.contains(&row)
    }

    /// The messages from `first` to `last`; `None` if one is missing.
    pub(crate) fn range(&self, id: &ConvId, first: u64, last: u64) -> Option<Vec<(u64, &Entry)>> {
        let Some(conv) = self.convs.get(id).filter(|_| first <= last) else {
            return Some(Vec::new());
        };
        let entry = |seq| Some((seq, conv.log.get(&seq)?));
        (first..=last.min(conv.head.seq)).map(entry).collect()
    }
}

/// The tenant of all simulated users.
pub(crate) const APP: AppId = AppId(0);
