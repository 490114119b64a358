//! The power goes at any moment: what was acknowledged by then is there, once, at its place, and clients need not drop what they
//! remember.
//!
//! A router runs under strace while people write, until its log has been moved into the database and has started over, and its
//! journal has begun anew many times. From the trace comes what the disk held at a moment (`src/disk.rs`): what was synced, and
//! some of the rest. The store is opened on that. A control shows that the check can fail: a router with a planted bug, which
//! answers before it syncs.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests fail and talk as tests do"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use corelane_protocol::id::{AppId, ConvId, UserId};
use corelane_router::clock::Clock;
use corelane_router::store::sqlite::SqliteStore;
use corelane_router::store::{Durability, MessageStore};
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::disk::{self, Dice, Disk, Unsynced};
use corelane_system_tests::metrics::Metrics;
use corelane_system_tests::order::{self, Sent};
use corelane_system_tests::router::{Router, planted_router};
use corelane_system_tests::{Gateway, binary, strace, wait_for};

const WRITERS: usize = 6;
/// The log starts over after 16,000 pages: with large messages that is soon.
const PAYLOAD_BYTES: usize = 60_000;
/// Moments that are tried.
const CUTS: usize = 36;

/// What happened.
struct Trace {
    disk: Disk,
    sent: Vec<Sent>,
    acked: HashMap<(Vec<u8>, u64), usize>,
    epoch: u64,
}

/// One writes to somebody who is away, three messages at a time, until he is told to stop. He may still wait for answers then.
fn write(
    mut writer: Client,
    reader: &str,
    numbers: &AtomicU64,
    stop: &AtomicBool,
    bytes: usize,
) -> Vec<Sent> {
    let conv = ConvId::direct(
        &UserId::new(writer.user()).unwrap(),
        &UserId::new(reader).unwrap(),
    );
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let three: Vec<(u32, u64)> = (0..3)
            .map(|_| {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let mut payload = order::payload(number);
                payload.resize(payload.len().max(bytes), b'.');
                let reference = writer.send_with(&to_user(reader), message_id(), &payload);
                (reference, number)
            })
            .collect();
        for (reference, number) in three {
            let seq = writer.answer(reference).unwrap();
            let conv = conv.as_bytes().to_vec();
            sent.push(Sent { number, conv, seq });
        }
    }
    sent
}

