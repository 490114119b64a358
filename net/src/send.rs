//! Sending: one span at a time per socket, kept alive until the kernel has taken all of it.
//!
//! Owns the span in flight. A second send before [`Event::Sent`] is a bug of the caller: the socket is aborted.
#![expect(unsafe_code, reason = "the kernel reads spans while a send is in flight")]

use corelane_protocol::arena::Span;

use crate::engine::Engine;
use crate::event::Event;
use crate::id::Socket;
use crate::slots::{Flags, Life};
use crate::table::{NONE, Table};
use crate::token::Op;

impl Engine {
    /// Sends `span`; [`Event::Sent`] tells when all of it left for the kernel and the next may follow. At
    /// most one may be in flight per socket: a second is a bug of the caller, and as the order would be
    /// lost, the socket is aborted. A socket that is closing or closed sends nothing.
    pub fn send(&mut self, socket: Socket, span: Span) {
        let Some((table, slot)) = self.open_slot(socket) else {
            return;
        };
        let Some(state) = table.slots.get_mut(slot) else {
            return;
        };
        if state.flags.has(Flags::SENDING) {
            debug_assert!(false, "{socket:?} has a send in flight already");
            self.abort(socket);
            return;
        }
        if span.is_empty() {
            self.sent_empty.push(socket);
            return;
        }
        state.flags.set(Flags::SENDING);
        state.aux = table.spans.insert(span);
        table.submit_send(slot);
    }
}

impl Table {
    /// Submits what is left of the span of `slot`.
    fn submit_send(&mut self, slot: u32) {
        let Some(token) = self.begin(slot, Op::Send) else {
            return;
        };
        let key = self.slots.get(slot).map_or(NONE, |state| state.aux);
        if let Some(span) = self.spans.get(key) {
            // SAFETY: the span keeps its memory alive and stays in `spans` until `on_send` takes it out at
            // the completion of this operation, or until the ring was drained (`Engine::drop`).
            unsafe { self.ring.send(slot, span, token) };
        }
    }

    pub(crate) fn on_send(&mut self, slot: u32, result: i32, events: &mut Vec<Event>) {
        let socket = self.socket(slot);
        let (Some(state), Some(socket)) = (self.slots.get_mut(slot), socket) else {
            return;
        };
        let goes_on = matches!(state.life, Life::Open | Life::Flushing);
        let left = self.spans.get_mut(state.aux).map_or(0, |span| {
            span.advance(usize::try_from(result).unwrap_or(0));
            span.len()
        });
        let interrupted = matches!(-result, libc::EAGAIN | libc::EINTR);
        if goes_on && left > 0 && (result > 0 || interrupted) {
            self.submit_send(slot);
            return;
        }
        self.spans.remove(state.aux);
        state.aux = NONE;
        state.flags.clear(Flags::SENDING);
        if left > 0 {
            // A send of 0 bytes is unheard of; treat it as a broken connection rather than try for ever.
            let errno = if result < 0 { -result } else { libc::EPIPE };
            self.fail(slot, errno);
        } else if state.life == Life::Open {
            events.push(Event::Sent(socket));
        }
    }
}
