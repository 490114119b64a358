//! What librdkafka says unasked: its log lines and errors, kept for whoever must tell why nothing works.
//!
//! Owns the last complaint. While brokers are away librdkafka complains several times a second; so all of it is logged
//! at `debug`, and the adapter itself warns when a state changes.
//!
//! Of its statistics only the number of Metadata requests is kept: asking for topics that are gone, over and over, is how
//! clients harm brokers. Every `config::STATISTICS` the producer in use and the client that asks for
//! lists say theirs; what a client sent after it last said so is not counted, nor what consumers and the client that makes
//! and deletes topics send.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use serde::Deserialize;

use super::counters::Counters;
use super::error::KafkaError;

/// Listens to one client.
#[derive(Debug, Default)]
pub(super) struct Ears {
    worst: Mutex<Option<Complaint>>,
    /// Lines, errors and statistics so far.
    heard: AtomicU64,
    requests: Option<Requests>,
}

/// Metadata requests of one client.
#[derive(Debug)]
struct Requests {
    counters: Arc<Counters>,
    /// How many it had sent when it last said so.
    said: Mutex<u64>,
}

/// What is read of librdkafka's statistics.
#[derive(Debug, Deserialize)]
struct Statistics {
    brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Debug, Deserialize)]
struct BrokerStatistics {
    req: RequestCounts,
}

#[derive(Debug, Deserialize)]
struct RequestCounts {
    #[serde(rename = "Metadata", default)]
    metadata: u64,
}

/// Something a client said.
#[derive(Debug, Clone)]
pub(super) struct Complaint {
    code: Code,
    reason: String,
}

impl Complaint {
    /// How much it explains: that all brokers are down follows from anything.
    fn weight(&self) -> u8 {
        match self.code {
            Code::Authentication => 4,
            Code::SSL => 3,
            Code::Resolve => 2,
            Code::BrokerTransportFailure => 1,
            _ => 0,
        }
    }

    /// Whether time does not mend it.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.code, Code::Authentication | Code::SSL)
    }
}

impl Ears {
    /// How many lines, errors and statistics there were so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Ears that count the client's requests, too.
    pub(super) fn that_count(counters: Arc<Counters>) -> Self {
        let said = Mutex::default();
        Self {
            requests: Some(Requests { counters, said }),
            ..Self::default()
        }
    }

    /// What explains most of what was said.
    pub(super) fn worst(&self) -> Option<Complaint> {
        self.worst.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no broker answers.
    pub(super) fn explain(&self, servers: &str, otherwise: &str) -> KafkaError {
        let servers = servers.to_owned();
        let Some(Complaint { code, reason }) = self.worst() else {
            let reason = otherwise.to_owned();
            return KafkaError::Unreachable { servers, reason };
        };
        match code {
            Code::Authentication => KafkaError::Refused { servers, reason },
            Code::SSL => KafkaError::Tls { servers, reason },
            Code::Resolve => KafkaError::Unresolved { servers, reason },
            _ => KafkaError::Unreachable { servers, reason },
        }
    }
}

impl Requests {
    /// The client has sent so many in all.
    fn sent(&self, in_all: u64) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // Counts of a broker that is not known any more are gone.
        self.counters.metadata.add(in_all.saturating_sub(*said));
        *said = in_all;
    }
}

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let Some(requests) = &self.requests else { return };
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                let sent = statistics.brokers.values().map(|broker| broker.req.metadata);
                requests.sent(sent.sum());
            }
            Err(error) => tracing::debug!(%error, "librdkafka's statistics"),
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, reason, "librdkafka");
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let heard = Complaint {
            code,
            reason: reason.to_owned(),
        };
        let mut worst = self.worst.lock().unwrap_or_else(PoisonError::into_inner);
        if worst
            .as_ref()
            .is_none_or(|known| known.weight() <= heard.weight())
        {
            *worst = Some(heard);
        }
    }
}

impl ConsumerContext for Ears {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_requests_are_summed_over_brokers_and_counted_once() {
        let counters = Arc::<Counters>::default();
        let ears = Ears::that_count(Arc::clone(&counters));
        let said = |one: u64, other: u64| {
            let text = format!(
                r#"{{"name": "x", "brokers": {{"a:1/1": {{"nodeid": 1, "req": {{"Produce": 9, "Metadata": {one}}}}},
                "a:1/bootstrap": {{"req": {{"Metadata": {other}}}}}}}, "topics": {{}}}}"#
            );
            ears.stats_raw(text.as_bytes());
            counters.figures((0, 0)).metadata_requests
        };
        assert_eq!((said(2, 1), said(2, 1), said(6, 1)), (3, 3, 7));
        ears.stats_raw(b"nonsense");
        assert_eq!(said(6, 1), 7);
        Ears::default().stats_raw(b"{}");
    }
}
