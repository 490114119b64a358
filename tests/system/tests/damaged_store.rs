//! Store files that were damaged while the gateway was down: refused by name or reported, and never served as good.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corelane_protocol::frame::{self, Frame, FrameKind, body};
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::http::Stored;
use corelane_system_tests::once::refusal;
use corelane_system_tests::{Gateway, order, wait_for};

const PAGE_BYTES: usize = 4096;
/// Messages of each of the two conversations.
const MESSAGES: u64 = 20;
/// Messages of the conversation whose log is damaged.
const MESSAGES_OF_LOG: u64 = 60;

/// The bytes of a message's payload, where they lie in a file.
fn position(file: &Path, number: u64) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let payload = order::payload(number);
    bytes
        .windows(payload.len())
        .position(|window| window == payload)
        .unwrap_or_else(|| panic!("message {number} is not in {}", file.display()))
}

/// Changes one byte of a file.
fn damage(file: &Path, at: usize) {
    overwrite(file, at, |bytes| bytes[0] ^= 0x20, 1);
}

/// Changes `count` bytes of a file.
fn overwrite(file: &Path, at: usize, change: impl Fn(&mut [u8]), count: usize) {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut bytes = vec![0; count];
    opened.read_exact_at(&mut bytes, at as u64).unwrap();
    change(&mut bytes);
    opened.write_all_at(&bytes, at as u64).unwrap();
}

/// A gateway that does not wait for its clients when it is to end.
fn start(data: &Path) -> Gateway {
    Gateway::start(data, &["gateway.drain_ms=100"])
}

/// Alice writes to bob (numbers from 1) and to carol (numbers from 101).
fn fill(gateway: &Gateway) {
    let mut alice = Client::login(gateway, "alice");
    for seq in 1..=MESSAGES {
        for (to, number) in [("bob", seq), ("carol", 100 + seq)] {
            let reference = alice.send_with(&to_user(to), message_id(), &order::payload(number));
            assert_eq!(alice.answer(reference), Ok(seq));
        }
    }
}

/// A data directory with a store that was closed in order.
fn stopped() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = start(data.path());
    fill(&gateway);
    gateway.process.terminate();
    assert_eq!(gateway.process.wait(Duration::from_secs(15)), Some(0));
    assert!(
        !data.path().join("corelane.db-wal").exists(),
        "after an orderly end everything is in the database"
    );
    data
}

