//! What the engine tells: sockets that connect, answer, and end.

use corelane_net::{BufferId, Event, Socket};
use corelane_protocol::ws::client::{ResponseStatus, parse_response};
use corelane_protocol::ws::decoder::Item;
use corelane_protocol::ws::{Opcode, client_frame, close};

use super::conn::{Conn, Speaker, Stage};
use super::echo::Reply;
use super::session::Effect;
use super::{Env, Worker, env};
use crate::payload::{PayloadError, Stamp};

/// What is to be done with a connection after a read.
#[derive(Debug, Clone, Copy, Default)]
struct After {
    is_ready: bool,
    must_close: bool,
}

impl Worker {
    /// Takes an event of the engine.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Connected(socket) => {
                if let Some(place) = self.place_of(socket) {
                    self.connected(place);
                }
            }
            Event::Received(socket, buffer) => {
                if let Some(place) = self.place_of(socket) {
                    self.received(place, buffer);
                }
                self.engine.recycle(buffer);
            }
            Event::PeerClosed(socket) => self.engine.close(socket),
            Event::Sent(socket) => {
                if let Some(place) = self.place_of(socket) {
                    if let Some(conn) = self.conns.get_mut(place as usize) {
                        conn.is_sending = false;
                    }
                    self.list(place);
                }
            }
            Event::Closed(socket, reason) => {
                if let Some(place) = self.place_of(socket) {
                    self.closed(place, reason);
                }
            }
            Event::Accepted { .. } | Event::Woken => {}
        }
    }

    fn place_of(&self, socket: Socket) -> Option<u32> {
        let place = *self.by_socket.get(socket.index())?;
        (self.conns.get(place as usize)?.socket == Some(socket)).then_some(place)
    }

    fn received(&mut self, place: u32, buffer: BufferId) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        conn.heard_ns = self.now_ns;
        let mut env = env!(self);
        let bytes = self.engine.received(buffer);
        let mut after = After::default();
        if conn.stage == Stage::Upgrading {
            conn.head.extend_from_slice(bytes);
            let mut rest = upgrade(conn, &mut env, &mut after);
            if conn.stage != Stage::Upgrading && !after.must_close {
                take(conn, &mut rest, &mut env, &mut after);
            }
        } else {
            take(conn, bytes, &mut env, &mut after);
        }
        if after.is_ready {
            self.ready(place);
        }
        self.list(place);
        if after.must_close {
            self.flush();
            if let Some(socket) = self.conns.get(place as usize).and_then(|conn| conn.socket) {
                self.engine.close(socket);
            }
        }
    }
}

/// Reads the answer to the upgrade request; returns what stands behind it.
fn upgrade(conn: &mut Conn, env: &mut Env<'_>, after: &mut After) -> Vec<u8> {
    match parse_response(&conn.head, &conn.key) {
        Ok(ResponseStatus::Partial) => Vec::new(),
        Ok(ResponseStatus::Accepted { head_bytes, .. }) => {
            let rest = conn.head.get(head_bytes..).unwrap_or(&[]).to_vec();
            conn.head = Vec::new();
            conn.stage = Stage::Greeting;
            match &mut conn.speaker {
                Speaker::User(session) => session.hello(env, &mut conn.out),
                Speaker::Echo(..) => after.is_ready = true,
            }
            rest
        }
        Err(error) => {
            problem(conn, &format!("upgrade: {error}"), env);
            after.must_close = true;
            Vec::new()
        }
    }
}

/// Takes WebSocket bytes.
fn take(conn: &mut Conn, bytes: &mut [u8], env: &mut Env<'_>, after: &mut After) {
    let mut decoder = std::mem::replace(
        &mut conn.decoder,
        corelane_protocol::ws::Decoder::new(corelane_protocol::ws::Role::Client, 0),
    );
    let mut items = decoder.feed(bytes);
    while let Some(item) = items.next() {
        match item {
            Ok(Item::Binary(frame)) => message(conn, frame, env, after),
            Ok(Item::Text(text)) => message(conn, text.as_bytes(), env, after),
            Ok(Item::Ping(payload)) => client_frame(Opcode::Pong, payload, env.rng.mask(), &mut conn.out),
            Ok(Item::Pong(_)) => {}
            Ok(Item::Close(code)) => {
                let code = code.map_or(1005, |(code, reason)| {
                    if !reason.is_empty() && conn.stage != Stage::Ready {
                        problem(conn, &format!("closed with {code}: {reason}"), env);
                    }
                    code
                });
                conn.close_code = Some(code);
                if close::may_be_sent(code) {
                    close::client_close(code, "", env.rng.mask(), &mut conn.out);
                }
                after.must_close = true;
            }
            Err(error) => {
                env.tally.malformed += 1;
                let text = format!("the server broke the WebSocket protocol: {error}");
                problem(conn, &text, env);
                after.must_close = true;
            }
        }
    }
    drop(items);
    conn.decoder = decoder;
}

/// Counts a problem with a connection's target.
fn problem(conn: &Conn, text: &str, env: &mut Env<'_>) {
    let text = env.shared.problem_at(conn.target, text);
    env.problem(&text);
}

fn message(conn: &mut Conn, bytes: &[u8], env: &mut Env<'_>, after: &mut After) {
    match &mut conn.speaker {
        Speaker::User(session) => match session.frame(bytes, env) {
            Ok(Effect::None) => {}
            Ok(Effect::Welcome { heartbeat_ms }) => {
                let longest = u64::from(heartbeat_ms) * 1_000_000 / 10 * 9;
                if conn.heartbeat_ns == 0 || conn.heartbeat_ns > longest {
                    conn.heartbeat_ns = longest / 9 * 5;
                }
                after.is_ready = true;
            }
            Ok(Effect::GoAway { after_ns }) => {
                conn.was_told_to_go = true;
                if env.shared.options.reconnects() {
                    conn.leave_at_ns = env.now_ns + after_ns.max(1);
                }
            }
            Err(error) => {
                env.tally.malformed += 1;
                problem(conn, &format!("the server sent a malformed frame: {error}"), env);
            }
        },
        Speaker::Echo(matcher, _) => {
            let stamp = match Stamp::read(bytes) {
                Ok(stamp) => stamp,
                Err(PayloadError::Corrupt) => {
                    env.tally.corrupt += 1;
                    return;
                }
                Err(PayloadError::Foreign) => {
                    env.problem("a message that is no echo");
                    return;
                }
            };
            match matcher.reply(&stamp, env.shared.run_id, conn.index) {
                Reply::InOrder | Reply::Early => {}
                Reply::Reordered => env.tally.reordered += 1,
                Reply::Doubled => {
                    env.tally.duplicated += 1;
                    return;
                }
                Reply::Foreign => {
                    env.tally.misdelivered += 1;
                    return;
                }
            }
            env.tally.delivered += 1;
            let (from, to) = env.measured;
            if (from..to).contains(&stamp.due_ns) {
                let half_ns = env.half_ns();
                env.recorder.delivered(&stamp, half_ns, env.now_ns);
            }
        }
    }
}
