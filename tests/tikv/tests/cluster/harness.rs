//! A store with a client, keys in three regions, and conditions to wait for.

use std::time::{Duration, Instant};

use corelane_tikv_test_store::{Options, TestStore};
use tempfile::TempDir;
use tikv_client::transaction::HeartbeatOption;
use tikv_client::{CheckLevel, Config, Result, Transaction, TransactionClient, TransactionOptions};

/// Where the second and the third region begin.
pub const SPLITS: [&[u8]; 2] = [b"\x00\x03", b"\x00\x06"];
/// Longer than a lock lives and the client waits.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A store in this process, and a client of it.
pub struct Fixture {
    pub store: TestStore,
    pub client: TransactionClient,
    _folder: TempDir,
}

/// A fresh store. Its client gives up on a request after `timeout`.
pub async fn fixture_with(timeout: Duration) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = TestStore::start(Options::local(folder.path(), SPLITS))
        .await
        .unwrap();
    let client = connect(store.pd_address(), timeout).await;
    Fixture {
        store,
        client,
        _folder: folder,
    }
}

/// A fresh store and a client that is in no hurry.
pub async fn fixture() -> Fixture {
    fixture_with(Duration::from_secs(5)).await
}

pub async fn connect(pd: &str, timeout: Duration) -> TransactionClient {
    TransactionClient::new_with_config(vec![pd], Config::default().with_timeout(timeout))
        .await
        .unwrap()
}

/// A key in the first, second or third region.
pub fn key(region: usize, name: &str) -> Vec<u8> {
    let lane: u8 = [1, 4, 7][region];
    [&[0, lane], name.as_bytes()].concat()
}

/// An optimistic transaction that may be dropped.
pub async fn begin(client: &TransactionClient) -> Transaction {
    try_begin(client).await.unwrap()
}

pub async fn try_begin(client: &TransactionClient) -> Result<Transaction> {
    let options = TransactionOptions::new_optimistic()
        .drop_check(CheckLevel::None)
        .heartbeat_option(HeartbeatOption::NoHeartbeat);
    client.begin_with_options(options).await
}

/// Commits one put per key, all in one transaction.
pub async fn put(client: &TransactionClient, keys: &[Vec<u8>], value: &str) -> Result<()> {
    let mut txn = try_begin(client).await?;
    for key in keys {
        txn.put(key.clone(), value).await?;
    }
    txn.commit().await.map(drop)
}

/// What a new snapshot sees.
pub async fn get(client: &TransactionClient, key: &[u8]) -> Result<Option<String>> {
    let value = try_begin(client).await?.get(key.to_vec()).await?;
    Ok(value.map(|value| String::from_utf8(value).unwrap()))
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The value that snapshots come to see, once locks in their way are resolved.
pub async fn settled(client: &TransactionClient, key: &[u8]) -> Option<String> {
    eventually("the key can be read", async || get(client, key).await.ok()).await
}

#[expect(clippy::disallowed_methods, reason = "tests have deadlines of their own")]
pub fn now() -> Instant {
    Instant::now()
}
