//! The edge of a shard's rules: everything that can happen to a shard, and everything it can ask for.
//!
//! The shell (`gateway/src/shard_loop.rs`) turns completions into [`Input`]s and carries [`Output`]s out in
//! their order. The simulation does the same in virtual time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::arena::Span;
use corelane_protocol::id::{AppId, ConnId, UserId};
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::terminal::Terminal;

/// A connection of this shard to a router. The shell numbers them from 0; a new attempt is a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// How long after its expiry a token is still good: clocks differ.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(30);

/// A socket that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Number of its listener, in the order of the configuration.
    pub listener: u16,
    /// What that listener speaks.
    pub kind: ListenerKind,
    /// Address of the peer; behind a proxy the proxy's.
    pub peer: SocketAddr,
    /// Accepted only to be told that there is no room.
    pub reserve: bool,
}

/// What a token said, after its signature and expiry were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The tenant.
    pub app: AppId,
    /// The user.
    pub user: UserId,
    /// The terminal class it is bound to, if any.
    pub terminal: Option<Terminal>,
    /// The device it is bound to, if any.
    pub device: Option<String>,
    /// Expires at, s since 1970. The session ends [`TOKEN_LEEWAY`] later.
    pub expires_at_s: u64,
    /// Issued at, s since 1970.
    pub issued_at_s: u64,
    /// What it allows beyond chatting.
    pub scopes: Vec<String>,
}

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It is not ours, or not for this service. Text for people.
    Invalid(String),
    /// It was good until a while ago.
    Expired,
}

/// What another shard of the same gateway, or the shell, has for this one. Owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardMessage {
    /// An encoded bus record some of whose receivers live here. Shared, not copied, between shards.
    Record(Arc<[u8]>),
    /// This connection missed something that found no room in the inbox: demote it.
    Overflowed(ConnId),
    /// All connections of this shard may have missed something.
    OverflowedAll,
    /// Records of this gateway's topic on a bus that stands apart: they were asked for by [`Output::Fetch`]. Never
    /// dropped: the credit of the fetch is their bound.
    Fetched {
        /// Boot whose topic it is.
        boot: u64,
        /// Partition.
        partition: u16,
        /// Offset of the first record.
        from: u64,
        /// Records before it were lost.
        lost: bool,
        /// Encoded bus records.
        records: Vec<Arc<[u8]>>,
    },
    /// The topic of this boot is gone from the bus that stands apart. Never dropped either.
    TopicLost(u64),
}

/// Something that happened outside the shard.
#[derive(Debug)]
pub enum Input<'buf> {
    /// A socket was accepted.
    Accepted(ConnId, Accepted),
    /// Bytes arrived on a client's socket. Borrowed for this call; unmasked in place.
    Received(ConnId, &'buf mut [u8]),
    /// The client sent its FIN.
    PeerClosed(ConnId),
    /// The span given out by the last [`Output::Send`] of this connection has left.
    Sent(ConnId),
    /// The socket is gone; the id is never used again.
    Closed(ConnId),
    /// Answer to [`Output::Verify`].
    Verified(ConnId, Result<Claims, TokenVerdict>),
    /// A link's socket is connected. The nonce is for its handshake.
    LinkConnected(LinkId, [u8; 16]),
    /// Bytes arrived on a link.
    LinkReceived(LinkId, &'buf [u8]),
    /// The bytes given out by the last [`Output::LinkSend`] of this link have left.
    LinkSent(LinkId),
    /// A link's socket is gone, or could not be connected.
    LinkClosed(LinkId),
    /// Another shard of this gateway, or the shell's reader of the bus, has something for this one.
    FromShard(ShardMessage),
    /// The time given by `Shard::next_deadline` has come.
    DeadlineReached,
    /// The turn is over: give out what was gathered (sends, link batches, shard batches).
    TurnEnded,
    /// Drain: no more accepts; `GoAway` to all, paced over the configured time; then close them.
    Drain,
    /// The process goes on under another boot. Given to all its shards, whichever of them asked for it; the one that a
    /// shard has already changes nothing.
    NewBoot(u64),
}

/// Something the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Send this to the client. Never two without an [`Input::Sent`] between them.
    Send(ConnId, Span),
    /// Close in order: what was sent leaves first.
    Close(ConnId),
    /// Close at once: the peer does not read.
    Abort(ConnId),
    /// Read nothing from the client until told.
    PauseReceive(ConnId),
    /// Read again.
    ResumeReceive(ConnId),
    /// Check this token and come back with [`Input::Verified`] before any other input of the connection.
    Verify(ConnId, String),
    /// Connect a link to this address. The shell answers with `LinkConnected` or `LinkClosed`.
    LinkConnect(LinkId, String),
    /// Send this to the router. Never two without an [`Input::LinkSent`] between them.
    LinkSend(LinkId, Span),
    /// Close the link at once: nothing on it is worth waiting for. Answered by [`Input::LinkClosed`].
    LinkClose(LinkId),
    /// Hand this to another shard. When its inbox is full the shell sets one bit for the slot of each listed receiver
    /// (they are then told as `Overflowed`), or one flag for a record that lists none (`OverflowedAll`), instead of
    /// waiting.
    ToShard(u16, ShardMessage),
    /// Read records of a partition of this boot's topic, on the bus that stands apart, from an offset on: hand them to
    /// this shard as [`ShardMessage::Fetched`] until so many bytes of records came (one record may cross that). Another
    /// one for the partition comes when they did.
    Fetch {
        /// Whose topic.
        boot: u64,
        /// Partition.
        partition: u16,
        /// Offset of the first record wanted.
        from: u64,
        /// Bytes.
        credit_bytes: u32,
    },
    /// This boot was declared dead: the process needs a new one, drawn at random, and all its shards an
    /// [`Input::NewBoot`]. Several shards may say it of the same boot. Until then the shard has no link.
    BootLost(u64),
    /// All connections are closed after [`Input::Drain`].
    Drained,
}
