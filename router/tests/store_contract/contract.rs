//! The contract: one body per property, generic over the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use corelane_protocol::frame::body::{ArchivedMessage, ConvState};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, kind};
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ConvId, Lane};
use corelane_protocol::limits::PAGE_BYTES;
use corelane_protocol::terminal::Terminal;
use corelane_router::store::{DeliveredMark, MessageStore, NOBODY_LEFT, OutboxRow, Readable, StoreError};
use corelane_router_core::append::{Append, Appended, Member};
use corelane_router_core::decide::{DEDUPE_RETENTION_MS, RECENT_BUCKET_MS};

use super::support::{
    APP, Dice, Fixture, LANES, MINUTE_MS, START_MS, SqliteFixture, append, change, commit, direct, group,
    id_at, left, seqs, user,
};
use super::tikv::TikvFixture;

macro_rules! contract {
    ($($adapter:ident: $fixture:ty $([$needs:literal])?,)* => $tests:tt) => {
        $(mod $adapter { contract!(@ $fixture, $($needs,)? $tests); })*
    };
    (@ $fixture:ty, $needs:literal, { $($test:ident,)* }) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = $needs]
        async fn $test() {
            super::$test::<$fixture>().await;
        })*
    };
    (@ $fixture:ty, { $($test:ident,)* }) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            super::$test::<$fixture>().await;
        })*
    };
}

contract!(sqlite: super::SqliteFixture, tikv: super::TikvFixture ["needs ops/services up tikv"], => {
    seq_is_dense_and_what_was_stored_is_read_back,
    a_repeat_is_answered_as_the_first_and_another_body_is_refused,
    an_id_older_than_the_memory_is_refused,
    lanes_commit_side_by_side_without_holes,
    groups_are_for_members_and_a_leaver_reads_below_his_leave,
    a_control_message_is_not_unread_and_refers_to_what_is_there,
    sync_finds_every_conversation_page_by_page_and_unread_is_arithmetic,
    sync_misses_nothing_however_it_interleaves,
    a_large_group_is_synced_by_its_head,
    a_pull_is_bounded_by_bytes_and_goes_on_where_it_ended,
    the_outbox_outlives_the_process_until_it_is_cleared,
    outbox_rows_of_other_lanes_are_left_to_whoever_serves_them,
    own_outbox_rows_are_read_back_by_their_ids,
    who_comes_and_goes_in_one_message_or_comes_back_reads_nothing_of_the_others,
    everything_is_there_after_reopening,
    a_new_epoch_ends_old_cursors,
});

async fn seq_is_dense_and_what_was_stored_is_read_back<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
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
    let Appended::Stored { frame, .. } = &answers[1] else {
        panic!()
    };
    assert_eq!(
        frame, &pulled.messages[0].1,
        "the same bytes are published and kept"
    );
    let message = Frame::parse(frame).unwrap();
    let message = message.access::<ArchivedMessage>().unwrap();
    assert_eq!(
        (message.seq.to_native(), &message.payload[..]),
        (2, &b"hello"[..])
    );
    let end = store.pull(APP, conv.clone(), 6, u64::MAX, 3).await.unwrap();
    assert!(end.messages.is_empty() && end.next_seq == 0);
    assert_eq!(
        store.pull(APP, conv.clone(), 7, u64::MAX, 3).await.unwrap_err(),
        StoreError::Ahead
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

async fn a_repeat_is_answered_as_the_first_and_another_body_is_refused<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = direct("alice", "bob");
    let first = append(&conv, "alice", 7, b"one");
    let (answers, _) = commit(&store, vec![first.clone()]).await;
    let Appended::Stored {
        time_ms: stored_ms, ..
    } = answers[0]
    else {
        panic!()
    };
    fixture.clock().fetch_add(MINUTE_MS, Ordering::SeqCst);
    // In a later commit, and in one batch with itself.
    let (answers, _) = commit(
        &store,
        vec![first.clone(), append(&conv, "alice", 8, b"two"), first.clone()],
    )
    .await;
    assert_eq!(seqs(&answers), [1, 2, 1]);
    assert!(matches!(&answers[0], Appended::Stored { repeated: true, time_ms, .. } if *time_ms == stored_ms));
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

async fn an_id_older_than_the_memory_is_refused<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = direct("alice", "bob");
    let old = Append {
        client_msg_id: id_at(START_MS - DEDUPE_RETENTION_MS - 1, 1),
        ..append(&conv, "alice", 1, b"x")
    };
    let (answers, _) = commit(&store, vec![old]).await;
    assert!(
        matches!(answers[0], Appended::Refused(ErrorCode::StaleId, _)),
        "{answers:?}"
    );
}

