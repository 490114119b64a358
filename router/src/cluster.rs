//! What all parts of this router know of the routers there are.
//!
//! Owns the list as it was looked at last, which links are told and the HTTP API goes by. `membership.rs` is its only
//! writer; the driver tells it when the core has drained, and when somebody waits for another look at the list.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corelane_protocol::frame;
use corelane_protocol::id::{BootId, Lane};
use corelane_protocol::link::body::{RouterInfo, RouterList};
use corelane_protocol::link::record::RecordKind;
use tokio::sync::{Notify, watch};

use crate::hub::Outgoing;
use crate::registry::{RouterEntry, RouterSet};

/// The routers, as this one knows them.
#[derive(Debug)]
pub(crate) struct Cluster {
    own: BootId,
    list: Mutex<Arc<RouterSet>>,
    /// The version that was drained last.
    drained: watch::Sender<u64>,
    wake: Notify,
    owned: AtomicUsize,
    held: AtomicUsize,
    rows_held: AtomicUsize,
}

impl Cluster {
    pub(crate) fn new(own: BootId) -> Self {
        Self {
            own,
            list: Mutex::default(),
            drained: watch::Sender::new(0),
            wake: Notify::new(),
            owned: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            rows_held: AtomicUsize::new(0),
        }
    }

    /// The list as it was looked at last.
    pub(crate) fn list(&self) -> Arc<RouterSet> {
        Arc::clone(&self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_list(&self, list: Arc<RouterSet>) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// The list, as links are told.
    pub(crate) fn list_record(&self) -> Outgoing {
        let list = self.list();
        let info = |router: &RouterEntry| RouterInfo {
            node: router.node.as_str().to_owned(),
            boot: router.boot.0,
            address: router.address.clone(),
        };
        let body = frame::archive(&RouterList {
            version: list.version,
            routers: list.routers.iter().map(info).collect(),
        });
        Outgoing {
            kind: RecordKind::RouterList,
            priority: 0,
            conn: 0,
            reference: 0,
            body: body.to_vec(),
        }
    }

    /// Whether there are other routers.
    pub(crate) fn has_others(&self) -> bool {
        let list = self.list();
        list.routers.iter().any(|router| router.boot != self.own)
    }

    /// The router that serves a lane, if it is another one.
    pub(crate) fn elsewhere(&self, lane: Lane) -> Option<RouterEntry> {
        let list = self.list();
        list.owner(lane).filter(|owner| owner.boot != self.own).cloned()
    }

    /// Asks for another look at the list.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// Ends when somebody asked for one.
    pub(crate) async fn is_asked(&self) {
        self.wake.notified().await;
    }

    /// The core has drained this version, and the bus has taken all that was published before.
    pub(crate) fn drained(&self, version: u64) {
        self.drained.send_replace(version);
        self.look();
    }

    pub(crate) fn last_drained(&self) -> u64 {
        *self.drained.borrow()
    }

    /// Ends when this version was drained.
    pub(crate) async fn has_drained(&self, version: u64) {
        let mut drained = self.drained.subscribe();
        // The sender lives in self: it cannot be gone.
        let _ = drained.wait_for(|last| *last == version).await;
    }

    /// Outbox rows that wait for something; told by the driver.
    pub(crate) fn count_rows(&self, rows_held: usize) {
        self.rows_held.store(rows_held, Ordering::Relaxed);
    }

    pub(crate) fn rows_held(&self) -> usize {
        self.rows_held.load(Ordering::Relaxed)
    }

    pub(crate) fn count_lanes(&self, owned: usize, held: usize) {
        self.owned.store(owned, Ordering::Relaxed);
        self.held.store(held, Ordering::Relaxed);
    }

    /// Lanes that this router serves or is to serve, and those of them that are held.
    pub(crate) fn lanes(&self) -> (usize, usize) {
        (
            self.owned.load(Ordering::Relaxed),
            self.held.load(Ordering::Relaxed),
        )
    }
}
