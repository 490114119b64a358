//! Stage persist, the writing: what one transaction does to the tables.
//!
//! Owns nothing durable; keeps, across transactions, the heads of the conversations that were written lately (the
//! writer is the only one that changes them), and within one, the heads and read marks that are written at
//! its end, once per conversation and reader. A transaction that fails takes all of that with it: [`Heads::forget`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::kind;
use corelane_protocol::id::{AppId, ConvId, UserId};
use corelane_router_core::append::{Append, Appended, Batch, Dedupe, Facts, Head};
use corelane_router_core::decide::{self, Decision, Row, decide};
use rusqlite::{OptionalExtension, params};

use super::changes::{Change, Tables};
use super::rows::{self, ConvRow, MessageRow, OutboxEntries, ROW_VERSION, place};
use super::{DeliveredMark, ReadMark, StoreError};

/// Conversations whose heads are remembered.
const HEADS_MAX: usize = 65_536;
/// A group with more members than this has no recent rows: one message would move as many.
pub(super) const LARGE_GROUP_MEMBERS: u64 = 500;

/// Heads that the writer knows.
#[derive(Debug, Default)]
pub(super) struct Heads {
    known: HashMap<(AppId, ConvId), ConvRow>,
}

impl Heads {
    /// After a rollback nothing that is remembered may be believed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Apply<'a> {
    tables: &'a Tables<'a>,
    heads: &'a mut Heads,
    now_ms: u64,
    /// Oldest id that is taken.
    oldest_id_ms: u64,
    writer: u64,
    next_outbox: u64,
    /// Heads to write, with the first seq of this transaction.
    dirty: HashMap<(AppId, ConvId), u64>,
    /// Read marks to move: seq and n by conversation number and reader.
    marks: HashMap<(i64, UserId), (u64, u64)>,
    /// Messages stored.
    pub(super) stored: u64,
}

impl<'a> Apply<'a> {
    /// Begins with the store's time, the oldest id that is taken, and the number of the last outbox row.
    pub(super) fn new(
        tables: &'a Tables<'a>,
        heads: &'a mut Heads,
        now_ms: u64,
        oldest_id_ms: u64,
        writer: u64,
        last_outbox: u64,
    ) -> Self {
        if heads.known.len() > HEADS_MAX {
            heads.forget();
        }
        Self {
            tables,
            heads,
            now_ms,
            oldest_id_ms,
            writer,
            next_outbox: last_outbox + 1,
            dirty: HashMap::new(),
            marks: HashMap::new(),
            stored: 0,
        }
    }

    /// Applies a lane's batch. Returns the answers and the outbox row, 0 if nothing is new.
    ///
    /// # Errors
    ///
    /// The database's: the whole transaction must be rolled back.
    pub(super) fn batch(&mut self, batch: &Batch) -> rusqlite::Result<(Vec<Appended>, u64)> {
        let mut answers = Vec::with_capacity(batch.appends.len());
        let mut entries: OutboxEntries = Vec::new();
        for append in &batch.appends {
            let answer = self.append(append)?;
            if let Appended::Stored {
                seq, repeated: false, ..
            } = &answer
            {
                match entries
                    .iter_mut()
                    .find(|(app, conv, ..)| *app == append.app && *conv == append.conv)
                {
                    Some((_, _, _, last)) => *last = *seq,
                    None => entries.push((append.app, append.conv.clone(), *seq, *seq)),
                }
                self.stored += 1;
            }
            answers.push(answer);
        }
        if entries.is_empty() {
            return Ok((answers, 0));
        }
        let row = self.next_outbox;
        self.next_outbox += 1;
        let entries = rows::encode_entries(&entries);
        let crc = crc32fast::hash(&entries);
        self.tables.change(
            Change::Outbox,
            params![row.cast_signed(), batch.lane.0, ROW_VERSION, crc, entries],
        )?;
        Ok((answers, row))
    }

