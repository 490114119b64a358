//! The thread that reads one topic: one consumer of librdkafka, polled here and nowhere else.
//!
//! It places the consumer where the windows want it, hands over what comes, and looks after each partition that brings
//! nothing: every [`LOOK_PACE`] it compares with the end of the partition as Kafka knows it by another client. One that
//! stands still before its end is read anew, then with a new consumer. Partitions are never split into queues of their
//! own: rdkafka's can stall for good. Errors of connections pass; librdkafka mends them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::counters::Counters;
use super::ears::Ears;
use super::error::KafkaError;
use super::looker::{Ends, Looker, is_no_topic};
use super::reader::Reader;
use super::watch::{Finding, Watch};
use super::window::Taken;
use crate::clock::Clock;

/// Longest that a wish of a window waits while nothing comes.
const POLL: Duration = Duration::from_millis(20);
/// How often partitions that bring nothing are looked after.
pub(super) const LOOK_PACE: Duration = Duration::from_secs(2);
/// How often while something is wrong.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// Records handed over in one go.
const BATCH_RECORDS: usize = 512;
/// Their bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Reads a topic.
pub(super) struct ConsumerThread {
    reader: Arc<Reader>,
    config: KafkaConfig,
    looker: Looker,
    counters: Arc<Counters>,
    clock: Clock,
    client: BaseConsumer<Ears>,
    /// Whether the consumer has each partition.
    placed: Vec<bool>,
    watch: Watch,
    look_at: Duration,
    asked: Option<Asked>,
    /// An error was said that leaves some partition silent, and nobody knows which.
    is_doubtful: bool,
    is_away: bool,
}

/// A question on its way.
struct Asked {
    answer: Receiver<Ends>,
    /// Where each partition stood.
    at: Vec<(u16, u64)>,
}

impl ConsumerThread {
    /// Makes the consumer of a reader. It connects by itself.
    pub(super) fn new(
        reader: Arc<Reader>,
        config: KafkaConfig,
        looker: Looker,
        counters: Arc<Counters>,
    ) -> Result<Self, KafkaError> {
        let client =
            connect(&config, &reader.topic).map_err(|error| KafkaError::Client(error.to_string()))?;
        counters.consumers.add(1);
        let partitions = reader.lock().partitions.len();
        Ok(Self {
            reader,
            config,
            looker,
            counters,
            clock: Clock::start(),
            client,
            placed: vec![false; partitions],
            watch: Watch::new(partitions),
            look_at: LOOK_PACE,
            asked: None,
            is_doubtful: false,
            is_away: false,
        })
    }

    /// Starts the thread.
    pub(super) fn start(mut self) -> Result<(), KafkaError> {
        let run = move || {
            while !self.reader.is_over() {
                self.turn();
            }
        };
        std::thread::Builder::new()
            .name("kafka-consume".to_owned())
            .spawn(run)
            .map(drop)
            .map_err(|error| KafkaError::Client(error.to_string()))
    }

    fn turn(&mut self) {
        if let Err(error) = self.place() {
            tracing::warn!(%error, topic = self.reader.topic, "a consumer could not be placed and is replaced");
            self.replace();
        }
        self.poll();
        self.hear_answer();
        self.look();
    }

    /// Brings the consumer where the windows want it.
    fn place(&mut self) -> Result<(), ClientError> {
        let (mut leave, mut enter) = (TopicPartitionList::new(), TopicPartitionList::new());
        let mut entered = Vec::new();
        for ((partition, window), placed) in (0_u16..)
            .zip(&self.reader.lock().partitions)
            .zip(&mut self.placed)
        {
            let wanted = window.wanted();
            if *placed && (wanted.is_some() || window.is_full()) {
                leave.add_partition(&self.reader.topic, i32::from(partition));
                *placed = false;
            }
            if let Some(offset) = wanted {
                let at = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
                enter.add_partition_offset(&self.reader.topic, i32::from(partition), at)?;
                entered.push((partition, offset));
            }
        }
        if leave.count() > 0 {
            self.client.incremental_unassign(&leave)?;
        }
        if enter.count() > 0 {
            self.client.incremental_assign(&enter)?;
        }
        let mut shared = self.reader.lock();
        for (partition, offset) in entered {
            let at = usize::from(partition);
            if let (Some(window), Some(placed)) = (shared.partitions.get_mut(at), self.placed.get_mut(at)) {
                *placed = true;
                // It may have changed its mind meanwhile.
                if window.wanted() == Some(offset) {
                    window.placed();
                }
            }
        }
        Ok(())
    }

