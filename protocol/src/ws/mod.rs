//! The WebSocket protocol (RFC 6455) without a socket.
//!
//! The shell owns sockets and buffers; this module owns the rules: the opening handshake, frame headers,
//! masking, fragments, control frames, UTF-8, close codes. The decoder gives the same items wherever reads end.
//!
//! No extension is ever agreed on, so reserved bits are always wrong. Memory is held only for what a read left
//! unfinished, and bounded by the limits given to [`Decoder::new`] and by [`handshake::HEAD_BYTES_MAX`]; what
//! exceeds them ends the connection with a code that says so.

pub mod client;
pub mod close;
pub mod decoder;
pub mod handshake;
pub mod header;

use thiserror::Error;

pub use self::close::{CloseCode, close_frame};
pub use self::decoder::{Decoder, Item, Items, Role};
pub use self::header::{Opcode, client_frame, server_header, unmask};

/// The peer broke RFC 6455 or a limit. Always its fault and fatal for the connection: send
/// [`WsError::close_code`] and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WsError {
    /// Reserved header bits without an extension that gives them a meaning (section 5.2).
    #[error("reserved bits {bits:#05b} are set and no extension was agreed on")]
    ReservedBits {
        /// The three bits.
        bits: u8,
    },
    /// An opcode that the RFC leaves undefined (section 5.2).
    #[error("opcode {opcode:#x} is not defined")]
    Opcode {
        /// The opcode.
        opcode: u8,
    },
    /// Client frames are masked, server frames are not (section 5.1).
    #[error("frame must be {}masked in this direction", if *expected { "" } else { "un" })]
    Mask {
        /// Whether it should have been masked.
        expected: bool,
    },
    /// A payload length not in its shortest form, or with the highest bit set (section 5.2).
    #[error("payload length {length} is not in its shortest form")]
    LengthForm {
        /// The length as announced.
        length: u64,
    },
    /// A message, with the fragments before it, would exceed the limit. Nothing was kept for it.
    #[error("message of {bytes} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes announced so far.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// More fragments than any honest message of that size has.
    #[error("message has more than {limit} fragments")]
    Fragments {
        /// The limit.
        limit: u64,
    },
    /// A control frame that is fragmented or above 125 bytes (section 5.5).
    #[error("control frame is fragmented or has {bytes} bytes, allowed are 125")]
    Control {
        /// Its payload length.
        bytes: u64,
    },
    /// A continuation without a beginning, or a beginning within a fragmented message (section 5.4).
    #[error("fragments are out of order: {0}")]
    Continuation(&'static str),
    /// Text or close reason is not UTF-8 (section 8.1).
    #[error("text is not UTF-8")]
    Utf8,
    /// A close frame whose payload is half of a code (section 5.5.1).
    #[error("close frame has 1 byte, a code takes 2")]
    CloseTorn,
    /// A close frame with a code that must not be sent (section 7.4).
    #[error("close code {code} must not be sent")]
    CloseCode {
        /// The code.
        code: u16,
    },
}

impl WsError {
    /// What to close with.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooLong { .. } | Self::Fragments { .. } => 1009,
            Self::Utf8 => 1007,
            _ => 1002,
        }
    }
}
