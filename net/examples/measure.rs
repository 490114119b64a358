//! What the engine costs on this machine: memory and time of idle sockets, time and system calls of an echo.
//!
//! `cargo run --release -p corelane-net --example measure [idle sockets] [echo sockets]`. The clients are
//! a second process, so that the figures are the server's alone.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an example that prints its findings"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(unsafe_code, reason = "the processor time of a thread has no safe wrapper")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corelane_net::{Engine, EngineConfig, Event, ListenOptions, Socket};
use corelane_protocol::arena::{Arena, Span};

const MESSAGE: [u8; 512] = [7; 512];
const ECHOES: u64 = 300_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, address, count] = arguments.as_slice()
        && role == "client"
    {
        return client(address.parse().unwrap(), count.parse().unwrap());
    }
    let mut counts = arguments.iter().map(|count| count.parse().unwrap());
    let idle: u32 = counts.next().unwrap_or(10_000);
    let echo: u32 = counts.next().unwrap_or(200);
    let mut server = Server::new();
    measure_idle(&mut server, 0);
    let clients = server.clients(idle);
    measure_idle(&mut server, idle);
    drop(clients);
    for count in [1, echo] {
        let mut server = Server::new();
        let clients = server.clients(count);
        measure_echo(&mut server, clients);
    }
}

struct Server {
    engine: Engine,
    address: SocketAddr,
    events: Vec<Event>,
    arena: Arena,
    echoes: u64,
}

/// The second process; it ends when its standard input does.
struct Clients(Child);

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Server {
    fn new() -> Self {
        let mut engine = Engine::new(EngineConfig::default()).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (_, address) = engine.listen(any, ListenOptions::default()).unwrap();
        Self {
            engine,
            address,
            events: Vec::new(),
            arena: Arena::new(),
            echoes: 0,
        }
    }

    /// Starts `count` clients and turns until all are there and quiet.
    fn clients(&mut self, count: u32) -> Clients {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["client", &self.address.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        while self.engine.stats().accepted < u64::from(count) {
            self.turn();
        }
        Clients(child)
    }

    /// One turn; sends back what was received, whole bursts in one send.
    fn turn(&mut self) {
        self.events.clear();
        self.engine
            .turn(Duration::from_millis(20), &mut self.events)
            .unwrap();
        for event in &self.events {
            match *event {
                Event::Received(socket, buffer) => {
                    let span = self.arena.push(&[self.engine.received(buffer)]);
                    self.engine.recycle(buffer);
                    self.engine.send(socket, span);
                }
                Event::Sent(_) => self.echoes += 1,
                Event::PeerClosed(socket) => self.engine.close(socket),
                _ => {}
            }
        }
        self.arena.turn_ended();
    }
}

fn measure_idle(server: &mut Server, sockets: u32) {
    // Until every socket is back in its poll.
    for _ in 0..250 {
        server.turn();
    }
    let (before, enters) = (cpu(), server.engine.stats().enters);
    let turns = 250_u32;
    for _ in 0..turns {
        server.turn();
    }
    let stats = server.engine.stats();
    let each = cpu().saturating_sub(before) / turns;
    let bytes = stats.user_bytes;
    println!("{sockets} idle sockets in {} rings:", stats.rings);
    println!(
        "  processor time per turn of 20 ms   {each:?}, {} enters in {turns} turns",
        stats.enters - enters
    );
    println!("  resident anonymous memory          {} KiB", resident_kib());
    if sockets > 0 {
        let each = (bytes.slots + bytes.in_flight) as f64 / f64::from(sockets);
        println!(
            "  slots and lists per socket         {each:.1} B (buffers: {} KiB in all)",
            bytes.receive_buffers / 1024
        );
    }
}

fn measure_echo(server: &mut Server, mut clients: Clients) {
    let sockets = server.engine.stats().sockets_open;
    clients.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    while server.echoes < ECHOES / 10 {
        server.turn();
    }
    let (cpu_before, enters_before, echoes_before) = (cpu(), server.engine.stats().enters, server.echoes);
    while server.echoes < ECHOES {
        server.turn();
    }
    let echoes = (server.echoes - echoes_before) as f64;
    let each = cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / echoes;
    let enters = (server.engine.stats().enters - enters_before) as f64 / echoes;
    println!(
        "echo of {} B on {sockets} sockets: {each:.2} us of processor time and {enters:.3} enters each",
        MESSAGE.len()
    );
}

/// Holds `count` connections; at the word go each sends, and again whenever it got its message back.
fn client(to: SocketAddr, count: u32) {
    let mut engine = Engine::new(EngineConfig::default()).unwrap();
    let mut sockets: Vec<Socket> = Vec::new();
    let mut events = Vec::new();
    while engine.stats().connected < u64::from(count) {
        for _ in 0..(count - u32::try_from(sockets.len()).unwrap()).min(64) {
            let from = Ipv4Addr::from(0x7f00_0101 + u32::try_from(sockets.len()).unwrap() / 20_000);
            sockets.push(engine.connect(to, Some(IpAddr::V4(from))).unwrap());
        }
        events.clear();
        engine.turn(Duration::from_millis(1), &mut events).unwrap();
    }
    let mut input = BufReader::new(std::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line).unwrap();
    if line.is_empty() {
        return;
    }
    let waker = engine.waker();
    let stopped = std::thread::spawn(move || {
        let _ = input.read_to_string(&mut line);
        waker.wake();
    });
    let message = Span::copied_from(&MESSAGE);
    let mut missing = vec![0_usize; sockets.iter().map(|socket| socket.index() + 1).max().unwrap_or(0)];
    for socket in sockets {
        engine.send(socket, message.clone());
    }
    while !stopped.is_finished() {
        events.clear();
        engine.turn(Duration::from_millis(20), &mut events).unwrap();
        for event in &events {
            match *event {
                Event::Sent(socket) => *missing.get_mut(socket.index()).unwrap() += MESSAGE.len(),
                Event::Received(socket, buffer) => {
                    let missing = missing.get_mut(socket.index()).unwrap();
                    *missing = missing.wrapping_sub(engine.received(buffer).len());
                    engine.recycle(buffer);
                }
                _ => continue,
            }
            let (Event::Sent(socket) | Event::Received(socket, _)) = *event else {
                continue;
            };
            if missing.get(socket.index()) == Some(&0) {
                engine.send(socket, message.clone());
            }
        }
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live `timespec`.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
