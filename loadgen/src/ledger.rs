//! Every send of a run with its id and outcome: what the log is compared with at the end.
//!
//! A thread owns the ledger of its senders; they are put together when the run is over. About 56 bytes per
//! send. A side file, if asked for, gets one line per ack as it comes, for tests that kill this process too.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use corelane_protocol::id::ClientMsgId;

use crate::names::{ConvKey, Names};

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not handed to a socket (its connection was gone for good, or the run ended first).
    Unsent,
    /// Sent, and not answered for good: it may be in the log or not.
    Unknown,
    /// Stored at this seq.
    Acked(u64),
    /// Refused for good; it must not be in the log.
    Refused(u16),
}

/// One send.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its id.
    pub id: ClientMsgId,
    /// Where it went.
    pub conv: ConvKey,
    /// Who sent it.
    pub sender: u32,
    /// The sender's count.
    pub counter: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// The sends of one thread, in the order in which they were due.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    /// Writes a send down; returns its place.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "memory ends before 2^32 entries of 56 bytes"
    )]
    pub fn add(&mut self, entry: Entry) -> u32 {
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    /// The send at a place.
    pub fn entry_mut(&mut self, place: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place as usize)
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes over all of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
    }
}

/// A `UUIDv7` made of the time, the run, the sender and its count: never the same twice in a run.
pub fn message_id(wall_ms: u64, run: u64, sender: u32, counter: u64) -> ClientMsgId {
    let [_, _, t0, t1, t2, t3, t4, t5] = wall_ms.to_be_bytes();
    let [r0, r1, r2, ..] = run.to_be_bytes();
    let [_, s1, s2, s3] = sender.to_be_bytes();
    let [_, _, _, _, c4, c5, c6, c7] = counter.to_be_bytes();
    ClientMsgId([
        t0,
        t1,
        t2,
        t3,
        t4,
        t5,
        0x70 | r0 & 0x0f,
        r1,
        0x80 | r2 & 0x3f,
        s1,
        s2,
        s3,
        c4,
        c5,
        c6,
        c7,
    ])
}

/// An id in 32 hexadecimal characters.
pub fn id_text(id: ClientMsgId) -> String {
    format!("{:032x}", u128::from_be_bytes(id.0))
}

/// The side file.
#[derive(Debug)]
pub struct AckFile {
    file: Mutex<BufWriter<File>>,
    names: Names,
}

impl AckFile {
    /// Opens `path` for appending.
    ///
    /// # Errors
    ///
    /// The system's; a mistake in the command line.
    pub fn open(path: &Path, names: Names) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self {
            file: Mutex::new(BufWriter::new(file)),
            names,
        })
    }

    /// Appends acked sends, one JSON object per line, and hands them to the system.
    ///
    /// # Errors
    ///
    /// The system's: the file is then worth nothing.
    pub fn append(&self, acked: &[Entry]) -> std::io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in acked {
            if let Outcome::Acked(seq) = entry.outcome {
                writeln!(
                    file,
                    r#"{{"conv":"{}","seq":{seq},"client_msg_id":"{}","sender":"{}"}}"#,
                    self.names.conv_id(entry.conv),
                    id_text(entry.id),
                    self.names.user(entry.sender)
                )?;
            }
        }
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuid_v7_and_differ() {
        let id = message_id(1_700_000_000_123, u64::MAX, 5, 9);
        assert!(id.is_uuid_v7());
        assert_eq!(id.time_ms(), 1_700_000_000_123);
        assert_ne!(id, message_id(1_700_000_000_123, u64::MAX, 5, 10));
        assert_ne!(id, message_id(1_700_000_000_123, u64::MAX, 6, 9));
    }

    #[test]
    fn acks_are_appended_as_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let entry = Entry {
            id: message_id(1, 2, 3, 4),
            conv: ConvKey::group(1),
            sender: 3,
            counter: 4,
            outcome: Outcome::Acked(8),
        };
        let file = AckFile::open(&path, Names::new(1)).unwrap();
        file.append(&[
            entry,
            Entry {
                outcome: Outcome::Unknown,
                ..entry
            },
        ])
        .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["seq"], 8);
    }
}
