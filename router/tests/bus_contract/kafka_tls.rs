//! The Kafka bus over TLS, with a user. Built with the feature `kafka-tls`.

use corelane_router::bus::Bus as _;
use corelane_router::bus::kafka::{
    KafkaBus, KafkaConfig, KafkaError, Password, SaslConfig, SaslMechanism, TlsConfig,
};

use super::kafka::in_time;
use super::kafka_support::{config, connect, delete_topics, service};
use super::support::{BOOT, record, topic};

#[tokio::test]
#[ignore = "needs ops/services up kafka"]
async fn a_kafka_over_tls_with_a_user_works_and_what_is_wrong_with_it_is_named() {
    let usable = |user: &str, mechanism| KafkaConfig {
        tls: Some(TlsConfig {
            ca_file: Some(service("CORELANE_TEST_KAFKA_CA").into()),
            ..TlsConfig::default()
        }),
        sasl: Some(SaslConfig {
            mechanism,
            user: user.to_owned(),
            password: Password("corelane-test".to_owned()),
        }),
        ..config(service("CORELANE_TEST_KAFKA_TLS"))
    };
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha512] {
        let config = usable("corelane", mechanism);
        let bus = connect(&config).await;
        topic(&bus).await;
        bus.publish(BOOT, 0, 1, record("x")).await.unwrap();
        let fetched = in_time(bus.fetch(BOOT, 0, 0, 100)).await.unwrap();
        assert_eq!(fetched.records, [record("x")]);
        delete_topics(&config).await;
    }
    let refused = |config: KafkaConfig| async { in_time(KafkaBus::connect(config)).await.unwrap_err() };
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha512] {
        let error = refused(usable("nobody", mechanism)).await;
        assert!(matches!(error, KafkaError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("bus.user"), "{error}");
    }
    let mut other_name = usable("corelane", SaslMechanism::Plain);
    other_name.servers = other_name.servers.replace("localhost", "127.0.0.1");
    let mut other_authority = usable("corelane", SaslMechanism::Plain);
    other_authority.tls = Some(TlsConfig::default());
    for config in [other_name, other_authority] {
        let error = refused(config).await;
        assert!(matches!(error, KafkaError::Tls { .. }), "{error}");
        assert!(error.to_string().contains("tls_ca"), "{error}");
    }
    let mut plain = usable("corelane", SaslMechanism::Plain);
    (plain.tls, plain.sasl) = (None, None);
    let error = refused(plain).await;
    assert!(error.to_string().contains("wants TLS"), "{error}");
}
