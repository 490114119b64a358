//! What the `SQLite` store promises beyond the contract: damage, a full disk, a failing disk, a killed process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use corelane_protocol::frame::Frame;
use corelane_protocol::frame::body::ArchivedMessage;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::ConvId;
use corelane_router::clock::Clock;
use corelane_router::store::sqlite::{SqliteStore, StoreOptions};
use corelane_router::store::{Durability, MessageStore, StoreError};
use corelane_router_core::append::{Append, Appended, Batch, Committed};
use corelane_router_core::decide::DEDUPE_RETENTION_MS;

use super::support::{
    APP, Fixture, LANES, SqliteFixture, all_lanes, append, commit, direct, id_at, left, open_at, seqs,
};

const CHILD_DIR: &str = "CORELANE_TEST_CHILD_DIR";
const CHILD_OS: &str = "CORELANE_TEST_CHILD_OS";
const WRITERS: u64 = 4;
const BATCH: u64 = 3;

#[tokio::test]
async fn a_damaged_row_is_named_and_never_served() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    {
        let store = fixture.open();
        commit(
            &store,
            (1..=3).map(|n| append(&conv, "alice", n, b"payload")).collect(),
        )
        .await;
    }
    let db = rusqlite::Connection::open(fixture.database()).unwrap();
    db.execute(
        "UPDATE message SET frame = zeroblob(length(frame)) WHERE place & 4294967295 = 2",
        [],
    )
    .unwrap();
    drop(db);
    let store = fixture.open();
    let error = store.pull(APP, conv.clone(), 1, 3, 10).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { what, .. } if what.contains("seq 2")),
        "{error}"
    );
    assert_eq!(
        store
            .pull(APP, conv.clone(), 3, 3, 10)
            .await
            .unwrap()
            .messages
            .len(),
        1,
        "the others are served"
    );
    let (answers, _) = commit(
        &store,
        vec![
            append(&conv, "alice", 2, b"payload"),
            append(&conv, "alice", 9, b"x"),
        ],
    )
    .await;
    assert!(
        matches!(answers[0], Appended::Refused(ErrorCode::Rejected, _)),
        "not acknowledged, not doubled"
    );
    assert_eq!(seqs(&answers[1..]), [4], "the rest of the batch goes on");
    drop(store);
    let db = rusqlite::Connection::open(fixture.database()).unwrap();
    db.execute("DELETE FROM message WHERE place & 4294967295 = 3", [])
        .unwrap();
    drop(db);
    let error = fixture.open().pull(APP, conv, 3, 4, 10).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { what, .. } if what.contains("seq 3")),
        "{error}"
    );
}

#[test]
fn what_cannot_be_a_store_is_refused_by_name() {
    let open = |dir: &Path| {
        let opened = SqliteStore::open(dir, Durability::Full, LANES, 1, Clock::start());
        opened.map(|_| ()).unwrap_err().to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("corelane.db"),
        b"this is not a database, whatever its name says it is",
    )
    .unwrap();
    let text = open(dir.path());
    assert!(text.contains("corelane.db") && text.contains("backup"), "{text}");
    let text = open(Path::new("/proc/corelane"));
    assert!(
        text.contains("/proc/corelane") && text.contains("data_dir"),
        "{text}"
    );
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let text = open(&file);
    assert!(text.contains("file") && text.contains("data_dir"), "{text}");
    let foreign = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(foreign.path().join("corelane.db")).unwrap();
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(db);
    assert!(open(foreign.path()).contains("another program"));
    let newer = SqliteFixture::new();
    drop(newer.open());
    let db = rusqlite::Connection::open(newer.database()).unwrap();
    db.execute_batch("PRAGMA user_version = 999").unwrap();
    drop(db);
    let text = open(newer.dir.path());
    assert!(text.contains("999"), "{text}");
}

#[tokio::test]
async fn where_a_store_was_no_new_one_is_made() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    commit(&fixture.open(), vec![append(&conv, "alice", 1, b"payload")]).await;
    let (database, log) = (fixture.database(), fixture.dir.path().join("corelane.db-wal"));
    std::fs::write(&log, b"what a killed process left").unwrap();
    for harm in [
        |database: &Path| std::fs::write(database, b"").unwrap(),
        |database: &Path| std::fs::remove_file(database).unwrap(),
    ] {
        harm(&database);
        let error = SqliteStore::open_with(&fixture.options())
            .map(|_| ())
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("corelane.db") && text.contains("corelane.witness") && text.contains("backup"),
            "{text}"
        );
        assert!(log.exists(), "the log is left for whoever repairs it");
    }
    std::fs::remove_file(fixture.dir.path().join("corelane.witness")).unwrap();
    let (answers, _) = commit(&fixture.open(), vec![append(&conv, "alice", 1, b"payload")]).await;
    assert_eq!(seqs(&answers), [1], "a store that begins anew");
}