    fn append(&mut self, append: &Append) -> rusqlite::Result<Appended> {
        let known = self.conv(append.app, &append.conv)?;
        let facts = match self.facts(append, known)? {
            Ok(facts) => facts,
            // Sequencing it anew would store it twice once the row is mended.
            Err(damage) => return Ok(Appended::Refused(ErrorCode::Rejected, damage.to_string())),
        };
        match decide(append, &facts, self.now_ms, self.oldest_id_ms) {
            Decision::Repeat(answer) => Ok(answer),
            Decision::Refuse(code, text) => Ok(Appended::Refused(code, text)),
            Decision::Store(row) if row.seq > rows::CONV_SEQ_MAX => Ok(Appended::Refused(
                ErrorCode::Rejected,
                "the conversation is full".to_owned(),
            )),
            Decision::Store(row) => self.store(append, known, row),
        }
    }

    fn conv(&mut self, app: AppId, conv: &ConvId) -> rusqlite::Result<Option<ConvRow>> {
        match self.heads.known.entry((app, conv.clone())) {
            Entry::Occupied(known) => Ok(Some(*known.get())),
            Entry::Vacant(slot) => Ok(rows::conv(self.tables.db, app, conv)?.map(|row| *slot.insert(row))),
        }
    }

    fn facts(&self, append: &Append, known: Option<ConvRow>) -> rusqlite::Result<Result<Facts, StoreError>> {
        let Some(known) = known else {
            return Ok(Ok(Facts::default()));
        };
        let dedupe = match self.dedupe(append, known.id)? {
            Ok(dedupe) => dedupe,
            Err(damage) => return Ok(Err(damage)),
        };
        let sender_is_member = append.check_member
            && append.conv.is_group()
            && rows::member(self.tables.db, known.id, append.sender.as_str())?
                .is_some_and(|row| row.leave_seq == 0);
        Ok(Ok(Facts {
            head: Some(known.head),
            dedupe,
            sender_is_member,
            member_count: known.members,
        }))
    }

    /// What is known of the id. The message itself is read and checked too: a repeat is answered only if it is there.
    fn dedupe(&self, append: &Append, conv: i64) -> rusqlite::Result<Result<Option<Dedupe>, StoreError>> {
        let (sender, client_id) = (append.sender.as_str(), append.client_msg_id.0);
        let mut statement = self.tables.db.prepare_cached(
            "SELECT seq, hash, crc FROM dedupe WHERE client_id = ?1 AND conv = ?2 AND sender = ?3",
        )?;
        let found = statement.query_row(params![client_id, conv, sender], |row| {
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok((number(0)?, number(1)?, number(2)?))
        });
        let Some((seq, hash, crc)) = found.optional()? else {
            return Ok(Ok(None));
        };
        let damaged = |problem: &str| StoreError::Damaged {
            what: format!("dedupe row of message {seq} of {}", append.conv),
            problem: problem.to_owned(),
        };
        if crc != u64::from(rows::dedupe_crc(conv, sender, &client_id, seq, hash)) {
            return Ok(Err(damaged("its CRC does not hold")));
        }
        let mut statement = self.tables.db.prepare_cached(&format!(
            "SELECT {} FROM message WHERE place = ?1",
            rows::MESSAGE_COLUMNS
        ))?;
        let mut found = statement.query(params![place(conv, seq)])?;
        let Some(row) = found.next()? else {
            return Ok(Err(damaged("the message is missing")));
        };
        Ok(rows::message(row, &append.conv).and_then(|message| {
            if message.sender != sender.as_bytes() || message.client_id != client_id {
                return Err(damaged("the message has another sender or id"));
            }
            Ok(Some(Dedupe {
                seq,
                n: message.n,
                time_ms: message.time_ms,
                hash: message.hash,
            }))
        }))
    }

