//! close: how connections end.
//!
//! A server's close is a close frame in the control lane, then the client's own close frame or FIN is awaited, so
//! that nothing unread makes the kernel reset the connection before the client saw the code. A client's close is
//! echoed. Either way the engine is told to close once everything has left, and to abort when that takes longer
//! than `close`. The session ends, and its route is given up, when the closing begins.

use corelane_protocol::id::ConnId;
use corelane_protocol::ws::{CloseCode, Opcode, close, server_header};

use crate::event::Output;
use crate::outbound::Lane;
use crate::shard::Shard;
use crate::table::{Stage, flag};
use crate::wheel::{TICK, ticks_in};

/// How long a client that broke the protocol has to take its close frame.
const LINGER_TICKS: u32 = (300 / TICK.as_millis()) as u32;

impl Shard {
    /// Begins to close with `code`; an empty `reason` means the code's own.
    pub(crate) fn close(&mut self, id: ConnId, code: u16, reason: &str) {
        let Some(stage) = self.conns.get(id).map(|conn| conn.stage) else {
            return;
        };
        match stage {
            Stage::Free | Stage::Closing | Stage::Closed => return,
            Stage::Proxy | Stage::Head => return self.finish(id),
            _ => {}
        }
        let own = CloseCode::ALL
            .iter()
            .find(|known| **known as u16 == code)
            .map(|known| known.reason());
        let reason = if reason.is_empty() {
            own.unwrap_or("")
        } else {
            reason
        };
        let mut frame = Vec::new();
        close::close_frame(code, reason, &mut frame);
        self.begin_closing(id, &frame);
    }

    /// Closes a connection whose bytes can no longer be read: nothing of its answer is awaited.
    pub(crate) fn fail(&mut self, id: ConnId, code: u16, reason: &str) {
        if self.conns.get(id).is_none_or(|conn| conn.stage == Stage::Closing) {
            return;
        }
        self.metrics.decode_ws_errors += 1;
        self.close(id, code, reason);
        let due = self.tick + LINGER_TICKS;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.stage_due = due;
            self.wheel.arm(id.slot(), due);
        }
    }

    /// The client began, or answered, the closing handshake.
    pub(crate) fn client_closes(&mut self, id: ConnId, code: Option<u16>) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        if conn.stage != Stage::Closing {
            let mut frame = Vec::new();
            match code {
                Some(code) => close::close_frame(code, "", &mut frame),
                None => frame.extend_from_slice(&server_header(Opcode::Close, 0, true)),
            }
            self.begin_closing(id, &frame);
        }
        self.finish(id);
    }

    /// The client sent its FIN: it will say nothing more.
    pub(crate) fn peer_closed(&mut self, id: ConnId) {
        self.end_session(id);
        self.finish(id);
    }

    fn begin_closing(&mut self, id: ConnId, frame: &[u8]) {
        self.end_session(id);
        self.drop_payload(id);
        self.drop_pages(id);
        let due = self.tick + ticks_in(self.config.close);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.stage = Stage::Closing;
        conn.stage_due = due;
        conn.opening = None;
        conn.rare = None;
        conn.clear(flag::VERIFYING);
        self.queue_own(id, Lane::Control, &[frame]);
        self.wheel.arm(id.slot(), due);
        self.unblock(id);
    }

    /// Has the socket closed as soon as everything queued has left.
    pub(crate) fn finish(&mut self, id: ConnId) {
        let due = self.tick + ticks_in(self.config.close);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.stage == Stage::Closed {
            return;
        }
        conn.stage = Stage::Closing;
        conn.stage_due = due;
        conn.opening = None;
        conn.rare = None;
        conn.set(flag::FINISH);
        self.wheel.arm(id.slot(), due);
        self.weigh(id);
        self.list(id);
    }

    /// Closes at once: the peer does not read.
    pub(crate) fn abort(&mut self, id: ConnId) {
        self.end_session(id);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.stage = Stage::Closed;
            conn.opening = None;
            self.give_up_memory(id);
            self.outputs.push(Output::Abort(id));
        }
    }

    /// The socket is gone.
    pub(crate) fn closed(&mut self, id: ConnId) {
        self.end_session(id);
        if self.conns.get(id).is_none() {
            return;
        }
        self.give_up_memory(id);
        self.forget_address(id);
        self.wheel.disarm(id.slot());
        self.conns.remove(id);
        self.metrics.closed_connections += 1;
    }
}
