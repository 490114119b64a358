//! Receiving: a poll while a socket is idle, a receive with kernel-picked buffers while it is active.
//!
//! ```text
//!             readable, quiet before             readable, heard lately
//!   Once  <───────────────────────── Poll ──────────────────────────> Many
//!     └── bytes, or nothing ──────────^ ^──────── quiet for 2 s ───────┘
//! ```
//!
//! A poll costs the kernel 246 bytes, an armed receive 757. A socket that says something every half minute
//! is read once and polled again; only one that goes on gets a receive that stays armed. The poll is a
//! single-shot one: it is over when it fires, so nothing must be cancelled before the receive.
//!
//! Owns, per ring, the line of sockets that wait for a buffer and the list of those whose receive stays armed.
//! Buffers are the ring's (`buffers.rs`).
//!
//! When no buffer is free: the receive ends, the socket waits in line and is armed again when buffers have
//! come back. When paused: an armed receive is cancelled; what it had received is delivered.

use crate::engine::Engine;
use crate::event::Event;
use crate::id::{BufferId, Socket};
use crate::ring::Completion;
use crate::slots::{Armed, Flags, Life, Slot};
use crate::table::{Moment, Table};
use crate::token::Op;

/// Ticks without bytes after which a socket is polled again: 2 s.
const QUIET_TICKS: u8 = 4;
/// Sockets looked at per sweep, at least; and the part of the list looked at if that is more.
const SWEEP_COUNT: usize = 64;
const SWEEP_PART: usize = 32;

impl Engine {
    /// Stops to receive from `socket`, so that its peer's window fills. Bytes received already are still
    /// delivered; FIN and reset are not noticed until [`Engine::resume_receive`] or a send.
    pub fn pause_receive(&mut self, socket: Socket) {
        let Some((table, slot)) = self.open_slot(socket) else {
            return;
        };
        if let Some(state) = table.slots.get_mut(slot) {
            state.flags.set(Flags::PAUSED);
            // An armed poll reads nothing, and a single receive is over at once.
            if state.armed == Armed::Many {
                table.cancel_receive(slot);
            }
        }
    }

    /// Receives from `socket` again.
    pub fn resume_receive(&mut self, socket: Socket) {
        let moment = self.moment();
        let Some((table, slot)) = self.open_slot(socket) else {
            return;
        };
        if let Some(state) = table.slots.get_mut(slot) {
            state.flags.clear(Flags::PAUSED);
            let armed = if heard_lately(state, moment) {
                Armed::Many
            } else {
                Armed::Poll
            };
            table.arm_receive(slot, armed);
        }
    }

    /// The bytes of an [`Event::Received`], in place. Empty after [`Engine::recycle`].
    pub fn received(&mut self, buffer: BufferId) -> &mut [u8] {
        match self.tables.get_mut(buffer.ring as usize) {
            Some(table) => table.ring.buffers.bytes_mut(buffer.buffer),
            None => &mut [],
        }
    }

    /// Gives a buffer back. Do it for every [`Event::Received`], soon: while all are out nothing is
    /// received. A second call does nothing.
    pub fn recycle(&mut self, buffer: BufferId) {
        if let Some(table) = self.tables.get_mut(buffer.ring as usize) {
            table.ring.buffers.recycle(buffer.buffer);
        }
    }
}

