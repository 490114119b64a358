//! The store port: where every message is kept.
//!
//! An adapter owns durability and transactions; the rules of what is written are the core's (`decide`). Every adapter
//! runs the same contract tests (`router/tests/store_contract/`).

pub mod any;
mod apply;
mod changes;
mod checkpoint;
mod journal;
mod log_syncer;
pub mod moment;
mod read;
mod readers;
mod recovery;
pub mod remembered;
mod rows;
pub mod schema;
pub mod sqlite;
mod sync;
pub mod tikv;
pub mod timing;
mod witness;
mod writer;

use std::future::Future;

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_protocol::terminal::Terminal;
use corelane_router_core::append::{Batch, Committed, Head, Member};
use thiserror::Error;

pub use schema::Durability;

/// What a store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreInfo {
    /// The cluster that it belongs to, drawn when it was made.
    pub cluster_id: u64,
    /// Epoch of the log.
    pub epoch: u64,
    /// Lanes, fixed when it was made.
    pub lanes: u16,
}

/// Why the store could not answer. By blame: configuration and machine, data, caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be opened. The text names the file and the fix.
    #[error("store {path}: {problem}")]
    Open {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// What is stored is damaged; it is not served. An operator must bring it back from a backup.
    #[error("store: {what} is damaged: {problem}")]
    Damaged {
        /// Which row.
        what: String,
        /// How it was noticed.
        problem: String,
    },
    /// A cursor or place that lies behind the end of the log: drop the conversation or cursor and pull anew.
    #[error("the cursor or place is ahead of the log")]
    Ahead,
    /// The cursor is none of this store's.
    #[error("the cursor was not made by this store")]
    Cursor,
    /// The user is not and was not in the conversation.
    #[error("the user is not a member of the conversation")]
    NotMember,
    /// More requests wait than the store's threads will get through soon. Try again later.
    #[error("the store has {waiting} requests waiting, allowed are {allowed}")]
    Busy {
        /// Requests that wait.
        waiting: usize,
        /// Most that may.
        allowed: usize,
    },
    /// Nothing was written because there is no room, or another program holds the file. Try again later.
    #[error("the store cannot write now: {0}")]
    Full(String),
    /// The database failed. Nothing is known about what was asked; see the log.
    #[error("store failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// What a client is told.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Ahead => ErrorCode::Ahead,
            Self::Cursor => ErrorCode::Malformed,
            Self::NotMember => ErrorCode::NotMember,
            Self::Damaged { .. } => ErrorCode::Rejected,
            Self::Busy { .. } => ErrorCode::Overloaded,
            Self::Open { .. } | Self::Full(_) | Self::Failed(_) => ErrorCode::Unavailable,
        }
    }
}

/// A range of one conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Places and `Message` frames, in order.
    pub messages: Vec<(u64, Vec<u8>)>,
    /// Where to go on, or 0.
    pub next_seq: u64,
    /// The head.
    pub head: Head,
}

/// What a user may read of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readable {
    /// From here on: 1, or where he joined.
    pub first: u64,
    /// Up to here: `u64::MAX`, or what lies below his leave. Below `first`: nothing.
    pub last: u64,
    /// Countable messages up to `last`; 0 for who is there.
    pub last_n: u64,
}

/// A page of what changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synced {
    /// For the next call.
    pub cursor: Vec<u8>,
    /// Whether another page follows.
    pub more: bool,
    /// Last changed first; large groups behind the others.
    pub conversations: Vec<ConvState>,
    /// Rows that the store found for it: what it cost.
    pub rows_read: u64,
}

/// Members of a group, and who left it lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Place of the last change; 0 if there is no such group.
    pub version: u64,
    /// In the order of their ids.
    pub stays: Vec<Member>,
}

impl Members {
    /// Who is in it.
    pub fn present(self) -> Vec<UserId> {
        let stays = self.stays.into_iter().filter(|stay| stay.leave_seq == 0);
        stays.map(|stay| stay.user).collect()
    }
}

/// For [`MessageStore::members`]: only who is in the group.
pub const NOBODY_LEFT: u64 = u64::MAX;

/// A read mark after it was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMark {
    /// Read up to here.
    pub seq: u64,
    /// Countable messages up to there.
    pub n: u64,
    /// Whether it moved.
    pub moved: bool,
}

/// What a terminal has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredMark {
    /// Tenant.
    pub app: AppId,
    /// Whose terminal.
    pub user: UserId,
    /// Its class.
    pub terminal: Terminal,
    /// Its device, may be empty.
    pub device: String,
    /// The conversation.
    pub conv: ConvId,
    /// It has everything up to this place.
    pub seq: u64,
}

