//! The bus: a topic per gateway boot, in the memory of the one router or apart from all.
//!
//! That of a router is read over its links, keeps what is not reported consumed, and ends with the router. The one apart
//! keeps everything; processes read it themselves, and what it has taken stays whoever dies. Either may take a record late
//! or twice, or lose it; the one apart may lose its end, too, let a partition stand still, or have a topic deleted.

use std::collections::VecDeque;
use std::sync::Arc;

use corelane_gateway_core::event::ShardMessage;
use corelane_protocol::bus;
use corelane_protocol::frame;
use corelane_protocol::link::body::BusBatch;
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::event::Input;

use crate::lease::REAP_US;
use crate::router::boot_of;
use crate::world::{Event, PARTITIONS, World};

/// Longest time that a partition stands still.
const STALL_US_MAX: u64 = 1_500_000;
/// Most records that a partition loses at its end.
const CUT_MAX: u64 = 3;

/// One partition of a gateway boot's topic: number and bytes of each record that is kept.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    first_offset: u64,
    /// Below it records were dropped that nobody had consumed.
    lost_below: u64,
    pub(crate) records: VecDeque<(u64, Arc<[u8]>)>,
    /// Nothing is read before.
    stalled_until: u64,
}

impl Partition {
    fn append(&mut self, number: u64, record: Arc<[u8]>) {
        self.records.push_back((number, record));
    }

    /// Drops what waits, and the record that did not fit.
    fn drop_all(&mut self) {
        self.first_offset += self.records.len() as u64 + 1;
        self.lost_below = self.first_offset;
        self.records.clear();
    }

    /// First offset and records from `from` on, and whether some before are lost.
    fn read(&self, from: u64, count: usize) -> (u64, Vec<Arc<[u8]>>, bool) {
        let start = from.max(self.first_offset);
        let skipped = (start - self.first_offset) as usize;
        let records = self.records.iter().skip(skipped).take(count);
        let records = records.map(|(_, record)| Arc::clone(record)).collect();
        (start, records, from < self.lost_below)
    }

    pub(crate) fn consumed(&mut self, upto: u64) {
        while self.records.front().is_some_and(|(number, _)| *number <= upto) {
            self.records.pop_front();
            self.first_offset += 1;
        }
    }

    fn end(&self) -> u64 {
        self.first_offset + self.records.len() as u64
    }

    /// Forgets its last records, whether they were read or not.
    fn cut(&mut self, count: u64) -> bool {
        let kept = self.records.len().saturating_sub(count as usize);
        let is_cut = kept < self.records.len();
        self.records.truncate(kept);
        is_cut
    }
}

/// What a shard wants read of a partition, on a bus that stands apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    shard: usize,
    from: u64,
    credit: u64,
}

impl World {
    pub(crate) fn publish(&mut self, life: u32, to: (u64, u16, u64), record: Arc<[u8]>) {
        let Some(at) = self.router_of(life) else { return };
        let (boot, partition, number) = to;
        let (_, read) = bus::read(&record).expect("a record");
        let outbox = read.outbox.to_native();
        if self.trace {
            eprintln!(
                "          {} publishes {number} of {boot}, {partition} for row {outbox}",
                boot_of(life)
            );
        }
        if outbox != 0 {
            // A row that another one adopted may be cleared by him.
            if !self.store.outbox.contains_key(&outbox) && !self.store.is_adopted(outbox) {
                self.violation(format!(
                    "record {number} of partition {partition} goes to {boot}, and its outbox row {outbox} is cleared"
                ));
            }
            let waits = self.routers[at].rows_wait.entry(outbox).or_default();
            waits.insert((boot, partition, number));
            if self.is_belated(at, outbox) {
                self.disturbed_at = self.now;
            }
        }
        if !self.routers[at].published.insert(to) {
            // A gap was reported.
            self.reordered_at = self.now;
        }
        self.counts.records += 1;
        // Only what a topic may hold is late, or lost.
        let is_there = self.topics.contains_key(&(boot, partition)) && !self.routers[at].gone.contains(&boot);
        if self.faults.bus && !self.calm && is_there {
            let late = self.rng.between(1_000, 200_000);
            match self.rng.below(20) {
                0 => {
                    // The answer of the first attempt was lost.
                    self.after(late, Event::Append(life, to, Arc::clone(&record), 0));
                }
                1 => {
                    self.reordered_at = self.now;
                    let token = self.not_taken(at);
                    return self.after(late, Event::Append(life, to, record, token));
                }
                2 if self.faults.bus_loses => return,
                _ => {}
            }
        }
        self.append(life, to, record, 0);
    }

