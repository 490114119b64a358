//! How much either end may still send: bytes and records, counted alike on both sides.
//!
//! Only kinds that carry payload are counted. The others (claims, kicks, reports of consumption, fetches, leases) must
//! get through while payload waits, or a full link could never become empty again; their number is bounded by
//! connections and partitions, not by traffic. Memory is bounded because a peer that sends beyond its credit is cut off.

use thiserror::Error;

use super::body::Credit;
use super::handshake::LinkError;
use super::record::RecordKind;
use crate::limits::LINK_BATCH_BYTES_MAX;

/// Bytes that may be on their way before the first grant, in each direction.
pub const CREDIT_BYTES: u32 = 8 * 1024 * 1024;
/// Records that may be on their way before the first grant, in each direction.
pub const CREDIT_RECORDS: u32 = 16_384;
/// What a peer may let this end send at most, as a multiple of the first credit; more is left unused.
const GRANT_FACTOR_MAX: u64 = 8;

const _: () = assert!(
    LINK_BATCH_BYTES_MAX <= CREDIT_BYTES as usize / 2,
    "what is left before half of the credit is used up, and granted again, holds the largest record"
);

/// A record was not taken for lack of credit. Keep it and try again after `LinkEvent::Room`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no credit on the link")]
pub struct NoCredit;

/// What may be sent before the peer grants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes, as [`super::record::Record::wire_bytes`] counts them.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

impl Room {
    pub(super) const fn first() -> Self {
        Self {
            bytes: CREDIT_BYTES as u64,
            records: CREDIT_RECORDS as u64,
        }
    }

    /// Takes the credit of one record.
    pub(super) const fn spend(&mut self, bytes: usize) -> Result<(), NoCredit> {
        if self.bytes < bytes as u64 || self.records == 0 {
            return Err(NoCredit);
        }
        self.bytes -= bytes as u64;
        self.records -= 1;
        Ok(())
    }

    /// Adds what the peer granted.
    pub(super) fn grow(&mut self, bytes: u32, records: u32) {
        let first = Self::first();
        self.bytes = (self.bytes + u64::from(bytes)).min(GRANT_FACTOR_MAX * first.bytes);
        self.records = (self.records + u64::from(records)).min(GRANT_FACTOR_MAX * first.records);
    }
}

/// What the peer may send, and what of it was taken since the last grant.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Room,
    taken: Credit,
}

impl Allowance {
    pub(super) const fn first() -> Self {
        Self {
            left: Room::first(),
            taken: Credit { bytes: 0, records: 0 },
        }
    }

    /// Counts a record that came in.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), LinkError> {
        self.left.spend(bytes).map_err(|NoCredit| LinkError::Credit)?;
        self.taken.bytes += bytes as u32;
        self.taken.records += 1;
        Ok(())
    }

    /// The next grant, once half of the credit is used up.
    pub(super) fn due(&mut self) -> Option<Credit> {
        if self.taken.bytes < CREDIT_BYTES / 2 && self.taken.records < CREDIT_RECORDS / 2 {
            return None;
        }
        let grant = std::mem::replace(&mut self.taken, Credit { bytes: 0, records: 0 });
        self.left.grow(grant.bytes, grant.records);
        Some(grant)
    }
}

/// Whether records of this kind need credit.
pub(super) const fn is_counted(kind: u8) -> bool {
    kind == RecordKind::ClientFrame as u8
        || kind == RecordKind::ServerFrame as u8
        || kind == RecordKind::BusBatch as u8
}
