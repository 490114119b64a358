//! A power cut under the `SQLite` store: whatever it takes of the log, the journal has.

use std::path::Path;

use corelane_protocol::frame::Frame;
use corelane_protocol::frame::body::ArchivedMessage;
use corelane_protocol::id::AppId;
use corelane_protocol::terminal::Terminal;
use corelane_router::clock::Clock;
use corelane_router::store::sqlite::SqliteStore;
use corelane_router::store::{DeliveredMark, Durability, MessageStore};
use rusqlite::types::Value;

use super::support::{
    APP, Dice, Fixture, LANES, MINUTE_MS, SqliteFixture, append, change, commit, direct, group, open_at,
    random, seqs, user,
};

const TABLES: [&str; 8] = [
    "progress",
    "conv",
    "message",
    "dedupe",
    "member",
    "delivered",
    "recent",
    "large",
];
const LOG: &str = "corelane.db-wal";
const JOURNAL: [&str; 2] = ["corelane.journal-0", "corelane.journal-1"];

/// All rows but those that name a life of the store.
fn rows(database: &Path) -> Vec<Vec<Value>> {
    let db = rusqlite::Connection::open(database).unwrap();
    let mut taken = Vec::new();
    let meta = "SELECT * FROM meta WHERE key NOT IN ('life', 'clean', 'synced')".to_owned();
    let all = TABLES
        .iter()
        .chain(&["changed", "outbox"])
        .map(|table| format!("SELECT * FROM {table}"));
    for sql in all.chain([meta]) {
        let mut statement = db.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            taken.push((0..columns).map(|at| row.get(at).unwrap()).collect());
        }
    }
    taken
}

/// What lies in `from` after a power cut that left `log` of its log.
fn cut(from: &Path, log: Option<&[u8]>) -> tempfile::TempDir {
    let left = tempfile::tempdir().unwrap();
    for name in ["corelane.db", "corelane.witness"].iter().chain(&JOURNAL) {
        std::fs::copy(from.join(name), left.path().join(name)).unwrap();
    }
    if let Some(log) = log {
        std::fs::write(left.path().join(LOG), log).unwrap();
    }
    left
}

