//! The edge of a router's rules: everything that can happen to it, and everything it can ask for.
//!
//! The shell (`router/src/driver.rs`) turns records, answers of the ports and time into [`Input`]s and carries
//! [`Output`]s out in their order. The simulation does the same in virtual time. Every answer of a port comes back as
//! an input, so the order in which the outside world answers is all there is to vary.

use std::sync::Arc;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::{AppId, BootId, ConnId, ConvId, Lane, UserId};
use corelane_protocol::link::record::{Record, RecordKind};

use crate::append::{Append, Batch, Committed};

/// A connection of a gateway shard to this router. The shell numbers them; a new attempt is a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Who is at the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// The gateway's boot.
    pub boot: BootId,
    /// Which of its shards.
    pub shard: u16,
}

/// A conversation of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppConv {
    /// The tenant.
    pub app: AppId,
    /// The conversation.
    pub conv: ConvId,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// A client's connection.
    Conn(ConnReply),
    /// A call of the HTTP API, by the number that the shell gave it.
    Backend(u64),
}

/// A client's connection, and which of its frames is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnReply {
    /// The link it is behind.
    pub link: LinkId,
    /// The connection.
    pub conn: ConnId,
    /// The frame's reference.
    pub reference: u32,
}

/// Where a session is, as the registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whose.
    pub user: UserId,
    /// Terminal class number.
    pub terminal: u8,
    /// The gateway's boot.
    pub boot: BootId,
    /// The connection there.
    pub conn: ConnId,
    /// The claim that made the route.
    pub owner_seq: u64,
}

/// A session that wants its route, or gives it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionClaim {
    /// The link that asks.
    pub link: LinkId,
    /// Reference of the record, for the answer.
    pub reference: u32,
    /// Tenant.
    pub app: AppId,
    /// Whose session.
    pub user: UserId,
    /// Terminal class number.
    pub terminal: u8,
    /// Device, may be empty.
    pub device: String,
    /// The gateway's boot.
    pub boot: BootId,
    /// The connection.
    pub conn: ConnId,
    /// Counts the claims of the boot.
    pub owner_seq: u64,
    /// When the token was issued, s since 1970.
    pub issued_at_s: u64,
    /// Made again after the registry lost it.
    pub again: bool,
}

/// A row of the outbox: the commit of a lane that still waits to be consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// The lane.
    pub lane: Lane,
    /// Its number, as the store gave it.
    pub id: u64,
}

/// A message of an outbox row that an earlier life left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftMessage {
    /// Where it is.
    pub at: AppConv,
    /// Its place.
    pub seq: u64,
    /// Who sent it.
    pub sender: UserId,
    /// The stored `Message` frame.
    pub frame: Vec<u8>,
    /// Version of the member list; 0 for direct conversations.
    pub member_version: u64,
}

/// Members of a group at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberList {
    /// Seq of the last change.
    pub version: u64,
    /// The members.
    pub users: Arc<[UserId]>,
}

/// What became of a record that was handed to the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The bus has it.
    Taken,
    /// Nobody knows; it is published again under the same number.
    Unknown,
    /// The topic overflowed or is gone: its gateway resyncs all sessions, nothing of it is waited for.
    Lost,
}

/// Answer to a call of the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Stored (now or by an earlier send with the same id).
    Stored(StoredAt),
    /// Not stored; the text is for people.
    Refused(ErrorCode, String),
}

/// Where a message of the HTTP API went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// The conversation.
    pub conv: ConvId,
    /// Place.
    pub seq: u64,
    /// Countable messages up to it.
    pub n: u64,
    /// Store time, ms since 1970.
    pub time_ms: u64,
}

/// A record for a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Kind.
    pub kind: RecordKind,
    /// Priority lane: 0 control, 1 calls, 2 messages, 3 transient.
    pub priority: u8,
    /// The connection, 0 for none.
    pub conn: u64,
    /// What it answers.
    pub reference: u32,
    /// Trace stamp of the message it answers, 0 for none.
    pub stamp: u64,
    /// Body.
    pub body: Vec<u8>,
}

/// Stages that happen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Taken into the queue of its lane.
    Admit,
    /// Committed.
    Persist,
    /// Recipients known.
    Locate,
    /// Handed to the bus.
    Publish,
}