#[test]
fn a_damaged_message_is_named_and_never_served() {
    let data = stopped();
    let file = data.path().join("corelane.db");
    let at = position(&file, 7);
    damage(&file, at + 30);
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let (status, text) = gateway.history("u:5:alice:bob").unwrap_err();
    assert!(
        status == 500 && text.contains("message seq 7 of u:5:alice:bob is damaged"),
        "{status}: {text}"
    );
    let served = gateway.history("u:5:alice:carol").unwrap();
    assert_eq!(served.len() as u64, MESSAGES, "the other conversation is served");
    let mut bob = Client::login(&gateway, "bob");
    let mut pull = |from_seq: u64, to_seq: u64| {
        let pull = body::Pull {
            conv: b"\x01\x05alicebob".to_vec(),
            from_seq,
            to_seq,
            limit: 200,
        };
        bob.write(&frame::encode(FrameKind::Pull, 77, &pull));
        loop {
            let bytes = bob.read().unwrap();
            if Frame::parse(&bytes).unwrap().reference == 77 {
                return bytes;
            }
        }
    };
    for (from, to) in [(1, MESSAGES), (7, 7)] {
        let answer = pull(from, to);
        let answer = Frame::parse(&answer).unwrap();
        assert_eq!(answer.known_kind(), Some(FrameKind::Error), "{from} to {to}");
        let text = answer.access::<body::ArchivedErrorBody>().unwrap().text.as_str();
        assert!(text.contains("seq 7") && text.contains("damaged"), "{text}");
    }
    let answer = pull(8, MESSAGES);
    let answer = Frame::parse(&answer).unwrap();
    let page = answer.access::<body::ArchivedPullPage>().unwrap();
    assert_eq!(
        page.messages.len() as u64,
        MESSAGES - 7,
        "what is not damaged is served"
    );
    drop(bob);
    // The conversation goes on behind the damage.
    let mut alice = Client::login(&gateway, "alice");
    let reference = alice.send(&to_user("bob"), "after the damage");
    assert_eq!(alice.answer(reference), Ok(MESSAGES + 1));
    drop(alice);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn damaged_pages_are_refused_by_name_and_left_as_they_are() {
    let data = stopped();
    let file = data.path().join("corelane.db");
    let whole = std::fs::read(&file).unwrap();
    let page = position(&file, 7) / PAGE_BYTES * PAGE_BYTES;
    let half = whole.len() / PAGE_BYTES / 2 * PAGE_BYTES;
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let cases = [
        ("the name of the format", with(0, b"sqlite")),
        ("the page size", with(16, &[0x12, 0x34])),
        ("the program's number", with(68, &[0; 4])),
        ("the version of the tables", with(60, &[0, 0, 0, 99])),
        ("the list of tables", with(100, &[0xff; 8])),
        ("the kind of a middle page", with(page, &[0xff])),
        ("the cells of a middle page", with(page + 8, &[0xff; 16])),
        ("a whole middle page", with(page, &[0; PAGE_BYTES])),
        ("the second half", whole[..half].to_vec()),
        ("everything", Vec::new()),
        ("all bytes", vec![0; whole.len()]),
    ];
    for (name, damaged) in cases {
        std::fs::write(&file, &damaged).unwrap();
        let text = refusal(name, &mut Gateway::command(data.path(), &[]));
        assert!(text.contains("corelane.db"), "{name}: {text}");
        assert!(
            std::fs::read(&file).unwrap() == damaged,
            "{name}: the file is left as it was found"
        );
    }
    // The file as it was is as good as before.
    std::fs::write(&file, &whole).unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    assert_eq!(gateway.history("u:5:alice:bob").unwrap().len() as u64, MESSAGES);
    Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
}

/// Commits that the witness knows of, and whether it was noted so long ago that the next commit is noted at once.
fn witness(data: &Path) -> (u64, bool) {
    let file = data.join("corelane.witness");
    let bytes = std::fs::read(&file).unwrap();
    let commits = bytes
        .get(16..24)
        .map_or(0, |commits| u64::from_le_bytes(commits.try_into().unwrap()));
    let noted = std::fs::metadata(&file).unwrap().modified().unwrap();
    let age = noted.elapsed().unwrap_or_default();
    (commits, age > Duration::from_millis(1200))
}

type Harm = fn(&Path);

/// What can become of a log or a journal, and how many messages are left at most if it happens to both.
fn harms() -> [(&'static str, Harm, usize); 4] {
    [
        (
            "one byte of message 10",
            |file| {
                let at = position(file, 10);
                damage(file, at + 30);
            },
            9,
        ),
        (
            "the second half",
            |file| {
                let bytes = std::fs::metadata(file).unwrap().len();
                let opened = std::fs::OpenOptions::new().write(true).open(file).unwrap();
                opened.set_len(bytes / 2).unwrap();
            },
            45,
        ),
        (
            "the header",
            |file| overwrite(file, 0, |bytes| bytes.fill(0), 32),
            0,
        ),
        ("the file", |file| std::fs::remove_file(file).unwrap(), 0),
    ]
}

/// The log and the journal in a data directory.
fn log_and_journal(data: &Path) -> [PathBuf; 2] {
    ["corelane.db-wal", "corelane.journal-0"].map(|name| data.join(name))
}

/// A gateway was killed after alice had written to bob, too little for a checkpoint, so that all of it is in the log; the
/// witness, which lags by a second, has seen the last message. Gives the epoch.
fn killed(data: &Path) -> u64 {
    let mut gateway = start(data);
    let mut alice = Client::login(&gateway, "alice");
    let mut say = |number: u64| {
        let reference = alice.send_with(&to_user("bob"), message_id(), &order::payload(number));
        assert_eq!(alice.answer(reference), Ok(number));
    };
    (1..MESSAGES_OF_LOG).for_each(&mut say);
    wait_for("a witness that is due", Duration::from_secs(5), || {
        witness(data).1.then_some(())
    });
    say(MESSAGES_OF_LOG);
    wait_for("the witness", Duration::from_secs(5), || {
        (witness(data).0 >= MESSAGES_OF_LOG).then_some(())
    });
    gateway.process.kill();
    alice.epoch
}

/// The messages that are left: the first ones, each once, and the next one gets the next place. Gives how many.
fn left(gateway: &Gateway, alice: &mut Client, name: &str) -> usize {
    let left = gateway.history("u:5:alice:bob").unwrap();
    for (place, message) in left.iter().enumerate() {
        let number = place as u64 + 1;
        let payload = String::from_utf8(order::payload(number)).unwrap();
        assert_eq!((message.seq, &message.payload), (number, &payload), "{name}");
    }
    let ids: BTreeSet<_> = left.iter().map(Stored::id).collect();
    assert_eq!(ids.len(), left.len(), "{name}");
    let reference = alice.send(&to_user("bob"), "and on");
    assert_eq!(alice.answer(reference), Ok(left.len() as u64 + 1), "{name}");
    left.len()
}

#[test]
fn what_a_damaged_log_lacks_comes_from_the_journal() {
    for (name, harm, _) in harms() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = killed(dir.path());
        let [log, _] = log_and_journal(dir.path());
        harm(&log);
        let gateway = start(dir.path());
        let text = gateway.process.log();
        assert!(text.contains("made again from the journal"), "{name}: {text}");
        let mut alice = Client::login(&gateway, "alice");
        assert_eq!(alice.epoch, epoch, "{name}: nothing is missing");
        let left = left(&gateway, &mut alice, name);
        assert_eq!(left as u64, MESSAGES_OF_LOG, "{name}");
        drop(alice);
        Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
    }
}

#[test]
fn a_damaged_log_and_journal_are_reported_and_what_is_left_is_a_prefix() {
    for (name, harm, left_max) in harms() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = killed(dir.path());
        for file in log_and_journal(dir.path()) {
            harm(&file);
        }
        let gateway = start(dir.path());
        let text = gateway.process.log();
        assert!(
            text.contains("commits are missing from the log"),
            "{name}: {text}"
        );
        let mut alice = Client::login(&gateway, "alice");
        assert_ne!(alice.epoch, epoch, "{name}: clients drop their cursors");
        let left = left(&gateway, &mut alice, name);
        assert!(left <= left_max, "{name}: {left} are left");
        drop(alice);
        Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
    }
}

#[test]
fn a_damaged_index_of_the_log_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let mut gateway = start(data);
    fill(&gateway);
    gateway.process.kill();
    let index = data.join("corelane.db-shm");
    let bytes = usize::try_from(std::fs::metadata(&index).unwrap().len()).unwrap();
    overwrite(&index, 0, |bytes| bytes.fill(0x5a), bytes);
    let gateway = start(data);
    assert_eq!(gateway.history("u:5:alice:bob").unwrap().len() as u64, MESSAGES);
    assert_eq!(gateway.history("u:5:alice:carol").unwrap().len() as u64, MESSAGES);
    Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
}
