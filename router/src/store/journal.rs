//! The journal of the embedded store: what each commit changed, in one write and one sync.
//!
//! `SQLite` writes three pages of 4 KiB per message to its log. Synced in every commit, that is twenty times the bytes that
//! were sent, and on a slow disk all that the disk can do. So with durability `full` a commit writes its changes
//! ([`super::changes`]) to the journal, syncs that, and only then commits in `SQLite`, whose log is synced behind the commits. A
//! process that is killed leaves a log that is whole, because the kernel has it. What a power cut takes from the log is made
//! again from the journal when the store is opened.
//!
//! Owns two files, written in turn: one is written while the other's commits are on their way into the database, and begins
//! anew, over the old bytes, when the log is synced that far ([`super::log_syncer::LogSyncer`]), which is soon: both together are
//! rarely larger than a few times [`TURN_BYTES`]. On a full disk nothing of a commit stays, and it is refused. A record:
//!
//! ```text
//! "CLjr" | version u16 = 1 | 0 u16 | life u64 | commit u64 | bytes u32 | crc u32 | changes
//! ```
//!
//! little-endian, with a CRC-32 of all but itself. What counts are records of the same life (of one opening of the store, as the
//! database names it) with consecutive commits: a torn record, or one of an earlier turn, ends a file. Behind the last record
//! of a file lies whatever an earlier turn left, payloads of clients too, and a record that one of them made up would be as
//! good as any: so a life is a random number that nobody outside can know.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The files.
pub(super) const FILES: [&str; 2] = ["corelane.journal-0", "corelane.journal-1"];

const MAGIC: [u8; 4] = *b"CLjr";
/// Version of records. The header is the same in all of them, so that a version knows which ones it cannot read.
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;
/// Where the CRC lies in the header.
const CRC_AT: usize = 28;
/// A file with more bytes than this is left for the other one, as soon as that may begin anew.
const TURN_BYTES: u64 = 4 * 1024 * 1024;
/// Room that the next commit finds reserved.
const KEPT_BYTES: usize = 1024 * 1024;

/// Why a commit is not in the journal.
#[derive(Debug)]
pub(super) enum AppendError {
    /// It could not be written.
    Write(io::Error),
    /// It was written, and the sync failed: it may be there.
    Sync(io::Error),
}

/// The journal that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    files: [Turn; 2],
    /// Which one is written.
    at: usize,
    life: u64,
    /// Commits up to here are on the disk without it.
    covered: u64,
    /// Where the last record begins.
    last: u64,
    /// Room for the next record.
    room: Vec<u8>,
}

#[derive(Debug)]
struct Turn {
    file: File,
    /// Where the next record goes.
    end: u64,
    /// The last commit in it.
    commit: u64,
}

impl Journal {
    /// Begins a journal in `dir`, for whoever may read `database`. What the files held is gone: it must be in the database, and
    /// synced.
    ///
    /// # Errors
    ///
    /// The files'.
    pub(super) fn begin(dir: &Path, database: &Path, life: u64) -> io::Result<Self> {
        let mode = std::fs::metadata(database)?.mode() & 0o666;
        let [one, other] = FILES.map(|name| {
            let file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(mode)
                .open(dir.join(name))?;
            file.sync_all()?;
            Ok::<_, io::Error>(Turn {
                file,
                end: 0,
                commit: 0,
            })
        });
        // The files must be found after a power cut.
        File::open(dir)?.sync_all()?;
        Ok(Self {
            files: [one?, other?],
            at: 0,
            life,
            covered: 0,
            last: 0,
            room: Vec::new(),
        })
    }

    /// An empty buffer for the changes of a commit, which [`Self::write`] takes: they lie where the record wants them.
    pub(super) fn room(&mut self) -> Vec<u8> {
        let mut room = std::mem::take(&mut self.room);
        room.clear();
        room.shrink_to(KEPT_BYTES);
        room.resize(HEADER_BYTES, 0);
        room
    }

