//! What the writer changes in the tables, each by its number, and how the changes of a commit are written down.
//!
//! Everything that a commit changes goes through [`Tables::change`], which makes the change and notes it. Made again in the same
//! order on the tables as they were before, the notes come to the same rows: no statement asks for the time, for
//! randomness, or for an order that is not given. [`replay`] does that for what a power cut took from the database. Each note
//! says how many rows it changed, so that changes which are made to other tables are found.

use std::cell::RefCell;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, params_from_iter};

macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $sql:literal;)*) => {
        /// A statement that changes rows. Journals of other versions of the program hold the numbers: none may be given another
        /// meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Change {
            $($(#[$doc])* $name,)*
        }

        impl Change {
            /// All of them.
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name,)*];

            const fn sql(self) -> &'static str {
                match self {
                    $(Self::$name => $sql,)*
                }
            }

            const fn number(self) -> u8 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

changes! {
    /// The commit's own number, and that of the last outbox row. The last change of every commit.
    Progress = 1, "UPDATE progress SET commits = ?1, outbox = ?2 WHERE id = 1";
    /// A number of the store's own.
    Meta = 2, "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
    /// A conversation's row; its head comes with [`Change::Head`].
    Conv = 3,
        "INSERT INTO conv (app, name, seq, n, floor_seq, conv_version, recent_bucket, members, large, writer, first_seq)
         VALUES (?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, 0)";
    /// A conversation's head.
    Head = 4,
        "UPDATE conv SET seq = ?2, n = ?3, floor_seq = ?4, conv_version = ?5, recent_bucket = ?6, members = ?7,
         large = ?8, writer = ?9, first_seq = ?10 WHERE id = ?1";
    /// A message.
    Message = 5,
        "INSERT INTO message (place, v, crc, n, sender, client_id, hash, time_ms, flags, frame)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    /// Its id.
    Dedupe = 6,
        "INSERT INTO dedupe (client_id, conv, sender, v, crc, seq, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    /// Ids that are refused as stale from then on.
    Purge = 7, "DELETE FROM dedupe WHERE client_id <= ?1";
    /// Messages of a lane that may not have been delivered.
    Outbox = 8, "INSERT INTO outbox (id, lane, v, crc, entries) VALUES (?1, ?2, ?3, ?4, ?5)";
    /// Outbox rows that are cleared.
    Clear = 9, "DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2";
    /// Somebody joins; who is there already keeps the place of his join.
    Join = 10,
        "INSERT INTO member (conv, user, join_seq, leave_seq, read_seq, read_n) VALUES (?1, ?2, ?3, 0, ?3 - 1, ?4)
         ON CONFLICT (conv, user) DO UPDATE SET join_seq = ?3, leave_seq = 0, read_seq = ?3 - 1, read_n = ?4
         WHERE leave_seq != 0";
    /// Somebody leaves who is there.
    Leave = 11, "UPDATE member SET leave_seq = ?3 WHERE conv = ?1 AND user = ?2 AND leave_seq = 0";
    /// A read mark, never back.
    Read = 12,
        "INSERT INTO member (conv, user, join_seq, leave_seq, read_seq, read_n) VALUES (?1, ?2, 0, 0, ?3, ?4)
         ON CONFLICT (conv, user) DO UPDATE SET read_seq = ?3, read_n = ?4 WHERE read_seq < ?3";
    /// What a terminal has, never back.
    Delivered = 13,
        "INSERT INTO delivered (conv, user, terminal, device, seq) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (conv, user, terminal, device) DO UPDATE SET seq = ?5 WHERE seq < ?5";
    /// A user's row of a conversation that moved.
    List = 14, "INSERT OR IGNORE INTO recent (app, user, bucket, conv) VALUES (?1, ?2, ?3, ?4)";
    /// It goes.
    Unlist = 15, "DELETE FROM recent WHERE app = ?1 AND user = ?2 AND bucket = ?3 AND conv = ?4";
    /// A user's row of a large group.
    ListLarge = 16, "INSERT OR IGNORE INTO large (app, user, conv) VALUES (?1, ?2, ?3)";
    /// It goes.
    UnlistLarge = 17, "DELETE FROM large WHERE app = ?1 AND user = ?2 AND conv = ?3";
    /// A user's own change.
    Touch = 18, "INSERT OR IGNORE INTO changed (app, user, bucket, conv) VALUES (?1, ?2, ?3, ?4)";
    /// It goes.
    Untouch = 19, "DELETE FROM changed WHERE app = ?1 AND user = ?2 AND bucket = ?3 AND conv = ?4";
    /// Where the user's own change is.
    Touched = 20, "UPDATE member SET changed_bucket = ?3 WHERE conv = ?1 AND user = ?2";
}

