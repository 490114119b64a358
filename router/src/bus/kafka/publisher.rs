//! Records on their way into Kafka: the producer in use, its replacement, and the bounds of what waits.
//!
//! Owns, per gateway boot, how many records and bytes are on their way, at most `publish_bytes_max` / 4 of one boot and
//! `publish_bytes_max` of all; one record more is refused, and published again later by whoever publishes. A producer is
//! replaced when it is dead, when a record of it timed out, when it knows topics that are gone, or is old; the records of a
//! boot that come meanwhile are parked until the old producer has reported its last one of that boot, so the order of a
//! partition is kept. The first one is made for the first record: who only reads has none.
//!
//! That a record timed out says that Kafka is away, or that librdkafka waits for something that never comes. Nobody can
//! tell the two apart, so both are met alike: what the producer still has is given up, which its callers publish again, and
//! a new one connects anew, at most one in the time that a record is waited for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::BootId;
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::oneshot;

use super::config::KafkaConfig;
use super::counters::Counters;
use super::looker::is_no_topic;
use super::producer::{Outcome, Producer, Waiting};
use crate::clock::Clock;

/// Topics that are gone and that the producer in use knows, before it is replaced.
const GONE_TOPICS_MAX: usize = 32;
/// How long it may know one.
const GONE_TOPIC_AGE: Duration = Duration::from_mins(1);
/// How long a producer is used: topics that nobody publishes to any more are forgotten with it.
const PRODUCER_AGE: Duration = Duration::from_mins(10);
/// A producer lives at least so long, or one that dies at once would be replaced without end.
const PRODUCER_AGE_MIN: Duration = Duration::from_secs(1);

/// Publishes.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
}

/// What the threads of producers know of it.
#[derive(Debug)]
pub(super) struct Shared {
    config: KafkaConfig,
    clock: Clock,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None only until the first record.
    current: Option<Arc<Producer>>,
    made_at: Duration,
    /// Topics that are gone and that `current` was given records for.
    gone_topics: usize,
    gone_since: Duration,
    boots: HashMap<BootId, Route>,
    /// The last report was of a record that Kafka did not take.
    is_away: bool,
    /// A record timed out with `current`.
    timed_out: bool,
}

/// What is on its way to one boot.
#[derive(Debug)]
struct Route {
    /// The producer that its records are with.
    producer: u64,
    topic: String,
    /// Records that a producer has.
    sent: usize,
    /// Bytes of those and of the parked ones.
    bytes: usize,
    parked: VecDeque<Parked>,
    /// The topic is gone: what becomes of these records says nothing of the producer.
    is_gone: bool,
}

#[derive(Debug)]
struct Parked {
    partition: u16,
    record: Arc<[u8]>,
    waiting: Box<Waiting>,
}

/// A record that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// As much waits as may.
    Full,
    /// The producer said so.
    Producer(Code),
}

impl Publisher {
    pub(super) fn new(config: KafkaConfig, counters: Arc<Counters>) -> Self {
        let shared = Arc::new(Shared {
            config,
            clock: Clock::start(),
            counters,
            state: Mutex::default(),
        });
        Self { shared }
    }

    /// Hands a record over, behind all that were handed over for its partition before. Never blocks.
    pub(super) fn send(
        &self,
        boot: BootId,
        topic: impl FnOnce() -> String,
        partition: u16,
        record: Arc<[u8]>,
    ) -> Result<oneshot::Receiver<Outcome>, Refused> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        if state.current.is_none() {
            state.current = Some(self.shared.start_first()?);
            state.made_at = self.shared.clock.now().mono;
        }
        let current = state.current.as_ref().ok_or(Refused::Producer(Code::Fail))?;
        let route = state.boots.entry(boot).or_insert_with(|| Route {
            producer: current.id,
            topic: topic(),
            sent: 0,
            bytes: 0,
            parked: VecDeque::new(),
            is_gone: false,
        });
        if route.bytes + record.len() > self.shared.config.publish_bytes_per_boot() {
            return Err(Refused::Full);
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Box::new(Waiting {
            boot,
            bytes: record.len(),
            answer,
        });
        route.bytes += record.len();
        if route.producer != current.id && route.sent > 0 {
            route.parked.push_back(Parked {
                partition,
                record,
                waiting,
            });
            return Ok(answered);
        }
        route
            .send(current, partition, &record, waiting)
            .map_err(|(code, _)| match code {
                Code::QueueFull => Refused::Full,
                code => Refused::Producer(code),
            })?;
        Ok(answered)
    }

    /// A boot's topic is gone.
    pub(super) fn forget(&self, boot: BootId) {
        let now = self.shared.clock.now().mono;
        let mut state = self.shared.lock();
        if !state.boots.contains_key(&boot) {
            return;
        }
        if state.gone_topics == 0 {
            state.gone_since = now;
        }
        state.gone_topics += 1;
        match state.boots.get_mut(&boot) {
            Some(route) if !route.is_idle() => route.is_gone = true,
            _ => drop(state.boots.remove(&boot)),
        }
    }

