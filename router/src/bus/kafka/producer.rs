//! One idempotent producer of librdkafka and the thread that polls it.
//!
//! Delivery reports come only when polled, so each producer has a thread for nothing else. A producer dies in four
//! ways: it is retired (it knows too many topics that are gone, and would ask for their metadata for ever), it is given up
//! (a record of it timed out), librdkafka declares it dead (a fatal error of the idempotent protocol), or the bus goes. In
//! all of them its thread polls until every record it took has its report, drops it, and ends; dropping it elsewhere would
//! block for half a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use corelane_protocol::id::BootId;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use tokio::sync::oneshot;

use super::config::KafkaConfig;
use super::counters::Counters;
use super::ears::Ears;
use super::error::KafkaError;
use super::publisher::Shared;

/// How often a producer is looked after while nothing is reported.
const POLL: Duration = Duration::from_millis(100);

/// What became of a record: its offset, or why it has none that is known.
pub(super) type Outcome = Result<u64, Code>;

/// A record on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) boot: BootId,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// One producer.
pub(super) struct Producer {
    pub(super) id: u64,
    client: BaseProducer<Reports>,
    is_retired: AtomicBool,
    is_given_up: AtomicBool,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Producer {
    /// Makes a producer and starts its thread.
    pub(super) fn start(
        config: &KafkaConfig,
        id: u64,
        owner: Weak<Shared>,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>, KafkaError> {
        let reports = Reports {
            owner: Weak::clone(&owner),
            ears: Ears::that_count(counters),
        };
        let client = config
            .producer()
            .create_with_context(reports)
            .map_err(|error: ClientError| KafkaError::Client(error.to_string()))?;
        let producer = Arc::new(Self {
            id,
            client,
            is_retired: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        });
        let thread = Arc::clone(&producer);
        std::thread::Builder::new()
            .name("kafka-publish".to_owned())
            .spawn(move || thread.run(&owner))
            .map_err(|error| KafkaError::Client(error.to_string()))?;
        Ok(producer)
    }

    /// Hands a record over. Never blocks; a record that is refused comes back with the reason.
    pub(super) fn send(
        &self,
        topic: &str,
        partition: u16,
        record: &[u8],
        waiting: Box<Waiting>,
    ) -> Result<(), (Code, Box<Waiting>)> {
        let base: BaseRecord<'_, (), [u8], Box<Waiting>> = BaseRecord::with_opaque_to(topic, waiting)
            .partition(i32::from(partition))
            .payload(record);
        self.client.send(base).map_err(|(error, base)| {
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            (code, base.delivery_opaque)
        })
    }

    /// It gets no more records: its thread ends it when the last has its report. Those that it was given up with have
    /// theirs at once.
    pub(super) fn retire(&self, is_given_up: bool) {
        self.is_given_up.store(is_given_up, Ordering::Release);
        self.is_retired.store(true, Ordering::Release);
    }

    fn run(self: Arc<Self>, owner: &Weak<Shared>) {
        let mut is_purged = false;
        loop {
            self.client.poll(POLL);
            let fatal = self.client.client().fatal_error();
            let is_given_up = self.is_given_up.load(Ordering::Acquire);
            if (fatal.is_some() || is_given_up) && !std::mem::replace(&mut is_purged, true) {
                // Nothing that waits can be sent any more; each gets its report, of unknown outcome.
                self.client.purge(PurgeConfig::default().queue().inflight());
            }
            if self.is_retired.load(Ordering::Acquire) && self.client.in_flight_count() == 0 {
                return;
            }
            match owner.upgrade() {
                Some(owner) => {
                    let why = fatal.map(|(code, text)| format!("{text} ({code})"));
                    owner.tend(self.id, why);
                }
                None => self.retire(false),
            }
        }
    }
}

/// Takes a producer's reports.
struct Reports {
    owner: Weak<Shared>,
    ears: Ears,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.ears.log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.ears.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.ears.stats_raw(statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        let outcome = match result {
            // A record that the broker had already comes without its offset: taken, but nobody knows where.
            Ok(message) => u64::try_from(message.offset()).map_err(|_| Code::DuplicateSequenceNumber),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Fail)),
        };
        if let Some(owner) = self.owner.upgrade() {
            owner.reported(&waiting, outcome);
        }
        // Who no longer waits does not need it.
        let _ = waiting.answer.send(outcome);
    }
}
