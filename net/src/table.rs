//! One ring and everything that belongs to its sockets. What happens in one never touches another.
//!
//! Owns: the ring, its slots, the spans being sent and the addresses being written, and the lists of sockets that
//! receive, wait for a buffer, or linger. A slot stands in each of the first two at most once. The list of those that
//! linger keeps sockets that ended early until their time comes; once it is twice as long as there are slots it is
//! cleaned of them.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use corelane_protocol::arena::Span;

use crate::address::AddressCell;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::event::Event;
use crate::id::{ListenerId, Socket};
use crate::ring::{Completion, Ring};
use crate::slab::Slab;
use crate::slots::{Armed, Flags, Life, Slot, Slots};
use crate::stats::EngineStats;
use crate::token::{Op, Token};

/// Nothing in `Slot::aux`.
pub(crate) const NONE: u32 = u32::MAX;

/// The moment of a turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: Duration,
    /// `now` in units of [`TICK`], wrapped.
    pub(crate) tick: u8,
}

/// Unit of the coarse time kept per socket.
const TICK: Duration = Duration::from_millis(500);

impl Moment {
    #[expect(clippy::cast_possible_truncation, reason = "ticks are compared modulo 256")]
    pub(crate) fn at(now: Duration) -> Self {
        Self {
            now,
            tick: (now.as_millis() / TICK.as_millis()) as u8,
        }
    }
}

/// An address that an accept fills or a connect reads.
pub(crate) struct AddressInFlight {
    /// For accepts: where.
    pub(crate) listener: ListenerId,
    pub(crate) cell: AddressCell,
}

pub(crate) struct Table {
    // Dropped first: nothing below may go while the kernel could use it.
    pub(crate) ring: Ring,
    pub(crate) slots: Slots,
    /// Position of this ring in the engine.
    pub(crate) number: u16,
    /// Engine-wide index of slot 0.
    first_index: u32,
    /// Sockets that are connected, connecting or closing.
    pub(crate) open_count: u32,
    pub(crate) spans: Slab<Span>,
    pub(crate) addresses: Slab<AddressInFlight>,
    /// Sockets whose receive ended for want of a buffer.
    pub(crate) starved: VecDeque<u32>,
    /// Sockets with a receive that stays armed, to be swept for quiet ones.
    pub(crate) receiving: Vec<u32>,
    pub(crate) sweep_next: usize,
    /// When lingering ends, soonest first.
    pub(crate) lingering: VecDeque<(Duration, Socket)>,
    pub(crate) counts: EngineStats,
}

