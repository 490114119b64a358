//! Processes of gateways: their boots, with a topic each on a bus that stands apart; their death, and their return.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_gateway_core::event::ShardMessage;
use corelane_gateway_core::{Shard, ShardConfig};

use crate::bus::{Partition, Reading};
use crate::lease::LEASE_US;
use crate::pause::{Standing, Standstill};
use crate::planted::Bug;
use crate::world::{Event, Gateway, PARTITIONS, World, secret};

/// A shard begins so long after its process.
const FIRST_WAKE_US: u64 = 1_000;
/// A gateway that died is back after this time at the latest.
pub(crate) const REBIRTH_US_MAX: u64 = 2_000_000;
/// One that is started anew at once is back after this time: routers, and routes, are as they were when it died.
const REBIRTH_AT_ONCE_US_MAX: u64 = 100_000;

/// A gateway process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) boot: u64,
    pub(crate) still: Standstill,
    /// It died, and has not come back.
    pub(crate) is_down: bool,
    /// What its shards want read of its topic, by partition.
    pub(crate) reading: BTreeMap<u16, Reading>,
}

impl Process {
    fn new(boot: u64) -> Self {
        Self {
            boot,
            still: Standstill::new(),
            is_down: false,
            reading: BTreeMap::new(),
        }
    }
}

impl World {
    pub(crate) fn make_gateways(&mut self) {
        let shards = self.shape.shards();
        let last = shards.iter().map(|(process, _)| *process).max().unwrap_or(0);
        for _ in 0..=last {
            let boot = self.draw_boot();
            self.processes.push(Process::new(boot));
        }
        for (process, number) in shards {
            let shard = self.new_shard(*process, *number);
            self.gateways.push(Gateway {
                shard,
                process: *process,
                number: *number,
                dirty: false,
                wake_at: u64::MAX,
                next_slot: 0,
                free_slots: Vec::new(),
                inbox_at: 0,
            });
        }
    }

    /// The next boot. On a bus that stands apart its topic is there before anybody hears of it.
    fn draw_boot(&mut self) -> u64 {
        self.last_boot += 1;
        let boot = self.last_boot;
        if self.shape.is_cluster() {
            for partition in 0..PARTITIONS {
                self.topics.insert((boot, partition), Partition::default());
            }
        }
        boot
    }

    fn new_shard(&self, process: usize, number: u16) -> Shard {
        let shards = self.shape.shards().iter();
        let seeds = self.shape.seeds().iter();
        let config = ShardConfig {
            node: format!("gateway-{process}"),
            boot: self.processes[process].boot,
            shards: shards.filter(|(owner, _)| *owner == process).count() as u16,
            link_secret: secret(),
            routers: seeds.map(|seed| (*seed).to_owned()).collect(),
            heartbeat: Duration::from_mins(3),
            queue_bytes_max: if self.faults.readers { 2048 } else { 256 * 1024 },
            send_deadline: Duration::from_secs(1),
            resync_spread: Duration::from_millis(300),
            link_retry: Duration::from_millis(20),
            link_silence: Duration::from_secs(4),
            lease: Duration::from_micros(LEASE_US),
            bus_partitions: if self.shape.is_cluster() { PARTITIONS } else { 0 },
            ..ShardConfig::default()
        };
        Shard::new(config, number, self.clock())
    }

    pub(crate) fn wake_first(&mut self, shard: usize) {
        self.gateways[shard].wake_at = self.now + FIRST_WAKE_US;
        self.after(FIRST_WAKE_US, Event::Wake(shard));
    }

    pub(crate) fn boot_of(&self, shard: usize) -> u64 {
        self.processes[self.gateways[shard].process].boot
    }

    pub(crate) fn shards_of(&self, process: usize) -> Vec<usize> {
        let shards = 0..self.gateways.len();
        shards
            .filter(|shard| self.gateways[*shard].process == process)
            .collect()
    }

    /// A shard was told that its boot is dead: the process takes one new boot, however many shards say so.
    pub(crate) fn boot_lost(&mut self, shard: usize, boot: u64) {
        let process = self.gateways[shard].process;
        if self.processes[process].boot != boot {
            return;
        }
        let next = self.draw_boot();
        // The topic of a boot that is over stays, and is read no more.
        self.processes[process].reading.clear();
        self.processes[process].boot = next;
        for shard in self.shards_of(process) {
            let wait = self.rng.between(10, 20_000);
            self.after(wait, Event::NewBoot(shard, next));
        }
    }

    /// A gateway dies, with all its connections and links.
    pub(crate) fn gateway_dies(&mut self) {
        let process = self.rng.below(self.processes.len() as u64) as usize;
        if std::mem::replace(&mut self.processes[process].is_down, true) {
            return;
        }
        self.counts.gateway_deaths += 1;
        self.processes[process].still = Standstill::new();
        self.processes[process].reading.clear();
        self.call_off(|world, event| world.standing_of(event) == Some(Standing::Gateway(process)));
        let shards = self.shards_of(process);
        for shard in &shards {
            self.gateways[*shard].dirty = false;
        }
        for link in self.links.iter_mut().filter(|link| shards.contains(&link.shard)) {
            link.is_up = false;
        }
        for at in 0..self.sockets.len() {
            let delay = self.delay();
            let socket = &mut self.sockets[at];
            if socket.is_gone || !shards.contains(&socket.shard) {
                continue;
            }
            socket.is_gone = true;
            let arrives = (self.now + delay).max(socket.down_at + 1);
            self.at_time(arrives, Event::Hangup(at));
        }
        let longest = if self.rng.chance(500) {
            REBIRTH_AT_ONCE_US_MAX
        } else {
            REBIRTH_US_MAX
        };
        let down = self.rng.between(1_000, longest);
        self.after(down, Event::Reborn(process));
    }

    pub(crate) fn reborn(&mut self, process: usize) {
        let boot = if Bug::BootReused.is_planted() {
            self.processes[process].boot
        } else {
            self.draw_boot()
        };
        self.processes[process].boot = boot;
        self.processes[process].is_down = false;
        for shard in self.shards_of(process) {
            let number = self.gateways[shard].number;
            let rules = self.new_shard(process, number);
            let gateway = &mut self.gateways[shard];
            gateway.shard = rules;
            gateway.next_slot = 0;
            gateway.free_slots.clear();
            self.wake_first(shard);
        }
    }

    /// A topic is deleted under a gateway that lives.
    pub(crate) fn delete_topic(&mut self) {
        let process = self.rng.below(self.processes.len() as u64) as usize;
        let boot = self.processes[process].boot;
        if self.processes[process].is_down || !self.topics.contains_key(&(boot, 0)) {
            return;
        }
        self.counts.topics_lost += 1;
        self.processes[process].reading.clear();
        self.topics.retain(|(owner, _), _| *owner != boot);
        for shard in self.shards_of(process) {
            self.to_inbox(shard, ShardMessage::TopicLost(boot));
        }
    }
}
