//! What the adapter counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one bus.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: Count,
    pub(super) unpublished: Count,
    pub(super) producers: Count,
    pub(super) read: Count,
    pub(super) losses: Count,
    pub(super) stalls: Count,
    pub(super) consumers: Count,
    pub(super) topics_gone: Count,
    pub(super) questions: Count,
}

/// What a bus has counted since it was connected, and what waits in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KafkaFigures {
    /// Records that Kafka took.
    pub published: u64,
    /// Records that were given back with an unknown outcome.
    pub unpublished: u64,
    /// Records that have no report yet.
    pub waiting_records: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Producers made: 1, and one for each replacement.
    pub producers: u64,
    /// Records read.
    pub read: u64,
    /// Losses told to who fetches.
    pub losses: u64,
    /// Partitions that stood still with records to read, and were read anew.
    pub stalls: u64,
    /// Consumers made: one per topic read, and one for each that had to be replaced.
    pub consumers: u64,
    /// Topics found to be gone.
    pub topics_gone: u64,
    /// Requests for the list of topics.
    pub questions: u64,
}

impl KafkaFigures {
    /// Every figure: name, whether it is a gauge, help text, value.
    pub fn rows(&self) -> [(&'static str, bool, &'static str, u64); 11] {
        let waiting_records = self.waiting_records as u64;
        let waiting_bytes = self.waiting_bytes as u64;
        [
            (
                "kafka_published",
                false,
                "Records that Kafka took.",
                self.published,
            ),
            (
                "kafka_unpublished",
                false,
                "Records given back with an unknown outcome.",
                self.unpublished,
            ),
            (
                "kafka_waiting_records",
                true,
                "Records on their way into Kafka.",
                waiting_records,
            ),
            ("kafka_waiting_bytes", true, "Their bytes.", waiting_bytes),
            (
                "kafka_producers",
                false,
                "Producers made: one, and one per replacement.",
                self.producers,
            ),
            ("kafka_read", false, "Records read from Kafka.", self.read),
            (
                "kafka_losses",
                false,
                "Losses of records found while reading.",
                self.losses,
            ),
            (
                "kafka_stalls",
                false,
                "Partitions that stood still and were read anew.",
                self.stalls,
            ),
            (
                "kafka_consumers",
                false,
                "Consumers made: one per topic, and one per replacement.",
                self.consumers,
            ),
            (
                "kafka_topics_gone",
                false,
                "Topics found to be gone.",
                self.topics_gone,
            ),
            (
                "kafka_questions",
                false,
                "Requests for the list of topics.",
                self.questions,
            ),
        ]
    }
}

impl Counters {
    pub(super) fn figures(&self, (waiting_records, waiting_bytes): (usize, usize)) -> KafkaFigures {
        KafkaFigures {
            published: self.published.get(),
            unpublished: self.unpublished.get(),
            waiting_records,
            waiting_bytes,
            producers: self.producers.get(),
            read: self.read.get(),
            losses: self.losses.get(),
            stalls: self.stalls.get(),
            consumers: self.consumers.get(),
            topics_gone: self.topics_gone.get(),
            questions: self.questions.get(),
        }
    }
}
