//! The memory bus, and what it alone promises: a bound of its own.

use std::sync::Arc;

use corelane_router::bus::memory::MemoryBus;
use corelane_router::bus::{Bus as _, BusError};

use super::support::{BOOT, Fixture, record, topic};

pub(crate) struct MemoryFixture;

impl Fixture for MemoryFixture {
    type Bus = MemoryBus;

    async fn new() -> Self {
        Self
    }

    async fn bus(&self) -> Arc<MemoryBus> {
        Arc::default()
    }

    async fn end(self) {}
}

#[tokio::test]
async fn an_overflow_drops_all_and_says_so_in_every_partition() {
    let bus = MemoryBus::with_bytes_max(1000);
    topic(&bus).await;
    for number in 1..=8 {
        bus.publish(BOOT, 0, number, record("0123456789")).await.unwrap();
    }
    bus.publish(BOOT, 1, 1, record("0123456789")).await.unwrap();
    bus.consumed(BOOT, 0, 2);
    let outcome = bus.publish(BOOT, 0, 9, [0; 600].as_slice().into()).await;
    assert!(
        matches!(outcome, Err(BusError::Overflow { bytes_max: 1000, .. })),
        "{outcome:?}"
    );
    let depth = bus.depth(BOOT).unwrap();
    assert_eq!((depth.records, depth.bytes, depth.overflows), (0, 0, 1));
    bus.publish(BOOT, 0, 10, record("next")).await.unwrap();
    let fetched = bus.fetch(BOOT, 0, 5, 1000).await.unwrap();
    assert!(fetched.lost && fetched.from > 8);
    assert_eq!(fetched.records, [record("next")]);
    let other = bus.fetch(BOOT, 1, 1, 1000).await.unwrap();
    assert!(
        other.lost && other.records.is_empty(),
        "told even where nothing comes any more"
    );
    let on = bus.publish(BOOT, 0, 11, record("on")).await.unwrap();
    let fetched = bus.fetch(BOOT, 0, on, 1000).await.unwrap();
    assert!(!fetched.lost, "who goes on from there is told once");
}
