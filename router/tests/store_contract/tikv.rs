//! What the TiKV store promises beyond the contract: writers that come and go, commits in pieces, another's store.
//!
//! Runs against the cluster whose PD `CORELANE_TEST_PD` names; each test has a prefix of its own in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use corelane_protocol::frame::Frame;
use corelane_protocol::frame::body::ArchivedMessage;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::kind;
use corelane_protocol::id::ConvId;
use corelane_router::clock::Clock;
use corelane_router::store::tikv::{TikvOptions, TikvStore};
use corelane_router::store::{MessageStore, NOBODY_LEFT, OutboxRow, StoreError};
use corelane_router_core::append::{Append, Appended};
use corelane_router_core::decide::DEDUPE_RETENTION_MS;
use tikv_client::{CheckLevel, TransactionClient, TransactionOptions};

use super::support::{
    APP, Fixture, LANES, MINUTE_MS, START_MS, all_lanes, append, change, commit, direct, group, left, seqs,
    user,
};

/// Addresses of PD.
pub(crate) fn pd() -> Vec<String> {
    let Ok(pd) = std::env::var("CORELANE_TEST_PD") else {
        panic!(
            "TiKV is not there: start it with `ops/services up tikv` and set CORELANE_TEST_PD to its PD, host:port"
        );
    };
    pd.split(',').map(str::to_owned).collect()
}

