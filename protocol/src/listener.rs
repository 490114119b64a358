//! What a listener speaks below WebSocket.

/// What stands between the sockets of a listener and HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ListenerKind {
    /// Nothing.
    #[default]
    Plain = 0,
    /// TLS, ended in this process.
    Tls = 1,
    /// A PROXY header in front, which names the real peer ([`crate::proxy`]).
    Proxy = 2,
}
