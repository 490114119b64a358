//! Says something, and hears it: as a user does who waits for an answer and tries again.

use std::time::Duration;

use corelane_protocol::frame::body::Target;

use crate::client::{Client, Received, message_id};
use crate::wait_for;

/// Nobody tries longer: a lane without its router is another's after 10 s.
const LIMIT: Duration = Duration::from_secs(40);
/// Codes from here on mean that the same send may be tried again.
const RETRYABLE: u16 = 0x100;

/// Sends a text, again and again while it is refused for a while; its place.
///
/// # Panics
///
/// If it is refused for good, or too long, or the connection ends.
pub fn send(client: &mut Client, to: &Target, text: &str) -> u64 {
    let id = message_id();
    let mut reference = client.send_with(to, id, text.as_bytes());
    wait_for("an acknowledgement", LIMIT, || match client.answer(reference) {
        Ok(seq) => Some(seq),
        Err((code, why)) => {
            assert!(code >= RETRYABLE, "{code} {why}");
            reference = client.send_again(to, id, text.as_bytes());
            None
        }
    })
}

/// Waits for a text; what was delivered before may come again after a fault.
///
/// # Panics
///
/// If the connection ends first.
pub fn receive(client: &mut Client, text: &str) -> Received {
    loop {
        let message = client.message();
        if message.payload == text.as_bytes() {
            return message;
        }
    }
}
