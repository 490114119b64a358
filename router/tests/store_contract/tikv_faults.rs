//! What the TiKV store does when its cluster fails: answers that are lost, servers that are busy, frozen or gone.
//!
//! The faults are made by the control port of the test store (`tests/tikv`), `CORELANE_TEST_TIKV_CONTROL`; each test has the
//! cluster for itself.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::frame::kind;
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::ConvId;
use corelane_router::store::MessageStore;
use corelane_router::store::tikv::{TikvOptions, TikvStore};
use corelane_router_core::append::{Append, Appended, Batch, Committed};
use tikv_client::{CheckLevel, TransactionOptions};

use super::support::{APP, Dice, Fixture, LANES, append, commit, direct, left, seqs};
use super::tikv::{PAUSE, TikvFixture, client, log, soon};

/// How long a message is sent again and again. A dead router's lock lives 3 s, a large transaction's 20 s.
const INSIST: Duration = Duration::from_secs(40);

/// The control port of the test store; faults end with it.
struct Control {
    address: String,
    /// Requests that faults had hit before.
    before: u64,
}

impl Control {
    fn new() -> Self {
        let Ok(address) = std::env::var("CORELANE_TEST_TIKV_CONTROL") else {
            panic!(
                "the test store is not there: start it with `ops/services up tikv` and set CORELANE_TEST_TIKV_CONTROL"
            );
        };
        let mut control = Self { address, before: 0 };
        control.end();
        control.before = control.hits();
        control
    }

    fn post(&self, path: &str) {
        let url = format!("http://{}/{path}", self.address);
        ureq::post(&url)
            .send_empty()
            .unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    fn fault(&self, rule: &str) {
        self.post(&format!("fault?{rule}"));
    }

    fn end(&self) {
        let url = format!("http://{}/fault", self.address);
        ureq::delete(&url)
            .call()
            .unwrap_or_else(|error| panic!("{url}: {error}"));
        self.post("thaw");
    }

    /// How many requests faults hit.
    fn hits(&self) -> u64 {
        let mut answer = ureq::get(format!("http://{}/status", self.address))
            .call()
            .unwrap();
        let status: serde_json::Value = answer.body_mut().read_json().unwrap();
        status["faults_hit"].as_u64().unwrap() - self.before
    }

    /// Splits the store's keys in the middle of its lanes.
    fn split(&self, key: &[u8]) {
        let at = key.iter().fold(String::new(), |mut at, byte| {
            let _ = write!(at, "%5Cx{byte:02x}");
            at
        });
        self.post(&format!("split?at={at}"));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
            return;
        }
        let _ = ureq::delete(format!("http://{}/fault", self.address)).call();
        let _ = ureq::post(format!("http://{}/thaw", self.address)).send_empty();
    }
}

fn quick(fixture: &TikvFixture) -> TikvStore {
    let mut options: TikvOptions = fixture.options();
    options.limits.call = Duration::from_secs(1);
    options.limits.commit = Duration::from_secs(4);
    options.limits.read = Duration::from_secs(4);
    TikvStore::open(&options).unwrap()
}

async fn attempt(store: &TikvStore, appends: Vec<Append>) -> Option<Vec<Appended>> {
    let lane = lane_of(APP, &appends[0].conv, LANES);
    match store.commit(Batch { lane, appends }).await {
        Committed::Done { answers, .. } => Some(answers),
        Committed::Unknown(_) => None,
    }
}