/// Who makes faults has the cluster for himself.
static CLUSTER: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held for as long as the fixture is there")]
enum Share {
    Some(RwLockReadGuard<'static, ()>),
    Whole(RwLockWriteGuard<'static, ()>),
}

pub(crate) struct TikvFixture {
    prefix: Vec<u8>,
    clock: Arc<AtomicU64>,
    _share: Share,
}

impl TikvFixture {
    fn with(share: Share) -> Self {
        Self {
            prefix: [b"test".as_slice(), &drawn().to_be_bytes()].concat(),
            clock: Arc::new(AtomicU64::new(START_MS)),
            _share: share,
        }
    }

    /// Nobody else uses the cluster meanwhile.
    pub(crate) fn alone() -> Self {
        Self::with(Share::Whole(
            CLUSTER.write().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// The key at which a lane begins.
    pub(crate) fn lane_start(&self, lane: u16) -> Vec<u8> {
        [self.prefix.as_slice(), &lane.to_be_bytes()].concat()
    }

    pub(crate) fn options(&self) -> TikvOptions {
        let clock = Arc::clone(&self.clock);
        TikvOptions {
            prefix: self.prefix.clone(),
            wall: Some(Arc::new(move || clock.load(Ordering::SeqCst))),
            collects_garbage: false,
            ..TikvOptions::new(pd(), LANES, drawn(), drawn(), Clock::start())
        }
    }

    /// The rows of a table in the store.
    pub(crate) async fn rows(&self, client: &TransactionClient, table: u8) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut end = self.prefix.clone();
        end.push(0xff);
        let now = client.current_timestamp().await.unwrap();
        let options = TransactionOptions::new_optimistic().drop_check(CheckLevel::Warn);
        let mut snapshot = client.snapshot(now, options);
        let found = snapshot.scan(self.prefix.clone()..end, 10_000).await.unwrap();
        let rows = found.map(|pair| (Vec::<u8>::from(pair.key().clone()), pair.value().clone()));
        rows.filter(|(key, _)| key[self.prefix.len() + 2] == table)
            .collect()
    }

    /// Takes rows away, as if a commit had not written them.
    async fn tear(&self, client: &TransactionClient, keys: &[Vec<u8>]) {
        let mut write = client.begin_optimistic().await.unwrap();
        for key in keys {
            write.delete(key.clone()).await.unwrap();
        }
        write.commit().await.unwrap();
    }
}

impl Fixture for TikvFixture {
    type Store = TikvStore;

    fn new() -> Self {
        Self::with(Share::Some(
            CLUSTER.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn open(&self) -> TikvStore {
        TikvStore::open(&self.options()).unwrap_or_else(|error| panic!("TiKV is not there: {error}"))
    }

    fn clock(&self) -> &AtomicU64 {
        &self.clock
    }
}

/// Differs from all that was drawn before, by whichever process: the cluster outlives them.
fn drawn() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes)
}

pub(crate) async fn client() -> TransactionClient {
    TransactionClient::new(pd()).await.unwrap()
}

/// First and last places that rows name.
fn places(rows: &[OutboxRow]) -> Vec<(u64, u64)> {
    let entries = rows.iter().flat_map(|row| &row.entries);
    entries.map(|entry| (entry.2, entry.3)).collect()
}

/// How long a client waits with what was refused for now.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// What must come before long.
pub(crate) async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    let soon = tokio::time::timeout(Duration::from_secs(30), awaited).await;
    soon.expect("it comes within 30 s")
}

/// All messages: kind and payload by seq.
pub(crate) async fn log(store: &TikvStore, conv: &ConvId) -> Vec<(u16, Vec<u8>)> {
    let (mut from, mut found) = (1, Vec::new());
    while from != 0 {
        let page = store.pull(APP, conv.clone(), from, u64::MAX, 200).await.unwrap();
        for (seq, frame) in &page.messages {
            assert_eq!(*seq, found.len() as u64 + 1, "places are dense");
            let frame = Frame::parse(frame).unwrap();
            let message = frame.access::<ArchivedMessage>().unwrap();
            assert_eq!(message.seq.to_native(), *seq);
            found.push((message.kind.to_native(), message.payload.to_vec()));
        }
        from = page.next_seq;
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn a_store_of_another_cluster_or_with_other_lanes_is_refused_by_name() {
    let fixture = TikvFixture::new();
    let info = fixture.open().info();
    let refused = |options: TikvOptions| match TikvStore::open(&options) {
        Err(StoreError::Open { path, problem }) => format!("{path} {problem}"),
        other => panic!("{other:?}"),
    };
    let named = format!("belongs to cluster {:016x}", info.cluster_id);
    let text = refused(TikvOptions {
        lanes: 2 * LANES,
        ..fixture.options()
    });
    let lanes = format!("set store.lanes to {LANES}");
    assert!(text.contains(&named) && text.contains(&lanes), "{text}");
    let text = refused(TikvOptions {
        cluster_id: Some(info.cluster_id ^ 1),
        ..fixture.options()
    });
    assert!(text.contains(&named) && text.contains("store.pd"), "{text}");
    let wanted = TikvOptions {
        cluster_id: Some(info.cluster_id),
        ..fixture.options()
    };
    assert_eq!(TikvStore::open(&wanted).unwrap().info(), info);
    let elsewhere = TikvFixture::new();
    let text = refused(TikvOptions {
        cluster_id: Some(info.cluster_id),
        makes: false,
        ..elsewhere.options()
    });
    assert!(text.contains("holds no store"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_does_not_answer_is_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pd = nobody.local_addr().unwrap().to_string();
    let mut options = TikvOptions::new(vec![pd.clone()], LANES, 1, 2, Clock::start());
    options.limits.call = Duration::from_millis(200);
    options.limits.open = Duration::from_millis(500);
    let text = TikvStore::open(&options).unwrap_err().to_string();
    assert!(text.contains(&pd) && text.contains("store.pd"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn two_routers_that_write_one_conversation_keep_it_dense_and_store_each_message_once() {
    let fixture = TikvFixture::new();
    let conv = direct("alice", "bob");
    let stores = [Arc::new(fixture.open()), Arc::new(fixture.open())];
    let writers = [0, 1, 2, 3].map(|writer: u64| {
        let (store, conv) = (Arc::clone(&stores[writer as usize % 2]), conv.clone());
        tokio::spawn(async move {
            // Two of them send the same messages, by different routers.
            let number = writer / 2;
            for round in 0..10 {
                let payload = format!("{number}-{round}");
                let message = append(&conv, "alice", 100 * number + round, payload.as_bytes());
                commit_surely(&store, vec![message]).await;
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let mut said: Vec<_> = log(&stores[0], &conv).await;
    said.retain(|(kind, _)| *kind != kind::VOID);
    let mut once: Vec<Vec<u8>> = said.iter().map(|(_, payload)| payload.clone()).collect();
    once.sort();
    once.dedup();
    assert_eq!((said.len(), once.len()), (20, 20));
    assert!(stores[0].stats().repairs + stores[1].stats().repairs > 0);
}

/// As a client does: what is refused for now is sent again, but not at once. The store refuses without a look what
/// another's lock held a moment ago.
pub(crate) async fn commit_surely(store: &TikvStore, appends: Vec<Append>) -> Vec<Appended> {
    soon(async {
        loop {
            let (answers, _) = commit(store, appends.clone()).await;
            let is_stored = |answer: &Appended| match answer {
                Appended::Stored { .. } => true,
                Appended::Refused(code, text) => {
                    assert!(code.is_retryable(), "{code:?} {text}");
                    false
                }
            };
            if answers.iter().all(is_stored) {
                return answers;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn from_a_hole_of_a_dead_router_on_places_become_void_and_messages_are_stored_anew() {
    let fixture = TikvFixture::new();
    let conv = direct("alice", "bob");
    let sent: Vec<_> = (0..4).map(|n| append(&conv, "alice", n, &[n as u8])).collect();
    let first = fixture.open();
    let (_, row) = commit(&first, sent.clone()).await;
    first.clear_outbox(vec![row]);
    drop(first);
    let client = client().await;
    // Of its last commit one message, the dedupe row of another and a recent row are missing.
    let messages: Vec<_> = fixture.rows(&client, b'm').await.into_keys().collect();
    let dedupes: Vec<_> = fixture.rows(&client, b'd').await.into_keys().collect();
    let recents: Vec<_> = fixture.rows(&client, b'r').await.into_keys().collect();
    assert_eq!((messages.len(), dedupes.len(), recents.len()), (4, 4, 2));
    fixture
        .tear(
            &client,
            &[messages[2].clone(), dedupes[1].clone(), recents[0].clone()],
        )
        .await;
    let second = fixture.open();
    let said = log(&second, &conv).await;
    assert_eq!(
        said.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        [kind::TEXT, kind::TEXT, kind::VOID, kind::VOID]
    );
    // What stands before the hole stays, what is lost is stored anew, and what followed it follows it again.
    let (answers, _) = commit(&second, sent.clone()).await;
    assert_eq!(seqs(&answers), [1, 2, 5, 6]);
    assert!(
        matches!(
            &answers[2],
            Appended::Stored {
                repeated: false,
                n: 3,
                ..
            }
        ),
        "{answers:?}"
    );
    let (answers, _) = commit(&second, sent).await;
    assert_eq!(seqs(&answers), [1, 2, 5, 6]);
    let stats = second.stats();
    assert_eq!((stats.voids, stats.repairs), (2, 1), "{stats:?}");
    let stray = soon(second.stray()).await;
    assert_eq!(
        places(&[stray]),
        [(1, 4)],
        "what was mended is handed over to be published"
    );
    assert_eq!(places(&left(&fixture.open(), 0).await), [(1, 4), (5, 6)]);
    for name in ["alice", "bob"] {
        let page = second.sync(APP, user(name), Vec::new(), 10).await.unwrap();
        assert_eq!(page.conversations.len(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn messages_above_a_head_that_does_not_know_them_are_kept() {
    let fixture = TikvFixture::new();
    let conv = direct("alice", "bob");
    let store = fixture.open();
    commit(&store, vec![append(&conv, "alice", 1, b"one")]).await;
    let client = client().await;
    let heads = fixture.rows(&client, b'h').await;
    let second = append(&conv, "alice", 2, b"two");
    let (_, row) = commit(&store, vec![second.clone()]).await;
    drop(store);
    // The head of the second commit is missing, and so is its outbox row.
    let mut write = client.begin_optimistic().await.unwrap();
    for (key, value) in heads {
        write.put(key, value).await.unwrap();
    }
    for key in fixture.rows(&client, b'o').await.into_keys() {
        if key.ends_with(&row.to_be_bytes()) {
            write.delete(key).await.unwrap();
        }
    }
    write.commit().await.unwrap();
    let store = fixture.open();
    let (answers, _) = commit(&store, vec![append(&conv, "alice", 3, b"three"), second]).await;
    assert_eq!(seqs(&answers), [3, 2]);
    let said: Vec<_> = log(&store, &conv)
        .await
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(said, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn a_batch_larger_than_a_transaction_has_one_outbox_row() {
    let fixture = TikvFixture::new();
    let store = fixture.open();
    let conv = direct("alice", "bob");
    let payload = vec![7; 60 * 1024];
    let appends = (0..17).map(|n| append(&conv, "alice", n, &payload)).collect();
    let (answers, row) = commit(&store, appends).await;
    assert_eq!(seqs(&answers), (1..=17).collect::<Vec<_>>());
    let rows = left(&fixture.open(), 0).await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].id, &rows[0].entries), (row, &vec![(APP, conv, 1, 17)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn the_next_router_goes_on_with_groups_and_their_members() {
    let fixture = TikvFixture::new();
    let team = group("team");
    let first = fixture.open();
    commit(&first, vec![change(&team, 1, true, &["alice", "bob"], &[])]).await;
    commit(&first, vec![append(&team, "bob", 2, b"hi")]).await;
    drop(first);
    let second = fixture.open();
    let (answers, _) = commit(&second, vec![append(&team, "alice", 3, b"x")]).await;
    assert_eq!(seqs(&answers), [3]);
    let members = second.members(APP, team.clone(), NOBODY_LEFT).await.unwrap();
    assert_eq!(
        (members.version, members.present()),
        (1, vec![user("alice"), user("bob")])
    );
    let (answers, _) = commit(&second, vec![change(&team, 4, false, &[], &["bob"])]).await;
    assert_eq!(seqs(&answers), [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn a_change_of_members_that_is_in_pieces_is_made_by_what_its_message_says() {
    let fixture = TikvFixture::new();
    let team = group("team");
    let first = fixture.open();
    commit(&first, vec![change(&team, 1, true, &["alice", "bob"], &[])]).await;
    commit(&first, vec![change(&team, 2, false, &["carol"], &["alice"])]).await;
    drop(first);
    // What the second change did to the rows of carol, who came, and of all lists.
    let client = client().await;
    let members: Vec<_> = fixture.rows(&client, b'g').await.into_keys().collect();
    assert_eq!(members.len(), 3);
    let carol = members.into_iter().filter(|key| key.ends_with(b"carol"));
    let lists = fixture.rows(&client, b'r').await.into_keys();
    fixture
        .tear(&client, &carol.chain(lists).collect::<Vec<_>>())
        .await;
    let second = fixture.open();
    let (answers, _) = commit(&second, vec![append(&team, "carol", 3, b"hi")]).await;
    assert_eq!(seqs(&answers), [3]);
    let (answers, _) = commit(&second, vec![append(&team, "alice", 4, b"hi")]).await;
    assert!(matches!(answers[0], Appended::Refused(ErrorCode::NotMember, _)));
    let members = second.members(APP, team.clone(), NOBODY_LEFT).await.unwrap();
    assert_eq!(
        (members.version, members.present()),
        (2, vec![user("bob"), user("carol")])
    );
    for name in ["bob", "carol"] {
        let page = second.sync(APP, user(name), Vec::new(), 10).await.unwrap();
        assert_eq!(page.conversations.len(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn what_a_dead_router_left_is_adopted_once_and_a_living_ones_rows_are_left_alone() {
    let fixture = TikvFixture::new();
    let (dead, living) = (fixture.options(), fixture.options());
    let store = TikvStore::open(&dead).unwrap();
    let row = commit(&store, vec![append(&direct("alice", "bob"), "alice", 1, b"x")])
        .await
        .1;
    drop(store);
    let lives = TikvStore::open(&living).unwrap();
    let conv = direct("alice", "carol");
    commit(&lives, vec![append(&conv, "alice", 2, b"y")]).await;
    let store = fixture.open();
    let mut writers = store.writers().await.unwrap();
    writers.sort_unstable();
    let mut both = [dead.boot, living.boot];
    both.sort_unstable();
    assert_eq!(writers, both);
    let rows = store.outbox(vec![dead.boot], all_lanes(), 0).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.id, row.writer)).collect::<Vec<_>>(),
        [(row, dead.boot)]
    );
    assert!(
        store
            .outbox(vec![dead.boot], all_lanes(), 0)
            .await
            .unwrap()
            .is_empty(),
        "named once"
    );
    store.clear_outbox(vec![row]);
    drop(store);
    assert_eq!(fixture.open().writers().await.unwrap(), [living.boot]);
    commit(&lives, vec![append(&conv, "alice", 3, b"z")]).await;
    assert_eq!(lives.stats().repairs, 0, "nobody took its conversation over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn ids_are_forgotten_only_when_they_are_refused_as_stale() {
    let fixture = TikvFixture::new();
    let store = fixture.open();
    let client = client().await;
    let first = append(&direct("alice", "bob"), "alice", 1, b"x");
    commit(&store, vec![first.clone()]).await;
    fixture.clock().fetch_add(DEDUPE_RETENTION_MS, Ordering::SeqCst);
    assert!(store.forget_ids().await.unwrap());
    assert_eq!(
        fixture.rows(&client, b'd').await.len(),
        1,
        "it is still refused by its row"
    );
    fixture.clock().fetch_add(120 * MINUTE_MS, Ordering::SeqCst);
    assert!(store.forget_ids().await.unwrap());
    assert_eq!(
        (
            fixture.rows(&client, b'd').await.len(),
            store.stats().ids_forgotten
        ),
        (0, 1)
    );
    // Whatever a clock says from here on.
    fixture
        .clock()
        .fetch_sub(DEDUPE_RETENTION_MS + 120 * MINUTE_MS, Ordering::SeqCst);
    for store in [store, fixture.open()] {
        let (answers, _) = commit(&store, vec![first.clone()]).await;
        assert!(
            matches!(answers[0], Appended::Refused(ErrorCode::StaleId, _)),
            "{answers:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up tikv"]
async fn garbage_is_collected_by_one_router() {
    let fixture = TikvFixture::new();
    let (one, other) = (fixture.open(), fixture.open());
    let lag = Duration::from_mins(10);
    one.collect_garbage(lag).await.unwrap();
    assert!(
        !other.collect_garbage(lag).await.unwrap(),
        "the lease is another's"
    );
    assert!(!other.forget_ids().await.unwrap());
    assert!(one.forget_ids().await.unwrap());
}
