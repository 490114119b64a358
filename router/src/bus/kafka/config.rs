//! How Kafka is reached and what a topic is given: the configuration of the adapter, and what librdkafka is told.
//!
//! librdkafka's defaults are not usable here: they lose, double or delay records without a word. Every setting below
//! that differs from its default says why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use corelane_protocol::limits::BUS_RECORD_BYTES_MAX;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use serde::Deserialize;

use super::super::memory::BYTES_MAX;
use super::error::KafkaError;

/// The longest a record may be on the wire: its bytes and what Kafka puts around a batch.
pub(super) const MESSAGE_BYTES_MAX: usize = BUS_RECORD_BYTES_MAX + 64 * 1024;
/// Bytes of a segment file. Retention deletes whole segments, so several must fit in what a partition may hold.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// How often clients say how many requests they sent. It takes time per partition that they know.
pub(super) const STATISTICS: Duration = Duration::from_secs(10);
/// Longest name of a topic in Kafka.
const TOPIC_NAME_MAX: usize = 249;
/// Hexadecimal digits of a boot id and the dot before them.
const BOOT_SUFFIX: usize = 17;

/// How Kafka is reached, and what topics are given. Routers and gateways fill it from their `[bus]` sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Some brokers, `host:port,host:port`; the others are learned from them. Required.
    pub servers: String,
    /// What topic names begin with; they go on with a dot and the boot id. Letters, digits, `.`, `_`, `-`. Clusters
    /// that share one Kafka need different ones: the janitor deletes what begins with it. Default `deliver`.
    pub topic_prefix: String,
    /// Replicas of each topic; 0 takes the brokers' `default.replication.factor`. With 1 a broker that is down takes
    /// its partitions with it. Default 0.
    pub replicas: u16,
    /// How long a record is kept, in seconds, 60 to 86,400. A gateway that is further behind is told that records were
    /// lost. Too large costs disk only. Default 600.
    pub retention_secs: u32,
    /// Bytes that a partition may hold on each replica, 64 MiB or more; beyond, as with `retention_secs`. Default
    /// 256 MiB.
    pub retention_bytes: u64,
    /// How long a record waits for others to share a request, in ms, at most 100. 0 is best below 5,000 records/s, 1
    /// above; more only delays. Default 0.
    pub linger_ms: u32,
    /// After this time, in ms, 5,000 to 30,000, a record that Kafka did not answer is given back as unavailable; whether
    /// it was stored is then unknown. Less than a restart of a broker takes breaks the order of records at each
    /// restart. Default 8,000.
    pub publish_timeout_ms: u32,
    /// Bytes that may wait to be published, in all, 16 MiB or more. Beyond, publishing is unavailable. A quarter of it is
    /// the bound of one gateway boot. Default 64 MiB.
    pub publish_bytes_max: usize,
    /// Bytes that may be published to one boot and not reported consumed. Beyond, the boot's topic is given up: its
    /// gateway takes another boot, and its sessions sync. Default 64 MiB.
    pub unconsumed_bytes_max: usize,
    /// Bytes that are read ahead of what was fetched, per partition, 4 MiB or more. Default 8 MiB.
    pub read_ahead_bytes_max: usize,
    /// TLS, if the brokers' port speaks it. Default none.
    pub tls: Option<TlsConfig>,
    /// User and password, if the brokers ask for them. Default none.
    pub sasl: Option<SaslConfig>,
}

/// TLS towards the brokers. Their certificates are always checked, names included. Needs the feature `kafka-tls`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsConfig {
    /// PEM file of the authorities that may sign brokers' certificates. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that this side shows, if brokers ask for one. Needs `key_file`.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
}

/// User and password towards the brokers. Needs the feature `kafka-tls`: SCRAM is computed by OpenSSL, and without it a
/// password is sent over TLS only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslConfig {
    /// How the password is proven.
    pub mechanism: SaslMechanism,
    /// User.
    pub user: String,
    /// Password.
    pub password: Password,
}