/// Everything that changes rows, some of it many times.
async fn live(fixture: &SqliteFixture, store: &SqliteStore, dice: &mut Dice) {
    let (team, large) = (group("team"), group("large"));
    commit(store, vec![change(&team, 1, true, &["a", "b", "c"], &[])]).await;
    let many: Vec<String> = (0..520).map(|number| format!("m{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    commit(store, vec![change(&large, 2, true, &many, &[])]).await;
    let mut rows = Vec::new();
    for number in 10..200 {
        let conv = match dice.below(4) {
            0 => team.clone(),
            1 => large.clone(),
            peer => direct("a", &format!("peer{peer}")),
        };
        let sender = if conv == large { "m7" } else { "a" };
        let payload = vec![7; usize::try_from(dice.below(2_000)).unwrap()];
        let (answers, row) = commit(store, vec![append(&conv, sender, number, &payload)]).await;
        let seq = *seqs(&answers).last().unwrap();
        rows.push(row);
        match dice.below(8) {
            0 => drop(store.read(APP, user(sender), conv, seq).await.unwrap()),
            1 => store.delivered(DeliveredMark {
                app: APP,
                user: user(sender),
                terminal: Terminal::Ios,
                device: "d".to_owned(),
                conv,
                seq,
            }),
            2 => store.clear_outbox(std::mem::take(&mut rows)),
            3 => {
                let (join, leave): (&[&str], &[&str]) = match dice.below(3) {
                    0 => (&["d"], &["b"]),
                    1 => (&["b"], &["d"]),
                    _ => (&[], &["c"]),
                };
                commit(store, vec![change(&team, 1_000 + number, false, join, leave)]).await;
            }
            4 => drop(
                fixture
                    .clock()
                    .fetch_add(6 * MINUTE_MS, std::sync::atomic::Ordering::SeqCst),
            ),
            5 => drop(store.bump_epoch(dice.below(u64::MAX)).await.unwrap()),
            _ => {}
        }
    }
    // Lazy changes are in a commit by the time that this one is.
    commit(store, vec![append(&team, "a", 5_000, b"the last")]).await;
}

#[tokio::test]
async fn whatever_a_power_cut_takes_of_the_log_comes_from_the_journal() {
    let mut dice = Dice(random());
    println!("seed {}", dice.0);
    let fixture = SqliteFixture::new();
    let store = fixture.open();
    live(&fixture, &store, &mut dice).await;
    let (expected, epoch) = (rows(&fixture.database()), store.info().epoch);
    let log = std::fs::read(fixture.dir.path().join(LOG)).unwrap();
    assert!(log.len() > 1024 * 1024, "there was no checkpoint");
    let mut cuts: Vec<Option<usize>> = vec![None, Some(0), Some(16), Some(32), Some(log.len())];
    cuts.extend((0..8).map(|_| Some(usize::try_from(dice.below(log.len() as u64)).unwrap())));
    let mut logs: Vec<(String, Option<Vec<u8>>)> = cuts
        .into_iter()
        .map(|bytes| {
            let log = bytes.map(|bytes| log[..bytes].to_vec());
            (format!("{bytes:?} bytes of the log"), log)
        })
        .collect();
    // Some of what was not synced is on the disk and some is not, as it pleases the kernel.
    logs.extend((0..8).map(|_| {
        let mut holed = log.clone();
        let one_in = 1 + dice.below(200);
        for page in holed.chunks_mut(4096) {
            if dice.below(one_in) == 0 {
                page.fill(0);
            }
        }
        (format!("one in {one_in} pages missing"), Some(holed))
    }));
    for (what, log) in logs {
        let left = cut(fixture.dir.path(), log.as_deref());
        // A commit was being written, and is there in part.
        let journal = left.path().join(JOURNAL[0]);
        let mut torn = std::fs::read(&journal).unwrap();
        let begun = usize::try_from(dice.below(300)).unwrap();
        torn.extend_from_within(..begun);
        std::fs::write(&journal, torn).unwrap();
        let again = open_at(left.path(), Durability::Full);
        assert_eq!(again.info().epoch, epoch, "nothing is missing with {what}");
        assert!(rows(&left.path().join("corelane.db")) == expected, "{what}");
        let (answers, _) = commit(&again, vec![append(&group("team"), "a", 5_000, b"the last")]).await;
        assert!(format!("{answers:?}").contains("repeated: true"), "{answers:?}");
    }
}

/// A power cut during the start that mends the last one finds all of it again.
#[tokio::test]
async fn two_power_cuts_take_no_more_than_one() {
    let mut dice = Dice(random());
    println!("seed {}", dice.0);
    let fixture = SqliteFixture::new();
    let store = fixture.open();
    live(&fixture, &store, &mut dice).await;
    let expected = rows(&fixture.database());
    let first = cut(fixture.dir.path(), None);
    let mended = open_at(first.path(), Durability::Full);
    // It is in the database and synced before the journal begins anew.
    let second = cut(first.path(), None);
    let again = open_at(second.path(), Durability::Os);
    assert!(rows(&second.path().join("corelane.db")) == expected);
    drop((mended, again));
    let stopped = open_at(first.path(), Durability::Full);
    assert!(
        rows(&first.path().join("corelane.db")) == expected,
        "and a clean end keeps it"
    );
    drop(stopped);
    for name in JOURNAL {
        let bytes = std::fs::metadata(first.path().join(name)).unwrap().len();
        assert_eq!(bytes, 0, "{name} would be made again over a backup");
    }
}

#[tokio::test]
async fn a_journal_of_another_life_is_not_made_again() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    let backup = {
        let store = fixture.open();
        commit(&store, vec![append(&conv, "alice", 1, b"x")]).await;
        drop(store);
        std::fs::read(fixture.database()).unwrap()
    };
    let store = fixture.open();
    for number in 2..9 {
        commit(&store, vec![append(&conv, "alice", number, b"y")]).await;
    }
    // As after a power cut, with a database of before put in its place.
    let left = cut(fixture.dir.path(), None);
    std::fs::write(left.path().join("corelane.db"), backup).unwrap();
    let restored = open_at(left.path(), Durability::Full);
    let page = restored.pull(APP, conv, 1, u64::MAX, 100).await.unwrap();
    assert_eq!(page.messages.len(), 1);
}

/// A store with some messages in it, and what a power cut leaves of it that takes all of the log.
async fn cut_off(fixture: &SqliteFixture) -> (tempfile::TempDir, u64) {
    let store = fixture.open();
    let conv = direct("alice", "bob");
    for number in 1..9 {
        commit(&store, vec![append(&conv, "alice", number, b"x")]).await;
    }
    (cut(fixture.dir.path(), None), store.info().epoch)
}

fn without_journal(dir: &Path) {
    for name in JOURNAL {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
}

async fn count(store: &SqliteStore) -> usize {
    let conv = direct("alice", "bob");
    let page = store.pull(APP, conv, 1, u64::MAX, 100).await.unwrap();
    page.messages.len()
}

#[tokio::test]
async fn a_journal_that_begins_behind_what_the_database_has_shows_that_commits_are_missing() {
    let fixture = SqliteFixture::new();
    let (left, epoch) = cut_off(&fixture).await;
    // No witness, which might have seen them, and no record of the first commit.
    std::fs::remove_file(left.path().join("corelane.witness")).unwrap();
    let journal = left.path().join(JOURNAL[0]);
    let bytes = std::fs::read(&journal).unwrap();
    let second = (4..bytes.len())
        .find(|at| bytes[*at..].starts_with(b"CLjr"))
        .unwrap();
    std::fs::write(&journal, &bytes[second..]).unwrap();
    let again = open_at(left.path(), Durability::Full);
    assert_ne!(again.info().epoch, epoch, "clients must drop their cursors");
    assert_eq!(count(&again).await, 0, "what is left is a prefix");
    commit(&again, vec![append(&direct("alice", "bob"), "alice", 20, b"x")]).await;
    let epoch = again.info().epoch;
    let second = cut(left.path(), None);
    let again = open_at(second.path(), Durability::Full);
    assert_eq!((count(&again).await, again.info().epoch), (1, epoch));
}

#[tokio::test]
async fn a_journal_that_is_missing_after_an_unclean_end_is_reason_for_a_new_epoch() {
    let fixture = SqliteFixture::new();
    let (left, epoch) = cut_off(&fixture).await;
    std::fs::remove_file(left.path().join("corelane.witness")).unwrap();
    without_journal(left.path());
    let again = open_at(left.path(), Durability::Full);
    assert_ne!(again.info().epoch, epoch, "clients must drop their cursors");
    let epoch = again.info().epoch;
    drop(again);
    without_journal(left.path());
    let again = open_at(left.path(), Durability::Full);
    assert_eq!(again.info().epoch, epoch, "after a clean end nobody needs it");
}

#[tokio::test]
async fn a_journal_that_does_not_fit_is_refused_and_left_as_it_is() {
    let fixture = SqliteFixture::new();
    let (left, _) = cut_off(&fixture).await;
    let database = left.path().join("corelane.db");
    let journal = std::fs::read(left.path().join(JOURNAL[0])).unwrap();
    let by_hand = rusqlite::Connection::open(&database).unwrap();
    by_hand
        .execute(
            "INSERT INTO outbox (id, lane, v, crc, entries) VALUES (1, 0, 0, 0, x'')",
            [],
        )
        .unwrap();
    let text = SqliteStore::open(left.path(), Durability::Full, LANES, random(), Clock::start())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("commit 1 of the journal") && text.contains("backup"),
        "{text}"
    );
    assert!(journal == std::fs::read(left.path().join(JOURNAL[0])).unwrap());
    by_hand.execute("DELETE FROM outbox", []).unwrap();
    drop(by_hand);
    let mended = open_at(left.path(), Durability::Full);
    assert_eq!(count(&mended).await, 8);
}

#[tokio::test]
async fn a_start_without_syncs_makes_it_again_too_and_leaves_no_journal() {
    let fixture = SqliteFixture::new();
    let (left, epoch) = cut_off(&fixture).await;
    let again = open_at(left.path(), Durability::Os);
    assert_eq!((count(&again).await, again.info().epoch), (8, epoch));
    assert!(JOURNAL.iter().all(|name| !left.path().join(name).exists()));
    commit(&again, vec![append(&direct("alice", "bob"), "alice", 20, b"x")]).await;
    drop(again);
    let synced = open_at(left.path(), Durability::Full);
    assert_eq!((count(&synced).await, synced.info().epoch), (9, epoch));
}

#[tokio::test]
async fn a_store_of_before_the_journal_is_opened_and_gets_one() {
    let fixture = SqliteFixture::new();
    let (left, epoch) = {
        let (_, epoch) = cut_off(&fixture).await;
        let log = std::fs::read(fixture.dir.path().join(LOG));
        (cut(fixture.dir.path(), log.ok().as_deref()), epoch)
    };
    // As a version without one left it when it was killed.
    let before = rusqlite::Connection::open(left.path().join("corelane.db")).unwrap();
    before
        .execute_batch("PRAGMA user_version = 2; DELETE FROM meta WHERE key = 'life'; UPDATE meta SET value = 0 WHERE key = 'clean'")
        .unwrap();
    drop(before);
    without_journal(left.path());
    let again = open_at(left.path(), Durability::Full);
    assert_eq!((count(&again).await, again.info().epoch), (8, epoch));
    commit(&again, vec![append(&direct("alice", "bob"), "alice", 20, b"x")]).await;
    let second = cut(left.path(), None);
    let again = open_at(second.path(), Durability::Full);
    assert_eq!((count(&again).await, again.info().epoch), (9, epoch));
}

/// What clients get to know must not tell how records of the journal begin.
#[tokio::test]
async fn a_life_has_nothing_to_do_with_the_epoch() {
    let fixture = SqliteFixture::new();
    let life = || {
        let db = rusqlite::Connection::open(fixture.database()).unwrap();
        let of = |key: &str| {
            db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
                row.get::<_, i64>(0)
            })
        };
        (of("life").unwrap(), of("epoch").unwrap(), of("cluster").unwrap())
    };
    let options = fixture.options();
    drop(SqliteStore::open_with(&options).unwrap());
    let first = life();
    drop(SqliteStore::open_with(&options).unwrap());
    let second = life();
    assert_ne!(first.0, second.0, "the same options, another life");
    for (life, epoch, cluster) in [first, second] {
        assert!(life != epoch && life != cluster);
    }
}

