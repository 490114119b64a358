//! What every bus must do, run against each adapter.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says so by failing"
)]

use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::id::BootId;
use corelane_router::bus::memory::MemoryBus;
use corelane_router::bus::{Bus, BusError};

const BOOT: BootId = BootId(7);
const DEADLINE: Duration = Duration::from_secs(10);

macro_rules! contract {
    ($($adapter:ident: $make:expr,)* => $tests:tt) => { $(mod $adapter { contract!(@ $make, $tests); })* };
    (@ $make:expr, { $($test:ident,)* }) => {
        $(#[tokio::test]
        async fn $test() {
            tokio::time::timeout(super::DEADLINE, super::$test($make)).await.expect("the bus answers in time");
        })*
    };
}

contract!(memory: corelane_router::bus::memory::MemoryBus::default(), => {
    records_come_in_order_and_again_until_consumed,
    partitions_and_boots_do_not_mix,
    a_fetch_waits_for_what_comes,
    a_dropped_fetch_loses_nothing,
    a_fetch_is_bounded_by_bytes_but_gives_one,
    consumption_counts_numbers_not_offsets,
    a_deleted_topic_ends_its_fetches_and_is_gone,
    making_a_topic_again_changes_nothing,
});

fn record(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

async fn topic(bus: &impl Bus) {
    bus.create(BOOT, 2).await.unwrap();
}

async fn records_come_in_order_and_again_until_consumed(bus: impl Bus) {
    topic(&bus).await;
    for number in 1..=4 {
        let offset = bus
            .publish(BOOT, 0, number, record(&format!("r{number}")))
            .await
            .unwrap();
        assert_eq!(offset, number - 1);
    }
    for _ in 0..2 {
        let fetched = bus.fetch(BOOT, 0, 1, 1000).await.unwrap();
        assert_eq!((fetched.from, fetched.lost, fetched.next_offset()), (1, false, 4));
        assert_eq!(fetched.records, [record("r2"), record("r3"), record("r4")]);
    }
    bus.consumed(BOOT, 0, 2);
    let fetched = bus.fetch(BOOT, 0, 2, 1000).await.unwrap();
    assert_eq!((fetched.from, fetched.lost, fetched.records.len()), (2, false, 2));
}

async fn partitions_and_boots_do_not_mix(bus: impl Bus) {
    topic(&bus).await;
    bus.create(BootId(8), 2).await.unwrap();
    bus.publish(BOOT, 0, 1, record("a")).await.unwrap();
    assert_eq!(bus.publish(BOOT, 1, 1, record("b")).await.unwrap(), 0);
    assert_eq!(bus.publish(BootId(8), 1, 1, record("c")).await.unwrap(), 0);
    bus.consumed(BOOT, 0, 9);
    assert_eq!(bus.fetch(BOOT, 1, 0, 9).await.unwrap().records, [record("b")]);
    assert_eq!(
        bus.fetch(BootId(8), 1, 0, 9).await.unwrap().records,
        [record("c")]
    );
    assert!(matches!(
        bus.publish(BOOT, 2, 1, record("x")).await,
        Err(BusError::NoPartition { partitions: 2, .. })
    ));
    assert_eq!(
        bus.publish(BootId(9), 0, 1, record("x")).await,
        Err(BusError::NoTopic(9))
    );
}

async fn a_fetch_waits_for_what_comes(bus: impl Bus) {
    topic(&bus).await;
    let bus = Arc::new(bus);
    let waiting = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move { bus.fetch(BOOT, 0, 0, 100).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    bus.publish(BOOT, 1, 1, record("elsewhere")).await.unwrap();
    bus.publish(BOOT, 0, 1, record("here")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().records, [record("here")]);
}

async fn a_dropped_fetch_loses_nothing(bus: impl Bus) {
    topic(&bus).await;
    {
        let fetch = bus.fetch(BOOT, 0, 0, 100);
        tokio::select! {
            biased;
            _ = fetch => panic!("there is nothing yet"),
            () = tokio::task::yield_now() => {}
        }
    }
    bus.publish(BOOT, 0, 1, record("x")).await.unwrap();
    assert_eq!(bus.fetch(BOOT, 0, 0, 100).await.unwrap().records.len(), 1);
}

async fn a_fetch_is_bounded_by_bytes_but_gives_one(bus: impl Bus) {
    topic(&bus).await;
    for number in 1..=5 {
        bus.publish(BOOT, 0, number, record("0123456789")).await.unwrap();
    }
    assert_eq!(bus.fetch(BOOT, 0, 0, 25).await.unwrap().records.len(), 2);
    assert_eq!(bus.fetch(BOOT, 0, 2, 3).await.unwrap().records.len(), 1);
}

async fn consumption_counts_numbers_not_offsets(bus: impl Bus) {
    topic(&bus).await;
    // Number 2 was published again behind 3: what is reported are numbers.
    for number in [1, 3, 2, 4] {
        bus.publish(BOOT, 0, number, record(&format!("r{number}")))
            .await
            .unwrap();
    }
    bus.consumed(BOOT, 0, 1);
    assert_eq!(
        bus.fetch(BOOT, 0, 1, 1000).await.unwrap().records[0],
        record("r3")
    );
    bus.consumed(BOOT, 0, 3);
    let fetched = bus.fetch(BOOT, 0, 3, 1000).await.unwrap();
    assert_eq!(
        (fetched.from, fetched.lost, fetched.records),
        (3, false, vec![record("r4")])
    );
}

async fn a_deleted_topic_ends_its_fetches_and_is_gone(bus: impl Bus) {
    topic(&bus).await;
    let bus = Arc::new(bus);
    let waiting = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move { bus.fetch(BOOT, 0, 0, 100).await }
    });
    tokio::task::yield_now().await;
    bus.delete(BOOT).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Err(BusError::NoTopic(BOOT.0)));
    bus.consumed(BOOT, 0, 1);
    assert_eq!(
        bus.publish(BOOT, 0, 1, record("x")).await,
        Err(BusError::NoTopic(BOOT.0))
    );
}

