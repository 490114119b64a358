//! Reading and writing of single rows, with their checks.
//!
//! Every message row carries a CRC-32 over its place, its id and its frame. A row whose CRC does not hold is never
//! served: it is named in the error, so that an operator knows what a backup must bring back.

use corelane_protocol::id::{AppId, ConvId, UserId};
use corelane_router_core::append::{Append, Appended, Batch, Dedupe, Facts, Head};
use corelane_router_core::decide::{Decision, Row, decide};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::StoreError;

/// Version of a message row.
const ROW_FORMAT: i64 = 1;

/// CRC of a message row.
pub fn row_crc(seq: u64, n: u64, client_id: &[u8], frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&seq.to_le_bytes());
    crc.update(&n.to_le_bytes());
    crc.update(client_id);
    crc.update(frame);
    crc.finalize()
}

/// A conversation's number and head.
///
/// # Errors
///
/// The database's.
pub fn head(db: &Connection, app: AppId, conv: &ConvId) -> rusqlite::Result<Option<(i64, Head)>> {
    let mut statement = db.prepare_cached(
        "SELECT id, seq, n, floor_seq, conv_version, recent_bucket FROM head WHERE app = ?1 AND conv = ?2",
    )?;
    statement
        .query_row(params![app.0, conv.as_bytes()], |row| {
            let number = |at| row.get::<_, i64>(at).map(|number| number as u64);
            let head = Head {
                seq: number(1)?,
                n: number(2)?,
                floor_seq: number(3)?,
                conv_version: number(4)?,
                recent_bucket: number(5)?,
            };
            Ok((row.get(0)?, head))
        })
        .optional()
}

