//! Mends what a commit left in pieces, before anything is built on it.
//!
//! Whoever meets the head of another writer, or one of his own whose commit he never saw whole, cannot know whether that
//! commit is all there. So he reads the conversation from the first place of that commit to its end, makes a void record of
//! every place from the first hole on (places stay dense; a void is acknowledged to nobody), puts back dedupe rows that are
//! missing and not forgotten, makes and unmakes changes of members as the log says, puts read marks right, sees that all members have their recent rows
//! ([`super::stays`]), and writes the head in his own name. All that he read may never have been published: unless the
//! outbox row of that commit is still there and names it, he writes one.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::frame::body::Message;
use corelane_protocol::frame::{FrameKind, encode, kind};
use corelane_protocol::id::{ClientMsgId, Lane};

use super::super::rows::OutboxEntries;
use super::super::{OutboxRow, StoreError};
use super::client::{Change, Rows};
use super::doubt::Doubts;
use super::draft::Author;
use super::fault::Fault;
use super::keys::{ConvKey, Keys};
use super::rows::{DedupeRow, ForgottenRow, HeadRow, MessageRow, Outbox, Value};

/// Messages per read: all of the largest fit an answer.
const PAGE: u32 = 64;

/// Messages by place.
pub(super) type Messages = BTreeMap<u64, Result<MessageRow, StoreError>>;

/// Writes that mend conversations of one lane.
#[derive(Debug)]
pub(super) struct Repair<'k> {
    pub(super) keys: &'k Keys,
    lane: Lane,
    pub(super) author: Author,
    /// Own commits that were not seen whole.
    doubts: &'k Doubts,
    pub(super) changes: BTreeMap<Vec<u8>, Change>,
    entries: OutboxEntries,
    voids: u64,
    convs: u64,
}

/// What is to be written, and what it amounts to.
#[derive(Debug)]
pub(super) struct Mended {
    /// The writes.
    pub(super) changes: BTreeMap<Vec<u8>, Change>,
    /// The outbox row among them.
    pub(super) row: Option<OutboxRow>,
    /// Conversations that are written to.
    pub(super) convs: u64,
    /// Holes that were filled.
    pub(super) voids: u64,
}

/// A conversation as far as it is looked at.
#[derive(Debug)]
pub(super) struct Examined {
    /// From this place on.
    pub(super) from: u64,
    /// To this one, its last.
    pub(super) last: u64,
    /// What is there; also the message before the first place.
    pub(super) messages: Messages,
    /// Places where nothing is, or nothing is to stay: from the first hole on.
    pub(super) holes: BTreeSet<u64>,
    /// Those of them where something is.
    overwritten: BTreeSet<u64>,
    /// Whether there is more than its head knew.
    pub(super) grew: bool,
}

impl Examined {
    /// What is at `from` and behind it, and the message before, where the head knows places up to `head_seq`.
    ///
    /// Behind a hole nothing stays: what is lost is sent again, and would come behind what its sender said after it; and
    /// the counts behind a hole are too high. All of it is of commits that nobody saw whole, so it was acknowledged to
    /// nobody, and is sent again, too.
    pub(super) fn new(from: u64, head_seq: u64, mut messages: Messages) -> Self {
        let above = messages.keys().next_back().copied().unwrap_or(0);
        let last = above.max(head_seq);
        let first_hole = (from..=last).find(|seq| !messages.contains_key(seq));
        let behind = first_hole.map_or_else(Messages::new, |hole| messages.split_off(&hole));
        Self {
            from,
            last,
            grew: last > head_seq || first_hole.is_some(),
            messages,
            holes: first_hole.into_iter().flat_map(|hole| hole..=last).collect(),
            overwritten: behind.into_keys().collect(),
        }
    }

    /// Messages that are there and can be read.
    pub(super) fn readable(&self) -> impl Iterator<Item = (u64, &MessageRow)> {
        let messages = self.messages.range(self.from..);
        messages.filter_map(|(seq, message)| Some((*seq, message.as_ref().ok()?)))
    }

    /// Whether a place is of a message that is not in the log and never will be.
    pub(super) fn is_void(&self, seq: u64) -> bool {
        seq > self.last || self.holes.contains(&seq)
    }

    /// Countable messages up to a place that is at or above the first, where there are `n` in all. `None`: it is damaged.
    pub(super) fn count_at(&self, seq: u64, n: u64) -> Option<u64> {
        if seq == self.last || self.is_void(seq) {
            return Some(n);
        }
        self.n_at(seq)
    }

    fn n_at(&self, seq: u64) -> Option<u64> {
        let message = self.messages.get(&seq)?;
        message.as_ref().ok().map(|message| message.n)
    }

