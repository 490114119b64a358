//! consume: bus records of this gateway come in, are split by shard, and are reported as taken.
//!
//! Owns, per partition that this shard reads, the offset and the credit of the open fetch, and per (router boot,
//! partition) which numbers were taken, those of records that cannot be read included (then all sync). A record is
//! reported within [`REPORT_PACE`], or at once when more than [`UNREPORTED_BYTES_MAX`] are unreported, to the router boot
//! that numbered it; while there is no link to that, its numbers are kept, for [`BOOTS_MAX`] boots. The router sends
//! no more than the credit of a fetch ([`FETCH_BYTES`] per partition); what it could not keep it reports as lost, and
//! all sessions of the gateway sync.
//!
//! A bus that stands apart is read by the shell, with the same credit. Fetches then begin with the boot and have nothing
//! to do with links: offsets are the topic's, whichever routers write into it. What it lost no numbers mend: routers
//! may wait for records that nobody will ever report, so the boot is given up with its topic (`lease.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::bus::{self, ArchivedBusRecord, ArchivedReceivers, class};
use corelane_protocol::frame::{self, FrameKind};
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{ArchivedBusBatch, Bounce, BusFetch, Consumed};
use corelane_protocol::link::record::{Record, RecordKind};

use crate::deliver::kind_of;
use crate::event::{Output, ShardMessage};
use crate::links::LINKS_MAX;
use crate::numbers::{Numbers, Taken};
use crate::planted::Bug;
use crate::shard::Shard;

/// Credit of a fetch, in bytes. The next one is opened when it is used up: one that was opened earlier would make
/// the router send again what is on its way.
const FETCH_BYTES: u32 = 4 * 1024 * 1024;
/// A fetch that brought nothing for so long is opened again, in case the router gave it up.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Longest time that a record waits for its report.
const REPORT_PACE: Duration = Duration::from_millis(5);
/// How often gaps are reported again while they last.
const GAP_PACE: Duration = Duration::from_secs(1);
/// Bytes after which records are reported at once.
const UNREPORTED_BYTES_MAX: usize = 256 * 1024;
/// Boots of routers whose numbers are kept. When there are more, those of the first that is neither linked nor listed go.
const BOOTS_MAX: usize = 128;
/// Most connections in one bounce.
const BOUNCE_CONNS: usize = 4096;

const _: () = assert!(BOOTS_MAX > LINKS_MAX, "a boot that is linked is kept");

/// An encoded record, as it came: within a batch of the link, or by itself, so that other shards can share it.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Shared(&'a Arc<[u8]>),
}

impl<'a> Bytes<'a> {
    fn get(self) -> &'a [u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// For other shards. Copied only where it is part of what the link's buffer holds.
    fn to_shared(self) -> Arc<[u8]> {
        match self {
            Self::Borrowed(bytes) => Arc::from(bytes),
            Self::Shared(bytes) => Arc::clone(bytes),
        }
    }
}

/// What this shard reads.
#[derive(Debug, Default)]
pub(crate) struct Consumer {
    partitions: Vec<Partition>,
    numbers: HashMap<(u64, u16), Numbers>,
    /// The router boots of them, in the order of their first records.
    boots: Vec<u64>,
    /// Keys of what changed since the last report.
    changed: Vec<(u64, u16)>,
    unreported_bytes: usize,
    report_at: Option<Duration>,
    /// When fetches that brought nothing are looked for; never where the shell reads: it does not give up.
    quiet_at: Option<Duration>,
    /// Whether the shell was asked to read.
    is_read_apart: bool,
}

#[derive(Debug)]
struct Partition {
    number: u16,
    /// Offset of the next record wanted.
    next: u64,
    credit_bytes: u32,
    /// Whether it brought nothing since fetches were last looked at.
    is_quiet: bool,
    /// What waited was lost: the next number is not known.
    has_lost: bool,
}

