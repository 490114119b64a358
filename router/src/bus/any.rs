//! The bus that the configuration chose.
//!
//! Its two kinds differ in who owns a topic. The memory bus lives in one router: that makes a gateway's topic when it
//! links, hands its records out over the link, and drops the topic with the gateway. Kafka stands apart: a gateway makes
//! and reads its topic itself, routers only publish, and what dead gateways leave is swept up later (`sweep.rs`).

use std::sync::Arc;

use corelane_protocol::id::BootId;

use super::kafka::KafkaBus;
use super::memory::MemoryBus;
use super::{Bus, BusError, Fetched};

/// One of the adapters.
#[derive(Debug)]
pub enum AnyBus {
    /// In the router's own memory.
    Memory(MemoryBus),
    /// Apart from all routers and gateways.
    Kafka(Box<KafkaBus>),
}

impl AnyBus {
    /// Whether gateways read it themselves, and not over their links.
    pub const fn is_apart(&self) -> bool {
        matches!(self, Self::Kafka(_))
    }

    /// The Kafka bus, if it is that.
    pub const fn kafka(&self) -> Option<&KafkaBus> {
        match self {
            Self::Memory(_) => None,
            Self::Kafka(bus) => Some(bus),
        }
    }

    /// Whether it does not take records now, as far as this router knows.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Kafka(bus) => bus.is_away(),
        }
    }

    /// A gateway linked: it has a topic from here on. In Kafka it made that before it linked.
    ///
    /// # Errors
    ///
    /// [`BusError::NoTopic`]: it did not, or the topic is gone; the boot is of no use. Any other: refuse the link.
    pub async fn gateway_linked(&self, boot: BootId, partitions: u16) -> Result<(), BusError> {
        match self {
            Self::Memory(bus) => bus.create(boot, partitions).await,
            Self::Kafka(bus) => {
                let has_topic = bus.has_topic(boot).await;
                has_topic.then_some(()).ok_or(BusError::NoTopic(boot.0))
            }
        }
    }

    /// A gateway is gone: nothing is published to it any more, and nothing that waits for it matters. The memory bus
    /// drops the topic; in Kafka it stays for the sweep. True: that is new, as far as this is remembered.
    pub async fn gateway_gone(&self, boot: BootId) -> bool {
        match self {
            // It cannot fail.
            Self::Memory(bus) => bus.delete(boot).await.is_ok(),
            Self::Kafka(bus) => bus.abandon(boot),
        }
    }
}

macro_rules! both {
    ($self:ident, $bus:ident => $call:expr) => {
        match $self {
            Self::Memory($bus) => $call,
            Self::Kafka($bus) => $call,
        }
    };
}

impl Bus for AnyBus {
    async fn create(&self, boot: BootId, partitions: u16) -> Result<(), BusError> {
        both!(self, bus => bus.create(boot, partitions).await)
    }

    async fn publish(
        &self,
        boot: BootId,
        partition: u16,
        number: u64,
        record: Arc<[u8]>,
    ) -> Result<u64, BusError> {
        both!(self, bus => bus.publish(boot, partition, number, record).await)
    }

    async fn fetch(
        &self,
        boot: BootId,
        partition: u16,
        from: u64,
        bytes_max: usize,
    ) -> Result<Fetched, BusError> {
        both!(self, bus => bus.fetch(boot, partition, from, bytes_max).await)
    }

    fn consumed(&self, boot: BootId, partition: u16, number: u64) {
        both!(self, bus => bus.consumed(boot, partition, number));
    }

    async fn delete(&self, boot: BootId) -> Result<(), BusError> {
        both!(self, bus => bus.delete(boot).await)
    }
}
