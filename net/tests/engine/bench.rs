//! What the tests share: an engine that is turned until a condition holds, with a deadline.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use corelane_net::{BufferId, CloseReason, Engine, EngineConfig, Event, ListenOptions, ListenerId, Socket};
use corelane_protocol::arena::Span;

/// How long any condition may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[expect(clippy::disallowed_methods, reason = "deadlines of tests")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn small() -> EngineConfig {
    EngineConfig {
        slots_per_ring: 64,
        rings_max: 8,
        receive_buffers: 64,
        ..EngineConfig::default()
    }
}

/// What became of a socket.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) received: Vec<u8>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) reserve: bool,
    pub(crate) connected: bool,
    pub(crate) peer_closed: bool,
    pub(crate) sent_count: usize,
    pub(crate) closed: Option<CloseReason>,
}

/// An engine with a record of everything it said.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) address: SocketAddr,
    pub(crate) seen: HashMap<Socket, Seen>,
    /// In order.
    pub(crate) accepted: Vec<Socket>,
    pub(crate) woken_count: usize,
    /// Buffers kept back when `hoard` is set.
    pub(crate) hoarded: Vec<BufferId>,
    pub(crate) hoard: bool,
    events: Vec<Event>,
}

impl Bench {
    pub(crate) fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config).unwrap(),
            listener: None,
            address: LOOPBACK,
            seen: HashMap::new(),
            accepted: Vec::new(),
            woken_count: 0,
            hoarded: Vec::new(),
            hoard: false,
            events: Vec::new(),
        }
    }

    pub(crate) fn listening(config: EngineConfig) -> Self {
        let mut bench = Self::new(config);
        let (listener, address) = bench.engine.listen(LOOPBACK, ListenOptions::default()).unwrap();
        bench.listener = Some(listener);
        bench.address = address;
        bench
    }

    /// One turn; records and returns its events. Received buffers are recycled.
    pub(crate) fn turn(&mut self, wait: Duration) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        self.engine.turn(wait, &mut events).unwrap();
        for &event in &events {
            self.record(event);
        }
        let told = events.clone();
        self.events = events;
        told
    }

    fn record(&mut self, event: Event) {
        match event {
            Event::Accepted {
                socket,
                peer,
                reserve,
                ..
            } => {
                self.accepted.push(socket);
                let seen = Seen {
                    peer: Some(peer),
                    reserve,
                    ..Seen::default()
                };
                assert!(self.seen.insert(socket, seen).is_none(), "an id is given once");
            }
            Event::Connected(socket) => self.of(socket).connected = true,
            Event::Received(socket, buffer) => {
                let bytes = self.engine.received(buffer).to_vec();
                assert!(!bytes.is_empty());
                self.of(socket).received.extend(bytes);
                if self.hoard {
                    self.hoarded.push(buffer);
                } else {
                    self.engine.recycle(buffer);
                }
            }
            Event::PeerClosed(socket) => {
                let seen = self.of(socket);
                assert!(!seen.peer_closed, "FIN is told once");
                seen.peer_closed = true;
            }
            Event::Sent(socket) => self.of(socket).sent_count += 1,
            Event::Closed(socket, reason) => {
                let seen = self.of(socket);
                seen.closed = Some(reason);
            }
            Event::Woken => self.woken_count += 1,
        }
    }

    fn of(&mut self, socket: Socket) -> &mut Seen {
        let seen = self.seen.entry(socket).or_default();
        assert!(seen.closed.is_none(), "nothing comes after Closed of {socket:?}");
        seen
    }

    pub(crate) fn seen(&self, socket: Socket) -> Seen {
        self.seen.get(&socket).cloned().unwrap_or_default()
    }

    /// Turns until `done`; panics with `what` after a minute.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = now() + PATIENCE;
        while !done(self) {
            assert!(
                now() < deadline,
                "waited in vain: {what}; {:?}",
                self.engine.stats()
            );
            self.turn(Duration::from_millis(5));
        }
    }

    /// A client of this bench's listener and the socket it became.
    pub(crate) fn client(&mut self) -> (TcpStream, Socket) {
        let client = TcpStream::connect(self.address).unwrap();
        let socket = self.accepted_from(&client);
        (client, socket)
    }

    pub(crate) fn accepted_from(&mut self, client: &TcpStream) -> Socket {
        let peer = client.local_addr().unwrap();
        let mut found = None;
        self.until("accepted", |bench| {
            found = bench
                .accepted
                .iter()
                .rev()
                .find(|socket| {
                    let seen = &bench.seen[*socket];
                    seen.peer == Some(peer) && seen.closed.is_none()
                })
                .copied();
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn send(&mut self, socket: Socket, bytes: &[u8]) {
        self.engine.send(socket, Span::copied_from(bytes));
    }

    pub(crate) fn assert_sound(&self) {
        assert_eq!(self.engine.stats().stale_completions, 0);
    }
}

/// What a non-blocking read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Nothing,
    Fin,
    Reset,
}

pub(crate) fn read_now(client: &mut TcpStream) -> Read {
    client.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 65_536];
    match io::Read::read(client, &mut bytes) {
        Ok(0) => Read::Fin,
        Ok(count) => {
            bytes.truncate(count);
            Read::Bytes(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Read::Reset,
        Err(error) => panic!("{error}"),
    }
}

/// Makes the close of `client` a reset.
pub(crate) fn reset(client: TcpStream) {
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
}

/// Bytes that arrived at `client` and are still to be read.
pub(crate) fn unread(client: &TcpStream) -> usize {
    let mut count: libc::c_int = 0;
    #[expect(unsafe_code, reason = "an ioctl that no safe wrapper offers")]
    // SAFETY: FIONREAD writes one int.
    let answer = unsafe { libc::ioctl(client.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    assert_eq!(answer, 0);
    usize::try_from(count).unwrap()
}

/// Reads until the connection ends, turning the engine meanwhile; returns the bytes and how it ended.
pub(crate) fn read_to_end(bench: &mut Bench, client: &mut TcpStream) -> (Vec<u8>, Read) {
    let mut bytes = Vec::new();
    let deadline = now() + PATIENCE;
    loop {
        match read_now(client) {
            Read::Bytes(more) => bytes.extend(more),
            Read::Nothing => {
                assert!(
                    now() < deadline,
                    "the connection did not end: {:?}",
                    bench.engine.stats()
                );
                bench.turn(Duration::from_millis(1));
            }
            end => return (bytes, end),
        }
    }
}
