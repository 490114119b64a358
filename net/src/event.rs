//! What a turn tells.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use corelane_protocol::listener::ListenerKind;

use crate::id::{BufferId, ListenerId, Socket};

/// Something that happened. The events of one socket come in the order in which they happened; after
/// [`Event::Closed`] there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A peer connected. The socket receives from now on.
    Accepted {
        /// Where it came in.
        listener: ListenerId,
        /// What that listener speaks.
        kind: ListenerKind,
        /// The connection.
        socket: Socket,
        /// Address of the peer.
        peer: SocketAddr,
        /// Accepted from the reserve, because the engine is full: tell the peer so, and close.
        reserve: bool,
    },
    /// A connection that [`Engine::connect`](crate::Engine::connect) asked for stands, and receives from now on. If it failed, `Closed` comes instead.
    Connected(Socket),
    /// Bytes arrived; read them by [`Engine::received`](crate::Engine::received), then give the buffer back by
    /// [`Engine::recycle`](crate::Engine::recycle).
    Received(Socket, BufferId),
    /// The peer sent FIN: nothing more will be received. Sending still works; close it when done.
    PeerClosed(Socket),
    /// The whole span of the last [`Engine::send`](crate::Engine::send) left for the kernel; the next may be sent.
    Sent(Socket),
    /// The connection is gone and its id with it. Comes exactly once for each socket, whoever closed it.
    Closed(Socket, CloseReason),
    /// Somebody used a [`Waker`](crate::Waker) since the last turn.
    Woken,
}

/// Why a socket was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// By [`Engine::close`](crate::Engine::close) or [`Engine::abort`](crate::Engine::abort).
    Requested,
    /// The connection was never made (refused, unreachable, no port left): the error number.
    ConnectFailed(i32),
    /// The connection broke (reset, timed out): the error number.
    Broken(i32),
}

impl CloseReason {
    /// The system error behind it, if there was one.
    pub fn error(self) -> Option<io::Error> {
        match self {
            Self::Requested => None,
            Self::ConnectFailed(errno) | Self::Broken(errno) => Some(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("closed on request"),
            Self::ConnectFailed(errno) => {
                write!(f, "connect failed: {}", io::Error::from_raw_os_error(*errno))
            }
            Self::Broken(errno) => {
                write!(f, "connection broke: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}
