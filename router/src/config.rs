//! Configuration of a router: one TOML file, then `CORELANE__SECTION__KEY`, then `--set`.
//!
//! One struct is the checked configuration, the annotated default file and the check. A gateway that embeds a router
//! fills it from its own configuration. Mistakes are found before a socket opens and name file or variable, key, value
//! and what is allowed.

mod bus;
pub mod secret;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use thiserror::Error;

use crate::bus::kafka::KafkaError;
use crate::registry::redis::RedisConfig;
use crate::store::remembered;

pub use self::bus::BusSection;

/// Prefix of environment variables that set keys.
const ENV_PREFIX: &str = "CORELANE__";

/// Everything a router can be told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// What this router is and where it listens.
    pub router: RouterSection,
    /// Where messages are kept.
    pub store: StoreSection,
    /// Who is connected where.
    pub registry: RegistrySection,
    /// The way of deliveries to the gateways.
    pub bus: BusSection,
    /// Logs.
    pub log: LogSection,
}

/// What this router is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterSection {
    /// Name in logs and links, 1 to 64 bytes. Default `router`.
    pub node: String,
    /// Where gateways connect. Default `127.0.0.1:7090`.
    pub link_listen: SocketAddr,
    /// How gateways reach `link_listen`, as `host:port`: they hear it from every router of the cluster. Empty: the address
    /// of `link_listen`; where that is a wildcard it must be given if the registry is shared. Default empty.
    pub advertise: String,
    /// Where the HTTP API, metrics and health are served. Default `127.0.0.1:7080`.
    pub http_listen: SocketAddr,
    /// Threads. 0: one per CPU, at most 4. More than the CPUs does not help.
    pub threads: usize,
    /// Partitions of each gateway's topic, 1 to 64. More spread consumption over more shards. Default 4.
    pub partitions: u16,
    /// Demo mode: whoever reaches `http_listen` may mint tokens. Only while that is a loopback address, and only of a router
    /// inside a gateway, which knows where clients connect; [`RouterConfig::load`] refuses it. Default off.
    pub demo: bool,
}

impl Default for RouterSection {
    fn default() -> Self {
        Self {
            node: "router".to_owned(),
            link_listen: SocketAddr::from(([127, 0, 0, 1], 7090)),
            advertise: String::new(),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7080)),
            threads: 0,
            partitions: 4,
            demo: false,
        }
    }
}

impl RouterSection {
    /// Where gateways reach the link server that listens at `bound`. Empty: where they found it.
    pub fn link_address(&self, bound: SocketAddr) -> String {
        if !self.advertise.is_empty() {
            self.advertise.clone()
        } else if bound.ip().is_unspecified() {
            String::new()
        } else {
            bound.to_string()
        }
    }

    /// Where other routers reach the HTTP API that listens at `bound`: where that is a wildcard, at the host of
    /// `advertise`. Empty: nowhere.
    pub fn http_address(&self, bound: SocketAddr) -> String {
        if !bound.ip().is_unspecified() {
            return bound.to_string();
        }
        let host = self.advertise.rsplit_once(':').map(|(host, _)| host);
        host.map_or_else(String::new, |host| format!("{host}:{}", bound.port()))
    }
}

/// Whether a text is `host:port`.
fn is_address(text: &str) -> bool {
    let is_plain = !text.contains(|each: char| each.is_whitespace() || each.is_control());
    let parts = text.rsplit_once(':');
    is_plain
        && parts
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Where messages are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// Directory of the database and the keys; made if missing. Default `data`.
    pub data_dir: PathBuf,
    /// What an acknowledgement means. Of the embedded database only.
    pub durability: Durability,
    /// Lanes of a new store, a power of two from 8 to 4096; fixed from then on, and the same at all routers. At least four
    /// times the routers ever planned. Default 128.
    pub lanes: u16,
    /// PD of the TiKV cluster that keeps the messages, `host:port` each. Empty: the embedded database in `data_dir`.
    #[serde(deserialize_with = "texts")]
    pub pd: Vec<String>,
    /// Put before every key, so that several systems can share one TiKV. Must be the same at all routers.
    pub prefix: String,
    /// The cluster that the store must belong to, 16 hexadecimal digits. Empty: the one that `data_dir` remembers, or
    /// whichever it does at the first start.
    pub cluster: String,
    /// File of the certificates (PEM) of the authorities that are trusted, for TLS to PD and TiKV; empty: no TLS.
    pub tls_ca: PathBuf,
    /// File of this router's certificate (PEM), which PD and TiKV ask for.
    pub tls_cert: PathBuf,
    /// File of its key (PEM).
    pub tls_key: PathBuf,
    /// Whether one of the routers tells TiKV which versions are read no more. Not where TiDB does. Default on.
    pub collect_garbage: bool,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            durability: Durability::Full,
            lanes: 128,
            pd: Vec::new(),
            prefix: String::new(),
            cluster: String::new(),
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            collect_garbage: true,
        }
    }
}