impl Consumer {
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        [self.report_at, self.quiet_at].into_iter().flatten().min()
    }

    /// Takes a number of a partition; behind a loss the next one is where counting goes on.
    fn take(&mut self, key: (u64, u16), number: u64) -> Taken {
        let numbers = self.numbers.entry(key).or_default();
        let partition = self.partitions.iter_mut().find(|known| known.number == key.1);
        if let Some(partition) = partition.filter(|known| known.has_lost && number > numbers.done()) {
            partition.has_lost = false;
            if !Bug::LossWaitedFor.is_planted() {
                numbers.skip_to(number);
            }
        }
        numbers.take(number)
    }

    /// What waited in a partition is lost, gaps included: the router released it and cannot send it again.
    fn lose(&mut self, at: usize, due: Duration) {
        let Some(partition) = self.partitions.get_mut(at) else {
            return;
        };
        partition.has_lost = true;
        let number = partition.number;
        let keys: Vec<(u64, u16)> = self
            .numbers
            .keys()
            .filter(|key| key.1 == number)
            .copied()
            .collect();
        for key in keys {
            self.numbers.entry(key).or_default().give_up_gaps();
            self.note(key, 0, due);
        }
    }

    /// Offsets and numbers of another boot of this gateway mean nothing.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Offsets of another router's bus mean nothing.
    fn forget_offsets(&mut self) {
        self.partitions.clear();
    }

    fn forget_boot(&mut self, boot: u64) {
        self.numbers.retain(|key, _| key.0 != boot);
        self.changed.retain(|key| key.0 != boot);
    }

    /// A router boot is linked: reports that were on their way to it may have been lost, or could not be made. They say
    /// how far all was taken, so they can be made again.
    pub(crate) fn report_again(&mut self, boot: u64, now: Duration) {
        let mut keys: Vec<(u64, u16)> = self.numbers.keys().filter(|key| key.0 == boot).copied().collect();
        keys.sort_unstable();
        for key in keys {
            self.note(key, 0, now);
        }
    }

    fn note(&mut self, key: (u64, u16), bytes: usize, due: Duration) {
        if !self.changed.contains(&key) {
            self.changed.push(key);
        }
        self.unreported_bytes += bytes;
        self.report_at = Some(self.report_at.map_or(due, |at| at.min(due)));
    }
}

impl Shard {
    /// Whether the shell reads the bus.
    pub(crate) const fn bus_is_apart(&self) -> bool {
        self.config.bus_partitions > 0
    }

    /// Opens a fetch at the home for every partition that is this shard's, unless the shell reads the bus. Another router
    /// boot begins its offsets anew.
    pub(crate) fn fetch_all(&mut self, is_other_boot: bool) {
        if self.bus_is_apart() {
            return;
        }
        if is_other_boot && !Bug::OffsetsKept.is_planted() {
            self.consumer.forget_offsets();
        }
        self.open_partitions(self.links.partitions());
        self.consumer.quiet_at = (!self.consumer.partitions.is_empty()).then_some(self.now.mono + QUIET_MAX);
    }

    /// Opens a fetch for every partition that is this shard's.
    fn open_partitions(&mut self, count: u16) {
        let shards = self.config.shards.max(1);
        for partition in (0..count).filter(|partition| partition % shards == self.number) {
            if !self
                .consumer
                .partitions
                .iter()
                .any(|known| known.number == partition)
            {
                self.consumer.partitions.push(Partition {
                    number: partition,
                    next: 0,
                    credit_bytes: 0,
                    is_quiet: false,
                    has_lost: false,
                });
            }
        }
        for at in 0..self.consumer.partitions.len() {
            self.fetch(at);
        }
    }

    fn fetch(&mut self, at: usize) {
        let Some(partition) = self.consumer.partitions.get_mut(at) else {
            return;
        };
        partition.credit_bytes = FETCH_BYTES;
        if self.config.bus_partitions > 0 {
            let fetch = Output::Fetch {
                boot: self.config.boot,
                partition: partition.number,
                from: partition.next,
                credit_bytes: FETCH_BYTES,
            };
            return self.outputs.push(fetch);
        }
        let fetch = BusFetch {
            boot: self.config.boot,
            partition: partition.number,
            from: partition.next,
            credit_bytes: FETCH_BYTES,
        };
        let body = frame::archive(&fetch);
        self.links.push_home(&Record {
            kind: RecordKind::BusFetch as u8,
            body: &body,
            ..Record::default()
        });
    }

    /// Records of one partition, from the router.
    pub(crate) fn take_batch(&mut self, batch: &ArchivedBusBatch) {
        let records = batch.records.iter().map(|record| Bytes::Borrowed(record));
        let (partition, from) = (batch.partition.to_native(), batch.from.to_native());
        self.take_records(partition, from, batch.lost, records);
    }

    /// Records of one partition, from the shell.
    pub(crate) fn take_fetched(
        &mut self,
        boot: u64,
        partition: u16,
        from: u64,
        lost: bool,
        records: &[Arc<[u8]>],
    ) {
        // What was read for an earlier boot means nothing.
        if boot == self.config.boot {
            self.take_records(partition, from, lost, records.iter().map(Bytes::Shared));
        }
    }

