//! The opening handshake, server side (RFC 6455 section 4.2), through tungstenite's public pieces.
//!
//! tungstenite's parser has no limits of its own, so the head is bounded and scanned here before it is parsed.
//! Nothing behind the head is looked at before the answer was written. A head that is too long, or holds a
//! byte that no head may hold, is refused as soon as that byte is there; how long one may take is the
//! caller's to bound.

use std::fmt;

use thiserror::Error;
use tungstenite::error::{Error as LibraryError, ProtocolError};
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
    /// The head is longer than allowed.
    #[error("head exceeds {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// It is not HTTP/1.1, or its parts contradict each other.
    #[error("malformed head: {0}")]
    Malformed(String),
    /// Another method than GET.
    #[error("method is not GET; allowed: GET")]
    Method,
    /// An ordinary request, or another WebSocket version.
    #[error("not a WebSocket upgrade: {0}; allowed: Upgrade: websocket, Sec-WebSocket-Version: 13")]
    NotUpgrade(String),
    /// A request with a body.
    #[error("the request announces a body; a WebSocket upgrade has none")]
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
    #[error("server answered {status} ({reason}) instead of 101")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words, as far as they came with the head: the first line of the body, or the status phrase.
        reason: String,
    },
}

impl HandshakeError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 431,
            Self::Malformed(_) | Self::Body | Self::Subprotocol(_) | Self::Refused { .. } => 400,
            Self::Method => 405,
            Self::NotUpgrade(_) => 426,
            Self::Path(_) => 404,
            Self::Origin => 403,
        }
    }
}

/// Looks for the end of a head, at the front of all that was received so far. Fails early on what cannot
/// become a GET request.
///
/// # Errors
///
/// [`HandshakeError::TooLarge`], [`HandshakeError::Method`], [`HandshakeError::Malformed`]: answer with
/// [`reject`] and close.
pub fn scan_head(unread: &[u8]) -> Result<HeadStatus, HandshakeError> {
    scan_head_within(unread, HEAD_BYTES_MAX)
}

/// As [`scan_head`], for a head of at most `bytes_max` bytes: what came before it on the connection counts, too.
///
/// # Errors
///
/// As [`scan_head`].
pub fn scan_head_within(unread: &[u8], bytes_max: usize) -> Result<HeadStatus, HandshakeError> {
    match first_unlike(unread, b"GET ") {
        // Judged by that byte alone, so that the verdict does not depend on what came with it.
        Some(byte) if byte.is_ascii_uppercase() => Err(HandshakeError::Method),
        Some(_) => Err(HandshakeError::Malformed(
            "does not begin with a method".to_owned(),
        )),
        None => find_end(unread, bytes_max),
    }
}

/// The first byte that keeps `unread` from beginning with `prefix`; what is not there yet does not.
pub(super) fn first_unlike(unread: &[u8], prefix: &[u8]) -> Option<u8> {
    let mut pairs = unread.iter().zip(prefix);
    pairs.find(|(have, want)| have != want).map(|(have, _)| *have)
}

/// Looks for the empty line within `bytes_max`. Lines end with CR LF and nothing else: the library also takes
/// a bare LF, and two readings of where a head ends are one too many.
pub(super) fn find_end(unread: &[u8], bytes_max: usize) -> Result<HeadStatus, HandshakeError> {
    let window = unread.get(..bytes_max).unwrap_or(unread);
    let mut line_start = 0;
    for line in window.split_inclusive(|byte| *byte == b'\n') {
        let text = match line {
            // The LF of the last piece may still be on the way.
            [text @ .., b'\r', b'\n'] | [text @ .., b'\r'] => text,
            [.., b'\n'] => {
                return Err(HandshakeError::Malformed("a line ends without CR".to_owned()));
            }
            text => text,
        };
        // Without an early exit the compiler looks at many bytes at once: a head that comes in tiny reads is
        // scanned many times.
        if text.iter().fold(false, |found, byte| found | is_forbidden(*byte)) {
            let byte = text.iter().find(|byte| is_forbidden(**byte)).unwrap_or(&0);
            return Err(HandshakeError::Malformed(format!(
                "control byte {byte:#04x} in the head"
            )));
        }
        if line == b"\r\n" {
            return Ok(HeadStatus::Complete {
                head_bytes: line_start + line.len(),
            });
        }
        line_start += line.len();
    }
    if unread.len() >= bytes_max {
        return Err(HandshakeError::TooLarge { limit: bytes_max });
    }
    Ok(HeadStatus::Partial)
}

