//! A bus to test, and records to put in.

use std::sync::Arc;

use corelane_protocol::id::BootId;
use corelane_router::bus::Bus;

pub(crate) const BOOT: BootId = BootId(7);

/// Somewhere to have a bus.
pub(crate) trait Fixture {
    type Bus: Bus;

    /// Nothing is there yet: no boot has a topic.
    async fn new() -> Self;
    /// The bus.
    async fn bus(&self) -> Arc<Self::Bus>;
    /// Takes away what was made.
    async fn end(self);
}

pub(crate) fn record(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

/// Makes the topic of [`BOOT`], of two partitions.
pub(crate) async fn topic(bus: &impl Bus) {
    bus.create(BOOT, 2).await.unwrap();
}
