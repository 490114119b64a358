//! Garbage collection, as tikv-client starts it.

use tikv_client::TimestampExt;

use crate::harness::{eventually, fixture, get, key, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_safe_point_drops_deleted_keys_and_keeps_what_lives() {
    let fixture = fixture().await;
    let (kept, gone) = (key(0, "kept"), key(2, "gone"));
    for round in 0..5 {
        put(&fixture.client, &[kept.clone(), gone.clone()], &round.to_string())
            .await
            .unwrap();
    }
    let mut txn = crate::harness::begin(&fixture.client).await;
    txn.delete(gone.clone()).await.unwrap();
    txn.commit().await.unwrap();
    assert_eq!(get(&fixture.client, &gone).await.unwrap(), None);
    assert_eq!(fixture.store.summary().keys, 2);
    let safe_point = fixture.client.current_timestamp().await.unwrap();
    assert!(fixture.client.gc(safe_point.clone()).await.unwrap());
    assert_eq!(fixture.store.summary().safe_point, safe_point.version());
    eventually("the deleted key is gone", async || {
        (fixture.store.summary().keys == 1).then_some(())
    })
    .await;
    assert_eq!(get(&fixture.client, &kept).await.unwrap().as_deref(), Some("4"));
}
