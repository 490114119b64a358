//! What one gateway is told about one commit: a record of its topic.
//!
//! Owns nothing. A record carries each server frame once, archived by the router, and the connections that
//! it is for; the gateway sends the very bytes. Records are numbered by the router boot that made them, per
//! gateway boot and partition, from 1: the gateway reports the highest number without a gap, and no offset
//! of any bus is trusted for that.

use rkyv::{Archive, Deserialize, Serialize};

/// Version of the record.
pub const BUS_VERSION: u8 = 1;

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

/// One frame of a record.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct BusFrame {
    /// Place in the conversation; 0 for frames that have none.
    pub seq: u64,
    /// The connection that sent it and has its ack: it is left out. 0 for none.
    pub except: u64,
    /// Who sent it: for mute and block rules at the edge.
    pub sender: String,
    /// Sampled trace stamp of the message (link record header); 0 for none.
    pub stamp: u64,
    /// The server frame.
    pub frame: Vec<u8>,
}

/// A record. Encoded with [`crate::frame::archive`], read with [`crate::frame::access`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct BusRecord {
    /// [`BUS_VERSION`].
    pub version: u8,
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
    /// The router boot that numbered it.
    pub router_boot: u64,
    /// Its number for this gateway boot and partition, from 1.
    pub number: u64,
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