    /// Waits for records and hands over those that are there.
    fn poll(&mut self) {
        let mut batch = Vec::new();
        let (mut bytes, mut patience) = (0, POLL);
        let mut errors = Vec::new();
        while batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            match self.client.poll(patience) {
                Some(Ok(message)) => {
                    let record: Arc<[u8]> = message.payload().unwrap_or_default().into();
                    bytes += record.len();
                    if let (Ok(partition), Ok(offset)) = (
                        u16::try_from(message.partition()),
                        u64::try_from(message.offset()),
                    ) {
                        batch.push((partition, offset, record));
                    }
                }
                Some(Err(error)) => errors.push(error),
                None => break,
            }
            patience = Duration::ZERO;
        }
        if !batch.is_empty() {
            self.hand_over(batch);
        }
        for error in errors {
            self.complain(&error);
        }
    }

    fn hand_over(&mut self, batch: Vec<(u16, u64, Arc<[u8]>)>) {
        if std::mem::take(&mut self.is_away) {
            tracing::info!(topic = self.reader.topic, "Kafka is back");
        }
        self.counters.read.add(batch.len() as u64);
        let mut shared = self.reader.lock();
        let mut came = vec![false; shared.partitions.len()];
        for (partition, offset, record) in batch {
            let at = usize::from(partition);
            let (Some(window), Some(came)) = (shared.partitions.get_mut(at), came.get_mut(at)) else {
                continue;
            };
            match window.push(offset, record) {
                Taken::Kept => *came = true,
                Taken::Dropped => {}
                Taken::Lost => {
                    *came = true;
                    self.counters.losses.add(1);
                    let topic = &self.reader.topic;
                    tracing::warn!(topic, partition, offset, "records before this offset are lost");
                }
            }
        }
        for (window, came) in shared.partitions.iter().zip(came) {
            if came {
                window.arrived().notify_waiters();
            }
        }
    }

    /// Sorts what the consumer complains of: what time mends, what must be looked at, what kills it.
    fn complain(&mut self, error: &ClientError) {
        if matches!(error, ClientError::MessageConsumptionFatal(_)) {
            tracing::warn!(%error, topic = self.reader.topic, "a consumer is dead and replaced");
            return self.replace();
        }
        match error.rdkafka_error_code() {
            // Said once per partition, which then stays silent; and rdkafka does not say which one it was.
            Some(
                Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation | Code::UnknownTopicId,
            ) => {
                self.is_doubtful = true;
                self.look_at = self.look_at.min(self.clock.now().mono);
            }
            Some(code) if is_no_topic(code) => {
                self.look_at = self.look_at.min(self.clock.now().mono);
            }
            _ => {
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!(%error, topic = self.reader.topic, "Kafka is away; reading goes on by itself");
                }
            }
        }
    }

    fn replace(&mut self) {
        match connect(&self.config, &self.reader.topic) {
            Ok(client) => {
                self.counters.consumers.add(1);
                end_elsewhere(std::mem::replace(&mut self.client, client));
                self.placed.fill(false);
                for window in &mut self.reader.lock().partitions {
                    window.read_again();
                }
            }
            Err(error) => {
                tracing::error!(%error, topic = self.reader.topic, "a consumer could not be replaced");
            }
        }
    }

    /// Asks for the ends of partitions that brought nothing since the last look; of all, when in doubt.
    fn look(&mut self) {
        let now = self.clock.now().mono;
        if self.asked.is_some() || now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_PACE;
        let mut at = Vec::new();
        for (partition, window) in (0_u16..).zip(&self.reader.lock().partitions) {
            let has_rested = self.watch.has_rested(partition, window.next());
            if window.is_read() && (has_rested || self.is_doubtful) {
                at.push((partition, window.next()));
            }
        }
        if at.is_empty() {
            return;
        }
        let (answer, answered) = sync_channel(1);
        let partitions = at.iter().map(|(partition, _)| *partition).collect();
        if self
            .looker
            .ends(&self.reader.topic, partitions, self.is_doubtful, answer)
        {
            self.asked = Some(Asked { answer: answered, at });
        }
    }

    fn hear_answer(&mut self) {
        let Some(asked) = &self.asked else { return };
        let ends = match asked.answer.try_recv() {
            Ok(ends) => ends,
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => Ends::Unknown("nobody answers".to_owned()),
        };
        let at = self.asked.take().map(|asked| asked.at).unwrap_or_default();
        let now = self.clock.now().mono;
        match ends {
            Ends::Unknown(why) => {
                tracing::debug!(why, topic = self.reader.topic, "ends of partitions are not known");
                self.watch.topic_unknown();
            }
            Ends::NoTopic => {
                self.look_at = now + LOOK_SOON;
                if self.watch.topic_missed(now) {
                    tracing::warn!(topic = self.reader.topic, "the topic is gone");
                    self.reader.end_without_topic();
                }
            }
            Ends::At(ends) => self.compare(&at, &ends, now),
        }
    }

    /// Compares where partitions stood with their ends.
    fn compare(&mut self, at: &[(u16, u64)], ends: &[(u16, Option<u64>, u64)], now: Duration) {
        self.watch.topic_unknown();
        let was_doubtful = std::mem::take(&mut self.is_doubtful);
        let (mut is_gone, mut must_replace) = (false, false);
        {
            let mut shared = self.reader.lock();
            for (partition, stood) in at {
                let found = ends.iter().find(|(found, _, _)| found == partition);
                let window = shared.partitions.get_mut(usize::from(*partition));
                let (Some((_, first, end)), Some(window)) = (found, window) else {
                    continue;
                };
                if window.next() != *stood {
                    continue;
                }
                let topic = &self.reader.topic;
                match self.watch.find(*partition, *stood, *first, *end, now) {
                    Finding::Lost(first) => {
                        self.counters.losses.add(1);
                        tracing::warn!(
                            topic,
                            partition,
                            stood,
                            first,
                            "records were deleted before they were read"
                        );
                        window.lose_below(first);
                    }
                    Finding::Beyond => {
                        self.is_doubtful = true;
                        self.look_at = now + LOOK_SOON;
                    }
                    Finding::Gone => is_gone = true,
                    Finding::Stalled | Finding::StalledAgain => {
                        self.counters.stalls.add(1);
                        tracing::warn!(
                            topic,
                            partition,
                            stood,
                            end,
                            "a partition stands still and is read anew"
                        );
                        must_replace |= self.watch.is_hopeless(*partition);
                        window.read_again();
                    }
                    Finding::Fine if was_doubtful => window.read_again(),
                    Finding::Fine => {}
                }
            }
        }
        if is_gone {
            tracing::warn!(
                topic = self.reader.topic,
                "the topic ends before what was read of it: it is another one"
            );
            self.reader.end_without_topic();
        } else if must_replace {
            self.replace();
        }
    }
}

