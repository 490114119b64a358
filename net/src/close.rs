//! Closing, in the only order that sends FIN on every path and frees no slot too early.
//!
//! ```text
//!   close ──> Flushing ──> Lingering ──────────────> Ending ──────────> Closing ──> free, Closed
//!             (send in     (FIN sent; what arrives   (all cancelled;    (descriptor
//!              flight)      is thrown away until      last completion    freed)
//!                           the peer's FIN, 2 s)      comes)
//!   abort, broken ────────────────────────────────────^
//! ```
//!
//! Freeing a descriptor under an armed operation sends no FIN and hands the slot on while the operation lives; so the
//! last completion is waited for. Freeing one with unread bytes sends a reset, which can destroy what the
//! peer has not read yet; so an orderly close lingers, and an abort empties the receive queue first.
//!
//! When a peer neither reads nor answers: a lingering socket is ended after 2 s; one that still has a send
//! in flight stays until [`Engine::abort`].

use std::time::Duration;

use crate::engine::Engine;
use crate::event::{CloseReason, Event};
use crate::id::Socket;
use crate::slots::{Armed, Flags, Life};
use crate::table::{Moment, Table};
use crate::token::Op;

/// How long a closed socket waits for the FIN of its peer.
const LINGER: Duration = Duration::from_secs(2);

impl Engine {
    /// Closes in order: the send in flight is finished, then FIN. No event of the socket comes any more but
    /// [`Event::Closed`]. Calling it again does nothing.
    pub fn close(&mut self, socket: Socket) {
        let moment = self.moment();
        let Some((table, slot)) = self.find(socket) else {
            return;
        };
        let Some(state) = table.slots.get_mut(slot) else {
            return;
        };
        match state.life {
            Life::Connecting => table.end(slot, false, true),
            Life::Open => state.life = Life::Flushing,
            _ => return,
        }
        table.settle(slot, moment);
    }

    /// Closes without waiting for a send in flight or for the peer: for one that does not read. FIN is sent
    /// behind what the kernel had taken.
    pub fn abort(&mut self, socket: Socket) {
        let moment = self.moment();
        let Some((table, slot)) = self.find(socket) else {
            return;
        };
        let Some(state) = table.slots.get(slot) else {
            return;
        };
        match state.life {
            Life::Open | Life::Flushing => {
                // The peer has closed: freeing the descriptor is enough to send FIN.
                let shutdown = !state.flags.has(Flags::PEER_CLOSED);
                table.end(slot, shutdown, true);
            }
            Life::Connecting | Life::Lingering => table.end(slot, false, true),
            _ => return,
        }
        table.settle(slot, moment);
    }
}

impl Table {
    /// Takes the next step towards the end, if nothing stands in its way. Called after everything that
    /// could have been in its way.
    pub(crate) fn settle(&mut self, slot: u32, moment: Moment) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        let peer_closed = state.flags.has(Flags::PEER_CLOSED);
        match state.life {
            Life::Flushing if !state.flags.has(Flags::SENDING) => {
                if peer_closed {
                    self.end(slot, false, false);
                } else {
                    self.linger(slot, moment);
                }
            }
            Life::Lingering if peer_closed => self.end(slot, false, false),
            _ => {}
        }
        self.free_descriptor(slot);
    }

    /// Sends FIN and waits for the peer's.
    fn linger(&mut self, slot: u32, moment: Moment) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        state.life = Life::Lingering;
        state.flags.clear(Flags::PAUSED);
        if let Some(token) = self.begin(slot, Op::Shutdown) {
            self.ring.shutdown(slot, token);
        }
        self.arm_receive(slot, Armed::Poll);
        if let Some(socket) = self.socket(slot) {
            self.lingering.push_back((moment.now + LINGER, socket));
        }
        if self.lingering.len() > 2 * self.slots.count() as usize {
            let mut lingering = std::mem::take(&mut self.lingering);
            lingering.retain(|(_, socket)| self.is_lingering(*socket));
            self.lingering = lingering;
        }
    }

    fn is_lingering(&self, socket: Socket) -> bool {
        self.find(socket)
            .is_some_and(|(_, state)| state.life == Life::Lingering)
    }

    /// Ends what has lingered long enough.
    pub(crate) fn end_lingering(&mut self, moment: Moment) {
        while let Some(&(until, socket)) = self.lingering.front() {
            if until > moment.now {
                return;
            }
            self.lingering.pop_front();
            if self.is_lingering(socket)
                && let Some((slot, _)) = self.find(socket)
            {
                self.end(slot, false, true);
                self.settle(slot, moment);
            }
        }
    }

    /// Cancels all that is in flight; after the last completion the descriptor is freed, with `discard`
    /// after the receive queue was emptied.
    pub(crate) fn end(&mut self, slot: u32, shutdown: bool, discard: bool) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        let connecting = state.life == Life::Connecting && !state.flags.has(Flags::CONNECT_FAILED);
        let sending = state.flags.has(Flags::SENDING);
        state.life = Life::Ending;
        if discard {
            state.flags.set(Flags::DISCARD);
        }
        if shutdown && let Some(token) = self.begin(slot, Op::Shutdown) {
            self.ring.shutdown(slot, token);
        }
        self.cancel_receive(slot);
        if sending {
            self.cancel(slot, Op::Send);
        }
        if connecting {
            self.cancel(slot, Op::Connect);
        }
    }

    /// Frees the descriptor of an ended socket once nothing of it is in flight.
    fn free_descriptor(&mut self, slot: u32) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        if state.life != Life::Ending || state.in_flight > 0 {
            return;
        }
        if state.flags.has(Flags::DISCARD) {
            state.flags.clear(Flags::DISCARD);
            if let Some(token) = self.begin(slot, Op::Discard) {
                self.ring.discard(slot, token);
            }
            return;
        }
        state.life = Life::Closing;
        if let Some(token) = self.begin(slot, Op::Close) {
            self.ring.close(slot, token);
        }
    }

    /// The descriptor is free: tells the user and gives the slot back.
    pub(crate) fn on_close(&mut self, slot: u32, events: &mut Vec<Event>) {
        let (Some(socket), Some(state)) = (self.socket(slot), self.slots.get(slot)) else {
            return;
        };
        let errno = i32::from(state.errno);
        let reason = if state.flags.has(Flags::CONNECT_FAILED) {
            CloseReason::ConnectFailed(errno)
        } else if state.flags.has(Flags::BROKEN) {
            CloseReason::Broken(errno)
        } else {
            CloseReason::Requested
        };
        self.slots.give_back(slot);
        self.open_count = self.open_count.saturating_sub(1);
        self.counts.closed += 1;
        events.push(Event::Closed(socket, reason));
    }
}