    /// Writes the changes of a commit, which lie behind the room for the header, without a sync.
    ///
    /// # Errors
    ///
    /// [`AppendError::Write`]: the next record goes over what was written.
    pub(super) fn write(&mut self, commit: u64, mut record: Vec<u8>) -> Result<(), AppendError> {
        let bytes = record.len().saturating_sub(HEADER_BYTES);
        let bytes =
            u32::try_from(bytes).map_err(|_| AppendError::Write(io::ErrorKind::FileTooLarge.into()))?;
        seal(&mut record, self.life, commit, bytes);
        self.turn();
        let [one, other] = &mut self.files;
        let turn = if self.at == 0 { one } else { other };
        turn.file
            .write_all_at(&record, turn.end)
            .map_err(AppendError::Write)?;
        self.last = turn.end;
        turn.end += record.len() as u64;
        turn.commit = commit;
        self.room = record;
        Ok(())
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    ///
    /// [`AppendError::Sync`].
    pub(super) fn sync(&self) -> Result<(), AppendError> {
        self.written().file.sync_data().map_err(AppendError::Sync)
    }

    /// Takes back the last record, of a commit that the database refused.
    ///
    /// # Errors
    ///
    /// It may still be there.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        let end = self.last;
        let [one, other] = &mut self.files;
        let turn = if self.at == 0 { one } else { other };
        // Cutting needs no room, which may be what the database lacked.
        turn.file.set_len(end)?;
        turn.file.sync_data()?;
        turn.end = end;
        Ok(())
    }

    /// The clean end: everything is in the database, and synced.
    ///
    /// # Errors
    ///
    /// The files': they are in the way of a backup that is put in the database's place.
    pub(super) fn end(self) -> io::Result<()> {
        self.files.iter().try_for_each(|turn| turn.file.set_len(0))
    }

    /// Commits up to this one are in the database's log, or in the database itself, and synced.
    pub(super) fn cover(&mut self, commit: u64) {
        self.covered = self.covered.max(commit);
    }

    /// Removes what another start left in `dir`, for one that has no journal: it must be in the database, and synced.
    ///
    /// # Errors
    ///
    /// The files'.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        FILES
            .iter()
            .try_for_each(|name| match std::fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
    }

    fn written(&self) -> &Turn {
        let [one, other] = &self.files;
        if self.at == 0 { one } else { other }
    }

    /// Takes the other file if it is time to, and nothing in it is needed any more.
    fn turn(&mut self) {
        let covered = self.covered;
        let [one, other] = &mut self.files;
        let (now, next) = if self.at == 0 { (one, other) } else { (other, one) };
        if now.end > TURN_BYTES && next.commit <= covered {
            next.end = 0;
            self.at = 1 - self.at;
        }
    }
}

fn seal(record: &mut [u8], life: u64, commit: u64, bytes: u32) {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend([0; 2]);
    header.extend(life.to_le_bytes());
    header.extend(commit.to_le_bytes());
    header.extend(bytes.to_le_bytes());
    let Some((into, changes)) = record.split_at_mut_checked(HEADER_BYTES) else {
        return;
    };
    header.extend(crc(&header, changes).to_le_bytes());
    into.copy_from_slice(&header);
}

fn crc(header: &[u8], changes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(changes);
    crc.finalize()
}

/// A commit in a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its number.
    pub(super) commit: u64,
    /// What it changed.
    pub(super) changes: Vec<u8>,
}

/// The files of a journal that was left, in the order of their commits; and where in each to read on.
#[derive(Debug)]
pub(super) struct Left {
    files: Vec<LeftFile>,
    life: u64,
}

#[derive(Debug)]
struct LeftFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    next: Option<Record>,
}

impl Left {
    /// Finds what a life of the store left in `dir`.
    ///
    /// # Errors
    ///
    /// The files', with the name of the one.
    pub(super) fn of(dir: &Path, life: u64) -> Result<Self, (PathBuf, io::Error)> {
        let mut left = Self {
            files: Vec::new(),
            life,
        };
        for path in FILES.map(|name| dir.join(name)) {
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) = match opened {
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err((path, error)),
            };
            let mut file = LeftFile {
                path,
                file,
                bytes,
                next: None,
            };
            file.advance(life, None)?;
            left.files.push(file);
        }
        Ok(left)
    }

    /// Whether a file is missing. A start makes both before its first commit.
    pub(super) fn is_incomplete(&self) -> bool {
        self.files.len() < FILES.len()
    }

    /// The next record; one that does not follow the one before is the first of the other file.
    ///
    /// # Errors
    ///
    /// The file's, with its name.
    pub(super) fn next(&mut self) -> Result<Option<Record>, (PathBuf, io::Error)> {
        let first = self.files.iter_mut().filter(|file| file.next.is_some());
        let Some(file) = first.min_by_key(|file| file.next.as_ref().map(|record| record.commit)) else {
            return Ok(None);
        };
        let Some(record) = file.next.take() else {
            return Ok(None);
        };
        file.advance(self.life, Some(record.commit + 1))?;
        Ok(Some(record))
    }
}

