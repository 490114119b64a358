//! Bodies of all frames, as they are archived by rkyv.
//!
//! A body never changes within a protocol version: new fields go into extensions. Texts and ids are plain
//! here and become ids when they are read (`id.rs`). The archive is unaligned and little-endian, so it is
//! read in place at any offset, through checked access only ([`super::access`]).

use rkyv::{Archive, Deserialize, Serialize};

/// `Hello`: who is here. First frame of a client.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The token, unless it came with the upgrade (then empty).
    pub token: String,
    /// Class of the terminal ([`crate::terminal::Terminal`]); must agree with the token if that names one.
    pub terminal: u8,
    /// Device id, 0 to 64 bytes.
    pub device: String,
    /// Log epoch that the client's cursors belong to; 0 if it has none.
    pub epoch: u64,
}

/// Where a message goes.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A conversation, by the bytes of its id.
    Conv(Vec<u8>),
    /// The direct conversation with this user.
    User(String),
}

/// `Send`: a message to store and deliver.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Where it goes.
    pub target: Target,
    /// Message kind ([`super::kind`]).
    pub kind: u16,
    /// Message flags ([`super::kind::flag`]).
    pub flags: u16,
    /// The earlier message this one is about (reply, edit, recall, reaction, call); 0 for none.
    pub ref_seq: u64,
    /// Chosen by the sender, once per message: a `UUIDv7`.
    pub client_msg_id: [u8; 16],
    /// What the payload is ([`super::kind::content`]).
    pub content_type: u8,
    /// Opaque to the platform.
    pub payload: Vec<u8>,
}

/// `Message`: a stored message. The same bytes for every receiver, in the store, on the bus and on the wire.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The conversation.
    pub conv: Vec<u8>,
    /// Place in the conversation: dense from 1.
    pub seq: u64,
    /// How many countable messages the conversation has up to and with this one.
    pub n: u64,
    /// Who sent it.
    pub sender: String,
    /// Message kind.
    pub kind: u16,
    /// Message flags.
    pub flags: u16,
    /// The earlier message this one is about; 0 for none.
    pub ref_seq: u64,
    /// Class of the terminal it was sent from; 0 for a backend.
    pub origin_terminal: u8,
    /// Device it was sent from; may be empty.
    pub origin_device: String,
    /// The sender's id for it.
    pub client_msg_id: [u8; 16],
    /// When the store took it, ms since 1970.
    pub time_ms: u64,
    /// What the payload is.
    pub content_type: u8,
    /// Opaque to the platform.
    pub payload: Vec<u8>,
}

/// `SendAck`: the message of the same `ref` is stored durably.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SendAck {
    /// The conversation it went to.
    pub conv: Vec<u8>,
    /// Its place.
    pub seq: u64,
    /// Countable messages up to and with it.
    pub n: u64,
    /// When the store took it, ms since 1970.
    pub time_ms: u64,
}

/// A place in a conversation.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ConvSeq {
    /// The conversation.
    pub conv: Vec<u8>,
    /// The place.
    pub seq: u64,
}

/// `Read`: the user has read up to here. A watermark; a lower one than known changes nothing. Needs a reference, and is
/// answered by `ReadUpTo` or `Error`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The place.
    pub upto: ConvSeq,
}

/// `Delivered`: this terminal has everything up to these places.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// At most 32 places, one per conversation.
    pub upto: Vec<ConvSeq>,
}

/// `Sync`: which conversations changed since the cursor?
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// As given by the last complete sync; empty for "everything".
    pub cursor: Vec<u8>,
    /// Most conversations per page, 1 to 200.
    pub limit: u16,
}

/// State of one conversation for one user.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ConvState {
    /// The conversation.
    pub conv: Vec<u8>,
    /// Last place in it.
    pub head_seq: u64,
    /// Countable messages in it.
    pub head_n: u64,
    /// Everything up to here was cut by retention.
    pub floor_seq: u64,
    /// Place of the last change of members, roles or settings.
    pub conv_version: u64,
    /// Read by this user up to this place.
    pub read_seq: u64,
    /// Countable messages read by this user. Unread = `head_n - read_n`.
    pub read_n: u64,
    /// The last message as a `Message` frame; empty if there is none.
    pub last: Vec<u8>,
}