async fn lanes_commit_side_by_side_without_holes<F: Fixture>() {
    let fixture = F::new();
    let store = Arc::new(fixture.open());
    let writers = (0..20).map(|pair| {
        let store = Arc::clone(&store);
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
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

async fn groups_are_for_members_and_a_leaver_reads_below_his_leave<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = group("team");
    let (answers, _) = commit(&store, vec![append(&conv, "alice", 3, b"hi")]).await;
    assert!(matches!(
        answers[0],
        Appended::Refused(ErrorCode::UnknownGroup, _)
    ));
    commit(&store, vec![change(&conv, 1, true, &["alice", "bob"], &[])]).await;
    let (answers, _) = commit(&store, vec![change(&conv, 2, true, &["carol"], &[])]).await;
    assert!(
        matches!(answers[0], Appended::Refused(ErrorCode::Conflict, _)),
        "a group is made once"
    );
    let (answers, _) = commit(&store, vec![append(&conv, "carol", 4, b"hi")]).await;
    assert!(matches!(answers[0], Appended::Refused(ErrorCode::NotMember, _)));
    let (answers, _) = commit(&store, vec![append(&conv, "bob", 5, b"hi")]).await;
    assert!(matches!(
        answers[0],
        Appended::Stored {
            seq: 2,
            member_version: 1,
            ..
        }
    ));
    commit(
        &store,
        vec![change(&conv, 6, false, &["carol", "alice"], &["bob", "nobody"])],
    )
    .await;
    let stay = |name: &str, join_seq, leave_seq| Member {
        user: user(name),
        join_seq,
        leave_seq,
    };
    let now = store.members(APP, conv.clone(), NOBODY_LEFT).await.unwrap();
    assert_eq!(
        (now.version, now.present()),
        (3, vec![user("alice"), user("carol")])
    );
    let since = async |seq| store.members(APP, conv.clone(), seq).await.unwrap().stays;
    let there = [stay("alice", 1, 0), stay("carol", 3, 0)];
    assert_eq!(since(4).await, there);
    assert_eq!(
        since(3).await,
        [stay("alice", 1, 0), stay("bob", 1, 3), stay("carol", 3, 0)]
    );
    let (answers, _) = commit(&store, vec![append(&conv, "bob", 7, b"hi")]).await;
    assert!(matches!(answers[0], Appended::Refused(ErrorCode::NotMember, _)));
    let readable = async |name: &str| store.readable(APP, conv.clone(), user(name)).await.unwrap();
    let range = |first, last, last_n| Some(Readable { first, last, last_n });
    assert_eq!(readable("bob").await, range(1, 2, 1));
    assert_eq!(readable("alice").await, range(1, u64::MAX, 0));
    assert_eq!(readable("carol").await, range(3, u64::MAX, 0));
    assert_eq!(readable("mallory").await, None);
    let direct = direct("alice", "bob");
    let readable = store.readable(APP, direct.clone(), user("bob")).await.unwrap();
    assert_eq!(readable, range(1, u64::MAX, 0));
    let readable = store.readable(APP, direct, user("carol")).await.unwrap();
    assert_eq!(readable, None);
    let state = |page: Vec<ConvState>| {
        page.into_iter()
            .find(|state| state.conv == conv.as_bytes())
            .unwrap()
    };
    let left = state(
        store
            .sync(APP, user("bob"), Vec::new(), 10)
            .await
            .unwrap()
            .conversations,
    );
    assert_eq!((left.head_seq, left.head_n), (2, 1), "as it was before his leave");
    assert_eq!(left.floor_seq, 0);
    let joined = state(
        store
            .sync(APP, user("carol"), Vec::new(), 10)
            .await
            .unwrap()
            .conversations,
    );
    assert_eq!(
        joined.head_n - joined.read_n,
        0,
        "what was said before the join is not unread"
    );
    assert_eq!(joined.floor_seq, 2, "and not to be read");
    assert_eq!(
        store
            .read(APP, user("mallory"), conv.clone(), 1)
            .await
            .unwrap_err(),
        StoreError::NotMember
    );
    assert_eq!(
        store.read(APP, user("bob"), conv, 3).await.unwrap_err(),
        StoreError::Ahead
    );
}

async fn who_comes_and_goes_in_one_message_or_comes_back_reads_nothing_of_the_others<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = group("team");
    let batch = vec![
        change(&conv, 1, true, &["alice", "bob"], &[]),
        append(&conv, "alice", 2, b"hi"),
        change(&conv, 3, false, &["carol"], &["carol", "bob"]),
        append(&conv, "alice", 4, b"without them"),
        change(&conv, 5, false, &["bob"], &[]),
        append(&conv, "bob", 6, b"back"),
    ];
    assert_eq!(seqs(&commit(&store, batch).await.0), [1, 2, 3, 4, 5, 6]);
    let readable = async |name: &str| store.readable(APP, conv.clone(), user(name)).await.unwrap();
    let back = readable("bob").await.unwrap();
    assert_eq!((back.first, back.last), (5, u64::MAX));
    let never = readable("carol").await.unwrap();
    assert!(never.first > never.last, "{never:?}");
    let page = store.sync(APP, user("carol"), Vec::new(), 10).await.unwrap();
    assert_eq!(page.conversations.len(), 1);
    assert_eq!(page.conversations[0].last, b"", "it was said before she came");
    assert_eq!(page.conversations[0].floor_seq, page.conversations[0].head_seq);
}

async fn a_control_message_is_not_unread_and_refers_to_what_is_there<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = direct("alice", "bob");
    let recall = Append {
        kind: kind::RECALL,
        ref_seq: 1,
        ..append(&conv, "alice", 2, b"")
    };
    let (answers, _) = commit(&store, vec![recall.clone()]).await;
    assert!(matches!(answers[0], Appended::Refused(ErrorCode::Ahead, _)));
    let (answers, _) = commit(&store, vec![append(&conv, "alice", 1, b"x"), recall]).await;
    assert_eq!(seqs(&answers), [1, 2]);
    assert!(matches!(answers[1], Appended::Stored { n: 1, .. }));
}

