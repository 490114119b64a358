//! What one gateway is told about one commit: a record of its topic.
//!
//! Owns nothing. A record carries each server frame once, archived by the router, and the connections that
//! it is for; the gateway sends the very bytes. Records are numbered by the router boot that made them, per
//! gateway boot and partition, from 1: the gateway reports the highest number without a gap, and no offset
//! of any bus is trusted for that.
//!
//! ```text
//! record = version u8 | router boot u64 | number u64 | archive of BusRecord      (little-endian)
//! ```
//!
//! What stands before the archive is the same in every version: a gateway that is older than the router counts a record
//! that it cannot read, and has its sessions sync.

use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

use crate::frame;

/// Version of the record.
pub const BUS_VERSION: u8 = 1;
/// Bytes before the archive.
pub const BUS_HEADER_BYTES: usize = 17;

/// Classes of records.
pub mod class {
    /// Stored messages.
    pub const STORED: u8 = 1;
    /// Control: kicks, read marks.
    pub const CONTROL: u8 = 2;
    /// Steps of calls.
    pub const CALL: u8 = 3;
    /// Typing and the like; dropped first.
    pub const TRANSIENT: u8 = 4;
    /// Messages of a room.
    pub const ROOM: u8 = 5;
}

/// Who receives the frames of a record.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Receivers {
    /// These connections ([`crate::id::ConnId`]).
    Conns(Vec<u64>),
    /// All sessions of this gateway that are in the conversation, but for this connection.
    GroupExcept(u64),
    /// All sessions of these users.
    Users(Vec<String>),
}

/// Who of a record's receivers gets one of its frames.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum FrameReceivers {
    /// All.
    All,
    /// All but this connection: it sent the frame and has its ack.
    AllBut(u64),
    /// These connections, which are among the record's.
    Only(Vec<u64>),
}

impl ArchivedFrameReceivers {
    /// Whether `conn`, one of the record's receivers, gets the frame.
    pub fn include(&self, conn: u64) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(but) => but.to_native() != conn,
            Self::Only(conns) => conns.iter().any(|only| only.to_native() == conn),
        }
    }
}

/// One frame of a record.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct BusFrame {
    /// Place in the conversation; 0 for frames that have none.
    pub seq: u64,
    /// Who gets it.
    pub receivers: FrameReceivers,
    /// Who sent it: for mute and block rules at the edge.
    pub sender: String,
    /// Sampled trace stamp of the message (link record header); 0 for none.
    pub stamp: u64,
    /// The server frame.
    pub frame: Vec<u8>,
}

/// What stands before the archive of a record of any version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusHeader {
    /// [`BUS_VERSION`].
    pub version: u8,
    /// The router boot that numbered it.
    pub router_boot: u64,
    /// Its number for this gateway boot and partition, from 1.
    pub number: u64,
}

/// A record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BusError {
    /// It ends within its header: nothing is known of it.
    #[error("bus record has {bytes} bytes, its header alone has {BUS_HEADER_BYTES}")]
    Length {
        /// Its bytes.
        bytes: usize,
    },
    /// It is of another version. Count it by its header, and have all sessions sync.
    #[error("bus record is of version {version}, known here is {BUS_VERSION}")]
    Version {
        /// Its version.
        version: u8,
    },
    /// It is damaged. Count it by its header, and have all sessions sync.
    #[error("bus record is no valid archive of its version")]
    Archive,
}

impl BusHeader {
    /// Reads the header of a record of any version; returns the rest, too.
    ///
    /// # Errors
    ///
    /// [`BusError::Length`].
    pub fn split(record: &[u8]) -> Result<(Self, &[u8]), BusError> {
        let short = BusError::Length { bytes: record.len() };
        let ([version], rest) = record.split_first_chunk().ok_or(short)?;
        let (router_boot, rest) = rest.split_first_chunk().ok_or(short)?;
        let (number, rest) = rest.split_first_chunk().ok_or(short)?;
        let header = Self {
            version: *version,
            router_boot: u64::from_le_bytes(*router_boot),
            number: u64::from_le_bytes(*number),
        };
        Ok((header, rest))
    }
}

/// Reads a record in place.
///
/// # Errors
///
/// [`BusError`].
pub fn read(record: &[u8]) -> Result<(BusHeader, &ArchivedBusRecord), BusError> {
    let (header, archive) = BusHeader::split(record)?;
    if header.version != BUS_VERSION {
        return Err(BusError::Version {
            version: header.version,
        });
    }
    let record = frame::access::<ArchivedBusRecord>(archive).map_err(|_| BusError::Archive)?;
    Ok((header, record))
}

/// A record. Encoded with [`BusRecord::encode`], read with [`read`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct BusRecord {
    /// The router boot that numbered it. Stands before the archive.
    #[rkyv(with = rkyv::with::Skip)]
    pub router_boot: u64,
    /// Its number for this gateway boot and partition, from 1. Stands before the archive.
    #[rkyv(with = rkyv::with::Skip)]
    pub number: u64,
    /// [`class`].
    pub class: u8,
    /// Priority lane: 0 control, 1 calls, 2 messages, 3 transient.
    pub priority: u8,
    /// Tenant.
    pub app: u32,
    /// The conversation.
    pub conv: Vec<u8>,
    /// First place in it.
    pub first_seq: u64,
    /// Last place in it.
    pub last_seq: u64,
    /// Version of the member list that the receivers come from.
    pub member_version: u64,
    /// Epoch of the log.
    pub epoch: u64,
    /// The outbox row that waits for it; 0 for none.
    pub outbox: u64,
    /// Not worth delivering after this wall time, in ms; 0 for ever.
    pub expires_ms: u64,
    /// When it was published, wall time in microseconds.
    pub published_us: u64,
    /// Who receives it.
    pub receivers: Receivers,
    /// What they receive, in order.
    pub frames: Vec<BusFrame>,
}

impl BusRecord {
    /// The record as it stands in the topic.
    pub fn encode(&self) -> Vec<u8> {
        [
            [BUS_VERSION].as_slice(),
            &self.router_boot.to_le_bytes(),
            &self.number.to_le_bytes(),
            &frame::archive(self),
        ]
        .concat()
    }
}
