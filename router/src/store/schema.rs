//! Tables of the `SQLite` store, and what must hold before they are used.
//!
//! ```text
//! meta        cluster, epoch, lanes, clean end, highest bucket, and the counters of commits and outbox rows
//! conv        one row per conversation: its number and its head
//! message     one row per message, by place = conversation number * 2^32 + seq
//! dedupe      one row per message, by id first: ids begin with their time, so new rows are neighbours
//! member      one row per (conversation, user): join, leave, role, read mark, settings
//! delivered   one row per (conversation, user, terminal, device)
//! recent      one row per (user, conversation), by the 5-minute bucket of its last move
//! changed     the same for a user's own changes (read marks, leaving)
//! large       the groups of a user that are too large for recent rows
//! outbox      one row per commit and lane that is not reported consumed
//! ```
//!
//! A place is one integer because an integer key makes the table a B+ tree clustered by conversation: bodies
//! lie in leaves only and a page of history is a few neighbouring pages. It bounds a conversation at 2^32 - 1 messages
//! and the store at 2^31 - 1 conversations.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::StoreError;

/// Version of the tables, and of what lies beside them; a store with another one is not opened. 3 has a journal.
const FORMAT: i64 = 3;
/// The version before, which is opened and made 3.
const FORMAT_BEFORE: i64 = 2;
/// Tells a Corelane store from another `SQLite` file (`CLne`).
const APPLICATION_ID: i64 = 0x434c_6e65;
/// A file up to this size is checked whole when it is opened; above, damage shows when it is read.
const CHECKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long another program (a backup, an operator's shell) may hold the file before a write is refused.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What the writer keeps of the database in memory, in KiB: more than the upper pages of all trees and the leaves that
/// are written at the moment. Not more than that, because `SQLite` looks through its whole table of pages at each commit:
/// with 64 MiB that was 6 % of a message's CPU.
const CACHE_KIB: u32 = 16 * 1024;
/// Bytes of the log above which readers are waited for, so that it can start over; and what is left of its file then.
pub(super) const LOG_BYTES_MAX: i64 = 256 * 1024 * 1024;

/// Messages lie in the order in which they came, with an index of their places: as rows in the order of their places they
/// filled pages of some thousand conversations from the middle, and each message had four pages of the log written. Stores
/// of before keep them so; every statement reads both.
const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (id INTEGER PRIMARY KEY CHECK (id = 1), commits INTEGER NOT NULL, outbox INTEGER NOT NULL);
CREATE TABLE conv (
    id INTEGER PRIMARY KEY, app INTEGER NOT NULL, name BLOB NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL,
    floor_seq INTEGER NOT NULL, conv_version INTEGER NOT NULL, recent_bucket INTEGER NOT NULL,
    members INTEGER NOT NULL, large INTEGER NOT NULL, writer INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    UNIQUE (app, name));
CREATE TABLE message (
    place INTEGER NOT NULL UNIQUE, v INTEGER NOT NULL, crc INTEGER NOT NULL, n INTEGER NOT NULL, sender TEXT NOT NULL,
    client_id BLOB NOT NULL, hash INTEGER NOT NULL, time_ms INTEGER NOT NULL, flags INTEGER NOT NULL, frame BLOB NOT NULL);
CREATE TABLE dedupe (
    client_id BLOB NOT NULL, conv INTEGER NOT NULL, sender TEXT NOT NULL, v INTEGER NOT NULL, crc INTEGER NOT NULL,
    seq INTEGER NOT NULL, hash INTEGER NOT NULL, PRIMARY KEY (client_id, conv, sender)) WITHOUT ROWID;
CREATE TABLE member (
    conv INTEGER NOT NULL, user TEXT NOT NULL, join_seq INTEGER NOT NULL, leave_seq INTEGER NOT NULL,
    role INTEGER NOT NULL DEFAULT 0, read_seq INTEGER NOT NULL, read_n INTEGER NOT NULL,
    deleted_to INTEGER NOT NULL DEFAULT 0, mention_seq INTEGER NOT NULL DEFAULT 0, settings BLOB,
    changed_bucket INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (conv, user)) WITHOUT ROWID;
CREATE TABLE delivered (
    conv INTEGER NOT NULL, user TEXT NOT NULL, terminal INTEGER NOT NULL, device TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (conv, user, terminal, device)) WITHOUT ROWID;
CREATE TABLE recent (
    app INTEGER NOT NULL, user TEXT NOT NULL, bucket INTEGER NOT NULL, conv INTEGER NOT NULL,
    PRIMARY KEY (app, user, bucket, conv)) WITHOUT ROWID;
CREATE TABLE changed (
    app INTEGER NOT NULL, user TEXT NOT NULL, bucket INTEGER NOT NULL, conv INTEGER NOT NULL,
    PRIMARY KEY (app, user, bucket, conv)) WITHOUT ROWID;
CREATE TABLE large (
    app INTEGER NOT NULL, user TEXT NOT NULL, conv INTEGER NOT NULL, PRIMARY KEY (app, user, conv)) WITHOUT ROWID;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, v INTEGER NOT NULL, crc INTEGER NOT NULL, entries BLOB NOT NULL);
