//! The witness of the last commit: a small file outside the database that says how far the log came.
//!
//! A damaged log file, a restored backup or a lost page ends `SQLite`'s recovery without a word. The witness lags behind
//! the commits (it is written about once a second, unsynced), so it can only be behind a healthy database: one that is
//! ahead proves that commits are missing, and the epoch is changed.
//!
//! `"CLwt" | version u32 | cluster u64 | commits u64 | crc u32`, little-endian.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: [u8; 4] = *b"CLwt";
const VERSION: u32 = 1;
const BYTES: usize = 28;

/// The witness file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    cluster: u64,
}

impl Witness {
    /// Opens the file, making it if there is none, and reads what it saw last: 0 if nothing, or if it is torn or
    /// of another cluster.
    ///
    /// # Errors
    ///
    /// The file's.
    pub(super) fn open(path: &Path, cluster: u64) -> std::io::Result<(Self, u64)> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        let seen = decode(&bytes)
            .filter(|(of, _)| *of == cluster)
            .map_or(0, |(_, commits)| commits);
        Ok((Self { file, cluster }, seen))
    }

    /// How many commits the file at `path` knows of, whatever their cluster; 0 if there is no such file or it is torn.
    pub(super) fn commits_noted(path: &Path) -> u64 {
        let bytes = std::fs::read(path).unwrap_or_default();
        decode(&bytes).map_or(0, |(_, commits)| commits)
    }

    /// Notes how many commits there are.
    ///
    /// # Errors
    ///
    /// The file's. The witness then lags more; nothing else depends on it.
    pub(super) fn write(&self, commits: u64) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.cluster.to_le_bytes());
        bytes.extend(commits.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }
}

fn decode(bytes: &[u8]) -> Option<(u64, u64)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let rest = body.strip_prefix(&MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
    let (cluster, commits) = rest.split_first_chunk::<8>()?;
    Some((
        u64::from_le_bytes(*cluster),
        u64::from_le_bytes(*commits.first_chunk::<8>()?),
    ))
}
