//! What the adapter counts.

use std::fmt::Write as _;
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
    pub(super) metadata: Count,
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
    /// Metadata requests that librdkafka sent, its own included. `ears.rs` says what is left out.
    pub metadata_requests: u64,
}

impl KafkaFigures {
    /// Appends all of it in the text format of Prometheus, under names that begin with `prefix`.
    pub fn render(&self, prefix: &str, into: &mut String) {
        let (gauge, counter) = ("gauge", "counter");
        let (records, bytes) = (self.waiting_records as u64, self.waiting_bytes as u64);
        let rows = [
            (
                "waiting_records",
                gauge,
                "Records on their way into Kafka.",
                records,
            ),
            ("waiting_bytes", gauge, "Their bytes.", bytes),
            ("published_total", counter, "Records taken.", self.published),
            (
                "unpublished_total",
                counter,
                "Records of unknown outcome.",
                self.unpublished,
            ),
            ("producers_total", counter, "Producers made.", self.producers),
            ("read_total", counter, "Records read.", self.read),
            ("losses_total", counter, "Losses found.", self.losses),
            ("stalls_total", counter, "Partitions read anew.", self.stalls),
            ("consumers_total", counter, "Consumers made.", self.consumers),
            (
                "topics_gone_total",
                counter,
                "Topics found gone.",
                self.topics_gone,
            ),
            (
                "questions_total",
                counter,
                "Lists of topics asked for.",
                self.questions,
            ),
            (
                "metadata_requests_total",
                counter,
                "Metadata requests sent, as librdkafka last said.",
                self.metadata_requests,
            ),
        ];
        for (row, kind, help, value) in rows {
            let name = format!("{prefix}_kafka_{row}");
            let _ = writeln!(into, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
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
            metadata_requests: self.metadata.get(),
        }
    }
}
