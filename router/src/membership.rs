//! Membership: keeps this router in the list of routers, and tells the core and the gateways what the list says.
//!
//! Owns one task. It joins before the link port is announced, renews the lease three times in its time, looks at the
//! list every [`LOOK_PACE`] (more often while something is waited for, and when somebody asks), and leaves at an orderly
//! stop: lanes first, then the list, then the gateways are told where the others are. What follows from a list is
//! decided in `router/core/src/place.rs`. The core is told before the gateways: no lane is still admitted here when a
//! gateway hears that another router has it.

use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::limits::{LEASE, RENEWALS_PER_LEASE, ROUTERS_MAX};
use corelane_router_core::event::{Input, LaneList, LaneRole};
use corelane_router_core::place::Place;
use thiserror::Error;

use crate::adopt;
use crate::registry::{Registry as _, RegistryError, RouterEntry, RouterJoin, RouterSet};
use crate::shared::Shared;
use crate::store::MessageStore as _;
use crate::store::remembered::CLUSTER_FILE;

/// How often the list is looked at.
const LOOK_PACE: Duration = Duration::from_secs(1);
/// The same while something is waited for that may happen at any moment.
const WAITING_PACE: Duration = Duration::from_millis(50);
/// Looks that somebody asks for are at least so far apart.
const LOOK_DISTANCE: Duration = Duration::from_millis(20);
/// How often a router that may not be in the list yet tries to be, when it starts.
const JOIN_PACE: Duration = Duration::from_millis(200);
/// How long it tries: a lease that nobody renews has ended by then.
const JOIN_PATIENCE: Duration = LEASE.saturating_add(Duration::from_secs(2));
/// How long a router that leaves waits for its lanes to drain.
const DRAIN_GRACE: Duration = Duration::from_secs(3);
/// How often a router that leaves looks whether gateways have reported all that it published.
const CONSUMED_PACE: Duration = Duration::from_millis(10);
/// How long leaving may take in all.
pub(crate) const LEAVE_GRACE: Duration = DRAIN_GRACE.saturating_add(Duration::from_secs(2));
/// Version of the list by which a router that leaves gives up its lanes; no list has it.
const LEAVING: u64 = u64::MAX;

const _: () = assert!(
    LOOK_PACE.as_millis() < LEASE.as_millis() / (RENEWALS_PER_LEASE as u128),
    "a renewal is never late for want of a turn"
);

/// Why a router cannot be in the list. For the operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Another router has its name, and lives.
    #[error(
        "router.node = {node:?}: a router of this name runs, its links at {address:?}, and renews its lease; give this \
         one another name, or stop that one"
    )]
    Taken {
        /// The name.
        node: String,
        /// Where the other one listens.
        address: String,
    },
    /// Others are in the list, and this one cannot work with them.
    #[error(
        "a router named {node:?}, its links at {address:?}, uses the same registry, but {reason}: it must be the only \
         one; stop the other (its lease ends within {LEASE:?}), let all share what they must, or set another \
         registry.prefix"
    )]
    Alone {
        /// Another one's name.
        node: String,
        /// Where it listens.
        address: String,
        /// What this one does not share.
        reason: &'static str,
    },
    /// Others are in the list, and their messages are in another store.
    #[error(
        "a router named {node:?}, its links at {address:?}, uses the same registry with the store of cluster \
         {theirs:016x}, and the store of this one is cluster {ours:016x}: set store.pd and store.prefix as they are \
         there and store.cluster = \"{theirs:016x}\", and where the store of {ours:016x} was only made by mistake remove \
         the file `{CLUSTER_FILE}` from store.data_dir; or, if this is another system, set another registry.prefix"
    )]
    OtherStore {
        /// Another one's name.
        node: String,
        /// Where it listens.
        address: String,
        /// The cluster of its store.
        theirs: u64,
        /// The cluster of this one's.
        ours: u64,
    },
    /// There are as many routers as there can be.
    #[error("there are {ROUTERS_MAX} routers in this registry, more are not allowed: stop one of them first")]
    Full,
    /// The registry did not answer.
    #[error("the list of routers cannot be joined: {0}")]
    Registry(#[from] RegistryError),
}

/// This router as one of the list.
#[derive(Debug)]
pub(crate) struct Member {
    shared: Arc<Shared>,
    entry: RouterEntry,
    place: Place,
    renew_at: Duration,
    turned_at: Duration,
}

