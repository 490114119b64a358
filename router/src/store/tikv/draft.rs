//! What one transaction will write, made from what it read. Pure: decides, and owns nothing but memory.
//!
//! Works like the embedded store's transaction, row for row: the core's `decide` says what is stored, the members' recent
//! rows move with the first message of a bucket, read marks move with their senders. Heads and stays are written once, at the
//! end. What an earlier attempt of the same commit turns out to have written is answered as that attempt would have.

use std::collections::{BTreeMap, HashMap, HashSet};

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::kind;
use corelane_protocol::id::UserId;
use corelane_router_core::append::{Append, Appended, Dedupe, Facts};
use corelane_router_core::decide::{Decision, RECENT_BUCKET_MS, Row, decide, oldest_id_ms};

use super::super::rows::OutboxEntries;
use super::super::{DeliveredMark, ReadMark, StoreError};
use super::client::Change;
use super::keys::{ConvKey, Keys, Table};
use super::known::{Known, LARGE_GROUP_MEMBERS, Sent};
use super::rows::{DedupeRow, DeliveredRow, HeadRow, Listed, MemberRow, MessageRow, Moves, Value, add_entry};

/// When and by whom a transaction is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Author {
    /// Store time, ms since 1970.
    pub(super) now_ms: u64,
    /// The machine's clock.
    pub(super) wall_ms: u64,
    /// Boot of this router.
    pub(super) boot: u64,
    /// Start timestamp of the transaction.
    pub(super) start: u64,
}

/// The writes of one transaction, as they grow.
#[derive(Debug)]
pub(super) struct Draft<'k> {
    keys: &'k Keys,
    known: Known,
    author: Author,
    /// Oldest id that is taken.
    oldest_id_ms: u64,
    changes: BTreeMap<Vec<u8>, Change>,
    /// Heads to write, with the first seq of this transaction.
    dirty: HashMap<ConvKey, u64>,
    /// Stays to write.
    touched: HashSet<(ConvKey, UserId)>,
    /// Countable messages up to each message of this transaction.
    counts: HashMap<(ConvKey, u64), u64>,
    /// Places that are not published.
    entries: OutboxEntries,
    /// What was written so far, in bytes, about.
    pub(super) bytes: usize,
    /// Messages stored.
    pub(super) stored: u64,
}

impl<'k> Draft<'k> {
    pub(super) fn new(keys: &'k Keys, known: Known, author: Author) -> Self {
        Self {
            keys,
            oldest_id_ms: oldest_id_ms(author.now_ms, author.wall_ms, known.forgotten_ms),
            known,
            author,
            changes: BTreeMap::new(),
            dirty: HashMap::new(),
            touched: HashSet::new(),
            counts: HashMap::new(),
            entries: Vec::new(),
            bytes: 0,
            stored: 0,
        }
    }

    /// Decides about a message. `earlier` is what attempts of the same commit whose outcome was unknown would have
    /// answered.
    pub(super) fn append(&mut self, append: &Append, earlier: &[Appended]) -> Appended {
        let conv = (append.app, append.conv.clone());
        let known = match self.known.head(&conv) {
            Ok(known) => known,
            // Sequencing it anew would store it twice once the row is mended.
            Err(damage) => return Appended::Refused(ErrorCode::Rejected, damage.to_string()),
        };
        let identity = (conv.clone(), append.sender.clone(), append.client_msg_id);
        let dedupe = match self.known.sent.get(&identity) {
            Some(Sent::Damaged(damage)) => {
                return Appended::Refused(ErrorCode::Rejected, damage.to_string());
            }
            Some(Sent::Cut) => {
                let text = "the message was cut by retention; send with a new id".to_owned();
                return Appended::Refused(ErrorCode::StaleId, text);
            }
            Some(Sent::Counts(dedupe, frame)) => {
                if let Some(answer) = own(earlier, dedupe.seq, frame) {
                    let place = (dedupe.seq, dedupe.n);
                    self.again(append, &conv, place);
                    return answer;
                }
                Some(*dedupe)
            }
            Some(Sent::Stale) | None => None,
        };
        let sender = (conv.clone(), append.sender.clone());
        let facts = Facts {
            head: known.map(|known| known.head),
            dedupe,
            sender_is_member: append.check_member
                && append.conv.is_group()
                && self.known.members.get(&sender).is_some_and(MemberRow::is_present),
            member_count: known.map_or(0, |known| known.members),
        };
        match decide(append, &facts, self.author.now_ms, self.oldest_id_ms) {
            Decision::Repeat(answer) => answer,
            Decision::Refuse(code, text) => Appended::Refused(code, text),
            Decision::Store(row) => self.store(append, &conv, known.unwrap_or_default(), row),
        }
    }