impl LeftFile {
    /// Reads the next record, if it is one of this life and, within a file, of the next commit.
    fn advance(&mut self, life: u64, expected: Option<u64>) -> Result<(), (PathBuf, io::Error)> {
        let found = self.read(life, expected);
        self.next = found.map_err(|error| (self.path.clone(), error))?;
        Ok(())
    }

    fn read(&mut self, life: u64, expected: Option<u64>) -> io::Result<Option<Record>> {
        let mut header = [0; HEADER_BYTES];
        let at = self.file.stream_position()?;
        let Some(rest) = self.bytes.checked_sub(at + HEADER_BYTES as u64) else {
            return Ok(None);
        };
        self.file.read_exact(&mut header)?;
        let Some((version, commit, bytes)) = opened(&header, life) else {
            return Ok(None);
        };
        if expected.is_some_and(|expected| commit != expected) || u64::from(bytes) > rest {
            return Ok(None);
        }
        let mut changes = vec![0; bytes as usize];
        self.file.read_exact(&mut changes)?;
        let (summed, sum) = header.split_at(CRC_AT);
        let holds = crc(summed, &changes).to_le_bytes() == *sum;
        if !holds {
            self.file.seek(SeekFrom::Start(at))?;
        } else if version != VERSION {
            // It holds commits that were acknowledged.
            let text = format!("it has version {version}, this program reads {VERSION}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(holds.then_some(Record { commit, changes }))
    }
}

/// Version, commit and length in a header of this life.
fn opened(header: &[u8; HEADER_BYTES], life: u64) -> Option<(u16, u64, u32)> {
    let rest = header.strip_prefix(&MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (_, rest) = rest.split_first_chunk::<2>()?;
    let (of, rest) = rest.split_first_chunk::<8>()?;
    let (commit, rest) = rest.split_first_chunk::<8>()?;
    let (bytes, _) = rest.split_first_chunk::<4>()?;
    let found = (
        u16::from_le_bytes(*version),
        u64::from_le_bytes(*commit),
        u32::from_le_bytes(*bytes),
    );
    (u64::from_le_bytes(*of) == life).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(dir: &Path, life: u64) -> Journal {
        let database = dir.join("corelane.db");
        let made = File::options()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&database);
        made.unwrap();
        Journal::begin(dir, &database, life).unwrap()
    }

    fn write(journal: &mut Journal, commit: u64, bytes: usize) {
        let mut record = journal.room();
        record.resize(HEADER_BYTES + bytes, u8::try_from(commit % 251).unwrap());
        journal.write(commit, record).unwrap();
        journal.sync().unwrap();
    }

    fn left(dir: &Path, life: u64) -> Vec<u64> {
        let mut left = Left::of(dir, life).unwrap();
        std::iter::from_fn(|| left.next().unwrap())
            .map(|record| {
                let byte = u8::try_from(record.commit % 251).unwrap();
                assert!(record.changes.iter().all(|each| *each == byte));
                record.commit
            })
            .collect()
    }

    #[test]
    fn what_was_written_is_read_in_order_by_the_same_life_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(left(dir.path(), 7), [0; 0], "there may be none");
        let mut journal = begin(dir.path(), 7);
        (1..=5).for_each(|commit| write(&mut journal, commit, 100));
        assert_eq!(left(dir.path(), 7), [1, 2, 3, 4, 5]);
        assert_eq!(left(dir.path(), 8), [0; 0]);
        drop(begin(dir.path(), 7));
        assert_eq!(left(dir.path(), 7), [0; 0], "a new one begins with nothing");
    }

    #[test]
    fn a_record_that_is_torn_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = begin(dir.path(), 7);
        (1..=3).for_each(|commit| write(&mut journal, commit, 100));
        let path = dir.path().join(FILES[0]);
        let whole = std::fs::read(&path).unwrap();
        let third = 2 * (HEADER_BYTES + 100);
        for at in 0..whole.len() {
            let mut harmed = whole.clone();
            harmed[at] ^= 0x40;
            std::fs::write(&path, &harmed).unwrap();
            let kept = at / (HEADER_BYTES + 100);
            assert_eq!(left(dir.path(), 7).len(), kept, "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(left(dir.path(), 7).len(), kept, "cut at {at}");
        }
        std::fs::write(&path, [&whole[..third], &[0; 500]].concat()).unwrap();
        assert_eq!(left(dir.path(), 7), [1, 2]);
    }

    #[test]
    fn a_file_begins_anew_only_when_its_commits_are_in_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = usize::try_from(TURN_BYTES).unwrap() / 4;
        let mut journal = begin(dir.path(), 7);
        (1..=30).for_each(|commit| write(&mut journal, commit, bytes));
        assert_eq!(
            left(dir.path(), 7),
            (1..=30).collect::<Vec<_>>(),
            "nothing is lost that is not covered"
        );
        let size = || FILES.map(|name| std::fs::metadata(dir.path().join(name)).unwrap().len());
        let (mut covered, mut before) = (0, [0; 2]);
        for commit in 31..=200 {
            if commit % 3 == 0 {
                covered = commit - 4;
                journal.cover(covered);
            }
            write(&mut journal, commit, bytes);
            let there = left(dir.path(), 7);
            assert_eq!(there.last(), Some(&commit));
            assert!(
                there.first().is_some_and(|first| *first <= covered + 1),
                "{covered}: {there:?}"
            );
            let runs = there.windows(2).all(|pair| pair[1] == pair[0] + 1);
            assert!(runs, "{there:?}");
            if commit == 33 {
                before = size();
            }
        }
        assert_eq!(size(), before, "old bytes are written over");
    }

