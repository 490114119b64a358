//! What the store must decide for each message of a commit: the words of the store port.
//!
//! The store reads [`Facts`] inside its transaction, `decide` says what to write, the store
//! writes exactly that. So every adapter keeps the same rules: dense seq, exactly once, conflict on another body.

use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};

/// A message that wants to be in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Tenant.
    pub app: AppId,
    /// The conversation.
    pub conv: ConvId,
    /// Who sends it.
    pub sender: UserId,
    /// The sender's id for it.
    pub client_msg_id: ClientMsgId,
    /// Message kind.
    pub kind: u16,
    /// Message flags.
    pub flags: u16,
    /// The earlier message it is about; 0 for none.
    pub ref_seq: u64,
    /// What the payload is.
    pub content_type: u8,
    /// Opaque.
    pub payload: Vec<u8>,
    /// Extensions that are stored with it, encoded, sorted by type.
    pub extensions: Vec<u8>,
    /// Terminal class it came from; 0 for a backend.
    pub origin_terminal: u8,
    /// Device it came from.
    pub origin_device: String,
    /// For a group change made by this message: who joins, who leaves. Empty otherwise.
    pub members: MemberChange,
    /// Whether the sender must be a member (false for a backend and for group changes).
    pub check_member: bool,
    /// Whether the sender's read mark moves with it (a send from a terminal).
    pub moves_read_mark: bool,
}

/// Change of a group's members, committed with the message that announces it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberChange {
    /// Create the group (it must not exist) before anything else.
    pub create: bool,
    /// Joins.
    pub join: Vec<UserId>,
    /// Leaves.
    pub leave: Vec<UserId>,
}

/// A stay in a group: from the change that made him a member to the one that ended it, both of which he is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// Place of his join.
    pub join_seq: u64,
    /// Place of his leave; 0 while he stays.
    pub leave_seq: u64,
}

impl Member {
    /// Whether one of the messages from `first` to `last` is for him.
    pub const fn is_told(&self, first: u64, last: u64) -> bool {
        self.join_seq <= last && (self.leave_seq == 0 || first <= self.leave_seq)
    }
}

/// What the store knows when it decides about one message. Read inside the transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Head of the conversation; `None` if nothing was ever stored in it.
    pub head: Option<Head>,
    /// The dedupe row of (conversation, sender, id).
    pub dedupe: Option<Dedupe>,
    /// For groups: whether the sender is a member now. Not read when `check_member` is false.
    pub sender_is_member: bool,
    /// Members of the group now; 0 for direct conversations.
    pub member_count: u64,
}

/// Head of a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// Last place.
    pub seq: u64,
    /// Countable messages.
    pub n: u64,
    /// Cut by retention up to here.
    pub floor_seq: u64,
    /// Place of the last change of members or settings.
    pub conv_version: u64,
    /// Time bucket its recent rows stand in.
    pub recent_bucket: u64,
}

/// What an earlier send with the same id became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dedupe {
    /// Its place.
    pub seq: u64,
    /// Countable messages up to it.
    pub n: u64,
    /// When it was stored, ms since 1970.
    pub time_ms: u64,
    /// Hash of what it said (`decide::content_hash`).
    pub hash: u64,
}

/// Messages of one lane that are committed together, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The lane.
    pub lane: Lane,
    /// The messages, at most 1 MiB of payload.
    pub appends: Vec<Append>,
}

/// What became of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Durable. One answer per message, in order, and the outbox row of the commit (0 if nothing new).
    Done {
        /// Per message.
        answers: Vec<Appended>,
        /// Id of the outbox row written with it.
        outbox: u64,
    },
    /// Nobody knows whether it was stored. Resend with the same ids to find out.
    Unknown(String),
}

/// What became of one message of a committed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// In the log, now or (`repeated`) since an earlier send.
    Stored {
        /// Place.
        seq: u64,
        /// Countable messages up to it.
        n: u64,
        /// Store time, ms since 1970.
        time_ms: u64,
        /// The `Message` frame, as stored; empty when `repeated`.
        frame: Vec<u8>,
        /// Version of the member list after it (seq of the last change); 0 for direct conversations.
        member_version: u64,
        /// An earlier send had already stored it: ack, but publish nothing.
        repeated: bool,
    },
    /// Not stored. With a retryable code the store could not write and the same id may be sent again; else it
    /// never will be.
    Refused(corelane_protocol::frame::error::ErrorCode, String),
}
