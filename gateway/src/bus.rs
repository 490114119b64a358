//! This gateway's own topic, on a bus that stands apart from the routers: made, read, and replaced with the boot.
//!
//! Owns a thread with a small runtime, and in it one task per partition that a shard wants read. A task reads until the
//! credit of its fetch is used up and hands what came to the shard's inbox, which takes it in any case: what waits there
//! is bounded by one fetch per partition, everything else waits in the bus. While the bus is away a task asks again,
//! without end. When the topic is gone all shards are told, and they give the boot up.
//!
//! A boot's topic is made before anything is linked under it, so that no router publishes to what is not there. When a
//! boot is lost the next one is drawn here, and put in its place once its topic is there; until then no shard has a link.
//! What is left of a topic is deleted by the routers.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use corelane_gateway_core::event::ShardMessage;
use corelane_protocol::id::BootId;
use corelane_router::bus::any::AnyBus;
use corelane_router::bus::kafka::{KafkaBus, KafkaConfig, KafkaError};
use corelane_router::bus::{Bus as _, BusError};
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use crate::boot::ProcessBoot;
use crate::inbox::Inbox;

/// Most bytes of records handed over at a time, unless the first is longer.
const BATCH_BYTES: usize = 256 * 1024;
/// What the bus could not do is asked for again after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// Why there is no topic. For the operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Kafka cannot be used.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// It did not make the topic.
    #[error("the topic of this gateway was not made: {0}")]
    Bus(#[from] BusError),
    /// The system refused threads or sockets.
    #[error("the system refused a runtime for the bus: {0}")]
    System(#[from] io::Error),
}

/// A partition that a shard wants read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// Who gets the records.
    pub shard: u16,
    /// Whose topic.
    pub boot: u64,
    /// Partition.
    pub partition: u16,
    /// Offset of the first record wanted.
    pub from: u64,
    /// Bytes of records after which reading ends.
    pub credit_bytes: u32,
}

/// What a shard has for the thread of the bus.
#[derive(Debug)]
enum Request {
    Fetch(Fetch),
    BootLost(u64),
}

/// The way of shards to the thread. What waits is bounded by what shards ask: a fetch per partition and a lost boot each.
#[derive(Debug, Clone)]
pub struct BusRequests {
    sender: UnboundedSender<Request>,
}

impl BusRequests {
    /// Asks for records; they come into the shard's inbox.
    ///
    /// # Panics
    ///
    /// When the thread has panicked: nothing would ever come.
    pub fn fetch(&self, fetch: Fetch) {
        self.send(Request::Fetch(fetch));
    }

    /// Says that a boot was declared dead. Another one, with its topic, takes its place.
    ///
    /// # Panics
    ///
    /// As [`Self::fetch`].
    pub fn boot_lost(&self, lost: u64) {
        self.send(Request::BootLost(lost));
    }

    fn send(&self, request: Request) {
        self.sender
            .send(request)
            .expect("the thread of the bus lives while anybody may send to it");
    }
}

/// A topic that is there and not read yet.
#[derive(Debug)]
pub struct Topic {
    runtime: Runtime,
    bus: Arc<AnyBus>,
    partitions: u16,
    sender: UnboundedSender<Request>,
    requests: UnboundedReceiver<Request>,
}

impl Topic {
    /// Connects to Kafka and makes the topic of `boot`. Takes up to 25 s when no broker answers.
    ///
    /// # Errors
    ///
    /// [`TopicError`]: print it and exit.
    pub fn make(kafka: KafkaConfig, partitions: u16, boot: u64) -> Result<Self, TopicError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let bus = AnyBus::Kafka(Box::new(runtime.block_on(KafkaBus::connect(kafka))?));
        Self::make_on(bus, runtime, partitions, boot)
    }

    fn make_on(bus: AnyBus, runtime: Runtime, partitions: u16, boot: u64) -> Result<Self, TopicError> {
        runtime.block_on(bus.create(BootId(boot), partitions))?;
        let (sender, requests) = unbounded_channel();
        Ok(Self {
            runtime,
            bus: Arc::new(bus),
            partitions,
            sender,
            requests,
        })
    }

    /// The bus, for its figures.
    pub const fn bus(&self) -> &Arc<AnyBus> {
        &self.bus
    }

    /// Where shards send what they want. It is answered once [`Self::serve`] was called.
    pub fn requests(&self) -> BusRequests {
        BusRequests {
            sender: self.sender.clone(),
        }
    }

    /// Serves the shards of these inboxes on a thread of its own, until the process ends.
    ///
    /// # Errors
    ///
    /// The system refused a thread.
    pub fn serve(self, boot: Arc<ProcessBoot>, inboxes: Vec<Inbox>) -> io::Result<()> {
        let server = Server {
            bus: self.bus,
            partitions: self.partitions,
            boot,
            inboxes,
            reading: HashMap::new(),
        };
        let (runtime, requests) = (self.runtime, self.requests);
        std::thread::Builder::new()
            .name("bus".to_owned())
            .spawn(move || runtime.block_on(server.run(requests)))
            .map(drop)
    }
}

