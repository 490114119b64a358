//! Opening connections at the planned pace, and what happens when they end.

use std::net::{IpAddr, SocketAddr};

use corelane_net::{CloseReason, EngineError};
use corelane_protocol::ws::{client, close};

use super::conn::{Speaker, Stage};
use super::{Worker, count_problem, env, message_bytes_max};
use crate::shared::{Phase, Shared};
use crate::sources::Sources;
use crate::spread::next_target;

/// Connections that are being opened at a time, per thread.
const OPENING_MAX: u32 = 512;
/// Up to so many connections to this machine share its usual source address.
const SPREAD_ABOVE: u32 = 1_000;
/// Connections per source address beyond that.
const CONNECTIONS_PER_SOURCE: u32 = 4_000;
/// Shortest and longest pause before a connection is opened again.
const PAUSE_MIN_NS: u64 = 100_000_000;
const PAUSE_MAX_NS: u64 = 5_000_000_000;
/// How long an attempt to come back may take until it is welcome; then the next target is tried.
const ATTEMPT_NS_MAX: u64 = 10_000_000_000;
/// System error numbers that mean that we ran out of something.
const NO_PORT: i32 = 99;
const NO_DESCRIPTOR: [i32; 2] = [23, 24];

impl Worker {
    /// When the next connection is to be opened for the first time.
    pub(super) fn next_open_ns(&self) -> Option<u64> {
        let (next, start_ns, opening) = self.opening;
        if next >= self.conns.len() || opening >= OPENING_MAX || self.phase > Phase::Run {
            return None;
        }
        let rate = self.shared.options.connect_rate / f64::from(self.shared.options.threads);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a count of connections divided by a positive rate"
        )]
        Some(start_ns + (next as f64 * 1e9 / rate) as u64)
    }

    /// Opens connections whose time has come.
    pub(super) fn open_due(&mut self) {
        while self.next_open_ns().is_some_and(|at| at <= self.now_ns) {
            let place = self.opening.0;
            self.opening.0 += 1;
            self.open(u32::try_from(place).unwrap_or(u32::MAX));
        }
    }

    /// Opens a connection.
    pub(super) fn open(&mut self, place: u32) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        if conn.stage != Stage::Waiting || self.phase >= Phase::Close {
            return;
        }
        let address = self.shared.endpoint(conn.target).address;
        let from = source_address(&self.shared, address, conn.index);
        match self.engine.connect(address, from) {
            Ok(socket) => {
                conn.socket = Some(socket);
                conn.stage = Stage::Connecting;
                conn.opened_ns = self.now_ns;
                conn.close_code = None;
                conn.ended_for = None;
                if conn.was_ready {
                    conn.attempt_until_ns = self.now_ns + ATTEMPT_NS_MAX;
                }
                let index = socket.index();
                if self.by_socket.len() <= index {
                    self.by_socket.resize(index + 1, u32::MAX);
                }
                if let Some(entry) = self.by_socket.get_mut(index) {
                    *entry = place;
                }
                self.opening.2 += 1;
                self.set_timer(place);
            }
            Err(error) => {
                match &error {
                    EngineError::Connect { source, .. } => self.note_errno(source.raw_os_error()),
                    EngineError::Full { .. } | EngineError::Limit { .. } => self.tally.slots_exhausted += 1,
                    _ => {}
                }
                count_problem(&mut self.finish.problems, &error.to_string());
                self.tally.connect_failures += 1;
                self.again(place);
            }
        }
    }

    fn note_errno(&mut self, errno: Option<i32>) {
        match errno {
            Some(NO_PORT) => self.tally.ports_exhausted += 1,
            Some(number) if NO_DESCRIPTOR.contains(&number) => self.tally.slots_exhausted += 1,
            _ => {}
        }
    }

    /// The socket stands: asks for the upgrade.
    pub(super) fn connected(&mut self, place: u32) {
        let mut key = [0; 16];
        let random = [self.rng.next_u64(), self.rng.next_u64()];
        for (byte, value) in key
            .iter_mut()
            .zip(random.iter().flat_map(|word| word.to_le_bytes()))
        {
            *byte = value;
        }
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        conn.key = key;
        conn.stage = Stage::Upgrading;
        let options = &self.shared.options;
        let subprotocol = match conn.speaker {
            Speaker::User(_) => Some("corelane.rkyv.v1"),
            Speaker::Echo(..) => options.subprotocol.as_deref(),
        };
        let target = &self.shared.endpoint(conn.target).target;
        client::request(
            &target.authority,
            &target.path,
            subprotocol,
            &options.headers,
            &key,
            &mut conn.out,
        );
        self.list(place);
    }

    /// The connection is in use from now on.
    pub(super) fn ready(&mut self, place: u32) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        self.opening.2 = self.opening.2.saturating_sub(1);
        conn.stage = Stage::Ready;
        conn.attempts = 0;
        conn.attempt_until_ns = 0;
        if let Some(count) = self.finish.connections.get_mut(conn.target as usize) {
            *count += 1;
        }
        if conn.heartbeat_ns > 0 {
            // The first one at a random moment, so that they do not all come together.
            conn.heartbeat_at_ns = self.now_ns + 1 + self.rng.below(conn.heartbeat_ns);
        }
        if std::mem::replace(&mut conn.was_ready, true) {
            self.tally.reconnected += 1;
        } else {
            self.tally.connected += 1;
            self.recorder.connect.record_ns(conn.opened_ns, self.now_ns);
        }
        if conn.is_stalled
            && self.phase < Phase::Quiet
            && let Some(socket) = conn.socket
        {
            self.engine.pause_receive(socket);
        }
        self.list(place);
        self.set_timer(place);
    }

    /// We end this connection, to make it again.
    pub(super) fn leave(&mut self, place: u32) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        conn.is_closing = true;
        if let Some(socket) = conn.socket {
            self.engine.close(socket);
        }
    }

    /// The socket is gone.
    pub(super) fn closed(&mut self, place: u32, reason: CloseReason) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        let (stage, was_asked, close_code) = (conn.stage, conn.is_closing, conn.close_code);
        let (target, ended_for) = (conn.target, conn.ended_for.take());
        if stage != Stage::Ready {
            self.opening.2 = self.opening.2.saturating_sub(1);
        }
        let in_phase = self.phase < Phase::Close;
        let is_fault = in_phase && stage == Stage::Ready;
        let mut lost = 0;
        match &mut conn.speaker {
            Speaker::User(session) => session.disconnected(is_fault, &mut env!(self)),
            Speaker::Echo(matcher, waiting) => {
                lost = matcher.abandon();
                waiting.clear();
                self.tally.faults += u64::from(is_fault);
            }
        }
        let (is_stalled, was_told) = (conn.is_stalled, conn.was_told_to_go);
        conn.reset(message_bytes_max(&self.shared));
        conn.stage = Stage::Waiting;
        conn.target = next_target(target, self.shared.target_count());
        if !in_phase {
            conn.stage = Stage::Gone;
            return;
        }
        self.tally.unanswered += lost;
        let why = match (ended_for, close_code, reason) {
            (Some(why), ..) => why.to_owned(),
            (None, Some(code), _) => format!("closed by the server with {code}"),
            (None, None, CloseReason::Requested) => "closed by the server without a close frame".to_owned(),
            (None, None, reason) => reason.to_string(),
        };
        if stage == Stage::Ready && !was_asked {
            if is_stalled {
                self.tally.stalled_closed += 1;
            } else {
                self.tally.dropped += 1;
                self.tally.untold += u64::from(!was_told);
            }
        } else if stage != Stage::Ready {
            self.tally.connect_failures += 1;
            let errno = reason.error().and_then(|error| error.raw_os_error());
            self.note_errno(errno);
        }
        if !was_asked {
            let why = self.shared.problem_at(target, &why);
            count_problem(&mut self.finish.problems, &why);
        }
        if close_code.is_some_and(|code| !close::may_reconnect(code)) {
            return self.give_up(place);
        }
        self.again(place);
    }

    /// Sets the time at which a connection is opened again, or gives it up.
    fn again(&mut self, place: u32) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        let may = !conn.was_ready || self.shared.options.reconnects() || conn.is_stalled;
        if !may {
            return self.give_up(place);
        }
        let pause_ns = (PAUSE_MIN_NS << conn.attempts.min(8)).min(PAUSE_MAX_NS);
        conn.attempts += 1;
        conn.stage = Stage::Waiting;
        conn.open_at_ns = self.now_ns + pause_ns / 2 + self.rng.below(pause_ns / 2 + 1);
        self.set_timer(place);
    }

    fn give_up(&mut self, place: u32) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        conn.stage = Stage::Gone;
        if let Speaker::User(session) = &mut conn.speaker {
            session.give_up(&mut env!(self));
        }
    }

    /// Ends all connections.
    pub(super) fn close_all(&mut self) {
        for place in 0..u32::try_from(self.conns.len()).unwrap_or(u32::MAX) {
            let Some(conn) = self.conns.get_mut(place as usize) else {
                continue;
            };
            conn.is_closing = true;
            let Some(socket) = conn.socket else { continue };
            if conn.stage == Stage::Ready && !conn.is_sending {
                close::client_close(1000, "", self.rng.mask(), &mut conn.out);
                self.engine.send(socket, self.arena.push(&[&conn.out]));
                conn.is_sending = true;
                conn.out.clear();
                self.engine.close(socket);
            } else {
                self.engine.abort(socket);
            }
        }
    }
}

/// The address to connect from, if it matters: one address has not enough ports for many connections, and ports
/// that an earlier run left in `TIME_WAIT` cost a second each.
fn source_address(shared: &Shared, target: SocketAddr, index: u32) -> Option<IpAddr> {
    let connections = shared.options.connections;
    if let Some(sources) = shared.options.source_addrs {
        let needed = connections / shared.ports_per_source + 1;
        return Some(sources.address(index % needed).into());
    }
    if connections <= SPREAD_ABOVE || !target.ip().is_loopback() || !target.is_ipv4() {
        return None;
    }
    let loopback = Sources::parse("127.0.0.0/8").expect("a constant network");
    let needed = connections / CONNECTIONS_PER_SOURCE + 1;
    let offset = (shared.run_id & 0x003f_ffff) as u32;
    Some(loopback.address(offset + index % needed).into())
}