/// Messages of one commit that may not have been delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The row.
    pub id: u64,
    /// The lane.
    pub lane: Lane,
    /// Boot of the router that wrote it; 0: an earlier life of a store that has one router only.
    pub writer: u64,
    /// Conversations with first and last place.
    pub entries: Vec<(AppId, ConvId, u64, u64)>,
}

/// The store.
pub trait MessageStore: Send + Sync + 'static {
    /// Cluster, epoch, lanes.
    fn info(&self) -> StoreInfo;

    /// Stores a batch. `Done` only when it survives whatever the store promises to survive. The caller has at most
    /// one batch per lane in flight: that bounds what waits here.
    fn commit(&self, batch: Batch) -> impl Future<Output = Committed> + Send;

    /// Forgets outbox rows, soon. Forgetting to forget publishes again, which is allowed.
    fn clear_outbox(&self, rows: Vec<u64>);

    /// Who left outbox rows: other routers, by boot, and earlier lives of this one. Some of them may live. A router is
    /// known to the registry before it stores anything, so ask who lives only after this: who is named here and does not
    /// live then is dead.
    fn writers(&self) -> impl Future<Output = Result<Vec<u64>, StoreError>> + Send;

    /// Outbox rows that these left in `lanes`, oldest first, from behind `after` on, some hundreds at a time. Only of the
    /// dead: who lives publishes his own. What a router had on its way when it died may come for half a minute; rows that
    /// were named before need not be named again.
    fn outbox(
        &self,
        of: Vec<u64>,
        lanes: Vec<Lane>,
        after: u64,
    ) -> impl Future<Output = Result<Vec<OutboxRow>, StoreError>> + Send;

    /// Those of these rows of a lane that are there, in the order asked, whoever wrote them. For rows that this store has
    /// named: by a commit, or one of the other ways.
    fn outbox_rows(
        &self,
        lane: Lane,
        rows: Vec<u64>,
    ) -> impl Future<Output = Result<Vec<OutboxRow>, StoreError>> + Send;

    /// Waits for an outbox row of this router that no commit announced, to be published: of what was mended, or of a commit
    /// whose outcome was not known when it was answered.
    fn stray(&self) -> impl Future<Output = OutboxRow> + Send;

    /// Messages from `from` to `to`, at most `limit` and about half a MiB, at least one if there is one. A `from` above
    /// the next place is [`StoreError::Ahead`].
    fn pull(
        &self,
        app: AppId,
        conv: ConvId,
        from: u64,
        to: u64,
        limit: u16,
    ) -> impl Future<Output = Result<Pulled, StoreError>> + Send;

    /// Conversations of a user that changed since the cursor; empty for all.
    fn sync(
        &self,
        app: AppId,
        user: UserId,
        cursor: Vec<u8>,
        limit: u16,
    ) -> impl Future<Output = Result<Synced, StoreError>> + Send;

    /// Members of a group now, and who left it at `since` or later ([`NOBODY_LEFT`] for none of them); version 0 if
    /// there is no such group.
    fn members(
        &self,
        app: AppId,
        conv: ConvId,
        since: u64,
    ) -> impl Future<Output = Result<Members, StoreError>> + Send;

    /// What a user may read of a conversation; `None` if he is not and was not in it. [`Self::pull`] does not look.
    fn readable(
        &self,
        app: AppId,
        conv: ConvId,
        user: UserId,
    ) -> impl Future<Output = Result<Option<Readable>, StoreError>> + Send;

    /// Moves a read mark forward; a place above the head is [`StoreError::Ahead`].
    fn read(
        &self,
        app: AppId,
        user: UserId,
        conv: ConvId,
        seq: u64,
    ) -> impl Future<Output = Result<ReadMark, StoreError>> + Send;

    /// Keeps what a terminal has, lazily: the newest mark may be lost with the process, or when too many come at a time;
    /// the terminal repeats it. A mark of somebody who is not in the conversation is dropped.
    fn delivered(&self, mark: DeliveredMark);

    /// Draws a new epoch (from `random`): clients drop their cursors. The last step of a restore.
    fn bump_epoch(&self, random: u64) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Whether the outbox rows that the caller knows of are forgotten, but for those that it has not asked to forget. Where
    /// nobody else adopts rows: always.
    fn is_cleared(&self) -> bool;

    /// Why no commit will succeed any more; `None` while all is well.
    fn poisoned(&self) -> Option<String>;

    /// Waits until the store is poisoned and says why. The process must then end: what the kernel dropped cannot
    /// be known. Everything that was in flight has been answered `Unknown`.
    fn failed(&self) -> impl Future<Output = String> + Send;
}
