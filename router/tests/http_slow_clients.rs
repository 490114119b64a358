//! Clients that say nothing, or half of something, hold no place for long.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use corelane_router::http::{HttpLimits, serve};
use tokio::sync::oneshot;

const LIMITS: HttpLimits = HttpLimits {
    connections_max: 64,
    head_timeout: Duration::from_millis(500),
    request_timeout: Duration::from_millis(1500),
};
/// How long any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs until it is dropped.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = Router::new()
            .route("/health", get(|| async { "ok" }))
            .route("/echo", post(|body: Bytes| async move { body }));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stop = async {
                    let _ = stopped.await;
                };
                serve(listener, routes, LIMITS, stop).await;
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn health(&self) -> String {
        let mut stream = self.connect();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .unwrap();
        rest_of(&mut stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if !std::thread::panicking() {
            self.thread.take().unwrap().join().unwrap();
        }
    }
}

/// All that comes until the server closes.
fn rest_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed in time"),
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_hundred_silent_connections_are_closed_and_health_answers() {
    let server = Server::start();
    let mut silent: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for half in silent.iter_mut().take(50) {
        half.write_all(b"GET /health HTT").unwrap();
    }
    assert!(server.health().ends_with("ok"));
    for stream in &mut silent {
        assert!(!rest_of(stream).contains("200 OK"));
    }
}

#[test]
fn a_connection_that_was_answered_is_closed_when_it_says_no_more() {
    let server = Server::start();
    let mut stream = server.connect();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    assert!(rest_of(&mut stream).ends_with("ok"));
}

#[test]
fn a_body_that_does_not_come_is_answered_408() {
    let server = Server::start();
    let mut stream = server.connect();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhalf")
        .unwrap();
    assert!(rest_of(&mut stream).starts_with("HTTP/1.1 408"));
}

#[test]
fn an_answer_arrives_although_the_body_before_it_was_not_read() {
    let server = Server::start();
    for _ in 0..20 {
        let mut stream = server.connect();
        let body = vec![b'x'; 8 * 1024 * 1024];
        let head = format!(
            "POST /health HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        assert!(rest_of(&mut stream).starts_with("HTTP/1.1 405"));
    }
}

#[test]
fn a_server_that_stops_does_not_wait_for_silent_connections() {
    let server = Server::start();
    let silent = server.connect();
    assert!(server.health().ends_with("ok"));
    let start = now();
    drop(server);
    assert!(start.elapsed() < PATIENCE / 2);
    drop(silent);
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch")]
fn now() -> Instant {
    Instant::now()
}
