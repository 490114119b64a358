//! What goes wrong, and when.

use corelane_protocol::id::UserId;

use crate::lease::REAP_GRACE_US;
use crate::pause::Standing;
use crate::registry::Memory;
use crate::world::{Event, World};

/// Longest time that the registry is away.
const AWAY_US_MAX: u64 = 1_200_000;
/// The registry forgets at most what it was told in this time, if it does not forget everything.
const SNAPSHOT_US: u64 = 300_000;

impl World {
    pub(crate) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let wait = self.rng.between(50_000, 400_000);
        self.after(wait, Event::Fault);
        if self.shape.is_cluster() {
            return self.fault_of_several();
        }
        match self.rng.below(10) {
            0..4 => self.cut_some_link(),
            4..7 => self.change_some_member(),
            7 if self.faults.router => self.crash_router(0),
            8.. if self.faults.pauses => self.pause_some_gateway(),
            _ => {}
        }
    }

    fn fault_of_several(&mut self) {
        match self.rng.below(30) {
            0..4 => self.cut_some_link(),
            4..7 => self.change_some_member(),
            7..9 if self.faults.router => {
                let router = self.rng.below(self.routers.len() as u64) as usize;
                self.crash_router(router);
            }
            9..12 if self.faults.pauses => self.pause_some_gateway(),
            12..14 if self.faults.router_pauses => {
                let running = self.running();
                if let Some(router) = self.rng.pick(&running).copied() {
                    self.stand_still(Standing::Router(router));
                }
            }
            14..19 if self.faults.moves => self.move_some_router(),
            19..22 if self.faults.gateway_dies => self.gateway_dies(),
            22 if self.faults.registry_away => self.registry_leaves(),
            23 if self.faults.registry_forgets => self.registry_forgets(),
            24 if self.faults.topics => self.delete_topic(),
            25..27 if self.faults.topics => self.stall_partition(),
            27..29 if self.faults.bus_loses => self.cut_partition(),
            _ => {}
        }
    }

    fn cut_some_link(&mut self) {
        if self.faults.links && !self.links.is_empty() {
            let link = self.rng.below(self.links.len() as u64) as usize;
            self.cut(link);
        }
    }

    fn change_some_member(&mut self) {
        let floater: Vec<UserId> = self.users.first().cloned().into_iter().collect();
        if self.store.members(&self.group, u64::MAX).1.len() == self.users.len() {
            self.change_group(Vec::new(), floater, false);
        } else {
            self.change_group(floater, Vec::new(), false);
        }
    }

    fn pause_some_gateway(&mut self) {
        let process = self.rng.below(self.processes.len() as u64) as usize;
        if !self.processes[process].is_down {
            self.stand_still(Standing::Gateway(process));
        }
    }

    /// A router that is out comes, or one leaves in order.
    fn move_some_router(&mut self) {
        let is_out = |at: &usize| self.routers[*at].core.is_none() && !self.routers[*at].returns;
        match (0..self.routers.len()).find(is_out) {
            Some(router) => self.restart_router(router, 0),
            None => self.begin_leaving(),
        }
    }

    fn registry_leaves(&mut self) {
        self.counts.registry_aways += 1;
        let until = self.now + self.rng.between(50_000, AWAY_US_MAX);
        self.registry.go_away(until, REAP_GRACE_US);
    }

    /// It comes back without its end, or empty.
    fn registry_forgets(&mut self) {
        self.counts.registry_losses += 1;
        let earlier = if self.rng.chance(500) {
            Memory::default()
        } else {
            self.snapshot.clone()
        };
        let until = self.now + self.rng.between(1_000, 200_000);
        self.registry.go_away(until, REAP_GRACE_US);
        self.registry.forget(earlier);
    }

    pub(crate) fn take_snapshot(&mut self) {
        self.snapshot = self.registry.memory.clone();
        if self.faults.registry_forgets && !self.calm {
            self.after(SNAPSHOT_US, Event::Snapshot);
        }
    }
}
