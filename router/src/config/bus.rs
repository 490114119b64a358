//! The section `[bus]`: how Kafka is reached, or that there is none.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use crate::bus::kafka::{KafkaConfig, Password, SaslConfig, SaslMechanism, TlsConfig};

/// The way of deliveries to the gateways.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusSection {
    /// Brokers of Kafka, `host:port,host:port`; the others are learned from them. Empty: in the memory of this router,
    /// which must then be the only one. Default empty.
    pub servers: String,
    /// What names of topics begin with; the same at all routers and gateways. Default `deliver`.
    pub topic_prefix: String,
    /// User; empty: none.
    pub user: String,
    /// Password. Better given by `CORELANE__BUS__PASSWORD`.
    #[serde(deserialize_with = "super::secret::password")]
    pub password: String,
    /// How the password is proven: `PLAIN` (over TLS only), `SCRAM-SHA-256` or `SCRAM-SHA-512`. Default the last.
    pub mechanism: SaslMechanism,
    /// Whether the brokers' port speaks TLS. Default false.
    pub tls: bool,
    /// File of the certificates (PEM) of the authorities that are trusted; empty: those of the system.
    pub tls_ca: PathBuf,
    /// File of the certificate (PEM) that is shown to brokers that ask for one; empty: none.
    pub tls_certificate: PathBuf,
    /// File of its key (PEM).
    pub tls_key: PathBuf,
    /// How long a record waits for others to share a request, in ms, at most 100. Below 5,000 records/s 0 is best,
    /// above it 1. Default 0.
    pub linger_ms: u32,
    /// After this time, in ms, 5,000 to 30,000, a record that Kafka did not answer is published again. Shorter than a
    /// restart of a broker takes: each restart changes the order of records. Default 8,000.
    pub publish_timeout_ms: u32,
    /// How long the topic of a dead gateway is kept, in s, 60 to 604,800. Default 3,600.
    pub topic_keep_secs: u32,
}

impl Default for BusSection {
    fn default() -> Self {
        let KafkaConfig {
            topic_prefix,
            linger_ms,
            publish_timeout_ms,
            ..
        } = KafkaConfig::default();
        Self {
            servers: String::new(),
            topic_prefix,
            user: String::new(),
            password: String::new(),
            mechanism: SaslMechanism::default(),
            tls: false,
            tls_ca: PathBuf::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            linger_ms,
            publish_timeout_ms,
            topic_keep_secs: 3_600,
        }
    }
}

/// The password is not shown.
impl std::fmt::Debug for BusSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusSection")
            .field("servers", &self.servers)
            .field("topic_prefix", &self.topic_prefix)
            .field("user", &self.user)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl BusSection {
    /// How Kafka is reached; `None`: the bus is in memory.
    pub fn kafka(&self) -> Option<KafkaConfig> {
        let file = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let tls = self.tls.then(|| TlsConfig {
            ca_file: file(&self.tls_ca),
            certificate_file: file(&self.tls_certificate),
            key_file: file(&self.tls_key),
        });
        let sasl = (!self.user.is_empty()).then(|| SaslConfig {
            mechanism: self.mechanism,
            user: self.user.clone(),
            password: Password(self.password.clone()),
        });
        (!self.servers.is_empty()).then(|| KafkaConfig {
            servers: self.servers.clone(),
            topic_prefix: self.topic_prefix.clone(),
            linger_ms: self.linger_ms,
            publish_timeout_ms: self.publish_timeout_ms,
            tls,
            sasl,
            ..KafkaConfig::default()
        })
    }

    /// Finds mistakes that need no broker to be seen.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(60..=604_800).contains(&self.topic_keep_secs) {
            return Err(ConfigError::Range {
                key: "bus.topic_keep_secs",
                value: self.topic_keep_secs.to_string(),
                allowed: "60 to 604,800",
            });
        }
        let files = [
            ("bus.tls_ca", &self.tls_ca),
            ("bus.tls_certificate", &self.tls_certificate),
            ("bus.tls_key", &self.tls_key),
        ];
        for (key, path) in files {
            if !self.tls && !path.as_os_str().is_empty() {
                return Err(ConfigError::Range {
                    key,
                    value: path.display().to_string(),
                    allowed: "empty, or bus.tls = true",
                });
            }
        }
        if let Some(kafka) = self.kafka() {
            kafka.check()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: impl FnOnce(&mut BusSection)) -> Result<(), String> {
        let mut section = BusSection::default();
        change(&mut section);
        section.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_mistake_is_named_with_what_is_allowed() {
        assert_eq!(checked(|_| {}), Ok(()));
        let text = checked(|section| section.tls_ca = "ca.pem".into()).unwrap_err();
        assert!(
            text.contains("bus.tls_ca") && text.contains("bus.tls = true"),
            "{text}"
        );
        let text = checked(|section| section.topic_keep_secs = 1).unwrap_err();
        assert!(
            text.contains("bus.topic_keep_secs") && text.contains("604,800"),
            "{text}"
        );
        let text = checked(|section| {
            section.servers = "kafka:9092".to_owned();
            section.linger_ms = 500;
        })
        .unwrap_err();
        assert!(
            text.contains("bus.linger_ms") && text.contains("0 to 100"),
            "{text}"
        );
    }

    #[test]
    fn a_user_and_tls_reach_the_client_and_the_password_is_not_shown() {
        let section = BusSection {
            servers: "kafka:9092".to_owned(),
            user: "corelane".to_owned(),
            password: "quite secret".to_owned(),
            tls: true,
            tls_ca: "ca.pem".into(),
            ..BusSection::default()
        };
        let kafka = section.kafka().unwrap();
        assert_eq!(kafka.tls.unwrap().ca_file, Some("ca.pem".into()));
        let sasl = kafka.sasl.unwrap();
        assert_eq!(
            (sasl.mechanism, sasl.password.0.as_str()),
            (SaslMechanism::ScramSha512, "quite secret")
        );
        assert!(!format!("{section:?}").contains("secret"));
    }
}