/// A list of texts, or one text with commas between them, as it stands in the environment.
fn texts<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of texts, or one text with commas between them")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            Ok(texts.map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }

    input.deserialize_any(Texts)
}

/// Who is connected where.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySection {
    /// Redis, as `redis://host:port` or `redis-cluster://host:port?node=host:port`, with TLS `rediss`. Empty: in the
    /// memory of this router, which must then be the only one. Default empty.
    pub url: String,
    /// ACL user; empty: the default user.
    pub user: String,
    /// Password; empty: none. Better given by `CORELANE__REGISTRY__PASSWORD`.
    #[serde(deserialize_with = "secret::password")]
    pub password: String,
    /// File of the certificates (PEM) of the authorities that are trusted; empty: those of the system.
    pub tls_ca: PathBuf,
    /// The name that the server's certificate must have; empty: the host of the url.
    pub tls_name: String,
    /// Put before every key, so that several systems can share one Redis. Must be the same at all routers.
    pub prefix: String,
}

/// The password is not shown.
impl std::fmt::Debug for RegistrySection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistrySection")
            .field("url", &secret::shown_url(&self.url))
            .field("user", &self.user)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RegistrySection {
    /// How Redis is reached; `None`: the registry is in memory.
    pub fn redis(&self) -> Option<RedisConfig> {
        (!self.url.is_empty()).then(|| RedisConfig {
            url: self.url.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            tls_ca: self.tls_ca.clone(),
            tls_name: self.tls_name.clone(),
            prefix: self.prefix.clone(),
            ..RedisConfig::default()
        })
    }
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It survives a power cut: every commit waits for fdatasync.
    Full,
    /// It survives the death of the process, not of the machine. After an unclean start clients sync from the beginning.
    Os,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// Least severity that is logged.
    pub level: LogLevel,
    /// Form of the lines.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Json,
        }
    }
}

/// Severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs a person.
    Error,
    /// What may need one.
    Warn,
    /// Starts, stops, links.
    Info,
    /// For developers.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Its name in filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// JSON lines.
    Json,
    /// For people.
    Text,
}

