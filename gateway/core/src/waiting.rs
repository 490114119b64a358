//! Frames that wait for credit of the link, or for its lease to be certain, in the order they came.
//!
//! Owns at most [`WAITING_SLOTS`] frames of [`WAITING_BYTES_MAX`] bytes; when it is full the next one is refused
//! with `overloaded`. A frame that waits longer than `send_deadline` is refused too. What was refused or whose
//! connection is gone leaves the queue when its turn comes: its ticket is then in no window any more.

use std::collections::VecDeque;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::{ConnId, Lane as StoreLane};

use crate::forward::Outgoing;
use crate::shard::Shard;

/// Most frames that wait.
const WAITING_SLOTS: usize = 8192;
/// Most bytes of frames that wait.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Deferred>,
    bytes: usize,
    ticket: u32,
}

#[derive(Debug)]
struct Deferred {
    id: ConnId,
    ticket: u32,
    due: Duration,
    lane: StoreLane,
    is_awaited: bool,
    conv: Option<u64>,
    reference: u32,
    frame: Box<[u8]>,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// A number that tells one forwarded frame from another.
    pub(crate) const fn next_ticket(&mut self) -> u32 {
        self.ticket = self.ticket.wrapping_add(1);
        self.ticket
    }

    /// Takes a frame, unless there is no room.
    pub(crate) fn push(&mut self, id: ConnId, ticket: u32, due: Duration, outgoing: &Outgoing<'_>) -> bool {
        let bytes = self.bytes + outgoing.frame.len();
        if self.queue.len() >= WAITING_SLOTS || bytes > WAITING_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.queue.push_back(Deferred {
            id,
            ticket,
            due,
            lane: outgoing.lane,
            is_awaited: outgoing.is_awaited,
            conv: outgoing.conv,
            reference: outgoing.reference,
            frame: outgoing.frame.into(),
        });
        true
    }

    /// Takes the first frame out if it `is_wanted`.
    fn pop_if(&mut self, is_wanted: impl FnOnce(&Deferred) -> bool) -> Option<Deferred> {
        self.queue.front().filter(|first| is_wanted(first))?;
        let first = self.queue.pop_front()?;
        self.bytes -= first.frame.len();
        Some(first)
    }

    /// When the first frame has waited too long.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.queue.front().map(|first| first.due)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}

impl Shard {
    /// Writes what waits, as far as there is credit.
    pub(crate) fn write_waiting(&mut self) {
        while let Some(deferred) = self
            .waiting
            .pop_if(|first| self.link.has_room_for(first.frame.len(), self.now.mono))
        {
            if self.has_left_queue(deferred.id, deferred.ticket) {
                let outgoing = Outgoing {
                    reference: deferred.reference,
                    conv: deferred.conv,
                    lane: deferred.lane,
                    is_awaited: deferred.is_awaited,
                    frame: &deferred.frame,
                };
                self.write(deferred.id, &outgoing, deferred.due.saturating_sub(self.now.mono));
            }
            if !deferred.is_awaited {
                self.forget(deferred.id, |each| each.ticket == deferred.ticket);
                self.unblock(deferred.id);
            }
        }
    }

    /// Refuses what has waited too long.
    pub(crate) fn expire_waiting(&mut self) {
        let now = self.now.mono;
        while let Some(deferred) = self.waiting.pop_if(|first| first.due <= now) {
            if let Some(expired) = self.forget(deferred.id, |each| each.ticket == deferred.ticket) {
                self.metrics.forward_overloaded += 1;
                self.refuse(
                    deferred.id,
                    expired,
                    ErrorCode::Overloaded,
                    "the router takes no more",
                );
            }
        }
    }
}