    /// Records and bytes on their way.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.shared.lock();
        let routes = state.boots.values();
        routes.fold((0, 0), |(records, bytes), route| {
            (records + route.sent + route.parked.len(), bytes + route.bytes)
        })
    }
}

impl Route {
    fn is_idle(&self) -> bool {
        self.sent == 0 && self.parked.is_empty()
    }

    /// Gives a record, whose bytes are counted, to the producer in use.
    fn send(
        &mut self,
        current: &Producer,
        partition: u16,
        record: &[u8],
        waiting: Box<Waiting>,
    ) -> Result<(), (Code, Box<Waiting>)> {
        self.producer = current.id;
        match current.send(&self.topic, partition, record, waiting) {
            Ok(()) => {
                self.sent += 1;
                Ok(())
            }
            Err(refused) => {
                self.bytes -= record.len();
                Err(refused)
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves it whole: every change is made in one go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first producer. It connects by itself.
    fn start_first(self: &Arc<Self>) -> Result<Arc<Producer>, Refused> {
        let first = Producer::start(&self.config, 1, Arc::downgrade(self), Arc::clone(&self.counters))
            .map_err(|error| {
                tracing::error!(%error, "there is no Kafka producer");
                Refused::Producer(Code::Fail)
            })?;
        self.counters.producers.add(1);
        Ok(first)
    }

    /// A record that was sent has its report. Behind a boot's last one, what is parked follows.
    pub(super) fn reported(&self, waiting: &Waiting, outcome: Outcome) {
        let count = if outcome.is_ok() {
            &self.counters.published
        } else {
            &self.counters.unpublished
        };
        count.add(1);
        let mut refused = Vec::new();
        {
            let mut state = self.lock();
            let state = &mut *state;
            // A topic that is gone says nothing of Kafka.
            if !outcome.is_err_and(is_no_topic) {
                state.hear(outcome);
            }
            let (Some(current), Some(route)) = (&state.current, state.boots.get_mut(&waiting.boot)) else {
                return;
            };
            let has_timed_out = outcome == Err(Code::MessageTimedOut) && !route.is_gone;
            state.timed_out |= has_timed_out && route.producer == current.id;
            route.sent -= 1;
            route.bytes -= waiting.bytes;
            if route.sent == 0 {
                while let Some(Parked {
                    partition,
                    record,
                    waiting,
                }) = route.parked.pop_front()
                {
                    refused.extend(route.send(current, partition, &record, waiting).err());
                }
            }
        }
        for (code, waiting) in refused {
            // Who no longer waits does not need it.
            let _ = waiting.answer.send(Err(code));
        }
    }

    /// Replaces the producer in use when it is time. Said by its thread; those of older ones are not heard.
    pub(super) fn tend(self: Arc<Self>, producer: u64, fatal: Option<String>) {
        let now = self.clock.now().mono;
        let publish_timeout = Duration::from_millis(self.config.publish_timeout_ms.into());
        let is_due = {
            let state = self.lock();
            state
                .current
                .as_ref()
                .is_some_and(|current| current.id == producer)
                && state.is_due(now, fatal.is_some(), publish_timeout)
        };
        if !is_due {
            return;
        }
        if let Some(why) = fatal {
            tracing::warn!(
                why,
                "the Kafka producer is dead and replaced; what it held is published again"
            );
        }
        // Made outside the lock: it starts threads.
        match Producer::start(
            &self.config,
            producer + 1,
            Arc::downgrade(&self),
            Arc::clone(&self.counters),
        ) {
            Ok(next) => {
                self.counters.producers.add(1);
                self.lock().replace(next, now);
            }
            Err(error) => tracing::error!(%error, "the Kafka producer could not be replaced"),
        }
    }
}

impl State {
    /// Says when Kafka begins to refuse records, and when it takes them again; not once per record.
    fn hear(&mut self, outcome: Outcome) {
        let was_away = std::mem::replace(&mut self.is_away, outcome.is_err());
        match outcome {
            Ok(_) if was_away => tracing::info!("Kafka takes records again"),
            Err(why) if !was_away => {
                tracing::warn!(%why, "Kafka does not take records; they are published again");
            }
            _ => {}
        }
    }

    fn is_due(&self, now: Duration, is_dead: bool, publish_timeout: Duration) -> bool {
        let age = now.saturating_sub(self.made_at);
        let knows_too_long = self.gone_topics > 0 && now.saturating_sub(self.gone_since) > GONE_TOPIC_AGE;
        let is_stuck = self.timed_out && age > publish_timeout;
        age > PRODUCER_AGE_MIN
            && (is_dead
                || is_stuck
                || self.gone_topics >= GONE_TOPICS_MAX
                || knows_too_long
                || age > PRODUCER_AGE)
    }

    fn replace(&mut self, next: Arc<Producer>, now: Duration) {
        if let Some(old) = self.current.replace(next) {
            old.retire(self.timed_out);
        }
        self.made_at = now;
        self.timed_out = false;
        self.gone_topics = 0;
        self.boots.retain(|_, route| !route.is_idle());
    }
}
