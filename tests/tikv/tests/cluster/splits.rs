//! Regions that split under their clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tikv_client::TransactionClient;

use crate::harness::{eventually, fixture, get, key, put};

const WRITERS: usize = 4;

/// Commits transactions over two regions until told to stop; returns the keys of those that succeeded.
async fn write(
    client: TransactionClient,
    writer: usize,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicUsize>,
) -> Vec<Vec<u8>> {
    let mut written = Vec::new();
    for index in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{} of {writer}", index * 7_919 % 1_000);
        let keys = [key(0, &name), key(2, &name)];
        if put(&client, &keys, "value").await.is_ok() {
            committed.fetch_add(1, Ordering::Relaxed);
            written.extend(keys);
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn splits_under_load_lose_nothing() {
    let fixture = fixture().await;
    let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let start = |writer| {
        tokio::spawn(write(
            fixture.client.clone(),
            writer,
            stop.clone(),
            committed.clone(),
        ))
    };
    let writers: Vec<_> = (0..WRITERS).map(start).collect();
    for (region, name) in [(0, "3"), (2, "5"), (0, "7"), (2, "2"), (0, "1")] {
        let before = committed.load(Ordering::Relaxed);
        assert!(fixture.store.split(&key(region, name)).await.unwrap());
        let go_on = async || (committed.load(Ordering::Relaxed) > before + 10).then_some(());
        eventually("writers get past the split", go_on).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        for key in writer.await.unwrap() {
            assert_eq!(
                get(&fixture.client, &key).await.unwrap().as_deref(),
                Some("value")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_where_a_region_begins_is_none() {
    let fixture = fixture().await;
    assert!(fixture.store.split(b"\x00\x04").await.unwrap());
    assert!(!fixture.store.split(b"\x00\x04").await.unwrap());
    assert!(!fixture.store.split(b"\x00\x03").await.unwrap());
}