/// What became of an attempt to join.
enum Attempt {
    Joined { version: u64, list: RouterSet },
    Taken { by: RouterEntry, lease_ends_ms: u64 },
}

/// Joins. A predecessor of the same name that did not leave is waited for, until its lease has ended. `alone`: why
/// nobody else may be in the list.
///
/// # Errors
///
/// [`JoinError`]: do not start.
pub(crate) async fn join(
    shared: &Arc<Shared>,
    entry: RouterEntry,
    alone: Option<&'static str>,
) -> Result<Member, JoinError> {
    let begun_at = shared.clock.now().mono;
    let (mut ends_ms, mut is_told) = (0, false);
    loop {
        let asked_at = shared.clock.now().mono;
        // What the registry's adapter keeps across an await is large.
        let problem = match Box::pin(attempt(shared, &entry, alone)).await {
            Ok(Attempt::Joined { version, list }) => {
                return Ok(Member::new(shared, entry, asked_at, version, list));
            }
            Ok(Attempt::Taken { by, lease_ends_ms }) => {
                let problem = JoinError::Taken {
                    node: by.node.as_str().to_owned(),
                    address: by.address,
                };
                // It was renewed meanwhile.
                if ends_ms != 0 && lease_ends_ms > ends_ms {
                    return Err(problem);
                }
                ends_ms = lease_ends_ms;
                problem
            }
            Err(problem) => problem,
        };
        if asked_at.saturating_sub(begun_at) >= JOIN_PATIENCE {
            return Err(problem);
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(%problem, "waits to be in the list of routers, at most {JOIN_PATIENCE:?}");
        }
        tokio::time::sleep(JOIN_PACE).await;
    }
}

async fn attempt(
    shared: &Shared,
    entry: &RouterEntry,
    alone: Option<&'static str>,
) -> Result<Attempt, JoinError> {
    let registry = &shared.registry;
    may_be_among(&registry.routers().await?, entry, alone)?;
    match registry.join_router(entry.clone(), 0).await? {
        RouterJoin::Taken { by, lease_ends_ms } => Ok(Attempt::Taken { by, lease_ends_ms }),
        RouterJoin::Joined { version } => {
            let list = registry.routers().await?;
            // Another one may have come in the same moment.
            if let Err(problem) = may_be_among(&list, entry, alone) {
                registry.leave_router(entry.boot).await?;
                return Err(problem);
            }
            Ok(Attempt::Joined { version, list })
        }
    }
}

/// Whether a router can work with those that are in the list.
fn may_be_among(list: &RouterSet, entry: &RouterEntry, alone: Option<&'static str>) -> Result<(), JoinError> {
    let others = list.routers.iter().filter(|router| router.node != entry.node);
    let others: Vec<&RouterEntry> = others.collect();
    let named = |other: &RouterEntry| (other.node.as_str().to_owned(), other.address.clone());
    if let (Some(reason), Some(other)) = (alone, others.first()) {
        let (node, address) = named(other);
        return Err(JoinError::Alone {
            node,
            address,
            reason,
        });
    }
    let ours = entry.cluster;
    let is_strange = |other: &&&RouterEntry| other.cluster != 0 && other.cluster != ours;
    if let Some(other) = others.iter().find(is_strange) {
        let (node, address) = named(other);
        let theirs = other.cluster;
        return Err(JoinError::OtherStore {
            node,
            address,
            theirs,
            ours,
        });
    }
    if others.len() >= ROUTERS_MAX {
        return Err(JoinError::Full);
    }
    Ok(())
}

/// Keeps the membership until the router stops, then leaves.
pub(crate) async fn run(mut member: Member) {
    let shared = Arc::clone(&member.shared);
    loop {
        tokio::select! {
            () = tokio::time::sleep(member.pace()) => {}
            () = shared.cluster.is_asked() => {
                let since = shared.clock.now().mono.saturating_sub(member.turned_at);
                tokio::time::sleep(LOOK_DISTANCE.saturating_sub(since)).await;
            }
            () = shared.stop.is_wished() => return Box::pin(member.leave(true)).await,
            () = shared.stop.cancelled() => return Box::pin(member.leave(false)).await,
        }
        Box::pin(member.turn()).await;
    }
}

