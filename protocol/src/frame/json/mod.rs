//! JSON twins of all frames, for browsers and debugging: one object per WebSocket text message.
//!
//! Owns nothing. The canonical rkyv frame is what the platform works with; a JSON frame becomes one before anything
//! looks at it, and limits count its canonical payload. Numbers stay below 2^53. `type` names the frame, `ref` its
//! reference, the other fields are those of the body, in `snake_case`. Unknown fields are ignored, and `null` is the
//! same as a field left out.
//!
//! ```text
//! {"type": "send", "ref": 7, "target": {"user": "bob"}, "client_msg_id": "0193…", "payload": "hello"}
//! ```
//!
//! A text is at most [`CLIENT_JSON_BYTES_MAX`](crate::limits::CLIENT_JSON_BYTES_MAX) long and 128 levels deep; while it
//! is parsed it takes at most some 40 times its length. A JSON payload is stored as it is written again here, with
//! sorted keys: two texts that mean the same become the same bytes.

mod parse;
mod write;

pub use parse::{JsonInput, from_json};
pub use write::{to_json, to_value};

use super::kind;

/// Message kinds by name.
const KINDS: [(u16, &str); 17] = [
    (kind::TEXT, "text"),
    (kind::EMOJI, "emoji"),
    (kind::IMAGE, "image"),
    (kind::FILE, "file"),
    (kind::VOICE, "voice"),
    (kind::VIDEO, "video"),
    (kind::LOCATION, "location"),
    (kind::CARD, "card"),
    (kind::CUSTOM, "custom"),
    (kind::RECALL, "recall"),
    (kind::EDIT, "edit"),
    (kind::REACTION, "reaction"),
    (kind::GROUP_CHANGE, "group_change"),
    (kind::VOID, "void"),
    (kind::REDACTED, "redacted"),
    (kind::CALL_STARTED, "call_started"),
    (kind::CALL_ENDED, "call_ended"),
];