/// The tables within a commit.
#[derive(Debug)]
pub(super) struct Tables<'a> {
    /// For reading.
    pub(super) db: &'a Connection,
    /// What was changed, if anybody wants to know.
    notes: Option<RefCell<Vec<u8>>>,
}

impl<'a> Tables<'a> {
    /// Tables whose changes are noted behind what `notes` has, or nowhere.
    pub(super) fn new(db: &'a Connection, notes: Option<Vec<u8>>) -> Self {
        let notes = notes.map(RefCell::new);
        Self { db, notes }
    }

    /// Changes rows and notes it; says how many.
    pub(super) fn change(&self, change: Change, values: &[&dyn ToSql]) -> rusqlite::Result<usize> {
        let rows = self.db.prepare_cached(change.sql())?.execute(values)?;
        if let Some(notes) = &self.notes {
            note(&mut notes.borrow_mut(), change, rows, values)?;
        }
        Ok(rows)
    }

    /// The notes.
    pub(super) fn into_notes(self) -> Vec<u8> {
        self.notes.map(RefCell::into_inner).unwrap_or_default()
    }
}

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const TEXT: u8 = 2;
const BLOB: u8 = 3;

/// `number u8 | values u8 | rows u32 |` and for each value `0`, `1 i64`, `2 u32 text` or `3 u32 bytes`, little-endian.
fn note(into: &mut Vec<u8>, change: Change, rows: usize, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
    let count = u8::try_from(values.len()).map_err(too_long)?;
    into.extend([change.number(), count]);
    into.extend(u32::try_from(rows).map_err(too_long)?.to_le_bytes());
    for value in values {
        let value = value.to_sql()?;
        let value = match &value {
            ToSqlOutput::Borrowed(value) => *value,
            ToSqlOutput::Owned(value) => ValueRef::from(value),
            _ => return Err(rusqlite::Error::InvalidQuery),
        };
        let (tag, bytes) = match value {
            ValueRef::Null => {
                into.push(NULL);
                continue;
            }
            ValueRef::Integer(number) => {
                into.push(INTEGER);
                into.extend(number.to_le_bytes());
                continue;
            }
            ValueRef::Text(text) => (TEXT, text),
            ValueRef::Blob(bytes) => (BLOB, bytes),
            ValueRef::Real(_) => return Err(rusqlite::Error::InvalidQuery),
        };
        let length = u32::try_from(bytes.len()).map_err(too_long)?;
        into.push(tag);
        into.extend(length.to_le_bytes());
        into.extend_from_slice(bytes);
    }
    Ok(())
}

fn too_long(error: std::num::TryFromIntError) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// Why noted changes could not be made again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    /// They were not written by this version.
    #[error("it holds what this version does not know")]
    Unknown,
    /// The tables are not those that they were made to.
    #[error("{change:?} changed {was} rows and now changes {is}")]
    Differs {
        /// The statement.
        change: Change,
        /// Rows that it changed when it was noted.
        was: usize,
        /// Rows that it changes now.
        is: usize,
    },
    /// The database refuses.
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
}

/// Makes noted changes again, in a transaction of the caller's.
pub(super) fn replay(db: &Connection, mut notes: &[u8]) -> Result<(), ReplayError> {
    while !notes.is_empty() {
        let (change, was, values) = read(&mut notes).ok_or(ReplayError::Unknown)?;
        let is = db
            .prepare_cached(change.sql())?
            .execute(params_from_iter(values))?;
        if is != was {
            return Err(ReplayError::Differs { change, was, is });
        }
    }
    Ok(())
}

