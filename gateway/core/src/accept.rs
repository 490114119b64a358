//! accept: a socket came in; it gets a slot and a deadline.
//!
//! Owns the counts per address of a client (only when they are limited). When there is no room the connection is still
//! taken through the upgrade, because browsers can read a close code but no failed upgrade, and then told 4505.

use std::net::IpAddr;

use corelane_protocol::id::ConnId;
use corelane_protocol::listener::ListenerKind;
use corelane_protocol::ws::CloseCode;

use crate::event::{Accepted, Output};
use crate::shard::Shard;
use crate::table::{Opening, Stage};
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
        let peer = accepted.peer.ip();
        let is_proxied = accepted.kind == ListenerKind::Proxy;
        if is_proxied && !self.is_proxy(peer) {
            return self.refuse_stranger(id, peer);
        }
        if !self.conns.insert(id) {
            debug_assert!(false, "{id:?} was accepted into a slot that is in use");
            self.outputs.push(Output::Abort(id));
            return;
        }
        let mut refuse_code = self.refusal(&accepted);
        if refuse_code.is_none() && !is_proxied {
            refuse_code = self.count_address(id, peer);
        }
        self.metrics.accept_refused += u64::from(refuse_code.is_some());
        let due = self.tick + ticks_in(self.config.handshake);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.last_seen = self.tick;
            conn.stage_due = due;
            conn.transform = transform;
            if is_proxied {
                conn.stage = Stage::Proxy;
            }
            conn.opening = Some(Box::new(Opening {
                proxy: is_proxied.then_some(peer),
                refuse_code,
                ..Opening::default()
            }));
        }
        self.wheel.arm(id.slot(), due);
    }

    /// The code to close a connection with that finds no room.
    fn refusal(&self, accepted: &Accepted) -> Option<u16> {
        if self.drain.is_draining() {
            return Some(CloseCode::Draining as u16);
        }
        let is_full = accepted.reserve || self.conns.len() > self.config.connections_max as usize;
        is_full.then_some(CloseCode::ConnectionLimit as u16)
    }

    /// Counts a connection to its client's address; gives the code to close it with if that has too many.
    pub(crate) fn count_address(&mut self, id: ConnId, address: IpAddr) -> Option<u16> {
        if self.config.connections_per_ip_max == 0 {
            return None;
        }
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
