//! Why Kafka cannot be used as it is. Always the operator's to mend: each says what is wrong and the fix.

use thiserror::Error;

/// Why the adapter does not start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// A key has a value that cannot be used.
    #[error("bus.{key} is {value:?}; allowed: {allowed}")]
    Config {
        /// Which key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// This program was built without what is wanted.
    #[error(
        "bus: {wanted} needs TLS, which this program was built without, because it links the system's OpenSSL; install \
         its headers (Debian: libssl-dev, pkg-config) and build with --features kafka-tls"
    )]
    WithoutTls {
        /// What the configuration wants.
        wanted: &'static str,
    },
    /// librdkafka refused its settings.
    #[error(
        "the Kafka client cannot be made: {0}; check the files named by bus.tls_ca, bus.tls_certificate and bus.tls_key, \
         and free memory and threads"
    )]
    Client(String),
    /// No broker has an address.
    #[error("no broker of {servers} is known by name ({reason}); check bus.servers and DNS")]
    Unresolved {
        /// Brokers of the configuration.
        servers: String,
        /// What was said last.
        reason: String,
    },
    /// Nothing answers, or not as Kafka does.
    #[error(
        "no broker of {servers} answers ({reason}); check that Kafka runs, bus.servers, the brokers' \
         advertised.listeners, and whether that port wants TLS (bus.tls) or a user (bus.user)"
    )]
    Unreachable {
        /// Brokers of the configuration.
        servers: String,
        /// What was said last.
        reason: String,
    },
    /// TLS fails.
    #[error(
        "TLS with {servers} fails ({reason}); check that the port speaks TLS, that bus.tls_ca holds the \
         authority that signed the brokers' certificates, and that these name the hosts in bus.servers"
    )]
    Tls {
        /// Brokers of the configuration.
        servers: String,
        /// What was said last.
        reason: String,
    },
    /// User or password are refused.
    #[error(
        "{servers} refuses the user ({reason}); check bus.user, bus.password, bus.mechanism, and that the user \
         exists in Kafka with this mechanism"
    )]
    Refused {
        /// Brokers of the configuration.
        servers: String,
        /// What was said last.
        reason: String,
    },
    /// The user may not look at what must be checked.
    #[error(
        "the settings of broker {broker} cannot be read ({reason}); grant the user DescribeConfigs on the cluster, and \
         Create, Delete, Describe, Read and Write on topics that begin with {prefix}"
    )]
    Hidden {
        /// Which broker.
        broker: i32,
        /// What it said.
        reason: String,
        /// What topics begin with.
        prefix: String,
    },
    /// Topics come into being by being asked for.
    #[error(
        "broker {broker} has auto.create.topics.enable=true: a deleted topic would come back empty and lose records \
         without a word; set it to false in the properties of every broker and restart them"
    )]
    AutoCreate {
        /// Which broker.
        broker: i32,
    },
    /// Topics cannot be deleted.
    #[error(
        "broker {broker} has delete.topic.enable=false: topics of dead gateways would stay for ever; set it to true in \
         the properties of every broker and restart them"
    )]
    NoDelete {
        /// Which broker.
        broker: i32,
    },
    /// The brokers are too old.
    #[error(
        "broker {broker} speaks the protocol of Kafka {version}; {version_min} or newer is needed: upgrade it"
    )]
    TooOld {
        /// Which broker.
        broker: i32,
        /// Its inter-broker protocol.
        version: String,
        /// The oldest that does.
        version_min: &'static str,
    },
    /// More replicas are wanted than there are brokers.
    #[error("bus.replicas is {replicas}, but there are {brokers} brokers; lower it or add brokers")]
    TooFewBrokers {
        /// Replicas wanted.
        replicas: u16,
        /// Brokers there.
        brokers: usize,
    },
}