    /// A record is on its way to the bus.
    fn not_taken(&mut self, at: usize) -> u64 {
        self.last_append += 1;
        self.routers[at].untaken.insert(self.last_append);
        self.last_append
    }

    pub(crate) fn append(&mut self, life: u32, to: (u64, u16, u64), record: Arc<[u8]>, token: u64) {
        if self.shape.is_cluster() {
            self.append_apart(life, to, record, token);
        } else if self.router_of(life).is_some() {
            self.append_here(life, to, record);
        }
    }

    fn append_here(&mut self, life: u32, (boot, partition, number): (u64, u16, u64), record: Arc<[u8]>) {
        let waiting = |((owner, _), topic): (&(u64, u16), &Partition)| {
            if *owner == boot { topic.records.len() } else { 0 }
        };
        let waits = self.topics.iter().map(waiting).sum::<usize>();
        let holds_little = self.faults.topic_records_max < usize::MAX;
        let is_full = holds_little && std::mem::take(&mut self.last_overflow);
        if is_full || waits >= self.faults.topic_records_max {
            self.counts.topics_lost += 1;
            let of_boot = |((owner, _), _): &(&(u64, u16), &mut Partition)| *owner == boot;
            self.topics
                .iter_mut()
                .filter(of_boot)
                .for_each(|(_, topic)| topic.drop_all());
            self.after(0, Event::TopicLost(life, boot));
        } else if let Some(topic) = self.topics.get_mut(&(boot, partition)) {
            topic.append(number, record);
        } else {
            // The boot died while the record was on its way.
            return self.after(0, Event::Core(life, Box::new(Input::GatewayGone(boot))));
        }
        for link in 0..self.links.len() {
            if self.links[link].is_up {
                self.serve(link);
            }
        }
    }

    fn append_apart(&mut self, life: u32, to: (u64, u16, u64), record: Arc<[u8]>, token: u64) {
        let (boot, partition, number) = to;
        let router = self.router_of(life);
        // Nothing is published to who is gone.
        if router.is_some_and(|at| self.routers[at].gone.contains(&boot)) {
            let gone = Box::new(Input::GatewayGone(boot));
            self.after(0, Event::Core(life, gone));
            return self.taken(life, token);
        }
        if let Some(topic) = self.topics.get_mut(&(boot, partition)) {
            topic.append(number, record);
            self.taken(life, token);
            return self.serve_boot(boot);
        }
        let Some(at) = router else { return };
        // Whoever stands still, or cannot tell the registry, finds out later.
        if self.routers[at].still.is_on || !self.asks(at) {
            let token = if token == 0 { self.not_taken(at) } else { token };
            return self.after(REAP_US, Event::Append(life, to, record, token));
        }
        self.taken(life, token);
        self.after(0, Event::TopicLost(life, boot));
    }

    /// The topic of a boot dropped what it held: nothing waits for what was published to it before. Where the bus stands
    /// apart the boot is of no use any more.
    pub(crate) fn topic_lost(&mut self, life: u32, boot: u64) {
        let Some(at) = self.router_of(life) else { return };
        if self.shape.is_cluster() {
            return self.give_up(life, boot);
        }
        for waits in self.routers[at].rows_wait.values_mut() {
            waits.retain(|(owner, _, _)| *owner != boot);
        }
        self.core_input(life, Input::TopicLost(boot));
    }