/// Ends a client on a thread of its own: that takes its time, and librdkafka 2.12 can wait for ever for a consumer whose
/// partition stands still (seen with a paused one); what is lost with it is a thread, not the deliveries of this gateway.
pub(super) fn end_elsewhere(client: impl Send + 'static) {
    let ended = std::thread::Builder::new()
        .name("kafka-end".to_owned())
        .spawn(move || drop(client));
    if let Err(error) = ended {
        tracing::warn!(%error, "a client is ended here, which may take its time");
    }
}

fn connect(config: &KafkaConfig, topic: &str) -> Result<BaseConsumer<Ears>, ClientError> {
    config.consumer(topic).create_with_context(Ears::default())
}

#[cfg(test)]
mod tests {
    use super::super::super::Bus as _;
    use super::super::KafkaBus;
    use super::super::reader::Step;
    use super::*;
    use corelane_protocol::id::BootId;

    const BOOT: BootId = BootId(5);
    const DEADLINE: Duration = Duration::from_secs(40);

    fn kafka() -> KafkaConfig {
        let servers = std::env::var("CORELANE_TEST_KAFKA")
            .expect("this test needs Kafka: eval \"$(ops/services up kafka)\"");
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        KafkaConfig {
            servers,
            topic_prefix: format!("test-{:016x}", u64::from_ne_bytes(bytes)),
            ..KafkaConfig::default()
        }
    }

    /// Turns a reader's thread until an offset of partition 0 is there.
    fn read(thread: &mut ConsumerThread, from: u64) -> super::super::Fetched {
        let clock = Clock::start();
        while clock.now().mono < DEADLINE {
            match thread.reader.fetch(0, from, 1000) {
                Step::Done(fetched) => return fetched.unwrap(),
                Step::Wait(_) => thread.turn(),
                Step::Ended => panic!("it ended"),
            }
        }
        panic!("nothing came");
    }

    #[test]
    #[ignore = "needs ops/services up kafka"]
    fn a_partition_that_stands_still_before_its_end_is_read_anew() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bus = runtime.block_on(KafkaBus::connect(kafka())).unwrap();
        let publish = |text: &[u8]| runtime.block_on(bus.publish(BOOT, 0, 1, text.into())).unwrap();
        runtime.block_on(bus.create(BOOT, 2)).unwrap();
        let topic = bus.topics.name(BOOT);
        let reader = Arc::new(Reader::new(BOOT, topic.clone(), 2, 1 << 22));
        let counters = Arc::<Counters>::default();
        let looker = bus.topics.looker.clone();
        let mut thread =
            ConsumerThread::new(reader, bus.config.clone(), looker, Arc::clone(&counters)).unwrap();
        publish(b"before");
        assert_eq!(read(&mut thread, 0).records, [Arc::from(b"before".as_slice())]);
        // What librdkafka does by mistake at times, on purpose: it reads on and hands nothing out, without a word.
        let mut frozen = TopicPartitionList::new();
        frozen.add_partition(&topic, 0);
        thread.client.pause(&frozen).unwrap();
        publish(b"after");
        let fetched = read(&mut thread, 1);
        assert_eq!((fetched.from, fetched.lost), (1, false));
        assert_eq!(fetched.records, [Arc::from(b"after".as_slice())]);
        assert!(counters.figures((0, 0)).stalls > 0);
        runtime.block_on(bus.delete(BOOT)).unwrap();
    }
}