    fn store(&mut self, append: &Append, known: Option<ConvRow>, row: Row) -> rusqlite::Result<Appended> {
        let mut conv = match known {
            Some(known) => known,
            None => self.create(append)?,
        };
        if conv.id > rows::CONV_NUMBER_MAX {
            return Ok(Appended::Refused(
                ErrorCode::Rejected,
                "the store holds no more conversations".to_owned(),
            ));
        }
        self.insert(append, conv.id, &row)?;
        conv.head = row.head;
        let at = (append.app, append.conv.clone());
        if append.kind == kind::GROUP_CHANGE {
            self.change_members(append, &mut conv, row.move_recent_from)?;
        }
        if let Some(before) = row.move_recent_from {
            self.move_recent(append, &conv, before)?;
        }
        if append.moves_read_mark {
            self.marks
                .insert((conv.id, append.sender.clone()), (row.seq, row.n));
        }
        self.heads.known.insert(at.clone(), conv);
        self.dirty.entry(at).or_insert(row.seq);
        Ok(Appended::Stored {
            seq: row.seq,
            n: row.n,
            time_ms: row.time_ms,
            frame: row.frame,
            member_version: row.head.conv_version,
            repeated: false,
        })
    }

    /// Makes a conversation's row; [`Self::finish`] writes the head into it.
    fn create(&self, append: &Append) -> rusqlite::Result<ConvRow> {
        self.tables
            .change(Change::Conv, params![append.app.0, append.conv.as_bytes()])?;
        let id = self.tables.db.last_insert_rowid();
        Ok(ConvRow {
            id,
            head: Head::default(),
            members: 0,
            large: false,
        })
    }

    fn insert(&self, append: &Append, conv: i64, row: &Row) -> rusqlite::Result<()> {
        let (sender, client_id) = (append.sender.as_str(), append.client_msg_id.0);
        let message = MessageRow {
            place: place(conv, row.seq),
            n: row.n,
            sender: sender.as_bytes(),
            client_id: &client_id,
            hash: row.hash,
            time_ms: row.time_ms,
            flags: append.flags,
            frame: &row.frame,
        };
        self.tables.change(
            Change::Message,
            params![
                message.place,
                ROW_VERSION,
                message.crc(),
                row.n.cast_signed(),
                sender,
                client_id,
                row.hash.cast_signed(),
                row.time_ms.cast_signed(),
                append.flags,
                row.frame
            ],
        )?;
        let crc = rows::dedupe_crc(conv, sender, &client_id, row.seq, row.hash);
        let (seq, hash) = (row.seq.cast_signed(), row.hash.cast_signed());
        self.tables.change(
            Change::Dedupe,
            params![client_id, conv, sender, ROW_VERSION, crc, seq, hash],
        )?;
        Ok(())
    }

    /// Joins and leaves. Who is there already keeps the place of his join; who is not there cannot leave.
    fn change_members(
        &self,
        append: &Append,
        conv: &mut ConvRow,
        moved_from: Option<u64>,
    ) -> rusqlite::Result<()> {
        let head = conv.head;
        let (seq, n) = (head.seq.cast_signed(), head.n.cast_signed());
        let now = head.recent_bucket;
        for user in &append.members.join {
            // What was said before he came is not unread for him.
            let joined = self
                .tables
                .change(Change::Join, params![conv.id, user.as_str(), seq, n])?;
            if joined > 0 {
                conv.members += 1;
                self.list(append.app, user.as_str(), conv, now)?;
            }
        }
        for user in &append.members.leave {
            let left = self
                .tables
                .change(Change::Leave, params![conv.id, user.as_str(), seq])?;
            if left > 0 {
                conv.members = conv.members.saturating_sub(1);
                self.unlist(append.app, user.as_str(), conv, now)?;
                self.unlist(append.app, user.as_str(), conv, moved_from.unwrap_or(now))?;
                self.touch_changed(append.app, user.as_str(), conv.id, now)?;
            }
        }
        if conv.members > LARGE_GROUP_MEMBERS && !conv.large {
            for user in self.members(conv.id)? {
                self.unlist(append.app, &user, conv, now)?;
                self.unlist(append.app, &user, conv, moved_from.unwrap_or(now))?;
                self.list(append.app, &user, &ConvRow { large: true, ..*conv }, now)?;
            }
            conv.large = true;
        }
        Ok(())
    }

