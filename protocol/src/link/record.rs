//! One record of a link: a fixed header, the user and device it concerns, and a body.
//!
//! ```text
//!  0 record length u32 (whole record)   4 kind u8    5 flags u8      6 priority u8   7 terminal u8
//!  8 app u32                            12 lane u16  14 user len u8  15 device len u8
//! 16 conn u64                           24 ref u32   28 deadline ms u32 (time left; 0 for none)
//! 32 stamp u64 (sampled trace stamp, microseconds; 0 for none)       40 user | device | body
//! ```
//!
//! One form serves all kinds: what a kind does not use is 0 or empty.

use thiserror::Error;

/// Bytes before the user.
pub const RECORD_HEADER_BYTES: usize = 40;

macro_rules! record_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Kind of a record. Below 64 from a gateway, from 64 from a router, from 128 either.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum RecordKind { $($(#[$doc])* $name = $number,)* }

        impl RecordKind {
            /// Every kind of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this number. Unknown ones are skipped.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

record_kinds! {
    /// A client's canonical frame, in the body. Header: app, lane, conn, user, terminal, device, ref, deadline.
    ClientFrame = 1,
    /// A session wants its route. Header: app, conn, user, terminal, device, ref. Body: [`super::body::Claim`].
    Claim = 2,
    /// A session is over. Header as for `Claim`. Body: [`super::body::Unclaim`].
    Unclaim = 3,
    /// A connection is gone: its gates need not be kept. Header: conn.
    ConnClosed = 4,
    /// What was consumed from the bus. Body: [`super::body::Consumed`].
    Consumed = 5,
    /// A bus record named connections that are gone. Body: [`super::body::Bounce`].
    Bounce = 6,
    /// Asks for bus records (memory bus). Body: [`super::body::BusFetch`].
    BusFetch = 7,
    /// Keeps the gateway's lease. Header: ref. Body: [`super::body::Renew`].
    Renew = 8,
    /// The gateway leaves in order. Body: empty.
    Leave = 9,
    /// Every session of this shard has claimed its route on this link: routes of the shard that were not claimed on it
    /// are of sessions that are over, up to the claim in the stamp (0: all of them). Header: stamp. Body: empty.
    ClaimsDone = 10,
    /// This router is the shard's home from here on: all its sessions claim, up to `ClaimsDone`. Body: empty.
    ClaimsBegin = 11,
    /// A session that is there, as far as its shard knows: close it if its route is not this one any more. Only to a router
    /// with [`super::handshake::feature::OWNED`]. Header: app, conn, user, terminal, device. Body: [`super::body::Owned`].
    Owned = 12,
    /// A server frame for one connection, in the body. Header: conn, ref.
    ServerFrame = 64,
    /// Answer to `Claim`. Header: conn, ref. Body: [`super::body::Claimed`].
    Claimed = 65,
    /// Close this connection. Header: conn. Body: [`super::body::Kick`].
    Kick = 66,
    /// Bus records (memory bus). Body: [`super::body::BusBatch`].
    BusBatch = 67,
    /// The routers there are. Body: [`super::body::RouterList`].
    RouterList = 68,
    /// Answer to `Renew`, with its ref; comes unasked, with ref 0, when the boot was declared dead. Header: ref. Body:
    /// [`super::body::Renewed`].
    Renewed = 69,
    /// More may be sent. Body: [`super::body::Credit`].
    Credit = 128,
}

/// Bytes that are no record. The peer is no Corelane node or is broken: close the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is shorter than its parts or longer than what is left of its batch.
    #[error("record of {announced} bytes does not fit the {left} bytes left of its batch")]
    Length {
        /// Length in the record's header.
        announced: usize,
        /// Bytes left.
        left: usize,
    },
    /// User or device is not UTF-8.
    #[error("user or device of a record is not UTF-8")]
    Text,
}

/// A record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record<'buf> {
    /// Kind as on the wire.
    pub kind: u8,
    /// Reserved; 0.
    pub flags: u8,
    /// Priority lane: 0 control, 1 calls, 2 messages, 3 transient.
    pub priority: u8,
    /// Terminal class, 0 for none.
    pub terminal: u8,
    /// Tenant.
    pub app: u32,
    /// Lane of the conversation.
    pub lane: u16,
    /// User, or empty.
    pub user: &'buf str,
    /// Device, or empty.
    pub device: &'buf str,
    /// Connection, 0 for none.
    pub conn: u64,
    /// The client's reference, or the sender's own.
    pub reference: u32,
    /// Time left for it, in ms; 0 for no deadline.
    pub deadline_ms: u32,
    /// Wall time in microseconds at which a sampled message was decoded; 0 if not sampled.
    pub stamp: u64,
    /// Depends on the kind.
    pub body: &'buf [u8],
}

impl<'buf> Record<'buf> {
    /// Bytes it takes on the link. This is what credit counts.
    pub fn wire_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.user.len() + self.device.len() + self.body.len()
    }

    /// Appends its bytes to `into`.
    ///
    /// # Panics
    ///
    /// If user or device exceed 255 bytes; ids are bounded far below.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let user_bytes = u8::try_from(self.user.len()).expect("a user id has at most 64 bytes");
        let device_bytes = u8::try_from(self.device.len()).expect("a device id has at most 64 bytes");
        into.extend((self.wire_bytes() as u32).to_le_bytes());
        into.extend([self.kind, self.flags, self.priority, self.terminal]);
        into.extend(self.app.to_le_bytes());
        into.extend(self.lane.to_le_bytes());
        into.extend([user_bytes, device_bytes]);
        into.extend(self.conn.to_le_bytes());
        into.extend(self.reference.to_le_bytes());
        into.extend(self.deadline_ms.to_le_bytes());
        into.extend(self.stamp.to_le_bytes());
        into.extend(self.user.as_bytes());
        into.extend(self.device.as_bytes());
        into.extend(self.body);
    }

    /// Takes the first record of `bytes`; returns it and what follows it.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: close the link.
    pub fn split(bytes: &'buf [u8]) -> Result<(Self, &'buf [u8]), RecordError> {
        let short = |announced| RecordError::Length {
            announced,
            left: bytes.len(),
        };
        let (length, _) = bytes.split_first_chunk::<4>().ok_or(short(RECORD_HEADER_BYTES))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (record, after) = bytes.split_at_checked(length).ok_or(short(length))?;
        let (header, texts) = record
            .split_first_chunk::<RECORD_HEADER_BYTES>()
            .ok_or(short(length))?;
        let [_, _, _, _, kind, flags, priority, terminal, fields @ ..] = *header;
        let [a0, a1, a2, a3, l0, l1, user_bytes, device_bytes, fields @ ..] = fields;
        let [c0, c1, c2, c3, c4, c5, c6, c7, r0, r1, r2, r3, fields @ ..] = fields;
        let [d0, d1, d2, d3, stamp @ ..] = fields;
        let (user, rest) = texts
            .split_at_checked(usize::from(user_bytes))
            .ok_or(short(length))?;
        let (device, body) = rest
            .split_at_checked(usize::from(device_bytes))
            .ok_or(short(length))?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| RecordError::Text);
        let record = Self {
            kind,
            flags,
            priority,
            terminal,
            app: u32::from_le_bytes([a0, a1, a2, a3]),
            lane: u16::from_le_bytes([l0, l1]),
            user: text(user)?,
            device: text(device)?,
            conn: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            reference: u32::from_le_bytes([r0, r1, r2, r3]),
            deadline_ms: u32::from_le_bytes([d0, d1, d2, d3]),
            stamp: u64::from_le_bytes(stamp),
            body,
        };
        Ok((record, after))
    }

    /// The kind, if this version knows it.
    pub fn known_kind(&self) -> Option<RecordKind> {
        RecordKind::from_number(self.kind)
    }
}
