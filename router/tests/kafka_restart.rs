//! A broker that is killed and comes back loses, doubles and reorders nothing. One that is fenced for a while, and so names
//! no brokers to whoever asks, loses nothing either, and everybody finds back to it.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]
#![expect(clippy::print_stdout, reason = "a test that measures prints what it measured")]

mod kafka_support;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use corelane_protocol::id::BootId;
use corelane_router::bus::kafka::KafkaBus;
use corelane_router::bus::{Bus as _, BusError};
use corelane_router::clock::Clock;

use tokio::sync::watch;

use kafka_support::{Broker, config, connect};

const BOOT: BootId = BootId(7);
const PARTITIONS: u16 = 4;
/// Between two records of a partition.
const PACE: Duration = Duration::from_millis(4);
/// Records that are acknowledged before the broker is killed, and again after it came back.
const STRETCH: u64 = 1000;
const KILLS: usize = 2;
const DEADLINE: Duration = Duration::from_mins(3);
/// How long a broker is fenced again and again.
const FENCED: Duration = Duration::from_secs(8);
/// Between two questions to it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What is known of the records published.
#[derive(Default)]
struct Ledger {
    acknowledged: AtomicU64,
    outstanding: AtomicU64,
    again: AtomicU64,
    is_over: AtomicBool,
}

/// Publishes like the router's driver: polled once at once, in order; the rest of the way in a task of its own.
fn publish(bus: &Arc<KafkaBus>, ledger: &Arc<Ledger>, partition: u16, number: u64) {
    ledger.outstanding.fetch_add(1, Ordering::SeqCst);
    let (bus, ledger) = (Arc::clone(bus), Arc::clone(ledger));
    let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        let record: Arc<[u8]> = number.to_le_bytes().as_slice().into();
        loop {
            match bus.publish(BOOT, partition, number, Arc::clone(&record)).await {
                Ok(_) => break,
                Err(BusError::Unavailable(_)) => {
                    ledger.again.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        ledger.acknowledged.fetch_add(1, Ordering::SeqCst);
        ledger.outstanding.fetch_sub(1, Ordering::SeqCst);
    });
    if work
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
    {
        tokio::spawn(work);
    }
}

/// Publishes numbers from 1 on to every partition until it is over; returns the last.
async fn publish_on(bus: Arc<KafkaBus>, ledger: Arc<Ledger>) -> u64 {
    let mut ticks = tokio::time::interval(PACE);
    let mut number = 0;
    while !ledger.is_over.load(Ordering::SeqCst) {
        ticks.tick().await;
        number += 1;
        for partition in 0..PARTITIONS {
            publish(&bus, &ledger, partition, number);
        }
    }
    number
}

/// Reads a partition up to a number; returns the numbers in the order in which they came.
async fn read_to(bus: Arc<KafkaBus>, partition: u16, mut last: watch::Receiver<u64>) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut next = 0;
    loop {
        let until = *last.borrow_and_update();
        if until > 0 && numbers.last() == Some(&until) {
            return numbers;
        }
        let fetched = tokio::select! {
            fetched = bus.fetch(BOOT, partition, next, 64 * 1024) => fetched.unwrap(),
            _ = last.changed() => continue,
        };
        assert_eq!((fetched.from, fetched.lost), (next, false));
        next = fetched.next_offset();
        let read = fetched
            .records
            .iter()
            .map(|record| u64::from_le_bytes((**record).try_into().unwrap()));
        numbers.extend(read);
    }
}

async fn until(condition: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        ticks.tick().await;
    }
}

async fn acknowledged(ledger: &Ledger, more: u64) {
    let from = ledger.acknowledged.load(Ordering::SeqCst);
    until(|| ledger.acknowledged.load(Ordering::SeqCst) >= from + more).await;
}

