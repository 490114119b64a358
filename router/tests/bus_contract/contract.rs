//! The contract: one body per property, generic over the bus.

use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use corelane_protocol::id::BootId;
use corelane_protocol::limits::BUS_RECORD_BYTES_MAX;
use corelane_router::bus::{Bus, BusError};

use super::kafka::KafkaFixture;
use super::memory::MemoryFixture;
use super::support::{BOOT, Fixture, record, topic};

/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

macro_rules! contract {
    ($($(#[$attribute:meta])? $adapter:ident: $fixture:ty,)* => $tests:tt) => {
        $(mod $adapter { contract!(@ ($(#[$attribute])?) $fixture, $tests); })*
    };
    (@ $attribute:tt $fixture:ty, { $($test:ident,)* }) => { $(contract!(# $attribute $fixture, $test);)* };
    (# ($(#[$attribute:meta])?) $fixture:ty, $test:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$attribute])?
        async fn $test() {
            use super::Fixture as _;
            let fixture = <$fixture>::new().await;
            let bus = fixture.bus().await;
            let outcome = tokio::time::timeout(super::DEADLINE, super::$test(bus)).await;
            fixture.end().await;
            outcome.expect("the bus answers in time");
        }
    };
}

contract!(
    memory: super::MemoryFixture,
    #[ignore = "needs ops/services up kafka"]
    kafka: super::KafkaFixture,
    => {
        records_come_in_order_and_again_until_consumed,
        what_was_left_behind_comes_again_until_consumed,
        partitions_and_boots_do_not_mix,
        a_fetch_waits_for_what_comes,
        a_dropped_fetch_loses_nothing,
        a_fetch_is_bounded_by_bytes_but_gives_one,
        consumption_counts_numbers_not_offsets,
        a_deleted_topic_ends_its_fetches_and_is_gone,
        making_a_topic_again_changes_nothing,
        records_are_in_the_order_in_which_they_were_handed_over,
        the_longest_record_passes_and_a_longer_one_is_refused,
        a_partition_that_is_not_there_is_named,
    }
);

async fn records_come_in_order_and_again_until_consumed(bus: Arc<impl Bus>) {
    topic(&*bus).await;
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

async fn partitions_and_boots_do_not_mix(bus: Arc<impl Bus>) {
    topic(&*bus).await;
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

async fn a_fetch_waits_for_what_comes(bus: Arc<impl Bus>) {
    topic(&*bus).await;
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

async fn a_dropped_fetch_loses_nothing(bus: Arc<impl Bus>) {
    topic(&*bus).await;
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

async fn a_fetch_is_bounded_by_bytes_but_gives_one(bus: Arc<impl Bus>) {
    topic(&*bus).await;
    for number in 1..=5 {
        bus.publish(BOOT, 0, number, record("0123456789")).await.unwrap();
    }
    assert_eq!(bus.fetch(BOOT, 0, 0, 25).await.unwrap().records.len(), 2);
    assert_eq!(bus.fetch(BOOT, 0, 2, 3).await.unwrap().records.len(), 1);
}

async fn consumption_counts_numbers_not_offsets(bus: Arc<impl Bus>) {
    topic(&*bus).await;
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

async fn a_deleted_topic_ends_its_fetches_and_is_gone(bus: Arc<impl Bus>) {
    topic(&*bus).await;
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

async fn making_a_topic_again_changes_nothing(bus: Arc<impl Bus>) {
    topic(&*bus).await;
    bus.publish(BOOT, 0, 1, record("x")).await.unwrap();
    topic(&*bus).await;
    assert_eq!(bus.fetch(BOOT, 0, 0, 100).await.unwrap().records.len(), 1);
}

async fn what_was_left_behind_comes_again_until_consumed(bus: Arc<impl Bus>) {
    topic(&*bus).await;
    for number in 1..=6 {
        bus.publish(BOOT, 0, number, record(&format!("r{number}")))
            .await
            .unwrap();
    }
    for from in [0, 4, 1, 5, 0] {
        let mut records = Vec::new();
        while records.len() < 6 - from {
            let next = from + records.len();
            let fetched = bus.fetch(BOOT, 0, next as u64, 1000).await.unwrap();
            assert_eq!((fetched.from, fetched.lost), (next as u64, false));
            records.extend(fetched.records);
        }
        assert_eq!(records[0], record(&format!("r{}", from + 1)));
    }
}

async fn records_are_in_the_order_in_which_they_were_handed_over(bus: Arc<impl Bus>) {
    const COUNT: u64 = 500;
    topic(&*bus).await;
    // All are on their way at once.
    let mut waiting: Vec<_> = (1..=COUNT)
        .map(|number| Box::pin(bus.publish(BOOT, 1, number, record(&number.to_string()))))
        .collect();
    let mut taken = Vec::new();
    poll_fn(|cx| {
        waiting.retain_mut(|publish| match publish.as_mut().poll(cx) {
            Poll::Ready(offset) => {
                taken.push(offset.unwrap());
                false
            }
            Poll::Pending => true,
        });
        if waiting.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    taken.sort_unstable();
    assert_eq!(taken, (0..COUNT).collect::<Vec<_>>());
    let mut next = 0;
    while next < COUNT {
        let fetched = bus.fetch(BOOT, 1, next, 4000).await.unwrap();
        assert_eq!((fetched.from, fetched.lost), (next, false));
        for each in &fetched.records {
            next += 1;
            assert_eq!(*each, record(&next.to_string()));
        }
    }
}

async fn the_longest_record_passes_and_a_longer_one_is_refused(bus: Arc<impl Bus>) {
    topic(&*bus).await;
    let longest: Arc<[u8]> = vec![5; BUS_RECORD_BYTES_MAX].into();
    assert_eq!(bus.publish(BOOT, 0, 1, Arc::clone(&longest)).await, Ok(0));
    assert_eq!(bus.fetch(BOOT, 0, 0, 10).await.unwrap().records, [longest]);
    let longer: Arc<[u8]> = vec![5; BUS_RECORD_BYTES_MAX + 1].into();
    assert_eq!(
        bus.publish(BOOT, 0, 2, longer).await,
        Err(BusError::TooLarge(BUS_RECORD_BYTES_MAX + 1))
    );
}

async fn a_partition_that_is_not_there_is_named(bus: Arc<impl Bus>) {
    topic(&*bus).await;
    let fetched = bus.fetch(BOOT, 2, 0, 100).await;
    let expected = BusError::NoPartition {
        partition: 2,
        partitions: 2,
    };
    assert_eq!(fetched, Err(expected));
    let none = bus.create(BootId(8), 0).await;
    assert!(matches!(none, Err(BusError::NoPartition { partition: 0, .. })));
    assert_eq!(bus.fetch(BootId(9), 0, 0, 100).await, Err(BusError::NoTopic(9)));
}