/// Runs a router until `enough` says so of its figures and the number of messages; then it is killed.
fn run(router: &Path, bytes: usize, enough: impl Fn(&Metrics, u64) -> bool) -> Trace {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("trace"));
    std::fs::create_dir(&data).unwrap();
    let data = data.canonicalize().unwrap();
    let mut traced = strace::traced(&Router::command(router, &data), &file, &["-e", disk::CALLS]);
    let mut router = Router::start(&mut traced, &data);
    let gateway: Gateway = router.gateway(&[]);
    let (numbers, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let writers: Vec<Client> = (0..WRITERS)
        .map(|writer| Client::login(&gateway, &format!("writer-{writer}")))
        .collect();
    let epoch = writers.first().unwrap().epoch;
    let sent = std::thread::scope(|scope| {
        let writers: Vec<_> = writers
            .into_iter()
            .enumerate()
            .map(|(at, writer)| {
                let (numbers, stop) = (&numbers, &stop);
                scope.spawn(move || write(writer, &format!("reader-{at}"), numbers, stop, bytes))
            })
            .collect();
        wait_for("enough", Duration::from_mins(4), || {
            let metrics = Metrics::of(&router.http)?;
            enough(&metrics, numbers.load(Ordering::Relaxed)).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect()
    });
    drop(gateway);
    router.process.kill();
    let lines = strace::lines(&file, router.process.pid());
    let calls = strace::parse(&lines).unwrap();
    drop(lines);
    let acked = order::acked(&calls, &router.link).unwrap();
    // The index is made anew, and the database had another journal for as long as it was made.
    let disk = Disk::read(calls, &data, "corelane.", &["-shm", "-journal"]).unwrap();
    Trace {
        disk,
        sent,
        acked,
        epoch,
    }
}

impl Trace {
    /// What is wrong when the power goes at this line.
    fn problems(&self, line: usize, unsynced: Unsynced, dice: &mut Dice) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        self.disk.cut(line, unsynced, dice, dir.path()).unwrap();
        let random = self.epoch.wrapping_add(1);
        let store = match SqliteStore::open(dir.path(), Durability::Full, 128, random, Clock::start()) {
            Ok(store) => store,
            Err(error) => return vec![error.to_string()],
        };
        let mut problems = Vec::new();
        if store.info().epoch != self.epoch {
            problems.push("commits seem to be missing".to_owned());
        }
        let mut acked: BTreeMap<&[u8], Vec<&Sent>> = BTreeMap::new();
        for sent in &self.sent {
            let conv = acked.entry(&sent.conv).or_default();
            if self
                .acked
                .get(&(sent.conv.clone(), sent.seq))
                .is_some_and(|at| *at <= line)
            {
                conv.push(sent);
            }
        }
        for (conv, acked) in acked {
            let stored = stored(&store, &ConvId::parse(conv).unwrap());
            let numbers: BTreeSet<u64> = stored.iter().copied().collect();
            if numbers.len() != stored.len() {
                problems.push("a message is there twice".to_owned());
            }
            for sent in acked {
                let place = usize::try_from(sent.seq - 1).unwrap();
                if stored.get(place) != Some(&sent.number) {
                    problems.push(format!("message {} was acknowledged and is lost", sent.number));
                }
            }
        }
        problems
    }

    /// Moments at which something happens that is not a commit like all others, and some that are.
    fn moments(&self, dice: &mut Dice) -> Vec<usize> {
        let first = *self.acked.values().min().unwrap();
        let last = *self.acked.values().max().unwrap();
        let anew = self.disk.writes(order::JOURNAL, &(0..1));
        let over = self.disk.writes("-wal", &(0..1));
        let over = over.into_iter().filter(|line| *line > first).collect::<Vec<_>>();
        let moved = self.disk.writes("corelane.db", &(0..u64::MAX));
        let logged: BTreeSet<usize> = self.disk.writes("-wal", &(0..u64::MAX)).into_iter().collect();
        let moved = moved
            .into_iter()
            .filter(|line| *line > first && !logged.contains(line));
        let moved: Vec<usize> = moved.collect();
        println!(
            "{} acknowledged, journal begun anew {} times, log {} times, {} pages moved",
            self.acked.len(),
            anew.len(),
            over.len(),
            moved.len()
        );
        assert!(
            anew.len() > 4 && !over.is_empty() && !moved.is_empty(),
            "it is all in the trace"
        );
        let mut moments: Vec<usize> = over.iter().flat_map(|line| [*line, line + 1, line + 8]).collect();
        while moments.len() < CUTS {
            let near = match dice.below(4) {
                0 => first + dice.below(last - first),
                1 => *anew.get(dice.below(anew.len())).unwrap(),
                2 => *over.get(dice.below(over.len())).unwrap(),
                _ => *moved.get(dice.below(moved.len())).unwrap(),
            };
            moments.push((near + dice.below(40)).max(first));
        }
        moments
    }
}

/// The messages of a conversation, in their places.
fn stored(store: &SqliteStore, conv: &ConvId) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut numbers, mut from) = (Vec::new(), 1);
    while from != 0 {
        let pull = store.pull(AppId(0), conv.clone(), from, u64::MAX, 100);
        let page = runtime.block_on(pull).unwrap();
        for (seq, frame) in &page.messages {
            assert_eq!(*seq, numbers.len() as u64 + 1, "seq is dense");
            numbers.push(order::number(frame).unwrap());
        }
        from = page.next_seq;
    }
    numbers
}

fn seed() -> u64 {
    let drawn = || u64::from_be_bytes(message_id()[..8].try_into().unwrap());
    let seed = std::env::var("CORELANE_SEED").map_or_else(|_| drawn(), |seed| seed.parse().unwrap());
    println!("CORELANE_SEED={seed}");
    seed
}

#[test]
fn what_was_acknowledged_is_there_whenever_the_power_goes() {
    let mut dice = Dice(seed());
    let begun = AtomicU64::new(0);
    let trace = run(&binary("corelane-router"), PAYLOAD_BYTES, |metrics, sent| {
        if metrics.sum("corelane_store_checkpoints_total") == 0 {
            return false;
        }
        // And some more, in a log that started over.
        let _ = begun.compare_exchange(0, sent, Ordering::Relaxed, Ordering::Relaxed);
        sent > begun.load(Ordering::Relaxed) + 150
    });
    for (at, line) in trace.moments(&mut dice).into_iter().enumerate() {
        let unsynced = match at % 4 {
            0 => Unsynced::Kept,
            1 => Unsynced::Lost,
            _ => Unsynced::Torn,
        };
        let problems = trace.problems(line, unsynced, &mut dice);
        assert_eq!(problems, [""; 0], "line {line}, the unsynced is {unsynced:?}");
    }
}

#[test]
fn the_check_finds_a_router_that_answers_before_the_sync() {
    let mut dice = Dice(seed());
    let trace = run(&planted_router(), 0, |_, sent| sent > 300);
    let mut acked: Vec<usize> = trace.acked.values().copied().collect();
    acked.sort_unstable();
    let found = acked
        .iter()
        .step_by(acked.len() / 10)
        .filter(|line| !trace.problems(**line, Unsynced::Lost, &mut dice).is_empty());
    let found = found.count();
    assert!(found > 3, "the planted bug shows: at {found} of 10 moments");
}