CREATE VIEW history AS
    SELECT conv.app, CAST(substr(conv.name, 2) AS TEXT) AS conv, message.place & 4294967295 AS seq, message.n,
           message.sender, message.time_ms, message.frame
    FROM message JOIN conv ON conv.id = message.place >> 32;
";

/// How sure an acknowledgement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power cut: every commit waits for the fdatasync of the journal.
    Full,
    /// It survives the death of the process, not of the machine.
    Os,
}

/// Opens the database file for writing, makes it if there is none, and checks that it is one of ours. Commits are
/// synced until [`sync_commits`] says otherwise. Where the witness noted commits there was a store: nothing is made
/// in its place.
///
/// # Errors
///
/// [`StoreError::Open`], naming the file and what to do.
pub(super) fn open(
    path: &Path,
    lanes: u16,
    random: u64,
    commits_noted: u64,
) -> Result<Connection, StoreError> {
    let wrong = |problem: String| StoreError::Open {
        path: path.display().to_string(),
        problem,
    };
    let lost = || {
        wrong(format!(
            "is missing or empty, but the witness noted {commits_noted} commits; restore a backup, or remove \
             corelane.witness to begin with an empty store"
        ))
    };
    // Before the file is touched: SQLite throws away the log that lies beside an empty one.
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    if bytes == 0 && commits_noted > 0 {
        return Err(lost());
    }
    let failed = |error: rusqlite::Error| wrong(explain(&error));
    let db = Connection::open(path).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if tables == 0 && commits_noted > 0 {
        return Err(lost());
    }
    if tables > 0 && number("PRAGMA application_id")? != APPLICATION_ID {
        return Err(wrong(
            "is a database of another program; set another data directory".to_owned(),
        ));
    }
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON;",
    )
    .and_then(|()| sync_commits(&db, true))
    .and_then(|()| db.pragma_update(None, "cache_size", -i64::from(CACHE_KIB)))
    .map_err(failed)?;
    if tables == 0 {
        create(&db, lanes, random).map_err(failed)?;
    }
    let format = number("PRAGMA user_version")?;
    if format != FORMAT && format != FORMAT_BEFORE {
        return Err(wrong(format!(
            "has format {format}, this version reads {FORMAT}; use the version that wrote it"
        )));
    }
    if std::fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX) {
        let check: String = db
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed)?;
        if check != "ok" {
            return Err(wrong(format!("is damaged ({check}); restore a backup")));
        }
    }
    db.set_prepared_statement_cache_capacity(128);
    Ok(db)
}