/// A message row that was checked.
#[derive(Debug)]
pub struct MessageRow {
    /// Place.
    pub seq: u64,
    /// Countable messages up to it.
    pub n: u64,
    /// Store time.
    pub time_ms: u64,
    /// Hash of what it says.
    pub hash: u64,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Columns that [`checked`] reads, in its order.
pub const MESSAGE_COLUMNS: &str = "seq, n, time_ms, hash, format, crc, client_id, frame";

/// Takes a row of [`MESSAGE_COLUMNS`]; `Ok(Err(..))` if it is damaged.
///
/// # Errors
///
/// The database's.
pub fn checked(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<MessageRow, StoreError>> {
    let number = |at| row.get::<_, i64>(at).map(|number| number as u64);
    let (seq, n) = (number(0)?, number(1)?);
    let (format, crc): (i64, i64) = (row.get(4)?, row.get(5)?);
    let client_id: Vec<u8> = row.get(6)?;
    let frame: Vec<u8> = row.get(7)?;
    if format != ROW_FORMAT || i64::from(row_crc(seq, n, &client_id, &frame)) != crc {
        let problem = if format == ROW_FORMAT { "CRC does not hold".to_owned() } else { format!("format {format}") };
        return Ok(Err(StoreError::Damaged { what: format!("message with seq {seq}"), problem }));
    }
    Ok(Ok(MessageRow { seq, n, time_ms: number(2)?, hash: number(3)?, frame }))
}

/// Applies a lane's batch within a transaction. Returns the answers and the outbox row, 0 if nothing is new.
///
/// # Errors
///
/// The database's or a damaged row: the whole transaction must be rolled back.
pub fn apply(db: &Transaction<'_>, batch: &Batch, now_ms: u64) -> Result<(Vec<Appended>, u64), StoreError> {
    let mut answers = Vec::with_capacity(batch.appends.len());
    let mut entries: Vec<(AppId, ConvId, u64, u64)> = Vec::new();
    for append in &batch.appends {
        let answer = apply_one(db, append, now_ms)?;
        if let Appended::Stored { seq, repeated: false, .. } = &answer {
            match entries.iter_mut().find(|(app, conv, ..)| *app == append.app && *conv == append.conv) {
                Some((_, _, _, last)) => *last = *seq,
                None => entries.push((append.app, append.conv.clone(), *seq, *seq)),
            }
        }
        answers.push(answer);
    }
    if entries.is_empty() {
        return Ok((answers, 0));
    }
    let mut statement = db.prepare_cached("INSERT INTO outbox (lane, entries) VALUES (?1, ?2)").map_err(failed)?;
    statement.execute(params![batch.lane.0, encode_entries(&entries)]).map_err(failed)?;
    Ok((answers, db.last_insert_rowid() as u64))
}

fn apply_one(db: &Transaction<'_>, append: &Append, now_ms: u64) -> Result<Appended, StoreError> {
    let known = head(db, append.app, &append.conv).map_err(failed)?;
    let facts = facts(db, append, known)?;
    match decide(append, &facts, now_ms) {
        Decision::Repeat(answer) => Ok(answer),
        Decision::Refuse(code, text) => Ok(Appended::Refused(code, text)),
        Decision::Store(row) => {
            write(db, append, known.map(|(id, _)| id), &row).map_err(failed)?;
            Ok(Appended::Stored {
                seq: row.seq,
                n: row.n,
                time_ms: row.time_ms,
                frame: row.frame,
                member_version: row.head.conv_version,
                repeated: false,
            })
        }
    }
}

fn facts(db: &Transaction<'_>, append: &Append, known: Option<(i64, Head)>) -> Result<Facts, StoreError> {
    let Some((conv, head)) = known else { return Ok(Facts::default()) };
    let mut statement = db
        .prepare_cached(
            "SELECT seq, n, time_ms, hash, format, crc, client_id, frame FROM message
             WHERE conv = ?1 AND client_id = ?2 AND sender = ?3",
        )
        .map_err(failed)?;
    // The whole row is read and checked: a repeat is answered only if the message is really there.
    let dedupe = statement
        .query_row(params![conv, append.client_msg_id.0, append.sender.as_str()], checked)
        .optional()
        .map_err(failed)?
        .transpose()?
        .map(|row| Dedupe { seq: row.seq, n: row.n, time_ms: row.time_ms, hash: row.hash });
    let sender_is_member = if append.check_member && append.conv.is_group() {
        is_member(db, conv, &append.sender).map_err(failed)?
    } else {
        false
    };
    Ok(Facts { head: Some(head), dedupe, sender_is_member })
}

/// Whether a user is in a group now.
///
/// # Errors
///
/// The database's.
pub fn is_member(db: &Connection, conv: i64, user: &UserId) -> rusqlite::Result<bool> {
    let mut statement =
        db.prepare_cached("SELECT 1 FROM member WHERE conv = ?1 AND user = ?2 AND leave_seq = 0")?;
    statement.exists(params![conv, user.as_str()])
}

fn write(db: &Transaction<'_>, append: &Append, conv: Option<i64>, row: &Row) -> rusqlite::Result<()> {
    let head = &row.head;
    let numbers = [head.seq, head.n, head.floor_seq, head.conv_version, head.recent_bucket].map(|each| each as i64);
    let [seq, n, floor_seq, conv_version, bucket] = numbers;
    let conv = match conv {
        Some(conv) => {
            db.prepare_cached(
                "UPDATE head SET seq = ?2, n = ?3, floor_seq = ?4, conv_version = ?5, recent_bucket = ?6 WHERE id = ?1",
            )?
            .execute(params![conv, seq, n, floor_seq, conv_version, bucket])?;
            conv
        }
        None => {
            db.prepare_cached(
                "INSERT INTO head (app, conv, seq, n, floor_seq, conv_version, recent_bucket)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![append.app.0, append.conv.as_bytes(), seq, n, floor_seq, conv_version, bucket])?;
            db.last_insert_rowid()
        }
    };
    let crc = row_crc(row.seq, row.n, &append.client_msg_id.0, &row.frame);
    db.prepare_cached(
        "INSERT INTO message (conv, seq, n, sender, client_id, hash, time_ms, format, crc, frame)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        conv,
        seq,
        n,
        append.sender.as_str(),
        append.client_msg_id.0,
        row.hash as i64,
        row.time_ms as i64,
        ROW_FORMAT,
        crc,
        row.frame
    ])?;
    change_members(db, append, conv, seq, bucket)?;
    if row.move_recent_from.is_some() {
        move_recent(db, append, conv, bucket)?;
    }
    if append.moves_read_mark {
        move_mark(db, append.app, &append.sender, conv, row.seq, row.n)?;
    }
    Ok(())
}

fn change_members(db: &Transaction<'_>, append: &Append, conv: i64, seq: i64, bucket: i64) -> rusqlite::Result<()> {
    for user in &append.members.join {
        // A member who is there already keeps the place of his first join.
        db.prepare_cached(
            "INSERT INTO member (conv, user, join_seq, leave_seq) VALUES (?1, ?2, ?3, 0)
             ON CONFLICT (conv, user) DO UPDATE SET join_seq = ?3, leave_seq = 0 WHERE leave_seq != 0",
        )?
        .execute(params![conv, user.as_str(), seq])?;
        touch_recent(db, append.app, user, conv, bucket)?;
    }
    for user in &append.members.leave {
        db.prepare_cached("UPDATE member SET leave_seq = ?3 WHERE conv = ?1 AND user = ?2 AND leave_seq = 0")?
            .execute(params![conv, user.as_str(), seq])?;
        touch_recent(db, append.app, user, conv, bucket)?;
    }
    Ok(())
}

/// The first message in a bucket moves the recent rows of all members; later ones write none.
fn move_recent(db: &Transaction<'_>, append: &Append, conv: i64, bucket: i64) -> rusqlite::Result<()> {
    match append.conv.direct_users() {
        Some((small, large)) => {
            touch_recent(db, append.app, &small, conv, bucket)?;
            touch_recent(db, append.app, &large, conv, bucket)
        }
        None => {
            let mut statement = db.prepare_cached("SELECT user FROM member WHERE conv = ?1 AND leave_seq = 0")?;
            let users: Vec<String> = statement.query_map(params![conv], |row| row.get(0))?.collect::<Result<_, _>>()?;
            for user in users.iter().filter_map(|user| UserId::new(user).ok()) {
                touch_recent(db, append.app, &user, conv, bucket)?;
            }
            Ok(())
        }
    }
}

/// Puts a conversation at the end of a user's recent list, unless it moved in this bucket already.
///
/// # Errors
///
/// The database's.
pub fn touch_recent(db: &Connection, app: AppId, user: &UserId, conv: i64, bucket: i64) -> rusqlite::Result<()> {
    let mut delete =
        db.prepare_cached("DELETE FROM recent WHERE app = ?1 AND user = ?2 AND conv = ?3 AND bucket < ?4")?;
    delete.execute(params![app.0, user.as_str(), conv, bucket])?;
    let mut insert =
        db.prepare_cached("INSERT OR IGNORE INTO recent (app, user, conv, bucket) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![app.0, user.as_str(), conv, bucket])?;
    Ok(())
}

/// Moves a read mark forward; true if it moved.
///
/// # Errors
///
/// The database's.
pub fn move_mark(db: &Connection, app: AppId, user: &UserId, conv: i64, seq: u64, n: u64) -> rusqlite::Result<bool> {
    let mut statement = db.prepare_cached(
        "INSERT INTO mark (app, user, conv, seq, n) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (app, user, conv) DO UPDATE SET seq = ?4, n = ?5 WHERE seq < ?4",
    )?;
    Ok(statement.execute(params![app.0, user.as_str(), conv, seq as i64, n as i64])? > 0)
}

/// A read mark, (0, 0) if there is none.
///
/// # Errors
///
/// The database's.
pub fn mark(db: &Connection, app: AppId, user: &UserId, conv: i64) -> rusqlite::Result<(u64, u64)> {
    let mut statement = db.prepare_cached("SELECT seq, n FROM mark WHERE app = ?1 AND user = ?2 AND conv = ?3")?;
    let mark = statement
        .query_row(params![app.0, user.as_str(), conv], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    Ok(mark.map_or((0, 0), |(seq, n)| (seq as u64, n as u64)))
}

/// An outbox row's entries: `{app u32, conv length u8, conv, first u64, last u64}*`, little-endian.
pub fn encode_entries(entries: &[(AppId, ConvId, u64, u64)]) -> Vec<u8> {
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
pub fn decode_entries(mut bytes: &[u8]) -> Option<Vec<(AppId, ConvId, u64, u64)>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (app, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        let (conv, rest) = rest.split_at_checked(usize::from(*length))?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (last, rest) = rest.split_first_chunk::<8>()?;
        let conv = ConvId::parse(conv).ok()?;
        entries.push((AppId(u32::from_le_bytes(*app)), conv, u64::from_le_bytes(*first), u64::from_le_bytes(*last)));
        bytes = rest;
    }
    Some(entries)
}

/// A database error as the port's.
pub fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(super::schema::explain(&error))
}
