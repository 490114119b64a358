//! What is read of one conversation: its messages, its members, the outbox.

use std::collections::HashSet;

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_protocol::limits::PAGE_BYTES;
use rusqlite::{Connection, Row, params};

use super::rows::{self, ROW_VERSION, place, seq_of};
use super::schema::failed;
use super::{Member, Members, OutboxRow, Pulled, Readable, StoreError};

/// Rows of the outbox per read.
const OUTBOX_ROWS: i64 = 256;
/// Who wrote the rows of earlier lives of this store.
pub(super) const EARLIER: u64 = 0;

/// Messages from `from` to `to`, without holes.
pub(super) fn pull(
    db: &Connection,
    app: AppId,
    conv: &ConvId,
    from: u64,
    to: u64,
    limit: u16,
) -> Result<Pulled, StoreError> {
    let known = rows::conv(db, app, conv).map_err(failed)?;
    let head = known.map_or_else(Default::default, |known| known.head);
    if from > head.seq + 1 {
        return Err(StoreError::Ahead);
    }
    let mut pulled = Pulled {
        messages: Vec::new(),
        next_seq: 0,
        head,
    };
    let (from, to) = (from.max(head.floor_seq + 1), to.min(head.seq));
    let Some(known) = known.filter(|_| from <= to) else {
        return Ok(pulled);
    };
    let sql = format!(
        "SELECT {} FROM message WHERE place BETWEEN ?1 AND ?2 ORDER BY place LIMIT ?3",
        rows::MESSAGE_COLUMNS
    );
    let mut statement = db.prepare_cached(&sql).map_err(failed)?;
    let range = params![place(known.id, from), place(known.id, to), limit.max(1)];
    let mut found = statement.query(range).map_err(failed)?;
    let (mut bytes, mut expected) = (0, from);
    let missing = |seq| StoreError::Damaged {
        what: format!("message seq {seq} of {conv}"),
        problem: "is missing".to_owned(),
    };
    while let Some(row) = found.next().map_err(failed)? {
        let message = rows::message(row, conv)?;
        let seq = seq_of(message.place);
        if seq != expected {
            return Err(missing(expected));
        }
        if bytes > 0 && bytes + message.frame.len() > PAGE_BYTES {
            break;
        }
        bytes += message.frame.len();
        expected += 1;
        pulled.messages.push((seq, message.frame.to_vec()));
    }
    if pulled.messages.is_empty() {
        return Err(missing(from));
    }
    pulled.next_seq = if expected <= to { expected } else { 0 };
    Ok(pulled)
}

/// One message, if it is there.
pub(super) fn one(
    db: &Connection,
    conv: i64,
    seq: u64,
    name: &dyn std::fmt::Display,
) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let sql = format!("SELECT {} FROM message WHERE place = ?1", rows::MESSAGE_COLUMNS);
    let mut statement = db.prepare_cached(&sql).map_err(failed)?;
    let mut found = statement.query(params![place(conv, seq)]).map_err(failed)?;
    let Some(row) = found.next().map_err(failed)? else {
        return Ok(None);
    };
    rows::message(row, name).map(|message| Some((message.n, message.frame.to_vec())))
}

/// Members of a group, and who left it at `since` or later; of a direct conversation its users, with version 0.
pub(super) fn members(db: &Connection, app: AppId, conv: &ConvId, since: u64) -> Result<Members, StoreError> {
    if let Some((small, large)) = conv.direct_users() {
        let users = if small == large {
            vec![small]
        } else {
            vec![small, large]
        };
        let stays = users.into_iter().map(|user| Member {
            user,
            join_seq: 1,
            leave_seq: 0,
        });
        return Ok(Members {
            version: 0,
            stays: stays.collect(),
        });
    }
    let Some(known) = rows::conv(db, app, conv).map_err(failed)? else {
        return Ok(Members::default());
    };
    let mut statement = db
        .prepare_cached(
            "SELECT user, join_seq, leave_seq FROM member WHERE conv = ?1 AND (leave_seq = 0 OR leave_seq >= ?2)
             ORDER BY user",
        )
        .map_err(failed)?;
    // No place is above the largest that the table can hold.
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let rows = statement
        .query_map(params![known.id, since], |row| {
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok((row.get::<_, String>(0)?, number(1)?, number(2)?))
        })
        .map_err(failed)?;
    let stays = rows.map(|row| {
        let (user, join_seq, leave_seq) = row.map_err(failed)?;
        let user = UserId::new(&user).map_err(|error| StoreError::Damaged {
            what: format!("member list of {conv}"),
            problem: error.to_string(),
        })?;
        Ok(Member {
            user,
            join_seq,
            leave_seq,
        })
    });
    Ok(Members {
        version: known.head.conv_version,
        stays: stays.collect::<Result<_, _>>()?,
    })
}

