//! The two forms of a frame on a client's connection: canonical in binary frames, JSON in text frames.

use corelane_protocol::frame::FrameError;
use corelane_protocol::frame::json::{self, JsonInput};
use corelane_protocol::ws::{Decoder, Role};

/// A decoder of a client's messages of up to `message_bytes_max` bytes.
pub(crate) const fn decoder(message_bytes_max: u32) -> Decoder {
    Decoder::new(Role::Server, message_bytes_max)
}

/// The canonical frame of a JSON text; `None` if it is of an unknown type that may be skipped. The error comes
/// with the reference that the answer carries, 0 if the text had none.
pub(crate) fn from_json(text: &str) -> Result<Option<Vec<u8>>, (u32, FrameError)> {
    match json::from_json(text)? {
        JsonInput::Frame(frame) => Ok(Some(frame)),
        JsonInput::Skipped { .. } => Ok(None),
    }
}

/// The JSON text of a server frame; `None` for a frame that only a newer version knows.
pub(crate) fn to_json(frame: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(frame.len() * 2);
    json::to_json(frame, &mut text).ok()?;
    Some(text)
}