    fn take_records<'a>(
        &mut self,
        partition: u16,
        from: u64,
        lost: bool,
        records: impl Iterator<Item = Bytes<'a>>,
    ) {
        let Some(at) = self
            .consumer
            .partitions
            .iter()
            .position(|known| known.number == partition)
        else {
            return;
        };
        if lost && !Bug::LossIgnored.is_planted() {
            self.lose_records(at);
        }
        let mut next = self.consumer.partitions.get(at).map_or(0, |known| known.next);
        if from > next {
            next = from;
        }
        let mut used = 0_usize;
        for (offset, record) in (from..).zip(records) {
            used += record.get().len();
            // A fetch that was opened again may bring what was on its way already.
            if offset >= next {
                next = offset + 1;
                self.take_bus_record(record, partition);
            }
        }
        if let Some(known) = self.consumer.partitions.get_mut(at) {
            known.next = next;
            known.is_quiet = false;
            known.credit_bytes = known.credit_bytes.saturating_sub(used as u32);
            if known.credit_bytes == 0 {
                self.fetch(at);
            }
        }
    }

    fn lose_records(&mut self, at: usize) {
        if self.bus_is_apart() {
            return self.topic_lost(self.config.boot);
        }
        self.resync_gateway();
        self.consumer.lose(at, self.now.mono + REPORT_PACE);
    }

    fn take_bus_record(&mut self, record: Bytes<'_>, partition: u16) {
        let (bytes, whole) = (record.get(), record);
        self.metrics.consume_records += 1;
        let header = bus::BusHeader::split(bytes).map(|(header, _)| header);
        if let Ok(header) = header
            && header.number != 0
        {
            let router_boot = if Bug::RoutersNotToldApart.is_planted() {
                0
            } else {
                header.router_boot
            };
            let key = (router_boot, partition);
            self.know_boot(header.router_boot);
            let taken = self.consumer.take(key, header.number);
            self.consumer.note(key, bytes.len(), self.now.mono + REPORT_PACE);
            match taken {
                Taken::Repeated if Bug::NumberNotChecked.is_planted() => {}
                Taken::Repeated => {
                    self.metrics.consume_repeated += 1;
                    return;
                }
                Taken::New { gap } => self.metrics.consume_gaps += gap,
                Taken::Lost => self.resync_gateway(),
            }
        }
        let Ok((header, record)) = bus::read(bytes) else {
            // It is counted all the same, or its router would send it for ever; nobody knows whom it was for.
            self.metrics.consume_malformed += 1;
            return self.resync_gateway();
        };
        let is_message = |frame: &[u8]| kind_of(frame) == FrameKind::Message as u16;
        let messages = record
            .frames
            .iter()
            .filter(|frame| is_message(&frame.frame))
            .count();
        self.metrics.consume_messages += messages as u64;
        let expires_ms = record.expires_ms.to_native();
        if expires_ms != 0 && expires_ms < self.now.wall_ms {
            return;
        }
        self.hand_over(record, whole);
        self.deliver_and_bounce(header.router_boot, record);
    }

    /// Makes sure that the numbers of a router boot can be kept.
    fn know_boot(&mut self, boot: u64) {
        let boots = &mut self.consumer.boots;
        if let Some(at) = boots.iter().rposition(|known| *known == boot) {
            // The one heard of last stands last: who is silent longest is forgotten first.
            if let Some(rest) = boots.get_mut(at..) {
                rest.rotate_left(1);
            }
            return;
        }
        if self.consumer.boots.len() >= BOOTS_MAX {
            let links = &self.links;
            let is_over = |boot: &u64| links.to_boot(*boot).is_none() && !links.routers.names_boot(*boot);
            let first = self.consumer.boots.iter().position(is_over).unwrap_or(0);
            let over = self.consumer.boots.remove(first);
            self.consumer.forget_boot(over);
        }
        self.consumer.boots.push(boot);
    }

    /// A record that another shard consumed.
    pub(crate) fn take_handed_over(&mut self, bytes: &[u8]) {
        match bus::read(bytes) {
            Ok((header, record)) => self.deliver_and_bounce(header.router_boot, record),
            Err(_) => self.metrics.consume_malformed += 1,
        }
    }

    /// Gives the record to the other shards that have receivers.
    fn hand_over(&mut self, record: &ArchivedBusRecord, bytes: Bytes<'_>) {
        let shards = self.config.shards.min(ConnId::SHARDS_MAX as u16);
        if shards <= 1 {
            return;
        }
        let mut wanted = [0_u64; ConnId::SHARDS_MAX as usize / 64];
        match &record.receivers {
            ArchivedReceivers::Conns(conns) => {
                for shard in conns.iter().map(|conn| ConnId(conn.to_native()).shard()) {
                    if let Some(word) = wanted.get_mut(usize::from(shard / 64)) {
                        *word |= 1 << (shard % 64);
                    }
                }
            }
            ArchivedReceivers::GroupExcept(_) | ArchivedReceivers::Users(_) => wanted.fill(u64::MAX),
        }
        let mut shared: Option<Arc<[u8]>> = None;
        for shard in 0..shards {
            let is_wanted = wanted
                .get(usize::from(shard / 64))
                .is_some_and(|word| word & (1 << (shard % 64)) != 0);
            if is_wanted && shard != self.number && !Bug::HandOverForgotten.is_planted() {
                let shared = shared.get_or_insert_with(|| bytes.to_shared());
                self.metrics.consume_handed_over += 1;
                let message = ShardMessage::Record(Arc::clone(shared));
                self.outputs.push(Output::ToShard(shard, message));
            }
        }
    }

    fn deliver_and_bounce(&mut self, router_boot: u64, record: &ArchivedBusRecord) {
        let mut gone = std::mem::take(&mut self.gone);
        gone.clear();
        self.deliver(record, &mut gone);
        self.metrics.consume_bounced += gone.len() as u64;
        // The router that numbered it, or any that can be reached.
        let bounces = !gone.is_empty() && record.class == class::STORED;
        let router = || self.links.to_boot(router_boot).or(self.links.home);
        if let Some(at) = bounces.then(router).flatten() {
            for conns in gone.chunks(BOUNCE_CONNS) {
                let bounce = Bounce {
                    app: record.app.to_native(),
                    conv: record.conv.to_vec(),
                    seq: record.last_seq.to_native(),
                    conns: conns.to_vec(),
                };
                let body = frame::archive(&bounce);
                self.links.push(
                    at,
                    &Record {
                        kind: RecordKind::Bounce as u8,
                        body: &body,
                        ..Record::default()
                    },
                );
            }
        }
        self.gone = gone;
    }

    /// Records of this gateway are lost: every session of every shard syncs.
    fn resync_gateway(&mut self) {
        self.resync_all();
        for shard in (0..self.config.shards).filter(|shard| *shard != self.number) {
            self.outputs
                .push(Output::ToShard(shard, ShardMessage::OverflowedAll));
        }
    }

    /// Has the shell read the topic of a new boot; opens fetches of a router again that brought nothing for long.
    pub(crate) fn tend_fetches(&mut self) {
        let now = self.now.mono;
        if self.bus_is_apart() && !std::mem::replace(&mut self.consumer.is_read_apart, true) {
            self.open_partitions(self.config.bus_partitions);
        }
        if self.consumer.quiet_at.is_none_or(|at| at > now) {
            return;
        }
        if self.links.home.is_none() {
            // All are opened with the next home.
            self.consumer.quiet_at = None;
            return;
        }
        self.consumer.quiet_at = Some(now + QUIET_MAX);
        for at in 0..self.consumer.partitions.len() {
            let was_quiet = self
                .consumer
                .partitions
                .get_mut(at)
                .is_some_and(|known| std::mem::replace(&mut known.is_quiet, true));
            if was_quiet {
                self.fetch(at);
            }
        }
    }

    /// Reports what was taken, when it is time.
    pub(crate) fn report_consumed(&mut self) {
        let now = self.now.mono;
        let is_due = self.consumer.report_at.is_some_and(|at| at <= now);
        if !is_due && self.consumer.unreported_bytes < UNREPORTED_BYTES_MAX {
            return;
        }
        self.consumer.report_at = None;
        self.consumer.unreported_bytes = 0;
        for key in std::mem::take(&mut self.consumer.changed) {
            // Without a link to that router it is reported on the next one to it.
            let router = if Bug::ReportToHome.is_planted() {
                self.links.home
            } else {
                self.links.to_boot(key.0)
            };
            let (Some(at), Some(numbers)) = (router, self.consumer.numbers.get(&key)) else {
                continue;
            };
            let consumed = Consumed {
                router_boot: key.0,
                partition: key.1,
                number: numbers.done(),
                gaps: numbers.gaps(),
            };
            if numbers.has_gaps() {
                self.consumer.note(key, 0, now + GAP_PACE);
            }
            let body = frame::archive(&consumed);
            self.note_report(at);
            self.links.push(
                at,
                &Record {
                    kind: RecordKind::Consumed as u8,
                    body: &body,
                    ..Record::default()
                },
            );
        }
    }
}