    /// An earlier attempt stored it: its answer stands, and nobody has published it. The conversation was mended first, so
    /// a change of members is made.
    fn again(&mut self, append: &Append, conv: &ConvKey, (seq, n): (u64, u64)) {
        add_entry(&mut self.entries, conv, seq);
        if append.moves_read_mark {
            self.move_mark(conv, &append.sender, seq, n);
        }
    }

    fn store(&mut self, append: &Append, conv: &ConvKey, mut known: HeadRow, row: Row) -> Appended {
        self.insert(append, conv, &row);
        known.head = row.head;
        if append.kind == kind::GROUP_CHANGE {
            self.change_members(append, conv, &mut known, (row.seq, row.n), row.move_recent_from);
        }
        if let Some(before) = row.move_recent_from {
            self.move_recent(conv, &known, before);
        }
        if append.moves_read_mark {
            self.move_mark(conv, &append.sender, row.seq, row.n);
        }
        self.known.heads.insert(conv.clone(), Ok(known));
        self.dirty.entry(conv.clone()).or_insert(row.seq);
        self.counts.insert((conv.clone(), row.seq), row.n);
        add_entry(&mut self.entries, conv, row.seq);
        self.stored += 1;
        Appended::Stored {
            seq: row.seq,
            n: row.n,
            time_ms: row.time_ms,
            frame: row.frame,
            member_version: row.head.conv_version,
            repeated: false,
        }
    }

    fn insert(&mut self, append: &Append, conv: &ConvKey, row: &Row) {
        let message = MessageRow {
            n: row.n,
            hash: row.hash,
            time_ms: row.time_ms,
            flags: append.flags,
            client_id: append.client_msg_id.0,
            sender: append.sender.as_str().to_owned(),
            moves: (append.kind == kind::GROUP_CHANGE).then(|| Moves {
                join: append.members.join.clone(),
                leave: append.members.leave.clone(),
            }),
            frame: row.frame.clone(),
        };
        let key = self.keys.message(conv, row.seq);
        let value = message.encode(&key);
        self.change(key, Change::Insert(value));
        let key = self
            .keys
            .dedupe(conv, append.sender.as_str(), append.client_msg_id);
        let dedupe = DedupeRow {
            seq: row.seq,
            hash: row.hash,
        };
        let value = dedupe.encode(&key);
        let identity = (conv.clone(), append.sender.clone(), append.client_msg_id);
        let change = if self.known.sent.get(&identity) == Some(&Sent::Stale) {
            Change::Put(value)
        } else {
            Change::Insert(value)
        };
        self.change(key, change);
        let dedupe = Dedupe {
            seq: row.seq,
            n: row.n,
            time_ms: row.time_ms,
            hash: row.hash,
        };
        self.known
            .sent
            .insert(identity, Sent::Counts(dedupe, row.frame.clone()));
    }

