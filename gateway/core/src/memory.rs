//! memory: what the connections of a shard own together, and who pays when it is too much.
//!
//! Owns the count of the bytes that belong to single connections (copies that wait in their queues or are in flight,
//! what was read of them and may not be used yet, the frame that is coming in) and the list of the connections that own
//! any. Spans that receivers share, and the slots themselves, do not count.
//!
//! When all together would exceed `queue_total_bytes_max`, whoever holds most of the next [`LOOKS`] in the list pays, and
//! not whoever happened to ask: a session's payload is dropped (it is demoted); who has none to drop is closed with 4007,
//! or at once if he does not read. Only if that is the one that asks is he told that there is no room.

use corelane_protocol::id::ConnId;
use corelane_protocol::ws::CloseCode;

use crate::encoding;
use crate::flush::recycle;
use crate::outbound::Sending;
use crate::shard::Shard;
use crate::table::{Conn, NONE, Stage, flag};

/// Connections that are compared when somebody must pay.
const LOOKS: usize = 64;

/// What connections own.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    bytes: u64,
    holders: Vec<ConnId>,
    /// Where the next comparison begins.
    next: usize,
}

impl Memory {
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn holders(&self) -> usize {
        self.holders.len()
    }
}

/// What a connection owns now.
pub(crate) fn weight_of(conn: &Conn) -> u32 {
    let held = conn.rare.as_ref().map_or(0, |rare| rare.held.len());
    (conn.out.owned_bytes() + held + conn.decoder.held_bytes()) as u32
}

impl Shard {
    /// Counts what a connection owns now. To be called after every change of it.
    pub(crate) fn weigh(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let weight = weight_of(conn);
        if weight == conn.weight {
            return;
        }
        let before = std::mem::replace(&mut conn.weight, weight);
        let memory = &mut self.memory;
        memory.bytes = memory.bytes - u64::from(before) + u64::from(weight);
        if before == 0 && weight > 0 {
            conn.holder = memory.holders.len() as u32;
            memory.holders.push(id);
        } else if before > 0 && weight == 0 {
            let at = std::mem::replace(&mut conn.holder, NONE) as usize;
            memory.holders.swap_remove(at);
            let moved = memory.holders.get(at).copied();
            if let Some(moved) = moved.and_then(|moved| self.conns.get_mut(moved)) {
                moved.holder = at as u32;
            }
        }
    }

    /// Makes room for `bytes` more of `id`. False if it holds most itself.
    pub(crate) fn make_room(&mut self, id: ConnId, bytes: usize) -> bool {
        while self.memory.bytes + bytes as u64 > self.config.queue_total_bytes_max {
            let own = self.conns.get(id).map_or(0, |conn| conn.weight);
            match self.heaviest() {
                Some((heaviest, weight)) if heaviest != id && weight > own => self.pay(heaviest),
                _ => return false,
            }
        }
        true
    }

    /// Has somebody pay for what was taken unasked: answers, and what clients send.
    pub(crate) fn settle_memory(&mut self) {
        while self.memory.bytes > self.config.queue_total_bytes_max
            && let Some((heaviest, _)) = self.heaviest()
        {
            self.pay(heaviest);
        }
    }

    fn heaviest(&mut self) -> Option<(ConnId, u32)> {
        let memory = &mut self.memory;
        let mut found = None;
        for _ in 0..LOOKS.min(memory.holders.len()) {
            memory.next = (memory.next + 1) % memory.holders.len();
            let holder = memory.holders.get(memory.next).copied()?;
            let weight = self.conns.get(holder).map_or(0, |conn| conn.weight);
            if found.is_none_or(|(_, most)| weight > most) {
                found = Some((holder, weight));
            }
        }
        found
    }

    /// Takes from a connection what it owns, or a part.
    fn pay(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let can_be_demoted = conn.stage == Stage::Live && !conn.has(flag::DEMOTED);
        if can_be_demoted && conn.out.payload_bytes() > 0 {
            return self.demote(id);
        }
        self.metrics.memory_closed += 1;
        if conn.out.is_in_flight() || matches!(conn.stage, Stage::Closing | Stage::Closed) {
            return self.abort(id);
        }
        self.close(id, CloseCode::Overloaded as u16, "");
        self.forget_unread(id);
    }

    /// Gives up what was read of a connection and not used.
    fn forget_unread(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.rare = None;
            conn.decoder = encoding::decoder(0);
            self.weigh(id);
        }
    }

    /// Gives up all that a connection owns. What is in flight is the engine's to give back, within a turn.
    pub(crate) fn give_up_memory(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let Sending::InFlight { owned_bytes, .. } = &mut conn.out.sending {
            *owned_bytes = 0;
        } else {
            conn.out.sending = Sending::Idle;
        }
        if let Some(backlog) = conn.out.backlog.take() {
            recycle(&mut self.backlogs, backlog);
        }
        self.forget_unread(id);
    }
}
