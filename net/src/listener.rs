//! Listening and accepting.
//!
//! Owns the sockets that listen. Each keeps up to 64 single-shot accepts armed. An accept has room of its own
//! for the peer's address (a multishot accept has none) and **owns the slot** its connection will have, so
//! the kernel never accepts what it has no room for. Slots come from the lowest ring with room; the next
//! ring is made when little room is left in the others.
//!
//! When all rings are full: the slots owned by armed accepts are the reserve. What is accepted into them is
//! marked, to be told that there is no room. With the reserve used up too, nothing is armed and peers wait
//! in the backlog.
//!
//! When the system lacks descriptors or memory, accepting pauses for 50 ms.
#![expect(
    unsafe_code,
    reason = "the kernel writes peer addresses while an accept is in flight"
)]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use corelane_protocol::listener::ListenerKind;

use crate::address::AddressCell;
use crate::config::ListenOptions;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::id::ListenerId;
use crate::ring::Completion;
use crate::slots::Life;
use crate::sockopt;
use crate::table::{AddressInFlight, Moment, Table};
use crate::token::{Op, Token};

/// How long accepting rests after the system lacked something.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Listener {
    socket: socket2::Socket,
    armed_count: u32,
    paused_until: Option<Duration>,
    stopping: Stopping,
    kind: ListenerKind,
}

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    /// Listening.
    No,
    /// Armed accepts were cancelled.
    Cancelled,
    /// What the backlog still holds is accepted, without waiting for more.
    Emptying,
}

impl Listener {
    fn rests(&self, moment: Moment) -> bool {
        self.paused_until.is_some_and(|until| until > moment.now)
    }
}

