//! What this router knows of boots without asking: who is dead, who lives, and who joined here.
//!
//! Refreshed every second. That a boot lives may be known late: whoever is not known here is asked for. That it is dead
//! may be known late too: then a record goes to a topic that nobody reads any more, and its outbox row waits. Holds one
//! entry per live gateway and per boot that died in the last hour.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use corelane_protocol::id::{BootId, NodeId};
use tokio::sync::{Mutex, Notify};

use super::sweep::DEAD_KEPT;

/// What is known of boots.
#[derive(Debug, Default)]
pub(super) struct Roster {
    known: RwLock<Known>,
    /// Held from reading or writing the boots in Redis until what came of it is known here, so that no older answer
    /// replaces a newer one.
    pub(super) turn: Mutex<()>,
    /// There are routes of dead boots to sweep up.
    pub(super) unswept: Notify,
}

#[derive(Debug, Default)]
struct Known {
    dead: HashSet<BootId>,
    live: HashMap<BootId, NodeId>,
    /// Gateways with a link here: their leases can be renewed even when Redis came back empty.
    joined: HashMap<BootId, NodeId>,
    unswept: BTreeSet<BootId>,
    /// Dead boots that were not named yet.
    unnamed: BTreeSet<BootId>,
    /// When this was refreshed last.
    refreshed_at: Option<Duration>,
}

impl Roster {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_dead(&self, boot: BootId) -> bool {
        self.read().dead.contains(&boot)
    }

    /// Whether it is known to live.
    pub(super) fn lives(&self, boot: BootId) -> bool {
        let known = self.read();
        !known.dead.contains(&boot) && (known.live.contains_key(&boot) || known.joined.contains_key(&boot))
    }

    /// Those of the boots that are dead.
    pub(super) fn without_dead<T>(&self, all: Vec<T>, boot: impl Fn(&T) -> BootId) -> Vec<T> {
        let known = self.read();
        all.into_iter()
            .filter(|each| !known.dead.contains(&boot(each)))
            .collect()
    }

    pub(super) fn node_of_joined(&self, boot: BootId) -> Option<NodeId> {
        self.read().joined.get(&boot).cloned()
    }

    pub(super) fn joined(&self, boot: BootId, node: NodeId) {
        let mut known = self.write();
        known.live.insert(boot, node.clone());
        known.joined.insert(boot, node);
    }

    /// This router declared it dead. `named`: whoever asks for the dead is told.
    pub(super) fn died(&self, boot: BootId, named: bool) {
        let mut known = self.write();
        known.dead.insert(boot);
        known.live.remove(&boot);
        known.joined.remove(&boot);
        known.unswept.insert(boot);
        if named {
            known.unnamed.insert(boot);
        }
        drop(known);
        self.unswept.notify_one();
    }

    /// Boots that died since this was asked last, wherever they were declared dead.
    pub(super) fn take_unnamed(&self) -> Vec<BootId> {
        std::mem::take(&mut self.write().unnamed).into_iter().collect()
    }

    /// It lives, as Redis says.
    pub(super) fn is_alive(&self, boot: BootId, node: NodeId) {
        self.write().live.insert(boot, node);
    }

    /// Takes over what stands in Redis.
    pub(super) fn refresh(&self, dead: HashSet<BootId>, live: HashMap<BootId, NodeId>, now: Duration) {
        let mut known = self.write();
        let refreshed_at = known.refreshed_at.replace(now);
        if let Some(last) = refreshed_at {
            // Those that were dead when this router started are nobody's news.
            let new: Vec<BootId> = dead.difference(&known.dead).copied().collect();
            known.unnamed.extend(new);
            if now.saturating_sub(last) > DEAD_KEPT / 2 {
                // Who died meanwhile may be forgotten: no lease is renewed that Redis does not know.
                known.joined.clear();
            }
        }
        known.joined.retain(|boot, _| !dead.contains(boot));
        known.dead = dead;
        known.live = live;
    }

    /// Boots whose routes are to be swept up by this router.
    pub(super) fn to_sweep(&self) -> Vec<BootId> {
        self.read().unswept.iter().copied().collect()
    }

    pub(super) fn swept(&self, boot: BootId) {
        self.write().unswept.remove(&boot);
    }
}
