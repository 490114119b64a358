//! What a power cut took from the database, made again from the journal.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::StoreError;
use super::changes::{ReplayError, replay};
use super::journal::Left;
use super::schema;

/// What the last life of the store left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recovered {
    /// The last commit that the journal has, whether it could be made again or not; 0 if it has none.
    pub(super) last: u64,
    /// Whether a file of the journal is missing that the last life had.
    pub(super) is_incomplete: bool,
}

/// Makes the commits again that the journal of the last life has and the database lacks. They are as sure as the next commit
/// that is synced; until then the journal must stay, and whoever dies in between does it again.
///
/// # Errors
///
/// [`StoreError::Open`]: the journal cannot be read, or does not fit the database.
pub(super) fn recover(db: &Connection, dir: &Path) -> Result<Recovered, StoreError> {
    let wrong = |path: &Path, problem: String| StoreError::Open {
        path: path.display().to_string(),
        problem,
    };
    let in_database = |error: rusqlite::Error| wrong(dir, schema::explain(&error));
    let mut recovered = Recovered {
        last: 0,
        is_incomplete: false,
    };
    let life = schema::meta_or(db, schema::LIFE, 0).map_err(in_database)?;
    if life == 0 {
        return Ok(recovered);
    }
    let unread = |(path, error): (std::path::PathBuf, std::io::Error)| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "make it readable for this user",
            std::io::ErrorKind::Unsupported => "use the version that wrote it",
            _ => "acknowledged messages may be in it: look into the kernel's log, or restore a backup",
        };
        wrong(&path, format!("cannot be read: {error}; {hint}"))
    };
    let (found, _) = schema::progress(db).map_err(in_database)?;
    let mut left = Left::of(dir, life).map_err(unread)?;
    let had_one = schema::meta_or(db, schema::SYNCED, 0).map_err(in_database)? == 1
        && schema::meta(db, "clean").map_err(in_database)? != 1;
    recovered.is_incomplete = had_one && left.is_incomplete();
    schema::sync_commits(db, false).map_err(in_database)?;
    let mut commits = found;
    while let Some(record) = left.next().map_err(unread)? {
        recovered.last = record.commit;
        if record.commit == commits + 1 {
            again(db, record.commit, &record.changes).map_err(|problem| wrong(dir, problem))?;
            commits = record.commit;
        }
    }
    if commits > found {
        let made = commits - found;
        tracing::warn!(
            made,
            "the database lacked commits; they were made again from the journal"
        );
    }
    schema::sync_commits(db, true).map_err(in_database)?;
    Ok(recovered)
}

/// Makes one commit again, or says why not and what to do.
fn again(db: &Connection, commit: u64, changes: &[u8]) -> Result<(), String> {
    let made = db
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(ReplayError::from)
        .and_then(|()| replay(db, changes))
        .and_then(|()| Ok(db.execute_batch("COMMIT")?));
    let Err(error) = made else { return Ok(()) };
    // Nothing of it stays: the journal is as it was, and the next start tries again.
    if !db.is_autocommit()
        && let Err(error) = db.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "rollback failed");
    }
    let problem = format!("commit {commit} of the journal cannot be made again");
    Err(match error {
        ReplayError::Unknown => format!("{problem}: {error}; use the version that wrote it"),
        ReplayError::Database(error) if error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation) => {
            format!("{problem}: {}", schema::explain(&error))
        }
        error => format!(
            "{problem}: {error}; the database is not the one that the journal belongs to: restore a backup, or move the \
             files corelane.journal-* away to go on without what only they have"
        ),
    })
}