    #[test]
    fn a_record_that_is_taken_back_is_not_there_and_its_number_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = begin(dir.path(), 7);
        (1..=3).for_each(|commit| write(&mut journal, commit, 100));
        journal.take_back().unwrap();
        assert_eq!(left(dir.path(), 7), [1, 2]);
        write(&mut journal, 3, 50);
        write(&mut journal, 4, 50);
        assert_eq!(left(dir.path(), 7), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_left_of_a_write_that_was_refused_ends_it_and_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = begin(dir.path(), 7);
        (1..=3).for_each(|commit| write(&mut journal, commit, 100));
        let path = dir.path().join(FILES[0]);
        let file = File::options().write(true).open(&path).unwrap();
        let mut refused = vec![0; HEADER_BYTES + 500];
        seal(&mut refused, 7, 4, 500);
        let end = 3 * (HEADER_BYTES as u64 + 100);
        file.write_all_at(&refused[..HEADER_BYTES + 499], end).unwrap();
        assert_eq!(left(dir.path(), 7), [1, 2, 3]);
        write(&mut journal, 4, 50);
        assert_eq!(left(dir.path(), 7), [1, 2, 3, 4]);
    }

    #[test]
    fn records_of_another_version_are_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        drop(begin(dir.path(), 7));
        let mut record = vec![0; HEADER_BYTES + 10];
        seal(&mut record, 7, 1, 10);
        record[4] = 2;
        let path = dir.path().join(FILES[1]);
        std::fs::write(&path, &record).unwrap();
        assert_eq!(left(dir.path(), 7), [0; 0], "it is torn");
        let sum = crc(&record[..CRC_AT], &record[HEADER_BYTES..]);
        record[CRC_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&path, &record).unwrap();
        let (named, error) = Left::of(dir.path(), 7).unwrap_err();
        assert_eq!(named, path);
        assert!(error.to_string().contains("version 2"), "{error}");
        assert_eq!(left(dir.path(), 8), [0; 0], "of another life they do not matter");
    }

    #[test]
    fn both_files_are_there_for_whoever_may_read_the_database_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Left::of(dir.path(), 7).unwrap().is_incomplete());
        drop(begin(dir.path(), 7));
        assert!(!Left::of(dir.path(), 7).unwrap().is_incomplete());
        for name in FILES {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().mode();
            assert_eq!(mode & 0o037, 0, "{mode:o}");
        }
        Journal::remove(dir.path()).unwrap();
        Journal::remove(dir.path()).unwrap();
        assert!(FILES.iter().all(|name| !dir.path().join(name).exists()));
    }
}
