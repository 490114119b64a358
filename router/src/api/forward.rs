//! Calls that another router must carry out, because it serves the lane of their conversation.
//!
//! Owns nothing. Such a call is made once more at that router, as it came, and the answer is handed on; callers may so
//! use any router of a cluster. All of them have the same `admin.key`. A call that was handed on already is not handed on
//! again: where two routers disagree it is answered 503. So it is if the other router does not answer in
//! [`ANSWER_TIMEOUT`]: whether the message was stored is not known then.

use std::io;
use std::time::Duration;

use axum::body::{self, Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use corelane_protocol::frame::error::ErrorCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::ApiError;
use super::{Api, BODY_BYTES_MAX};
use crate::registry::RouterEntry;

/// Marks a call that was handed on.
const FORWARDED: &str = "x-corelane-forwarded";
/// Longer than a message may wait to be stored.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer, its head included.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// In a refusal: the router that does it.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere(pub(super) RouterEntry);

/// Hands calls on that are refused because another router serves their lane.
pub(super) async fn to_its_router(State(state): Api, request: Request, next: Next) -> Response {
    let is_forwarded = request.headers().contains_key(FORWARDED);
    if request.method() != Method::POST || is_forwarded || !state.shared.cluster.has_others() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match body::to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            let text = format!("the body cannot be read: {error}; allowed are {BODY_BYTES_MAX} bytes");
            let code = ErrorCode::TooLarge.name();
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, code, text).into_response();
        }
    };
    let call = Call::of(&parts, body.clone());
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    let Some(Elsewhere(router)) = answer.extensions().get().cloned() else {
        return answer;
    };
    let made = tokio::time::timeout(ANSWER_TIMEOUT, call.make(&router.http)).await;
    match made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((StatusCode::UNAUTHORIZED, _)) => ApiError::unavailable(format!(
            "router {} does not know this key: all routers of a cluster need the same admin.key",
            router.node
        ))
        .into_response(),
        Ok((status, body)) => {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            (status, headers, body).into_response()
        }
        Err(error) => ApiError::unavailable(format!(
            "router {} at {:?} serves this conversation and does not answer: {error}; it may have been stored: send it \
             again with the same client_msg_id",
            router.node, router.http
        ))
        .into_response(),
    }
}

/// A call as it came.
struct Call {
    path: String,
    authorization: String,
    body: Bytes,
}

impl Call {
    fn of(parts: &Parts, body: Bytes) -> Self {
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let authorization = parts.headers.get(header::AUTHORIZATION);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        Self {
            path: path.to_owned(),
            authorization: authorization.unwrap_or_default().to_owned(),
            body,
        }
    }

    /// Makes it at `address`.
    async fn make(&self, address: &str) -> io::Result<(StatusCode, Vec<u8>)> {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{FORWARDED}: 1\r\nConnection: close\r\n\r\n",
            self.path,
            self.authorization,
            self.body.len()
        );
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[head.as_bytes(), &self.body].concat()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        let parsed = parse(&answer).map(|(status, body)| (status, body.to_vec()));
        parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its answer is not whole"))
    }
}

/// Status and body of an answer that says how long it is, and is.
fn parse(answer: &[u8]) -> Option<(StatusCode, &[u8])> {
    let end = answer.windows(4).position(|each| each == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end + 4)?;
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = length.trim().parse().ok()?;
    (body.len() == length).then_some((StatusCode::from_bytes(status.as_bytes()).ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_if_it_is_whole() {
        let answer = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((StatusCode::CREATED, &b"{}"[..])));
        for length in 0..answer.len() {
            assert_eq!(parse(&answer[..length]), None, "{length} bytes");
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n{}"), None);
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
    }
}