#[test]
fn a_store_does_not_depend_on_its_log_from_the_first_moment_on() {
    let fixture = SqliteFixture::new();
    let store = fixture.open();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(fixture.database(), elsewhere.path().join("corelane.db")).unwrap();
    let copy = SqliteStore::open(elsewhere.path(), Durability::Full, LANES, 9, Clock::start()).unwrap();
    assert_eq!(copy.info().cluster_id, store.info().cluster_id);
}

#[test]
fn a_torn_page_is_found_at_the_start() {
    let fixture = SqliteFixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = fixture.open();
        commit(
            &store,
            (0..50)
                .map(|n| append(&direct("alice", "bob"), "alice", n, &[7; 500]))
                .collect(),
        )
        .await;
    });
    let mut bytes = std::fs::read(fixture.database()).unwrap();
    let pages = bytes.len() / 4096;
    bytes[(pages - 2) * 4096..(pages - 1) * 4096].fill(0xff);
    std::fs::write(fixture.database(), bytes).unwrap();
    let error = SqliteStore::open_with(&fixture.options())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("damaged") && error.contains("backup"), "{error}");
}

#[test]
fn one_process_per_data_directory() {
    let fixture = SqliteFixture::new();
    let _first = fixture.open();
    let text = SqliteStore::open_with(&fixture.options())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(text.contains("another process"), "{text}");
}

#[tokio::test]
async fn a_full_disk_is_refused_retryably_and_the_store_goes_on() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    let mut stored = 0;
    {
        let options = StoreOptions {
            bytes_max: 1024 * 1024,
            ..fixture.options()
        };
        let store = SqliteStore::open_with(&options).unwrap();
        loop {
            let (answers, outbox) = commit(&store, vec![append(&conv, "alice", stored, &[7; 50_000])]).await;
            match &answers[0] {
                Appended::Stored { seq, .. } => {
                    stored += 1;
                    assert_eq!(*seq, stored);
                }
                Appended::Refused(code, text) => {
                    assert_eq!((*code, outbox), (ErrorCode::Unavailable, 0), "{text}");
                    break;
                }
            }
            assert!(stored < 100, "the bound holds");
        }
        assert_eq!(store.poisoned(), None);
        assert_eq!(
            store
                .pull(APP, conv.clone(), 1, 1, 1)
                .await
                .unwrap()
                .messages
                .len(),
            1,
            "reads go on"
        );
    }
    let store = fixture.open();
    let (answers, _) = commit(&store, vec![append(&conv, "alice", stored, &[7; 50_000])]).await;
    assert_eq!(
        seqs(&answers),
        [stored + 1],
        "with room again, the same id goes in, once"
    );
}

#[tokio::test]
async fn a_log_that_lost_commits_gets_a_new_epoch() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    {
        let store = fixture.open();
        commit(&store, vec![append(&conv, "alice", 1, b"x")]).await;
    }
    let backup = std::fs::read(fixture.database()).unwrap();
    let epoch = {
        let store = fixture.open();
        commit(&store, vec![append(&conv, "alice", 2, b"y")]).await;
        store.info().epoch
    };
    std::fs::write(fixture.database(), backup).unwrap();
    let store = fixture.open();
    let restored = store.info().epoch;
    assert_ne!(restored, epoch);
    drop(store);
    assert_eq!(fixture.open().info().epoch, restored, "once is enough");
}

