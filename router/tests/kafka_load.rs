//! The Kafka bus under load and over a long life: order, latency (printed, not judged), memory.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says so by failing"
)]
#![expect(clippy::print_stdout, reason = "a test that measures prints what it measured")]

mod kafka_support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use corelane_protocol::id::BootId;
use corelane_router::bus::Bus as _;
use corelane_router::bus::kafka::KafkaBus;
use corelane_router::clock::Clock;
use hdrhistogram::Histogram;

use kafka_support::{address, config, connect, delete_topics};

const BOOT: BootId = BootId(7);
const PARTITIONS: u16 = 4;
const RECORD_BYTES: usize = 512;
const DEADLINE: Duration = Duration::from_mins(4);

/// How many records a second, for how long.
#[derive(Debug, Clone, Copy)]
struct Load {
    per_second: u64,
    seconds: u64,
}

impl Load {
    const fn count(self) -> u64 {
        self.per_second * self.seconds
    }

    /// When a record is due.
    fn due(self, number: u64) -> Duration {
        Duration::from_micros(number * 1_000_000 / self.per_second)
    }
}

/// Publishes at the times that are due, whatever the bus does: the partitions take turns.
async fn publish_all(bus: Arc<KafkaBus>, clock: Clock, load: Load) {
    let mut waiting = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut number = 0;
    while number < load.count() {
        ticks.tick().await;
        while number < load.count() && load.due(number) <= clock.now().mono {
            let mut record = vec![0; RECORD_BYTES];
            record[..8].copy_from_slice(&number.to_le_bytes());
            let partition = u16::try_from(number % u64::from(PARTITIONS)).unwrap();
            let bus = Arc::clone(&bus);
            let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
                let published = bus.publish(BOOT, partition, number + 1, record.into()).await;
                published.unwrap();
            });
            if work
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
            {
                waiting.push(tokio::spawn(work));
            }
            number += 1;
        }
    }
    for each in waiting {
        each.await.unwrap();
    }
}

/// Reads a partition and says, in microseconds, how long after it was due each record came; the first second, in which
/// connections are made, left out.
async fn read_all(bus: Arc<KafkaBus>, clock: Clock, load: Load, partition: u16) -> Histogram<u64> {
    let mut late = Histogram::new(3).unwrap();
    let mut offset = 0;
    let mut expected = u64::from(partition);
    while expected < load.count() {
        let fetched = bus.fetch(BOOT, partition, offset, 256 * 1024).await.unwrap();
        assert_eq!((fetched.from, fetched.lost), (offset, false));
        offset = fetched.next_offset();
        let now = clock.now().mono;
        for record in &fetched.records {
            let number = u64::from_le_bytes(record[..8].try_into().unwrap());
            assert_eq!(number, expected);
            expected += u64::from(PARTITIONS);
            if number >= load.per_second {
                let micros = now.saturating_sub(load.due(number)).as_micros();
                late.record(micros.try_into().unwrap()).unwrap();
            }
        }
    }
    late
}

async fn run(load: Load) {
    let config = config(address());
    let (router, gateway) = (Arc::new(connect(&config).await), Arc::new(connect(&config).await));
    gateway.create(BOOT, PARTITIONS).await.unwrap();
    let clock = Clock::start();
    let reading: Vec<_> = (0..PARTITIONS)
        .map(|partition| tokio::spawn(read_all(Arc::clone(&gateway), clock, load, partition)))
        .collect();
    publish_all(Arc::clone(&router), clock, load).await;
    let mut late = Histogram::<u64>::new(3).unwrap();
    for each in reading {
        late.add(each.await.unwrap()).unwrap();
    }
    let at = |quantile| Duration::from_micros(late.value_at_quantile(quantile));
    let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(1.0));
    println!("{load:?}: due to read p50 {p50:?} p99 {p99:?} p99.9 {p999:?} max {max:?}");
    println!("{:?}", router.figures());
    delete_topics(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn a_thousand_records_a_second_come_in_order_and_once() {
    let load = Load {
        per_second: 1000,
        seconds: 10,
    };
    tokio::time::timeout(DEADLINE, run(load))
        .await
        .expect("all is read in time");
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One gateway boots, is published to, reads, and leaves.
async fn incarnation(router: &KafkaBus, gateway: &KafkaBus, boot: BootId) {
    gateway.create(boot, PARTITIONS).await.unwrap();
    for number in 1..=20 {
        let record: Arc<[u8]> = vec![7; RECORD_BYTES].into();
        router.publish(boot, 0, number, record).await.unwrap();
    }
    let fetched = gateway.fetch(boot, 0, 0, 1 << 20).await.unwrap();
    assert!(!fetched.records.is_empty());
    gateway.delete(boot).await.unwrap();
    router.delete(boot).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up kafka"]
async fn many_incarnations_of_gateways_leave_nothing_behind() {
    const WARM_UP: u64 = 50;
    const INCARNATIONS: u64 = 500;
    const GROWTH_KIB_MAX: u64 = 32 * 1024;
    let config = config(address());
    let (router, gateway) = (connect(&config).await, connect(&config).await);
    let clock = Clock::start();
    let mut before = 0;
    for boot in 0..WARM_UP + INCARNATIONS {
        if boot == WARM_UP {
            before = resident_kib();
        }
        tokio::time::timeout(DEADLINE, incarnation(&router, &gateway, BootId(boot)))
            .await
            .expect("an incarnation comes and goes in time");
    }
    let after = resident_kib();
    println!(
        "{INCARNATIONS} incarnations: {before} KiB before, {after} KiB after, {:?} in all; router {:?}; gateway {:?}",
        clock.now().mono,
        router.figures(),
        gateway.figures()
    );
    assert!(after < before + GROWTH_KIB_MAX);
    assert_eq!(router.boots().await.unwrap(), []);
}
