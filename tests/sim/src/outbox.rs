//! Outbox rows: cleared when what they wait for is consumed, and published by others when nobody else does.

use corelane_protocol::id::BootId;
use corelane_router_core::event::Input;
use corelane_router_core::place::RouterSet;

use crate::router::{boot_of, recovered};
use crate::store::OutboxRow;
use crate::world::{Event, World};

/// What a router had on its way when it died has arrived after this time.
const LATE_US: u64 = 3_000_000;
/// Rows of the dead whom nobody saw go are looked for so often.
const SWEEP_US: u64 = 6_000_000;
/// A router that is in the list again publishes what it had for so long: lookups may be away until then.
const CATCHES_UP_US: u64 = 4_000_000;

impl World {
    pub(crate) fn clear(&mut self, at: usize, rows: &[u64]) {
        for row in rows {
            let waits = self.routers[at].rows_wait.remove(row).unwrap_or_default();
            if let Some((boot, partition, number)) = waits.first() {
                self.violation(format!(
                    "outbox row {row} is cleared before record {number} of partition {partition} was consumed by {boot}"
                ));
            }
            self.store.outbox.remove(row);
        }
    }

    /// Publishes what those left who were in the list before and are not any more, now, and once more when all has arrived
    /// that they had on its way.
    pub(crate) fn adopt_from(&mut self, at: usize, before: &RouterSet) {
        let life = self.routers[at].life;
        let own = BootId(boot_of(life));
        let list = self.known_list(at);
        let gone = before.routers.iter().map(|router| router.boot);
        let gone = gone.filter(|boot| *boot != own && !list.has(*boot));
        let dead: Vec<u64> = gone.map(|boot| boot.0).collect();
        for wait in [0, LATE_US] {
            let delay = self.delay();
            if !dead.is_empty() {
                self.after(wait + delay, Event::Adopt(life, dead.clone()));
            }
        }
    }

    /// A router publishes what the dead left whom nobody saw go, and does so now and then.
    pub(crate) fn sweep(&mut self, life: u32) {
        let Some(at) = self.router_of(life) else { return };
        self.after(SWEEP_US, Event::Sweep(life));
        self.adopt_from_all(at);
    }

    /// Publishes what all left who are not in the list, neither in the registry's nor in the known one.
    pub(crate) fn adopt_from_all(&mut self, at: usize) {
        if !self.asks(at) {
            return;
        }
        let life = self.routers[at].life;
        let (listed, known) = (self.registry.routers(self.now), self.known_list(at));
        let is_dead =
            |boot: &u64| *boot != boot_of(life) && !listed.has(BootId(*boot)) && !known.has(BootId(*boot));
        let dead: Vec<u64> = self.store.writers().into_iter().filter(is_dead).collect();
        if !dead.is_empty() {
            let delay = self.delay();
            self.after(delay, Event::Adopt(life, dead));
        }
    }

    /// A router publishes what these left, who are dead. It is told of a row once.
    pub(crate) fn adopt(&mut self, life: u32, dead: &[u64]) {
        let Some(at) = self.router_of(life) else { return };
        // Who is in the list again publishes his own.
        let list = self.known_list(at);
        let is_meant = |writer: u64| dead.contains(&writer) && !list.has(BootId(writer));
        for row in self.store.rows_of(is_meant) {
            // Its commit may be there in part.
            let convs = self.store.outbox.get(&row).map(OutboxRow::convs);
            self.mend_by(at, convs.unwrap_or_default());
            if self.publish_left(life, row) {
                self.counts.adopted += 1;
                self.store.note_adopted(row);
            }
        }
    }

    /// A router finds a row of its own that no commit announced.
    pub(crate) fn stray(&mut self, life: u32, row: u64) {
        if self.publish_left(life, row) {
            self.counts.strays += 1;
        }
    }

    /// Hands all of a row to the core, unless that holds it, or had it. False: nothing was handed over.
    fn publish_left(&mut self, life: u32, row: u64) -> bool {
        let Some(at) = self.router_of(life) else {
            return false;
        };
        let router = &mut self.routers[at];
        let is_held = router.core.as_ref().is_some_and(|core| core.holds(row));
        if is_held || !self.store.outbox.contains_key(&row) || !router.told_rows.insert(row) {
            return false;
        }
        if self.trace {
            eprintln!("          {} publishes row {row} that was left", boot_of(life));
        }
        router.left_rows.insert(row);
        let left = self.store.left_of(row);
        if left.is_empty() {
            // What it names is void, and for nobody.
            self.store.outbox.remove(&row);
        }
        for left in left {
            self.core_input(life, Input::Recovered(recovered(left)));
        }
        true
    }

    /// Whether what a router publishes of a row may have been published before, or come behind what followed it: somebody
    /// left it, somebody else publishes it, too, or others may serve the lane, because the list does not name this router,
    /// or did not a while ago. All that is fault or death; a router of the list that drains its lanes is not among it.
    pub(crate) fn is_belated(&self, at: usize, row: u64) -> bool {
        let router = &self.routers[at];
        let is_left = router.left_rows.contains(&row) || self.store.is_adopted(row);
        let is_listed = || self.registry.lists(BootId(boot_of(router.life)), self.now);
        is_left || (router.member.is_some() && (!is_listed() || self.now < router.catches_up_until))
    }

    /// A router is in the list again that others may have taken for dead.
    pub(crate) fn has_rejoined(&mut self, at: usize) {
        self.routers[at].catches_up_until = self.now + CATCHES_UP_US;
    }
}
