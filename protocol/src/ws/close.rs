//! Close codes: what a client must do when a connection ends.

use super::header::{Opcode, client_frame, server_header};

/// Longest reason: what a control frame holds beside the code (RFC 6455 section 5.5).
pub const REASON_BYTES_MAX: usize = 123;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $reason:literal;)*) => {
        /// Corelane's close codes: 4000 to 4499 reconnect (with jitter), 4500 to 4999 give up.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum CloseCode { $($(#[$doc])* $name = $number,)* }

        impl CloseCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// Whether the client should come back.
            pub const fn reconnect(self) -> bool {
                may_reconnect(self.number())
            }

            /// The code with this number, if it is one of ours.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The reason sent with it unless there is a better one.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }
        }
    };
}

codes! {
    /// The gateway is leaving.
    Draining = 4000, "gateway is draining";
    /// The session belongs to another gateway.
    Moved = 4001, "session moved";
    /// It did not read what was sent to it.
    SlowConsumer = 4002, "slow consumer";
    /// Its place in the log is unknown.
    PositionLost = 4003, "position lost";
    /// It was silent for too long.
    HeartbeatTimeout = 4004, "heartbeat timeout";
    /// Its token expired.
    TokenExpired = 4005, "token expired";
    /// It sent too much.
    RateLimited = 4006, "rate limited";
    /// The server cannot take it now.
    Overloaded = 4007, "overloaded";
    /// The token is not accepted.
    AuthFailed = 4500, "authentication failed";
    /// The user logged in elsewhere.
    Replaced = 4501, "replaced by a newer login";
    /// An administrator ended the session.
    Removed = 4502, "removed by an administrator";
    /// Version or subprotocol is not spoken here.
    ProtocolVersion = 4503, "protocol version";
    /// What it sent is malformed or too large.
    Malformed = 4504, "malformed or too large";
    /// There is no room for another connection.
    ConnectionLimit = 4505, "connection limit";
}

/// Whether a client should reconnect after a close with this number. Unknown numbers: yes, as for 1006.
pub const fn may_reconnect(code: u16) -> bool {
    !matches!(code, 4500..=4999)
}

/// Whether a peer may send this code in a close frame (RFC 6455 section 7.4, IANA registry).
pub const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends a server's close frame. The reason is cut to 123 bytes, between characters.
pub fn close_frame(code: u16, reason: &str, out: &mut Vec<u8>) {
    let payload = close_payload(code, reason);
    out.extend_from_slice(&server_header(Opcode::Close, payload.len(), true));
    out.extend_from_slice(&payload);
}

/// Appends a client's close frame, masked with `key`. The reason is cut like a server's.
pub fn client_close(code: u16, reason: &str, key: [u8; 4], out: &mut Vec<u8>) {
    client_frame(Opcode::Close, &close_payload(code, reason), key, out);
}

fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.get(..end).unwrap_or("").as_bytes());
    payload
}