async fn kill_under_load() {
    let mut broker = Broker::start(&[]);
    let mut config = config(broker.address());
    // A restart may take longer on a machine under load; what times out is published again, out of order.
    config.publish_timeout_ms = 30_000;
    let (router, gateway) = (Arc::new(connect(&config).await), Arc::new(connect(&config).await));
    gateway.create(BOOT, PARTITIONS).await.unwrap();
    let ledger = Arc::<Ledger>::default();
    let (tell_last, last) = watch::channel(0);
    let reading: Vec<_> = (0..PARTITIONS)
        .map(|partition| tokio::spawn(read_to(Arc::clone(&gateway), partition, last.clone())))
        .collect();
    let publishing = tokio::spawn(publish_on(Arc::clone(&router), Arc::clone(&ledger)));
    for _ in 0..KILLS {
        acknowledged(&ledger, STRETCH).await;
        let clock = Clock::start();
        tokio::task::block_in_place(|| broker.kill());
        let at_kill = ledger.acknowledged.load(Ordering::SeqCst);
        tokio::task::block_in_place(|| broker.run());
        let back = clock.now().mono;
        until(|| ledger.acknowledged.load(Ordering::SeqCst) > at_kill + 10).await;
        let flowing = clock.now().mono;
        println!("killed; answers after {back:?}, acknowledges after {flowing:?}");
    }
    acknowledged(&ledger, STRETCH).await;
    ledger.is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.unwrap();
    until(|| ledger.outstanding.load(Ordering::SeqCst) == 0).await;
    tell_last.send(published).unwrap();
    for reader in reading {
        let numbers = reader.await.unwrap();
        assert_eq!(numbers, (1..=published).collect::<Vec<_>>());
    }
    let again = ledger.again.load(Ordering::SeqCst);
    println!(
        "{published} records in each of {PARTITIONS} partitions, {again} published again; {:?}",
        router.figures()
    );
    assert_eq!(again, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn every_acknowledged_record_is_read_in_order_and_once_although_the_broker_is_killed() {
    tokio::time::timeout(DEADLINE, kill_under_load())
        .await
        .expect("all is read in time");
}

/// Reads a partition until all numbers up to the last one came, in any order and however often.
async fn read_all(bus: Arc<KafkaBus>, partition: u16, mut last: watch::Receiver<u64>) {
    let mut numbers = BTreeSet::new();
    let mut next = 0;
    loop {
        let until = *last.borrow_and_update();
        if until > 0 && numbers.len() as u64 == until {
            return;
        }
        let fetched = tokio::select! {
            fetched = bus.fetch(BOOT, partition, next, 64 * 1024) => fetched.unwrap(),
            _ = last.changed() => continue,
        };
        assert_eq!((fetched.from, fetched.lost), (next, false));
        next = fetched.next_offset();
        let read = fetched.records.iter();
        numbers.extend(read.map(|record| u64::from_le_bytes((**record).try_into().unwrap())));
    }
}

async fn fence_under_load() {
    let mut broker = Broker::start(&[]);
    let mut config = config(broker.address());
    config.publish_timeout_ms = 5_000;
    let (router, gateway) = (Arc::new(connect(&config).await), Arc::new(connect(&config).await));
    gateway.create(BOOT, PARTITIONS).await.unwrap();
    let ledger = Arc::<Ledger>::default();
    let (tell_last, last) = watch::channel(0);
    let reading: Vec<_> = (0..PARTITIONS)
        .map(|partition| tokio::spawn(read_all(Arc::clone(&gateway), partition, last.clone())))
        .collect();
    let publishing = tokio::spawn(publish_on(Arc::clone(&router), Arc::clone(&ledger)));
    acknowledged(&ledger, STRETCH).await;
    tokio::task::block_in_place(|| {
        broker.kill();
        // Its session ends long before it says again that it lives.
        broker.set(&[("broker.heartbeat.interval.ms", "2500")]);
        broker.run();
    });
    let clock = Clock::start();
    while clock.now().mono < FENCED {
        // Whoever asks now is told of no brokers.
        for bus in [&router, &gateway] {
            let _ = bus.boots().await;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    tokio::task::block_in_place(|| {
        broker.kill();
        broker.set(&[]);
        broker.run();
    });
    let clock = Clock::start();
    acknowledged(&ledger, STRETCH).await;
    let flowing = clock.now().mono;
    while gateway.create(BootId(8), 1).await.is_err() {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    for bus in [&router, &gateway] {
        while bus.boots().await.ok().as_deref() != Some(&[BOOT, BootId(8)]) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
    println!(
        "fenced; after its end records flow again in {flowing:?}, all is well in {:?}",
        clock.now().mono
    );
    ledger.is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.unwrap();
    until(|| ledger.outstanding.load(Ordering::SeqCst) == 0).await;
    tell_last.send(published).unwrap();
    for reader in reading {
        reader.await.unwrap();
    }
    println!(
        "{published} records in each of {PARTITIONS} partitions; {:?}",
        router.figures()
    );
    assert!(
        router.figures().producers > 1,
        "no producer was replaced: no record timed out"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn every_client_finds_back_to_a_broker_that_was_fenced() {
    tokio::time::timeout(DEADLINE, fence_under_load())
        .await
        .expect("all is read in time");
}