impl Member {
    fn new(
        shared: &Arc<Shared>,
        entry: RouterEntry,
        asked_at: Duration,
        version: u64,
        list: RouterSet,
    ) -> Self {
        let registry = &shared.registry;
        let lease = registry.is_shared().then_some(LEASE);
        let mut place = Place::new(entry.boot, shared.store.info().lanes, lease);
        place.joined(version, asked_at, registry.incarnation());
        place.looked(asked_at, list, registry.incarnation());
        shared.cluster.set_list(Arc::clone(place.list()));
        let member = Self {
            shared: Arc::clone(shared),
            entry,
            place,
            renew_at: asked_at + LEASE / RENEWALS_PER_LEASE,
            turned_at: asked_at,
        };
        member.log_list();
        member
    }

    fn now(&self) -> Duration {
        self.shared.clock.now().mono
    }

    fn pace(&self) -> Duration {
        if self.place.waits() {
            WAITING_PACE
        } else {
            LOOK_PACE
        }
    }

    /// Tells the core what the list says. Before any message, and whenever the list was looked at.
    pub(crate) async fn tell_core(&self) {
        let list = self.place.lane_list();
        let count = |role| list.roles.iter().filter(|each| **each == role).count();
        let held = count(LaneRole::Held);
        self.shared
            .cluster
            .count_lanes(held + count(LaneRole::Served), held);
        self.shared.input(Input::Lanes(list)).await;
    }

    async fn turn(&mut self) {
        self.note_drained().await;
        if self.now() >= self.renew_at {
            self.renew().await;
        }
        self.look().await;
        self.turned_at = self.now();
    }

    /// Notes in the registry what was drained, so that others can go on.
    async fn note_drained(&mut self) {
        let version = self.shared.cluster.last_drained();
        // By what the list says, not by what was written: the registry may have lost the end of its memory.
        let noted = self.place.list().drained.get(&self.entry.boot).copied();
        if noted.unwrap_or(0) >= version || !self.place.is_listed() {
            return;
        }
        if let Err(error) = self.shared.registry.set_drained(self.entry.boot, version).await {
            tracing::debug!(%error, version, "that it is drained is noted later");
        }
    }

