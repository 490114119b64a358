//! How long a connection waits for a target that says nothing, where it may be made again: an attempt until it is welcome,
//! a heartbeat until the next one, a send or request as long as in the Rust client. A process that stands still keeps its
//! sockets open, so nothing else would tell.

use corelane_protocol::ws::{Opcode, client_frame};

use super::conn::{Conn, Speaker, Stage};
use super::{Env, Worker};

/// Longest wait for an answer, looked at with every heartbeat.
const ANSWER_NS_MAX: u64 = 20_000_000_000;

impl Worker {
    /// Ends an attempt that takes too long; true if it was one.
    pub(super) fn end_slow_attempt(&mut self, place: u32) -> bool {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return false;
        };
        let is_slow = matches!(conn.stage, Stage::Connecting | Stage::Upgrading | Stage::Greeting)
            && conn.attempt_until_ns != 0
            && conn.attempt_until_ns <= self.now_ns;
        if is_slow {
            conn.attempt_until_ns = 0;
            self.end(place, "no welcome in time");
        }
        is_slow
    }

    /// Ends a connection, to make it again.
    pub(super) fn end(&mut self, place: u32, why: &'static str) {
        let Some(conn) = self.conns.get_mut(place as usize) else {
            return;
        };
        conn.ended_for = Some(why);
        if let Some(socket) = conn.socket {
            self.engine.abort(socket);
        }
    }
}

/// Sends the heartbeat that is due. If the target does not answer any more, says how that shows instead.
pub(super) fn beat(conn: &mut Conn, env: &mut Env<'_>) -> Option<&'static str> {
    let may_give_up = env.shared.options.reconnects();
    if may_give_up && conn.is_silent() {
        return Some("no answer to a heartbeat");
    }
    conn.heartbeat_at_ns = env.now_ns + conn.heartbeat_ns;
    conn.pinged_ns = env.now_ns;
    match &mut conn.speaker {
        Speaker::User(session) => {
            let since_ns = session.unanswered_since_ns().unwrap_or(env.now_ns);
            if may_give_up && since_ns + ANSWER_NS_MAX < env.now_ns {
                return Some("no answer to a send or request");
            }
            session.ping(env, &mut conn.out);
        }
        Speaker::Echo(..) => client_frame(Opcode::Ping, b"", env.rng.mask(), &mut conn.out),
    }
    None
}
