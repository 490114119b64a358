//! The edge of a router's rules: everything that can happen to it, and everything it can ask for.
//!
//! The shell (`router/src/driver.rs`) turns link records, HTTP calls and answers of the ports into [`Input`]s and
//! carries [`Output`]s out in their order. The simulation does the same in virtual time. Every answer of a port comes
//! back as an input, so the order in which the outside world answers is all there is to vary.

use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};

use crate::append::{Append, Batch, Committed, Member};

/// Who sent a message, and so who gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client behind a gateway.
    Client {
        /// Boot of the gateway.
        boot: u64,
        /// The connection there.
        conn: u64,
        /// Reference of the frame.
        reference: u32,
    },
    /// A call of the HTTP API, by the number that the shell gave it.
    Api(u64),
}

/// A valid message that wants to be stored.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Who waits for the answer.
    pub origin: Origin,
    /// What is to be stored.
    pub append: Append,
    /// Opens the gate of its conversation again.
    pub restart: bool,
    /// Not worth storing after this time, in ms on the clock of [`corelane_protocol::time::Now::mono`].
    pub deadline_ms: u64,
    /// Sampled trace stamp, 0 for none.
    pub stamp: u64,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Boot of its gateway.
    pub boot: u64,
    /// The connection there.
    pub conn: u64,
}

/// What an outbox row still has to publish in one conversation, as it was read from the store.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The row.
    pub outbox: u64,
    /// Its lane.
    pub lane: Lane,
    /// Tenant.
    pub app: AppId,
    /// The conversation.
    pub conv: ConvId,
    /// Seq and stored `Message` frame, in order.
    pub frames: Vec<(u64, Vec<u8>)>,
}

/// What this router has to do with a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneRole {
    /// Another router serves it.
    Foreign,
    /// It is to be served here once those who served it before have published all they had: what arrives waits.
    Held,
    /// It is served here.
    Served,
}

/// Which lanes are served here, as of a version of the router list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneList {
    /// The list's version. Another one than before is answered with [`Output::Drained`].
    pub version: u64,
    /// What this router has to do with each lane, by the lane's number. One that is missing is foreign.
    pub roles: Vec<LaneRole>,
    /// Past this moment (on the clock of [`corelane_protocol::time::Now::mono`]) others may have taken the lanes over:
    /// nothing is committed before the list was given again.
    pub until: Duration,
    /// This router is not in the list any more, and nobody waited for it: what waits in its lanes is not stored.
    pub lapsed: bool,
}

impl LaneList {
    /// All lanes, for a router that nobody is beside of.
    pub fn alone(version: u64, lanes: u16) -> Self {
        Self {
            version,
            roles: vec![LaneRole::Served; usize::from(lanes)],
            until: Duration::MAX,
            lapsed: false,
        }
    }
}

/// Something that happened outside.
#[derive(Debug)]
pub enum Input {
    /// The router list was looked at. Comes before any message, whenever the list changed, and as the answer to
    /// [`Output::LookAtRouters`]; while lanes are held it is repeated, so that what waits for too long is answered.
    Lanes(LaneList),
    /// A message was sent.
    Submit(Submission),
    /// Answer to [`Output::Persist`].
    Committed(Lane, Committed),
    /// Answer to [`Output::Locate`]: the routes of each user, in the order asked.
    Located(u64, Vec<Vec<Route>>),
    /// Answer to [`Output::LoadMembers`]: version and stays.
    Members(u64, u64, Vec<Member>),
    /// Answer to [`Output::ReadRows`]: what each row still has to publish, in the order asked. Empty: the row is gone, or
    /// nothing that it names can be published.
    Rows(u64, Vec<Vec<Recovered>>),
    /// The port did not answer this ticket. The shell waits a little before it says so.
    Failed(u64),
    /// A gateway reported records consumed.
    Consumed {
        /// Its boot.
        boot: u64,
        /// The partition.
        partition: u16,
        /// Everything up to here.
        number: u64,
        /// Missing numbers above.
        gaps: Vec<u64>,
    },
    /// A gateway left or is dead: nothing is waited for there.
    GatewayGone(u64),
    /// The topic of a gateway boot dropped what it held; its gateway resyncs all sessions. Nothing that was published
    /// there before is waited for; numbers go on.
    TopicLost(u64),
    /// A connection (gateway boot, connection) is gone.
    ConnClosed(u64, u64),
    /// An outbox row that nobody publishes: of an earlier life, of a router that is dead, or of a commit that was not
    /// announced.
    Recovered(Recovered),
    /// A frame that is not stored goes to these sessions.
    Notice(crate::notice::Notice),
}

/// Something the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Answer with this frame (`SendAck` or `Error`).
    Answer(Origin, Vec<u8>),
    /// Commit these; come back with [`Input::Committed`]. One per lane at a time.
    Persist(Batch),
    /// Load who is in a group, and who left it at this place or later; come back with [`Input::Members`] and the
    /// ticket.
    LoadMembers(u64, AppId, ConvId, u64),
    /// Find the sessions of these users; come back with [`Input::Located`] and the ticket.
    Locate(u64, AppId, Vec<UserId>),
    /// Read these outbox rows of a lane, and the messages that they name; come back with [`Input::Rows`] and the ticket.
    ReadRows(u64, Lane, Vec<u64>),
    /// Publish a record behind what was published to the partition before.
    Publish {
        /// Boot of the gateway.
        boot: u64,
        /// Partition of its topic.
        partition: u16,
        /// Its number there.
        number: u64,
        /// The encoded record.
        record: Arc<[u8]>,
        /// Trace stamp of a sampled message in it; 0 for none.
        stamp: u64,
    },
    /// These rows need not be kept.
    ClearOutbox(Vec<u64>),
    /// No lane that the list of this version gives to other routers holds anything any more. Others may be told so once
    /// the bus has taken all that was published before. Once per version; not for one that another one replaced.
    Drained(u64),
    /// Something waits for another look at the router list; come back with [`Input::Lanes`], changed or not.
    LookAtRouters,
}
