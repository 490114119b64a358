//! The opening handshake, server side (RFC 6455 section 4.2), through tungstenite's public pieces.
//!
//! tungstenite's parser has no limits of its own, so the head is bounded and scanned here before it is parsed.
//! Nothing behind the head is looked at before the answer was written.

use thiserror::Error;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::HeaderMap;

/// Largest request or response head, in bytes.
pub const HEAD_BYTES_MAX: usize = 4096;
/// Most subprotocols a client may offer.
const SUBPROTOCOLS_MAX: usize = 16;

/// How far a head has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadStatus {
    /// More is needed.
    Partial,
    /// It ends here.
    Complete {
        /// Its length, the empty line included.
        head_bytes: usize,
    },
}

/// Why an upgrade did not take place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The head is longer than [`HEAD_BYTES_MAX`].
    #[error("request head exceeds {HEAD_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no HTTP/1.1 request, or its parts contradict each other.
    #[error("bad request: {0}")]
    Malformed(String),
    /// Another method than GET.
    #[error("method is not GET")]
    Method,
    /// An ordinary request, or another WebSocket version.
    #[error("not a WebSocket upgrade: {0}")]
    NotUpgrade(String),
    /// A request with a body.
    #[error("a WebSocket upgrade has no body")]
    Body,
    /// A path that nothing is served at.
    #[error("nothing is served at this path; allowed: {0}")]
    Path(&'static str),
    /// An origin that is not on the list.
    #[error("origin is not on the allow-list of this gateway")]
    Origin,
    /// None of the offered subprotocols is spoken here.
    #[error("no offered subprotocol is spoken here; allowed: {0}")]
    Subprotocol(&'static str),
    /// A server refused the upgrade (client side).
    #[error("server answered {status} {reason:?} instead of 101")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
}

impl HandshakeError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Malformed(_) | Self::Body | Self::Subprotocol(_) | Self::Refused { .. } => 400,
            Self::Method => 405,
            Self::NotUpgrade(_) => 426,
            Self::Path(_) => 404,
            Self::Origin => 403,
        }
    }
}

/// Looks for the end of a head. Fails early on what cannot become a GET request.
///
/// # Errors
///
/// [`HandshakeError::TooLarge`], [`HandshakeError::Method`]: answer with [`reject`] and close.
pub fn scan_head(unread: &[u8]) -> Result<HeadStatus, HandshakeError> {
    let start = unread.get(..unread.len().min(4)).unwrap_or(&[]);
    if !b"GET ".starts_with(start) {
        return Err(if start.first().is_some_and(u8::is_ascii_uppercase) {
            HandshakeError::Method
        } else {
            HandshakeError::Malformed("does not begin with a method".to_owned())
        });
    }
    find_end(unread)
}

/// Looks for the empty line within [`HEAD_BYTES_MAX`].
pub(super) fn find_end(unread: &[u8]) -> Result<HeadStatus, HandshakeError> {
    let window = unread.get(..unread.len().min(HEAD_BYTES_MAX)).unwrap_or(&[]);
    if let Some(at) = window.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
        return Ok(HeadStatus::Complete { head_bytes: at + 4 });
    }
    if unread.len() >= HEAD_BYTES_MAX {
        return Err(HandshakeError::TooLarge);
    }
    Ok(HeadStatus::Partial)
}

/// A request to upgrade that is in order.
#[derive(Debug)]
pub struct Upgrade {
    /// Path, without the query.
    pub path: String,
    /// Query, without the question mark.
    pub query: Option<String>,
    /// Host header.
    pub host: Option<String>,
    /// Origin header: there if a browser sent it.
    pub origin: Option<String>,
    /// Offered subprotocols, in order.
    pub subprotocols: Vec<String>,
    /// Token of an `Authorization: Bearer` header.
    pub bearer_token: Option<String>,
    request: Request,
}

/// Takes a whole head.
///
/// # Errors
///
/// [`HandshakeError`]: answer with [`reject`] and close.
pub fn parse_upgrade(head: &[u8]) -> Result<Upgrade, HandshakeError> {
    let malformed = |error: tungstenite::Error| HandshakeError::Malformed(error.to_string());
    let (_, request) = Request::try_parse(head)
        .map_err(malformed)?
        .ok_or_else(|| HandshakeError::Malformed("head is incomplete".to_owned()))?;
    let headers = request.headers();
    if headers.get("transfer-encoding").is_some()
        || headers
            .get("content-length")
            .is_some_and(|length| length.as_bytes() != b"0")
    {
        return Err(HandshakeError::Body);
    }
    create_response(&request).map_err(|error| HandshakeError::NotUpgrade(error.to_string()))?;
    let subprotocols = header_texts(headers, "sec-websocket-protocol")
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .take(SUBPROTOCOLS_MAX)
        .collect();
    let one = |name| header_texts(headers, name).next().map(str::to_owned);
    let bearer_token = one("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
    });
    Ok(Upgrade {
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        host: one("host"),
        origin: one("origin"),
        subprotocols,
        bearer_token,
        request,
    })
}

fn header_texts<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

impl Upgrade {
    /// Appends the answer 101, naming the subprotocol that was chosen.
    pub fn accept(&self, subprotocol: Option<&str>, out: &mut Vec<u8>) {
        let Ok(mut response) = create_response(&self.request) else {
            return;
        };
        if let Some(value) = subprotocol.and_then(|name| name.parse().ok()) {
            response.headers_mut().insert("Sec-WebSocket-Protocol", value);
        }
        write_response(&mut *out, &response).expect("a vector takes every byte and the headers are ASCII");
    }

    /// Value of a query parameter, percent-decoded; the first one counts.
    pub fn query_value(&self, name: &str) -> Option<String> {
        let pairs = self
            .query
            .as_deref()?
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| percent_decode(value))
    }
}

fn percent_decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let decoded = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high)
                    .zip(digit(low))
                    .map(|(high, low)| ((high * 16 + low) as u8, after))
            }
            (b'+', after) => Some((b' ', after)),
            _ => None,
        };
        match decoded {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Appends the HTTP answer to a refused upgrade: status, one line of text, end of connection.
pub fn reject(error: &HandshakeError, out: &mut Vec<u8>) {
    let (status, phrase) = match error.status() {
        403 => (403, "Forbidden"),
        404 => (404, "Not Found"),
        405 => (405, "Method Not Allowed"),
        426 => (426, "Upgrade Required"),
        431 => (431, "Request Header Fields Too Large"),
        _ => (400, "Bad Request"),
    };
    let extra = match status {
        405 => "Allow: GET\r\n",
        426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    let body = format!("{error}\n");
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\n{extra}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}
