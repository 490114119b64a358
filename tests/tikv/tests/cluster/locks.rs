//! Locks of clients that died.

use corelane_tikv_test_store::{Action, RequestKind, Rule};
use tikv_client::TransactionClient;

use crate::harness::{Fixture, begin, eventually, fixture, key, put, settled};

/// A client that prewrites and dies: its commit never arrives.
async fn die_before_the_commit(fixture: &Fixture, keys: &[Vec<u8>]) {
    fixture
        .store
        .fault(Rule::always(Action::Refuse).on(RequestKind::Commit))
        .unwrap();
    put(&fixture.client, keys, "of the dead").await.unwrap_err();
    fixture.store.clear_faults();
    assert_eq!(fixture.store.summary().locks, keys.len());
}

/// Inserts once the lock in its way can be resolved.
async fn insert_in_the_end(client: &TransactionClient, key: &[u8]) {
    let insert = async || {
        let mut txn = begin(client).await;
        txn.insert(key.to_vec(), "of the living").await.unwrap();
        txn.commit().await.ok()
    };
    eventually("an insert gets past the lock", insert).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_left_by_a_dead_client_is_resolved_by_a_reader_and_by_a_writer() {
    let fixture = fixture().await;
    let keys: Vec<_> = (0..3).map(|region| key(region, "a")).collect();
    put(&fixture.client, &keys[..1], "before").await.unwrap();
    die_before_the_commit(&fixture, &keys).await;
    assert_eq!(
        settled(&fixture.client, &keys[0]).await.as_deref(),
        Some("before")
    );
    insert_in_the_end(&fixture.client, &keys[1]).await;
    assert_eq!(
        settled(&fixture.client, &keys[1]).await.as_deref(),
        Some("of the living")
    );
    assert_eq!(settled(&fixture.client, &keys[2]).await, None);
    assert_eq!(fixture.store.summary().locks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secondaries_of_a_committed_primary_are_committed_by_whoever_meets_them() {
    let fixture = fixture().await;
    let keys: Vec<_> = (0..3).map(|region| key(region, "a")).collect();
    let mut txn = begin(&fixture.client).await;
    for key in &keys {
        txn.put(key.clone(), "value").await.unwrap();
    }
    // The first commit is the primary's; those of the secondaries are lost with their client.
    fixture
        .store
        .fault(Rule::always(Action::Delay).on(RequestKind::Commit).times(1))
        .unwrap();
    fixture
        .store
        .fault(Rule::always(Action::Refuse).on(RequestKind::Commit))
        .unwrap();
    txn.commit().await.unwrap();
    for key in &keys {
        assert_eq!(settled(&fixture.client, key).await.as_deref(), Some("value"));
    }
}
