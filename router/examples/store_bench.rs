//! What the store costs: an open loop of messages over many conversations, next to an appending fdatasync probe.
//!
//! `cargo run --profile ci --example store_bench -- [DIR [PER_SECOND [SECONDS [full|os [PAIRS]]]]]`
//!
//! Every message has a due time; latency counts from it, so a stall is charged to all that it delays. Lanes work as in
//! the router: one batch in flight each, of what queued up meanwhile, and the outbox row cleared afterwards.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a report for the terminal"
)]
#![expect(clippy::indexing_slicing, reason = "the indices are made here")]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_protocol::frame::kind;
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};
use corelane_router::clock::Clock;
use corelane_router::store::sqlite::{SqliteStore, StoreOptions};
use corelane_router::store::{Durability, MessageStore};
use corelane_router_core::append::{Append, Batch, Committed, MemberChange};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

const LANES: u16 = 128;
/// Conversations, unless told otherwise. The more, the fewer rows of a commit share a page.
const PAIRS: u64 = 20_000;
const PAYLOAD_BYTES: usize = 512;

fn argument<T: std::str::FromStr>(at: usize, otherwise: T) -> T {
    std::env::args()
        .nth(at)
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

fn main() {
    let dir: PathBuf = argument(
        1,
        std::env::temp_dir().join(format!("store-bench-{}", std::process::id())),
    );
    let (per_second, seconds): (u64, u64) = (argument(2, 5_000), argument(3, 10));
    let durability = if argument(4, "full".to_owned()) == "os" {
        Durability::Os
    } else {
        Durability::Full
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(bench(dir, per_second, seconds, durability, argument(5, PAIRS)));
}

async fn bench(dir: PathBuf, per_second: u64, seconds: u64, durability: Durability, pairs: u64) {
    let clock = Clock::start();
    let options = StoreOptions::new(&dir, durability, LANES, clock.wall_us(), clock);
    let store = Arc::new(SqliteStore::open_with(&options).expect("the store opens"));
    let stop = Arc::new(AtomicBool::new(false));
    let probe = spawn_probe(dir.join("probe"), clock, Arc::clone(&stop));
    let latency = Arc::new(Mutex::new(histogram()));
    let mut lanes = Vec::new();
    let mut tasks = Vec::new();
    for lane in 0..LANES {
        let (sender, receiver) = mpsc::unbounded_channel();
        lanes.push(sender);
        let (store, latency) = (Arc::clone(&store), Arc::clone(&latency));
        tasks.push(tokio::spawn(serve(Lane(lane), receiver, store, latency, clock)));
    }
    let convs: Vec<(ConvId, UserId)> = (0..pairs)
        .map(|pair| {
            let user = |side: &str| UserId::new(&format!("user-{side}-{pair:05}")).expect("a short id");
            (ConvId::direct(&user("a"), &user("b")), user("a"))
        })
        .collect();
    let (before, began) = (cpu(), clock.now().mono);
    let total = per_second * seconds;
    let mut sent = 0;
    while sent < total {
        let elapsed = clock.now().mono.saturating_sub(began);
        let due = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX) * per_second / 1_000_000;
        while sent < due.min(total) {
            let due_at = began + Duration::from_micros(sent * 1_000_000 / per_second);
            // In no order, as people write: in that of their rows neighbours would share the pages of a commit.
            let pair = (sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % pairs;
            let (conv, sender) = &convs[usize::try_from(pair).expect("small")];
            let append = message(conv, sender, sent, clock.now().wall_ms);
            let lane = lane_of(AppId(0), conv, LANES);
            lanes[usize::from(lane.0)]
                .send((due_at, append))
                .expect("the lane is there");
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(lanes);
    for task in tasks {
        task.await.expect("no lane panics");
    }
    let took = clock.now().mono.saturating_sub(began);
    let (after, writer) = (cpu(), thread_cpu("store-writer"));
    stop.store(true, Ordering::Relaxed);
    let probe = probe.join().expect("the probe does not panic");
    let stats = store.stats();
    let each = store.histograms();
    println!(
        "{total} messages of {PAYLOAD_BYTES} B in {:.2} s: {:.0}/s",
        took.as_secs_f64(),
        total as f64 / took.as_secs_f64()
    );
    println!(
        "cpu: process {:.1} us/message ({:.0} % of a core), writer thread {:.1} us/message",
        (after - before) / total as f64,
        (after - before) / took.as_secs_f64() / 10_000.0,
        writer / total as f64
    );
    println!(
        "commits {} ({:.1} messages each), checkpoints {}, over 50 ms {}",
        stats.commits,
        total as f64 / stats.commits as f64,
        stats.checkpoints,
        stats.slow
    );
    row("due to committed", &latency.lock().expect("no lane panics"));
    row("commit total", &each.total_us);
    row("  waited", &each.waited_us);
    row("  write", &each.write_us);
    row("  fsync", &each.fsync_us);
    row("checkpoint", &each.checkpoint_us);
    row("fdatasync probe", &probe);
    drop(store);
    let bytes = std::fs::metadata(dir.join("corelane.db")).map_or(0, |file| file.len());
    println!("database {:.0} B/message", bytes as f64 / total as f64);
}

async fn serve(
    lane: Lane,
    mut queue: mpsc::UnboundedReceiver<(Duration, Append)>,
    store: Arc<SqliteStore>,
    latency: Arc<Mutex<Histogram<u64>>>,
    clock: Clock,
) {
    let mut taken = Vec::new();
    while queue.recv_many(&mut taken, 1_000).await > 0 {
        let (due, appends): (Vec<Duration>, Vec<Append>) = taken.drain(..).unzip();
        let Committed::Done { outbox, .. } = store.commit(Batch { lane, appends }).await else {
            panic!("the store failed");
        };
        let now = clock.now().mono;
        let mut latency = latency.lock().expect("no lane panics");
        for due in due {
            latency.saturating_record(micros(now.saturating_sub(due)));
        }
        drop(latency);
        store.clear_outbox(vec![outbox]);
    }
}

fn message(conv: &ConvId, sender: &UserId, number: u64, now_ms: u64) -> Append {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    id[6] = 0x70;
    id[8..].copy_from_slice(&(number | 1 << 63).to_be_bytes());
    Append {
        app: AppId(0),
        conv: conv.clone(),
        sender: sender.clone(),
        client_msg_id: ClientMsgId(id),
        kind: kind::TEXT,
        flags: 0,
        ref_seq: 0,
        content_type: 0,
        payload: vec![7; PAYLOAD_BYTES],
        extensions: Vec::new(),
        origin_terminal: 1,
        origin_device: "bench".to_owned(),
        members: MemberChange::default(),
        check_member: true,
        moves_read_mark: true,
    }
}

/// Appends 4 KiB and syncs it, ten times a second.
fn spawn_probe(
    path: PathBuf,
    clock: Clock,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Histogram<u64>> {
    std::thread::spawn(move || {
        let mut times = histogram();
        let mut file = std::fs::File::create(&path).expect("the probe's file can be made");
        while !stop.load(Ordering::Relaxed) {
            let began = clock.now().mono;
            file.write_all(&[1; 4096])
                .and_then(|()| file.sync_data())
                .expect("the probe can write");
            times.saturating_record(micros(clock.now().mono.saturating_sub(began)));
            std::thread::park_timeout(Duration::from_millis(100));
        }
        times
    })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in range")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn row(name: &str, times: &Histogram<u64>) {
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{name:>18}: p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.2} ms ({} samples)",
        at(0.5),
        at(0.99),
        at(0.999),
        times.max() as f64 / 1000.0,
        times.len()
    );
}

/// CPU time of a stat file of /proc, in microseconds.
fn stat_cpu(path: &str) -> f64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default();
    // utime and stime, in ticks of 10 ms, are the 12th and 13th field behind the name.
    fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        * 10_000.0
}

fn cpu() -> f64 {
    stat_cpu("/proc/self/stat")
}

fn thread_cpu(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        })
        .map(|task| stat_cpu(&task.path().join("stat").to_string_lossy()))
        .sum()
}