impl Table {
    pub(crate) fn new(
        config: &EngineConfig,
        number: u16,
        receive_buffers: u16,
        bell: Option<RawFd>,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            number,
            ring: Ring::new(config, receive_buffers, bell)?,
            slots: Slots::new(config.slots_per_ring),
            first_index: u32::from(number) * config.slots_per_ring,
            open_count: 0,
            spans: Slab::new(),
            addresses: Slab::new(),
            starved: VecDeque::new(),
            receiving: Vec::new(),
            sweep_next: 0,
            lingering: VecDeque::new(),
            counts: EngineStats::default(),
        })
    }

    /// The slot of a socket, unless it was closed.
    pub(crate) fn find(&self, socket: Socket) -> Option<(u32, &Slot)> {
        let number = socket.slot_index().checked_sub(self.first_index)?;
        let slot = self.slots.get(number)?;
        let alive =
            slot.generation == socket.generation() && !matches!(slot.life, Life::Free | Life::Accepting);
        alive.then_some((number, slot))
    }

    /// The id of the present user of `slot`.
    pub(crate) fn socket(&self, slot: u32) -> Option<Socket> {
        let generation = self.slots.get(slot)?.generation;
        Some(Socket::new(self.first_index + slot, generation))
    }

    /// The token of an operation on `slot` now.
    pub(crate) fn token(&self, slot: u32, op: Op) -> Option<Token> {
        Some(Token {
            op,
            index: self.first_index + slot,
            generation: self.slots.get(slot)?.generation,
        })
    }

    /// Counts an operation that is about to be submitted, and names it.
    pub(crate) fn begin(&mut self, slot: u32, op: Op) -> Option<Token> {
        let token = self.token(slot, op)?;
        let slot = self.slots.get_mut(slot)?;
        slot.in_flight += 1;
        Some(token)
    }

    /// Submits the cancel of an operation of `slot`.
    pub(crate) fn cancel(&mut self, slot: u32, op: Op) {
        if let (Some(target), Some(token)) = (self.token(slot, op), self.begin(slot, Op::Cancel)) {
            self.ring.cancel(target, token);
        }
    }

    /// Counts the completion off and returns its slot, if it belongs to a live operation.
    pub(crate) fn complete(&mut self, token: Token, completion: &Completion) -> Option<u32> {
        let number = token.index.checked_sub(self.first_index);
        let slot = number
            .and_then(|number| self.slots.get_mut(number))
            .filter(|slot| slot.generation == token.generation && slot.life != Life::Free);
        let Some(slot) = slot else {
            debug_assert!(false, "{token:?} completed after its slot was freed");
            self.counts.stale_completions += 1;
            self.put_back(completion.buffer);
            return None;
        };
        if !completion.more {
            debug_assert!(slot.in_flight > 0, "{token:?} completed twice");
            slot.in_flight = slot.in_flight.saturating_sub(1);
        }
        number
    }

    /// Gives a buffer back that nobody shall see.
    pub(crate) fn put_back(&mut self, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.ring.buffers.hold(buffer, 0);
            self.ring.buffers.recycle(buffer);
        }
    }

    /// Takes note of a completion of a socket's operation (all but accepts).
    pub(crate) fn on_completion(
        &mut self,
        token: Token,
        completion: &Completion,
        moment: Moment,
        events: &mut Vec<Event>,
    ) {
        let Some(slot) = self.complete(token, completion) else {
            return;
        };
        match token.op {
            Op::Connect => self.on_connect(slot, completion.result, moment, events),
            Op::Poll => self.on_poll(slot, completion.result, moment),
            Op::ReceiveOnce | Op::ReceiveMany => self.on_receive(slot, completion, moment, events),
            Op::Send => self.on_send(slot, completion.result, events),
            Op::Close => {
                self.on_close(slot, events);
                return;
            }
            Op::Cancel | Op::Shutdown | Op::Discard | Op::Accept | Op::Bell | Op::CancelAll => {}
        }
        self.settle(slot, moment);
    }

    /// Makes a free slot into a connected socket's.
    pub(crate) fn opened(&mut self, slot: u32, moment: Moment) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.life = Life::Open;
            slot.aux = NONE;
            slot.heard_tick = moment.tick;
        }
        self.arm_receive(slot, Armed::Many);
    }

    /// Ends a connection that broke. If the user had asked for the close already, that stays the reason.
    pub(crate) fn fail(&mut self, slot: u32, errno: i32) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        match state.life {
            Life::Open => {
                state.flags.set(Flags::BROKEN);
                state.errno = u16::try_from(errno).unwrap_or(0);
            }
            Life::Flushing | Life::Lingering => {}
            _ => return,
        }
        self.end(slot, false, false);
    }

    pub(crate) fn user_bytes(&self) -> crate::stats::UserBytes {
        let in_flight = self.spans.table_bytes()
            + self.addresses.table_bytes()
            + self.ring.waiting_bytes()
            + self.starved.capacity() * size_of::<u32>()
            + self.receiving.capacity() * size_of::<u32>()
            + self.lingering.capacity() * size_of::<(Duration, Socket)>();
        crate::stats::UserBytes {
            slots: self.slots.bytes() as u64,
            receive_buffers: self.ring.buffers.bytes() as u64,
            in_flight: in_flight as u64,
        }
    }
}