async fn sync_all(
    store: &impl MessageStore,
    name: &str,
    mut cursor: Vec<u8>,
    limit: u16,
) -> (Vec<ConvState>, Vec<u8>) {
    let mut found = Vec::new();
    loop {
        let page = store.sync(APP, user(name), cursor, limit).await.unwrap();
        assert!(page.conversations.len() <= usize::from(limit));
        found.extend(page.conversations);
        cursor = page.cursor;
        if !page.more {
            return (found, cursor);
        }
    }
}

async fn sync_finds_every_conversation_page_by_page_and_unread_is_arithmetic<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    for peer in 0..25_u64 {
        let conv = direct("alice", &format!("peer{peer:02}"));
        commit(
            &store,
            (0..=peer % 3)
                .map(|n| append(&conv, &format!("peer{peer:02}"), n, b"x"))
                .collect(),
        )
        .await;
        fixture.clock().fetch_add(MINUTE_MS, Ordering::SeqCst);
    }
    let (found, cursor) = sync_all(&store, "alice", Vec::new(), 10).await;
    assert_eq!(found.len(), 25);
    assert!(
        found
            .iter()
            .all(|state| state.read_n == 0 && state.head_n >= 1 && !state.last.is_empty())
    );
    assert_eq!(
        found[0].conv,
        direct("alice", "peer24").as_bytes(),
        "last changed first"
    );
    // Later only what changed is found: here nothing but one, and a read mark of another.
    fixture.clock().fetch_add(60 * MINUTE_MS, Ordering::SeqCst);
    let (_, cursor) = sync_all(&store, "alice", cursor, 200).await;
    let (found, _) = sync_all(&store, "alice", cursor.clone(), 200).await;
    assert_eq!(found.len(), 0, "nothing changed");
    let page = store.sync(APP, user("alice"), cursor.clone(), 200).await.unwrap();
    assert!(page.rows_read <= 1, "{} rows for nothing", page.rows_read);
    let conv = direct("alice", "peer00");
    commit(&store, vec![append(&conv, "peer00", 50, b"x")]).await;
    let read = direct("alice", "peer02");
    let mark = store.read(APP, user("alice"), read.clone(), 2).await.unwrap();
    assert_eq!((mark.seq, mark.n, mark.moved), (2, 2, true));
    let page = store.sync(APP, user("alice"), cursor.clone(), 200).await.unwrap();
    let rows = page.rows_read;
    assert!(
        (6..=10).contains(&rows),
        "{rows} rows for two conversations of 25"
    );
    let (found, _) = sync_all(&store, "alice", cursor, 1).await;
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].head_seq, found[0].read_seq), (2, 0));
    assert_eq!((found[1].head_n, found[1].read_n), (3, 2), "one is unread");
    let back = store.read(APP, user("alice"), read.clone(), 1).await.unwrap();
    assert_eq!((back.seq, back.moved), (2, false), "a mark never goes back");
    assert_eq!(
        store.read(APP, user("alice"), read, 4).await.unwrap_err(),
        StoreError::Ahead
    );
    assert_eq!(
        store
            .sync(APP, user("alice"), b"junk".to_vec(), 10)
            .await
            .unwrap_err(),
        StoreError::Cursor
    );
    // A send moves its sender's mark.
    commit(&store, vec![append(&conv, "alice", 51, b"y")]).await;
    let mark = store.read(APP, user("alice"), conv, 1).await.unwrap();
    assert_eq!((mark.seq, mark.n, mark.moved), (3, 3, false));
}

