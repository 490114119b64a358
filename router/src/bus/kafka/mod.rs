//! The bus of a cluster: one topic of Apache Kafka per gateway boot.
//!
//! Routers publish into it, the gateway that owns the boot reads it. What waits is held by Kafka, up to the topic's
//! retention; what retention took is told as lost. A topic that is gone is told as such to both sides and its name is
//! never used again, so the gateway takes a new boot. Every outcome that is not known is [`BusError::Unavailable`].
//!
//! Consumption needs no word to Kafka: who fetches says from where, and what lies before is left behind in memory and
//! kept by Kafka until retention takes it. An offset that was left behind is read again when it is asked for.
//!
//! | file | owns |
//! |---|---|
//! | `publisher.rs`, `producer.rs` | records on their way into Kafka; the producer, its thread, its replacement |
//! | `unconsumed.rs` | how much each boot was sent and did not report |
//! | `reader.rs`, `window.rs` | what was read of a topic and is not left behind |
//! | `consumer.rs`, `watch.rs` | the thread that reads a topic; which partition stands still |
//! | `topics.rs`, `looker.rs` | topics; the thread that asks Kafka what there is |
//! | `janitor.rs` | topics of dead boots |
//! | `config.rs`, `check.rs`, `error.rs` | settings; what must hold before anything starts |

mod check;
mod config;
mod consumer;
mod counters;
mod ears;
mod error;
mod janitor;
mod looker;
mod producer;
mod publisher;
mod reader;
mod topics;
mod unconsumed;
mod watch;
mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corelane_protocol::id::BootId;
use corelane_protocol::limits::BUS_RECORD_BYTES_MAX;
use rdkafka::error::RDKafkaErrorCode as Code;

pub use self::config::{KafkaConfig, Password, SaslConfig, SaslMechanism, TlsConfig};
pub use self::counters::KafkaFigures;
pub use self::error::KafkaError;
pub use self::janitor::Janitor;

use self::consumer::ConsumerThread;
use self::counters::Counters;
use self::looker::is_no_topic;
use self::publisher::{Publisher, Refused};
use self::reader::{Reader, Step};
use self::topics::{Topics, Verdict};
use self::unconsumed::Unconsumed;
use super::memory::PARTITIONS_MAX;
use super::{Bus, BusError, Fetched};

/// The Kafka bus.
#[derive(Debug)]
pub struct KafkaBus {
    config: KafkaConfig,
    counters: Arc<Counters>,
    topics: Topics,
    publisher: Publisher,
    unconsumed: Unconsumed,
    readers: Mutex<HashMap<BootId, Arc<Reader>>>,
    reach: Reach,
}

/// Whether Kafka could be reached the last time it was asked for something.
#[derive(Debug, Default)]
struct Reach(AtomicBool);

impl Reach {
    fn note<T>(&self, answer: &Result<T, BusError>) {
        match answer {
            Ok(_) => self.0.store(false, Ordering::Relaxed),
            Err(BusError::Unavailable(_)) => self.0.store(true, Ordering::Relaxed),
            // Known here; Kafka was not asked.
            Err(_) => {}
        }
    }

