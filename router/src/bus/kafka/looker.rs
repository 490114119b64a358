//! The thread that asks Kafka what there is: brokers, topics, ends of partitions.
//!
//! Owns the one client that asks; librdkafka's calls for this block, so they are made here and nowhere else. At most
//! [`QUEUE`] questions wait; one more is answered at once, that nobody knows. All questions for the list of topics that
//! wait together are answered by one request. Topics are never asked for by name: librdkafka would go on asking for a
//! topic that is gone until the client ends (and rdkafka 0.39 uses the topic's handle after it was freed).
//!
//! A client that did not answer is replaced, and so is one that heard of no brokers: librdkafka drops all brokers that a
//! list of none does not name, also those that it was started with, and asks nobody any more for ever (2.12; its issue
//! 5301). Kafka sends such a list while its brokers are fenced, as one is that got no processor for the time of its session.
//! For the same reason topics are made and deleted by clients of their own, a producer is given up with the first record
//! that timed out (`publisher.rs`), and a consumer that stands still before the end of its partition is replaced
//! (`consumer.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{Metadata, MetadataBroker};
use tokio::sync::oneshot;

use super::config::KafkaConfig;
use super::consumer::end_elsewhere;
use super::counters::Counters;
use super::ears::Ears;
use super::error::KafkaError;
use crate::clock::Clock;

/// What is wrong with a list of no brokers.
const NO_BROKERS: &str = "it names no brokers: they are fenced, or start";
/// Questions that wait.
const QUEUE: usize = 64;
/// Longest that Kafka is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest that Kafka is waited for at the start.
const START_MAX: Duration = Duration::from_secs(15);
/// How often the client's complaints are heard while nobody asks.
const IDLE: Duration = Duration::from_secs(1);
/// How often while it does not answer.
const ATTEMPT: Duration = Duration::from_millis(500);

/// The topics of the cluster.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Partitions of each topic, all of which have a leader or not.
    pub(super) topics: HashMap<String, Listed>,
}

/// One topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// How many partitions it has.
    pub(super) partitions: u16,
    /// Whether each has a leader, so that it can be written and read.
    pub(super) is_led: bool,
}

/// Ends of one topic's partitions.
#[derive(Debug)]
pub(super) enum Ends {
    /// Per partition asked for: the first offset that is there, if that was asked, and the one behind the last.
    At(Vec<(u16, Option<u64>, u64)>),
    /// Kafka does not know the topic, as far as one broker knows.
    NoTopic,
    /// Nobody knows.
    Unknown(String),
}

/// What can be asked.
enum Question {
    Brokers(oneshot::Sender<Result<Vec<i32>, KafkaError>>),
    Topics(oneshot::Sender<Result<Arc<Listing>, String>>),
    Ends {
        topic: String,
        partitions: Vec<u16>,
        with_first: bool,
        answer: SyncSender<Ends>,
    },
}

/// The way to the thread; it ends when the last of these is gone.
#[derive(Debug, Clone)]
pub(super) struct Looker {
    questions: SyncSender<Question>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Brokers(_) => "Brokers",
            Self::Topics(_) => "Topics",
            Self::Ends { .. } => "Ends",
        })
    }
}

impl Looker {
    /// Starts the thread.
    pub(super) fn start(config: &KafkaConfig, counters: Arc<Counters>) -> Result<Self, KafkaError> {
        let (questions, waiting) = sync_channel(QUEUE);
        let client = connect(config, &counters).map_err(|error| KafkaError::Client(error.to_string()))?;
        let mut thread = Thread {
            config: config.clone(),
            counters,
            client,
        };
        std::thread::Builder::new()
            .name("kafka-look".to_owned())
            .spawn(move || thread.run(&waiting))
            .map_err(|error| KafkaError::Client(error.to_string()))?;
        Ok(Self { questions })
    }