/// Something that happened outside.
#[derive(Debug)]
pub enum Input<'buf> {
    /// A link proved who it is.
    LinkUp(LinkId, Gateway),
    /// A link is gone; what its connections waited for has no receiver any more.
    LinkDown(LinkId),
    /// A record of a link. `Credit` and `BusFetch` are the shell's own.
    Record(LinkId, Record<'buf>),
    /// A backend sends a message or changes a group.
    Backend(u64, Append),
    /// A backend closes these sessions with this code.
    Kick(Vec<Route>, u16),
    /// Answer to [`Output::Claim`]: the sessions that give way, or the close code of a refusal.
    Claimed(SessionClaim, Result<Vec<Route>, u16>),
    /// Answer to [`Output::Renew`].
    Renewed(LinkId, bool),
    /// Answer to [`Output::Persist`].
    Committed(Lane, Committed),
    /// Answer to [`Output::MarkRead`]: the mark as it stands now (seq, n).
    ReadMarked(MarkRead, Result<(u64, u64), (ErrorCode, String)>),
    /// Answer to [`Output::LoadMembers`]; `None`: no such group. An error is tried again.
    Members(AppConv, Result<Option<MemberList>, String>),
    /// Answer to [`Output::Lookup`], by its number. An error is tried again.
    Located(u64, Result<Vec<Route>, String>),
    /// Answer to [`Output::Publish`].
    Published(BootId, u16, u64, PublishOutcome),
    /// An outbox row that was there at the start.
    Left(RowId, Vec<LeftMessage>),
    /// All inputs that were there have been handled: form batches, look at the clock.
    TurnEnded,
}

/// A user has read up to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRead {
    /// Who waits.
    pub reply: ReplyTo,
    /// Where.
    pub at: AppConv,
    /// Who read.
    pub user: UserId,
    /// Up to here.
    pub seq: u64,
}

/// A user wants to know what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRequest {
    /// Who waits.
    pub reply: ReplyTo,
    /// Tenant.
    pub app: AppId,
    /// Who asks.
    pub user: UserId,
    /// As the store made it; empty for everything.
    pub cursor: Vec<u8>,
    /// Most conversations.
    pub limit: u16,
}

/// A user wants messages of one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// Who waits.
    pub reply: ReplyTo,
    /// Where.
    pub at: AppConv,
    /// Who asks.
    pub user: UserId,
    /// First place.
    pub from_seq: u64,
    /// Last place.
    pub to_seq: u64,
    /// Most messages.
    pub limit: u16,
}

/// Something the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Send this on the link. If the link is gone, drop it.
    Send(LinkId, Outgoing),
    /// Answer a call of the HTTP API.
    Answer(u64, Answer),
    /// Commit these; come back with [`Input::Committed`]. One per lane at a time.
    Persist(Batch),
    /// These rows need not be kept.
    ClearOutbox(Vec<RowId>),
    /// Move a read mark; come back with [`Input::ReadMarked`].
    MarkRead(MarkRead),
    /// Answer with a `SyncPage` or an `Error`.
    Sync(SyncRequest),
    /// Answer with a `PullPage` or an `Error`.
    Pull(PullRequest),
    /// Load the members of a group; come back with [`Input::Members`].
    LoadMembers(AppConv),
    /// Where are these users? Come back with [`Input::Located`] and the number.
    Lookup(u64, AppId, Arc<[UserId]>),
    /// Make the topic of a gateway boot. Comes before anything is published there.
    CreateTopic(BootId),
    /// Publish a record (boot, partition, number, bytes) behind what was published there before; come back with
    /// [`Input::Published`].
    Publish(BootId, u16, u64, Arc<[u8]>),
    /// The gateway consumed everything of the partition up to and with this number.
    Consumed(BootId, u16, u64),
    /// Claim a route; come back with [`Input::Claimed`]. Claims and unclaims are carried out in their order.
    Claim(SessionClaim),
    /// Give a route up.
    Unclaim(SessionClaim),
    /// Renew the lease of a gateway (link, boot, sessions); come back with [`Input::Renewed`].
    Renew(LinkId, BootId, u64),
    /// A gateway left or is dead: forget its routes and its topic.
    GatewayGone(BootId),
    /// A sampled message reached a stage.
    Reached(Stage, u64),
}
