//! Tables of the SQLite store, and what must hold before they are used.
//!
//! ```text
//! meta        cluster, epoch, lanes, format
//! head        one row per conversation: its number, head, version, recent bucket
//! message     one row per message: place, dedupe key, crc, the Message frame as it is published
//! member      one row per (conversation, user) of groups: join, leave
//! mark        read marks per (user, conversation)
//! recent      per user, in the order of change: which conversations; at most one move per bucket of 5 minutes
//! outbox      one row per commit and lane that is not reported consumed
//! ```

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::StoreError;

/// Version of the tables; a store with another one is not opened.
const FORMAT: i64 = 1;
/// Tells a Corelane store from another SQLite file ("CLne").
const APPLICATION_ID: i64 = 0x434c_6e65;

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE head (
    id INTEGER PRIMARY KEY, app INTEGER NOT NULL, conv BLOB NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL,
    floor_seq INTEGER NOT NULL, conv_version INTEGER NOT NULL, recent_bucket INTEGER NOT NULL, UNIQUE (app, conv));
CREATE TABLE message (
    conv INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL, sender TEXT NOT NULL, client_id BLOB NOT NULL,
    hash INTEGER NOT NULL, time_ms INTEGER NOT NULL, format INTEGER NOT NULL, crc INTEGER NOT NULL, frame BLOB NOT NULL);
CREATE UNIQUE INDEX message_place ON message (conv, seq);
CREATE UNIQUE INDEX message_id ON message (conv, client_id, sender);
CREATE TABLE member (
    conv INTEGER NOT NULL, user TEXT NOT NULL, join_seq INTEGER NOT NULL, leave_seq INTEGER NOT NULL,
    PRIMARY KEY (conv, user)) WITHOUT ROWID;
CREATE TABLE mark (
    app INTEGER NOT NULL, user TEXT NOT NULL, conv INTEGER NOT NULL, seq INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (app, user, conv)) WITHOUT ROWID;
CREATE TABLE recent (
    id INTEGER PRIMARY KEY AUTOINCREMENT, app INTEGER NOT NULL, user TEXT NOT NULL, conv INTEGER NOT NULL,
    bucket INTEGER NOT NULL, UNIQUE (app, user, conv));
CREATE INDEX recent_order ON recent (app, user, id);
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, entries BLOB NOT NULL);
";

/// How sure an acknowledgement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power cut: every commit waits for fdatasync.
    Full,
    /// It survives the death of the process, not of the machine.
    Os,
}

/// Opens the database file for writing, makes it if there is none, and checks that it is one of ours.
///
/// # Errors
///
/// [`StoreError::Open`], naming the file and what to do.
pub fn open(path: &Path, durability: Durability, lanes: u16, random: u64) -> Result<Connection, StoreError> {
    let wrong = |problem: String| StoreError::Open { path: path.display().to_string(), problem };
    let failed = |error: rusqlite::Error| wrong(explain(&error));
    let db = Connection::open(path).map_err(failed)?;
    db.busy_timeout(std::time::Duration::from_secs(2)).map_err(failed)?;
    let synchronous = if durability == Durability::Full { "FULL" } else { "NORMAL" };
    let application: i64 = db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(wrong("is a database of another program; set store.data_dir to another directory".to_owned()));
    }
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA locking_mode = NORMAL;
         PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 67108864;"
    ))
    .map_err(failed)?;
    if tables == 0 {
        let transaction = format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};
             INSERT INTO meta VALUES ('cluster', {cluster}), ('epoch', {epoch}), ('lanes', {lanes}), ('clean', 1); COMMIT;",
            cluster = (random >> 1) as i64 | 1,
            epoch = (random.rotate_left(29) >> 1) as i64 | 1,
        );
        db.execute_batch(&transaction).map_err(failed)?;
    }
    let format: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if format != FORMAT {
        return Err(wrong(format!("has format {format}, this version reads {FORMAT}; use the version that wrote it")));
    }
    let check: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if check != "ok" {
        return Err(wrong(format!("is damaged ({check}); restore a backup")));
    }
    Ok(db)
}

/// Opens the database file for reading.
///
/// # Errors
///
/// [`StoreError::Open`].
pub fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(std::time::Duration::from_secs(2))?;
        db.execute_batch("PRAGMA query_only = 1; PRAGMA cache_size = -32768;")?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(db)
    };
    open().map_err(|error| StoreError::Open { path: path.display().to_string(), problem: explain(&error) })
}

/// Reads a number of the store's own.
///
/// # Errors
///
/// The database's.
pub fn meta(db: &Connection, key: &str) -> rusqlite::Result<u64> {
    let value: i64 = db.query_row("SELECT value FROM meta WHERE key = ?1", params![key], |row| row.get(0))?;
    Ok(value as u64)
}

/// Writes a number of the store's own.
///
/// # Errors
///
/// The database's.
pub fn set_meta(db: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    db.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![key, value as i64]).map(|_| ())
}

/// What an error of the database means for an operator.
pub fn explain(error: &rusqlite::Error) -> String {
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen) => "; check that the directory exists and is writable for this user",
        Some(ErrorCode::ReadOnly) => "; make the file and its directory writable for this user",
        Some(ErrorCode::NotADatabase) => "; it is no database or is damaged: restore a backup or use another directory",
        Some(ErrorCode::DatabaseCorrupt) => "; it is damaged: restore a backup",
        Some(ErrorCode::DiskFull) => "; the disk is full: free some space",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "; another process uses it: stop that one first",
        Some(ErrorCode::SystemIoFailure) => "; the disk failed: look into the kernel's log",
        _ => "",
    };
    format!("{error}{hint}")
}