    /// Joins and leaves. Who is there already keeps the place of his join; who is not there cannot leave.
    fn change_members(
        &mut self,
        append: &Append,
        conv: &ConvKey,
        known: &mut HeadRow,
        (seq, n): (u64, u64),
        moved_from: Option<u64>,
    ) {
        let now = known.head.recent_bucket;
        for user in &append.members.join {
            let at = (conv.clone(), user.clone());
            let row = self.known.members.entry(at.clone()).or_default();
            if row.is_present() {
                continue;
            }
            // What was said before he came is not unread for him.
            (row.join_seq, row.leave_seq, row.read_seq, row.read_n) = (seq, 0, seq - 1, n);
            self.touched.insert(at);
            known.members += 1;
            if let Some(list) = self.known.lists.get_mut(conv) {
                list.insert(user.clone());
            }
            self.list(conv, user, known.large, now);
        }
        for user in &append.members.leave {
            let at = (conv.clone(), user.clone());
            let Some(row) = self.known.members.get_mut(&at).filter(|row| row.is_present()) else {
                continue;
            };
            row.leave_seq = seq;
            self.touched.insert(at);
            known.members = known.members.saturating_sub(1);
            if let Some(list) = self.known.lists.get_mut(conv) {
                list.remove(user);
            }
            self.unlist(conv, user, known.large, now);
            self.unlist(conv, user, known.large, moved_from.unwrap_or(now));
            self.touch_changed(conv, user, now);
        }
        if known.members > LARGE_GROUP_MEMBERS && !known.large {
            for user in self.listed(conv) {
                self.unlist(conv, &user, false, now);
                self.unlist(conv, &user, false, moved_from.unwrap_or(now));
                self.list(conv, &user, true, now);
            }
            known.large = true;
        }
    }

    /// The first message in a bucket moves the recent rows of all members; later ones write none.
    fn move_recent(&mut self, conv: &ConvKey, known: &HeadRow, before: u64) {
        if known.large {
            return;
        }
        for user in self.listed(conv) {
            self.unlist(conv, &user, false, before);
            self.list(conv, &user, false, known.head.recent_bucket);
        }
    }

    /// Who has rows in the recent index for a conversation.
    fn listed(&self, conv: &ConvKey) -> Vec<UserId> {
        if let Some((small, large)) = conv.1.direct_users() {
            return if small == large {
                vec![small]
            } else {
                vec![small, large]
            };
        }
        let list = self.known.lists.get(conv);
        debug_assert!(list.is_some(), "lists that may move were read");
        list.into_iter().flatten().cloned().collect()
    }

    fn list(&mut self, conv: &ConvKey, user: &UserId, large: bool, bucket: u64) {
        let key = self.list_key(conv, user, large, bucket);
        let value = Listed.encode(&key);
        self.change(key, Change::Put(value));
    }

    fn unlist(&mut self, conv: &ConvKey, user: &UserId, large: bool, bucket: u64) {
        let key = self.list_key(conv, user, large, bucket);
        self.change(key, Change::Delete);
    }

    fn list_key(&self, conv: &ConvKey, user: &UserId, large: bool, bucket: u64) -> Vec<u8> {
        if large {
            self.keys.large(user, conv)
        } else {
            self.keys.listed(Table::Recent, user, bucket, conv)
        }
    }

    /// A change of the user's own in a conversation: his terminals learn it at their next sync.
    fn touch_changed(&mut self, conv: &ConvKey, user: &UserId, bucket: u64) {
        let at = (conv.clone(), user.clone());
        let row = self.known.members.entry(at.clone()).or_default();
        let before = row.changed_bucket;
        if before >= bucket {
            return;
        }
        row.changed_bucket = bucket;
        self.touched.insert(at);
        if before > 0 {
            let key = self.keys.listed(Table::Changed, user, before, conv);
            self.change(key, Change::Delete);
        }
        let key = self.keys.listed(Table::Changed, user, bucket, conv);
        let value = Listed.encode(&key);
        self.change(key, Change::Put(value));
    }

    fn move_mark(&mut self, conv: &ConvKey, user: &UserId, seq: u64, n: u64) {
        let at = (conv.clone(), user.clone());
        let row = self.known.members.entry(at.clone()).or_default();
        if row.read_seq < seq {
            (row.read_seq, row.read_n) = (seq, n);
            self.touched.insert(at);
        }
    }