#[tokio::test]
async fn rows_of_this_life_are_nobodys_to_adopt() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    let row = commit(&fixture.open(), vec![append(&conv, "alice", 1, b"x")])
        .await
        .1;
    let store = fixture.open();
    commit(&store, vec![append(&conv, "alice", 2, b"y")]).await;
    let rows = left(&store, 0).await;
    assert_eq!(
        rows.iter().map(|row| (row.id, row.writer)).collect::<Vec<_>>(),
        [(row, 0)]
    );
    assert!(store.outbox(vec![77], all_lanes(), 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn ids_are_forgotten_only_when_they_are_refused_as_stale() {
    let fixture = SqliteFixture::new();
    let conv = direct("alice", "bob");
    let first = append(&conv, "alice", 1, b"x");
    let remembered = |fixture: &SqliteFixture| {
        let db = rusqlite::Connection::open(fixture.database()).unwrap();
        db.query_row("SELECT count(*) FROM dedupe", [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    commit(&fixture.open(), vec![first.clone()]).await;
    for (passed_ms, rows) in [(DEDUPE_RETENTION_MS - 1, 2), (2 * 3_600_000, 2)] {
        fixture.clock().fetch_add(passed_ms, Ordering::SeqCst);
        let store = fixture.open();
        let fresh = Append {
            client_msg_id: id_at(fixture.clock().load(Ordering::SeqCst), 2),
            ..first.clone()
        };
        let (answers, _) = commit(&store, vec![first.clone(), fresh]).await;
        let stale = matches!(answers[0], Appended::Refused(ErrorCode::StaleId, _));
        let repeated = matches!(
            answers[0],
            Appended::Stored {
                seq: 1,
                repeated: true,
                ..
            }
        );
        assert!(stale || repeated, "{answers:?}");
        drop(store);
        assert_eq!(
            remembered(&fixture),
            rows,
            "the first id goes when the third has come"
        );
    }
    let (answers, _) = commit(&fixture.open(), vec![first]).await;
    assert!(
        matches!(answers[0], Appended::Refused(ErrorCode::StaleId, _)),
        "{answers:?}"
    );
}

#[tokio::test]
async fn commits_are_timed_by_stage() {
    let fixture = SqliteFixture::new();
    let store = fixture.open();
    for number in 0..10 {
        commit(
            &store,
            vec![append(&direct("alice", "bob"), "alice", number, b"x")],
        )
        .await;
    }
    // The answer comes before the count.
    drop(
        store
            .read(APP, super::support::user("bob"), direct("alice", "bob"), 1)
            .await,
    );
    let (stats, each) = (store.stats(), store.histograms());
    assert_eq!((stats.commits, stats.messages, each.total_us.len()), (10, 10, 10));
    assert!(stats.sync_us > 0 && each.fsync_us.max() <= each.total_us.max());
}

/// Not a test of its own: what the tests below run as a process of its own, to be killed.
#[test]
fn child_that_commits() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let durability = if std::env::var_os(CHILD_OS).is_some() {
        Durability::Os
    } else {
        Durability::Full
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Arc::new(open_at(Path::new(&dir), durability));
        say(&format!("epoch {}", store.info().epoch));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(writer, Arc::clone(&store))))
            .collect();
        say(&format!("failed {}", store.failed().await));
        for writer in writers {
            writer.await.unwrap();
        }
        say("end");
    });
}

async fn write(writer: u64, store: Arc<SqliteStore>) {
    let conv = conv_of(writer);
    for round in 0.. {
        let appends = (0..BATCH)
            .map(|n| child_append(&conv, round * BATCH + n))
            .collect();
        match store
            .commit(Batch {
                lane: lane_of(APP, &conv, LANES),
                appends,
            })
            .await
        {
            Committed::Done { answers, outbox } => {
                let last = *seqs(&answers).last().unwrap();
                assert_eq!(last, (round + 1) * BATCH);
                say(&format!("ack {writer} {last}"));
                store.clear_outbox(vec![outbox]);
            }
            Committed::Unknown(_) => return,
        }
    }
}

fn conv_of(writer: u64) -> ConvId {
    direct("alice", &format!("peer{writer}"))
}

fn child_append(conv: &ConvId, number: u64) -> Append {
    let payload = [number.to_le_bytes().as_slice(), &[5; 400]].concat();
    append(conv, "alice", number, &payload)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nchild {line}")
        .and_then(|()| out.flush())
        .unwrap();
}

fn child(dir: &Path, durability: Durability, under: &[&str]) -> Child {
    let own = std::env::current_exe().unwrap();
    let mut words = under.iter().map(std::ffi::OsStr::new).chain([own.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args(["--exact", "sqlite::child_that_commits", "--nocapture"])
        .env(CHILD_DIR, dir);
    if durability == Durability::Os {
        command.env(CHILD_OS, "1");
    }
    let started = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    started.unwrap_or_else(|error| panic!("{} cannot be started: {error}", command.get_program().display()))
}

/// What the child says, as words.
fn lines(child: &mut Child) -> impl Iterator<Item = Vec<String>> + use<> {
    let out = BufReader::new(child.stdout.take().unwrap());
    out.lines().map_while(Result::ok).filter_map(|line| {
        let rest = line.strip_prefix("child ")?;
        Some(rest.split(' ').map(str::to_owned).collect())
    })
}

/// Every acknowledged message is there, once, in its place.
async fn check(store: &SqliteStore, acked: &[u64]) {
    for (writer, acked) in acked.iter().enumerate() {
        let conv = conv_of(writer as u64);
        let (mut from, mut next) = (1, 1);
        while from != 0 {
            let page = store.pull(APP, conv.clone(), from, u64::MAX, 200).await.unwrap();
            for (seq, frame) in &page.messages {
                let frame = Frame::parse(frame).unwrap();
                let message = frame.access::<ArchivedMessage>().unwrap();
                assert_eq!((*seq, message.seq.to_native()), (next, next));
                assert_eq!(message.payload[..8], (next - 1).to_le_bytes());
                next += 1;
            }
            from = page.next_seq;
        }
        assert!(
            next > *acked,
            "writer {writer}: {acked} were acknowledged, {} are there",
            next - 1
        );
        assert_eq!((next - 1) % BATCH, 0, "a commit is whole or not there");
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = vec![0; WRITERS as usize];
    let mut child = child(dir.path(), Durability::Full, &[]);
    let mut heard = 0;
    for words in lines(&mut child) {
        if let [word, writer, seq] = words.as_slice()
            && word == "ack"
        {
            acked[writer.parse::<usize>().unwrap()] = seq.parse().unwrap();
            heard += 1;
            if heard == 400 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(heard >= 400, "the child ended early, after {heard} commits");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = open_at(dir.path(), Durability::Full);
        check(&store, &acked).await;
        for (writer, acked) in acked.iter().enumerate().filter(|(_, acked)| **acked > 0) {
            let (answers, _) = commit(&store, vec![child_append(&conv_of(writer as u64), acked - 1)]).await;
            assert!(
                matches!(answers[0], Appended::Stored { seq, repeated: true, .. } if seq == *acked),
                "{answers:?}"
            );
        }
        assert!(
            !left(&store, 0).await.is_empty(),
            "what was not published is known"
        );
    });
}

#[test]
fn an_unclean_end_with_durability_os_gets_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(dir.path(), Durability::Os, &[]);
    let (mut epoch, mut acked) = (0, vec![0; WRITERS as usize]);
    for words in lines(&mut child) {
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["epoch", number] => epoch = number.parse().unwrap(),
            ["ack", writer, seq] => {
                acked[writer.parse::<usize>().unwrap()] = seq.parse().unwrap();
                child.kill().unwrap();
            }
            _ => {}
        }
    }
    child.wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Whichever durability it goes on with: what was written before it counts.
    let store = open_at(dir.path(), Durability::Full);
    assert_ne!(store.info().epoch, epoch);
    runtime.block_on(check(&store, &acked));
    let after = store.info().epoch;
    drop(store);
    assert_eq!(
        open_at(dir.path(), Durability::Os).info().epoch,
        after,
        "a clean end keeps it"
    );
}

/// The disk fails under strace: the 60th sync and all that follow.
#[test]
fn nothing_is_acknowledged_after_a_failed_sync() {
    let dir = tempfile::tempdir().unwrap();
    let inject = "--inject=fsync,fdatasync:error=EIO:when=60+";
    let under = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "--trace=fsync,fdatasync",
        inject,
    ];
    let mut child = child(dir.path(), Durability::Full, &under);
    let (mut acked, mut failed, mut late) = (vec![0; WRITERS as usize], false, 0);
    for words in lines(&mut child) {
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["ack", writer, seq] => {
                acked[writer.parse::<usize>().unwrap()] = seq.parse().unwrap();
                late += u32::from(failed);
            }
            ["failed", ..] => failed = true,
            _ => {}
        }
    }
    child.wait().unwrap();
    assert!(failed, "the store notices a failed sync");
    assert!(acked.iter().sum::<u64>() > 0, "commits went well before it");
    // Answers of the commit before may be said just after the failure: one per writer.
    assert!(
        u64::from(late) <= WRITERS,
        "{late} acknowledgements after the failure"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(check(&open_at(dir.path(), Durability::Full), &acked));
}
