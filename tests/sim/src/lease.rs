//! Leases of gateways, as routers keep them: signs of life, boots whose lease ran out, and boots that are given up.

use corelane_protocol::frame;
use corelane_protocol::link::body::Renewed;
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::RouterCore;
use corelane_router_core::event::Input;

use crate::pause::PAUSE_US_MAX;
use crate::planted::Bug;
use crate::process::REBIRTH_US_MAX;
use crate::world::{CALM_AT, Event, World};

/// Lease of a gateway, and of a router, in microseconds.
pub(crate) const LEASE_US: u64 = 1_000_000;
/// How often leases are looked at.
pub(crate) const REAP_US: u64 = 100_000;
/// A router that did not look for a while listens so long before it declares anybody dead.
pub(crate) const REAP_GRACE_US: u64 = 500_000;

impl World {
    /// From here on every process has gone on, or come back, and those that did not renew their lease are found.
    fn lapses_end_at(&self) -> u64 {
        if self.shape.is_cluster() {
            CALM_AT + PAUSE_US_MAX + 2 * LEASE_US + REAP_GRACE_US + REBIRTH_US_MAX
        } else {
            CALM_AT + PAUSE_US_MAX + LEASE_US
        }
    }

    /// A sign of life of the gateway of a link; `None` if the registry does not answer.
    pub(crate) fn renew(&mut self, link: usize, boot: u64) -> Option<bool> {
        let router = self.router_at(link)?;
        let until = self.now + LEASE_US;
        self.asks(router).then(|| self.registry.renew(boot, until))
    }

    pub(crate) fn say_alive(&mut self, link: usize, reference: u32, alive: bool) {
        let body = frame::archive(&Renewed { alive });
        self.push(link, RecordKind::Renewed, 0, 0, reference, &body);
    }

    /// A router looks at the leases.
    pub(crate) fn reap(&mut self, life: u32) {
        let Some(at) = self.router_of(life) else { return };
        self.after(REAP_US, Event::Reap(life));
        let (now, router) = (self.now, &mut self.routers[at]);
        if now - router.looked_at > 3 * REAP_US {
            router.reap_from = now + REAP_GRACE_US;
        }
        router.looked_at = now;
        if now < router.reap_from || !self.asks(at) {
            return;
        }
        let awaited = self.routers[at].core.as_ref().map(RouterCore::boots_awaited);
        if !Bug::ForgottenAwaited.is_planted() {
            self.registry
                .expect(awaited.into_iter().flatten(), now + LEASE_US);
        }
        for (boot, expected) in self.registry.reap(now) {
            self.counts.lapses += 1;
            // Who died as the registry forgot him has a lease only when somebody waits for him, however late that is.
            let lives = || self.processes.iter().any(|it| it.boot == boot && !it.is_down);
            if now > self.lapses_end_at() && (!expected || lives()) {
                self.violation(format!(
                    "the lease of {boot} ran out although nothing stood still"
                ));
            }
        }
        let dead = self.registry.dead_since(self.routers[at].reaped);
        self.routers[at].reaped += dead.len();
        for boot in dead {
            self.give_up(life, boot);
        }
    }

    /// Forgets a boot that left or is dead, and tells those of its shards that are linked.
    pub(crate) fn give_up(&mut self, life: u32, boot: u64) {
        let Some(at) = self.router_of(life) else { return };
        self.registry.bury(boot);
        if !self.shape.is_cluster() {
            self.topics.retain(|(owner, _), _| *owner != boot);
        }
        let router = &mut self.routers[at];
        router.gone.insert(boot);
        router.kicks.retain(|kick| kick.boot != boot);
        self.core_input(life, Input::GatewayGone(boot));
        for link in 0..self.links.len() {
            if self.links[link].life == life && self.links[link].boot() == Some(boot) {
                self.say_alive(link, 0, false);
            }
        }
    }

    /// A gateway gives its boot up. Who hears nothing says it again.
    pub(crate) fn gateway_left(&mut self, link: usize) {
        let (Some(router), Some(boot)) = (self.router_at(link), self.links[link].boot()) else {
            return;
        };
        if self.asks(router) {
            self.give_up(self.links[link].life, boot);
        }
    }
}