    /// What a link fetches and is there.
    pub(crate) fn serve(&mut self, link: usize) {
        let Some(boot) = self.links[link].boot() else {
            return;
        };
        for partition in 0..PARTITIONS {
            loop {
                let count = self.rng.between(1, 4) as usize;
                let Some((from, credit)) = self.links[link].fetches.get_mut(&partition) else {
                    break;
                };
                let Some(topic) = self.topics.get(&(boot, partition)) else {
                    break;
                };
                let (first, records, lost) = topic.read(*from, count);
                if (records.is_empty() && !lost) || *credit == 0 {
                    break;
                }
                if self.trace {
                    eprintln!(
                        "          {boot} gets {} of {partition} from {first}, lost: {lost}",
                        records.len()
                    );
                }
                *from = first + records.len() as u64;
                *credit = credit.saturating_sub(records.iter().map(|record| record.len() as u64).sum());
                let body = frame::archive(&BusBatch {
                    partition,
                    from: first,
                    lost,
                    records: records.iter().map(|record| record.to_vec()).collect(),
                });
                self.push(link, RecordKind::BusBatch, 2, 0, 0, &body);
            }
        }
    }

    /// A shard wants a partition read on the bus that stands apart.
    pub(crate) fn fetch_apart(&mut self, shard: usize, boot: u64, partition: u16, from: u64, credit: u64) {
        let process = self.gateways[shard].process;
        if self.processes[process].boot != boot {
            return;
        }
        if !self.topics.contains_key(&(boot, partition)) {
            return self.to_inbox(shard, ShardMessage::TopicLost(boot));
        }
        let reading = Reading { shard, from, credit };
        self.processes[process].reading.insert(partition, reading);
        self.serve_boot(boot);
    }

    /// What the process of a boot wants read and is there.
    fn serve_boot(&mut self, boot: u64) {
        let Some(process) = self.processes.iter().position(|process| process.boot == boot) else {
            return;
        };
        for partition in 0..PARTITIONS {
            while self.serve_partition(process, boot, partition) {}
        }
    }

    /// Hands some records over; false if there are none to be.
    fn serve_partition(&mut self, process: usize, boot: u64, partition: u16) -> bool {
        let count = self.rng.between(1, 4) as usize;
        let Some(reading) = self.processes[process].reading.get_mut(&partition) else {
            return false;
        };
        let Some(topic) = self.topics.get(&(boot, partition)) else {
            return false;
        };
        if topic.stalled_until > self.now {
            return false;
        }
        // Who was further than the topic is has read what is lost.
        let is_cut = reading.from > topic.end();
        let (from, records, lost) = topic.read(reading.from.min(topic.end()), count);
        let lost = lost || is_cut;
        if records.is_empty() && !lost {
            return false;
        }
        let shard = reading.shard;
        reading.from = from + records.len() as u64;
        let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
        reading.credit = reading.credit.saturating_sub(bytes);
        if reading.credit == 0 {
            self.processes[process].reading.remove(&partition);
        }
        if self.trace {
            eprintln!(
                "          {boot} reads {} of {partition} from {from}, lost: {lost}",
                records.len()
            );
        }
        let fetched = ShardMessage::Fetched {
            boot,
            partition,
            from,
            lost,
            records,
        };
        self.to_inbox(shard, fetched);
        true
    }

    /// Those that some process reads.
    fn read_partitions(&self) -> Vec<(u64, u16)> {
        let boots: Vec<u64> = self.processes.iter().map(|process| process.boot).collect();
        let partitions = self.topics.keys().copied();
        partitions.filter(|(boot, _)| boots.contains(boot)).collect()
    }

    /// Some partition is not read for a while.
    pub(crate) fn stall_partition(&mut self) {
        let partitions = self.read_partitions();
        let Some((boot, partition)) = self.rng.pick(&partitions).copied() else {
            return;
        };
        let until = self.now + self.rng.between(100_000, STALL_US_MAX);
        if let Some(topic) = self.topics.get_mut(&(boot, partition)) {
            topic.stalled_until = until;
            self.counts.stalls += 1;
            self.at_time(until, Event::Flow(boot, partition));
        }
    }

    /// It goes on.
    pub(crate) fn flow(&mut self, boot: u64, partition: u16) {
        if self.topics.contains_key(&(boot, partition)) {
            self.serve_boot(boot);
        }
    }

    /// Some partition loses its end.
    pub(crate) fn cut_partition(&mut self) {
        let partitions = self.read_partitions();
        let Some(at) = self.rng.pick(&partitions).copied() else {
            return;
        };
        let count = self.rng.between(1, CUT_MAX);
        if self.topics.get_mut(&at).is_some_and(|topic| topic.cut(count)) {
            self.counts.tails_lost += 1;
            self.serve_boot(at.0);
        }
    }
}