    /// The brokers' ids; waits for Kafka as long as a start may take.
    pub(super) async fn brokers(&self) -> Result<Vec<i32>, KafkaError> {
        let gone = || KafkaError::Client("its thread ended".to_owned());
        let (answer, answered) = oneshot::channel();
        self.questions
            .try_send(Question::Brokers(answer))
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The topics, as one broker knows them.
    pub(super) async fn topics(&self) -> Result<Arc<Listing>, String> {
        let (answer, answered) = oneshot::channel();
        self.questions
            .try_send(Question::Topics(answer))
            .map_err(|_| "too many questions wait".to_owned())?;
        answered.await.map_err(|_| "its thread ended".to_owned())?
    }

    /// Asks for the ends of partitions, to be answered into `answer`. False: too many questions wait.
    pub(super) fn ends(
        &self,
        topic: &str,
        partitions: Vec<u16>,
        with_first: bool,
        answer: SyncSender<Ends>,
    ) -> bool {
        let topic = topic.to_owned();
        self.questions
            .try_send(Question::Ends {
                topic,
                partitions,
                with_first,
                answer,
            })
            .is_ok()
    }
}

struct Thread {
    config: KafkaConfig,
    counters: Arc<Counters>,
    client: BaseConsumer<Ears>,
}

fn connect(config: &KafkaConfig, counters: &Arc<Counters>) -> Result<BaseConsumer<Ears>, ClientError> {
    let ears = Ears::that_count(Arc::clone(counters));
    config.looker().create_with_context(ears)
}

impl Thread {
    fn run(&mut self, waiting: &Receiver<Question>) {
        let mut lists = Vec::new();
        loop {
            match waiting.recv_timeout(IDLE) {
                Ok(question) => self.take(question, &mut lists),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(question) = waiting.try_recv() {
                self.take(question, &mut lists);
            }
            if !lists.is_empty() {
                let listing = self.list().map(|metadata| Arc::new(listing_of(&metadata)));
                for answer in lists.drain(..) {
                    // Who no longer waits does not need it.
                    let _ = answer.send(listing.clone());
                }
            }
            self.hear();
        }
    }

    fn take(&mut self, question: Question, lists: &mut Vec<oneshot::Sender<Result<Arc<Listing>, String>>>) {
        match question {
            Question::Brokers(answer) => {
                let _ = answer.send(self.brokers());
            }
            Question::Topics(answer) => lists.push(answer),
            Question::Ends {
                topic,
                partitions,
                with_first,
                answer,
            } => {
                let _ = answer.try_send(self.ends(&topic, &partitions, with_first));
            }
        }
    }

    /// Lets the client say all it has to say: its queue of complaints has no bound of its own.
    fn hear(&self) {
        // A consumer without a group has lines of log, errors and statistics in its queue and nothing else. A poll that
        // found a line says nothing, like one that found the queue empty (rdkafka 0.39); only the context knows which it
        // was.
        let ears = self.client.context();
        loop {
            let heard = ears.heard();
            let spoke = self.client.poll(Duration::ZERO).is_some();
            if !spoke && ears.heard() == heard {
                return;
            }
        }
    }

    fn brokers(&mut self) -> Result<Vec<i32>, KafkaError> {
        let clock = Clock::start();
        loop {
            let answer = self.client.fetch_metadata(None, ATTEMPT);
            let failure = match answer {
                Ok(metadata) if !metadata.brokers().is_empty() => {
                    return Ok(metadata.brokers().iter().map(MetadataBroker::id).collect());
                }
                Ok(_) => {
                    self.replace();
                    NO_BROKERS.to_owned()
                }
                Err(error) => error.to_string(),
            };
            self.hear();
            let context = self.client.context();
            let is_final = context.worst().is_some_and(|worst| worst.is_final());
            if is_final || clock.now().mono > START_MAX {
                return Err(context.explain(&self.config.servers, &failure));
            }
        }
    }

    fn list(&mut self) -> Result<Metadata, String> {
        let failure = match self.client.fetch_metadata(None, ANSWER_MAX) {
            Ok(metadata) if !metadata.brokers().is_empty() => return Ok(metadata),
            Ok(_) => NO_BROKERS.to_owned(),
            Err(error) => error.to_string(),
        };
        self.replace();
        Err(failure)
    }

    /// Connects anew: see the top of this file.
    fn replace(&mut self) {
        match connect(&self.config, &self.counters) {
            Ok(client) => end_elsewhere(std::mem::replace(&mut self.client, client)),
            Err(error) => tracing::error!(%error, "the client that asks Kafka could not be replaced"),
        }
    }

    fn ends(&mut self, topic: &str, partitions: &[u16], with_first: bool) -> Ends {
        let ends = self.offsets(topic, partitions, Offset::End);
        let firsts = if with_first && ends.is_ok() {
            self.offsets(topic, partitions, Offset::Beginning)
        } else {
            Ok(HashMap::new())
        };
        match ends.and_then(|ends| Ok((ends, firsts?))) {
            Ok((ends, firsts)) => Ends::At(
                ends.into_iter()
                    .map(|(partition, end)| (partition, firsts.get(&partition).copied(), end))
                    .collect(),
            ),
            Err(error) if error.rdkafka_error_code().is_some_and(is_no_topic) => Ends::NoTopic,
            Err(error) => {
                self.replace();
                Ends::Unknown(error.to_string())
            }
        }
    }

    /// Offsets of one end of partitions. Kafka takes a logical offset in the place of a time.
    fn offsets(
        &self,
        topic: &str,
        partitions: &[u16],
        end: Offset,
    ) -> Result<HashMap<u16, u64>, ClientError> {
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition_offset(topic, i32::from(*partition), end)?;
        }
        let found = self.client.offsets_for_times(wanted, ANSWER_MAX)?;
        let mut offsets = HashMap::new();
        for element in found.elements() {
            element.error()?;
            if let (Ok(partition), Offset::Offset(offset)) =
                (u16::try_from(element.partition()), element.offset())
                && let Ok(offset) = u64::try_from(offset)
            {
                offsets.insert(partition, offset);
            }
        }
        Ok(offsets)
    }
}

/// Whether a broker, or librdkafka on a broker's word, does not know a topic or a partition.
pub(super) fn is_no_topic(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId
    )
}

fn listing_of(metadata: &Metadata) -> Listing {
    let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
    let topics = topics.map(|topic| {
        let partitions = topic.partitions();
        let listed = Listed {
            partitions: u16::try_from(partitions.len()).unwrap_or(u16::MAX),
            is_led: partitions.iter().all(|partition| partition.leader() >= 0),
        };
        (topic.name().to_owned(), listed)
    });
    Listing {
        topics: topics.collect(),
    }
}