#[tokio::test]
async fn checkpoints_leave_log_and_journal_bounded_and_lose_nothing() {
    const CHECKPOINTS: u64 = 3;
    let fixture = SqliteFixture::new();
    let store = fixture.open();
    let mut number = 0;
    let payload = vec![9; 300_000];
    while store.stats().checkpoints < CHECKPOINTS {
        number += 1;
        assert!(number < 5_000, "no checkpoint came");
        let conv = direct("alice", &format!("peer{}", number % 7));
        commit(&store, vec![append(&conv, "alice", number, &payload)]).await;
    }
    let journal = JOURNAL.map(|name| std::fs::metadata(fixture.dir.path().join(name)).unwrap().len());
    let log = std::fs::metadata(fixture.dir.path().join(LOG)).unwrap().len();
    println!("{number} messages, journal {journal:?}, log {log}");
    // On a slow disk much more comes while a checkpoint is under way.
    let much = number * 300_000 / 10 * 9;
    assert!(log < much, "the log starts over: {log}");
    let journal: u64 = journal.iter().sum();
    assert!(journal < much, "old bytes are written over: {journal}");
    // The process is gone, and so is what the log has not synced: nothing, for the kernel lives.
    let left = cut(
        fixture.dir.path(),
        Some(&std::fs::read(fixture.dir.path().join(LOG)).unwrap()),
    );
    let again = open_at(left.path(), Durability::Full);
    let mut found = 0;
    for peer in 0..7 {
        let conv = direct("alice", &format!("peer{peer}"));
        let mut from = 1;
        while from != 0 {
            let page = again
                .pull(AppId(APP.0), conv.clone(), from, u64::MAX, 100)
                .await
                .unwrap();
            found += page.messages.len() as u64;
            for (seq, frame) in &page.messages {
                let frame = Frame::parse(frame).unwrap();
                assert_eq!(frame.access::<ArchivedMessage>().unwrap().seq.to_native(), *seq);
            }
            from = page.next_seq;
        }
    }
    assert_eq!(found, number);
}
