//! Configuration of a gateway: one TOML file, then `CORELANE__SECTION__KEY`, then `--set section.key=value`.
//!
//! Later sources win. Every mistake is found before a socket opens and names the source, the key, the value
//! and what is allowed. The keys themselves are defined once, in [`sections`].

mod bus;
pub mod section;
pub mod sections;

use std::path::{Path, PathBuf};

use corelane_protocol::limits::ROUTERS_MAX;
use corelane_router::bus::kafka::KafkaError;
use corelane_router::config::secret;
use thiserror::Error;
use toml::Value;

use self::section::Section;
use self::sections::{
    AdminSection, BusSection, ConnectionSection, DemoSection, GatewaySection, LogSection, RouterSection,
    StoreSection,
};

/// Prefix of environment variables that set keys.
const ENV_PREFIX: &str = "CORELANE__";
/// Where metrics and health are served if the router is another process and no address is given.
const ADMIN_LISTEN: &str = "127.0.0.1:7071";

/// Everything a gateway can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// What this gateway is and where it listens.
    pub gateway: GatewaySection,
    /// What one connection may cost.
    pub connection: ConnectionSection,
    /// Where the routers are, or that one runs inside.
    pub router: RouterSection,
    /// The way of deliveries, where it stands apart from the routers.
    pub bus: BusSection,
    /// Where the embedded router keeps its data.
    pub store: StoreSection,
    /// Metrics and health.
    pub admin: AdminSection,
    /// Demo users.
    pub demo: DemoSection,
    /// Logs.
    pub log: LogSection,
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
    /// The file is not TOML.
    #[error("configuration file {}: is not TOML: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// A key or value is wrong.
    #[error("{origin}: {key} = {value}: not allowed; allowed: {allowed}")]
    Key {
        /// File, environment or flag.
        origin: String,
        /// Section and key.
        key: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Two settings do not go together.
    #[error("configuration: {0}")]
    Relation(String),
    /// The bus cannot be as configured.
    #[error("configuration: {0}")]
    Bus(#[from] KafkaError),
}

impl Config {
    /// Reads the configuration from `file`, the environment and `--set` flags.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: print it and exit; nothing was started.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[String],
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = file {
            config.apply_file(path)?;
        }
        let mut variables: Vec<_> = environment
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        variables.sort();
        for (name, text) in variables {
            let path = name[ENV_PREFIX.len()..].to_lowercase();
            let origin = format!("environment variable {name}");
            let (section, key) = path.split_once("__").ok_or_else(|| ConfigError::Key {
                origin: origin.clone(),
                key: path.clone(),
                value: secret::shown(&path, &text).to_owned(),
                allowed: "names of the form CORELANE__SECTION__KEY".to_owned(),
            })?;
            config.apply_text(&origin, section, key, &text)?;
        }
        for flag in flags {
            let wrong = || ConfigError::Key {
                origin: "--set".to_owned(),
                key: secret::shown_flag(flag),
                value: String::new(),
                allowed: "the form section.key=value".to_owned(),
            };
            let (path, text) = flag.split_once('=').ok_or_else(wrong)?;
            let (section, key) = path.split_once('.').ok_or_else(wrong)?;
            config.apply_text("--set", section, key, text)?;
        }
        config.check_relations()?;
        Ok(config)
    }

    /// Where metrics and health are served on an address of their own; `None`: at `router.http_listen` only.
    pub fn admin_listen(&self) -> Option<&str> {
        match self.admin.listen.as_str() {
            "" if self.router.embedded => None,
            "" => Some(ADMIN_LISTEN),
            listen => Some(listen),
        }
    }

    /// The annotated default file.
    pub fn describe(&self) -> String {
        let mut text = String::from(
            "# Corelane gateway. Every key is shown with its default. A key can also be set by\n\
             # CORELANE__SECTION__KEY in the environment or --set section.key=value.\n\n",
        );
        self.gateway.describe(&mut text);
        self.connection.describe(&mut text);
        self.router.describe(&mut text);
        self.bus.describe(&mut text);
        self.store.describe(&mut text);
        self.admin.describe(&mut text);
        self.demo.describe(&mut text);
        self.log.describe(&mut text);
        text
    }

    fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let table: toml::Table = text.parse().map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            problem: secret::shown_mistake(&text, &error),
        })?;
        let origin = format!("configuration file {}", path.display());
        for (section, keys) in table {
            let Value::Table(keys) = keys else {
                return Err(ConfigError::Key {
                    origin,
                    value: secret::shown(&section, &keys.to_string()).to_owned(),
                    key: section,
                    allowed: format!("only sections at the top: {}", Self::SECTIONS.join(", ")),
                });
            };
            for (key, value) in keys {
                self.apply(&origin, &section, &key, &value)?;
            }
        }
        Ok(())
    }

    const SECTIONS: [&'static str; 8] = [
        GatewaySection::NAME,
        ConnectionSection::NAME,
        RouterSection::NAME,
        BusSection::NAME,
        StoreSection::NAME,
        AdminSection::NAME,
        DemoSection::NAME,
        LogSection::NAME,
    ];

    fn apply(&mut self, origin: &str, section: &str, key: &str, value: &Value) -> Result<(), ConfigError> {
        let result = match section {
            GatewaySection::NAME => self.gateway.set(key, value),
            ConnectionSection::NAME => self.connection.set(key, value),
            RouterSection::NAME => self.router.set(key, value),
            BusSection::NAME => self.bus.set(key, value),
            StoreSection::NAME => self.store.set(key, value),
            AdminSection::NAME => self.admin.set(key, value),
            DemoSection::NAME => self.demo.set(key, value),
            LogSection::NAME => self.log.set(key, value),
            _ => Err(format!("the sections {}", Self::SECTIONS.join(", "))),
        };
        result.map_err(|allowed| ConfigError::Key {
            origin: origin.to_owned(),
            key: format!("{section}.{key}"),
            value: secret::shown(key, &value.to_string()).to_owned(),
            allowed,
        })
    }

    /// A text from the environment or a flag: the TOML value that it looks like, or as it is where only that can be meant.
    fn apply_text(&mut self, origin: &str, section: &str, key: &str, text: &str) -> Result<(), ConfigError> {
        let as_text = Value::String(text.to_owned());
        if secret::is_secret(key) {
            return self.apply(origin, section, key, &as_text);
        }
        let set = self.apply(origin, section, key, &value_of(text));
        set.or_else(|error| self.apply(origin, section, key, &as_text).map_err(|_| error))
    }

    /// The cluster that routers must belong to; 0: that of the first one reached.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Relation`] if it is not 16 hex digits.
    pub fn cluster_id(&self) -> Result<u64, ConfigError> {
        let text = &self.gateway.cluster_id;
        if text.is_empty() {
            return Ok(0);
        }
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok();
        id.filter(|id| is_hex && *id != 0).ok_or_else(|| {
            ConfigError::Relation(format!(
                "gateway.cluster_id = {text:?} is not 16 hex digits, as a router prints them at its start"
            ))
        })
    }

    fn check_relations(&self) -> Result<(), ConfigError> {
        self.cluster_id()?;
        self.bus.check()?;
        if self.router.embedded && !self.bus.servers.is_empty() {
            return Err(ConfigError::Relation(
                "bus.servers is set and router.embedded = true: an embedded router keeps registry and bus in memory, and \
                 nobody else would publish to Kafka; set router.embedded = false and name the routers in router.seeds, \
                 or empty bus.servers"
                    .to_owned(),
            ));
        }
        if self.router.embedded && !self.router.seeds.is_empty() {
            return Err(ConfigError::Relation(
                "router.embedded = true and router.seeds is not empty: an embedded router keeps registry and bus \
                 in memory, so it must be the only one; set router.embedded = false to use the seeds"
                    .to_owned(),
            ));
        }
        if !self.router.embedded && self.router.seeds.is_empty() {
            return Err(ConfigError::Relation(
                "router.embedded = false and router.seeds is empty: name at least one router as host:port"
                    .to_owned(),
            ));
        }
        if self.router.seeds.len() > ROUTERS_MAX {
            return Err(ConfigError::Relation(format!(
                "router.seeds names {} routers; at most {ROUTERS_MAX} are tried, and one that answers tells the others",
                self.router.seeds.len()
            )));
        }
        if self.connection.queue_bytes_max > self.connection.queue_total_bytes_max {
            return Err(ConfigError::Relation(
                "connection.queue_bytes_max is larger than connection.queue_total_bytes_max".to_owned(),
            ));
        }
        Ok(())
    }
}

