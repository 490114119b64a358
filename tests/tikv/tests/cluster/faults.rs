//! Faults on command: each does what it says, and leaves behind what a real one would.

use std::time::Duration;

use corelane_tikv_test_store::{Action, RequestKind, Rule};

use crate::harness::{begin, eventually, fixture, fixture_with, get, key, put, settled};

/// So that a lost answer costs little.
const IMPATIENT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_dropped_is_applied_and_asked_again() {
    let fixture = fixture_with(IMPATIENT).await;
    fixture
        .store
        .fault(Rule::always(Action::Drop).on(RequestKind::Commit).times(1))
        .unwrap();
    put(&fixture.client, &[key(0, "a")], "value").await.unwrap();
    assert_eq!(fixture.store.faults_hit(), 1);
    assert_eq!(
        get(&fixture.client, &key(0, "a")).await.unwrap().as_deref(),
        Some("value")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_commit_is_no_refusal() {
    let fixture = fixture().await;
    fixture
        .store
        .fault(Rule::always(Action::Break).on(RequestKind::Commit))
        .unwrap();
    put(&fixture.client, &[key(0, "a")], "value").await.unwrap_err();
    fixture.store.clear_faults();
    assert_eq!(
        get(&fixture.client, &key(0, "a")).await.unwrap().as_deref(),
        Some("value")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_commit_is_not_applied() {
    let fixture = fixture().await;
    fixture
        .store
        .fault(Rule::always(Action::Refuse).on(RequestKind::Commit))
        .unwrap();
    put(&fixture.client, &[key(0, "a")], "value").await.unwrap_err();
    fixture.store.clear_faults();
    assert_eq!(settled(&fixture.client, &key(0, "a")).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn region_errors_are_asked_past_and_a_busy_server_is_an_error_at_once() {
    let fixture = fixture().await;
    for action in [
        Action::EpochNotMatch,
        Action::NotLeader,
        Action::RegionNotFound,
        Action::KeyNotInRegion,
    ] {
        fixture
            .store
            .fault(Rule::always(action).on(RequestKind::Prewrite).times(2))
            .unwrap();
        put(&fixture.client, &[key(0, "a")], &format!("{action:?}"))
            .await
            .unwrap();
    }
    assert_eq!(fixture.store.faults_hit(), 8);
    assert_eq!(
        get(&fixture.client, &key(0, "a")).await.unwrap().as_deref(),
        Some("KeyNotInRegion")
    );
    fixture
        .store
        .fault(Rule::always(Action::Busy).on(RequestKind::Prewrite).times(1))
        .unwrap();
    let error = put(&fixture.client, &[key(0, "b")], "value").await.unwrap_err();
    assert!(format!("{error:?}").contains("server_is_busy: Some"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrive_twice_change_nothing_the_second_time() {
    let fixture = fixture().await;
    fixture
        .store
        .fault(Rule::always(Action::Repeat).after(Duration::from_millis(5)))
        .unwrap();
    let keys: Vec<_> = (0..3).map(|region| key(region, "counter")).collect();
    for round in 0..20 {
        put(&fixture.client, &keys, &round.to_string()).await.unwrap();
        let mut txn = begin(&fixture.client).await;
        txn.put(keys[0].clone(), "rolled back").await.unwrap();
        txn.rollback().await.unwrap();
    }
    assert!(fixture.store.faults_hit() > 100);
    fixture.store.clear_faults();
    for key in &keys {
        assert_eq!(settled(&fixture.client, key).await.as_deref(), Some("19"));
    }
    eventually("no lock is left", async || {
        (fixture.store.summary().locks == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_is_applied_although_its_client_has_given_up() {
    let fixture = fixture_with(IMPATIENT).await;
    let late = Rule::always(Action::Late)
        .on(RequestKind::Commit)
        .after(Duration::from_secs(1));
    fixture.store.fault(late.times(1)).unwrap();
    let refused = Rule::always(Action::Refuse).on(RequestKind::Commit);
    fixture.store.fault(refused).unwrap();
    put(&fixture.client, &[key(0, "a")], "value").await.unwrap_err();
    fixture.store.clear_faults();
    assert_eq!(
        settled(&fixture.client, &key(0, "a")).await.as_deref(),
        Some("value")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_store_applies_when_it_thaws_what_came_meanwhile() {
    let fixture = fixture_with(IMPATIENT).await;
    put(&fixture.client, &[key(0, "a")], "before").await.unwrap();
    let mut txn = begin(&fixture.client).await;
    txn.put(key(0, "a"), "frozen").await.unwrap();
    fixture.store.set_frozen(true);
    let records = fixture.store.summary().records;
    tokio::time::timeout(2 * IMPATIENT, txn.commit())
        .await
        .unwrap_err();
    assert_eq!(fixture.store.summary().records, records);
    fixture.store.set_frozen(false);
    eventually("the prewrite is applied", async || {
        (fixture.store.summary().locks == 1).then_some(())
    })
    .await;
    // Nobody commits it: its lock goes with its time.
    assert_eq!(
        settled(&fixture.client, &key(0, "a")).await.as_deref(),
        Some("before")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_answer_comes_late() {
    let fixture = fixture().await;
    let delay = Duration::from_millis(400);
    fixture
        .store
        .fault(
            Rule::always(Action::Delay)
                .on(RequestKind::Prewrite)
                .times(1)
                .after(delay),
        )
        .unwrap();
    let start = crate::harness::now();
    put(&fixture.client, &[key(0, "a")], "value").await.unwrap();
    assert!(start.elapsed() >= delay);
}
