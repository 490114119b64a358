//! What holds on every TiKV cluster. Run on a real one with
//! `CORELANE_TEST_PD=host:port cargo test -p corelane-tikv-test-store -- --ignored`.

use std::time::Duration;

use tikv_client::{BoundRange, TransactionClient};

use crate::harness::{begin, connect, fixture, get, key, put};

/// Names a test twice: on a store of its own, and on the cluster of `CORELANE_TEST_PD`.
macro_rules! anywhere {
    ($($name:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let fixture = fixture().await;
            run::$name(&fixture.client, "").await;
        })*

        mod given {
            $(#[tokio::test(flavor = "multi_thread")]
            #[ignore = "runs on the cluster that CORELANE_TEST_PD names"]
            async fn $name() {
                let (client, prefix) = super::given_cluster().await;
                super::run::$name(&client, &prefix).await;
            })*
        }
    };
}

anywhere!(
    a_transaction_over_three_regions_commits_and_reads_back,
    of_conflicting_writers_exactly_one_wins,
    an_insert_of_an_existing_key_fails,
    a_snapshot_does_not_see_later_commits,
    a_rolled_back_transaction_leaves_nothing,
    scans_page_through_all_regions_in_both_directions,
    batches_above_one_request_commit_whole,
    a_locked_key_that_was_read_conflicts_with_its_writer,
);

/// A client of the given cluster, and a prefix that no other run uses.
async fn given_cluster() -> (TransactionClient, String) {
    let pd = std::env::var("CORELANE_TEST_PD").expect("CORELANE_TEST_PD must name a PD, as host:port");
    let client = connect(&pd, Duration::from_secs(5)).await;
    let unique = tikv_client::TimestampExt::version(&client.current_timestamp().await.unwrap());
    (client, format!("test/{unique}/"))
}

mod run {
    use super::*;

    pub(super) async fn a_transaction_over_three_regions_commits_and_reads_back(
        client: &TransactionClient,
        prefix: &str,
    ) {
        let keys: Vec<_> = (0..3).map(|region| key(region, &format!("{prefix}a"))).collect();
        put(client, &keys, "value").await.unwrap();
        let mut txn = begin(client).await;
        let found: Vec<Vec<u8>> = txn
            .batch_get(keys.clone())
            .await
            .unwrap()
            .map(|pair| pair.into_key().into())
            .collect();
        assert_eq!(found, keys);
        for key in &keys {
            assert_eq!(get(client, key).await.unwrap().as_deref(), Some("value"));
        }
    }