/// What a user may read: from his join on, and what lies below his leave for who is no member any more.
pub(super) fn readable(
    db: &Connection,
    app: AppId,
    conv: &ConvId,
    user: &UserId,
) -> Result<Option<Readable>, StoreError> {
    let mut readable = Readable {
        first: 1,
        last: u64::MAX,
        last_n: 0,
    };
    if let Some((small, large)) = conv.direct_users() {
        return Ok((small == *user || large == *user).then_some(readable));
    }
    let Some(known) = rows::conv(db, app, conv).map_err(failed)? else {
        return Ok(None);
    };
    let Some(row) = rows::member(db, known.id, user.as_str()).map_err(failed)? else {
        return Ok(None);
    };
    readable.first = row.join_seq;
    if row.leave_seq > 0 {
        readable.last = row.leave_seq - 1;
        readable.last_n = one(db, known.id, readable.last, conv)?.map_or(0, |(n, _)| n);
    }
    Ok(Some(readable))
}

/// Outbox rows of some lanes behind `after`, up to `last`.
pub(super) fn outbox(
    db: &Connection,
    lanes: &[Lane],
    mut after: u64,
    last: u64,
) -> Result<Vec<OutboxRow>, StoreError> {
    let lanes: HashSet<Lane> = lanes.iter().copied().collect();
    loop {
        let mut rows = outbox_page(db, after, last)?;
        let Some(end) = rows.last() else { return Ok(rows) };
        after = end.id;
        rows.retain(|row| lanes.contains(&row.lane));
        if !rows.is_empty() {
            return Ok(rows);
        }
    }
}

fn outbox_page(db: &Connection, after: u64, last: u64) -> Result<Vec<OutboxRow>, StoreError> {
    let mut statement = db
        .prepare_cached(
            "SELECT id, lane, v, crc, entries FROM outbox WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        )
        .map_err(failed)?;
    let mut found = statement
        .query(params![after.cast_signed(), last.cast_signed(), OUTBOX_ROWS])
        .map_err(failed)?;
    let mut taken = Vec::new();
    while let Some(row) = found.next().map_err(failed)? {
        taken.push(outbox_row(row)?);
    }
    Ok(taken)
}

/// Those of these outbox rows of a lane that are there.
pub(super) fn outbox_rows(db: &Connection, lane: Lane, ids: &[u64]) -> Result<Vec<OutboxRow>, StoreError> {
    let mut statement = db
        .prepare_cached("SELECT id, lane, v, crc, entries FROM outbox WHERE id = ?1 AND lane = ?2")
        .map_err(failed)?;
    let mut taken = Vec::new();
    for id in ids {
        let mut found = statement
            .query(params![id.cast_signed(), i64::from(lane.0)])
            .map_err(failed)?;
        if let Some(row) = found.next().map_err(failed)? {
            taken.push(outbox_row(row)?);
        }
    }
    Ok(taken)
}

/// Checks a row of id, lane, version, CRC, entries.
fn outbox_row(row: &Row<'_>) -> Result<OutboxRow, StoreError> {
    let number = |at| row.get::<_, i64>(at).map_err(failed);
    let id = number(0)?.cast_unsigned();
    let damaged = |problem: &str| StoreError::Damaged {
        what: format!("outbox row {id}"),
        problem: problem.to_owned(),
    };
    let bytes: Vec<u8> = row.get(4).map_err(failed)?;
    if number(2)? != ROW_VERSION || number(3)? != i64::from(crc32fast::hash(&bytes)) {
        return Err(damaged("its version or CRC does not hold"));
    }
    let entries = rows::decode_entries(&bytes).ok_or_else(|| damaged("it does not decode"))?;
    let lane = u16::try_from(number(1)?).map_err(|_| damaged("its lane is out of range"))?;
    Ok(OutboxRow {
        id,
        lane: Lane(lane),
        writer: EARLIER,
        entries,
    })
}