    fn is_away(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl KafkaBus {
    /// Connects and checks that the brokers are set up so that nothing gets lost. Takes up to 25 s when none answers.
    ///
    /// # Errors
    ///
    /// [`KafkaError`]: what is wrong and how to mend it; do not start.
    pub async fn connect(config: KafkaConfig) -> Result<Self, KafkaError> {
        config.check()?;
        let counters = Arc::<Counters>::default();
        let topics = Topics::start(config.clone(), Arc::clone(&counters))?;
        check::check(&config, &topics).await?;
        let publisher = Publisher::new(config.clone(), Arc::clone(&counters));
        Ok(Self {
            unconsumed: Unconsumed::new(config.unconsumed_bytes_max),
            config,
            counters,
            topics,
            publisher,
            readers: Mutex::default(),
            reach: Reach::default(),
        })
    }

    /// What it has counted.
    pub fn figures(&self) -> KafkaFigures {
        self.counters.figures(self.publisher.waiting())
    }

    /// All boots that have a topic, dead ones included, as one broker knows them.
    ///
    /// # Errors
    ///
    /// [`BusError::Unavailable`]: ask again.
    pub async fn boots(&self) -> Result<Vec<BootId>, BusError> {
        let boots = self.topics.boots().await;
        self.reach.note(&boots);
        boots
    }

    /// Whether Kafka could not be reached the last time it was asked for something: every record asks, and the sweep of
    /// the routers once a minute.
    pub fn is_away(&self) -> bool {
        self.reach.is_away()
    }

    /// Nobody publishes to this boot any more, or reads it: it is dead. Its topic is left to the [`Janitor`]; here it
    /// counts as gone from now on. True: that is new.
    pub fn abandon(&self, boot: BootId) -> bool {
        self.forget(boot);
        self.topics.note_abandoned(boot)
    }

    /// Whether a boot has a topic; that it has none takes a few seconds to believe. True as well while nobody knows.
    pub async fn has_topic(&self, boot: BootId) -> bool {
        !matches!(self.partitions(boot).await, Err(BusError::NoTopic(_)))
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<BootId, Arc<Reader>>> {
        // A panic elsewhere leaves the map whole: every change is made in one go.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A boot's topic was found to be gone.
    fn found_gone(&self, boot: BootId) {
        if self.forget(boot) {
            self.counters.topics_gone.add(1);
        }
    }

    /// A boot's topic is gone: whoever waits learns so, and nothing is asked of Kafka for it any more. True: that is new.
    fn forget(&self, boot: BootId) -> bool {
        let is_new = self.topics.note_gone(boot);
        if is_new {
            self.publisher.forget(boot);
        }
        self.unconsumed.forget(boot);
        let reader = self.readers().remove(&boot);
        if let Some(reader) = reader {
            reader.end_without_topic();
        }
        is_new
    }

    /// The reader of a boot's topic, started if there is none.
    async fn reader(&self, boot: BootId) -> Result<Arc<Reader>, BusError> {
        if let Some(reader) = self.readers().get(&boot) {
            return Ok(Arc::clone(reader));
        }
        let partitions = match self.topics.known(boot) {
            Some(partitions) => partitions,
            None => self.partitions(boot).await?,
        };
        let mut readers = self.readers();
        if let Some(reader) = readers.get(&boot) {
            return Ok(Arc::clone(reader));
        }
        let topic = self.topics.name(boot);
        let bytes_max = self.config.read_ahead_bytes_max;
        let reader = Arc::new(Reader::new(boot, topic, partitions, bytes_max));
        ConsumerThread::new(
            Arc::clone(&reader),
            self.config.clone(),
            self.topics.looker.clone(),
            Arc::clone(&self.counters),
        )
        .and_then(ConsumerThread::start)
        .map_err(|error| BusError::Unavailable(error.to_string()))?;
        readers.insert(boot, Arc::clone(&reader));
        Ok(reader)
    }

    /// Partitions of a boot's topic, asked for.
    async fn partitions(&self, boot: BootId) -> Result<u16, BusError> {
        match self.topics.judge(boot).await {
            Verdict::There(partitions) => Ok(partitions),
            Verdict::Unknown(why) => Err(BusError::Unavailable(why)),
            Verdict::Gone => {
                self.found_gone(boot);
                Err(BusError::NoTopic(boot.0))
            }
        }
    }

    /// What a record that has no offset comes back with.
    async fn unpublished(&self, boot: BootId, partition: u16, code: Code) -> BusError {
        let why = match code {
            // Kafka's word alone is not enough: a broker that lags does not know a new topic yet.
            code if is_no_topic(code) => match self.partitions(boot).await {
                Ok(partitions) if partition >= partitions => {
                    return BusError::NoPartition {
                        partition,
                        partitions,
                    };
                }
                Ok(_) => format!("{code}, but the topic is there"),
                Err(error) => return error,
            },
            Code::TopicAuthorizationFailed => format!(
                "{code}; grant the user Write and Describe on topics that begin with {}",
                self.config.topic_prefix
            ),
            code => code.to_string(),
        };
        BusError::Unavailable(why)
    }

    async fn publish_once(
        &self,
        boot: BootId,
        partition: u16,
        number: u64,
        record: Arc<[u8]>,
    ) -> Result<u64, BusError> {
        if record.len() > BUS_RECORD_BYTES_MAX {
            return Err(BusError::TooLarge(record.len()));
        }
        if self.topics.is_gone(boot) {
            return Err(BusError::NoTopic(boot.0));
        }
        if !self.unconsumed.add(boot, partition, number, record.len()) {
            self.forget(boot);
            return Err(BusError::Overflow {
                boot: boot.0,
                bytes_max: self.config.unconsumed_bytes_max,
            });
        }
        // Handed over before the first await: records of a partition are in the order of the calls.
        let sent = self
            .publisher
            .send(boot, || self.topics.name(boot), partition, record);
        let code = match sent {
            Ok(answered) => match answered.await {
                Ok(Ok(offset)) => return Ok(offset),
                Ok(Err(code)) => code,
                Err(_) => return Err(BusError::Unavailable("the producer ended".to_owned())),
            },
            Err(Refused::Producer(code)) => code,
            Err(Refused::Full) => {
                let (records, bytes) = self.publisher.waiting();
                let why = format!("{records} records of {bytes} bytes wait to be published");
                return Err(BusError::Unavailable(why));
            }
        };
        Err(self.unpublished(boot, partition, code).await)
    }
}

impl Bus for KafkaBus {
    async fn create(&self, boot: BootId, partitions: u16) -> Result<(), BusError> {
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return Err(BusError::NoPartition {
                partition: partitions,
                partitions: PARTITIONS_MAX,
            });
        }
        self.topics.create(boot, partitions).await
    }

    async fn publish(
        &self,
        boot: BootId,
        partition: u16,
        number: u64,
        record: Arc<[u8]>,
    ) -> Result<u64, BusError> {
        let published = self.publish_once(boot, partition, number, record).await;
        self.reach.note(&published);
        published
    }

    async fn fetch(
        &self,
        boot: BootId,
        partition: u16,
        from: u64,
        bytes_max: usize,
    ) -> Result<Fetched, BusError> {
        loop {
            if self.topics.is_gone(boot) {
                return Err(BusError::NoTopic(boot.0));
            }
            let reader = self.reader(boot).await?;
            match reader.fetch(partition, from, bytes_max) {
                Step::Wait(changed) => changed.await,
                Step::Done(Err(error @ BusError::NoTopic(_))) => {
                    self.found_gone(boot);
                    return Err(error);
                }
                Step::Done(done) => return done,
                Step::Ended => {
                    let mut readers = self.readers();
                    if readers
                        .get(&boot)
                        .is_some_and(|known| Arc::ptr_eq(known, &reader))
                    {
                        readers.remove(&boot);
                    }
                }
            }
        }
    }

    fn consumed(&self, boot: BootId, partition: u16, number: u64) {
        // Only counted: a topic has records of many routers, and what is read goes by the offsets fetched from.
        self.unconsumed.consumed(boot, partition, number);
    }

    async fn delete(&self, boot: BootId) -> Result<(), BusError> {
        self.topics.delete(boot).await?;
        self.forget(boot);
        Ok(())
    }
}

impl Drop for KafkaBus {
    fn drop(&mut self) {
        for reader in self.readers().values() {
            reader.end_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_is_away_from_an_answer_that_did_not_come_until_the_next_that_did() {
        let reach = Reach::default();
        assert!(!reach.is_away());
        reach.note::<u64>(&Err(BusError::Unavailable("timed out".to_owned())));
        assert!(reach.is_away());
        reach.note::<u64>(&Err(BusError::NoTopic(1)));
        assert!(reach.is_away(), "that was known here");
        reach.note(&Ok(1));
        assert!(!reach.is_away());
    }
}