/// `SyncPage`: some of the conversations that changed.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SyncPage {
    /// For the next `Sync`: of the next page while `more`, of the next login afterwards. Opaque, up to 64 bytes.
    pub cursor: Vec<u8>,
    /// Whether another page follows.
    pub more: bool,
    /// The conversations, last changed first.
    pub conversations: Vec<ConvState>,
}

/// `Pull`: messages of one conversation, from `from_seq` up to and with `to_seq`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// The conversation.
    pub conv: Vec<u8>,
    /// First place wanted, from 1.
    pub from_seq: u64,
    /// Last place wanted; `u64::MAX` for "to the head".
    pub to_seq: u64,
    /// Most messages in the answer, 1 to 200.
    pub limit: u16,
}

/// `PullPage`: what was pulled, in order.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PullPage {
    /// The conversation.
    pub conv: Vec<u8>,
    /// Where to go on; 0 when the range is complete.
    pub next_seq: u64,
    /// Last place in the conversation.
    pub head_seq: u64,
    /// Countable messages in it.
    pub head_n: u64,
    /// Everything up to here was cut by retention.
    pub floor_seq: u64,
    /// `Message` frames.
    pub messages: Vec<Vec<u8>>,
}

/// `ReadUpTo`: somebody (maybe the user himself, elsewhere) has read up to here.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ReadUpTo {
    /// The conversation.
    pub conv: Vec<u8>,
    /// Who read.
    pub whose: String,
    /// Up to this place.
    pub seq: u64,
    /// Countable messages up to there.
    pub n: u64,
}

/// `Call`, in both directions: a step of a call, passed on to the others in it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where the call takes place.
    pub target: Target,
    /// Who took the step; empty from a client.
    pub from: String,
    /// The call.
    pub call_id: [u8; 16],
    /// The step ([`super::kind::call_step`]).
    pub step: u8,
    /// Opaque (session descriptions, candidates).
    pub body: Vec<u8>,
}

/// `Typing`, in both directions.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Typing {
    /// Where.
    pub target: Target,
    /// Who; empty from a client.
    pub from: String,
    /// Started (true) or stopped.
    pub on: bool,
}

/// `PresenceQuery`: who of these is online?
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PresenceQuery {
    /// 1 to 100 users.
    pub users: Vec<String>,
}

/// One user's presence.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct UserPresence {
    /// The user.
    pub user: String,
    /// Bit `1 << terminal number` for each class that is online; 0 for offline.
    pub terminals: u16,
}

/// `Presence`: the answer.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// In the order of the query.
    pub users: Vec<UserPresence>,
}

/// `JoinRoom` and `LeaveRoom`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The room's id.
    pub room: String,
}

/// `RefreshToken`: a newer token for the same user, before the old one expires.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The token.
    pub token: String,
}

/// `Ping`: is anybody there? Also keeps the connection alive.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The client's time; comes back unchanged.
    pub time_ms: u64,
}

/// `Pong`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// As in the `Ping`.
    pub time_ms: u64,
    /// The server's time, ms since 1970.
    pub server_time_ms: u64,
}

/// `Welcome`: the session is established and routed.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The session, for logs and support.
    pub session: u64,
    /// The user that the token named.
    pub user: String,
    /// Epoch of the log. Cursors of another epoch are worthless.
    pub epoch: u64,
    /// Most sends that may be unacknowledged at a time.
    pub window: u16,
    /// Largest payload, in bytes.
    pub payload_bytes_max: u32,
    /// A client that is silent longer than this many ms is closed; ping at half of it.
    pub heartbeat_ms: u32,
    /// The server's time, ms since 1970.
    pub server_time_ms: u64,
}

/// `PullRequired`: messages up to these places were not sent here; pull them.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PullRequired {
    /// At most 32 places; more than that become a `Resync`.
    pub upto: Vec<ConvSeq>,
}

/// `Resync`: the gateway lost track; sync again at a random moment within the window.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Resync {
    /// The window, in ms.
    pub spread_ms: u32,
}

/// `GoAway`: this gateway is leaving; reconnect (elsewhere) at a random moment within the window.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GoAway {
    /// Not before, in ms from now.
    pub after_ms: u32,
    /// Length of the window, in ms.
    pub window_ms: u32,
}

/// `Error`: the frame with the same `ref` was refused; nothing of it was kept.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody {
    /// [`super::error::ErrorCode`] as a number.
    pub code: u16,
    /// For people: what was wrong and what is allowed.
    pub text: String,
}