/// A configuration that cannot be used. Always the operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key or value of the file is wrong; the text shows the line and what is allowed.
    #[error("configuration file {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, key, what is allowed.
        problem: String,
    },
    /// An environment variable is wrong.
    #[error("environment variable {name} = {value}: {problem}")]
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is allowed.
        problem: String,
    },
    /// A flag is wrong.
    #[error("--set {argument}: {problem}")]
    Flag {
        /// As it was given.
        argument: String,
        /// What is allowed.
        problem: String,
    },
    /// A value is out of its range.
    #[error("configuration: {key} = {value}: not allowed; allowed: {allowed}")]
    Range {
        /// Section and key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Two sections do not go together.
    #[error("configuration: {0}")]
    Relation(&'static str),
    /// The bus cannot be as configured.
    #[error("configuration: {0}")]
    Bus(#[from] KafkaError),
}

/// The annotated default file.
pub const DEFAULT_FILE: &str = r#"# Corelane router. Every key is shown with its default. A key can also be set by CORELANE__SECTION__KEY in the
# environment, as in CORELANE__ROUTER__HTTP_LISTEN=0.0.0.0:7080.

[router]
# Name in logs and links, 1 to 64 bytes.
node = "router"
# Where gateways connect.
link_listen = "127.0.0.1:7090"
# How gateways reach link_listen, as host:port: they hear it from every router of the cluster. Empty: the address of
# link_listen; where that is a wildcard it must be given if the registry is shared.
advertise = ""
# Where the HTTP API, metrics and health are served.
http_listen = "127.0.0.1:7080"
# Threads. 0: one per CPU, at most 4. More than the CPUs does not help.
threads = 0
# Partitions of each gateway's topic, 1 to 64. More spread consumption over more shards.
partitions = 4

[store]
# Directory of the database and the keys; made if missing. Back it up as a whole.
data_dir = "data"
# full: an acknowledged message survives a power cut. os: it survives the death of the process, not of the machine;
# after an unclean start clients sync from the beginning.
durability = "full"
# Lanes of a new store, a power of two from 8 to 4096; fixed from then on, and the same at all routers. At least four times
# the routers ever planned.
lanes = 128
# PD of the TiKV cluster that keeps the messages, as ["host:port", "host:port"]. Empty: the embedded database in data_dir.
pd = []
# Put before every key, so that several systems can share one TiKV. The same at all routers.
prefix = ""
# The cluster that the store must belong to, 16 hexadecimal digits. Empty: the one that data_dir remembers, or whichever it
# does at the first start.
cluster = ""
# TLS to PD and TiKV: files (PEM) of the authorities that are trusted, and of this router's own certificate and key. All
# three or none.
tls_ca = ""
tls_cert = ""
tls_key = ""
# Whether one of the routers tells TiKV which versions are read no more. false where TiDB does.
collect_garbage = true

[registry]
# Who is connected where: Redis, as redis://host:port or redis-cluster://host:port?node=host:port, with TLS rediss or
# rediss-cluster. Empty: in the memory of this router, which must then be the only one.
url = ""
# ACL user and password. Empty: the default user, no password. The password is better given in the environment, as
# CORELANE__REGISTRY__PASSWORD.
user = ""
password = ""
# File of the certificates (PEM) of the authorities that are trusted. Empty: those of the system.
tls_ca = ""
# The name that the server's certificate must have. Empty: the host of the url.
tls_name = ""
# Put before every key, so that several systems can share one Redis. The same at all routers.
prefix = ""

[bus]
# The way of deliveries to the gateways: brokers of Kafka, as host:port,host:port. The gateways need the same. Empty: in
# the memory of this router, which must then be the only one. Kafka and the registry in Redis go together.
servers = ""
# What names of topics begin with; the same at all routers and gateways. Systems that share one Kafka need different ones.
topic_prefix = "deliver"
# User and password. Empty: none. They and TLS need a program that was built with --features kafka-tls. The password is
# better given in the environment, as CORELANE__BUS__PASSWORD.
user = ""
password = ""
# How the password is proven: PLAIN (over TLS only), SCRAM-SHA-256 or SCRAM-SHA-512.
mechanism = "SCRAM-SHA-512"
# Whether the brokers' port speaks TLS.
tls = false
# File of the certificates (PEM) of the authorities that are trusted. Empty: those of the system.
tls_ca = ""
# Files of the certificate and its key (PEM) that are shown to brokers that ask for one. Empty: none.
tls_certificate = ""
tls_key = ""
# How long a record waits for others to share a request, in ms, at most 100. Below 5,000 records per second 0 is best,
# above it 1; more only delays.
linger_ms = 0
# After this time, in ms, 5,000 to 30,000, a record that Kafka did not answer is published again. Shorter than a restart
# of a broker takes: each restart changes the order of records.
publish_timeout_ms = 8000
# How long the topic of a dead gateway is kept, in s, 60 to 604,800.
topic_keep_secs = 3600

[log]
# error, warn, info, debug or trace.
level = "info"
# json for machines, text for people.
format = "json"
"#;

impl RouterConfig {
    /// Reads the configuration of a router of its own from `file`, the environment, and flags of the form
    /// `section.key=value`, in this order.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: print it and exit; nothing was started.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[String],
    ) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.to_owned(),
                source,
            })?;
            let wrong = |error: toml::de::Error| ConfigError::File {
                path: path.to_owned(),
                problem: secret::shown_mistake(&text, &error),
            };
            // From the text, so that a mistake is shown with its line.
            toml::from_str::<Self>(&text).map_err(wrong)?;
            table = toml::from_str(&text).map_err(wrong)?;
        }
        let mut variables: Vec<_> = environment
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        variables.sort();
        let mut config = Self::from_table(table.clone()).unwrap_or_default();
        for (name, value) in variables {
            let wrong = |problem: String| ConfigError::Variable {
                name: name.clone(),
                value: secret::shown(&name, &value).to_owned(),
                problem,
            };
            let path = name.trim_start_matches(ENV_PREFIX).to_lowercase();
            let (section, key) = path
                .split_once("__")
                .ok_or_else(|| wrong("names have the form CORELANE__SECTION__KEY".to_owned()))?;
            config = Self::with(&mut table, section, key, &value).map_err(wrong)?;
        }
        for argument in flags {
            let wrong = |problem: String| ConfigError::Flag {
                argument: secret::shown_flag(argument),
                problem,
            };
            let (section, key, value) = argument
                .split_once('=')
                .and_then(|(path, value)| path.split_once('.').map(|(section, key)| (section, key, value)))
                .ok_or_else(|| wrong("flags have the form SECTION.KEY=VALUE".to_owned()))?;
            config = Self::with(&mut table, section, key, value).map_err(wrong)?;
        }
        config.check()?;
        if config.router.demo {
            return Err(ConfigError::Range {
                key: "router.demo",
                value: "true".to_owned(),
                allowed: "false; only the router inside a gateway makes demo tokens (demo.enabled of the gateway)",
            });
        }
        Ok(config)
    }

    /// Why this router must be the only one; `None`: it can be one of several, which share all that they must.
    pub const fn alone(&self) -> Option<&'static str> {
        if self.registry.url.is_empty() {
            return Some("its registry is in its own memory (registry.url is empty)");
        }
        if self.bus.servers.is_empty() {
            return Some("its records are in its own memory (bus.servers is empty)");
        }
        if self.store.pd.is_empty() {
            return Some("its messages are in a database of its own (store.pd is empty)");
        }
        None
    }

    /// Sets a key to a text from the environment or a flag: to the TOML value that it looks like, or as it is where only
    /// that can be meant.
    fn with(table: &mut toml::Table, section: &str, key: &str, text: &str) -> Result<Self, String> {
        let as_text = || toml::Value::String(text.to_owned());
        let value = if secret::is_secret(key) {
            as_text()
        } else {
            value_of(text)
        };
        let is_text = value.is_str();
        set(table, section, key, value);
        let config = Self::from_table(table.clone());
        let config = config.or_else(|error| {
            if is_text {
                return Err(error);
            }
            let mut with_text = table.clone();
            set(&mut with_text, section, key, as_text());
            let config = Self::from_table(with_text.clone()).map_err(|_| error)?;
            *table = with_text;
            Ok(config)
        });
        config.map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn from_table(table: toml::Table) -> Result<Self, toml::de::Error> {
        Self::deserialize(toml::Value::Table(table))
    }

    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Range`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |key, value: String, allowed| Err(ConfigError::Range { key, value, allowed });
        let RouterSection {
            node,
            partitions,
            threads,
            link_listen,
            advertise,
            http_listen,
            demo,
        } = &self.router;
        if corelane_protocol::id::NodeId::new(node).is_err() {
            return range(
                "router.node",
                format!("{node:?}"),
                "1 to 64 bytes without control characters",
            );
        }
        if !advertise.is_empty() && !is_address(advertise) {
            return range(
                "router.advertise",
                format!("{advertise:?}"),
                "HOST:PORT as gateways reach it, or empty",
            );
        }
        if self.registry.redis().is_some() && advertise.is_empty() && link_listen.ip().is_unspecified() {
            return range(
                "router.advertise",
                "\"\"".to_owned(),
                "HOST:PORT as gateways reach it (router.link_listen is a wildcard, which nobody can connect to)",
            );
        }
        if !(1..=64).contains(partitions) {
            return range("router.partitions", partitions.to_string(), "1 to 64");
        }
        if *threads > 256 {
            return range("router.threads", threads.to_string(), "0 to 256");
        }
        if *demo && !http_listen.ip().is_loopback() {
            return range(
                "router.demo",
                "true".to_owned(),
                "false, or a loopback address in router.http_listen",
            );
        }
        let StoreSection {
            lanes, pd, cluster, ..
        } = &self.store;
        if !lanes.is_power_of_two() || !(8..=4096).contains(lanes) {
            return range("store.lanes", lanes.to_string(), "a power of two from 8 to 4096");
        }
        if let Some(wrong) = pd.iter().find(|address| !is_address(address)) {
            return range(
                "store.pd",
                format!("{wrong:?}"),
                "host:port, with commas or as a list",
            );
        }
        if !cluster.is_empty() && remembered::parse(cluster).is_none() {
            return range(
                "store.cluster",
                format!("{cluster:?}"),
                "16 hexadecimal digits, or nothing",
            );
        }
        self.bus.check()?;
        self.check_sharing()?;
        self.check_relations()
    }

    /// Checks what must hold between keys, which are in order each by itself.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Range`].
    fn check_relations(&self) -> Result<(), ConfigError> {
        let StoreSection {
            tls_ca,
            tls_cert,
            tls_key,
            ..
        } = &self.store;
        let files = [tls_ca, tls_cert, tls_key].map(|file| !file.as_os_str().is_empty());
        if files.contains(&true) && files.contains(&false) {
            return Err(ConfigError::Range {
                key: "store.tls_ca, tls_cert, tls_key",
                value: format!(
                    "{:?}",
                    [tls_ca, tls_cert, tls_key].map(|file| file.display().to_string())
                ),
                allowed: "all three files, or none",
            });
        }
        Ok(())
    }

    /// What is in the memory of one router is not seen by another one.
    fn check_sharing(&self) -> Result<(), ConfigError> {
        match (self.registry.url.is_empty(), self.bus.servers.is_empty()) {
            (true, false) => Err(ConfigError::Relation(
                "bus.servers is set and registry.url is empty: gateways and routers that share a bus must share the \
                 registry, or a router would not find whom another one serves; set registry.url to a Redis, or empty \
                 bus.servers",
            )),
            (false, true) => Err(ConfigError::Relation(
                "registry.url is set and bus.servers is empty: routers that share the registry find gateways that are \
                 linked to others, and reach them over a shared bus only; set bus.servers to a Kafka, or empty \
                 registry.url",
            )),
            (true, true) | (false, false) => Ok(()),
        }
    }
}

