//! Frames that wait for credit of their link, or for the lease to be certain, in the order they came.
//!
//! Owns a queue per link, at most [`WAITING_SLOTS`] frames of [`WAITING_BYTES_MAX`] bytes in all; when that is full the
//! next one is refused with `overloaded`. A router that grants nothing holds up nothing but what is for it. A frame that
//! waits longer than `send_deadline` is refused too; a send whose lane has moved meanwhile is to be tried again. What was
//! refused or whose connection is gone leaves the queue when its turn comes: its ticket is then in no window any more.

use std::collections::VecDeque;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::{ConnId, Lane as StoreLane};

use crate::forward::Outgoing;
use crate::links::LinkIndex;
use crate::shard::Shard;

/// Most frames that wait.
const WAITING_SLOTS: usize = 8192;
/// Most bytes of frames that wait.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The queues.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// By the place of the link.
    queues: Vec<VecDeque<Deferred>>,
    frames: usize,
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
    /// How many wait.
    pub(crate) const fn len(&self) -> usize {
        self.frames
    }

    /// Whether any waits for this link.
    pub(crate) fn is_any_for(&self, link: LinkIndex) -> bool {
        self.queues.get(link.get()).is_some_and(|queue| !queue.is_empty())
    }

    /// A number that tells one forwarded frame from another.
    pub(crate) const fn next_ticket(&mut self) -> u32 {
        self.ticket = self.ticket.wrapping_add(1);
        self.ticket
    }

    /// Takes a frame, unless there is no room.
    pub(crate) fn push(&mut self, id: ConnId, ticket: u32, due: Duration, outgoing: &Outgoing<'_>) -> bool {
        let bytes = self.bytes + outgoing.frame.len();
        if self.frames >= WAITING_SLOTS || bytes > WAITING_BYTES_MAX {
            return false;
        }
        let link = outgoing.link.get();
        if self.queues.len() <= link {
            self.queues.resize_with(link + 1, VecDeque::new);
        }
        let Some(queue) = self.queues.get_mut(link) else {
            return false;
        };
        queue.push_back(Deferred {
            id,
            ticket,
            due,
            lane: outgoing.lane,
            is_awaited: outgoing.is_awaited,
            conv: outgoing.conv,
            reference: outgoing.reference,
            frame: outgoing.frame.into(),
        });
        self.bytes = bytes;
        self.frames += 1;
        true
    }

    /// Takes the first frame for a link out if it `is_wanted`.
    fn pop_if(&mut self, link: LinkIndex, is_wanted: impl FnOnce(&Deferred) -> bool) -> Option<Deferred> {
        let queue = self.queues.get_mut(link.get())?;
        queue.front().filter(|first| is_wanted(first))?;
        let first = queue.pop_front()?;
        self.bytes -= first.frame.len();
        self.frames -= 1;
        Some(first)
    }

    /// When a first frame has waited too long.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        if self.frames == 0 {
            return None;
        }
        let firsts = self.queues.iter().filter_map(VecDeque::front);
        firsts.map(|first| first.due).min()
    }

    /// Forgets what waits for a link.
    pub(crate) fn clear(&mut self, link: LinkIndex) {
        while self.pop_if(link, |_| true).is_some() {}
    }
}

impl Shard {
    /// Writes what waits, as far as there is credit.
    pub(crate) fn write_waiting(&mut self) {
        for link in self.links.indexes() {
            while let Some(deferred) = self.waiting.pop_if(link, |first| {
                self.links.has_room_for(link, first.frame.len(), self.now.mono)
            }) {
                self.write_deferred(link, &deferred);
            }
        }
    }

    fn write_deferred(&mut self, link: LinkIndex, deferred: &Deferred) {
        let (id, ticket) = (deferred.id, deferred.ticket);
        let has_moved = self.links.owner_of(deferred.lane) != Some(link);
        if let Some(key) = deferred.conv.filter(|_| has_moved) {
            if self.has_left_queue(id, ticket) {
                self.retry_conversation(id, key);
            }
            return;
        }
        if self.has_left_queue(id, ticket) {
            let outgoing = Outgoing {
                reference: deferred.reference,
                conv: deferred.conv,
                lane: deferred.lane,
                link,
                is_awaited: deferred.is_awaited,
                frame: &deferred.frame,
            };
            self.write(id, &outgoing, deferred.due.saturating_sub(self.now.mono));
        }
        if !deferred.is_awaited {
            self.forget(id, |each| each.ticket == ticket);
            self.unblock(id);
        }
    }

    /// Refuses what has waited too long.
    pub(crate) fn expire_waiting(&mut self) {
        let now = self.now.mono;
        for link in self.links.indexes() {
            while let Some(deferred) = self.waiting.pop_if(link, |first| first.due <= now) {
                let ticket = deferred.ticket;
                if let Some(expired) = self.forget(deferred.id, |each| each.ticket == ticket) {
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
}
