//! What every store must do, run against each adapter. A new adapter adds its factory to `stores`.

use std::path::Path;

use corelane_protocol::frame::body::ArchivedMessage;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, kind};
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, GroupId, UserId};
use corelane_router::clock::Clock;
use corelane_router::store::schema::Durability;
use corelane_router::store::sqlite::SqliteStore;
use corelane_router::store::{MessageStore, StoreError};
use corelane_router_core::append::{Append, Appended, Batch, Committed, MemberChange};

const APP: AppId = AppId(3);
const LANES: u16 = 8;

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(
        dir,
        Durability::Full,
        LANES,
        0x1234_5678_9abc_def0,
        Clock::start(),
    )
    .unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A fresh id: the time of now, and `number`.
fn id(number: u64) -> ClientMsgId {
    let now_ms = Clock::start().now().wall_ms;
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes[8] = 0x80;
    ClientMsgId(bytes)
}

fn append(conv: &ConvId, sender: &str, number: u64, payload: &[u8]) -> Append {
    Append {
        app: APP,
        conv: conv.clone(),
        sender: user(sender),
        client_msg_id: id(number),
        kind: kind::TEXT,
        flags: 0,
        ref_seq: 0,
        content_type: 0,
        payload: payload.to_vec(),
        extensions: Vec::new(),
        origin_terminal: 1,
        origin_device: "d".to_owned(),
        members: MemberChange::default(),
        check_member: true,
        moves_read_mark: true,
    }
}

fn direct(one: &str, other: &str) -> ConvId {
    ConvId::direct(&user(one), &user(other))
}

fn create(group: &str, members: &[&str]) -> Append {
    let conv = ConvId::group(&GroupId::new(group).unwrap());
    Append {
        kind: kind::GROUP_CHANGE,
        members: MemberChange {
            create: true,
            join: members.iter().map(|name| user(name)).collect(),
            leave: Vec::new(),
        },
        check_member: false,
        moves_read_mark: false,
        ..append(&conv, members[0], 999_999, b"{}")
    }
}

async fn commit(store: &impl MessageStore, appends: Vec<Append>) -> (Vec<Appended>, u64) {
    let lane = lane_of(APP, &appends[0].conv, LANES);
    match store.commit(Batch { lane, appends }).await {
        Committed::Done { answers, outbox } => (answers, outbox),
        Committed::Unknown(reason) => panic!("{reason}"),
    }
}

fn seqs(answers: &[Appended]) -> Vec<u64> {
    answers
        .iter()
        .map(|answer| match answer {
            Appended::Stored { seq, .. } => *seq,
            Appended::Refused(code, text) => panic!("{code:?} {text}"),
        })
        .collect()
}

#[tokio::test]
async fn seq_is_dense_and_what_was_stored_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let conv = direct("alice", "bob");
    let (answers, outbox) = commit(
        &store,
        (0..5).map(|n| append(&conv, "alice", n, b"hello")).collect(),
    )
    .await;
    assert_eq!(seqs(&answers), [1, 2, 3, 4, 5]);
    assert!(outbox > 0);
    let pulled = store.pull(APP, conv.clone(), 2, u64::MAX, 3).await.unwrap();
    assert_eq!(
        pulled.messages.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(),
        [2, 3, 4]
    );
    assert_eq!((pulled.next_seq, pulled.head.seq, pulled.head.n), (5, 5, 5));
    let frame = Frame::parse(&pulled.messages[0].1).unwrap();
    let message = frame.access::<ArchivedMessage>().unwrap();
    assert_eq!(
        (message.seq.to_native(), &message.payload[..]),
        (2, &b"hello"[..])
    );
    assert!(
        store
            .pull(AppId(4), conv, 1, u64::MAX, 3)
            .await
            .unwrap()
            .messages
            .is_empty(),
        "another tenant"
    );
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_and_another_body_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let conv = direct("alice", "bob");
    let first = append(&conv, "alice", 7, b"one");
    commit(&store, vec![first.clone()]).await;
    // In one batch with itself, and in a later one.
    let (answers, _) = commit(
        &store,
        vec![first.clone(), append(&conv, "alice", 8, b"two"), first.clone()],
    )
    .await;
    assert_eq!(seqs(&answers), [1, 2, 1]);
    assert!(matches!(answers[0], Appended::Stored { repeated: true, .. }));
    let (answers, outbox) = commit(
        &store,
        vec![Append {
            payload: b"other".to_vec(),
            ..first.clone()
        }],
    )
    .await;
    assert!(
        matches!(answers[0], Appended::Refused(ErrorCode::Conflict, _)),
        "{answers:?}"
    );
    assert_eq!(outbox, 0, "nothing new");
    let (answers, _) = commit(
        &store,
        vec![Append {
            sender: user("bob"),
            ..first
        }],
    )
    .await;
    assert_eq!(seqs(&answers), [3], "another sender's id is another id");
}

