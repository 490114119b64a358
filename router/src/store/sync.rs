//! What changed for a user since a cursor: the recent index, read in the order of change.
//!
//! A conversation's row moves to the end of its members' lists with the first message of a bucket (5 minutes), in the
//! transaction of that message; later ones in the bucket write nothing. So a cursor that is given out at the end of a
//! sync lags: it lies before everything that moved in the last two buckets, and what those conversations got
//! since is found again. Ids of the index only grow and are never used twice, so nothing slips below a cursor.
//!
//! Cursor: version u8 | lagging id u64 | page position u64 (0 between syncs), little-endian.

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::id::{AppId, UserId};
use corelane_protocol::limits::{CURSOR_BYTES_MAX, PAGE_BYTES};
use corelane_router_core::append::Head;
use corelane_router_core::decide::RECENT_BUCKET_MS;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, failed};
use super::{StoreError, Synced};

/// Version of the cursor.
const CURSOR_VERSION: u8 = 1;
/// Buckets that a cursor lags behind the newest one.
const LAG_BUCKETS: i64 = 2;

const _: () = assert!(17 <= CURSOR_BYTES_MAX);

#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// The next sync begins behind this id.
    lagging: i64,
    /// The next page begins behind this id; 0 if none follows.
    page: i64,
}

impl Cursor {
    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let [CURSOR_VERSION, numbers @ ..] = bytes else { return Err(StoreError::Cursor) };
        let (lagging, rest) = numbers.split_first_chunk::<8>().ok_or(StoreError::Cursor)?;
        let (page, rest) = rest.split_first_chunk::<8>().ok_or(StoreError::Cursor)?;
        if !rest.is_empty() {
            return Err(StoreError::Cursor);
        }
        Ok(Self { lagging: i64::from_le_bytes(*lagging), page: i64::from_le_bytes(*page) })
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend(self.lagging.to_le_bytes());
        bytes.extend(self.page.to_le_bytes());
        bytes
    }
}

/// One page.
///
/// # Errors
///
/// [`StoreError::Cursor`], [`StoreError::Ahead`] for a cursor that this log never gave out; the database's.
pub(super) fn sync(
    db: &Connection,
    app: AppId,
    user: &UserId,
    cursor: &[u8],
    limit: u16,
    now_ms: u64,
) -> Result<Synced, StoreError> {
    // One read transaction: the newest bucket and the pages are of the same moment.
    let db = db.unchecked_transaction().map_err(failed)?;
    let cursor = Cursor::decode(cursor)?;
    let newest: i64 = db
        .query_row("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'recent'), 0)", [], |row| row.get(0))
        .map_err(failed)?;
    if cursor.lagging > newest || cursor.page > newest {
        return Err(StoreError::Ahead);
    }
    let first_page = cursor.page == 0;
    // Where the next sync begins is fixed with the first page: what moves while pages are read comes again then.
    let lagging = if first_page { lagging_id(&db, app, user, cursor.lagging, now_ms)? } else { cursor.lagging };
    let from = if first_page { cursor.lagging } else { cursor.page };
    let mut statement = db
        .prepare_cached(
            "SELECT recent.id, head.id, head.conv, head.seq, head.n, head.floor_seq, head.conv_version
             FROM recent JOIN head ON head.id = recent.conv
             WHERE recent.app = ?1 AND recent.user = ?2 AND recent.id > ?3 ORDER BY recent.id LIMIT ?4",
        )
        .map_err(failed)?;
    let mut found = statement.query(params![app.0, user.as_str(), from, i64::from(limit) + 1]).map_err(failed)?;
    let mut page = Synced { cursor: Vec::new(), more: false, conversations: Vec::new() };
    let (mut last, mut bytes) = (from, 0);
    while let Some(row) = found.next().map_err(failed)? {
        let number = |at| row.get::<_, i64>(at).map_err(failed);
        if page.conversations.len() == usize::from(limit) || bytes > PAGE_BYTES {
            page.more = true;
            break;
        }
        let conv: Vec<u8> = row.get(2).map_err(failed)?;
        let head = Head {
            seq: number(3)? as u64,
            n: number(4)? as u64,
            floor_seq: number(5)? as u64,
            conv_version: number(6)? as u64,
            recent_bucket: 0,
        };
        let state = conv_state(&db, app, user, number(1)?, conv, head)?;
        bytes += state.last.len() + 256;
        last = number(0)?;
        page.conversations.push(state);
    }
    page.cursor = Cursor { lagging, page: if page.more { last } else { 0 } }.encode();
    Ok(page)
}

/// The highest id that no later message can make stale: everything behind it lies in the newest buckets.
fn lagging_id(db: &Connection, app: AppId, user: &UserId, before: i64, now_ms: u64) -> Result<i64, StoreError> {
    let newest = (now_ms / RECENT_BUCKET_MS) as i64;
    let lagging: Option<i64> = db
        .query_row(
            "SELECT max(id) FROM recent WHERE app = ?1 AND user = ?2 AND bucket <= ?3
             AND id < coalesce((SELECT min(id) FROM recent WHERE app = ?1 AND user = ?2 AND bucket > ?3), 1 << 62)",
            params![app.0, user.as_str(), newest - LAG_BUCKETS],
            |row| row.get(0),
        )
        .optional()
        .map_err(failed)?
        .flatten();
    Ok(lagging.unwrap_or(before).max(before))
}

fn conv_state(
    db: &Connection,
    app: AppId,
    user: &UserId,
    id: i64,
    conv: Vec<u8>,
    head: Head,
) -> Result<ConvState, StoreError> {
    let (read_seq, read_n) = rows::mark(db, app, user, id).map_err(failed)?;
    let mut statement = db
        .prepare_cached(
            "SELECT seq, n, time_ms, hash, format, crc, client_id, frame FROM message WHERE conv = ?1 AND seq = ?2",
        )
        .map_err(failed)?;
    let last =
        statement.query_row(params![id, head.seq as i64], rows::checked).optional().map_err(failed)?.transpose()?;
    Ok(ConvState {
        conv,
        head_seq: head.seq,
        head_n: head.n,
        floor_seq: head.floor_seq,
        conv_version: head.conv_version,
        read_seq,
        read_n,
        last: last.map(|row| row.frame).unwrap_or_default(),
    })
}