fn create(db: &Connection, lanes: u16, random: u64) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};
         INSERT INTO meta VALUES ('cluster', {cluster}), ('epoch', {epoch}), ('lanes', {lanes}), ('clean', 1), ('bucket', 0);
         INSERT INTO progress VALUES (1, 0, 0); COMMIT;",
        cluster = nonzero(random).cast_signed(),
        epoch = new_epoch(random, 0).cast_signed(),
    ))?;
    // So that a log that is lost takes commits with it, which the witness tells, and not the store itself.
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// An epoch drawn from `random` that is not the one before.
pub(super) fn new_epoch(random: u64, before: u64) -> u64 {
    let epoch = nonzero(random.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    if epoch == before {
        nonzero(epoch.wrapping_add(1))
    } else {
        epoch
    }
}

fn nonzero(number: u64) -> u64 {
    number.max(1)
}

/// Whether COMMIT waits for the log to be synced from here on. If not, checkpoints sync it: after a power cut the database is
/// as it was after some commit.
pub(super) fn sync_commits(db: &Connection, synced: bool) -> rusqlite::Result<()> {
    let synchronous = if synced { "FULL" } else { "NORMAL" };
    db.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA journal_size_limit = {LOG_BYTES_MAX}"
    ))
}

/// The version of a store that is written by this program.
pub(super) fn set_format(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "user_version", FORMAT)
}

/// From here on closing this connection does not move the log into the database, even if it is the last one.
pub(super) fn leave_log(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map(|_| ())
}

/// Opens the database file for reading.
///
/// # Errors
///
/// [`StoreError::Open`].
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        db.execute_batch("PRAGMA query_only = 1; PRAGMA cache_size = -32768; PRAGMA cell_size_check = ON;")?;
        leave_log(&db)?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(db)
    };
    open().map_err(|error| StoreError::Open {
        path: path.display().to_string(),
        problem: explain(&error),
    })
}

/// Opens the database file for moving the log into it.
///
/// # Errors
///
/// [`StoreError::Open`].
pub(super) fn open_checkpointer(path: &Path) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let db = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        db.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        leave_log(&db)?;
        sync_commits(&db, false)?;
        Ok(db)
    };
    open().map_err(|error| StoreError::Open {
        path: path.display().to_string(),
        problem: explain(&error),
    })
}

/// Key of the time up to which ids may have been forgotten.
pub(super) const FORGOTTEN: &str = "forgotten_ms";
/// Key of this opening of the store, as records of its journal name it.
pub(super) const LIFE: &str = "life";
/// Key of the durability that the last start wrote with.
pub(super) const SYNCED: &str = "synced";

/// The numbers of the last commit and of the last outbox row.
pub(super) fn progress(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    db.query_row("SELECT commits, outbox FROM progress WHERE id = 1", [], |row| {
        Ok((
            row.get::<_, i64>(0)?.cast_unsigned(),
            row.get::<_, i64>(1)?.cast_unsigned(),
        ))
    })
}

/// Reads a number of the store's own that may not be there.
pub(super) fn meta_or(db: &Connection, key: &str, otherwise: u64) -> rusqlite::Result<u64> {
    match meta(db, key) {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(otherwise),
        outcome => outcome,
    }
}

/// Reads a number of the store's own.
pub(super) fn meta(db: &Connection, key: &str) -> rusqlite::Result<u64> {
    let mut statement = db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    statement
        .query_row(params![key], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

/// Writes a number of the store's own.
pub(super) fn set_meta(db: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    statement.execute(params![key, value.cast_signed()]).map(|_| ())
}

/// What an error of the database means for an operator.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen) => "; check that the directory exists and is writable for this user",
        Some(ErrorCode::ReadOnly) => "; make the file and its directory writable for this user",
        Some(ErrorCode::NotADatabase) => {
            "; it is no database or is damaged: restore a backup or use another directory"
        }
        Some(ErrorCode::DatabaseCorrupt) => "; it is damaged: restore a backup",
        Some(ErrorCode::DiskFull) => "; the disk is full: free some space",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "; another process uses it: stop that one first"
        }
        // The index of the log could not be made longer.
        Some(ErrorCode::SystemIoFailure) if extended_code(error) == Some(SQLITE_IOERR_SHMSIZE) => {
            "; the disk is full: free some space"
        }
        Some(ErrorCode::SystemIoFailure) => "; the disk failed: look into the kernel's log",
        _ => "",
    };
    format!("{error}{hint}")
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// A database error as the port's.
pub(super) fn failed(error: rusqlite::Error) -> StoreError {
    let text = explain(&error);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged {
            what: "the database file".to_owned(),
            problem: text,
        },
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Full(text)
        }
        _ => StoreError::Failed(text),
    }
}
