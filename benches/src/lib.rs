//! Inputs that the benchmarks share. The benchmarks call shipped functions only.

pub mod sessions;

use corelane_protocol::frame::{self, FrameKind, body};

/// A `Send` frame with a payload of this length.
pub fn send_frame(payload_bytes: usize) -> Vec<u8> {
    let send = body::Send {
        target: body::Target::User("bob".to_owned()),
        kind: 1,
        flags: 0,
        ref_seq: 0,
        client_msg_id: [
            0x01, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0x70, 1, 0x80, 2, 3, 4, 5, 6, 7, 8,
        ],
        content_type: 0,
        payload: vec![7; payload_bytes],
    };
    frame::encode(FrameKind::Send, 1, &send)
}