const fn is_forbidden(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// A request to upgrade that is in order.
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
    /// The answer 101 but for its last header and the empty line.
    response: Vec<u8>,
}

impl fmt::Debug for Upgrade {
    /// Leaves out what may hold a token: the query and the authorization.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade")
            .field("path", &self.path)
            .field("host", &self.host)
            .field("origin", &self.origin)
            .field("subprotocols", &self.subprotocols)
            .finish_non_exhaustive()
    }
}

/// Takes a whole head: exactly the bytes that [`scan_head`] found.
///
/// # Errors
///
/// [`HandshakeError`]: answer with [`reject`] and close.
pub fn parse_upgrade(head: &[u8]) -> Result<Upgrade, HandshakeError> {
    if scan_head(head)?
        != (HeadStatus::Complete {
            head_bytes: head.len(),
        })
    {
        return Err(HandshakeError::Malformed("head is incomplete".to_owned()));
    }
    let (_, request) = Request::try_parse(head)
        .map_err(blame)?
        .ok_or_else(|| HandshakeError::Malformed("head is incomplete".to_owned()))?;
    let headers = request.headers();
    if headers.contains_key("transfer-encoding")
        || headers
            .get_all("content-length")
            .iter()
            .any(|length| length != "0")
    {
        return Err(HandshakeError::Body);
    }
    let host = single(headers, "host")?;
    if host.is_none() {
        return Err(HandshakeError::Malformed("no Host header".to_owned()));
    }
    for name in ["upgrade", "sec-websocket-version", "sec-websocket-key"] {
        single(headers, name)?;
    }
    let mut response = Vec::new();
    write_response(&mut response, &create_response(&request).map_err(blame)?).map_err(blame)?;
    response.truncate(response.len().saturating_sub(b"\r\n".len()));
    Ok(Upgrade {
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        host,
        origin: single(headers, "origin")?,
        subprotocols: offered(headers)?,
        bearer_token: single(headers, "authorization")?.as_deref().and_then(bearer),
        response,
    })
}

/// What the library found wrong, in our terms.
fn blame(error: LibraryError) -> HandshakeError {
    match error {
        LibraryError::Protocol(ProtocolError::WrongHttpMethod) => HandshakeError::Method,
        LibraryError::Protocol(
            error @ (ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader
            | ProtocolError::MissingSecWebSocketVersionHeader),
        ) => HandshakeError::NotUpgrade(error.to_string()),
        error => HandshakeError::Malformed(error.to_string()),
    }
}

/// A header that may stand once. One that cannot be read must not pass for one that is absent: an origin
/// would go unchecked.
fn single(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, HandshakeError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(HandshakeError::Malformed(format!("more than one {name} header")));
    }
    let text = value
        .to_str()
        .map_err(|_| HandshakeError::Malformed(format!("{name} header is not ASCII")))?;
    Ok(Some(text.to_owned()))
}

fn offered(headers: &HeaderMap) -> Result<Vec<String>, HandshakeError> {
    let mut names = Vec::new();
    for value in headers.get_all("sec-websocket-protocol") {
        let text = value.to_str().map_err(|_| {
            HandshakeError::Malformed("sec-websocket-protocol header is not ASCII".to_owned())
        })?;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if names.len() == SUBPROTOCOLS_MAX {
                return Err(HandshakeError::Malformed(format!(
                    "more than {SUBPROTOCOLS_MAX} subprotocols are offered"
                )));
            }
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn bearer(authorization: &str) -> Option<String> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

impl Upgrade {
    /// Appends the answer 101, naming the subprotocol that was chosen. One that the client did not offer is
    /// left out: the client would have to fail the connection (section 4.1).
    pub fn accept(&self, subprotocol: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.response);
        if let Some(name) = subprotocol.filter(|name| self.subprotocols.iter().any(|offer| offer == name)) {
            out.extend_from_slice(b"Sec-WebSocket-Protocol: ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
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