    /// Countable messages before the first place.
    fn n_before(&self, head: &HeadRow) -> u64 {
        if self.from <= 1 {
            return 0;
        }
        if self.from == head.head.seq + 1 {
            return head.head.n;
        }
        // Where the message before is cut or damaged, the first one that is there knows it but for one.
        let first = || {
            self.readable()
                .next()
                .map(|(_, message)| message.n.saturating_sub(1))
        };
        self.n_at(self.from - 1).or_else(first).unwrap_or(head.head.n)
    }
}

impl<'k> Repair<'k> {
    pub(super) fn new(keys: &'k Keys, lane: Lane, author: Author, doubts: &'k Doubts) -> Self {
        Self {
            keys,
            lane,
            author,
            doubts,
            changes: BTreeMap::new(),
            entries: Vec::new(),
            voids: 0,
            convs: 0,
        }
    }

    /// Looks a conversation through. Damaged rows are left as they are: whoever reads them learns it.
    ///
    /// # Errors
    ///
    /// The connection's.
    pub(super) async fn examine<R: Rows>(&mut self, rows: &mut R, conv: &ConvKey) -> Result<(), Fault> {
        let key = self.keys.head(conv);
        let found = rows.many(vec![key.clone()]).await?;
        let head = match found.first().map(|(_, value)| HeadRow::decode(&key, value)) {
            None => HeadRow::default(),
            Some(Ok(head)) => head,
            Some(Err(damage)) => {
                tracing::error!(%damage, conv = %conv.1, "a conversation cannot be mended");
                return Ok(());
            }
        };
        let is_whole = self.doubts.is_whole(self.author.boot, &head);
        let above = head.head.seq + 1;
        let from = if is_whole {
            above
        } else {
            head.first_seq.min(above)
        };
        let seen = examined(rows, self.keys, conv, from.max(head.head.floor_seq + 1), &head).await?;
        if seen.last == 0 {
            return Ok(());
        }
        let before = self.changes.len();
        let mut mended = HeadRow {
            writer: self.author.boot,
            first_seq: seen.from,
            commit: self.author.start,
            ..head
        };
        (mended.head.seq, mended.head.n) = (seen.last, self.fill(conv, &seen, &head));
        self.dedupe(rows, conv, &seen).await?;
        self.lists(rows, conv, &seen, &mut mended).await?;
        let was_whole = seen.last == head.head.seq && self.changes.len() == before;
        if is_whole && was_whole {
            return Ok(());
        }
        self.convs += 1;
        let value = mended.encode(&key);
        self.changes.insert(key, Change::Put(value));
        let places = (seen.from, seen.last);
        // A whole commit of another had its outbox row with it: where that is gone it was cleared, so all was consumed. It
        // must not be delivered once more to everybody.
        let may_be_unpublished = !was_whole || head.writer == self.author.boot;
        if may_be_unpublished
            && seen.from <= seen.last
            && !self.is_in_outbox(rows, conv, head.commit, places).await?
        {
            self.entries.push((conv.0, conv.1.clone(), seen.from, seen.last));
        }
        Ok(())
    }

    /// Whether the outbox row of the commit that began at `commit` is there and names the places.
    async fn is_in_outbox<R: Rows>(
        &self,
        rows: &mut R,
        (app, conv): &ConvKey,
        commit: u64,
        (from, to): (u64, u64),
    ) -> Result<bool, Fault> {
        let key = self.keys.outbox(self.lane, commit);
        let found = rows.many(vec![key.clone()]).await?;
        let row = found
            .first()
            .and_then(|(_, value)| Outbox::decode(&key, value).ok());
        let entries = row.map_or_else(Vec::new, |row| row.entries);
        Ok(entries
            .iter()
            .any(|(at_app, at, first, last)| (at_app, at) == (app, conv) && *first <= from && to <= *last))
    }

    /// Fills holes. Returns the count at the end.
    fn fill(&mut self, conv: &ConvKey, seen: &Examined, head: &HeadRow) -> u64 {
        if seen.from > seen.last {
            return head.head.n;
        }
        let mut n = seen.n_before(head);
        for seq in seen.from..=seen.last {
            if seen.holes.contains(&seq) {
                self.void(conv, seq, n, seen.overwritten.contains(&seq));
            } else {
                n = seen.n_at(seq).unwrap_or(n).max(n);
            }
        }
        let voids = seen.holes.len();
        self.voids += voids as u64;
        if voids > 0 {
            tracing::warn!(
                conv = %conv.1, from = seen.from, last = seen.last, voids,
                "places of a commit in pieces were made void"
            );
        }
        n
    }

