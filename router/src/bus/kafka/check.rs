//! What is checked before the bus is used: that brokers answer, and that they are set up so that nothing gets lost.

use rdkafka::admin::{AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::error::KafkaError as ClientError;

use super::config::KafkaConfig;
use super::consumer::end_elsewhere;
use super::error::KafkaError;
use super::topics::Topics;

/// The oldest inter-broker protocol that will do: flexible topic defaults and idempotence without surprises. Tried with
/// Kafka 4.4 only.
const VERSION_MIN: (u32, u32) = (2, 8);
const VERSION_MIN_TEXT: &str = "2.8";
/// The name of the setting that tells the protocol of brokers before Kafka 4.0; later ones have none.
const VERSION_KEY: &str = "inter.broker.protocol.version";

/// Checks every broker.
///
/// # Errors
///
/// [`KafkaError`]: what is wrong and how to mend it.
pub(super) async fn check(config: &KafkaConfig, topics: &Topics) -> Result<(), KafkaError> {
    let brokers = topics.looker.brokers().await?;
    if usize::from(config.replicas) > brokers.len() {
        return Err(KafkaError::TooFewBrokers {
            replicas: config.replicas,
            brokers: brokers.len(),
        });
    }
    let admin = topics.admin()?;
    for broker in brokers {
        let wanted = [&ResourceSpecifier::Broker(broker)];
        let options = AdminOptions::new().request_timeout(Some(std::time::Duration::from_secs(10)));
        let hidden = |reason: String| KafkaError::Hidden {
            broker,
            reason,
            prefix: config.topic_prefix.clone(),
        };
        let described = admin.describe_configs(wanted, &options).await;
        let settings = match described {
            Ok(mut resources) => resources.pop(),
            Err(ClientError::AdminOp(code)) => return Err(hidden(code.to_string())),
            Err(error) => return Err(hidden(error.to_string())),
        };
        match settings {
            Some(Ok(settings)) => check_broker(broker, &settings)?,
            Some(Err(code)) => return Err(hidden(code.to_string())),
            None => return Err(hidden("it told nothing".to_owned())),
        }
    }
    end_elsewhere(admin);
    Ok(())
}

fn check_broker(broker: i32, settings: &ConfigResource) -> Result<(), KafkaError> {
    if settings.entries.is_empty() {
        // What a broker does without the right to see it: librdkafka hands the error of the resource on as nothing.
        return Err(KafkaError::Hidden {
            broker,
            reason: "it told nothing".to_owned(),
            prefix: "bus.topic_prefix".to_owned(),
        });
    }
    let value = |key: &str| settings.get(key).and_then(|entry| entry.value.as_deref());
    if value("auto.create.topics.enable") == Some("true") {
        return Err(KafkaError::AutoCreate { broker });
    }
    if value("delete.topic.enable") == Some("false") {
        return Err(KafkaError::NoDelete { broker });
    }
    match value(VERSION_KEY) {
        Some(version) if version_of(version).is_none_or(|version| version < VERSION_MIN) => {
            Err(KafkaError::TooOld {
                broker,
                version: version.to_owned(),
                version_min: VERSION_MIN_TEXT,
            })
        }
        _ => Ok(()),
    }
}

/// Major and minor of a protocol version like `3.7-IV4`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    fn broker(settings: &[(&str, &str)]) -> ConfigResource {
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            source: ConfigSource::Default,
            is_read_only: false,
            is_default: true,
            is_sensitive: false,
        };
        ConfigResource {
            specifier: OwnedResourceSpecifier::Broker(3),
            entries: settings.iter().map(entry).collect(),
        }
    }

    #[test]
    fn a_broker_that_would_lose_records_is_refused_with_the_fix() {
        check_broker(3, &broker(&[("auto.create.topics.enable", "false")])).unwrap();
        check_broker(3, &broker(&[(VERSION_KEY, "3.7-IV4")])).unwrap();
        let wrong = [
            (
                ("auto.create.topics.enable", "true"),
                "auto.create.topics.enable=true",
            ),
            (("delete.topic.enable", "false"), "delete.topic.enable=false"),
            ((VERSION_KEY, "2.7-IV2"), "2.8 or newer"),
            ((VERSION_KEY, "0.10"), "2.8 or newer"),
        ];
        for (setting, named) in wrong {
            let text = check_broker(3, &broker(&[setting])).unwrap_err().to_string();
            assert!(text.contains("broker 3") && text.contains(named), "{text}");
        }
        let text = check_broker(3, &broker(&[])).unwrap_err().to_string();
        assert!(text.contains("DescribeConfigs"), "{text}");
    }
}