#[tokio::test]
async fn lanes_commit_side_by_side_without_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open(dir.path()));
    let tasks: Vec<_> = (0..20)
        .map(|pair| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                let conv = direct("alice", &format!("user{pair}"));
                for round in 0..10 {
                    let appends = (0..5)
                        .map(|n| append(&conv, "alice", round * 5 + n, b"x"))
                        .collect();
                    let (answers, _) = commit(store.as_ref(), appends).await;
                    assert_eq!(
                        seqs(&answers),
                        (round * 5 + 1..=round * 5 + 5).collect::<Vec<_>>()
                    );
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn groups_are_for_members_and_a_leaver_reads_up_to_his_leave() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = create("team", &["alice", "bob"]);
    let conv = group.conv.clone();
    commit(&store, vec![group.clone()]).await;
    let (answers, _) = commit(&store, vec![append(&conv, "carol", 1, b"hi")]).await;
    assert!(matches!(answers[0], Appended::Refused(ErrorCode::NotMember, _)));
    let (answers, _) = commit(&store, vec![append(&conv, "bob", 2, b"hi")]).await;
    assert_eq!(seqs(&answers), [2]);
    let members = MemberChange {
        create: false,
        join: vec![user("carol")],
        leave: vec![user("bob")],
    };
    let change = Append {
        members,
        client_msg_id: id(77),
        ..group
    };
    commit(&store, vec![change]).await;
    let now = store.members(APP, conv.clone()).await.unwrap();
    assert_eq!((now.version, now.users), (3, vec![user("alice"), user("carol")]));
    assert_eq!(
        store.readable_upto(APP, conv.clone(), user("bob")).await.unwrap(),
        Some(2)
    );
    assert_eq!(
        store
            .readable_upto(APP, conv.clone(), user("alice"))
            .await
            .unwrap(),
        Some(u64::MAX)
    );
    assert_eq!(
        store.readable_upto(APP, conv, user("mallory")).await.unwrap(),
        None
    );
    let unknown = ConvId::group(&GroupId::new("nowhere").unwrap());
    let (answers, _) = commit(&store, vec![append(&unknown, "alice", 3, b"hi")]).await;
    assert!(matches!(
        answers[0],
        Appended::Refused(ErrorCode::UnknownGroup, _)
    ));
}

#[tokio::test]
async fn sync_finds_every_conversation_page_by_page_and_unread_is_arithmetic() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for peer in 0..25_u64 {
        let conv = direct("alice", &format!("peer{peer:02}"));
        commit(
            &store,
            (0..=peer % 3)
                .map(|n| append(&conv, &format!("peer{peer:02}"), n, b"x"))
                .collect(),
        )
        .await;
    }
    let (mut cursor, mut found, mut pages) = (Vec::new(), Vec::new(), 0);
    loop {
        let page = store.sync(APP, user("alice"), cursor, 10).await.unwrap();
        found.extend(page.conversations);
        pages += 1;
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    assert_eq!((found.len(), pages), (25, 3));
    assert!(
        found
            .iter()
            .all(|state| state.read_n == 0 && state.head_n >= 1 && !state.last.is_empty())
    );
    // A cursor lags: what changed in the newest buckets is found again, never missed.
    let conv = direct("alice", "peer00");
    commit(&store, vec![append(&conv, "peer00", 50, b"x")]).await;
    let again = store.sync(APP, user("alice"), cursor, 200).await.unwrap();
    let state = again
        .conversations
        .iter()
        .find(|state| state.conv == conv.as_bytes())
        .unwrap();
    assert_eq!((state.head_seq, state.read_seq), (2, 0));
    let mark = store.read(APP, user("alice"), conv.clone(), 2).await.unwrap();
    assert_eq!((mark.seq, mark.n, mark.moved), (2, 2, true));
    let back = store.read(APP, user("alice"), conv.clone(), 1).await.unwrap();
    assert_eq!((back.seq, back.moved), (2, false), "a mark never goes back");
    assert!(matches!(
        store.read(APP, user("alice"), conv, 3).await,
        Err(StoreError::Ahead)
    ));
    assert!(matches!(
        store.sync(APP, user("alice"), b"junk".to_vec(), 10).await,
        Err(StoreError::Cursor)
    ));
    let epoch = store.info().epoch;
    let ahead = [&[1][..], &epoch.to_le_bytes(), &u64::MAX.to_le_bytes(), &[0; 25]].concat();
    assert!(matches!(
        store.sync(APP, user("alice"), ahead, 10).await,
        Err(StoreError::Ahead)
    ));
}

#[tokio::test]
async fn the_outbox_outlives_the_process_until_it_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let conv = direct("alice", "bob");
    let row = {
        let store = open(dir.path());
        commit(
            &store,
            vec![append(&conv, "alice", 1, b"x"), append(&conv, "alice", 2, b"y")],
        )
        .await
        .1
    };
    let store = open(dir.path());
    let rows = store.outbox(0).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].id, &rows[0].entries),
        (row, &vec![(APP, conv.clone(), 1, 2)])
    );
    store.clear_outbox(vec![row]);
    // Clearing waits in line with commits.
    commit(&store, vec![append(&conv, "alice", 3, b"z")]).await;
    assert!(store.outbox(0).await.unwrap().iter().all(|other| other.id != row));
}

