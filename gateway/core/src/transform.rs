//! transform: what stands between a connection's socket and its codec.
//!
//! One slot per connection. A plain one has nothing there and pays nothing: what was read is what the codec sees, and
//! spans that other receivers share may leave on it. A transform that changes bytes (TLS) is another variant: the
//! compiler then asks in `decode.rs` for the way in, and here and in `flush.rs` for the way out, where encrypted bytes
//! can only be a connection's own. A PROXY header is none: it comes once, before the request, and has a stage of its
//! own (`proxy.rs`).

use corelane_protocol::listener::ListenerKind;

/// The transform of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transform {
    /// None.
    Plain,
}

impl Transform {
    /// What the connections of a listener begin with; `None` if this build cannot serve that kind.
    pub(crate) const fn of(kind: ListenerKind) -> Option<Self> {
        match kind {
            ListenerKind::Plain | ListenerKind::Proxy => Some(Self::Plain),
            ListenerKind::Tls => None,
        }
    }

    /// Whether a span that other receivers share may leave; otherwise only bytes of this connection's own.
    pub(crate) const fn takes_shared(self) -> bool {
        match self {
            Self::Plain => true,
        }
    }
}