/// How a password is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum SaslMechanism {
    /// The password itself is sent: over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 5802 with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 5802 with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    #[default]
    ScramSha512,
}

impl SaslMechanism {
    /// Names of all of them, as in configurations.
    pub const NAMES: [&'static str; 3] = [
        Self::Plain.name(),
        Self::ScramSha256.name(),
        Self::ScramSha512.name(),
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::ScramSha256, Self::ScramSha512]
            .into_iter()
            .find(|mechanism| mechanism.name() == name)
    }
}

/// A password. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            servers: String::new(),
            topic_prefix: "deliver".to_owned(),
            replicas: 0,
            retention_secs: 600,
            retention_bytes: 256 * 1024 * 1024,
            linger_ms: 0,
            publish_timeout_ms: 8_000,
            publish_bytes_max: 64 * 1024 * 1024,
            unconsumed_bytes_max: BYTES_MAX,
            read_ahead_bytes_max: 8 * 1024 * 1024,
            tls: None,
            sasl: None,
        }
    }
}

impl KafkaConfig {
    /// Finds mistakes that need no broker to be seen.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Config`], which names key, value and what is allowed; [`KafkaError::WithoutTls`].
    pub fn check(&self) -> Result<(), KafkaError> {
        self.check_for(cfg!(feature = "kafka-tls"))
    }

    /// `has_tls`: whether the program was built with it.
    fn check_for(&self, has_tls: bool) -> Result<(), KafkaError> {
        let wrong = |key: &'static str, value: String, allowed: &'static str| {
            Err(KafkaError::Config { key, value, allowed })
        };
        if self.servers.trim().is_empty() {
            return wrong(
                "servers",
                self.servers.clone(),
                "host:port, several with commas between",
            );
        }
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.topic_prefix.is_empty()
            || self.topic_prefix.len() + BOOT_SUFFIX > TOPIC_NAME_MAX
            || !self.topic_prefix.chars().all(is_legal)
        {
            let allowed = "1 to 232 letters, digits, dots, underscores, hyphens";
            return wrong("topic_prefix", self.topic_prefix.clone(), allowed);
        }
        if !(60..=86_400).contains(&self.retention_secs) {
            return wrong("retention_secs", self.retention_secs.to_string(), "60 to 86,400");
        }
        if self.retention_bytes < 4 * SEGMENT_BYTES {
            return wrong(
                "retention_bytes",
                self.retention_bytes.to_string(),
                "67,108,864 or more",
            );
        }
        if self.linger_ms > 100 {
            return wrong("linger_ms", self.linger_ms.to_string(), "0 to 100");
        }
        if !(5_000..=30_000).contains(&self.publish_timeout_ms) {
            let value = self.publish_timeout_ms.to_string();
            return wrong("publish_timeout_ms", value, "5,000 to 30,000");
        }
        let bytes_min = 4 * 1024 * 1024;
        if self.publish_bytes_max < bytes_min * 4 {
            let value = self.publish_bytes_max.to_string();
            return wrong("publish_bytes_max", value, "16,777,216 or more");
        }
        if self.read_ahead_bytes_max < bytes_min {
            let value = self.read_ahead_bytes_max.to_string();
            return wrong("read_ahead_bytes_max", value, "4,194,304 or more");
        }
        self.check_security(has_tls)
    }

    fn check_security(&self, has_tls: bool) -> Result<(), KafkaError> {
        let wanted = [
            (self.tls.is_some(), "tls = true"),
            (self.sasl.is_some(), "a user"),
        ];
        if let Some((_, wanted)) = wanted.into_iter().find(|(is_wanted, _)| *is_wanted)
            && !has_tls
        {
            return Err(KafkaError::WithoutTls { wanted });
        }
        if let Some(tls) = &self.tls {
            tls.check()?;
        }
        if let Some(sasl) = &self.sasl
            && sasl.mechanism == SaslMechanism::Plain
            && self.tls.is_none()
        {
            return Err(KafkaError::Config {
                key: "mechanism",
                value: "PLAIN without tls".to_owned(),
                allowed: "PLAIN with tls = true, SCRAM-SHA-256, SCRAM-SHA-512",
            });
        }
        Ok(())
    }

