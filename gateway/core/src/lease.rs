//! lease: what keeps this gateway's boot known to the registry, and what a shard does when it was not kept.
//!
//! A lease belongs to the boot of the process; every shard renews it on all its links, [`RENEWALS_PER_LEASE`] times in
//! the time of one, so that one router that stands still does not cost it: routers share the registry, and whichever
//! answers has renewed it there. As far as a shard knows, the lease stands for `lease` from the moment when the last
//! renewal that was answered left. A new link proves nothing of it, since its router may not have reached the registry;
//! so the first renewal leaves as soon as the link is up. Past that time (the process was paused, or no router says
//! anything) the registry may have given the routes away and the routers may have forgotten their gates. Then nothing of a client is forwarded before a
//! renewal was answered: frames wait in `waiting.rs`, with its bounds, and whatever refusals came before the answer have
//! closed their gates by then. What the bus brings is delivered all the same: it was meant for these connections, and
//! whoever lost his route is told when it is claimed again.
//!
//! When the boot's topic is gone (on a bus that stands apart), or lost records, the boot is of no use: every router is
//! told that this gateway leaves it, with every renewal until one says that the boot is dead. Nothing of a client is forwarded
//! any more, because with the boot the router forgets the gates. A boot that was only replaced here would stand in the
//! way of its own sessions: their claims under the next one would be refused.
//!
//! When the boot was declared dead the shell is asked for a new one, once. Nothing is connected until it is there.
//! With it everything that belonged to the old boot is forgotten (offsets, numbers, the links) and all sessions claim
//! again; connections, their ids and their windows stay.

use std::time::Duration;

use corelane_protocol::frame;
use corelane_protocol::limits::RENEWALS_PER_LEASE;
use corelane_protocol::link::body::{ArchivedRenewed, Renew};
use corelane_protocol::link::record::{Record, RecordKind};

use crate::event::Output;
use crate::links::LinkIndex;
use crate::planted::Bug;
use crate::shard::Shard;

/// What a shard knows of its gateway's lease.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// It stands until then.
    until: Duration,
    /// The boot was declared dead, and no other one is there yet.
    is_lost: bool,
    /// The boot has no topic any more, and is to be declared dead.
    is_given_up: bool,
}

impl Lease {
    /// Whether the registry surely knows this boot.
    pub(crate) fn stands(&self, now: Duration) -> bool {
        now < self.until && !self.is_lost && !self.is_given_up
    }

    pub(crate) const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Notes that the boot was declared dead, which was found out in the middle of other records.
    pub(crate) const fn lose(&mut self) {
        self.is_lost = true;
    }
}

impl Shard {
    /// Renews the lease on one link. The record's reference is when it left, so that the answer says how long the lease
    /// stands.
    pub(crate) fn renew(&mut self, at: LinkIndex) {
        let now = self.now.mono;
        let is_given_up = self.links.lease.is_given_up;
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        link.asked(now, now + self.config.lease / RENEWALS_PER_LEASE);
        let renew = Renew {
            sessions: self.conns.sessions() as u64,
        };
        let body = frame::archive(&renew);
        link.push(&Record {
            kind: RecordKind::Renew as u8,
            reference: now.as_millis() as u32,
            body: &body,
            ..Record::default()
        });
        if is_given_up {
            link.push(&Record {
                kind: RecordKind::Leave as u8,
                ..Record::default()
            });
        }
        self.metrics.lease_renewals += 1;
    }

    /// The topic of a boot is gone.
    pub(crate) fn topic_lost(&mut self, boot: u64) {
        if boot != self.config.boot || self.links.lease.is_given_up {
            return;
        }
        self.metrics.lease_topics_lost += 1;
        self.links.lease.is_given_up = true;
        for at in self.links.indexes() {
            if let Some(link) = self.links.get_mut(at) {
                link.renew_at = self.now.mono;
            }
        }
    }

    /// A router answered a renewal, or says unasked that the boot is dead.
    pub(crate) fn renewed(&mut self, reference: u32, renewed: &ArchivedRenewed) {
        if !renewed.alive {
            return self.links.lease.lose();
        }
        let now = self.now.mono;
        let ago_ms = (now.as_millis() as u32).wrapping_sub(reference);
        let left_at = now.saturating_sub(Duration::from_millis(u64::from(ago_ms)));
        let lease = &mut self.links.lease;
        lease.until = lease.until.max(left_at + self.config.lease);
    }

    /// The boot is dead: leaves all links and asks for another boot.
    pub(crate) fn boot_lost(&mut self) {
        if Bug::DeadBootKept.is_planted() {
            self.links.lease.is_lost = false;
            return self.claim_all(true);
        }
        // When all sessions are over anyway, another shard has said good-bye for the whole gateway.
        if self.drain.has_ended_sessions(self.now.mono, self.config.drain) {
            self.links.lease.is_lost = false;
            return;
        }
        self.outputs.push(Output::BootLost(self.config.boot));
        self.leave_links();
    }

    /// The gateway goes on under another boot.
    pub(crate) fn new_boot(&mut self, boot: u64) {
        if boot == self.config.boot {
            return;
        }
        self.config.boot = boot;
        self.metrics.lease_new_boots += 1;
        self.links.lease = Lease::default();
        if !Bug::NumbersOutliveBoot.is_planted() {
            self.consumer.forget();
        }
        self.claim_all(true);
        self.leave_links();
    }
}