    /// Moves a read mark forward.
    ///
    /// # Errors
    ///
    /// The caller's: [`StoreError::Ahead`], [`StoreError::NotMember`].
    pub(super) fn read(&mut self, conv: &ConvKey, user: &UserId, seq: u64) -> Result<ReadMark, StoreError> {
        let known = self.known.head(conv)?.ok_or(StoreError::Ahead)?;
        let row = self.known.members.get(&(conv.clone(), user.clone()));
        if row.is_none() && conv.1.is_group() {
            return Err(StoreError::NotMember);
        }
        let row = row.cloned().unwrap_or_default();
        let top = if row.leave_seq > 0 {
            row.leave_seq - 1
        } else {
            known.head.seq
        };
        if seq > top {
            return Err(StoreError::Ahead);
        }
        let stays = ReadMark {
            seq: row.read_seq,
            n: row.read_n,
            moved: false,
        };
        if seq <= row.read_seq {
            return Ok(stays);
        }
        let place = (conv.clone(), seq);
        let n = match (self.counts.get(&place), self.known.messages.get(&place)) {
            (Some(n), _) => *n,
            (None, Some(message)) => message.as_ref().map_err(Clone::clone)?.n,
            // Retention has cut it: what is left counts from the first message above.
            (None, None) => return Ok(stays),
        };
        self.move_mark(conv, user, seq, n);
        self.touch_changed(conv, user, self.author.now_ms / RECENT_BUCKET_MS);
        Ok(ReadMark { seq, n, moved: true })
    }

    /// Keeps what a terminal has. A mark above the head, or of somebody who is not in the conversation, is dropped.
    pub(super) fn delivered(&mut self, mark: &DeliveredMark) {
        let conv = (mark.app, mark.conv.clone());
        let Ok(Some(known)) = self.known.head(&conv) else {
            return;
        };
        let is_his = match mark.conv.direct_users() {
            Some((small, large)) => mark.user == small || mark.user == large,
            None => self
                .known
                .members
                .contains_key(&(conv.clone(), mark.user.clone())),
        };
        if !is_his || mark.seq > known.head.seq {
            return;
        }
        let key = self
            .keys
            .delivered(&conv, &mark.user, mark.terminal as u8, &mark.device);
        if self.known.delivered.get(&key).is_none_or(|seq| *seq < mark.seq) {
            self.known.delivered.insert(key.clone(), mark.seq);
            let value = DeliveredRow(mark.seq).encode(&key);
            self.change(key, Change::Put(value));
        }
    }

    /// Deletes a row.
    pub(super) fn forget(&mut self, key: Vec<u8>) {
        self.change(key, Change::Delete);
    }

    /// Ends the draft: the places that are not published, and all that is to be written but for the outbox row.
    pub(super) fn finish(mut self) -> (OutboxEntries, BTreeMap<Vec<u8>, Change>) {
        for (conv, first_seq) in std::mem::take(&mut self.dirty) {
            let Some(Ok(known)) = self.known.heads.get(&conv) else {
                continue;
            };
            let row = HeadRow {
                writer: self.author.boot,
                first_seq,
                commit: self.author.start,
                ..*known
            };
            let key = self.keys.head(&conv);
            let value = row.encode(&key);
            self.changes.insert(key, Change::Put(value));
        }
        for at in std::mem::take(&mut self.touched) {
            if let Some(row) = self.known.members.get(&at) {
                let key = self.keys.member(&at.0, &at.1);
                let value = row.encode(&key);
                self.changes.insert(key, Change::Put(value));
            }
        }
        (self.entries, self.changes)
    }

    fn change(&mut self, key: Vec<u8>, change: Change) {
        self.bytes += key.len() + change.value().map_or(0, <[u8]>::len);
        self.changes.insert(key, change);
    }
}

/// The answer of an earlier attempt that wrote exactly this message.
fn own(earlier: &[Appended], seq: u64, frame: &[u8]) -> Option<Appended> {
    let is_it = |answer: &&Appended| match answer {
        Appended::Stored {
            seq: at, frame: said, ..
        } => *at == seq && said == frame,
        Appended::Refused(..) => false,
    };
    earlier.iter().find(is_it).cloned()
}