/// Sends until it is stored, as a client does: what is refused for now is not sent again at once. The store refuses without a
/// look what another's lock held a moment ago, so no number of attempts outlasts a lock; time does.
async fn insist(store: &TikvStore, message: &Append) -> u64 {
    let stored = async {
        loop {
            match attempt(store, vec![message.clone()]).await.as_deref() {
                Some([Appended::Stored { seq, .. }]) => return *seq,
                Some([Appended::Refused(code, text)]) => {
                    assert!(code.is_retryable(), "{code:?} {text}");
                    tokio::time::sleep(PAUSE).await;
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
    };
    let stored = tokio::time::timeout(INSIST, stored).await;
    stored.unwrap_or_else(|_| panic!("a message was not stored within {INSIST:?}"))
}

/// Every message once, in its place.
async fn check(store: &TikvStore, conv: &ConvId, acked: &[(u64, Vec<u8>)]) {
    let log = log(store, conv).await;
    for (seq, payload) in acked {
        let there = log.iter().filter(|(_, said)| said == payload).count();
        assert_eq!(there, 1, "{payload:?} is there {there} times");
        assert_eq!(&log[*seq as usize - 1].1, payload, "at its place");
    }
    let said = log.iter().filter(|(kind, _)| *kind != kind::VOID).count();
    assert_eq!(said, acked.len(), "nothing that nobody sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn a_commit_whose_answers_are_lost_is_found_and_answered_as_the_first() {
    let fixture = TikvFixture::alone();
    let control = Control::new();
    let store = quick(&fixture);
    let conv = direct("alice", "bob");
    commit(&store, vec![append(&conv, "alice", 1, b"one")]).await;
    control.fault("do=break&on=commit");
    let (answers, row) = commit(&store, vec![append(&conv, "alice", 2, b"two")]).await;
    assert!(control.hits() > 0, "the fault hit nothing");
    control.end();
    assert!(
        matches!(&answers[0], Appended::Stored { seq: 2, repeated: false, frame, .. } if !frame.is_empty()),
        "{answers:?}"
    );
    let stats = store.stats();
    assert_eq!(
        (stats.unsure, stats.resolved, stats.unknown),
        (1, 1, 0),
        "{stats:?}"
    );
    let rows = left(&fixture.open(), 0).await;
    assert_eq!(rows.last().map(|last| last.id), Some(row));
    let said = [(1, b"one".to_vec()), (2, b"two".to_vec())];
    check(&store, &conv, &said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn a_commit_that_never_began_is_written_when_the_server_is_back() {
    let fixture = TikvFixture::alone();
    let control = Control::new();
    let store = quick(&fixture);
    let conv = direct("alice", "bob");
    for rule in [
        "do=busy&on=prewrite&count=3",
        "do=refuse&on=commit&count=12",
        "do=not_leader&count=5",
    ] {
        let before = control.hits();
        control.fault(rule);
        let message = append(&conv, "alice", before, rule.as_bytes());
        let (answers, _) = commit(&store, vec![message]).await;
        assert!(
            matches!(answers[0], Appended::Stored { repeated: false, .. }),
            "{answers:?}"
        );
        assert!(control.hits() > before, "{rule} hit nothing");
        control.end();
    }
    assert_eq!(log(&store, &conv).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn a_frozen_server_makes_an_outcome_unknown_in_time_and_a_resend_finds_it_out() {
    let fixture = TikvFixture::alone();
    let control = Control::new();
    let store = quick(&fixture);
    let conv = direct("alice", "bob");
    commit(&store, vec![append(&conv, "alice", 1, b"one")]).await;
    control.post("freeze");
    let message = append(&conv, "alice", 2, b"two");
    let answer = tokio::time::timeout(Duration::from_secs(20), attempt(&store, vec![message.clone()])).await;
    assert_eq!(answer.expect("it has a deadline"), None);
    control.end();
    let seq = insist(&store, &message).await;
    check(&store, &conv, &[(1, b"one".to_vec()), (seq, b"two".to_vec())]).await;
    assert!(store.stats().rebuilt > 0, "{:?}", store.stats());
}

/// Commits a message, but lets nobody read it back until the time of the commit is over. True: its outcome was unknown.
async fn commit_blindly(store: &TikvStore, control: &Control, message: &Append) -> bool {
    let blinding = tokio::spawn({
        let control = Control::new();
        async move {
            // As soon as the commit arrived, reading ends.
            while control.hits() == 0 {
                tokio::task::yield_now().await;
            }
            control.fault("do=refuse&on=batch_get");
            std::mem::forget(control);
        }
    });
    control.fault("do=break&on=commit");
    let answer = attempt(store, vec![message.clone()]).await;
    blinding.await.unwrap();
    answer.is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn what_was_stored_by_a_commit_of_unknown_outcome_is_published_by_its_resend() {
    let fixture = TikvFixture::alone();
    let control = Control::new();
    let store = quick(&fixture);
    let conv = direct("alice", "bob");
    commit(&store, vec![append(&conv, "alice", 1, b"one")]).await;
    let message = append(&conv, "alice", 2, b"two");
    let was_unknown = commit_blindly(&store, &control, &message).await;
    control.end();
    if was_unknown {
        let (answers, row) = commit(&store, vec![message]).await;
        assert!(
            matches!(&answers[0], Appended::Stored { seq: 2, repeated: false, frame, .. } if !frame.is_empty()),
            "{answers:?}"
        );
        assert!(row > 0);
    }
    check(&store, &conv, &[(1, b"one".to_vec()), (2, b"two".to_vec())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn what_was_stored_by_a_commit_of_unknown_outcome_is_handed_over_if_nobody_sends_it_again() {
    let fixture = TikvFixture::alone();
    let control = Control::new();
    let store = quick(&fixture);
    let conv = direct("alice", "bob");
    commit(&store, vec![append(&conv, "alice", 1, b"one")]).await;
    let message = append(&conv, "alice", 2, b"two");
    let was_unknown = commit_blindly(&store, &control, &message).await;
    assert!(was_unknown, "it was read back before reading ended");
    control.end();
    let stray = soon(store.stray()).await;
    assert_eq!(stray.entries, [(APP, conv.clone(), 2, 2)]);
    // It is published: its sender learns that it is stored, and no more.
    let (answers, row) = commit(&store, vec![message]).await;
    assert!(
        matches!(
            answers[0],
            Appended::Stored {
                seq: 2,
                repeated: true,
                ..
            }
        ),
        "{answers:?}"
    );
    assert_eq!(row, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn a_lock_of_a_dead_router_holds_up_its_conversation_and_no_other() {
    let fixture = TikvFixture::alone();
    let control = Control::new();
    let store = fixture.open();
    let held = direct("alice", "bob");
    // Another conversation of the same lane.
    let mut others = (0..).map(|n| direct("alice", &format!("peer{n}")));
    let lane = lane_of(APP, &held, LANES);
    let other = others.find(|conv| lane_of(APP, conv, LANES) == lane).unwrap();
    commit(&store, vec![append(&held, "alice", 1, b"x")]).await;
    let client = client().await;
    let (key, value) = fixture.rows(&client, b'h').await.pop_first().unwrap();
    // A router that dies between prewriting and committing.
    control.fault("do=refuse&on=commit");
    // Its lock lives 3 s from its start: retries, 1.5 s of them, would use up the time in which it holds.
    let options = TransactionOptions::new_optimistic()
        .no_resolve_regions()
        .drop_check(CheckLevel::Warn);
    let mut dead = client.begin_with_options(options).await.unwrap();
    dead.put(key, value).await.unwrap();
    dead.commit().await.unwrap_err();
    drop(dead);
    control.end();
    let batch = vec![append(&held, "alice", 2, b"y"), append(&other, "alice", 3, b"z")];
    let (answers, _) = commit(&store, batch).await;
    assert!(
        matches!(&answers[0], Appended::Refused(code, _) if code.is_retryable()),
        "{answers:?}"
    );
    assert_eq!(seqs(&answers[1..]), [1]);
    assert_eq!(store.stats().aside, 1);
    // Its lock ends with its time.
    assert_eq!(insist(&store, &append(&held, "alice", 2, b"y")).await, 2);
}

/// Two routers, four senders, three regions, everything fails now and then: what was acknowledged is there once, in
/// its place, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv (the test store)"]
async fn nothing_acknowledged_is_lost_or_doubled_whatever_fails() {
    let seed: u64 = std::env::var("STORE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    eprintln!("STORE_SEED={seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let fixture = TikvFixture::alone();
    let control = Control::new();
    for lane in [3, 6] {
        control.split(&fixture.lane_start(lane));
    }
    let stores = [Arc::new(quick(&fixture)), Arc::new(quick(&fixture))];
    let actions = [
        "drop",
        "break",
        "delay",
        "late",
        "repeat",
        "busy",
        "epoch_not_match",
        "not_leader",
        "refuse",
    ];
    let kinds = [
        "prewrite",
        "commit",
        "batch_get",
        "scan",
        "check_txn_status",
        "resolve_lock",
        "rollback",
    ];
    for _ in 0..12 {
        let action = actions[dice.below(actions.len() as u64) as usize];
        let on = kinds[dice.below(kinds.len() as u64) as usize];
        let (permille, ms) = (20 + dice.below(80), dice.below(1_500));
        control.fault(&format!("do={action}&on={on}&permille={permille}&ms={ms}"));
    }
    let senders = (0..4_u64).map(|sender| {
        let store = Arc::clone(&stores[sender as usize % 2]);
        tokio::spawn(async move {
            // Two senders share a conversation by different routers.
            let conv = direct("alice", &format!("peer{}", sender / 2));
            let mut acked = Vec::new();
            for round in 0..25 {
                let payload = format!("{sender}-{round}").into_bytes();
                let message = append(&conv, "alice", 1_000 * sender + round, &payload);
                acked.push((insist(&store, &message).await, payload));
            }
            let seqs: Vec<u64> = acked.iter().map(|(seq, _)| *seq).collect();
            assert!(
                seqs.is_sorted(),
                "one sender's messages keep their order: {seqs:?}"
            );
            (conv, acked)
        })
    });
    let mut sent: std::collections::HashMap<ConvId, Vec<(u64, Vec<u8>)>> = std::collections::HashMap::new();
    for sender in senders.collect::<Vec<_>>() {
        let (conv, acked) = sender.await.unwrap();
        sent.entry(conv).or_default().extend(acked);
    }
    let hits = control.hits();
    control.end();
    assert!(hits > 0, "the faults hit nothing");
    eprintln!("{hits} faults; {:?}; {:?}", stores[0].stats(), stores[1].stats());
    for (conv, acked) in sent {
        check(&stores[0], &conv, &acked).await;
    }
}