impl Engine {
    /// Listens on `address` (port 0: a free one) and returns where it does.
    ///
    /// # Errors
    ///
    /// [`EngineError::AddressInUse`] or [`EngineError::Listen`]; both name the address.
    pub fn listen(
        &mut self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> Result<(ListenerId, SocketAddr), EngineError> {
        let answer = sockopt::listening(address, options, self.config.send_buffer_bytes);
        let (socket, bound) = answer.map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => EngineError::AddressInUse { address },
            _ => EngineError::Listen { address, source },
        })?;
        let key = self.listeners.insert(Listener {
            socket,
            armed_count: 0,
            paused_until: None,
            stopping: Stopping::No,
            kind: options.kind,
        });
        Ok((ListenerId(key), bound))
    }

    /// Stops listening. What the backlog still holds is accepted and told; then the port is free.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        let Some(state) = self.listeners.get_mut(listener.0) else {
            return;
        };
        if state.stopping != Stopping::No {
            return;
        }
        state.stopping = Stopping::Cancelled;
        for table in &mut self.tables {
            table.cancel_accepts(listener);
        }
        self.stop_further(listener);
    }

    /// Arms what is missing, for all listeners, and takes stopping ones further.
    pub(crate) fn arm_accepts(&mut self, moment: Moment, events: &mut Vec<Event>) {
        for key in 0..self.listeners.keys_end() {
            while let Some(listener) = self.listeners.get_mut(key) {
                if listener.rests(moment) {
                    break;
                }
                listener.paused_until = None;
                let goes_on = match listener.stopping {
                    Stopping::No if listener.armed_count >= self.config.reserve_slots() => false,
                    Stopping::No => self.arm_accept(ListenerId(key), moment),
                    Stopping::Cancelled => false,
                    Stopping::Emptying => self.accept_rest(ListenerId(key), moment, events),
                };
                if !goes_on {
                    break;
                }
            }
        }
    }

    /// Arms one accept; returns false if there is no room.
    fn arm_accept(&mut self, id: ListenerId, moment: Moment) -> bool {
        let Some(table) = self.table_with_room(moment) else {
            return false;
        };
        let (Some(table), Some(listener)) = (self.tables.get_mut(table), self.listeners.get_mut(id.0)) else {
            return false;
        };
        listener.armed_count += 1;
        table.submit_accept(id, listener.socket.as_raw_fd());
        true
    }

    pub(crate) fn on_accept(
        &mut self,
        table: usize,
        token: Token,
        completion: &Completion,
        moment: Moment,
        events: &mut Vec<Event>,
    ) {
        let Some(state) = self.tables.get_mut(table) else {
            return;
        };
        let Some((slot, address)) = state.take_accept(token, completion) else {
            return;
        };
        let id = address.listener;
        if let Some(listener) = self.listeners.get_mut(id.0) {
            listener.armed_count = listener.armed_count.saturating_sub(1);
        }
        if completion.result < 0 {
            state.slots.give_back(slot);
            self.on_accept_error(id, -completion.result, moment);
        } else {
            self.accepted(table, slot, id, address.cell.into_address(), moment, events);
        }
        self.stop_further(id);
    }

    /// Tells about the connection in `slot`.
    fn accepted(
        &mut self,
        table: usize,
        slot: u32,
        listener: ListenerId,
        peer: Option<SocketAddr>,
        moment: Moment,
        events: &mut Vec<Event>,
    ) {
        let reserve = self.open_count() >= self.capacity();
        let kind = self
            .listeners
            .get(listener.0)
            .map_or_else(ListenerKind::default, |state| state.kind);
        let Some(table) = self.tables.get_mut(table) else {
            return;
        };
        let Some(socket) = table.socket(slot) else {
            return;
        };
        table.open_count += 1;
        table.counts.accepted += 1;
        table.counts.accepted_reserve += u64::from(reserve);
        events.push(Event::Accepted {
            listener,
            kind,
            socket,
            peer: peer.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            reserve,
        });
        table.opened(slot, moment);
    }

    /// Accepts one of those who are left in the backlog of a stopping listener; closes it when there is
    /// none. An accept in the ring would wait for the next instead. Returns whether to go on.
    fn accept_rest(&mut self, id: ListenerId, moment: Moment, events: &mut Vec<Event>) -> bool {
        let Some(number) = self.table_with_room(moment) else {
            return false;
        };
        let Some(listener) = self.listeners.get(id.0) else {
            return false;
        };
        let (socket, peer) = match listener.socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.listeners.remove(id.0);
                return false;
            }
            Err(error) => {
                self.on_accept_error(id, error.raw_os_error().unwrap_or(0), moment);
                return true;
            }
        };
        let Some(table) = self.tables.get_mut(number) else {
            return false;
        };
        let Some((slot, _)) = table.slots.take(Life::Open) else {
            return false;
        };
        if table.ring.install(slot, socket.as_raw_fd()).is_err() {
            table.slots.give_back(slot);
            self.accept_failures += 1;
            return true;
        }
        self.accepted(number, slot, id, peer.as_socket(), moment, events);
        true
    }

    fn on_accept_error(&mut self, id: ListenerId, errno: i32, moment: Moment) {
        let Some(listener) = self.listeners.get_mut(id.0) else {
            return;
        };
        match errno {
            libc::ECANCELED if listener.stopping != Stopping::No => return,
            // The peer gave up, or a network error of the new connection (accept(2)): the next may work.
            libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EPROTO
            | libc::EINTR
            | libc::EAGAIN
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH => {}
            _ => listener.paused_until = Some(moment.now + PAUSE),
        }
        self.accept_failures += 1;
    }

    /// Lets a stopping listener empty its backlog once none of its accepts is armed.
    fn stop_further(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(id.0)
            && listener.armed_count == 0
            && listener.stopping == Stopping::Cancelled
        {
            listener.stopping = Stopping::Emptying;
            if listener.socket.set_nonblocking(true).is_err() {
                self.listeners.remove(id.0);
            }
        }
    }

    /// When a resting listener goes on.
    pub(crate) fn accepts_resume_at(&self) -> Option<Duration> {
        (0..self.listeners.keys_end())
            .filter_map(|key| self.listeners.get(key)?.paused_until)
            .min()
    }
}

impl Table {
    fn submit_accept(&mut self, listener: ListenerId, descriptor: i32) {
        let Some((slot, state)) = self.slots.take(Life::Accepting) else {
            return;
        };
        let key = self.addresses.insert(AddressInFlight {
            listener,
            cell: AddressCell::empty(),
        });
        state.aux = key;
        let Some(token) = self.begin(slot, Op::Accept) else {
            return;
        };
        if let Some(address) = self.addresses.get(key) {
            // SAFETY: the cell stays in `addresses` until `take_accept` takes it out at the completion of
            // this operation, or until the ring was drained (`Engine::drop`).
            unsafe { self.ring.accept(descriptor, slot, &address.cell, token) };
        }
    }

    fn take_accept(&mut self, token: Token, completion: &Completion) -> Option<(u32, AddressInFlight)> {
        let slot = self.complete(token, completion)?;
        let key = self.slots.get(slot)?.aux;
        let address = self.addresses.remove(key)?;
        Some((slot, address))
    }

    fn cancel_accepts(&mut self, listener: ListenerId) {
        for slot in 0..self.slots.count() {
            let Some(state) = self.slots.get(slot) else {
                return;
            };
            let address = self.addresses.get(state.aux);
            if state.life == Life::Accepting
                && address.is_some_and(|address| address.listener == listener)
                && let Some(target) = self.token(slot, Op::Accept)
            {
                self.ring.cancel(target, Token::of(Op::CancelAll));
            }
        }
    }
}
