//! Bus records on their way to a gateway over its link: the long poll behind `BusFetch`.
//!
//! Owns one task per partition that the link asked for. A fetch stays open until its credit is used up; a new one takes
//! its place. The records themselves stay in the bus until they are reported consumed, so dropping a task loses nothing.
//! A bus that stands apart is read by the gateways themselves: then nothing is served here.
//!
//! When the credit is used up, at most [`CREDIT_BYTES_MAX`] whatever was asked for, the task ends and records wait in the
//! bus for the next fetch. What fetches of several partitions bring together may be more than the link's queue holds
//! (`hub.rs`): the link is closed then, and the next one fetches from where its gateway is.

use std::collections::BTreeMap;
use std::sync::Arc;

use corelane_protocol::frame;
use corelane_protocol::id::BootId;
use corelane_protocol::limits::BUS_RECORD_BYTES_MAX;
use corelane_protocol::link::body::BusBatch;
use corelane_protocol::link::record::RecordKind;
use tokio::task::AbortHandle;

use crate::bus::Bus as _;
use crate::hub::{LinkHandle, Outgoing};
use crate::intake::FetchRecord;
use crate::shared::Shared;

/// Most bytes of records in one `BusBatch`, unless the first is longer.
const BATCH_BYTES: usize = 256 * 1024;
/// Most credit of a fetch: half of what may wait for a link.
const CREDIT_BYTES_MAX: usize = crate::hub::LINK_QUEUE_BYTES_MAX / 2;

const _: () = assert!(BATCH_BYTES + BUS_RECORD_BYTES_MAX < corelane_protocol::limits::LINK_BATCH_BYTES_MAX);

/// The open fetches of one link.
#[derive(Debug)]
pub(crate) struct Fetches {
    boot: u64,
    shared: Arc<Shared>,
    link: LinkHandle,
    open: BTreeMap<u16, AbortHandle>,
}

impl Fetches {
    pub(crate) fn new(boot: u64, shared: Arc<Shared>, link: LinkHandle) -> Self {
        Self {
            boot,
            shared,
            link,
            open: BTreeMap::new(),
        }
    }

    /// Opens a fetch, in the place of an older one of the same partition.
    pub(crate) fn take(&mut self, fetch: FetchRecord) {
        if fetch.boot != self.boot || fetch.partition >= self.shared.partitions {
            return;
        }
        if self.shared.bus.is_apart() {
            let partition = fetch.partition;
            tracing::error!(
                partition,
                "a gateway wants records over its link, but the bus is Kafka: refused"
            );
            return;
        }
        let task = tokio::spawn(serve(Arc::clone(&self.shared), self.link.clone(), fetch));
        if let Some(older) = self.open.insert(fetch.partition, task.abort_handle()) {
            older.abort();
        }
    }
}

impl Drop for Fetches {
    fn drop(&mut self) {
        for task in self.open.values() {
            task.abort();
        }
    }
}

async fn serve(shared: Arc<Shared>, link: LinkHandle, fetch: FetchRecord) {
    let mut credit = (fetch.credit_bytes as usize).min(CREDIT_BYTES_MAX);
    let mut from = fetch.from;
    while credit > 0 {
        let bytes_max = credit.min(BATCH_BYTES);
        let fetched = match shared
            .bus
            .fetch(BootId(fetch.boot), fetch.partition, from, bytes_max)
            .await
        {
            Ok(fetched) => fetched,
            Err(error) => {
                tracing::info!(%error, partition = fetch.partition, "a fetch ended");
                return;
            }
        };
        from = fetched.next_offset();
        let bytes: usize = fetched.records.iter().map(|record| record.len()).sum();
        credit = credit.saturating_sub(bytes);
        let batch = BusBatch {
            partition: fetch.partition,
            from: fetched.from,
            lost: fetched.lost,
            records: fetched.records.iter().map(|record| record.to_vec()).collect(),
        };
        link.send(vec![Outgoing {
            kind: RecordKind::BusBatch,
            priority: 2,
            conn: 0,
            reference: 0,
            body: frame::archive(&batch).to_vec(),
        }]);
    }
}
