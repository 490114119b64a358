//! What a client tells its user, in the order it happened.

use std::time::Duration;

use corelane_protocol::frame::body;
use corelane_protocol::id::ConvId;
use tokio::sync::mpsc;

use crate::message::Received;

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Pushed by the gateway.
    Live,
    /// Pulled, because it was missed or from before the login.
    Pulled,
    /// Sent by this client and acknowledged.
    Own,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Logged in.
    Online(body::Welcome),
    /// The connection ended; the next attempt follows by itself.
    Offline {
        /// Close code, or 1006 if there was none.
        code: u16,
        /// The server's words, or what failed.
        reason: String,
        /// When the next attempt starts.
        retry_in: Duration,
    },
    /// The session is over. The last event.
    Closed {
        /// Close code; 0 if the client ended it.
        code: u16,
        /// Why.
        reason: String,
    },
    /// A message: each once, in the order of its conversation.
    Message(Received, Source),
    /// State of a conversation, from a sync.
    Conversation(ConvId, body::ConvState),
    /// All states of this sync were told.
    Synced,
    /// Forget what came before of this conversation (`None`: of all): the log changed, or too much was missed.
    Reset(Option<ConvId>),
    /// Somebody has read.
    ReadUpTo(body::ReadUpTo),
    /// Somebody types.
    Typing(body::Typing),
    /// A step of a call.
    Call(body::Call),
    /// The gateway left messages out; they are being pulled.
    PullRequired(body::PullRequired),
    /// The gateway lost track; a sync follows.
    Resync(body::Resync),
    /// The gateway is leaving; a reconnect follows.
    GoAway(body::GoAway),
    /// A refusal that belongs to no request, or a message that the server has and cannot serve.
    Error {
        /// The code as a number.
        code: u16,
        /// The server's words.
        text: String,
    },
}

/// Events of a client. Take them: when [`crate::Options::event_slots`] wait, the socket is not read.
#[derive(Debug)]
pub struct Events(pub(crate) mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` after the session ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}