    async fn renew(&mut self) {
        let asked_at = self.now();
        match self.shared.registry.renew_router(self.entry.boot).await {
            Ok(true) => {
                self.place.renewed(asked_at);
                self.renew_at = asked_at + LEASE / RENEWALS_PER_LEASE;
            }
            // The look that follows finds out why.
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "this router's lease could not be renewed"),
        }
    }

    /// Looks at the list; where this router is missing, joins and looks once more.
    async fn look(&mut self) {
        for _ in 0..2 {
            let list = match self.shared.registry.routers().await {
                Ok(list) => list,
                Err(error) => {
                    tracing::debug!(%error, "the list of routers could not be looked at");
                    self.place.not_answered(self.now());
                    return self.tell_core().await;
                }
            };
            let was_listed = self.place.is_listed();
            let before = Arc::clone(self.place.list());
            let incarnation = self.shared.registry.incarnation();
            let look = self.place.looked(self.now(), list, incarnation);
            if was_listed && !self.place.is_listed() {
                tracing::error!(
                    "this router's lease ran out and the others went on without it: nothing is stored here before it is \
                     in the list again"
                );
            }
            self.tell_core().await;
            if look.is_newer {
                self.tell_gateways();
                self.adopt_from(&before);
            }
            if !look.must_join || !self.join_again().await {
                return;
            }
        }
    }

    fn tell_gateways(&self) {
        self.log_list();
        self.shared.cluster.set_list(Arc::clone(self.place.list()));
        self.shared.hub.broadcast(&self.shared.cluster.list_record());
    }

    /// Publishes what those left who were in the list before and are not any more.
    fn adopt_from(&self, before: &RouterSet) {
        let list = self.place.list();
        let gone = before.routers.iter().map(|router| router.boot);
        let gone: Vec<u64> = gone
            .filter(|boot| *boot != self.entry.boot && !list.has(*boot))
            .map(|boot| boot.0)
            .collect();
        if !gone.is_empty() {
            tokio::spawn(adopt::adopt(Arc::clone(&self.shared), gone));
        }
    }

    fn log_list(&self) {
        let list = self.place.list();
        let nodes: Vec<&str> = list.routers.iter().map(|router| router.node.as_str()).collect();
        tracing::info!(version = list.version, routers = ?nodes, "routers");
    }

    /// False: it is not in the list, another turn tries again.
    async fn join_again(&mut self) -> bool {
        let (registry, asked_at) = (&self.shared.registry, self.now());
        let incarnation = registry.incarnation();
        let above = self.place.list().version;
        match registry.join_router(self.entry.clone(), above).await {
            Ok(RouterJoin::Joined { version }) => {
                tracing::warn!(version, "this router is in the list again");
                self.place.joined(version, asked_at, incarnation);
                self.renew_at = asked_at + LEASE / RENEWALS_PER_LEASE;
                true
            }
            Ok(RouterJoin::Taken { by, .. }) => {
                let node = by.node.as_str().to_owned();
                let problem = JoinError::Taken {
                    node,
                    address: by.address,
                };
                tracing::error!(%problem, "nothing is stored here");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "this router is not in the list of routers");
                false
            }
        }
    }

    /// Leaves the list, if it is in order with lanes that are drained.
    async fn leave(self, in_order: bool) {
        let registry = &self.shared.registry;
        let has_others = self.place.has_others();
        if in_order && has_others && self.place.is_listed() {
            let drained = tokio::time::timeout(DRAIN_GRACE, self.drain()).await;
            if drained.is_err() {
                tracing::warn!("not all lanes were drained in {DRAIN_GRACE:?}: others publish what is left");
            }
        }
        if let Err(error) = registry.leave_router(self.entry.boot).await {
            tracing::warn!(%error, "this router could not leave the list; it will be taken out");
            return;
        }
        if !has_others {
            return;
        }
        match registry.routers().await {
            Ok(list) => {
                self.shared.cluster.set_list(Arc::new(list));
                self.shared.hub.broadcast(&self.shared.cluster.list_record());
            }
            Err(error) => tracing::debug!(%error, "gateways learn from the other routers who is left"),
        }
    }

    /// Gives up all lanes, and waits until they are drained and gateways have consumed what was published: the others
    /// publish again what this router leaves in its outbox.
    async fn drain(&self) {
        self.give_up_lanes().await;
        while self.shared.cluster.rows_held() > 0 || !self.shared.store.is_cleared() {
            tokio::select! {
                () = tokio::time::sleep(CONSUMED_PACE) => {}
                // Something arrived: it is refused at once.
                () = self.shared.cluster.is_asked() => self.give_up_lanes().await,
            }
        }
    }

    async fn give_up_lanes(&self) {
        loop {
            let none = LaneList {
                version: LEAVING,
                roles: Vec::new(),
                until: Duration::MAX,
                lapsed: false,
            };
            self.shared.input(Input::Lanes(none)).await;
            tokio::select! {
                () = self.shared.cluster.has_drained(LEAVING) => return,
                // Something arrived: it is refused by the next list.
                () = self.shared.cluster.is_asked() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use corelane_protocol::id::{BootId, NodeId};

    use super::*;
    use crate::bench::{self, BOOT};

    fn entry(node: &str, boot: u64, cluster: u64) -> RouterEntry {
        RouterEntry {
            node: NodeId::new(node).unwrap(),
            boot: BootId(boot),
            address: format!("{node}:7090"),
            http: String::new(),
            cluster,
        }
    }

    async fn joined(others: u64, own: u64) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let (shared, _events) = bench::shared(dir.path());
        let other = entry("one", BOOT + 1, others);
        shared.registry.join_router(other, 0).await.unwrap();
        let tried = attempt(&shared, &entry("two", BOOT, own), None).await;
        let is_listed = shared.registry.routers().await.unwrap().has(BootId(BOOT));
        assert_eq!(is_listed, tried.is_ok());
        tried.map(|_| ()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_router_with_another_store_is_refused_before_it_is_in_the_list() {
        let text = joined(0xabc, 0xdef).await.unwrap_err();
        for part in ["0000000000000abc", "0000000000000def", "\"one\"", "one:7090"] {
            assert!(text.contains(part), "{text}");
        }
        for remedy in [
            "store.pd",
            "store.cluster = \"0000000000000abc\"",
            "registry.prefix",
        ] {
            assert!(text.contains(remedy), "{text}");
        }
        assert_eq!(joined(0xabc, 0xabc).await, Ok(()));
        assert_eq!(joined(0, 0xabc).await, Ok(()), "an older router says nothing");
    }
}
