//! The two forms of a frame on a client's connection: canonical in binary frames, JSON in text frames.

use corelane_protocol::frame::FrameError;
use corelane_protocol::ws::{Decoder, Role};

/// Whether the JSON subprotocol is offered.
pub(crate) const HAS_JSON: bool = false;

/// A decoder of a client's messages of up to `message_bytes_max` bytes.
pub(crate) const fn decoder(message_bytes_max: u32) -> Decoder {
    Decoder::new(Role::Server, message_bytes_max)
}

/// The canonical frame of a JSON text; `None` if it is of an unknown type that may be skipped. The error comes
/// with the reference that the answer needs, if the text had one.
pub(crate) fn from_json(_text: &str) -> Result<Option<Vec<u8>>, (Option<u32>, FrameError)> {
    Ok(None)
}

/// The JSON text of a server frame.
pub(crate) fn to_json(_frame: &[u8]) -> String {
    String::new()
}
