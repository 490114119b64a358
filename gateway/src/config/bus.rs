//! What the section `[bus]` means: how Kafka is reached, or that the bus is the router's.

use std::path::PathBuf;

use corelane_router::bus::kafka::{KafkaConfig, Password, SaslConfig, SaslMechanism, TlsConfig};

use super::ConfigError;
use super::sections::BusSection;

impl BusSection {
    /// How Kafka is reached, and what the topic is given; `None`: the bus is the router's.
    pub fn kafka(&self) -> Option<KafkaConfig> {
        let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let tls = self.tls.then(|| TlsConfig {
            ca_file: file(&self.tls_ca),
            certificate_file: file(&self.tls_certificate),
            key_file: file(&self.tls_key),
        });
        let sasl = (!self.user.is_empty()).then(|| SaslConfig {
            mechanism: SaslMechanism::from_name(&self.mechanism).unwrap_or_default(),
            user: self.user.clone(),
            password: Password(self.password.0.clone()),
        });
        (!self.servers.is_empty()).then(|| KafkaConfig {
            servers: self.servers.clone(),
            topic_prefix: self.topic_prefix.clone(),
            replicas: u16::try_from(self.replicas).unwrap_or(u16::MAX),
            retention_secs: u32::try_from(self.retention_secs).unwrap_or(u32::MAX),
            retention_bytes: self.retention_bytes,
            tls,
            sasl,
            ..KafkaConfig::default()
        })
    }

    /// Partitions of topics that this gateway makes; 0: it makes none.
    pub fn own_partitions(&self) -> u16 {
        if self.servers.is_empty() {
            return 0;
        }
        u16::try_from(self.partitions).unwrap_or(u16::MAX)
    }

    /// Finds mistakes that need no broker to be seen.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names key, value and what is allowed.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let files = [
            ("bus.tls_ca", &self.tls_ca),
            ("bus.tls_certificate", &self.tls_certificate),
            ("bus.tls_key", &self.tls_key),
        ];
        for (key, path) in files {
            if !self.tls && !path.is_empty() {
                let text = format!("{key} = {path:?} is of no use while bus.tls = false");
                return Err(ConfigError::Relation(text));
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
    use super::super::Config;

    fn flags(flags: &[&str]) -> Result<Config, String> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Config::load(None, std::iter::empty(), &flags).map_err(|error| error.to_string())
    }

    const APART: [&str; 3] = [
        "bus.servers=\"kafka:9092\"",
        "router.embedded=false",
        "router.seeds=router:7090",
    ];

    #[test]
    fn a_bus_that_stands_apart_needs_a_router_that_does() {
        let text = flags(&APART[..1]).unwrap_err();
        assert!(
            text.contains("bus.servers") && text.contains("router.embedded = false"),
            "{text}"
        );
        let bus = flags(&APART).unwrap().bus;
        assert_eq!(bus.kafka().unwrap().servers, "kafka:9092");
        assert_eq!(bus.own_partitions(), 4);
        let none = Config::default().bus;
        assert!(none.kafka().is_none() && none.own_partitions() == 0);
    }

    #[test]
    fn a_mistake_names_its_key() {
        let with = |more: &str| flags(&[&APART[..], &[more]].concat()).unwrap_err();
        let text = with("bus.topic_prefix=\"a b\"");
        assert!(text.contains("bus.topic_prefix"), "{text}");
        let text = with("bus.tls_ca=ca.pem");
        assert!(text.contains("bus.tls_ca") && text.contains("bus.tls"), "{text}");
        let text = with("bus.mechanism=GSSAPI");
        assert!(text.contains("SCRAM-SHA-512"), "{text}");
        let text = with("bus.partitions=65");
        assert!(text.contains("1 to 64"), "{text}");
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = flags(&["bus.password=\"quite secret\""]).unwrap();
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    }
}
