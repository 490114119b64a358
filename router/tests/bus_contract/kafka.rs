//! The Kafka bus, and what it promises beyond the contract: losses are told, topics that are gone are noticed whoever
//! deleted them, and what is wrong at the start is named.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::id::BootId;
use corelane_router::bus::kafka::{Janitor, KafkaBus, KafkaConfig, KafkaError};
use corelane_router::bus::{Bus as _, BusError};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::kafka_support::{Broker, address, config, connect, delete_topics};
use super::support::{BOOT, Fixture, record, topic};

/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct KafkaFixture {
    config: KafkaConfig,
}

impl Fixture for KafkaFixture {
    type Bus = KafkaBus;

    async fn new() -> Self {
        Self {
            config: config(address()),
        }
    }

    async fn bus(&self) -> Arc<KafkaBus> {
        Arc::new(connect(&self.config).await)
    }

    async fn end(self) {
        delete_topics(&self.config).await;
    }
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("the bus answers in time")
}

/// Somebody else with rights on the same Kafka.
fn stranger(config: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", &config.servers)
        .create()
        .unwrap()
}

fn name(config: &KafkaConfig, boot: BootId) -> String {
    format!("{}.{:016x}", config.topic_prefix, boot.0)
}

/// Deletes the first records of partition 0 of [`BOOT`]'s topic.
async fn delete_records(config: &KafkaConfig, before: i64) {
    let mut wanted = TopicPartitionList::new();
    wanted
        .add_partition_offset(&name(config, BOOT), 0, Offset::Offset(before))
        .unwrap();
    let deleted = stranger(config)
        .delete_records(&wanted, &AdminOptions::new())
        .await
        .unwrap();
    for element in deleted.elements() {
        element.error().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn records_that_retention_took_are_told_as_lost_and_reading_goes_on_behind_them() {
    let config = config(address());
    let bus = connect(&config).await;
    topic(&bus).await;
    for number in 1..=10 {
        let text = format!("r{number}");
        bus.publish(BOOT, 0, number, record(&text)).await.unwrap();
        bus.publish(BOOT, 1, number, record(&text)).await.unwrap();
    }
    delete_records(&config, 6).await;
    let fetched = in_time(bus.fetch(BOOT, 0, 2, 1000)).await.unwrap();
    assert!(fetched.lost && fetched.from == 6, "{fetched:?}");
    let on = in_time(bus.fetch(BOOT, 0, fetched.next_offset(), 1000))
        .await
        .unwrap();
    assert!(!on.lost, "who goes on from there is told once");
    let first = fetched.records.first().or(on.records.first()).unwrap();
    assert_eq!(*first, record("r7"));
    let other = in_time(bus.fetch(BOOT, 1, 0, 1000)).await.unwrap();
    assert_eq!(
        (other.lost, other.records.len()),
        (false, 10),
        "another partition"
    );
    bus.publish(BOOT, 0, 11, record("r11")).await.unwrap();
    let last = in_time(bus.fetch(BOOT, 0, 10, 1000)).await.unwrap();
    assert_eq!((last.lost, last.records), (false, vec![record("r11")]));
    assert_eq!(bus.figures().losses, 1);
    delete_topics(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn a_topic_that_somebody_else_deleted_is_gone_for_who_reads_and_who_publishes() {
    let config = config(address());
    let (gateway, router) = (connect(&config).await, connect(&config).await);
    topic(&gateway).await;
    router.publish(BOOT, 0, 1, record("x")).await.unwrap();
    assert_eq!(gateway.fetch(BOOT, 0, 0, 100).await.unwrap().records.len(), 1);
    let waiting = async { gateway.fetch(BOOT, 0, 1, 100).await };
    let deleting = async {
        let name = name(&config, BOOT);
        let outcome = stranger(&config)
            .delete_topics(&[&name], &AdminOptions::new())
            .await;
        outcome.unwrap()[0].as_ref().unwrap();
    };
    let (waited, ()) = in_time(async { tokio::join!(waiting, deleting) }).await;
    assert_eq!(waited, Err(BusError::NoTopic(BOOT.0)));
    let published = in_time(async {
        loop {
            match router.publish(BOOT, 0, 2, record("y")).await {
                Err(BusError::Unavailable(_)) => {}
                outcome => return outcome,
            }
        }
    })
    .await;
    assert_eq!(published, Err(BusError::NoTopic(BOOT.0)));
    for bus in [&gateway, &router] {
        let again = bus.create(BOOT, 2).await;
        assert_eq!(again, Err(BusError::NoTopic(BOOT.0)), "no name is used twice");
    }
    delete_topics(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn a_topic_that_was_made_anew_under_its_name_is_not_taken_for_the_old_one() {
    let config = config(address());
    let bus = connect(&config).await;
    topic(&bus).await;
    for number in 1..=5 {
        bus.publish(BOOT, 0, number, record("old")).await.unwrap();
    }
    assert_eq!(bus.fetch(BOOT, 0, 0, 1000).await.unwrap().records.len(), 5);
    let stranger = stranger(&config);
    let name = name(&config, BOOT);
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(5)));
    let deleted = stranger.delete_topics(&[&name], &options).await;
    deleted.unwrap()[0].as_ref().unwrap();
    let anew = NewTopic::new(&name, 2, TopicReplication::Fixed(1));
    in_time(async {
        while stranger.create_topics([&anew], &options).await.unwrap()[0].is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let fetched = in_time(bus.fetch(BOOT, 0, 5, 1000)).await;
    assert_eq!(fetched, Err(BusError::NoTopic(BOOT.0)));
    delete_topics(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn the_janitor_deletes_the_topics_of_boots_that_are_dead_for_long_and_no_others() {
    let config = config(address());
    let bus = connect(&config).await;
    for boot in 1..=3 {
        bus.create(BootId(boot), 1).await.unwrap();
    }
    let strange = format!("{}.of-somebody-else", config.topic_prefix);
    let topic = NewTopic::new(&strange, 1, TopicReplication::Fixed(1));
    let stranger = stranger(&config);
    stranger
        .create_topics([&topic], &AdminOptions::new())
        .await
        .unwrap();
    let mut janitor = Janitor::new(Duration::from_hours(1));
    let is_alive = |boot| boot == BootId(2);
    let hour = Duration::from_hours(1);
    assert_eq!(janitor.sweep(&bus, Duration::ZERO, is_alive).await.unwrap(), []);
    assert_eq!(
        janitor.sweep(&bus, hour, is_alive).await.unwrap(),
        [BootId(1), BootId(3)]
    );
    let left = in_time(async {
        loop {
            let left = bus.boots().await.unwrap();
            if left.len() == 1 {
                return left;
            }
        }
    })
    .await;
    assert_eq!(left, [BootId(2)]);
    let deleted = stranger.delete_topics(&[&strange], &AdminOptions::new()).await;
    assert!(deleted.unwrap()[0].is_ok(), "it was there still");
    delete_topics(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn the_producer_is_replaced_when_many_topics_are_gone_and_order_holds_through_it() {
    const LIVE: BootId = BootId(1000);
    let config = config(address());
    let bus = connect(&config).await;
    bus.create(LIVE, 1).await.unwrap();
    let (mut next, mut boot) = (0_u64, 0);
    in_time(async {
        while bus.figures().producers < 2 {
            if boot < 40 {
                boot += 1;
                bus.create(BootId(boot), 1).await.unwrap();
                bus.publish(BootId(boot), 0, 1, record("x")).await.unwrap();
                bus.delete(BootId(boot)).await.unwrap();
            }
            publish_many(&bus, LIVE, &mut next).await;
        }
        publish_many(&bus, LIVE, &mut next).await;
    })
    .await;
    let mut read = 0;
    while read < next {
        let fetched = in_time(bus.fetch(LIVE, 0, read, 10_000)).await.unwrap();
        for each in &fetched.records {
            read += 1;
            assert_eq!(*each, record(&read.to_string()));
        }
    }
    delete_topics(&config).await;
}

/// Publishes 50 records at once, each of which says its number.
async fn publish_many(bus: &KafkaBus, boot: BootId, next: &mut u64) {
    let mut set = Vec::new();
    for _ in 0..50 {
        *next += 1;
        let mut publish = Box::pin(bus.publish(boot, 0, *next, record(&next.to_string())));
        // Handed over in this order.
        tokio::select! {
            biased;
            outcome = &mut publish => { outcome.unwrap(); continue; }
            () = std::future::ready(()) => {}
        }
        set.push(publish);
    }
    for publish in set {
        publish.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn a_boot_that_reports_nothing_is_given_up_at_its_bound_and_others_are_not() {
    const OTHER: BootId = BootId(8);
    let mut config = config(address());
    config.unconsumed_bytes_max = 1000;
    let bus = connect(&config).await;
    topic(&bus).await;
    bus.create(OTHER, 1).await.unwrap();
    let publish = |boot, number| bus.publish(boot, 0, number, record(&"x".repeat(400)));
    for number in 1..=3 {
        for _ in 0..2 {
            publish(BOOT, number).await.unwrap();
        }
        bus.consumed(BOOT, 0, number - 1);
    }
    publish(BOOT, 4).await.unwrap();
    let outcome = publish(BOOT, 5).await;
    assert!(
        matches!(outcome, Err(BusError::Overflow { bytes_max: 1000, .. })),
        "{outcome:?}"
    );
    let again = publish(BOOT, 6).await;
    assert_eq!(again, Err(BusError::NoTopic(BOOT.0)), "said once");
    publish(OTHER, 1).await.unwrap();
    delete_topics(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn a_boot_that_is_abandoned_keeps_its_topic_and_gets_no_more_records() {
    let config = config(address());
    let bus = connect(&config).await;
    topic(&bus).await;
    let waiting = async { bus.fetch(BOOT, 0, 0, 100).await };
    let abandoning = async {
        bus.publish(BOOT, 1, 1, record("elsewhere")).await.unwrap();
        bus.abandon(BOOT);
    };
    let (waited, ()) = in_time(async { tokio::join!(waiting, abandoning) }).await;
    assert_eq!(waited, Err(BusError::NoTopic(BOOT.0)));
    let published = bus.publish(BOOT, 0, 1, record("x")).await;
    assert_eq!(published, Err(BusError::NoTopic(BOOT.0)));
    assert_eq!(
        bus.boots().await.unwrap(),
        [BOOT],
        "the janitor takes it in its time"
    );
    assert_eq!(bus.figures().topics_gone, 0);
    delete_topics(&config).await;
}

#[tokio::test]
#[ignore = "needs ops/services up kafka"]
async fn a_kafka_that_makes_topics_by_itself_or_is_not_there_is_refused() {
    let broker = Broker::start(&[("auto.create.topics.enable", "true")]);
    let outcome = in_time(KafkaBus::connect(config(broker.address()))).await;
    assert_eq!(outcome.unwrap_err(), KafkaError::AutoCreate { broker: 1 });
    let mut many = config(broker.address());
    many.replicas = 3;
    let error = in_time(KafkaBus::connect(many)).await.unwrap_err();
    let expected = KafkaError::TooFewBrokers {
        replicas: 3,
        brokers: 1,
    };
    assert_eq!(error, expected);
    let gone = broker.address();
    drop(broker);
    let error = in_time(KafkaBus::connect(config(gone.clone())))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, KafkaError::Unreachable { .. }), "{text}");
    assert!(text.contains(&gone) && text.contains("bus.servers"), "{text}");
    let error = in_time(KafkaBus::connect(config("no-such-host.invalid:9092".to_owned())))
        .await
        .unwrap_err();
    assert!(matches!(error, KafkaError::Unresolved { .. }), "{error}");
}
