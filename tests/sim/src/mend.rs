//! Commits that are there in part, and how they are made whole: what the store's adapter does so that the log stays right
//! on a client whose word cannot be taken.
//!
//! A torn commit wrote some of its rows. Whoever reads back what he wrote finds that out; whoever meets a head that he
//! does not know to be whole looks the conversation through from where that commit began: holes become void records, rows
//! that are missing come back, members are as the log says, and what may never have been published gets an outbox row.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::frame::body::Message;
use corelane_protocol::frame::{FrameKind, encode, kind};
use corelane_protocol::id::{ClientMsgId, ConvId, Lane, UserId};
use corelane_router_core::append::{Append, Batch, Dedupe, MemberChange};
use corelane_router_core::decide::RECENT_BUCKET_MS;

use crate::conv::{Author, Conv, Entry};
use crate::planted::Bug;
use crate::rng::Rng;
use crate::store::{Store, Txn, Written};

/// Own commits that were not seen whole, and the conversations that they may have left in pieces.
pub(crate) type Doubts = BTreeMap<u64, BTreeSet<ConvId>>;

impl Store {
    /// Takes some of the rows back that the last transaction wrote. True: it is not whole any more.
    pub(crate) fn tear(&mut self, rng: &mut Rng) -> bool {
        let mut heads = BTreeSet::new();
        let written = std::mem::take(&mut self.written).into_iter();
        // A head that was written several times is one row.
        let rows = written.filter(|row| match row {
            Written::Head(conv, ..) => heads.insert(conv.clone()),
            _ => true,
        });
        let lost: Vec<Written> = rows.filter(|_| rng.chance(400)).collect();
        let is_torn = !lost.is_empty();
        if is_torn {
            self.torn.insert(self.last_commit());
        }
        for row in lost {
            self.take_back(row);
        }
        is_torn
    }

    fn take_back(&mut self, row: Written) {
        match row {
            Written::Message(conv, seq) => {
                self.convs.entry(conv).or_default().log.remove(&seq);
            }
            Written::Dedupe(key, before) => put_back(&mut self.dedupe, key, before),
            Written::Head(conv, head, author) => {
                let conv = self.convs.entry(conv).or_default();
                (conv.head, conv.author) = (head, author);
            }
            Written::Stays(conv, user, before) => {
                put_back(&mut self.convs.entry(conv).or_default().members, user, before);
            }
            Written::Recent(key, before) => put_back(&mut self.recent, key, before),
            Written::Outbox(row) => {
                self.rowless.insert(row);
                self.outbox.remove(&row);
            }
        }
    }

    /// Makes the conversations of a batch whole where that is not sure. Gives the outbox row that was written for it.
    pub(crate) fn mend_before(&mut self, batch: &Batch, txn: Txn, doubts: &Doubts) -> Option<u64> {
        let convs: BTreeSet<ConvId> = batch.appends.iter().map(|append| append.conv.clone()).collect();
        let knows_more = |append: &Append| {
            let head_seq = self.convs.get(&append.conv).map_or(0, |conv| conv.head.seq);
            self.dedupe(append).is_some_and(|known| known.seq > head_seq)
        };
        let named: BTreeSet<ConvId> = batch
            .appends
            .iter()
            .filter(|append| knows_more(append))
            .map(|append| append.conv.clone())
            .collect();
        let suspects = convs.into_iter().filter(|id| {
            let conv = self.convs.get(id);
            // A commit that nobody saw whole may have left rows that no head knows.
            let is_doubted = doubts.values().any(|doubted| doubted.contains(id));
            is_doubted
                || named.contains(id)
                || conv.is_some_and(|conv| !conv.is_whole(txn.writer, doubts) || conv.end() > conv.head.seq)
        });
        let suspects: Vec<ConvId> = suspects.collect();
        self.mend(&suspects, batch.lane, txn, doubts)
    }

    /// One transaction that makes conversations of a lane whole.
    pub(crate) fn mend(&mut self, convs: &[ConvId], lane: Lane, txn: Txn, doubts: &Doubts) -> Option<u64> {
        if convs.is_empty() || Bug::HeadsBelieved.is_planted() {
            return None;
        }
        self.begin();
        let spans: Vec<_> = convs
            .iter()
            .filter_map(|id| self.mend_one(id, txn, doubts))
            .collect();
        if spans.is_empty() || Bug::MendedUnpublished.is_planted() {
            return None;
        }
        Some(self.put_row(lane, txn.writer, spans))
    }

    /// What of a conversation may never have been published.
    fn mend_one(&mut self, id: &ConvId, txn: Txn, doubts: &Doubts) -> Option<(ConvId, u64, u64)> {
        let commit = self.last_commit();
        let conv = self.convs.get(id)?;
        let (head, author) = (conv.head, conv.author);
        let is_whole = conv.is_whole(txn.writer, doubts);
        let above = head.seq + 1;
        let from = if is_whole {
            above
        } else {
            author.first_seq.clamp(1, above)
        };
        let last = conv.end();
        if last == 0 {
            self.put_marks_right(id, (from, last));
            return None;
        }
        let mut changes = u64::from(last != head.seq);
        changes += self.fill(id, (from, last), txn);
        changes += self.put_dedupe_back(id, (from, last));
        changes += self.put_lists_back(id, (from, last), txn);
        changes += self.put_marks_right(id, (from, last));
        let was_whole = changes == 0;
        if is_whole && was_whole {
            return None;
        }
        self.convs.get_mut(id)?.author = Author {
            writer: txn.writer,
            commit,
            first_seq: from,
        };
        // A whole commit of another had its row with it; where that is gone, all was consumed.
        let may_be_unpublished = !was_whole || author.writer == txn.writer;
        if !may_be_unpublished && self.rowless.contains(&author.commit) {
            let places = (from..=last).map(|seq| (id.clone(), seq));
            self.untold.extend(places);
        }
        let is_named = || {
            let row = self.outbox.get(&author.commit);
            row.is_some_and(|row| row.names(id, from, last))
        };
        (may_be_unpublished && from <= last && !is_named()).then(|| (id.clone(), from, last))
    }