    pub(super) async fn of_conflicting_writers_exactly_one_wins(client: &TransactionClient, prefix: &str) {
        let shared = key(1, &format!("{prefix}shared"));
        let mut writers = Vec::new();
        for index in 0..8 {
            let mut txn = begin(client).await;
            // All have read the same before any writes.
            txn.get(shared.clone()).await.unwrap();
            txn.put(shared.clone(), index.to_string()).await.unwrap();
            writers.push((index.to_string(), txn));
        }
        let commits = writers.into_iter().map(|(name, mut txn)| {
            tokio::spawn(async move {
                let committed = txn.commit().await;
                if committed.is_err() {
                    txn.rollback().await.unwrap();
                }
                committed.is_ok().then_some(name)
            })
        });
        let mut winners = Vec::new();
        for commit in commits.collect::<Vec<_>>() {
            winners.extend(commit.await.unwrap());
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(get(client, &shared).await.unwrap(), winners.pop());
    }

    pub(super) async fn an_insert_of_an_existing_key_fails(client: &TransactionClient, prefix: &str) {
        let (old, new) = (key(0, &format!("{prefix}old")), key(2, &format!("{prefix}new")));
        put(client, std::slice::from_ref(&old), "first").await.unwrap();
        let mut txn = begin(client).await;
        txn.insert(new.clone(), "second").await.unwrap();
        txn.insert(old.clone(), "second").await.unwrap();
        let error = txn.commit().await.unwrap_err();
        assert!(format!("{error:?}").contains("AlreadyExist"), "{error:?}");
        txn.rollback().await.unwrap();
        assert_eq!(get(client, &old).await.unwrap().as_deref(), Some("first"));
        assert_eq!(get(client, &new).await.unwrap(), None);
    }

    pub(super) async fn a_snapshot_does_not_see_later_commits(client: &TransactionClient, prefix: &str) {
        let seen = key(0, &format!("{prefix}seen"));
        put(client, std::slice::from_ref(&seen), "before").await.unwrap();
        let mut old = begin(client).await;
        put(client, std::slice::from_ref(&seen), "after").await.unwrap();
        assert_eq!(old.get(seen.clone()).await.unwrap().unwrap(), b"before");
        assert_eq!(get(client, &seen).await.unwrap().as_deref(), Some("after"));
    }

    pub(super) async fn a_rolled_back_transaction_leaves_nothing(client: &TransactionClient, prefix: &str) {
        let never = key(1, &format!("{prefix}never"));
        let mut txn = begin(client).await;
        txn.put(never.clone(), "value").await.unwrap();
        txn.rollback().await.unwrap();
        assert_eq!(get(client, &never).await.unwrap(), None);
        put(client, std::slice::from_ref(&never), "later").await.unwrap();
        assert_eq!(get(client, &never).await.unwrap().as_deref(), Some("later"));
    }

    pub(super) async fn scans_page_through_all_regions_in_both_directions(
        client: &TransactionClient,
        prefix: &str,
    ) {
        // Between the keys of a run lie, at most, keys of other runs.
        let names = (0..30).map(|index| format!("{prefix}page {index:02}"));
        let keys: Vec<_> = names
            .enumerate()
            .map(|(index, name)| key(index / 10, &name))
            .collect();
        put(client, &keys, "value").await.unwrap();
        let mut txn = begin(client).await;
        let (mut found, mut from) = (Vec::new(), keys[0].clone());
        let end = [&keys[29][..], b"\0"].concat();
        loop {
            let page = BoundRange::from(from.clone()..end.clone());
            let page: Vec<Vec<u8>> = txn
                .scan(page, 7)
                .await
                .unwrap()
                .map(|pair| pair.into_key().into())
                .collect();
            assert!(page.len() <= 7);
            let Some(last) = page.last() else { break };
            from = [last, &b"\0"[..]].concat();
            found.extend(page);
        }
        found.retain(|found| keys.contains(found));
        assert_eq!(found, keys);
        let all = BoundRange::from(keys[0].clone()..end);
        let mut back: Vec<Vec<u8>> = txn
            .scan_keys_reverse(all, 10_000)
            .await
            .unwrap()
            .map(Into::into)
            .collect();
        back.retain(|found| keys.contains(found));
        back.reverse();
        assert_eq!(back, keys);
    }

    pub(super) async fn batches_above_one_request_commit_whole(client: &TransactionClient, prefix: &str) {
        // Prewrites go in requests of 16 KiB: this is about twenty of them, over all regions.
        let keys: Vec<_> = (0..90)
            .map(|index| key(index % 3, &format!("{prefix}large {index}")))
            .collect();
        let value = "x".repeat(4_000);
        put(client, &keys, &value).await.unwrap();
        let mut txn = begin(client).await;
        let pairs: Vec<_> = txn.batch_get(keys.clone()).await.unwrap().collect();
        assert_eq!(pairs.len(), keys.len());
        assert!(
            pairs
                .iter()
                .all(|pair| pair.value().as_slice() == value.as_bytes())
        );
    }

    pub(super) async fn a_locked_key_that_was_read_conflicts_with_its_writer(
        client: &TransactionClient,
        prefix: &str,
    ) {
        let (guard, own) = (key(0, &format!("{prefix}guard")), key(2, &format!("{prefix}own")));
        put(client, std::slice::from_ref(&guard), "before").await.unwrap();
        let mut txn = begin(client).await;
        txn.lock_keys([guard.clone()]).await.unwrap();
        txn.put(own.clone(), "value").await.unwrap();
        put(client, std::slice::from_ref(&guard), "after").await.unwrap();
        let error = txn.commit().await.unwrap_err();
        assert!(format!("{error:?}").contains("WriteConflict"), "{error:?}");
        txn.rollback().await.unwrap();
        assert_eq!(get(client, &own).await.unwrap(), None);
    }
}
