//! A store to test, a clock that tests move, and messages to put in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_protocol::frame::kind;
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, GroupId, Lane, UserId};
use corelane_router::clock::Clock;
use corelane_router::store::sqlite::{SqliteStore, StoreOptions};
use corelane_router::store::{Durability, MessageStore, OutboxRow};
use corelane_router_core::append::{Append, Appended, Batch, Committed, MemberChange};

pub(crate) const APP: AppId = AppId(3);
pub(crate) const LANES: u16 = 8;
/// When the tests' clock starts, ms since 1970.
pub(crate) const START_MS: u64 = 1_900_000_000_000;
pub(crate) const MINUTE_MS: u64 = 60_000;

/// Somewhere to keep a store, across openings.
pub(crate) trait Fixture {
    type Store: MessageStore;

    fn new() -> Self;
    /// Opens the one store there is; the one before was dropped.
    fn open(&self) -> Self::Store;
    /// The store's wall clock.
    fn clock(&self) -> &AtomicU64;
}

pub(crate) struct SqliteFixture {
    pub(crate) dir: tempfile::TempDir,
    clock: Arc<AtomicU64>,
}

impl SqliteFixture {
    pub(crate) fn options(&self) -> StoreOptions {
        let clock = Arc::clone(&self.clock);
        StoreOptions {
            wall: Arc::new(move || clock.load(Ordering::SeqCst)),
            ..StoreOptions::new(self.dir.path(), Durability::Full, LANES, random(), Clock::start())
        }
    }

    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.dir.path().join("corelane.db")
    }
}

impl Fixture for SqliteFixture {
    type Store = SqliteStore;

    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(AtomicU64::new(START_MS)),
        }
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open_with(&self.options()).unwrap()
    }

    fn clock(&self) -> &AtomicU64 {
        &self.clock
    }
}

/// Something that differs at each call: names epochs.
pub(crate) fn random() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst) ^ u64::from(std::process::id())
}

pub(crate) fn open_at(dir: &Path, durability: Durability) -> SqliteStore {
    SqliteStore::open(dir, durability, LANES, random(), Clock::start()).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn direct(one: &str, other: &str) -> ConvId {
    ConvId::direct(&user(one), &user(other))
}

pub(crate) fn group(name: &str) -> ConvId {
    ConvId::group(&GroupId::new(name).unwrap())
}

/// A `UUIDv7` of that time.
pub(crate) fn id_at(time_ms: u64, number: u64) -> ClientMsgId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes[8] = 0x80;
    ClientMsgId(bytes)
}

pub(crate) fn append(conv: &ConvId, sender: &str, number: u64, payload: &[u8]) -> Append {
    Append {
        app: APP,
        conv: conv.clone(),
        sender: user(sender),
        client_msg_id: id_at(START_MS, number),
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

/// A change of a group's members, by its backend.
pub(crate) fn change(conv: &ConvId, number: u64, create: bool, join: &[&str], leave: &[&str]) -> Append {
    let users = |names: &[&str]| names.iter().map(|name| user(name)).collect();
    Append {
        kind: kind::GROUP_CHANGE,
        members: MemberChange {
            create,
            join: users(join),
            leave: users(leave),
        },
        check_member: false,
        moves_read_mark: false,
        ..append(conv, "backend", number, b"{}")
    }
}

pub(crate) async fn commit(store: &impl MessageStore, appends: Vec<Append>) -> (Vec<Appended>, u64) {
    let lane = lane_of(APP, &appends[0].conv, LANES);
    match store.commit(Batch { lane, appends }).await {
        Committed::Done { answers, outbox } => (answers, outbox),
        Committed::Unknown(reason) => panic!("{reason}"),
    }
}

/// What earlier lives and other routers left in the outbox.
pub(crate) async fn left(store: &impl MessageStore, after: u64) -> Vec<OutboxRow> {
    let writers = store.writers().await.unwrap();
    store.outbox(writers, all_lanes(), after).await.unwrap()
}

pub(crate) fn all_lanes() -> Vec<Lane> {
    (0..LANES).map(Lane).collect()
}

pub(crate) fn seqs(answers: &[Appended]) -> Vec<u64> {
    let seq = |answer: &Appended| match answer {
        Appended::Stored { seq, .. } => *seq,
        Appended::Refused(code, text) => panic!("{code:?} {text}"),
    };
    answers.iter().map(seq).collect()
}

/// A small generator, so that a failure can be played again by its seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}
