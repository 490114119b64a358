//! One running store: its data, its faults, and how a request passes through both.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tonic::Status;

use crate::fault::{Action, Faults, Rule};
use crate::gate::Gate;
use crate::log::LogError;
use crate::proto::errorpb::{Error, ServerIsBusy};
use crate::record::Region;
use crate::region::{key_not_in_region, not_leader, region_not_found};
use crate::store::Store;
use crate::txn::Command;

/// See the module.
pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    /// Shut while the store is frozen.
    pub(crate) gate: Gate,
    /// Shut while the served PD is frozen.
    pub(crate) pd_gate: Gate,
    /// Whether everything has been started.
    pub(crate) ready: AtomicBool,
}

impl Node {
    /// A store without faults.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            faults: Faults::default(),
            gate: Gate::default(),
            pd_gate: Gate::default(),
            ready: AtomicBool::new(false),
        }
    }

    /// Answers a request; `None` is silence. Runs to its end whether the client waits or not.
    pub(crate) async fn answer<C: Command>(self: Arc<Self>, command: C) -> Result<Option<C::Answer>, Status> {
        self.gate.pass().await;
        let answer = match self.faults.meet(C::KIND) {
            Some(rule) => self.faulty(rule, command).await,
            None => self.execute(&command).await.map(Some),
        };
        self.gate.pass().await;
        answer
    }

    async fn execute<C: Command>(&self, command: &C) -> Result<C::Answer, Status> {
        self.store.execute(command).await.map_err(failed)
    }

    async fn faulty<C: Command>(
        self: &Arc<Self>,
        rule: Rule,
        command: C,
    ) -> Result<Option<C::Answer>, Status> {
        let broken = || Status::unavailable("broken on command");
        match rule.action {
            Action::Busy
            | Action::EpochNotMatch
            | Action::NotLeader
            | Action::RegionNotFound
            | Action::KeyNotInRegion => Ok(Some(C::refuse(self.region_error(rule.action, &command)))),
            Action::Refuse => Err(broken()),
            Action::Late => {
                tokio::time::sleep(rule.time()).await;
                self.execute(&command).await.map(Some)
            }
            Action::Drop => self.execute(&command).await.map(|_| None),
            Action::Break => self.execute(&command).await.and_then(|_| Err(broken())),
            Action::Delay => {
                let answer = self.execute(&command).await?;
                tokio::time::sleep(rule.time()).await;
                Ok(Some(answer))
            }
            Action::Repeat => {
                let answer = self.execute(&command).await?;
                let node = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(rule.time()).await;
                    node.execute(&command).await.is_ok()
                });
                Ok(Some(answer))
            }
        }
    }

    /// The error of an action, for the region that the request names.
    fn region_error<C: Command>(&self, action: Action, command: &C) -> Error {
        let id = command.context().map_or(0, |context| context.region_id);
        let regions = self.store.regions();
        let Some(region) = regions.by_id(id).cloned() else {
            return region_not_found(id);
        };
        let key = command.keys().next().unwrap_or_default();
        match action {
            Action::EpochNotMatch => regions.epoch_not_match(&region),
            Action::NotLeader => not_leader(id),
            Action::KeyNotInRegion => key_not_in_region(key, &region),
            Action::Busy => busy(),
            _ => region_not_found(id),
        }
    }

    /// An id that no region, peer or store here has.
    pub(crate) fn unused_id(&self) -> u64 {
        let of_region = |region: &Region| region.id.max(region.peer_id);
        let regions = self.store.regions();
        let of_store = self.store.identity().map_or(0, |identity| identity.store_id);
        regions
            .all()
            .iter()
            .map(of_region)
            .max()
            .unwrap_or(0)
            .max(of_store)
            + 1
    }

    /// Drops what no snapshot at or above the safe point sees, letting requests pass in between.
    pub(crate) async fn collect_garbage(&self) {
        let mut from = Some(Vec::new());
        while let Some(at) = from {
            from = self.store.collect_garbage(&at);
            tokio::task::yield_now().await;
        }
    }
}

/// A store whose log has failed answers nothing else any more.
pub(crate) fn failed(error: LogError) -> Status {
    Status::unavailable(error.to_string())
}

fn busy() -> Error {
    let reason = "busy on command".to_owned();
    Error {
        message: "server is busy".to_owned(),
        server_is_busy: Some(ServerIsBusy {
            reason,
            ..ServerIsBusy::default()
        }),
        ..Error::default()
    }
}