/// What a client has of a conversation.
#[derive(Default, Clone, Copy)]
struct Seen {
    head: u64,
    read: u64,
}

/// Random commits, joins, leaves, reads, syncs of any page size and jumps of the clock: after each sync its user has all
/// that was acknowledged before it began; what came while it ran came to him live.
#[expect(clippy::too_many_lines, reason = "one arm per operation, read side by side")]
async fn sync_misses_nothing_however_it_interleaves<F: Fixture>() {
    let base: u64 = std::env::var("STORE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0);
    for seed in base + 1..=base + 8 {
        let fixture = F::new();
        let store = fixture.open();
        let names = ["ann", "ben", "cat", "dan"];
        let mut convs: Vec<ConvId> = Vec::new();
        for (at, one) in names.iter().enumerate() {
            convs.extend(names[at..].iter().map(|other| direct(one, other)));
        }
        let team = group("team");
        commit(&store, vec![change(&team, 1, true, &names, &[])]).await;
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut number = 10;
        let mut heads: HashMap<ConvId, u64> = HashMap::from([(team.clone(), 1)]);
        let mut reads: HashMap<(&str, ConvId), u64> = HashMap::new();
        let mut in_team: HashMap<&str, bool> = names.iter().map(|name| (*name, true)).collect();
        let mut views: HashMap<&str, (Vec<u8>, HashMap<ConvId, Seen>)> = HashMap::new();
        for _ in 0..250 {
            let name = names[dice.below(4) as usize];
            match dice.below(12) {
                0..=4 => {
                    send(
                        &store,
                        &mut dice,
                        &convs,
                        name,
                        &mut number,
                        &mut heads,
                        &mut reads,
                    )
                    .await;
                }
                5 => {
                    number += 1;
                    let joins = !in_team[name];
                    let (join, leave): (&[&str], &[&str]) =
                        if joins { (&[name], &[]) } else { (&[], &[name]) };
                    let (answers, _) = commit(&store, vec![change(&team, number, false, join, leave)]).await;
                    heads.insert(team.clone(), seqs(&answers)[0]);
                    in_team.insert(name, joins);
                    reads.remove(&(name, team.clone()));
                }
                6 => {
                    let conv = convs[dice.below(convs.len() as u64) as usize].clone();
                    let head = heads.get(&conv).copied().unwrap_or(0);
                    let (one, other) = conv.direct_users().unwrap();
                    if head > 0 && (one == user(name) || other == user(name)) {
                        let seq = 1 + dice.below(head);
                        let mark = store.read(APP, user(name), conv.clone(), seq).await.unwrap();
                        let known = reads.entry((name, conv)).or_default();
                        *known = seq.max(*known);
                        assert_eq!(mark.seq, *known);
                    }
                }
                7 | 8 => {
                    let jump = [0, 1, 4, 5, 11, 90][dice.below(6) as usize] * MINUTE_MS;
                    fixture
                        .clock()
                        .fetch_add(jump + dice.below(1000), Ordering::SeqCst);
                }
                9 => {
                    // A clock that is set back must not open a hole.
                    fixture
                        .clock()
                        .fetch_sub(dice.below(20) * MINUTE_MS, Ordering::SeqCst);
                }
                _ => {
                    let (heads_before, marks_before) = (heads.clone(), reads.clone());
                    let (mut cursor, mut view) = views.remove(name).unwrap_or_default();
                    loop {
                        let limit = 1 + dice.below(4) as u16;
                        let page = store.sync(APP, user(name), cursor, limit).await.unwrap();
                        for state in page.conversations {
                            let conv = ConvId::parse(&state.conv).unwrap();
                            view.insert(
                                conv,
                                Seen {
                                    head: state.head_seq,
                                    read: state.read_seq,
                                },
                            );
                        }
                        cursor = page.cursor;
                        if !page.more {
                            break;
                        }
                        if dice.below(2) == 0 {
                            let before = heads.clone();
                            send(
                                &store,
                                &mut dice,
                                &convs,
                                name,
                                &mut number,
                                &mut heads,
                                &mut reads,
                            )
                            .await;
                            // He is online: it comes live, and he pulls what he has not.
                            for (conv, head) in &heads {
                                if before.get(conv) != Some(head) {
                                    let read = reads.get(&(name, conv.clone())).copied().unwrap_or(0);
                                    view.insert(conv.clone(), Seen { head: *head, read });
                                }
                            }
                        }
                        fixture
                            .clock()
                            .fetch_add(dice.below(3) * 2 * MINUTE_MS, Ordering::SeqCst);
                    }
                    for (conv, head) in &heads_before {
                        let member = match conv.direct_users() {
                            Some((one, other)) => one == user(name) || other == user(name),
                            None => in_team[name],
                        };
                        let seen = view.get(conv).copied().unwrap_or_default();
                        assert!(
                            !member || seen.head >= *head,
                            "seed {seed}: {name} has {} of {head} in {conv}",
                            seen.head
                        );
                        let read = marks_before.get(&(name, conv.clone())).copied().unwrap_or(0);
                        assert!(
                            !member || seen.read >= read,
                            "seed {seed}: {name} read {} not {read} in {conv}",
                            seen.read
                        );
                    }
                    views.insert(name, (cursor, view));
                }
            }
        }
    }
}

async fn send<'n>(
    store: &impl MessageStore,
    dice: &mut Dice,
    convs: &[ConvId],
    name: &'n str,
    number: &mut u64,
    heads: &mut HashMap<ConvId, u64>,
    reads: &mut HashMap<(&'n str, ConvId), u64>,
) {
    let mine: Vec<&ConvId> = convs
        .iter()
        .filter(|conv| {
            conv.direct_users()
                .is_some_and(|(one, other)| one == user(name) || other == user(name))
        })
        .collect();
    let conv = mine[dice.below(mine.len() as u64) as usize].clone();
    let count = 1 + dice.below(3);
    let appends = (0..count)
        .map(|n| append(&conv, name, *number + n + 1, b"x"))
        .collect();
    *number += count;
    let (answers, _) = commit(store, appends).await;
    let head = *seqs(&answers).last().unwrap();
    heads.insert(conv.clone(), head);
    reads.insert((name, conv), head);
}

async fn a_large_group_is_synced_by_its_head<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = group("crowd");
    let names: Vec<String> = (0..600).map(|number| format!("member{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    commit(&store, vec![change(&conv, 1, true, &names[..400], &[])]).await;
    fixture.clock().fetch_add(60 * MINUTE_MS, Ordering::SeqCst);
    commit(&store, vec![change(&conv, 2, false, &names[400..], &[])]).await;
    let members = store.members(APP, conv.clone(), NOBODY_LEFT).await.unwrap();
    assert_eq!(members.present().len(), 600);
    for (round, name) in ["member0000", "member0599"].into_iter().enumerate() {
        let (found, cursor) = sync_all(&store, name, Vec::new(), 10).await;
        assert_eq!(found.len(), 1, "listed once");
        assert_eq!(found[0].head_seq, 2 + round as u64);
        fixture.clock().fetch_add(60 * MINUTE_MS, Ordering::SeqCst);
        let (_, cursor) = sync_all(&store, name, cursor, 10).await;
        assert!(
            sync_all(&store, name, cursor.clone(), 10).await.0.is_empty(),
            "nothing changed"
        );
        commit(&store, vec![append(&conv, "member0300", 10 + round as u64, b"x")]).await;
        assert_eq!(sync_all(&store, name, cursor, 10).await.0.len(), 1);
    }
}

async fn a_pull_is_bounded_by_bytes_and_goes_on_where_it_ended<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = direct("alice", "bob");
    let payload = vec![9; 60 * 1024];
    for number in 0..20 {
        commit(&store, vec![append(&conv, "alice", number, &payload)]).await;
    }
    let (mut from, mut seen, mut pages) = (1, 0, 0);
    while from != 0 {
        let page = store.pull(APP, conv.clone(), from, u64::MAX, 200).await.unwrap();
        let bytes: usize = page.messages.iter().map(|(_, frame)| frame.len()).sum();
        assert!(bytes <= PAGE_BYTES, "{bytes}");
        assert_eq!(page.messages[0].0, seen + 1);
        seen = page.messages.last().unwrap().0;
        (from, pages) = (page.next_seq, pages + 1);
    }
    assert_eq!((seen, pages), (20, 3));
    // A page of sync carries last messages, and is bounded the same way.
    for peer in 0..20 {
        commit(
            &store,
            vec![append(
                &direct("alice", &format!("peer{peer}")),
                "alice",
                1,
                &payload,
            )],
        )
        .await;
    }
    let page = store.sync(APP, user("alice"), Vec::new(), 200).await.unwrap();
    let bytes: usize = page.conversations.iter().map(|state| state.last.len()).sum();
    assert!(page.more && bytes <= PAGE_BYTES + payload.len() + 4096, "{bytes}");
    assert_eq!(sync_all(&store, "alice", Vec::new(), 200).await.0.len(), 21);
}

async fn the_outbox_outlives_the_process_until_it_is_cleared<F: Fixture>() {
    let fixture = F::new();
    let conv = direct("alice", "bob");
    let row = {
        let store = fixture.open();
        commit(
            &store,
            vec![append(&conv, "alice", 1, b"x"), append(&conv, "alice", 2, b"y")],
        )
        .await
        .1
    };
    let store = fixture.open();
    let rows = left(&store, 0).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].id, &rows[0].entries),
        (row, &vec![(APP, conv.clone(), 1, 2)])
    );
    assert!(left(&store, row).await.is_empty());
    store.clear_outbox(vec![row]);
    // Clearing waits in line with commits.
    let next = commit(&store, vec![append(&conv, "alice", 3, b"z")]).await.1;
    assert!(next > row);
    assert!(left(&store, 0).await.iter().all(|other| other.id != row));
    store.clear_outbox(vec![next]);
    drop(store);
    let store = fixture.open();
    assert!(
        left(&store, 0).await.is_empty(),
        "the end waits for what was handed over"
    );
    let (_, again) = commit(&store, vec![append(&conv, "alice", 4, b"w")]).await;
    assert!(again > next, "numbers of rows are never used twice");
}

