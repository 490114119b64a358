//! The bus port: records on their way to the gateways.
//!
//! One topic per gateway boot, a few partitions in it. An adapter keeps the order of a partition and hands records
//! out until they are reported consumed; it trusts nothing in them. What it cannot keep it declares lost, never
//! silently: the gateway then tells all its sessions to sync again. Every adapter runs the same contract tests
//! (`router/tests/bus_contract`).

pub mod any;
pub mod kafka;
pub mod memory;

use std::future::Future;
use std::sync::Arc;

use corelane_protocol::id::BootId;
use corelane_protocol::limits::BUS_RECORD_BYTES_MAX;
use thiserror::Error;

/// Why the bus did not take or give a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BusError {
    /// There is no topic of this boot (any more). Its gateway is gone or must take a new boot.
    #[error("gateway boot {0:016x} has no topic")]
    NoTopic(u64),
    /// The topic has fewer partitions. A bug of the caller.
    #[error("partition {partition} does not exist, the topic has {partitions}")]
    NoPartition {
        /// The partition asked for.
        partition: u16,
        /// How many there are.
        partitions: u16,
    },
    /// The record is longer than any may be. A bug of the caller: nothing was taken, and it never will be.
    #[error("a record of {0} bytes is longer than {BUS_RECORD_BYTES_MAX}")]
    TooLarge(usize),
    /// The topic was full: this record and all that waited in it are dropped, and the gateway is told so with its
    /// next fetches. Wait for nothing that was published to this boot before.
    #[error(
        "topic of gateway boot {boot:016x} held {bytes_max} bytes that were not consumed; all are dropped"
    )]
    Overflow {
        /// The gateway's boot.
        boot: u64,
        /// What it may hold.
        bytes_max: usize,
    },
    /// The bus cannot be reached. Nobody knows whether it took the record: publish it again under its number.
    #[error("the bus is away: {0}")]
    Unavailable(String),
}

/// Records of one partition, in order and without a gap in their offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Offset of the first record; where to go on if there is none.
    pub from: u64,
    /// Records before `from` that were asked for are gone: the gateway must resync its sessions.
    pub lost: bool,
    /// Encoded [`corelane_protocol::bus::BusRecord`]s.
    pub records: Vec<Arc<[u8]>>,
}

impl Fetched {
    /// Offset of the next record wanted.
    pub fn next_offset(&self) -> u64 {
        self.from + self.records.len() as u64
    }
}

/// The bus.
pub trait Bus: Send + Sync + 'static {
    /// Makes the topic of a gateway boot; offsets begin at 0. Making it again changes nothing, and a topic that is gone
    /// is not made again: [`BusError::NoTopic`] as far as this is still known.
    fn create(&self, boot: BootId, partitions: u16) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Appends a record that carries `number` and returns its offset. Records of one partition are in the order in which
    /// these futures were first polled, unless one comes back as unavailable.
    fn publish(
        &self,
        boot: BootId,
        partition: u16,
        number: u64,
        record: Arc<[u8]>,
    ) -> impl Future<Output = Result<u64, BusError>> + Send;

    /// Waits until there are records from offset `from` on (or the loss of some to tell) and returns them, up to
    /// `bytes_max` bytes but at least one. The same offset may be fetched again until it is consumed. Dropping the
    /// future loses nothing.
    fn fetch(
        &self,
        boot: BootId,
        partition: u16,
        from: u64,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Fetched, BusError>> + Send;

    /// All records of the partition with numbers up to and with `number` were consumed and need not be kept.
    fn consumed(&self, boot: BootId, partition: u16, number: u64);

    /// Deletes a topic; who waits for records of it gets [`BusError::NoTopic`].
    fn delete(&self, boot: BootId) -> impl Future<Output = Result<(), BusError>> + Send;
}