async fn making_a_topic_again_changes_nothing(bus: impl Bus) {
    topic(&bus).await;
    bus.publish(BOOT, 0, 1, record("x")).await.unwrap();
    topic(&bus).await;
    assert_eq!(bus.fetch(BOOT, 0, 0, 100).await.unwrap().records.len(), 1);
}

/// The memory bus alone has a bound of its own.
#[tokio::test]
async fn an_overflow_drops_all_and_says_so_in_every_partition() {
    let bus = MemoryBus::with_bytes_max(1000);
    topic(&bus).await;
    for number in 1..=8 {
        bus.publish(BOOT, 0, number, record("0123456789")).await.unwrap();
    }
    bus.publish(BOOT, 1, 1, record("0123456789")).await.unwrap();
    bus.consumed(BOOT, 0, 2);
    let outcome = bus.publish(BOOT, 0, 9, [0; 600].as_slice().into()).await;
    assert!(
        matches!(outcome, Err(BusError::Overflow { bytes_max: 1000, .. })),
        "{outcome:?}"
    );
    let depth = bus.depth(BOOT).unwrap();
    assert_eq!((depth.records, depth.bytes, depth.overflows), (0, 0, 1));
    bus.publish(BOOT, 0, 10, record("next")).await.unwrap();
    let fetched = bus.fetch(BOOT, 0, 5, 1000).await.unwrap();
    assert!(fetched.lost && fetched.from > 8);
    assert_eq!(fetched.records, [record("next")]);
    let other = bus.fetch(BOOT, 1, 1, 1000).await.unwrap();
    assert!(
        other.lost && other.records.is_empty(),
        "told even where nothing comes any more"
    );
    let on = bus.publish(BOOT, 0, 11, record("on")).await.unwrap();
    let fetched = bus.fetch(BOOT, 0, on, 1000).await.unwrap();
    assert!(!fetched.lost, "who goes on from there is told once");
}
