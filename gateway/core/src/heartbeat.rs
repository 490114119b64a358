//! heartbeat: what happens to a connection when its time has come.
//!
//! Owns nothing: the wheel has one entry per connection. Activity only notes the tick; when the entry fires, the
//! connection is asked what it has been waiting for and is armed again for the rest. The server never pings an
//! idle client: the client pings at half of `heartbeat`, and whoever is silent for all of it is closed with 4004.

use std::time::Duration;

use corelane_protocol::id::ConnId;
use corelane_protocol::ws::CloseCode;

use crate::event::{Output, TOKEN_LEEWAY};
use crate::outbound::Sending;
use crate::shard::Shard;
use crate::table::{Stage, flag};
use crate::wheel::{BUCKETS, TICK, ticks_in};

impl Shard {
    /// Looks at every connection whose time has come.
    pub(crate) fn fire_timers(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.fire(self.tick, &mut fired);
        for slot in fired.drain(..) {
            if let Some(id) = self.conns.id_at(slot) {
                self.time_reached(id);
            }
        }
        self.fired = fired;
    }

    fn time_reached(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let (stage, due) = (conn.stage, conn.stage_due);
        if matches!(stage, Stage::Live | Stage::Echo) {
            return self.check_alive(id);
        }
        if due > self.tick {
            return self.wheel.arm(id.slot(), due);
        }
        match stage {
            Stage::Free | Stage::Live | Stage::Echo => {}
            Stage::Proxy | Stage::Head | Stage::Upgrading => {
                self.metrics.handshake_timeouts += 1;
                self.finish(id);
            }
            Stage::Hello | Stage::Verifying => {
                self.metrics.handshake_timeouts += 1;
                self.close(id, CloseCode::HeartbeatTimeout as u16, "no Hello in time");
            }
            Stage::Claiming => {
                self.metrics.handshake_timeouts += 1;
                self.close(id, CloseCode::Overloaded as u16, "no router answered in time");
            }
            Stage::Closing if conn.out.is_empty() => {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.stage = Stage::Closed;
                }
                self.outputs.push(Output::Close(id));
                self.wheel.arm(id.slot(), self.tick + ticks_in(self.config.close));
            }
            Stage::Closing => self.abort(id),
            // The engine waits for a send that does not end.
            Stage::Closed => self.outputs.push(Output::Abort(id)),
        }
    }

    fn check_alive(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let slow_due = match conn.out.sending {
            Sending::InFlight { since, .. } if conn.has(flag::DEMOTED) => {
                Some(since + ticks_in(self.config.slow))
            }
            _ => None,
        };
        if slow_due.is_some_and(|due| due <= self.tick) {
            // Who begins to read again in time finds the reason; else the closing ends in an abort.
            self.metrics.heartbeat_slow_closed += 1;
            return self.close(id, CloseCode::SlowConsumer as u16, "");
        }
        let silent_due = conn.last_seen + ticks_in(self.config.heartbeat) + 1;
        if silent_due <= self.tick {
            self.metrics.heartbeat_timeouts += 1;
            return self.close(id, CloseCode::HeartbeatTimeout as u16, "");
        }
        let expires_in_ms = conn.session.as_ref().map_or(u64::MAX, |session| {
            let expires_at = Duration::from_secs(u64::from(session.expires_at_s)) + TOKEN_LEEWAY;
            (expires_at.as_millis() as u64).saturating_sub(self.now.wall_ms)
        });
        if expires_in_ms == 0 {
            self.metrics.heartbeat_token_expired += 1;
            return self.close(id, CloseCode::TokenExpired as u16, "");
        }
        let expiry = expires_in_ms / TICK.as_millis() as u64 + 1;
        let expiry_due = self.tick + expiry.min(u64::from(BUCKETS)) as u32;
        let due = silent_due.min(expiry_due).min(slow_due.unwrap_or(silent_due));
        self.wheel.arm(id.slot(), due);
    }

    /// Starts to watch over a connection that is through its handshake.
    pub(crate) fn arm_heartbeat(&mut self, id: ConnId) {
        self.wheel.disarm(id.slot());
        self.check_alive(id);
    }
}
