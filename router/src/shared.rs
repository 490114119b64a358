//! What all parts of one router share: the ports, the keys, the links, the way to the driver, and the sign to stop.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_protocol::id::{AppUser, BootId, NodeId};
use corelane_protocol::link::codec::{LinkSecret, PeerInfo};
use corelane_protocol::link::handshake::feature;
use corelane_router_core::append::Append;
use corelane_router_core::event::Input;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::bus::any::AnyBus;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::dead::DeadBoots;
use crate::driver::Event;
use crate::given_up::GivenUp;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::registry::Registry as _;
use crate::registry::any::AnyRegistry;
use crate::store::MessageStore as _;
use crate::store::any::AnyStore;

/// Connections that ended lately and are remembered for bounces.
const GONE_MAX: usize = 65_536;

/// What all parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) partitions: u16,
    pub(crate) link_secret: LinkSecret,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<AnyStore>,
    pub(crate) registry: Arc<AnyRegistry>,
    pub(crate) bus: Arc<AnyBus>,
    pub(crate) hub: Hub,
    pub(crate) cluster: Cluster,
    pub(crate) gone: Mutex<Gone>,
    pub(crate) given_up: GivenUp,
    pub(crate) dead: Mutex<DeadBoots>,
    pub(crate) metrics: Metrics,
    pub(crate) driver: mpsc::Sender<Event>,
    /// Room for outbox rows that nobody publishes.
    pub(crate) adopting: Arc<Semaphore>,
    pub(crate) stop: Arc<Stop>,
}

impl Shared {
    /// What this router says of itself on a link.
    pub(crate) fn peer_info(&self) -> PeerInfo {
        let info = self.store.info();
        PeerInfo {
            cluster_id: info.cluster_id,
            node: self.node.as_str().to_owned(),
            boot: self.boot,
            shards: 1,
            epoch: info.epoch,
            lanes: info.lanes,
            partitions: self.partitions,
            router_list_version: self.cluster.list().version,
            registry_incarnation: self.registry.incarnation(),
            features: u64::from(self.bus.is_apart()) * feature::BUS_APART
                + u64::from(self.registry.is_shared()) * feature::OWNED,
            ..PeerInfo::default()
        }
    }

    /// 16 random bytes.
    pub(crate) fn nonce() -> std::io::Result<[u8; 16]> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(nonce)
    }

    /// Hands inputs to the driver. False: the router is stopping.
    pub(crate) async fn input(&self, input: Input) -> bool {
        self.driver.send(Event::Inputs(vec![input])).await.is_ok()
    }

    /// Stores a message for a backend; the answer is a `SendAck` or an `Error` frame. `None`: the router is stopping.
    pub(crate) async fn submit(&self, append: Append) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.driver
            .send(Event::Append(Box::new(append), answer))
            .await
            .ok()?;
        answered.await.ok()
    }

    /// Gateway boots that the core waits for. `None`: the router is stopping.
    pub(crate) async fn boots_awaited(&self) -> Option<BTreeSet<BootId>> {
        let (answer, answered) = oneshot::channel();
        self.driver.send(Event::Awaited(answer)).await.ok()?;
        answered.await.ok()
    }

    pub(crate) fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dead(&self) -> MutexGuard<'_, DeadBoots> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose connections ended lately: a record that was on its way to one is not sent again, but its user is told to pull.
/// Keeps the newest [`GONE_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Gone {
    users: HashMap<(u64, u64), AppUser>,
    order: VecDeque<(u64, u64)>,
}

impl Gone {
    pub(crate) fn add(&mut self, boot: u64, conn: u64, user: AppUser) {
        if self.users.insert((boot, conn), user).is_none() {
            self.order.push_back((boot, conn));
        }
        if self.order.len() > GONE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.users.remove(&oldest);
        }
    }

    pub(crate) fn user(&self, boot: u64, conn: u64) -> Option<&AppUser> {
        self.users.get(&(boot, conn))
    }
}

/// The sign to stop, for all tasks. Why is kept for whoever asks. Before it is given by wish, the router leaves the
/// cluster in order.
#[derive(Debug)]
pub(crate) struct Stop {
    sender: watch::Sender<Option<StopReason>>,
    wished: watch::Sender<bool>,
}

/// Why a router stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// It was asked to.
    Asked,
    /// Something failed for good.
    Failed(String),
}

impl Stop {
    pub(crate) fn new() -> Self {
        Self {
            sender: watch::Sender::new(None),
            wished: watch::Sender::new(false),
        }
    }

    /// Somebody wishes that the router stops.
    pub(crate) fn wish(&self) {
        self.wished.send_replace(true);
    }

    /// Ends when somebody does.
    pub(crate) async fn is_wished(&self) {
        let mut receiver = self.wished.subscribe();
        // The sender lives in self: it cannot be gone.
        let _ = receiver.wait_for(|wished| *wished).await;
    }

    /// Gives the sign. The first reason stays.
    pub(crate) fn give(&self, reason: StopReason) {
        self.sender.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Ends when the sign is given.
    pub(crate) async fn cancelled(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives in self: it cannot be gone.
        let _ = receiver.wait_for(Option::is_some).await;
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<StopReason>> {
        self.sender.subscribe()
    }
}
