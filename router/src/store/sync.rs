//! What changed for a user since a cursor: the recent index, newest bucket first.
//!
//! A conversation's rows move to the current bucket (5 minutes) with its first message in it, in the transaction of
//! that message; later ones in the bucket write nothing. So a sync reports whole buckets, and the cursor it ends with
//! lies two buckets before the one in which it began: what moves while pages are read, or is still being
//! written, is found by the next one. A walk has three parts: recent rows, the user's own changes, large groups.
//!
//! Cursor: version u8 | epoch u64 | since u64 | part u8 | began u64 | bucket u64 | conversation u64, little-endian; the
//! last three are 0 between syncs.

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::id::{AppId, ConvId, UserId};
use corelane_protocol::limits::{CURSOR_BYTES_MAX, PAGE_BYTES};
use corelane_router_core::decide;
use rusqlite::{Connection, params};

use super::rows::{self, ConvRow};
use super::schema::failed;
use super::{StoreError, Synced, read};

/// Version of the cursor.
const CURSOR_VERSION: u8 = 1;
const CURSOR_BYTES: usize = 42;
/// What a conversation costs in a page beside its last message, at most.
pub(super) const STATE_BYTES: usize = 256;

const _: () = assert!(CURSOR_BYTES <= CURSOR_BYTES_MAX);

/// Part of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Part {
    /// Between syncs.
    Idle = 0,
    Recent = 1,
    Changed = 2,
    Large = 3,
}

/// How far a user's syncs went. Every adapter's cursors look the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    epoch: u64,
    /// Buckets from here on are wanted.
    pub(super) since: u64,
    pub(super) part: Part,
    /// Lowest bucket that was open when the walk began.
    pub(super) began: u64,
    /// The walk goes on below this bucket and conversation.
    pub(super) bucket: u64,
    pub(super) conv: u64,
}

impl Cursor {
    /// Goes on where `bytes` say, or begins when there are none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cursor`]; [`StoreError::Ahead`] for a cursor of another epoch or of the future.
    pub(super) fn begin(bytes: &[u8], epoch: u64, open_bucket: u64) -> Result<Self, StoreError> {
        let mut cursor = if bytes.is_empty() {
            Self {
                epoch,
                since: 0,
                part: Part::Idle,
                began: 0,
                bucket: 0,
                conv: 0,
            }
        } else {
            Self::decode(bytes)?
        };
        if cursor.epoch != epoch || cursor.since > open_bucket || cursor.began > open_bucket {
            return Err(StoreError::Ahead);
        }
        if cursor.part == Part::Idle {
            cursor.began = open_bucket;
            cursor.enter(Part::Recent);
        }
        Ok(cursor)
    }

    /// The cursor between this sync and the next, which looks at buckets from `since` on.
    pub(super) fn end(self, since: u64) -> Self {
        Self {
            since: since.max(self.since),
            part: Part::Idle,
            began: 0,
            bucket: 0,
            conv: 0,
            ..self
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let bytes: &[u8; CURSOR_BYTES] = bytes.try_into().map_err(|_| StoreError::Cursor)?;
        let number = |from: usize| {
            let taken = bytes
                .get(from..from + 8)
                .and_then(|taken| taken.first_chunk::<8>());
            u64::from_le_bytes(*taken.expect("the cursor has 42 bytes"))
        };
        let [CURSOR_VERSION, ..] = *bytes else {
            return Err(StoreError::Cursor);
        };
        let part = match bytes.get(17) {
            Some(0) => Part::Idle,
            Some(1) => Part::Recent,
            Some(2) => Part::Changed,
            Some(3) => Part::Large,
            _ => return Err(StoreError::Cursor),
        };
        Ok(Self {
            epoch: number(1),
            since: number(9),
            part,
            began: number(18),
            bucket: number(26),
            conv: number(34),
        })
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.push(CURSOR_VERSION);
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.since.to_le_bytes());
        bytes.push(self.part as u8);
        for number in [self.began, self.bucket, self.conv] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    pub(super) fn enter(&mut self, part: Part) {
        self.part = part;
        self.bucket = i64::MAX.cast_unsigned();
        self.conv = if part == Part::Large {
            0
        } else {
            i64::MAX.cast_unsigned()
        };
    }
}

/// Who asks, and the log's epoch and the lowest open bucket, both taken before the read transaction.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) app: AppId,
    pub(super) user: &'a UserId,
    pub(super) epoch: u64,
    pub(super) open_bucket: u64,
}

/// One page.
///
/// # Errors
///
/// [`StoreError::Cursor`], [`StoreError::Ahead`] for a cursor of another epoch or of the future; the database's.
pub(super) fn sync(
    db: &Connection,
    asked: &Asked<'_>,
    cursor: &[u8],
    limit: u16,
) -> Result<Synced, StoreError> {
    let mut cursor = Cursor::begin(cursor, asked.epoch, asked.open_bucket)?;
    let mut page = Page {
        asked,
        conversations: Vec::new(),
        bytes: 0,
        rows: 0,
        limit: usize::from(limit.max(1)),
    };
    loop {
        let full = match cursor.part {
            Part::Recent | Part::Changed => page.buckets(db, &mut cursor)?,
            Part::Large | Part::Idle => page.large(db, &mut cursor)?,
        };
        if full {
            return Ok(Synced {
                cursor: cursor.encode(),
                more: true,
                conversations: page.conversations,
                rows_read: page.rows,
            });
        }
        match cursor.part {
            Part::Recent => cursor.enter(Part::Changed),
            Part::Changed => cursor.enter(Part::Large),
            Part::Large | Part::Idle => break,
        }
    }
    Ok(Synced {
        cursor: cursor.end(decide::since_after(cursor.began)).encode(),
        more: false,
        conversations: page.conversations,
        rows_read: page.rows,
    })
}

