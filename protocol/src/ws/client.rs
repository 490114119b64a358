//! The opening handshake, client side (RFC 6455 section 4.1): what a load generator says to any server.
//!
//! Owns nothing. A server's answer is bounded like a client's request, only more generously: proxies add
//! headers of their own.

use std::fmt::Write as _;

use base64::Engine as _;
use tungstenite::handshake::client::Response;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;

use super::handshake::{HandshakeError, HeadStatus, find_end, first_unlike};

/// Largest response head, in bytes.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most characters kept of a server's words about why it refused.
const REASON_CHARS_MAX: usize = 200;

/// What a server has answered so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseStatus {
    /// More is needed.
    Partial,
    /// The connection is open; frames follow the head.
    Accepted {
        /// Length of the head.
        head_bytes: usize,
        /// The subprotocol it chose; the caller knows whether it offered that one.
        subprotocol: Option<String>,
    },
}

/// Appends an upgrade request. `key` is random, once per connection. The texts come from the caller's own
/// configuration and hold no line breaks.
pub fn request(
    host: &str,
    path_and_query: &str,
    subprotocol: Option<&str>,
    extra_headers: &[(String, String)],
    key: &[u8; 16],
    out: &mut Vec<u8>,
) {
    let mut text = format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
        encode_key(key)
    );
    if let Some(name) = subprotocol {
        let _ = write!(text, "Sec-WebSocket-Protocol: {name}\r\n");
    }
    for (name, value) in extra_headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    out.extend_from_slice(text.as_bytes());
}

/// Reads the answer to a request made with `key`.
///
/// # Errors
///
/// [`HandshakeError`]: the server does not speak WebSocket here, or refused. Close.
pub fn parse_response(unread: &[u8], key: &[u8; 16]) -> Result<ResponseStatus, HandshakeError> {
    if first_unlike(unread, b"HTTP/1.").is_some() {
        return Err(malformed("the server does not speak HTTP/1"));
    }
    let HeadStatus::Complete { head_bytes } = find_end(unread, RESPONSE_HEAD_BYTES_MAX)? else {
        return Ok(ResponseStatus::Partial);
    };
    let (head, behind) = unread.split_at_checked(head_bytes).unwrap_or((unread, &[]));
    let (_, response) = Response::try_parse(head)
        .map_err(|error| HandshakeError::Malformed(error.to_string()))?
        .ok_or_else(|| malformed("response head is incomplete"))?;
    if response.status().as_u16() != 101 {
        return Err(HandshakeError::Refused {
            status: response.status().as_u16(),
            reason: first_line(behind)
                .or_else(|| response.status().canonical_reason().map(str::to_owned))
                .unwrap_or_default(),
        });
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if !header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err(malformed("101 without Upgrade: websocket"));
    }
    let upgrades = |value: &str| {
        value
            .split(',')
            .any(|part| part.trim().eq_ignore_ascii_case("upgrade"))
    };
    if !header("connection").is_some_and(upgrades) {
        return Err(malformed("101 without Connection: Upgrade"));
    }
    if header("sec-websocket-accept") != Some(derive_accept_key(encode_key(key).as_bytes()).as_str()) {
        return Err(malformed("Sec-WebSocket-Accept does not answer the key"));
    }
    if response.headers().contains_key("sec-websocket-extensions") {
        return Err(malformed(
            "the server agreed to an extension that was not offered",
        ));
    }
    Ok(ResponseStatus::Accepted {
        head_bytes,
        subprotocol: header("sec-websocket-protocol").map(str::to_owned),
    })
}

fn malformed(what: &str) -> HandshakeError {
    HandshakeError::Malformed(what.to_owned())
}

/// The first line of a body, if it has one that can be shown.
fn first_line(body: &[u8]) -> Option<String> {
    let line = body.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let text: String = String::from_utf8_lossy(line)
        .chars()
        .filter(|char| !char.is_control())
        .take(REASON_CHARS_MAX)
        .collect();
    (!text.trim().is_empty()).then_some(text)
}

fn encode_key(key: &[u8; 16]) -> String {
    base64::engine::general_purpose::STANDARD.encode(key)
}