    fn members(&self, conv: i64) -> rusqlite::Result<Vec<String>> {
        let mut statement = self
            .tables
            .db
            .prepare_cached("SELECT user FROM member WHERE conv = ?1 AND leave_seq = 0")?;
        statement.query_map(params![conv], |row| row.get(0))?.collect()
    }

    /// The first message in a bucket moves the recent rows of all members; later ones write none.
    fn move_recent(&self, append: &Append, conv: &ConvRow, before: u64) -> rusqlite::Result<()> {
        if conv.large {
            return Ok(());
        }
        let now = conv.head.recent_bucket;
        let relist = |user: &str| {
            self.unlist(append.app, user, conv, before)?;
            self.list(append.app, user, conv, now)
        };
        match append.conv.direct_users() {
            Some((small, large)) => {
                relist(small.as_str())?;
                if small == large {
                    Ok(())
                } else {
                    relist(large.as_str())
                }
            }
            None => self.members(conv.id)?.iter().try_for_each(|user| relist(user)),
        }
    }

    fn list(&self, app: AppId, user: &str, conv: &ConvRow, bucket: u64) -> rusqlite::Result<()> {
        if conv.large {
            self.tables
                .change(Change::ListLarge, params![app.0, user, conv.id])?;
        } else {
            self.tables
                .change(Change::List, params![app.0, user, bucket.cast_signed(), conv.id])?;
        }
        Ok(())
    }

    fn unlist(&self, app: AppId, user: &str, conv: &ConvRow, bucket: u64) -> rusqlite::Result<()> {
        if conv.large {
            self.tables
                .change(Change::UnlistLarge, params![app.0, user, conv.id])?;
        } else {
            self.tables.change(
                Change::Unlist,
                params![app.0, user, bucket.cast_signed(), conv.id],
            )?;
        }
        Ok(())
    }

    /// A change of the user's own in a conversation: his terminals learn it at their next sync.
    fn touch_changed(&self, app: AppId, user: &str, conv: i64, bucket: u64) -> rusqlite::Result<()> {
        let before = rows::member(self.tables.db, conv, user)?
            .unwrap_or_default()
            .changed_bucket;
        if before >= bucket {
            return Ok(());
        }
        self.tables
            .change(Change::Untouch, params![app.0, user, before.cast_signed(), conv])?;
        let bucket = bucket.cast_signed();
        self.tables
            .change(Change::Touch, params![app.0, user, bucket, conv])?;
        self.tables.change(Change::Touched, params![conv, user, bucket])?;
        Ok(())
    }