fn read<'a>(notes: &mut &'a [u8]) -> Option<(Change, usize, Vec<Noted<'a>>)> {
    let [number, count] = take(notes)?;
    let change = Change::from_number(number)?;
    let rows = usize::try_from(u32::from_le_bytes(take(notes)?)).ok()?;
    let values = (0..count).map(|_| {
        let [tag] = take(notes)?;
        match tag {
            NULL => Some(Noted(ValueRef::Null)),
            INTEGER => Some(Noted(ValueRef::Integer(i64::from_le_bytes(take(notes)?)))),
            TEXT | BLOB => {
                let length = usize::try_from(u32::from_le_bytes(take(notes)?)).ok()?;
                let (bytes, rest) = notes.split_at_checked(length)?;
                *notes = rest;
                let text = tag == TEXT;
                Some(Noted(if text {
                    ValueRef::Text(bytes)
                } else {
                    ValueRef::Blob(bytes)
                }))
            }
            _ => None,
        }
    });
    values
        .collect::<Option<Vec<_>>>()
        .map(|values| (change, rows, values))
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

/// A value as it was noted.
struct Noted<'a>(ValueRef<'a>);

impl ToSql for Noted<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_change_has_a_number_of_its_own() {
        let numbers: HashSet<u8> = Change::ALL.iter().map(|change| change.number()).collect();
        assert_eq!(numbers.len(), Change::ALL.len());
        for change in Change::ALL {
            assert_eq!(Change::from_number(change.number()), Some(*change));
        }
        assert_eq!(Change::from_number(0), None, "what is not written is no change");
    }

    #[test]
    fn what_was_noted_is_made_again() {
        let tables =
            "CREATE TABLE meta (key, value); CREATE TABLE delivered (conv, user, terminal, device, seq,
                      PRIMARY KEY (conv, user, terminal, device))";
        let [one, other] = [(); 2].map(|()| Connection::open_in_memory().unwrap());
        for db in [&one, &other] {
            db.execute_batch(tables).unwrap();
        }
        let made = Tables::new(&one, Some(Vec::new()));
        made.change(Change::Meta, &[&"a", &i64::MIN]).unwrap();
        made.change(Change::Meta, &[&[1u8, 2].as_slice(), &rusqlite::types::Null])
            .unwrap();
        for seq in [3, 2] {
            made.change(Change::Delivered, &[&1, &"u", &2, &"", &seq])
                .unwrap();
        }
        let notes = made.into_notes();
        replay(&other, &notes).unwrap();
        let rows = |db: &Connection| {
            let mut values = Vec::new();
            for table in ["meta", "delivered"] {
                let mut all = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
                let columns = all.column_count();
                let mut rows = all.query([]).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    values.extend((0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())));
                }
            }
            values
        };
        assert_eq!(rows(&one), rows(&other));
        assert!(rows(&one).iter().any(|value| value == "Integer(3)"));
        let whole = (1..notes.len()).filter(|cut| {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(tables).unwrap();
            match replay(&db, &notes[..*cut]) {
                Ok(()) => true,
                Err(error) => !matches!(error, ReplayError::Unknown),
            }
        });
        assert_eq!(
            whole.count(),
            3,
            "cut anywhere but between two changes it is no note"
        );
    }

    #[test]
    fn changes_to_other_tables_than_those_of_before_are_found() {
        let [one, other] = [(); 2].map(|()| Connection::open_in_memory().unwrap());
        for db in [&one, &other] {
            db.execute_batch("CREATE TABLE outbox (id INTEGER PRIMARY KEY, lane, v, crc, entries)")
                .unwrap();
        }
        one.execute("INSERT INTO outbox (id) VALUES (5)", []).unwrap();
        let made = Tables::new(&one, Some(Vec::new()));
        assert_eq!(made.change(Change::Clear, &[&4, &6]).unwrap(), 1);
        let error = replay(&other, &made.into_notes()).unwrap_err();
        let differs = matches!(error, ReplayError::Differs { was: 1, is: 0, .. });
        assert!(differs, "{error}");
    }

    #[test]
    fn nothing_is_noted_where_nobody_asks() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE meta (key, value)").unwrap();
        let tables = Tables::new(&db, None);
        assert_eq!(tables.change(Change::Meta, &[&"a", &1]).unwrap(), 1);
        assert!(tables.into_notes().is_empty());
    }
}