    fn void(&mut self, conv: &ConvKey, seq: u64, n: u64, is_there: bool) {
        let message = Message {
            conv: conv.1.as_bytes().to_vec(),
            seq,
            n,
            sender: String::new(),
            kind: kind::VOID,
            flags: 0,
            ref_seq: 0,
            origin_terminal: 0,
            origin_device: String::new(),
            client_msg_id: [0; 16],
            time_ms: self.author.now_ms,
            content_type: 0,
            payload: Vec::new(),
        };
        let row = MessageRow {
            n,
            hash: 0,
            time_ms: self.author.now_ms,
            flags: 0,
            client_id: [0; 16],
            sender: String::new(),
            moves: None,
            frame: encode(FrameKind::Message, 0, &message),
        };
        let key = self.keys.message(conv, seq);
        let value = row.encode(&key);
        let change = if is_there {
            Change::Put(value)
        } else {
            Change::Insert(value)
        };
        self.changes.insert(key, change);
    }

    async fn dedupe<R: Rows>(&mut self, rows: &mut R, conv: &ConvKey, seen: &Examined) -> Result<(), Fault> {
        let mut wanted = BTreeMap::new();
        for (seq, message) in seen.readable().filter(|(_, message)| !message.sender.is_empty()) {
            let id = ClientMsgId(message.client_id);
            let row = DedupeRow {
                seq,
                hash: message.hash,
            };
            wanted.insert(self.keys.dedupe(conv, &message.sender, id), (id, row));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let forgotten = self.keys.forgotten(self.lane);
        let asked = wanted.keys().chain([&forgotten]).cloned().collect();
        let found: BTreeMap<Vec<u8>, Vec<u8>> = rows.many(asked).await?.into_iter().collect();
        // Where it cannot be read all are put back: what they say is true all the same.
        let until = found
            .get(&forgotten)
            .and_then(|value| ForgottenRow::decode(&forgotten, value).ok());
        // A forgotten id is refused as stale; its row would make it known again.
        let is_forgotten =
            |id: ClientMsgId| until.is_some_and(|ForgottenRow(until_ms)| id.time_ms() <= until_ms);
        for (key, (id, row)) in wanted {
            let known = found.get(&key).map(|value| DedupeRow::decode(&key, value));
            let value = row.encode(&key);
            match known {
                None if !is_forgotten(id) => self.changes.insert(key, Change::Insert(value)),
                // Of an earlier try, whose place was made void: the message would be stored once more.
                Some(Ok(known)) if known.seq != row.seq => self.changes.insert(key, Change::Put(value)),
                _ => None,
            };
        }
        Ok(())
    }

    /// All that is to be written, the outbox row included.
    pub(super) fn finish(mut self) -> Mended {
        let row = (!self.entries.is_empty()).then_some(Outbox {
            writer: self.author.boot,
            entries: self.entries,
        });
        if let Some(row) = &row {
            let key = self.keys.outbox(self.lane, self.author.start);
            let value = row.encode(&key);
            self.changes.insert(key, Change::Put(value));
        }
        Mended {
            changes: self.changes,
            row: row.map(|row| row.named(self.author.start, self.lane)),
            convs: self.convs,
            voids: self.voids,
        }
    }
}

/// Reads a conversation from the message before `from` (for its count) to its end.
async fn examined<R: Rows>(
    rows: &mut R,
    keys: &Keys,
    conv: &ConvKey,
    from: u64,
    head: &HeadRow,
) -> Result<Examined, Fault> {
    let mut messages = Messages::new();
    let mut next = from.saturating_sub(1).max(1);
    loop {
        let page = rows.scan(keys.messages_from(conv, next), PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        for (key, value) in page {
            if let Some(seq) = keys.seq_of(conv, &key) {
                messages.insert(seq, MessageRow::decode(&key, &value));
                next = seq + 1;
            }
        }
        if is_last {
            break;
        }
    }
    Ok(Examined::new(from, head.head.seq, messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u64) -> MessageRow {
        MessageRow {
            n,
            hash: 0,
            time_ms: 0,
            flags: 0,
            client_id: [0; 16],
            sender: "alice".to_owned(),
            moves: None,
            frame: Vec::new(),
        }
    }

    fn examined(from: u64, head_seq: u64, there: &[u64]) -> Examined {
        let messages = there.iter().map(|seq| (*seq, Ok(message(*seq))));
        Examined::new(from, head_seq, messages.collect())
    }

    fn stays(seen: &Examined) -> Vec<u64> {
        seen.readable().map(|(seq, _)| seq).collect()
    }

    #[test]
    fn behind_a_hole_nothing_stays() {
        let seen = examined(3, 6, &[2, 3, 5, 6, 7]);
        assert_eq!(stays(&seen), [3]);
        assert_eq!((seen.last, seen.grew), (7, true));
        assert!((4..=7).all(|seq| seen.is_void(seq)));
        assert_eq!(Vec::from_iter(seen.overwritten), [5, 6, 7]);
    }

    #[test]
    fn what_stands_above_the_head_without_a_hole_stays() {
        let seen = examined(3, 3, &[2, 3, 4]);
        assert_eq!(stays(&seen), [3, 4]);
        assert!(seen.grew && seen.holes.is_empty() && seen.overwritten.is_empty());
    }
}
