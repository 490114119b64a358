//! Stage persist of a router: a batch is on its way to the store, is written there, and what became of it comes back, or
//! is looked for later because nobody knows.
//!
//! The store that several routers share is written to through a client that may not be believed: its answer may be lost, a
//! commit of a router that died may still be made, and an Ok may stand for a part of what was written (`mend.rs`).

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{ConvId, Lane};
use corelane_router_core::append::{Batch, Committed};

use crate::planted::Bug;
use crate::router::boot_of;
use crate::store::{APP, Txn};
use crate::world::{Event, World};

/// A transaction that was begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) batch: Batch,
    /// The store's time.
    at_ms: u64,
    /// Where its conversations ended.
    heads: Vec<u64>,
}

impl Begun {
    fn convs(&self) -> BTreeSet<ConvId> {
        let appends = self.batch.appends.iter();
        appends.map(|append| append.conv.clone()).collect()
    }
}

impl World {
    pub(crate) fn persist(&mut self, life: u32, batch: Batch) {
        let delay = self.delay() * 2;
        let begun = Begun {
            at_ms: self.store_ms(),
            heads: self.store.heads(&batch),
            batch,
        };
        self.after(delay, Event::Apply(life, Box::new(begun)));
    }

    fn txn(&self, life: u32, begun_ms: u64) -> Txn {
        Txn {
            begun_ms,
            now: self.now,
            writer: boot_of(life),
        }
    }

    pub(crate) fn apply(&mut self, life: u32, begun: &Begun) {
        let Some(at) = self.router_of(life) else {
            return self.apply_late(life, begun);
        };
        let is_lost = self.faults.store && !self.calm && self.rng.chance(30);
        let seen = if is_lost {
            // The answer, or all of it.
            if self.rng.chance(500) {
                self.write(at, begun);
                self.doubt(at, begun);
            }
            None
        } else {
            self.write(at, begun)
        };
        if seen.is_none() {
            self.counts.unknown += 1;
            if !self.shape.is_cluster() {
                // The store of one is not used any more: the router starts anew on it.
                let wait = self.rng.between(20_000, 400_000);
                self.after(wait, Event::Crash(life));
            }
        }
        if let Some(Committed::Done { outbox, .. }) = &seen {
            self.routers[at].told_rows.insert(*outbox);
        }
        let committed = seen.unwrap_or_else(|| Committed::Unknown("nobody knows".to_owned()));
        let delay = self.delay();
        self.after(delay, Event::Committed(life, begun.batch.lane, committed));
    }

    /// Writes a batch and reads it back. `None`: the time was over before it was seen whole.
    fn write(&mut self, at: usize, begun: &Begun) -> Option<Committed> {
        let life = self.routers[at].life;
        let (batch, fresh) = (&begun.batch, self.txn(life, self.store_ms()));
        let mut txn = self.txn(life, begun.at_ms);
        for _ in 0..2 {
            if self.shape.is_cluster() {
                let before = self.store.last_commit();
                let row = self.store.mend_before(batch, fresh, &self.routers[at].doubts);
                self.found_stray(life, row);
                if self.store.last_commit() > before {
                    // What follows is another attempt, which began later.
                    txn = fresh;
                }
            }
            let done = self.store.commit(batch, txn);
            let may_tear = self.faults.torn && !self.calm && self.rng.chance(60);
            if !may_tear || !self.store.tear(&mut self.rng) {
                return Some(done);
            }
            self.counts.torn += 1;
            if Bug::OkBelieved.is_planted() {
                return Some(done);
            }
            self.doubt(at, begun);
            txn = fresh;
            if self.rng.chance(500) {
                break;
            }
        }
        None
    }

    /// The last transaction may have left these conversations in pieces.
    fn doubt(&mut self, at: usize, begun: &Begun) {
        let commit = self.store.last_commit();
        self.routers[at].doubts.insert(commit, begun.convs());
        if self.shape.is_cluster() {
            let (wait, life) = (self.rng.between(20_000, 400_000), self.routers[at].life);
            self.after(wait, Event::Settle(life));
        }
    }

    /// A row that no commit announced is published by its writer.
    fn found_stray(&mut self, life: u32, row: Option<u64>) {
        if let Some(row) = row {
            self.counts.mended += 1;
            let delay = self.delay();
            self.after(delay, Event::Stray(life, row));
        }
    }

    /// Finds out what became of the commits of a router that it did not see, and publishes what they stored.
    pub(crate) fn settle(&mut self, life: u32) {
        let Some(at) = self
            .router_of(life)
            .filter(|_| !Bug::UnknownForgotten.is_planted())
        else {
            return;
        };
        let convs = self.routers[at].doubts.values().flatten().cloned().collect();
        self.mend_by(at, convs);
        self.routers[at].doubts.clear();
        for row in self.store.rows_of(|writer| writer == boot_of(life)) {
            self.stray(life, row);
        }
    }

    /// A router makes conversations whole.
    pub(crate) fn mend_by(&mut self, at: usize, convs: BTreeSet<ConvId>) {
        let life = self.routers[at].life;
        let txn = self.txn(life, self.store_ms());
        let mut of_lanes: BTreeMap<Lane, Vec<ConvId>> = BTreeMap::new();
        for conv in convs {
            let lane = lane_of(APP, &conv, self.shape.lanes());
            of_lanes.entry(lane).or_default().push(conv);
        }
        for (lane, convs) in of_lanes {
            let row = self.store.mend(&convs, lane, txn, &self.routers[at].doubts);
            self.found_stray(life, row);
        }
    }

    /// A commit of a router that died. In the store of one it was not made; in one that is elsewhere it may be on its way,
    /// and counts if nobody wrote to its conversations since.
    fn apply_late(&mut self, life: u32, begun: &Begun) {
        let is_alone = !self.shape.is_cluster();
        // It would have made them whole first.
        let is_doubted = begun
            .convs()
            .iter()
            .any(|conv| self.dead_doubts.contains(&(life, conv.clone())));
        if is_alone || is_doubted || self.store.heads(&begun.batch) != begun.heads || self.rng.chance(500) {
            return;
        }
        self.counts.late_commits += 1;
        let txn = self.txn(life, begun.at_ms);
        self.store.commit(&begun.batch, txn);
        if self.faults.torn && self.rng.chance(300) && self.store.tear(&mut self.rng) {
            self.counts.torn += 1;
        }
    }
}