#[tokio::test]
async fn a_damaged_row_is_named_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let conv = direct("alice", "bob");
    {
        let store = open(dir.path());
        commit(
            &store,
            (1..=3).map(|n| append(&conv, "alice", n, b"payload")).collect(),
        )
        .await;
    }
    let db = rusqlite::Connection::open(dir.path().join("corelane.db")).unwrap();
    db.execute(
        "UPDATE message SET frame = zeroblob(length(frame)) WHERE place & 4294967295 = 2",
        [],
    )
    .unwrap();
    drop(db);
    let store = open(dir.path());
    let error = store.pull(APP, conv.clone(), 1, 3, 10).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { what, .. } if what.contains("seq 2")),
        "{error}"
    );
    assert_eq!(
        store.pull(APP, conv, 3, 3, 10).await.unwrap().messages.len(),
        1,
        "the others are served"
    );
}

#[test]
fn what_cannot_be_a_store_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("corelane.db"),
        b"this is not a database, whatever its name says it is",
    )
    .unwrap();
    let open = |dir: &Path| SqliteStore::open(dir, Durability::Full, LANES, 1, Clock::start()).map(|_| ());
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(text.contains("corelane.db") && text.contains("backup"), "{text}");
    let text = open(Path::new("/proc/corelane")).unwrap_err().to_string();
    assert!(
        text.contains("/proc/corelane") && text.contains("data_dir"),
        "{text}"
    );
    let foreign = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(foreign.path().join("corelane.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let text = open(foreign.path()).unwrap_err().to_string();
    assert!(text.contains("another program"), "{text}");
}

#[test]
fn one_process_per_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let second = SqliteStore::open(dir.path(), Durability::Full, LANES, 1, Clock::start());
    let text = second.map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("another process"), "{text}");
}