impl Table {
    /// Arms a receive if the socket is to be received from and none is armed.
    pub(crate) fn arm_receive(&mut self, slot: u32, armed: Armed) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        let wanted = matches!(state.life, Life::Open | Life::Flushing | Life::Lingering)
            && !state.flags.has(Flags::PAUSED)
            && !state.flags.has(Flags::PEER_CLOSED)
            && !state.flags.has(Flags::STARVED);
        if !wanted || state.armed != Armed::Nothing {
            return;
        }
        state.armed = armed;
        let Some(op) = op_of(armed) else {
            return;
        };
        if armed == Armed::Many && !state.flags.has(Flags::LISTED) {
            state.flags.set(Flags::LISTED);
            self.receiving.push(slot);
        }
        let Some(token) = self.begin(slot, op) else {
            return;
        };
        match armed {
            Armed::Nothing => {}
            Armed::Poll => self.ring.poll(slot, token),
            Armed::Once => self.ring.receive_once(slot, token),
            Armed::Many => self.ring.receive_many(slot, token),
        }
    }

    /// Tells the armed receive or poll to end, once.
    pub(crate) fn cancel_receive(&mut self, slot: u32) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        if state.flags.has(Flags::RECEIVE_CANCELLED) {
            return;
        }
        if let Some(op) = op_of(state.armed) {
            state.flags.set(Flags::RECEIVE_CANCELLED);
            self.cancel(slot, op);
        }
    }

    pub(crate) fn on_poll(&mut self, slot: u32, result: i32, moment: Moment) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        state.armed = Armed::Nothing;
        state.flags.clear(Flags::RECEIVE_CANCELLED);
        let armed = if result == -libc::ECANCELED {
            Armed::Poll
        } else if heard_lately(state, moment) && state.life == Life::Open {
            Armed::Many
        } else {
            Armed::Once
        };
        self.arm_receive(slot, armed);
    }

    pub(crate) fn on_receive(
        &mut self,
        slot: u32,
        completion: &Completion,
        moment: Moment,
        events: &mut Vec<Event>,
    ) {
        let socket = self.socket(slot);
        let (Some(state), Some(socket)) = (self.slots.get_mut(slot), socket) else {
            return;
        };
        let was_many = state.armed == Armed::Many;
        if !completion.more {
            state.armed = Armed::Nothing;
            state.flags.clear(Flags::RECEIVE_CANCELLED);
        }
        let life = state.life;
        match completion.result {
            0 => {
                state.flags.set(Flags::PEER_CLOSED);
                self.put_back(completion.buffer);
                if life == Life::Open {
                    events.push(Event::PeerClosed(socket));
                }
            }
            bytes @ 1.. => {
                state.heard_tick = moment.tick;
                self.deliver(socket, life, completion.buffer, bytes.unsigned_abs(), events);
                let next = if was_many { Armed::Many } else { Armed::Poll };
                self.arm_receive(slot, next);
            }
            error => {
                self.put_back(completion.buffer);
                self.on_receive_error(slot, -error);
            }
        }
    }

    fn deliver(
        &mut self,
        socket: Socket,
        life: Life,
        buffer: Option<u16>,
        bytes: u32,
        events: &mut Vec<Event>,
    ) {
        // What arrives after the user asked for the close is thrown away.
        if life != Life::Open {
            self.put_back(buffer);
            return;
        }
        let Some(buffer) = buffer else {
            debug_assert!(false, "every receive picks a buffer");
            return;
        };
        self.ring.buffers.hold(buffer, bytes);
        let ring = self.number;
        events.push(Event::Received(socket, BufferId { ring, buffer }));
    }

    fn on_receive_error(&mut self, slot: u32, errno: i32) {
        match errno {
            libc::ENOBUFS => {
                self.counts.buffers_empty += 1;
                if let Some(state) = self.slots.get_mut(slot) {
                    state.flags.set(Flags::STARVED);
                    if !state.flags.has(Flags::QUEUED) {
                        state.flags.set(Flags::QUEUED);
                        self.starved.push_back(slot);
                    }
                }
            }
            libc::ECANCELED | libc::EAGAIN | libc::EINTR => self.arm_receive(slot, Armed::Poll),
            _ => self.fail(slot, errno),
        }
    }

    /// Lets as many starved sockets receive as there are buffers, in the order in which they starved.
    pub(crate) fn feed_starved(&mut self) {
        for _ in 0..self.ring.buffers.posted_count() {
            let Some(slot) = self.starved.pop_front() else {
                return;
            };
            let Some(state) = self.slots.get_mut(slot) else {
                continue;
            };
            state.flags.clear(Flags::QUEUED);
            if state.flags.has(Flags::STARVED) {
                state.flags.clear(Flags::STARVED);
                self.arm_receive(slot, Armed::Many);
            }
        }
    }

    /// Looks at a part of the receiving sockets and sends the quiet ones back to their poll.
    pub(crate) fn sweep(&mut self, moment: Moment) {
        for _ in 0..SWEEP_COUNT.max(self.receiving.len() / SWEEP_PART) {
            if self.sweep_next >= self.receiving.len() {
                self.sweep_next = 0;
                return;
            }
            let Some(&slot) = self.receiving.get(self.sweep_next) else {
                return;
            };
            let Some(state) = self.slots.get_mut(slot) else {
                return;
            };
            if state.armed != Armed::Many {
                state.flags.clear(Flags::LISTED);
                self.receiving.swap_remove(self.sweep_next);
                continue;
            }
            self.sweep_next += 1;
            if !heard_lately(state, moment) {
                self.cancel_receive(slot);
            }
        }
    }
}

const fn heard_lately(state: &Slot, moment: Moment) -> bool {
    moment.tick.wrapping_sub(state.heard_tick) < QUIET_TICKS
}

const fn op_of(armed: Armed) -> Option<Op> {
    match armed {
        Armed::Nothing => None,
        Armed::Poll => Some(Op::Poll),
        Armed::Once => Some(Op::ReceiveOnce),
        Armed::Many => Some(Op::ReceiveMany),
    }
}
