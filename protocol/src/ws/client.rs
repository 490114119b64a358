//! The opening handshake, client side (RFC 6455 section 4.1).

use std::fmt::Write as _;

use base64::Engine as _;
use tungstenite::handshake::client::Response;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;

use super::handshake::{HandshakeError, HeadStatus, find_end};

/// What a server has answered so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseStatus {
    /// More is needed.
    Partial,
    /// The connection is open; frames follow the head.
    Accepted {
        /// Length of the head.
        head_bytes: usize,
        /// The subprotocol it chose.
        subprotocol: Option<String>,
    },
}

/// Appends an upgrade request. `key` is random, once per connection.
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
    let HeadStatus::Complete { head_bytes } = find_end(unread)? else {
        return Ok(ResponseStatus::Partial);
    };
    let head = unread.get(..head_bytes).unwrap_or(&[]);
    let (_, response) = Response::try_parse(head)
        .map_err(|error| HandshakeError::Malformed(error.to_string()))?
        .ok_or_else(|| HandshakeError::Malformed("response head is incomplete".to_owned()))?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status().as_u16() != 101 {
        let reason = response.status().canonical_reason().unwrap_or("").to_owned();
        return Err(HandshakeError::Refused {
            status: response.status().as_u16(),
            reason,
        });
    }
    if header("sec-websocket-accept") != Some(derive_accept_key(encode_key(key).as_bytes()).as_str()) {
        return Err(HandshakeError::Malformed(
            "Sec-WebSocket-Accept does not answer the key".to_owned(),
        ));
    }
    Ok(ResponseStatus::Accepted {
        head_bytes,
        subprotocol: header("sec-websocket-protocol").map(str::to_owned),
    })
}

fn encode_key(key: &[u8; 16]) -> String {
    base64::engine::general_purpose::STANDARD.encode(key)
}
