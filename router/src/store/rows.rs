//! Single rows and their checks.
//!
//! Message, dedupe and outbox rows begin with a format version and carry a CRC-32 over all that they say, their key
//! included. A row whose CRC does not hold is never served: the error names it, so that an operator knows what a
//! backup must bring back.

use corelane_protocol::id::{AppId, ConvId};
use corelane_router_core::append::Head;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::StoreError;
use super::schema::failed;

/// Version of message, dedupe and outbox rows.
pub(super) const ROW_VERSION: i64 = 1;
/// Highest seq that a place has room for.
pub(super) const CONV_SEQ_MAX: u64 = u32::MAX as u64;
/// Highest number of a conversation that a place has room for.
pub(super) const CONV_NUMBER_MAX: i64 = i32::MAX as i64;

/// Key of a message row.
pub(super) fn place(conv: i64, seq: u64) -> i64 {
    conv << 32 | seq.min(CONV_SEQ_MAX).cast_signed()
}

/// The seq in a key.
pub(super) fn seq_of(place: i64) -> u64 {
    place.cast_unsigned() & CONV_SEQ_MAX
}

/// A conversation's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvRow {
    /// Its number.
    pub(super) id: i64,
    /// Its head.
    pub(super) head: Head,
    /// Members now; 0 for direct conversations.
    pub(super) members: u64,
    /// Whether it is too large for recent rows.
    pub(super) large: bool,
}

const CONV_COLUMNS: &str = "id, seq, n, floor_seq, conv_version, recent_bucket, members, large";

fn conv_row(row: &Row<'_>) -> rusqlite::Result<ConvRow> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let head = Head {
        seq: number(1)?,
        n: number(2)?,
        floor_seq: number(3)?,
        conv_version: number(4)?,
        recent_bucket: number(5)?,
    };
    Ok(ConvRow {
        id: row.get(0)?,
        head,
        members: number(6)?,
        large: number(7)? != 0,
    })
}

/// A conversation's row by its name.
pub(super) fn conv(db: &Connection, app: AppId, conv: &ConvId) -> rusqlite::Result<Option<ConvRow>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {CONV_COLUMNS} FROM conv WHERE app = ?1 AND name = ?2"
    ))?;
    statement
        .query_row(params![app.0, conv.as_bytes()], conv_row)
        .optional()
}

/// A conversation's row and name by its number.
pub(super) fn conv_by_id(db: &Connection, id: i64) -> rusqlite::Result<Option<(ConvRow, Vec<u8>)>> {
    let mut statement = db.prepare_cached(&format!("SELECT {CONV_COLUMNS}, name FROM conv WHERE id = ?1"))?;
    statement
        .query_row(params![id], |row| Ok((conv_row(row)?, row.get(8)?)))
        .optional()
}

/// What a message row says, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageRow<'a> {
    /// Its key.
    pub(super) place: i64,
    /// Countable messages up to it.
    pub(super) n: u64,
    /// Who sent it.
    pub(super) sender: &'a [u8],
    /// The sender's id for it.
    pub(super) client_id: &'a [u8],
    /// Hash of what it says.
    pub(super) hash: u64,
    /// Store time, ms since 1970.
    pub(super) time_ms: u64,
    /// Message flags.
    pub(super) flags: u16,
    /// The `Message` frame.
    pub(super) frame: &'a [u8],
}

/// Columns of a message row, in the order in which [`message`] takes them.
pub(super) const MESSAGE_COLUMNS: &str = "place, v, crc, n, sender, client_id, hash, time_ms, flags, frame";

impl MessageRow<'_> {
    /// What the row's crc column must hold.
    pub(super) fn crc(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.place.to_le_bytes());
        crc.update(&self.n.to_le_bytes());
        crc.update(&(self.sender.len() as u64).to_le_bytes());
        crc.update(self.sender);
        crc.update(self.client_id);
        crc.update(&self.hash.to_le_bytes());
        crc.update(&self.time_ms.to_le_bytes());
        crc.update(&self.flags.to_le_bytes());
        crc.update(self.frame);
        crc.finalize()
    }
}

