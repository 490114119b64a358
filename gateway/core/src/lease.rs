//! lease: what keeps this gateway's boot known to the registry, and what a shard does when it was not kept.
//!
//! A lease belongs to the boot of the process; every shard renews it on its own link, [`RENEWALS_PER_LEASE`] times in
//! the time of one. As far as a shard knows, the lease stands for `lease` from the moment when the last renewal that
//! was answered left. Past that (the process was paused, or the router says nothing) the registry may have given the
//! routes away and the router may have forgotten its gates. Then nothing of a client is forwarded before a renewal was
//! answered: frames wait in `waiting.rs`, with its bounds, and whatever refusals came before the answer have closed
//! their gates by then. What the bus brings is delivered all the same: it was meant for these connections, and whoever
//! lost his route is told when it is claimed again.
//!
//! When the boot's topic is gone (on a bus that stands apart), or lost records, the boot is of no use: the router is told
//! that this gateway leaves it, with every renewal until it says that the boot is dead. Nothing of a client is forwarded
//! any more, because with the boot the router forgets the gates. A boot that was only replaced here would stand in the
//! way of its own sessions: their claims under the next one would be refused.
//!
//! When the boot was declared dead the shell is asked for a new one, once. Nothing is connected until it is there.
//! With it everything that belonged to the old boot is forgotten (offsets, numbers, the link) and all sessions claim
//! again; connections, their ids and their windows stay.

use std::time::Duration;

use corelane_protocol::frame;
use corelane_protocol::limits::RENEWALS_PER_LEASE;
use corelane_protocol::link::body::{ArchivedRenewed, Renew};
use corelane_protocol::link::record::{Record, RecordKind};

use crate::event::Output;
use crate::planted::Bug;
use crate::shard::Shard;

/// What a shard knows of its gateway's lease.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// It stands until then.
    until: Duration,
    /// When it is renewed next, on the present link.
    renew_at: Duration,
    /// The boot was declared dead, and no other one is there yet.
    is_lost: bool,
    /// The boot has no topic any more, and is to be declared dead.
    is_given_up: bool,
}

impl Lease {
    pub(crate) const fn renew_at(&self) -> Duration {
        self.renew_at
    }

    /// Whether the registry surely knows this boot.
    pub(crate) fn stands(&self, now: Duration) -> bool {
        now < self.until && !self.is_lost && !self.is_given_up
    }

    pub(crate) const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// A link is up whose proof left after `since`: the router took the gateway in, or will say that it did not.
    pub(crate) fn begin(&mut self, since: Duration, lease: Duration, now: Duration) {
        self.until = self.until.max(since + lease);
        self.renew_at = now;
    }

    /// Notes that the boot was declared dead, which was found out in the middle of other records.
    pub(crate) const fn lose(&mut self) {
        self.is_lost = true;
    }
}

impl Shard {
    /// Renews the lease. The record's reference is when it left, so that the answer says how long the lease stands.
    pub(crate) fn renew(&mut self) {
        let now = self.now.mono;
        self.link.lease.renew_at = now + self.config.lease / RENEWALS_PER_LEASE;
        let renew = Renew {
            sessions: self.conns.sessions() as u64,
        };
        let body = frame::archive(&renew);
        self.link.push(&Record {
            kind: RecordKind::Renew as u8,
            reference: now.as_millis() as u32,
            body: &body,
            ..Record::default()
        });
        self.metrics.lease_renewals += 1;
        if self.link.lease.is_given_up {
            self.link.push(&Record {
                kind: RecordKind::Leave as u8,
                ..Record::default()
            });
        }
    }

    /// The topic of a boot is gone.
    pub(crate) fn topic_lost(&mut self, boot: u64) {
        if boot == self.config.boot && !self.link.lease.is_given_up {
            self.metrics.lease_topics_lost += 1;
            self.link.lease.is_given_up = true;
            self.link.lease.renew_at = self.now.mono;
        }
    }

    /// A router answered a renewal, or says unasked that the boot is dead.
    pub(crate) fn renewed(&mut self, reference: u32, renewed: &ArchivedRenewed) {
        if !renewed.alive {
            return self.link.lease.lose();
        }
        let now = self.now.mono;
        let ago_ms = (now.as_millis() as u32).wrapping_sub(reference);
        let left_at = now.saturating_sub(Duration::from_millis(u64::from(ago_ms)));
        let lease = &mut self.link.lease;
        lease.until = lease.until.max(left_at + self.config.lease);
    }

    /// The boot is dead: leaves the link and asks for another boot.
    pub(crate) fn boot_lost(&mut self) {
        if Bug::DeadBootKept.is_planted() {
            self.link.lease.is_lost = false;
            return self.claim_all(true);
        }
        // When all sessions are over anyway, another shard has said good-bye for the whole gateway.
        if self.drain.has_ended_sessions(self.now.mono, self.config.drain) {
            self.link.lease.is_lost = false;
            return;
        }
        self.outputs.push(Output::BootLost(self.config.boot));
        self.leave_link();
    }

    /// The gateway goes on under another boot.
    pub(crate) fn new_boot(&mut self, boot: u64) {
        if boot == self.config.boot {
            return;
        }
        self.config.boot = boot;
        self.metrics.lease_new_boots += 1;
        self.link.lease = Lease::default();
        self.consumer.forget();
        self.claim_all(true);
        self.leave_link();
    }
}
