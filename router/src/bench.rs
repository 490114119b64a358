//! For tests beside the code: what all parts of a router share, without its threads and sockets.

use std::path::Path;
use std::sync::{Arc, Mutex};

use corelane_protocol::id::{BootId, NodeId};
use corelane_protocol::link::codec::LinkSecret;
use tokio::sync::{Semaphore, mpsc};

use crate::adopt::ADOPTED_MAX;
use crate::bus::any::AnyBus;
use crate::bus::memory::MemoryBus;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::config::{Durability, StoreSection};
use crate::driver::{Event, QUEUE};
use crate::given_up::GivenUp;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::registry::any::AnyRegistry;
use crate::registry::memory::MemoryRegistry;
use crate::shared::{Shared, Stop};
use crate::store::any::AnyStore;

/// Boot of the router.
pub(crate) const BOOT: u64 = 7;

/// A router with an embedded store in `dir`, registry and bus in memory, and where its driver is to read.
pub(crate) fn shared(dir: &Path) -> (Arc<Shared>, mpsc::Receiver<Event>) {
    let clock = Clock::start();
    shared_with(dir, MemoryRegistry::new(1, move || clock.now().mono))
}

/// The same with this registry.
pub(crate) fn shared_with(dir: &Path, registry: MemoryRegistry) -> (Arc<Shared>, mpsc::Receiver<Event>) {
    let clock = Clock::start();
    let section = StoreSection {
        data_dir: dir.to_owned(),
        durability: Durability::Os,
        lanes: 64,
        ..StoreSection::default()
    };
    let (driver, events) = mpsc::channel(QUEUE);
    let shared = Shared {
        node: NodeId::new("router").unwrap(),
        boot: BOOT,
        partitions: 4,
        link_secret: LinkSecret {
            key_id: 1,
            key: b"key".to_vec(),
        },
        clock,
        store: Arc::new(AnyStore::open(&section, BOOT, 1, clock).unwrap()),
        registry: Arc::new(AnyRegistry::Memory(registry)),
        bus: Arc::new(AnyBus::Memory(MemoryBus::default())),
        hub: Hub::default(),
        cluster: Cluster::new(BootId(BOOT)),
        gone: Mutex::default(),
        given_up: GivenUp::default(),
        dead: Mutex::default(),
        metrics: Metrics::default(),
        driver,
        adopting: Arc::new(Semaphore::new(ADOPTED_MAX)),
        stop: Arc::new(Stop::new()),
    };
    (Arc::new(shared), events)
}