fn set(table: &mut toml::Table, section: &str, key: &str, value: toml::Value) {
    let entry = table
        .entry(section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(keys) = entry {
        keys.insert(key.to_owned(), value);
    }
}

/// A text from the environment as the TOML value it looks like, else as text.
fn value_of(text: &str) -> toml::Value {
    let table: Result<toml::Table, _> = format!("value = {text}").parse();
    table
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<RouterConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        RouterConfig::load(Some(file.path()), variables, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_file_is_the_default() {
        assert_eq!(load(DEFAULT_FILE, &[]).unwrap(), RouterConfig::default());
        assert_eq!(load("", &[]).unwrap(), RouterConfig::default());
    }

    #[test]
    fn the_file_for_clusters_is_in_order() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/config/router.toml");
        // As the manifests name each router, and give it its secret.
        let variables = [
            ("CORELANE__ROUTER__NODE", "corelane-router-0"),
            ("CORELANE__ROUTER__ADVERTISE", "10.1.0.7:7090"),
            ("CORELANE__REGISTRY__PASSWORD", "secret"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = RouterConfig::load(Some(&file), variables.into_iter(), &[]).unwrap();
        assert!(!config.router.demo, "nobody else may mint tokens");
        assert_eq!(config.router.node, "corelane-router-0");
        let redis = config.registry.redis().unwrap();
        assert_eq!(redis.password, "secret");
        assert_eq!(config.alone(), None, "it is one of several");
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
        let text = load("[router]\nhttp_lisen = \"127.0.0.1:1\"\n", &[]).unwrap_err();
        assert!(
            text.contains("http_lisen") && text.contains("http_listen"),
            "{text}"
        );
        let text = load("[store]\ndurability = \"maybe\"\n", &[]).unwrap_err();
        assert!(
            text.contains("durability") && text.contains("maybe") && text.contains("full"),
            "{text}"
        );
        let text = load("[store]\nlanes = 100\n", &[]).unwrap_err();
        assert!(
            text.contains("store.lanes = 100") && text.contains("power of two"),
            "{text}"
        );
    }

    #[test]
    fn the_demo_is_of_a_router_inside_a_gateway_only_and_on_loopback_only() {
        let text = load("[router]\ndemo = true\n", &[]).unwrap_err();
        assert!(
            text.contains("router.demo = true") && text.contains("demo.enabled of the gateway"),
            "{text}"
        );
        let text = load("", &[("CORELANE__ROUTER__DEMO", "true")]).unwrap_err();
        assert!(text.contains("router.demo = true"), "{text}");
        // As files that were printed by earlier versions say.
        assert_eq!(
            load("[router]\ndemo = false\n", &[]).unwrap(),
            RouterConfig::default()
        );
        let mut inside = RouterConfig::default();
        inside.router.demo = true;
        inside.check().unwrap();
        inside.router.http_listen = SocketAddr::from(([0, 0, 0, 0], 7080));
        let text = inside.check().unwrap_err().to_string();
        assert!(text.contains("loopback"), "{text}");
    }

    #[test]
    fn a_password_is_what_was_written_even_if_it_looks_like_something_else() {
        let registry = |text: &str, variables: &[(&str, &str)]| {
            let config = load(text, variables).unwrap();
            (config.registry.user, config.registry.password)
        };
        for text in [
            "4711",
            "007",
            "1_000",
            "1e5",
            "true",
            "[1]",
            "\"quoted\"",
            "a#b",
            "2026-01-01",
        ] {
            let (_, password) = registry("", &[("CORELANE__REGISTRY__PASSWORD", text)]);
            assert_eq!(password, text);
            let config = load("", &[("CORELANE__BUS__PASSWORD", text)]).unwrap();
            assert_eq!(config.bus.password, text);
        }
        let (user, _) = registry("", &[("CORELANE__REGISTRY__USER", "4711")]);
        assert_eq!(user, "4711");
        let (_, password) = registry("[registry]\npassword = 4711\n", &[]);
        assert_eq!(password, "4711");
        let flag = "registry.password=4711".to_owned();
        let config = RouterConfig::load(None, std::iter::empty(), &[flag]).unwrap();
        assert_eq!(config.registry.password, "4711");
    }

    #[test]
    fn no_mistake_shows_a_password() {
        let files = [
            "[registry]\npassword = 47.11\n",
            "[registry]\npassword = true\nurl = \"4711\"\n",
            "[registry]\npassword = 4711x\n",
            "[registry]\npassword = [4711]\n",
            "[registry]\npasword = \"4711\"\n",
            "[registy]\npassword = \"4711\"\n",
            "[registry]\nurl = redis://:4711@a\n",
        ];
        let mut texts: Vec<String> = files.iter().map(|file| load(file, &[]).unwrap_err()).collect();
        for name in [
            "CORELANE__REGISTY__PASSWORD",
            "CORELANE__PASSWORD",
            "CORELANE__REGISTRY__PASWORD",
        ] {
            texts.push(load("", &[(name, "4711")]).unwrap_err());
        }
        for flag in ["registy.password=4711", "password=4711", "registry.pasword=4711"] {
            let error = RouterConfig::load(None, std::iter::empty(), &[flag.to_owned()]).unwrap_err();
            texts.push(format!("{error} {error:?}"));
        }
        for text in &texts {
            assert!(!text.contains("4711") && !text.contains("47.11"), "{text}");
        }
        let config = RegistrySection {
            url: "redis://:4711@a".to_owned(),
            password: "4711".to_owned(),
            ..RegistrySection::default()
        };
        assert!(!format!("{config:?}").contains("4711"), "{config:?}");
        let redis = config.redis().unwrap();
        assert!(!format!("{redis:?}").contains("4711"), "{redis:?}");
    }

    #[test]
    fn kafka_and_redis_go_together() {
        let kafka = "[bus]\nservers = \"127.0.0.1:9092\"\n";
        let redis = "[registry]\nurl = \"redis://127.0.0.1:6379\"\n";
        let config = load(&format!("{kafka}{redis}"), &[]).unwrap();
        assert_eq!(config.bus.kafka().unwrap().servers, "127.0.0.1:9092");
        for (text, missing) in [(kafka, "set registry.url"), (redis, "set bus.servers")] {
            let text = load(text, &[]).unwrap_err();
            assert!(text.contains(missing) && text.contains("share"), "{text}");
        }
    }

    #[test]
    fn pd_is_a_list_or_one_text_with_commas() {
        let of = |text: &str| load(text, &[]).map(|config| config.store.pd);
        let both = Ok(vec!["a:2379".to_owned(), "b:2379".to_owned()]);
        assert_eq!(of("[store]\npd = [\"a:2379\", \"b:2379\"]\n"), both);
        assert_eq!(of("[store]\npd = \"a:2379, b:2379\"\n"), both);
        let variable = [("CORELANE__STORE__PD", "a:2379,b:2379")];
        assert_eq!(load("", &variable).map(|config| config.store.pd), both);
        for wrong in ["\"a\"", "[\"a:0\"]", "[\":1\"]", "[1]", "7"] {
            let text = of(&format!("[store]\npd = {wrong}\n")).unwrap_err();
            assert!(text.contains("pd"), "{wrong}: {text}");
        }
    }

    #[test]
    fn tls_to_tikv_needs_all_three_files() {
        let text = load("[store]\ntls_ca = \"ca.pem\"\n", &[]).unwrap_err();
        assert!(
            text.contains("store.tls_ca") && text.contains("all three"),
            "{text}"
        );
        let text = load("[store]\ncluster = \"mine\"\n", &[]).unwrap_err();
        assert!(text.contains("store.cluster") && text.contains("16"), "{text}");
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_refused_where_others_hear_it() {
        let redis = "[registry]\nurl = \"redis://127.0.0.1\"\n[bus]\nservers = \"127.0.0.1:9092\"\n";
        let router = |keys: &str| load(&format!("[router]\n{keys}\n{redis}"), &[]);
        let wildcard = "link_listen = \"0.0.0.0:7090\"";
        let text = router(wildcard).unwrap_err();
        assert!(
            text.contains("router.advertise") && text.contains("wildcard"),
            "{text}"
        );
        for wrong in ["router-1", "router-1:", ":7090", "router 1:7090", "router-1:0"] {
            let text = router(&format!("advertise = \"{wrong}\"")).unwrap_err();
            assert!(text.contains(wrong) && text.contains("HOST:PORT"), "{text}");
        }
        let bound: SocketAddr = "0.0.0.0:7090".parse().unwrap();
        let config = router(&format!("{wildcard}\nadvertise = \"router-1:7091\"")).unwrap();
        assert_eq!(config.router.link_address(bound), "router-1:7091");
        assert_eq!(config.router.http_address(bound), "router-1:7090");
        let config = load(&format!("[router]\n{wildcard}\n"), &[]).unwrap();
        assert_eq!(
            config.router.link_address(bound),
            "",
            "a lone router's gateways know"
        );
        let bound: SocketAddr = "127.0.0.1:7080".parse().unwrap();
        assert_eq!(config.router.link_address(bound), "127.0.0.1:7080");
        assert_eq!(config.router.http_address(bound), "127.0.0.1:7080");
    }

    #[test]
    fn flags_win_and_are_named_when_they_are_wrong() {
        let flags = |flag: &str| {
            let variables = [("CORELANE__ROUTER__NODE".to_owned(), "b".to_owned())];
            RouterConfig::load(None, variables.into_iter(), &[flag.to_owned()])
                .map_err(|error| error.to_string())
        };
        assert_eq!(flags("router.node=c").unwrap().router.node, "c");
        let text = flags("router.partitions=many").unwrap_err();
        assert!(text.contains("router.partitions=many"), "{text}");
        let text = flags("node").unwrap_err();
        assert!(text.contains("SECTION.KEY=VALUE"), "{text}");
    }

    #[test]
    fn the_environment_wins_and_is_named_when_it_is_wrong() {
        let config = load("[router]\nnode = \"a\"\n", &[("CORELANE__ROUTER__NODE", "b")]).unwrap();
        assert_eq!(config.router.node, "b");
        let text = load("", &[("CORELANE__ROUTER__PARTITIONS", "many")]).unwrap_err();
        assert!(
            text.contains("CORELANE__ROUTER__PARTITIONS") && text.contains("many"),
            "{text}"
        );
    }
}
