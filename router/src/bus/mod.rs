//! The bus port: one topic per gateway boot, in partitions, each an ordered log that is read from its beginning.

pub mod memory;

use std::future::Future;
use std::sync::Arc;

use thiserror::Error;

/// The bus did not take a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BusError {
    /// The topic is gone: its gateway takes a new boot.
    #[error("topic of gateway boot {0:016x} is gone")]
    Gone(u64),
    /// It is not known whether the record was taken. It is published again under its number.
    #[error("bus failed: {0}")]
    Unknown(String),
}

/// Some records of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Offset of the first one.
    pub from: u64,
    /// Whether records before it were lost.
    pub lost: bool,
    /// In order, without a gap.
    pub records: Vec<Arc<[u8]>>,
}

/// The bus.
pub trait Bus: Send + Sync + 'static {
    /// Makes the topic of a gateway boot, if there is none.
    fn create(&self, boot: u64, partitions: u16) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Appends a record.
    fn publish(
        &self,
        boot: u64,
        partition: u16,
        record: Arc<[u8]>,
    ) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Deletes the topic of a gateway boot. Its name is never used again.
    fn delete(&self, boot: u64) -> impl Future<Output = ()> + Send;
}
