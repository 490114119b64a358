//! Outgoing connections: an ordinary socket gets its options, moves into the table and connects there.
#![expect(
    unsafe_code,
    reason = "the kernel reads the address while a connect is in flight"
)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use crate::address::AddressCell;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::id::{ListenerId, Socket};
use crate::slots::{Flags, Life};
use crate::sockopt;
use crate::table::{AddressInFlight, Moment, Table};
use crate::token::Op;

impl Engine {
    /// Starts to connect to `to`. [`Event::Connected`] follows, or [`Event::Closed`] with the reason. `from`
    /// picks the source address (the kernel picks the port when it knows the destination, so each source
    /// address serves all ports again): the way to more than 28,000 connections to one server.
    ///
    /// # Errors
    ///
    /// [`EngineError::Full`]: try again after a socket closed. [`EngineError::Connect`]: no descriptor or
    /// memory for the moment, or `from` is not an address of this machine.
    pub fn connect(&mut self, to: SocketAddr, from: Option<IpAddr>) -> Result<Socket, EngineError> {
        let moment = self.moment();
        let table = self.table_for_connect(moment)?;
        let failed = |source| EngineError::Connect { to, source };
        let socket = sockopt::outgoing(to, from, &self.config).map_err(failed)?;
        let Some(table) = self.tables.get_mut(table) else {
            return Err(self.full());
        };
        table.start_connect(to, socket.as_raw_fd()).map_err(failed)
    }
}

impl Table {
    fn start_connect(&mut self, to: SocketAddr, descriptor: i32) -> std::io::Result<Socket> {
        let out_of_slots = || std::io::Error::from_raw_os_error(libc::ENFILE);
        let Some((slot, state)) = self.slots.take(Life::Connecting) else {
            return Err(out_of_slots());
        };
        state.aux = self.addresses.insert(AddressInFlight {
            listener: ListenerId(u32::MAX),
            cell: AddressCell::of(to),
        });
        let key = state.aux;
        if let Err(error) = self.ring.install(slot, descriptor) {
            self.addresses.remove(key);
            self.slots.give_back(slot);
            return Err(error);
        }
        self.open_count += 1;
        let token = self.begin(slot, Op::Connect).ok_or_else(out_of_slots)?;
        if let Some(address) = self.addresses.get_mut(key) {
            // SAFETY: the cell stays in `addresses` until `on_connect` takes it out at the completion of
            // this operation, or until the ring was drained (`Engine::drop`).
            unsafe { self.ring.connect(slot, &mut address.cell, token) };
        }
        self.socket(slot).ok_or_else(out_of_slots)
    }

    pub(crate) fn on_connect(&mut self, slot: u32, result: i32, moment: Moment, events: &mut Vec<Event>) {
        let socket = self.socket(slot);
        let (Some(state), Some(socket)) = (self.slots.get_mut(slot), socket) else {
            return;
        };
        self.addresses.remove(state.aux);
        // Else the user closed it in the meantime.
        if state.life != Life::Connecting {
            return;
        }
        if result == 0 {
            self.counts.connected += 1;
            events.push(Event::Connected(socket));
            self.opened(slot, moment);
        } else {
            self.counts.connect_failures += 1;
            state.flags.set(Flags::CONNECT_FAILED);
            state.errno = u16::try_from(-result).unwrap_or(0);
            self.end(slot, false, false);
        }
    }
}
