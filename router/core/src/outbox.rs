//! What was published and not reported consumed: numbers per gateway boot and partition, and the rows behind them.
//!
//! Owns the records until they are consumed, so that a gap can be sent again under the same number. A row is cleared
//! when its commit is published and every gateway that a record of it went to has reported the record, or is gone.
//! Bounded by the bus: past the bus's bound all that waits for a gateway is lost to it; its rows are released, its
//! sessions sync, and its numbers go on. A boot is waited for until somebody says that it is gone, however long that
//! takes: whoever drives the core has the registry expect each boot that is awaited here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use corelane_protocol::id::Lane;

use crate::core::RouterCore;
use crate::event::Output;
use crate::planted::Bug;

/// Rows and the numbers that hold them.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// How many records, and the publication itself, a row waits for.
    rows: HashMap<u64, u32>,
    streams: HashMap<(u64, u16), Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    last: u64,
    outstanding: BTreeMap<u64, (u64, Arc<[u8]>)>,
}

impl Outbox {
    /// A row waits for one thing more.
    pub(crate) fn hold(&mut self, row: u64) {
        *self.rows.entry(row).or_default() += 1;
    }

    /// One thing less; true if that was the last.
    pub(crate) fn release(&mut self, row: u64) -> bool {
        let Some(count) = self.rows.get_mut(&row) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.rows.remove(&row);
        row != 0
    }

    pub(crate) fn next_number(&mut self, boot: u64, partition: u16) -> u64 {
        let stream = self.streams.entry((boot, partition)).or_default();
        stream.last += if Bug::NumberSkipped.is_planted() { 2 } else { 1 };
        stream.last
    }

    pub(crate) fn sent(&mut self, boot: u64, partition: u16, number: u64, row: u64, record: Arc<[u8]>) {
        self.hold(if Bug::OutboxClearedOnPublish.is_planted() {
            0
        } else {
            row
        });
        self.streams
            .entry((boot, partition))
            .or_default()
            .outstanding
            .insert(number, (row, record));
    }
}

impl RouterCore {
    /// Whether something of this outbox row is still to be published, or to be reported consumed.
    pub fn holds(&self, row: u64) -> bool {
        self.outbox.rows.contains_key(&row)
    }

    /// Whether something of this outbox row is still to be published in its lane.
    pub fn is_publishing(&self, lane: Lane, row: u64) -> bool {
        let publications = self.lanes.get(&lane).map(|state| &state.publications);
        publications.is_some_and(|waiting| waiting.iter().any(|each| each.outbox == row))
    }

    /// Outbox rows of which something is still to be published, or to be reported consumed.
    pub fn rows_held(&self) -> usize {
        self.outbox.rows.len()
    }

    /// Gateway boots that something was published to and that are not gone: each has to renew its lease, or to be declared
    /// dead.
    pub fn boots_awaited(&self) -> BTreeSet<u64> {
        self.outbox.streams.keys().map(|(boot, _)| *boot).collect()
    }

    pub(crate) fn consumed(
        &mut self,
        boot: u64,
        partition: u16,
        number: u64,
        gaps: &[u64],
        outputs: &mut Vec<Output>,
    ) {
        let Some(stream) = self.outbox.streams.get_mut(&(boot, partition)) else {
            return;
        };
        let rest = stream.outstanding.split_off(&number.saturating_add(1));
        let taken = std::mem::replace(&mut stream.outstanding, rest);
        for gap in gaps.iter().filter(|_| !Bug::GapNotResent.is_planted()) {
            if let Some((_, record)) = stream.outstanding.get(gap) {
                self.metrics.republished += 1;
                outputs.push(Output::Publish {
                    boot,
                    partition,
                    number: *gap,
                    record: Arc::clone(record),
                    stamp: 0,
                });
            }
        }
        self.release_rows(taken.into_values().map(|(row, _)| row), outputs);
    }

    pub(crate) fn gateway_gone(&mut self, boot: u64, outputs: &mut Vec<Output>) {
        self.gates.forget_gateway(boot);
        if Bug::GoneGatewayAwaited.is_planted() {
            return;
        }
        let streams: Vec<(u64, u16)> = self
            .outbox
            .streams
            .keys()
            .filter(|(owner, _)| *owner == boot)
            .copied()
            .collect();
        for key in streams {
            if let Some(stream) = self.outbox.streams.remove(&key) {
                self.release_rows(stream.outstanding.into_values().map(|(row, _)| row), outputs);
            }
        }
    }

    pub(crate) fn topic_lost(&mut self, boot: u64, outputs: &mut Vec<Output>) {
        let mut rows = Vec::new();
        for ((owner, _), stream) in &mut self.outbox.streams {
            if *owner == boot {
                rows.extend(
                    std::mem::take(&mut stream.outstanding)
                        .into_values()
                        .map(|(row, _)| row),
                );
            }
        }
        self.release_rows(rows.into_iter(), outputs);
    }

    fn release_rows(&mut self, rows: impl Iterator<Item = u64>, outputs: &mut Vec<Output>) {
        let cleared: Vec<u64> = rows.filter(|row| self.outbox.release(*row)).collect();
        if !cleared.is_empty() {
            self.metrics.cleared += cleared.len() as u64;
            outputs.push(Output::ClearOutbox(cleared));
        }
    }
}
