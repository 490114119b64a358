//! accept: a socket came in; it gets a slot and a deadline.
//!
//! Owns the counts per peer address (only when they are limited). When there is no room the connection is still
//! taken through the upgrade, because browsers can read a close code but no failed upgrade, and then told 4505.

use corelane_protocol::id::ConnId;
use corelane_protocol::ws::CloseCode;

use crate::event::{Accepted, Output};
use crate::shard::Shard;
use crate::table::Opening;
use crate::transform::Transform;
use crate::wheel::ticks_in;

impl Shard {
    pub(crate) fn accept(&mut self, id: ConnId, accepted: Accepted) {
        self.metrics.accept_connections += 1;
        let Some(transform) = Transform::of(accepted.kind) else {
            debug_assert!(false, "nobody listens for what this build cannot serve");
            self.outputs.push(Output::Abort(id));
            return;
        };
        if !self.conns.insert(id) {
            debug_assert!(false, "{id:?} was accepted into a slot that is in use");
            self.outputs.push(Output::Abort(id));
            return;
        }
        let refuse_code = self.refusal(id, &accepted);
        self.metrics.accept_refused += u64::from(refuse_code.is_some());
        let due = self.tick + ticks_in(self.config.handshake);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.last_seen = self.tick;
            conn.stage_due = due;
            conn.transform = transform;
            conn.opening = Some(Box::new(Opening {
                refuse_code,
                ..Opening::default()
            }));
        }
        self.wheel.arm(id.slot(), due);
    }

    fn refusal(&mut self, id: ConnId, accepted: &Accepted) -> Option<u16> {
        if self.drain.is_draining() {
            return Some(CloseCode::Draining as u16);
        }
        if accepted.reserve || self.conns.len() > self.config.connections_max as usize {
            return Some(CloseCode::ConnectionLimit as u16);
        }
        if self.config.connections_per_ip_max == 0 {
            return None;
        }
        let address = accepted.peer.ip();
        let count = self.per_address.entry(address).or_default();
        *count += 1;
        self.addresses.insert(id.slot(), address);
        (*count > self.config.connections_per_ip_max).then_some(CloseCode::ConnectionLimit as u16)
    }

    /// Takes the connection out of the count of its address.
    pub(crate) fn forget_address(&mut self, id: ConnId) {
        let Some(address) = self.addresses.remove(&id.slot()) else {
            return;
        };
        if let Some(count) = self.per_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
    }
}