struct Server {
    bus: Arc<AnyBus>,
    partitions: u16,
    boot: Arc<ProcessBoot>,
    inboxes: Vec<Inbox>,
    /// What reads each partition of the present boot.
    reading: HashMap<u16, AbortHandle>,
}

impl Server {
    async fn run(mut self, mut requests: UnboundedReceiver<Request>) {
        while let Some(request) = requests.recv().await {
            match request {
                Request::Fetch(fetch) => self.fetch(fetch),
                Request::BootLost(lost) => self.replace(lost).await,
            }
        }
    }

    fn fetch(&mut self, fetch: Fetch) {
        let Some(inbox) = self.inboxes.get(usize::from(fetch.shard)) else {
            return;
        };
        // A shard that has not heard of the present boot yet asks again when it has.
        if fetch.boot != self.boot.current() {
            return;
        }
        let read = read(Arc::clone(&self.bus), fetch, inbox.clone(), self.inboxes.clone());
        let task = tokio::spawn(read).abort_handle();
        if let Some(older) = self.reading.insert(fetch.partition, task) {
            older.abort();
        }
    }

    /// Puts another boot in the place of `lost`, unless that happened already.
    async fn replace(&mut self, lost: u64) {
        if lost != self.boot.current() {
            return;
        }
        for (_, task) in self.reading.drain() {
            task.abort();
        }
        self.bus.gateway_gone(BootId(lost)).await;
        let next = ProcessBoot::draw_next().expect("the kernel gives random bytes");
        let mut is_away = false;
        while let Err(error) = self.bus.create(BootId(next), self.partitions).await {
            if !std::mem::replace(&mut is_away, true) {
                tracing::warn!(%error, "the topic of the next boot is not there yet; no shard is linked before");
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.boot.put(lost, next);
        let (lost, boot) = (format!("{lost:016x}"), format!("{next:016x}"));
        tracing::warn!(
            lost,
            boot,
            "the gateway goes on under a new boot, with a topic of its own"
        );
        for inbox in &self.inboxes {
            inbox.wake();
        }
    }
}

/// Reads a partition for a shard.
async fn read(bus: Arc<AnyBus>, fetch: Fetch, inbox: Inbox, all: Vec<Inbox>) {
    let Fetch { boot, partition, .. } = fetch;
    let (mut from, mut credit) = (fetch.from, fetch.credit_bytes as usize);
    while credit > 0 {
        let bytes_max = credit.min(BATCH_BYTES);
        let fetched = match bus.fetch(BootId(boot), partition, from, bytes_max).await {
            Ok(fetched) => fetched,
            Err(error @ BusError::Unavailable(_)) => {
                tracing::debug!(%error, partition, "the bus is asked again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, partition, "this gateway's topic cannot be read any more");
                for inbox in &all {
                    inbox.push([ShardMessage::TopicLost(boot)]);
                }
                return;
            }
        };
        from = fetched.next_offset();
        let bytes: usize = fetched.records.iter().map(|record| record.len()).sum();
        credit = credit.saturating_sub(bytes);
        inbox.push([ShardMessage::Fetched {
            boot,
            partition,
            from: fetched.from,
            lost: fetched.lost,
            records: fetched.records,
        }]);
    }
}

#[cfg(test)]
mod tests {
    use corelane_net::{Engine, EngineConfig, Event};
    use corelane_router::bus::memory::MemoryBus;

    use super::*;

    const PARTITIONS: u16 = 2;
    /// What waking a shard may take.
    const LIMIT: Duration = Duration::from_secs(10);

    /// A shard without rules, and a bus that it reads.
    struct Shard {
        engine: Engine,
        inbox: Inbox,
        boot: Arc<ProcessBoot>,
        bus: Arc<AnyBus>,
        requests: BusRequests,
        caller: Runtime,
    }

    impl Shard {
        fn start() -> Self {
            let runtime = || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
            };
            let engine = Engine::new(EngineConfig::default()).unwrap();
            let inbox = Inbox::new(0, engine.waker());
            let boot = Arc::new(ProcessBoot::draw().unwrap());
            let bus = AnyBus::Memory(MemoryBus::default());
            let topic = Topic::make_on(bus, runtime(), PARTITIONS, boot.current()).unwrap();
            let (bus, requests) = (Arc::clone(topic.bus()), topic.requests());
            topic.serve(Arc::clone(&boot), vec![inbox.clone()]).unwrap();
            Self {
                engine,
                inbox,
                boot,
                bus,
                requests,
                caller: runtime(),
            }
        }

        fn fetch(&self, partition: u16, from: u64, credit_bytes: u32) {
            self.requests.fetch(Fetch {
                shard: 0,
                boot: self.boot.current(),
                partition,
                from,
                credit_bytes,
            });
        }

        fn publish(&self, partition: u16, number: u64, record: &[u8]) {
            let boot = BootId(self.boot.current());
            let published = self.bus.publish(boot, partition, number, record.into());
            self.caller.block_on(published).unwrap();
        }

        /// Sleeps until it is woken.
        fn wait(&mut self) {
            let mut events = Vec::new();
            self.engine.turn(LIMIT, &mut events).unwrap();
            assert_eq!(events, [Event::Woken]);
        }

        /// Offset and text of the records that come until there are so many.
        fn read(&mut self, count: usize) -> Vec<(u64, String)> {
            let (mut messages, mut overflowed) = (Vec::new(), Vec::new());
            let mut read = Vec::new();
            while read.len() < count {
                self.wait();
                self.inbox.take(&mut messages, &mut overflowed);
                for message in messages.drain(..) {
                    let ShardMessage::Fetched { from, records, .. } = message else {
                        panic!("records: {message:?}");
                    };
                    let text = |record: &Arc<[u8]>| String::from_utf8_lossy(record).into_owned();
                    read.extend((from..).zip(records.iter().map(text)));
                }
            }
            read
        }
    }

    #[test]
    fn what_a_shard_asked_for_comes_until_its_credit_is_used_up() {
        let mut shard = Shard::start();
        shard.fetch(1, 0, 10);
        for (number, text) in [(1, "first"), (2, "second"), (3, "third")] {
            shard.publish(1, number, text.as_bytes());
        }
        let read = shard.read(2);
        assert_eq!(read, [(0, "first".to_owned()), (1, "second".to_owned())]);
        shard.fetch(1, 2, 10);
        assert_eq!(shard.read(1), [(2, "third".to_owned())]);
    }

    #[test]
    fn a_topic_that_is_gone_is_told_and_the_next_boot_has_one_of_its_own() {
        let mut shard = Shard::start();
        let lost = shard.boot.current();
        shard.fetch(0, 0, 1000);
        shard.caller.block_on(shard.bus.delete(BootId(lost))).unwrap();
        shard.wait();
        let (mut messages, mut overflowed) = (Vec::new(), Vec::new());
        shard.inbox.take(&mut messages, &mut overflowed);
        assert_eq!(messages, [ShardMessage::TopicLost(lost)]);
        assert_eq!(shard.boot.current(), lost, "not before a router declared it dead");
        // Two shards find out.
        shard.requests.boot_lost(lost);
        shard.requests.boot_lost(lost);
        shard.wait();
        let next = shard.boot.current();
        assert_ne!(next, lost);
        shard.fetch(0, 0, 1000);
        shard.publish(0, 1, b"new");
        assert_eq!(shard.read(1), [(0, "new".to_owned())]);
        assert_eq!(shard.boot.current(), next);
    }
}