struct Page<'a> {
    asked: &'a Asked<'a>,
    conversations: Vec<ConvState>,
    bytes: usize,
    rows: u64,
    limit: usize,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.conversations.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// Goes on through recent rows or own changes; true if the page is full before they end.
    fn buckets(&mut self, db: &Connection, cursor: &mut Cursor) -> Result<bool, StoreError> {
        let recent = cursor.part == Part::Recent;
        let sql = if recent {
            "SELECT bucket, conv FROM recent WHERE app = ?1 AND user = ?2 AND bucket >= ?3 AND (bucket, conv) < (?4, ?5)
             ORDER BY bucket DESC, conv DESC"
        } else {
            "SELECT bucket, conv FROM changed WHERE app = ?1 AND user = ?2 AND bucket >= ?3 AND (bucket, conv) < (?4, ?5)
             ORDER BY bucket DESC, conv DESC"
        };
        let mut statement = db.prepare_cached(sql).map_err(failed)?;
        let (since, bucket, conv) = (
            cursor.since.cast_signed(),
            cursor.bucket.cast_signed(),
            cursor.conv.cast_signed(),
        );
        let (app, user) = (self.asked.app.0, self.asked.user.as_str());
        let mut found = statement
            .query(params![app, user, since, bucket, conv])
            .map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            self.rows += 1;
            if self.is_full() {
                return Ok(true);
            }
            let (bucket, id): (i64, i64) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
            (cursor.bucket, cursor.conv) = (bucket.cast_unsigned(), id.cast_unsigned());
            self.add(db, id, |known, left| {
                recent || left || known.large || known.head.recent_bucket < cursor.since
            })?;
        }
        Ok(false)
    }

    /// Goes on through the large groups; true if the page is full before they end.
    fn large(&mut self, db: &Connection, cursor: &mut Cursor) -> Result<bool, StoreError> {
        let mut statement = db
            .prepare_cached(
                "SELECT large.conv FROM large JOIN conv ON conv.id = large.conv
                 WHERE large.app = ?1 AND large.user = ?2 AND large.conv > ?3 AND conv.recent_bucket >= ?4
                 ORDER BY large.conv",
            )
            .map_err(failed)?;
        let (app, user) = (self.asked.app.0, self.asked.user.as_str());
        let from = params![app, user, cursor.conv.cast_signed(), cursor.since.cast_signed()];
        let mut found = statement.query(from).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            // The group's row and the conversation's.
            self.rows += 2;
            if self.is_full() {
                return Ok(true);
            }
            let id: i64 = row.get(0).map_err(failed)?;
            cursor.conv = id.cast_unsigned();
            self.add(db, id, |_, _| true)?;
        }
        Ok(false)
    }

    /// Adds a conversation's state if `wanted` (given its row and whether the user left it).
    fn add(
        &mut self,
        db: &Connection,
        id: i64,
        wanted: impl Fn(&ConvRow, bool) -> bool,
    ) -> Result<(), StoreError> {
        let damaged = |problem: &str| StoreError::Damaged {
            what: format!("conversation number {id}"),
            problem: problem.to_owned(),
        };
        let (known, name) = rows::conv_by_id(db, id)
            .map_err(failed)?
            .ok_or_else(|| damaged("it has no row"))?;
        let member = rows::member(db, id, self.asked.user.as_str()).map_err(failed)?;
        self.rows += 1 + u64::from(member.is_some());
        let member = member.unwrap_or_default();
        let left = member.leave_seq > 0;
        if !wanted(&known, left) {
            return Ok(());
        }
        let conv = ConvId::parse(&name).map_err(|error| damaged(&error.to_string()))?;
        let head = known.head;
        // Who left sees the group as it was before his leave.
        let top = if left { member.leave_seq - 1 } else { head.seq };
        // What was said before he came is not his: it is cut as by retention.
        let floor_seq = head.floor_seq.max(member.join_seq.saturating_sub(1));
        let last = match read::one(db, id, top, &conv) {
            Ok(None) if top > head.floor_seq => {
                tracing::error!(%conv, seq = top, "the last message is missing; it is listed without");
                None
            }
            // One damaged message does not keep a user from all his others: pulling it says what is wrong.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "a conversation is listed without its last message");
                None
            }
            last => last?,
        };
        self.rows += u64::from(last.is_some());
        let (n, mut last) = last.unwrap_or((if left { member.read_n } else { head.n }, Vec::new()));
        if top <= floor_seq {
            last.clear();
        }
        self.bytes += STATE_BYTES + last.len();
        self.conversations.push(ConvState {
            conv: name,
            head_seq: top,
            head_n: n,
            floor_seq,
            conv_version: head.conv_version,
            read_seq: member.read_seq,
            read_n: member.read_n,
            last,
        });
        Ok(())
    }
}
