//! Processes of gateways that stand still and go on, and boots whose lease ran out meanwhile.
//!
//! What would happen to a shard whose process stands still is held, in order, and happens in one turn when the process
//! goes on; what its sockets had sent is on its way all the same.

use corelane_protocol::frame;
use corelane_protocol::link::body::Renewed;
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::event::Input;

use crate::world::{CALM_AT, Event, World};

/// Lease of a gateway, in microseconds.
pub(crate) const LEASE_US: u64 = 1_000_000;
/// How often leases are looked at.
const REAP_US: u64 = 100_000;
/// Longest pause.
const PAUSE_US_MAX: u64 = 3_000_000;
/// From here on every process has gone on and renewed its lease.
const LAPSES_END_AT: u64 = CALM_AT + PAUSE_US_MAX + LEASE_US;

/// A gateway process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) boot: u64,
    stands_still: bool,
    held: Vec<Event>,
}

impl Process {
    pub(crate) fn new(boot: u64) -> Self {
        Self {
            boot,
            stands_still: false,
            held: Vec::new(),
        }
    }
}

impl World {
    pub(crate) fn boot_of(&self, shard: usize) -> u64 {
        self.processes[self.gateways[shard].process].boot
    }

    /// The shard that an event happens to.
    fn shard_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Wake(shard)
            | Event::Inbox(shard, _)
            | Event::LinkUp(shard, _)
            | Event::LinkSent(shard, _)
            | Event::LinkLost(shard, _)
            | Event::NewBoot(shard, _) => Some(*shard),
            Event::Accepted(socket)
            | Event::Bytes(socket, _)
            | Event::Fin(socket)
            | Event::Left(socket, _)
            | Event::SocketGone(socket) => Some(self.sockets[*socket].shard),
            Event::LinkOut(link, _) => Some(self.links[*link].shard),
            _ => None,
        }
    }

    /// Holds an event whose shard stands still; gives back any other.
    pub(crate) fn hold(&mut self, event: Event) -> Option<Event> {
        let process = self.shard_of(&event).map(|shard| self.gateways[shard].process);
        let Some(process) = process.filter(|process| self.processes[*process].stands_still) else {
            return Some(event);
        };
        self.processes[process].held.push(event);
        None
    }

    pub(crate) fn stand_still(&mut self) {
        let process = self.rng.below(self.processes.len() as u64) as usize;
        if std::mem::replace(&mut self.processes[process].stands_still, true) {
            return;
        }
        let time = self.rng.between(100_000, PAUSE_US_MAX);
        self.after(time, Event::GoOn(process));
    }

    pub(crate) fn go_on(&mut self, process: usize) {
        self.processes[process].stands_still = false;
        let held = std::mem::take(&mut self.processes[process].held);
        // Sockets and inboxes are looked at before deadlines.
        let (wakes, others): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|event| matches!(event, Event::Wake(_)));
        for event in others.into_iter().chain(wakes) {
            self.happen(event);
        }
    }

    /// A shard was told that its boot is dead: the process takes one new boot, however many shards say so.
    pub(crate) fn boot_lost(&mut self, shard: usize, boot: u64) {
        let process = self.gateways[shard].process;
        if self.processes[process].boot != boot {
            return;
        }
        self.last_boot += 1;
        self.processes[process].boot = self.last_boot;
        for shard in 0..self.gateways.len() {
            if self.gateways[shard].process == process {
                let wait = self.rng.between(10, 20_000);
                self.after(wait, Event::NewBoot(shard, self.last_boot));
            }
        }
    }

    /// The router looks at the leases.
    pub(crate) fn reap(&mut self, life: u32) {
        if life != self.life || self.core.is_none() {
            return;
        }
        self.after(REAP_US, Event::Reap(life));
        for boot in self.registry.reap(self.now) {
            self.counts.lapses += 1;
            if self.now > LAPSES_END_AT {
                self.violation(format!(
                    "the lease of {boot} ran out although nothing stood still"
                ));
            }
            self.topics.retain(|(owner, _), _| *owner != boot);
            self.core_input(life, Input::GatewayGone(boot));
            let body = frame::archive(&Renewed { alive: false });
            for link in 0..self.links.len() {
                if self.links[link].boot() == Some(boot) {
                    self.push(link, RecordKind::Renewed, 0, 0, 0, &body);
                }
            }
        }
    }
}