    /// Fills holes, and makes the head know all places. Gives how many there were.
    fn fill(&mut self, id: &ConvId, (from, last): (u64, u64), txn: Txn) -> u64 {
        let conv = self.convs.entry(id.clone()).or_default();
        let mut n = conv.n_at(from - 1);
        let mut holes = 0;
        for seq in from..=last {
            // Behind a hole nothing stays: what is sent again would come behind what followed it.
            if let Some(entry) = conv.log.get_mut(&seq).filter(|_| holes == 0) {
                n = entry.dedupe.n.max(n);
                if seq > conv.head.seq {
                    entry.stored_at = txn.now;
                }
            } else {
                conv.log.insert(seq, void(id, seq, n, txn));
                conv.unmake_change(seq);
                holes += 1;
            }
        }
        (conv.head.seq, conv.head.n) = (last, n);
        holes
    }

    /// A mark that a send moved counts what there is at its place now, and stands no higher than the log.
    fn put_marks_right(&mut self, id: &ConvId, (from, last): (u64, u64)) -> u64 {
        let Some(conv) = self.convs.get_mut(id) else {
            return 0;
        };
        let mut marks = std::mem::take(&mut conv.reads);
        let mut count = 0;
        for mark in marks.values_mut().filter(|mark| mark.0 >= from) {
            let seq = mark.0.min(last);
            let right = (seq, conv.n_at(seq));
            count += u64::from(std::mem::replace(mark, right) != right);
        }
        conv.reads = marks;
        count
    }

    fn put_dedupe_back(&mut self, id: &ConvId, (from, last): (u64, u64)) -> u64 {
        let Some(conv) = self.convs.get(id) else { return 0 };
        let mut count = 0;
        for (_, entry) in conv.log.range(from..=last.max(from)) {
            let Some(sender) = &entry.sender else { continue };
            let key = (id.clone(), sender.clone(), entry.id.0);
            // One that names another place is of an earlier try, which was made void.
            if self
                .dedupe
                .insert(key, entry.dedupe)
                .is_none_or(|known| known.seq != entry.dedupe.seq)
            {
                count += 1;
            }
        }
        count
    }

    /// Members are as the log says, and all of them have their recent rows where the head says that they stand.
    fn put_lists_back(&mut self, id: &ConvId, (from, last): (u64, u64), txn: Txn) -> u64 {
        let Some(conv) = self.convs.get_mut(id) else {
            return 0;
        };
        let before = conv.members.clone();
        let are_above = |seq: &u64| *seq > last && *seq < u64::MAX;
        let places = conv
            .members
            .values()
            .flatten()
            .flat_map(|(join, leave)| [*join, *leave]);
        for seq in places.filter(are_above).collect::<BTreeSet<u64>>() {
            conv.unmake_change(seq);
        }
        let of_range = conv.log.range(from..=last.max(from));
        let changes: Vec<(u64, u64, MemberChange)> = of_range
            .filter_map(|(seq, entry)| Some((*seq, entry.dedupe.n, entry.change.clone()?)))
            .collect();
        for (seq, n, change) in &changes {
            conv.change(change, *seq, *n);
        }
        let is_change = |(_, entry): &(&u64, &Entry)| entry.change.is_some();
        let version = conv.log.iter().rev().find(is_change).map_or(0, |(seq, _)| *seq);
        conv.head.conv_version = conv.head.conv_version.max(version);
        conv.head.recent_bucket = conv.head.recent_bucket.max(txn.begun_ms / RECENT_BUCKET_MS);
        let bucket = conv.head.recent_bucket;
        let mut users: BTreeSet<UserId> = match id.direct_users() {
            Some((small, large)) => [small, large].into(),
            None => conv.present().cloned().collect(),
        };
        for (_, _, change) in &changes {
            users.extend(change.leave.iter().cloned());
        }
        let is_changed = before != conv.members;
        if is_changed {
            let named = changes
                .iter()
                .flat_map(|(.., change)| change.join.iter().chain(&change.leave));
            conv.mended.extend(named.cloned());
        }
        for user in users {
            self.move_recent(user, id, bucket);
        }
        u64::from(is_changed)
    }
}

impl Conv {
    /// Whether this writer saw all of the commit that its head is of.
    fn is_whole(&self, writer: u64, doubts: &Doubts) -> bool {
        self.author.writer == writer && !doubts.contains_key(&self.author.commit)
    }
}

fn put_back<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// A place that nothing will ever be at.
fn void(id: &ConvId, seq: u64, n: u64, txn: Txn) -> Entry {
    let message = Message {
        conv: id.as_bytes().to_vec(),
        seq,
        n,
        sender: String::new(),
        kind: kind::VOID,
        flags: 0,
        ref_seq: 0,
        origin_terminal: 0,
        origin_device: String::new(),
        client_msg_id: [0; 16],
        time_ms: txn.begun_ms,
        content_type: 0,
        payload: Vec::new(),
    };
    Entry {
        sender: None,
        id: ClientMsgId([0; 16]),
        stored_at: txn.now,
        payload: Vec::new(),
        frame: encode(FrameKind::Message, 0, &message),
        dedupe: Dedupe {
            seq,
            n,
            time_ms: txn.begun_ms,
            hash: 0,
        },
        change: None,
    }
}
