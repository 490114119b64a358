//! What librdkafka says unasked: its log lines and errors, kept for whoever must tell why nothing works.
//!
//! Owns the last complaint. While brokers are away librdkafka complains several times a second; so all of it is logged
//! at `debug`, and the adapter itself warns when a state changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};

use super::error::KafkaError;

/// Listens to one client.
#[derive(Debug, Default)]
pub(super) struct Ears {
    worst: Mutex<Option<Complaint>>,
    /// Lines and errors so far.
    heard: AtomicU64,
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
    /// How many lines and errors there were so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
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

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(?level, facility, message, "librdkafka");
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