async fn outbox_rows_of_other_lanes_are_left_to_whoever_serves_them<F: Fixture>() {
    let fixture = F::new();
    let conv = direct("alice", "bob");
    let lane = lane_of(APP, &conv, LANES);
    let mut others = ["carol", "dave", "erin", "frank"]
        .map(|name| direct("alice", name))
        .into_iter();
    let other = others.find(|other| lane_of(APP, other, LANES) != lane).unwrap();
    let (row, rest) = {
        let store = fixture.open();
        let row = commit(&store, vec![append(&conv, "alice", 1, b"x")]).await.1;
        (
            row,
            commit(&store, vec![append(&other, "alice", 2, b"y")]).await.1,
        )
    };
    let store = fixture.open();
    let ids = |rows: Vec<OutboxRow>| rows.into_iter().map(|row| row.id).collect::<Vec<u64>>();
    let writers = store.writers().await.unwrap();
    assert_eq!(
        ids(store.outbox(writers.clone(), vec![lane], 0).await.unwrap()),
        [row]
    );
    assert!(store.outbox(writers, vec![], 0).await.unwrap().is_empty());
    assert!(
        ids(left(&store, 0).await).contains(&rest),
        "nobody was told of it before"
    );
}

async fn own_outbox_rows_are_read_back_by_their_ids<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    let conv = direct("alice", "bob");
    let lane = lane_of(APP, &conv, LANES);
    let mut rows = Vec::new();
    for number in 1..=3 {
        let stored = commit(&store, vec![append(&conv, "alice", number, b"x")]).await;
        rows.push(stored.1);
    }
    let asked = vec![rows[2], rows[0], rows[0] + 1_000_000_000_000];
    let found = store.outbox_rows(lane, asked).await.unwrap();
    let named: Vec<_> = found
        .iter()
        .map(|row| (row.id, row.lane, row.entries.clone()))
        .collect();
    assert_eq!(
        named,
        [
            (rows[2], lane, vec![(APP, conv.clone(), 3, 3)]),
            (rows[0], lane, vec![(APP, conv.clone(), 1, 1)]),
        ]
    );
    let other = Lane((lane.0 + 1) % LANES);
    assert!(store.outbox_rows(other, vec![rows[0]]).await.unwrap().is_empty());
    store.clear_outbox(vec![rows[0]]);
    // Clearing waits in line with commits.
    commit(&store, vec![append(&conv, "alice", 4, b"x")]).await;
    let found = store.outbox_rows(lane, vec![rows[0], rows[1]]).await.unwrap();
    assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [rows[1]]);
}

