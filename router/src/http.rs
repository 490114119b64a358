//! HTTP/1.1 for a few callers: what the API, the metrics and the health of a process are served with.
//!
//! Owns the connections of one listener and their bounds ([`HttpLimits`]): one more than `connections_max` waits in the
//! listener's backlog until another ends. None lasts for nothing: a request's head must be there within `head_timeout`,
//! the first one and every later one of a connection; its body and answer within `request_timeout`, else it is answered
//! 408; and a peer that takes no bytes for that long is dropped. (`axum::serve` bounds none of these.)

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

/// How long accepting rests when the system lacks descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a peer may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(1);

/// What connections may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at a time. Default 512.
    pub connections_max: u32,
    /// For a request's head, waiting for its first byte included. Default 10 s.
    pub head_timeout: Duration,
    /// For a request's body and its answer. Default 30 s.
    pub request_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves `routes` until `stop`, then until the requests that are being answered are done.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: HttpLimits,
    stop: impl Future<Output = ()>,
) {
    let routes = routes.layer(middleware::from_fn_with_state(limits, limit_time));
    let permits = Arc::new(Semaphore::new(limits.connections_max as usize));
    let (stopping, stopped) = watch::channel(false);
    tokio::select! {
        () = stop => {}
        () = accept(&listener, &routes, limits, &permits, &stopped) => {}
    }
    drop(listener);
    stopping.send_replace(true);
    // Each connection holds one until it ends.
    let _ = permits.acquire_many(limits.connections_max).await;
}

/// Accepts for ever.
async fn accept(
    listener: &TcpListener,
    routes: &Router,
    limits: HttpLimits,
    permits: &Arc<Semaphore>,
    stopped: &watch::Receiver<bool>,
) {
    while let Ok(permit) = Arc::clone(permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = Connection {
                    stream,
                    peer,
                    limits,
                    stopped: stopped.clone(),
                };
                tokio::spawn(connection.serve(routes.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    limits: HttpLimits,
    stopped: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, routes: Router, permit: OwnedSemaphorePermit) {
        let _ = self.stream.set_nodelay(true);
        let patience = Some(self.limits.request_timeout);
        let _ = socket2::SockRef::from(&self.stream).set_tcp_user_timeout(patience);
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .serve_connection(
                TokioIo::new(Lingering::new(self.stream)),
                TowerToHyperService::new(routes),
            );
        let mut serving = std::pin::pin!(serving);
        let stopped = async {
            let _ = self.stopped.wait_for(|stopped| *stopped).await;
        };
        let outcome = tokio::select! {
            outcome = serving.as_mut() => outcome,
            () = stopped => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(peer = %self.peer, %error, "an HTTP connection ended early");
        }
        drop(permit);
    }
}

/// A stream whose last answer arrives: closing over unread bytes would reset the connection, so what the peer still
/// sends (the rest of a body that is too large) is thrown away until it ends, at most for [`LINGER`].
struct Lingering {
    stream: TcpStream,
    until: Option<Pin<Box<Sleep>>>,
}

impl Lingering {
    fn new(stream: TcpStream) -> Self {
        Self { stream, until: None }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.until.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        let this = &mut *self;
        let until = this
            .until
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0; 4096];
        while until.as_mut().poll(cx).is_pending() {
            let mut rest = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut rest));
            if read.is_err() || rest.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

async fn limit_time(State(limits): State<HttpLimits>, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(limits.request_timeout, next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}