/// Takes a row of [`MESSAGE_COLUMNS`] of a conversation (named for the error) and checks it.
pub(super) fn message<'row>(
    row: &'row Row<'_>,
    conv: &dyn std::fmt::Display,
) -> Result<MessageRow<'row>, StoreError> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned).map_err(failed);
    let place = row.get(0).map_err(failed)?;
    let damaged = |problem: &str| StoreError::Damaged {
        what: format!("message seq {} of {conv}", seq_of(place)),
        problem: problem.to_owned(),
    };
    if number(1)? != ROW_VERSION.cast_unsigned() {
        return Err(damaged("its format version is unknown"));
    }
    let bytes = |at| match row.get_ref(at).map_err(failed)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(bytes),
        _ => Err(damaged("a column has another type")),
    };
    let taken = MessageRow {
        place,
        n: number(3)?,
        sender: bytes(4)?,
        client_id: bytes(5)?,
        hash: number(6)?,
        time_ms: number(7)?,
        flags: u16::try_from(number(8)?).map_err(|_| damaged("its flags are out of range"))?,
        frame: bytes(9)?,
    };
    if number(2)? != u64::from(taken.crc()) {
        return Err(damaged("its CRC does not hold"));
    }
    Ok(taken)
}

/// What a dedupe row's crc column must hold.
pub(super) fn dedupe_crc(conv: i64, sender: &str, client_id: &[u8], seq: u64, hash: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&conv.to_le_bytes());
    crc.update(sender.as_bytes());
    crc.update(client_id);
    crc.update(&seq.to_le_bytes());
    crc.update(&hash.to_le_bytes());
    crc.finalize()
}

/// A membership.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MemberRow {
    /// Place at which he joined; 0 in direct conversations.
    pub(super) join_seq: u64,
    /// Place at which he left; 0 for who is there.
    pub(super) leave_seq: u64,
    /// Read up to here.
    pub(super) read_seq: u64,
    /// Countable messages up to there.
    pub(super) read_n: u64,
    /// Bucket of his row in `changed`; 0 for none.
    pub(super) changed_bucket: u64,
}

/// A user's row in a conversation.
pub(super) fn member(db: &Connection, conv: i64, user: &str) -> rusqlite::Result<Option<MemberRow>> {
    let mut statement = db.prepare_cached(
        "SELECT join_seq, leave_seq, read_seq, read_n, changed_bucket FROM member WHERE conv = ?1 AND user = ?2",
    )?;
    let taken = statement.query_row(params![conv, user], |row| {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(MemberRow {
            join_seq: number(0)?,
            leave_seq: number(1)?,
            read_seq: number(2)?,
            read_n: number(3)?,
            changed_bucket: number(4)?,
        })
    });
    taken.optional()
}

/// Conversations of an outbox row: tenant, conversation, first and last place.
pub(super) type OutboxEntries = Vec<(AppId, ConvId, u64, u64)>;

/// An outbox row's entries: `{app u32, conv length u8, conv, first u64, last u64}*`, little-endian.
pub(super) fn encode_entries(entries: &OutboxEntries) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (app, conv, first, last) in entries {
        bytes.extend(app.0.to_le_bytes());
        bytes.push(u8::try_from(conv.as_bytes().len()).expect("a conversation id has at most 130 bytes"));
        bytes.extend(conv.as_bytes());
        bytes.extend(first.to_le_bytes());
        bytes.extend(last.to_le_bytes());
    }
    bytes
}

/// Takes what [`encode_entries`] made; `None` if it is damaged.
pub(super) fn decode_entries(mut bytes: &[u8]) -> Option<OutboxEntries> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (app, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        let (conv, rest) = rest.split_at_checked(usize::from(*length))?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (last, rest) = rest.split_first_chunk::<8>()?;
        let conv = ConvId::parse(conv).ok()?;
        entries.push((
            AppId(u32::from_le_bytes(*app)),
            conv,
            u64::from_le_bytes(*first),
            u64::from_le_bytes(*last),
        ));
        bytes = rest;
    }
    Some(entries)
}