    /// The bound of what waits to be published to one boot.
    pub(super) const fn publish_bytes_per_boot(&self) -> usize {
        self.publish_bytes_max / 4
    }

    /// What topics are created with, beside partitions and replicas.
    pub(super) fn topic_settings(&self) -> [(&'static str, String); 6] {
        let retention = Duration::from_secs(self.retention_secs.into());
        [
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention.as_millis().to_string()),
            ("retention.bytes", self.retention_bytes.to_string()),
            ("segment.bytes", SEGMENT_BYTES.to_string()),
            // The broker leaves batches as they came: this side has no decompressor for what another would make.
            ("compression.type", "producer".to_owned()),
            ("max.message.bytes", MESSAGE_BYTES_MAX.to_string()),
        ]
    }

    /// What every client is told.
    fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.servers.as_str())
            .set("client.id", format!("corelane-{role}"))
            // A topic that was deleted must not come back by being asked for, whatever the brokers allow.
            .set("allow.auto.create.topics", "false")
            // By default a deleted topic is believed in for 30 s, and what is published to it waits so long.
            .set("topic.metadata.propagation.max.ms", "1000")
            // By default 10 s: so long after the broker's return nothing would flow.
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            // By default a minute until a broker that went away without a word is given up.
            .set("socket.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("enable.metrics.push", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        self.set_security(&mut config);
        config
    }

    fn set_security(&self, config: &mut ClientConfig) {
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            config.set("enable.ssl.certificate.verification", "true");
            config.set("ssl.endpoint.identification.algorithm", "https");
            let text = |path: &Path| path.to_string_lossy().into_owned();
            if let Some(path) = &tls.ca_file {
                config.set("ssl.ca.location", text(path));
            }
            if let Some(path) = &tls.certificate_file {
                config.set("ssl.certificate.location", text(path));
            }
            if let Some(path) = &tls.key_file {
                config.set("ssl.key.location", text(path));
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanism", sasl.mechanism.name())
                .set("sasl.username", sasl.user.as_str())
                .set("sasl.password", sasl.password.0.as_str());
        }
    }

    /// What a producer is told.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client("publish");
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // The default, a million, costs half a second of standing latency; above 5 idempotence does not hold.
            .set("max.in.flight.requests.per.connection", "5")
            .set("linger.ms", self.linger_ms.to_string())
            // By default 5 minutes of silent queueing.
            .set("message.timeout.ms", self.publish_timeout_ms.to_string())
            .set("request.timeout.ms", "5000")
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "200")
            .set(
                "queue.buffering.max.kbytes",
                (self.publish_bytes_max / 1024).to_string(),
            )
            .set("queue.buffering.max.messages", "100000")
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("compression.type", "none");
        say_statistics(&mut config);
        config
    }

    /// What a consumer of one topic is told. Its group is never joined and nothing is committed: librdkafka only gives
    /// no queue to a consumer without one.
    pub(super) fn consumer(&self, topic: &str) -> ClientConfig {
        let mut config = self.client("consume");
        config
            .set("group.id", format!("corelane.{topic}"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Else what retention took is skipped without an error.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_uncommitted")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "500")
            // By default 1 s, and 500 ms: a partition would stand still so long after each.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "20")
            .set("fetch.message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("queued.min.messages", "10000")
            .set(
                "queued.max.messages.kbytes",
                (self.read_ahead_bytes_max / 1024).to_string(),
            );
        config
    }

    /// What the client that only asks for lists and ends of partitions is told.
    pub(super) fn looker(&self) -> ClientConfig {
        let mut config = self.client("look");
        config.set("socket.timeout.ms", "5000");
        say_statistics(&mut config);
        config
    }

    /// What the client that makes and deletes topics is told. Nobody polls its queue of logs (rdkafka's admin client
    /// does not), so nothing may go in there.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.client("admin");
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config
    }
}

/// Only for clients whose queue is polled: it is where they say it.
fn say_statistics(config: &mut ClientConfig) {
    config.set("statistics.interval.ms", STATISTICS.as_millis().to_string());
}

impl TlsConfig {
    fn check(&self) -> Result<(), KafkaError> {
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return Err(KafkaError::Config {
                key: "tls_certificate",
                value: "one of tls_certificate and tls_key".to_owned(),
                allowed: "both or none",
            });
        }
        let files = [
            ("tls_ca", &self.ca_file),
            ("tls_certificate", &self.certificate_file),
            ("tls_key", &self.key_file),
        ];
        for (key, path) in files {
            let Some(path) = path else { continue };
            // librdkafka would say only which call of OpenSSL failed.
            if let Err(error) = std::fs::File::open(path) {
                let value = format!("{} ({error})", path.display());
                let allowed = "a PEM file that this user can read";
                return Err(KafkaError::Config { key, value, allowed });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> KafkaConfig {
        KafkaConfig {
            servers: "127.0.0.1:9092".to_owned(),
            ..KafkaConfig::default()
        }
    }

    type Change = fn(&mut KafkaConfig);

    fn assert_named(mistakes: &[(&str, Change)]) {
        for (named, change) in mistakes {
            let mut config = usable();
            change(&mut config);
            let text = config.check_for(true).unwrap_err().to_string();
            assert!(text.contains(named), "{text}");
        }
    }

    fn with_user(config: &mut KafkaConfig, mechanism: SaslMechanism) {
        config.sasl = Some(SaslConfig {
            mechanism,
            user: "corelane".to_owned(),
            password: Password("quite secret".to_owned()),
        });
    }

    #[test]
    fn a_mistake_names_its_key_and_what_is_allowed() {
        usable().check_for(false).unwrap();
        assert_named(&[
            ("bus.servers", |config| config.servers.clear()),
            ("bus.topic_prefix", |config| {
                config.topic_prefix = "a b".to_owned();
            }),
            ("bus.topic_prefix", |config| config.topic_prefix = "x".repeat(233)),
            ("bus.retention_secs", |config| config.retention_secs = 1),
            ("67,108,864 or more", |config| config.retention_bytes = 1),
            ("bus.linger_ms", |config| config.linger_ms = 101),
            ("5,000 to 30,000", |config| config.publish_timeout_ms = 300_000),
        ]);
    }

    #[test]
    fn what_needs_tls_is_refused_with_the_name_of_the_feature() {
        let mut encrypted = usable();
        encrypted.tls = Some(TlsConfig::default());
        let mut named = usable();
        with_user(&mut named, SaslMechanism::ScramSha512);
        for config in [encrypted, named] {
            config.check_for(true).unwrap();
            let text = config.check_for(false).unwrap_err().to_string();
            assert!(text.contains("--features kafka-tls"), "{text}");
        }
    }

    #[test]
    fn a_mistake_in_what_is_secret_names_its_key() {
        assert_named(&[
            ("bus.tls_ca", |config| {
                config.tls = Some(TlsConfig {
                    ca_file: Some("/nowhere/ca.pem".into()),
                    ..TlsConfig::default()
                });
            }),
            ("both or none", |config| {
                config.tls = Some(TlsConfig {
                    key_file: Some("/nowhere/key.pem".into()),
                    ..TlsConfig::default()
                });
            }),
            ("bus.mechanism", |config| with_user(config, SaslMechanism::Plain)),
        ]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let mut config = usable();
        with_user(&mut config, SaslMechanism::ScramSha512);
        assert!(!format!("{config:?}").contains("secret"));
        assert!(!format!("{:?}", config.producer()).contains("secret"));
    }

    #[test]
    fn librdkafka_takes_every_setting() {
        let config = usable();
        for each in [
            config.producer(),
            config.consumer("deliver.x"),
            config.looker(),
            config.admin(),
        ] {
            each.create_native_config().unwrap();
        }
    }
}
