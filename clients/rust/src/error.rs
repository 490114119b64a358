//! What can go wrong for a client, by whom it can be mended.

use corelane_protocol::frame::FrameError;
use corelane_protocol::frame::error::ErrorCode;
use thiserror::Error;
use tokio_tungstenite::tungstenite;

/// Why something was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused it. `code` says whether trying again can help.
    #[error("refused: {code:?}: {text}")]
    Refused {
        /// The code; `None` if this version does not know it.
        code: Option<ErrorCode>,
        /// The server's words.
        text: String,
    },
    /// The connection ended before the answer. Ask again.
    #[error("the connection ended before the answer")]
    Disconnected,
    /// The session is over and will not come back.
    #[error("the session is over: {code} {reason}")]
    Closed {
        /// Close code; 0 if the client ended it.
        code: u16,
        /// Why.
        reason: String,
    },
    /// Too many messages wait to be acknowledged; none was dropped. Wait for acks.
    #[error("{slots} messages wait to be acknowledged, which is the limit")]
    OutboxFull {
        /// The limit.
        slots: usize,
    },
    /// The payload is larger than the gateway takes; it was not sent. Make it smaller.
    #[error("the message has {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The limit, as the `Welcome` told it.
        bytes_max: usize,
    },
    /// The gateway closed the connection with 1009, and this message was the largest on its way. Make it smaller.
    #[error("the gateway hung up on a message of {bytes} bytes, which is more than it takes")]
    HungUp {
        /// Size of the payload.
        bytes: usize,
    },
    /// The URL, or a header made from the options, cannot be used.
    #[error("cannot ask for {url}: {problem}")]
    Address {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The WebSocket failed.
    #[error("websocket failed")]
    WebSocket(#[source] Box<tungstenite::Error>),
    /// The server sent what is no frame.
    #[error("the server sent what is no frame")]
    Frame(#[from] FrameError),
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_some_and(ErrorCode::is_retryable),
            Self::Disconnected | Self::OutboxFull { .. } | Self::WebSocket(_) => true,
            Self::Closed { .. }
            | Self::TooLarge { .. }
            | Self::HungUp { .. }
            | Self::Address { .. }
            | Self::Frame(_) => false,
        }
    }
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}