/// A text from the environment or a flag as the TOML value it looks like, else as text.
fn value_of(text: &str) -> Value {
    let table: Result<toml::Table, _> = format!("value = {text}").parse();
    table
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(flags: &[&str]) -> Result<Config, ConfigError> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Config::load(None, std::iter::empty(), &flags)
    }

    #[test]
    fn the_default_file_is_the_default() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Config::default().describe()).unwrap();
        let read = Config::load(Some(file.path()), std::iter::empty(), &[]).unwrap();
        assert_eq!(read, Config::default());
    }

    #[test]
    fn the_file_for_clusters_is_in_order() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/config/gateway.toml");
        let config = Config::load(Some(&file), std::iter::empty(), &[]).unwrap();
        assert!(!config.router.embedded && !config.router.seeds.is_empty());
        assert!(!config.demo.enabled, "nobody else may mint tokens");
        // As the manifests name each gateway.
        let pod = (
            "CORELANE__GATEWAY__NODE".to_owned(),
            "corelane-gateway-0".to_owned(),
        );
        let config = Config::load(Some(&file), std::iter::once(pod), &[]).unwrap();
        assert_eq!(config.gateway.node, "corelane-gateway-0");
    }

    #[test]
    fn a_wrong_key_is_named_with_what_is_allowed() {
        let text = flags(&["gateway.lisen=127.0.0.1:1"]).unwrap_err().to_string();
        assert!(
            text.contains("gateway.lisen") && text.contains("listen"),
            "{text}"
        );
        let text = flags(&["gatway.listen=127.0.0.1:1"]).unwrap_err().to_string();
        assert!(text.contains("gateway, connection"), "{text}");
    }

    #[test]
    fn a_password_of_digits_is_a_text_and_no_mistake_shows_it() {
        let password = |file: &str, variable: &str| {
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), file).unwrap();
            let variable = ("CORELANE__BUS__PASSWORD".to_owned(), variable.to_owned());
            let variables = Some(variable).filter(|(_, text)| !text.is_empty());
            let config = Config::load(Some(path.path()), variables.into_iter(), &[]);
            config.map(|config| config.bus.password.0)
        };
        for text in ["4711", "007", "1_000", "true", "\"quoted\""] {
            assert_eq!(password("", text).unwrap(), text);
        }
        assert_eq!(password("[bus]\npassword = 4711\n", "").unwrap(), "4711");
        assert_eq!(flags(&["gateway.node=4711"]).unwrap().gateway.node, "4711");
        for file in [
            "[bus]\npassword = 47.11\n",
            "[bus]\npassword = 4711x\n",
            "password = 4711\n",
        ] {
            let text = password(file, "").unwrap_err().to_string();
            assert!(!text.contains("4711") && !text.contains("47.11"), "{text}");
        }
        for flag in ["bsu.password=4711", "bus.pasword=4711", "password=4711"] {
            let text = flags(&[flag]).unwrap_err().to_string();
            assert!(!text.contains("4711"), "{text}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_range() {
        let text = flags(&["gateway.shards=5000"]).unwrap_err().to_string();
        assert!(
            text.contains("gateway.shards = 5000") && text.contains("0 to 1024"),
            "{text}"
        );
        let text = flags(&["store.durability=maybe"]).unwrap_err().to_string();
        assert!(text.contains("full, os"), "{text}");
    }

    #[test]
    fn a_proxy_source_that_is_no_network_is_named_with_what_is_allowed() {
        let config = flags(&["gateway.proxy_sources=[\"10.1.0.0/16\", \"fd00::1\"]"]).unwrap();
        let sources = config.gateway.proxy_sources.iter().map(ToString::to_string);
        assert_eq!(sources.collect::<Vec<_>>(), ["10.1.0.0/16", "fd00::1"]);
        let environment = [(
            "CORELANE__GATEWAY__PROXY_SOURCES".to_owned(),
            "10.0.0.4, 10.0.0.5".to_owned(),
        )];
        let config = Config::load(None, environment.into_iter(), &[]).unwrap();
        assert_eq!(config.gateway.proxy_sources.len(), 2);
        for wrong in ["10.0.0.5/8", "10.0.0.0/33", "balancer.example"] {
            let text = flags(&[&format!("gateway.proxy_sources=[\"10.0.0.4\", \"{wrong}\"]")])
                .unwrap_err()
                .to_string();
            for part in ["gateway.proxy_sources", "10.1.0.0/16", &format!("{wrong:?}")] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
        let text = flags(&["gateway.proxy_sources=true"]).unwrap_err().to_string();
        assert!(text.contains("a list of addresses"), "{text}");
    }

    #[test]
    fn a_cluster_id_is_sixteen_hex_digits() {
        let config = flags(&["gateway.cluster_id=\"00000000000000ff\""]).unwrap();
        assert_eq!(config.cluster_id().unwrap(), 255);
        assert_eq!(Config::default().cluster_id().unwrap(), 0);
        for wrong in ["ff", "0000000000000000", "+000000000000001", "x000000000000001"] {
            let text = flags(&[&format!("gateway.cluster_id=\"{wrong}\"")])
                .unwrap_err()
                .to_string();
            assert!(text.contains("gateway.cluster_id"), "{text}");
        }
    }

    #[test]
    fn seeds_are_as_many_as_there_can_be_routers() {
        let seeds = |count: usize| {
            let seeds = vec!["router:7090"; count].join(",");
            flags(&["router.embedded=false", &format!("router.seeds={seeds}")])
        };
        assert_eq!(seeds(ROUTERS_MAX).unwrap().router.seeds.len(), ROUTERS_MAX);
        let text = seeds(ROUTERS_MAX + 1).unwrap_err().to_string();
        assert!(
            text.contains("router.seeds names 33") && text.contains("at most 32"),
            "{text}"
        );
        assert!(seeds(0).is_err(), "where should it look?");
    }

    #[test]
    fn the_environment_comes_before_flags() {
        let environment = [("CORELANE__GATEWAY__NODE".to_owned(), "from-env".to_owned())];
        let config = Config::load(None, environment.clone().into_iter(), &[]).unwrap();
        assert_eq!(config.gateway.node, "from-env");
        let config = Config::load(None, environment.into_iter(), &["gateway.node=flag".to_owned()]).unwrap();
        assert_eq!(config.gateway.node, "flag");
    }
}