    /// Moves a read mark forward.
    ///
    /// # Errors
    ///
    /// Outside, the database's: roll back. Inside, the caller's.
    pub(super) fn read(
        &mut self,
        app: AppId,
        user: &UserId,
        conv: &ConvId,
        seq: u64,
    ) -> rusqlite::Result<Result<ReadMark, StoreError>> {
        let Some(known) = self.conv(app, conv)? else {
            return Ok(Err(StoreError::Ahead));
        };
        // A send earlier in this transaction may have moved it.
        if let Some((seq, n)) = self.marks.remove(&(known.id, user.clone())) {
            self.move_mark(known.id, user, seq, n)?;
        }
        let row = rows::member(self.tables.db, known.id, user.as_str())?;
        if row.is_none() && conv.is_group() {
            return Ok(Err(StoreError::NotMember));
        }
        let row = row.unwrap_or_default();
        let top = if row.leave_seq > 0 {
            row.leave_seq - 1
        } else {
            known.head.seq
        };
        if seq > top {
            return Ok(Err(StoreError::Ahead));
        }
        if seq <= row.read_seq {
            return Ok(Ok(ReadMark {
                seq: row.read_seq,
                n: row.read_n,
                moved: false,
            }));
        }
        let mut statement = self
            .tables
            .db
            .prepare_cached("SELECT n FROM message WHERE place = ?1")?;
        let n = statement
            .query_row(params![place(known.id, seq)], |row| row.get::<_, i64>(0))
            .optional()?;
        let Some(n) = n else {
            // Retention has cut it: what is left counts from the first message above.
            return Ok(Ok(ReadMark {
                seq: row.read_seq,
                n: row.read_n,
                moved: false,
            }));
        };
        self.move_mark(known.id, user, seq, n.cast_unsigned())?;
        self.touch_changed(
            app,
            user.as_str(),
            known.id,
            self.now_ms / decide::RECENT_BUCKET_MS,
        )?;
        Ok(Ok(ReadMark {
            seq,
            n: n.cast_unsigned(),
            moved: true,
        }))
    }

    fn move_mark(&self, conv: i64, user: &UserId, seq: u64, n: u64) -> rusqlite::Result<()> {
        let (seq, n) = (seq.cast_signed(), n.cast_signed());
        self.tables
            .change(Change::Read, params![conv, user.as_str(), seq, n])?;
        Ok(())
    }

    /// Keeps what a terminal has. A mark above the head, or of somebody who is not in the conversation, is dropped.
    pub(super) fn delivered(&mut self, mark: &DeliveredMark) -> rusqlite::Result<()> {
        let Some(known) = self.conv(mark.app, &mark.conv)? else {
            return Ok(());
        };
        let is_his = match mark.conv.direct_users() {
            Some((small, large)) => mark.user == small || mark.user == large,
            None => rows::member(self.tables.db, known.id, mark.user.as_str())?.is_some(),
        };
        if !is_his || mark.seq > known.head.seq {
            return Ok(());
        }
        let (user, device) = (mark.user.as_str(), &mark.device);
        let seq = mark.seq.cast_signed();
        self.tables.change(
            Change::Delivered,
            params![known.id, user, mark.terminal as u8, device, seq],
        )?;
        Ok(())
    }

    /// Deletes outbox rows.
    pub(super) fn clear(&self, outbox: &[u64]) -> rusqlite::Result<()> {
        let mut rows = outbox.to_vec();
        rows.sort_unstable();
        // They are cleared nearly in the order of their numbers.
        for run in rows.chunk_by(|one, next| next - one <= 1) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.tables
                    .change(Change::Clear, params![first.cast_signed(), last.cast_signed()])?;
            }
        }
        Ok(())
    }

    /// Writes heads and read marks. Returns the number of the last outbox row and how many messages were stored.
    pub(super) fn finish(mut self) -> rusqlite::Result<(u64, u64)> {
        for (at, first_seq) in std::mem::take(&mut self.dirty) {
            let Some(conv) = self.heads.known.get(&at) else {
                continue;
            };
            let head = conv.head;
            let numbers = [
                head.seq,
                head.n,
                head.floor_seq,
                head.conv_version,
                head.recent_bucket,
                conv.members,
            ];
            let [seq, n, floor_seq, conv_version, recent_bucket, members] = numbers.map(u64::cast_signed);
            self.tables.change(
                Change::Head,
                params![
                    conv.id,
                    seq,
                    n,
                    floor_seq,
                    conv_version,
                    recent_bucket,
                    members,
                    conv.large,
                    self.writer.cast_signed(),
                    first_seq.cast_signed()
                ],
            )?;
        }
        for ((conv, user), (seq, n)) in std::mem::take(&mut self.marks) {
            self.move_mark(conv, &user, seq, n)?;
        }
        Ok((self.next_outbox - 1, self.stored))
    }
}