async fn everything_is_there_after_reopening<F: Fixture>() {
    let fixture = F::new();
    let (conv, team) = (direct("alice", "bob"), group("team"));
    let store = fixture.open();
    let info = store.info();
    let first = append(&conv, "alice", 1, b"x");
    commit(&store, vec![first.clone()]).await;
    commit(&store, vec![change(&team, 1, true, &["alice"], &[])]).await;
    store.read(APP, user("bob"), conv.clone(), 1).await.unwrap();
    store.delivered(DeliveredMark {
        app: APP,
        user: user("bob"),
        terminal: Terminal::Web,
        device: "d".to_owned(),
        conv: conv.clone(),
        seq: 1,
    });
    let (_, cursor) = sync_all(&store, "bob", Vec::new(), 10).await;
    drop(store);
    fixture.clock().fetch_add(RECENT_BUCKET_MS, Ordering::SeqCst);
    let store = fixture.open();
    assert_eq!(store.info(), info, "a clean end keeps the epoch");
    let (answers, _) = commit(&store, vec![first, append(&conv, "alice", 2, b"y")]).await;
    assert_eq!(seqs(&answers), [1, 2]);
    let (found, _) = sync_all(&store, "bob", cursor, 10).await;
    assert_eq!((found.len(), found[0].head_seq, found[0].read_seq), (1, 2, 1));
    let members = store.members(APP, team, NOBODY_LEFT).await.unwrap();
    assert_eq!(members.present(), [user("alice")]);
}

async fn a_new_epoch_ends_old_cursors<F: Fixture>() {
    let fixture = F::new();
    let store = fixture.open();
    commit(&store, vec![append(&direct("alice", "bob"), "alice", 1, b"x")]).await;
    let (_, cursor) = sync_all(&store, "bob", Vec::new(), 10).await;
    let before = store.info().epoch;
    let after = store.bump_epoch(77).await.unwrap();
    assert_ne!(after, before);
    assert_eq!(store.info().epoch, after);
    assert_eq!(
        store.sync(APP, user("bob"), cursor, 10).await.unwrap_err(),
        StoreError::Ahead
    );
    drop(store);
    assert_eq!(fixture.open().info().epoch, after);
}
