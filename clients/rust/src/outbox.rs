//! Sends messages so that each conversation keeps its sending order, errors included (go-back-N).
//!
//! One lane per conversation; at most `window` sends of all lanes are unanswered. After a retryable refusal a lane
//! waits until everything of it in flight was answered, pauses, and sends again from its oldest unacknowledged
//! message, marked `restart`. A lost connection does the same for every lane. A permanent refusal takes out one
//! message and nothing else. Holds at most `slots` messages; when full, a new one is refused and none is dropped.

use std::collections::{HashMap, VecDeque};

use corelane_protocol::frame::{FrameKind, body, encode_with, flag};
use corelane_protocol::id::{ClientMsgId, ConvId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::ClientError;
use crate::message::Ack;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) body: body::Send,
    pub(crate) done: oneshot::Sender<Result<Ack, ClientError>>,
    attempts: u32,
}

impl Item {
    pub(crate) fn new(body: body::Send, done: oneshot::Sender<Result<Ack, ClientError>>) -> Self {
        Self {
            body,
            done,
            attempts: 0,
        }
    }

    fn id(&self) -> ClientMsgId {
        ClientMsgId(self.body.client_msg_id)
    }
}

/// Unacknowledged messages of one conversation, oldest first.
#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<Item>,
    /// Index of the first item that is not in flight.
    next: usize,
    in_flight: usize,
    /// Refused: waits for the answers to what is in flight, then for its pause.
    blocked: bool,
    /// The next send opens the gate again.
    restart: bool,
    /// Stands in `ready`.
    queued: bool,
    /// Refusals since the last ack.
    failures: u32,
}

impl Lane {
    fn take(&mut self, id: ClientMsgId) -> Option<Item> {
        let index = self.items.iter().position(|item| item.id() == id)?;
        self.next -= usize::from(index < self.next);
        self.items.remove(index)
    }
}

#[derive(Debug)]
struct Flight {
    conv: ConvId,
    id: ClientMsgId,
    restart: bool,
    since: Instant,
}

/// What an answer to a send meant.
#[derive(Debug)]
pub(crate) enum Answered {
    /// It belongs to no send in flight.
    Unknown,
    /// The message is done with: acknowledged, or refused for good.
    Done(Item),
    /// It will be sent again.
    Again,
}

/// All lanes of a session.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: HashMap<ConvId, Lane>,
    /// Lanes that may have something to send, in turn.
    ready: VecDeque<ConvId>,
    in_flight: HashMap<u32, Flight>,
    /// Lanes to pause, with their failures; the owner takes them and calls [`Outbox::resume`] later.
    pauses: Vec<(ConvId, u32)>,
    window: usize,
    len: usize,
    slots: usize,
}

impl Outbox {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: HashMap::new(),
            pauses: Vec::new(),
            window: 0,
            len: 0,
            slots,
        }
    }

    /// When the oldest unanswered send went out.
    pub(crate) fn oldest_flight(&self) -> Option<Instant> {
        self.in_flight.values().map(|flight| flight.since).min()
    }

    /// Takes a message.
    ///
    /// # Errors
    ///
    /// The item again, when full.
    pub(crate) fn push(&mut self, conv: ConvId, item: Item) -> Result<(), Item> {
        if self.len >= self.slots {
            return Err(item);
        }
        self.len += 1;
        self.lanes.entry(conv.clone()).or_default().items.push_back(item);
        self.queue(conv);
        Ok(())
    }

    /// The connection is ready for sends.
    pub(crate) fn online(&mut self, window: u16) {
        self.window = usize::from(window);
    }

    /// Takes out the largest message of those without an answer, if there is one.
    pub(crate) fn take_largest(&mut self) -> Option<Item> {
        let size_of = |flight: &Flight| {
            let mut items = self.lanes.get(&flight.conv)?.items.iter();
            Some(items.find(|item| item.id() == flight.id)?.body.payload.len())
        };
        let largest = self.in_flight.values().max_by_key(|flight| size_of(flight))?;
        let (conv, id) = (largest.conv.clone(), largest.id);
        self.take(&conv, id)
    }

    /// The connection is gone: nothing in flight will be answered.
    pub(crate) fn offline(&mut self) {
        self.window = 0;
        self.in_flight.clear();
        self.pauses.clear();
        self.ready.clear();
        for (conv, lane) in &mut self.lanes {
            lane.restart |= lane.items.front().is_some_and(|item| item.attempts > 0);
            (lane.next, lane.in_flight, lane.blocked, lane.queued) = (0, 0, false, true);
            self.ready.push_back(conv.clone());
        }
    }

    /// Takes the answer to `reference`.
    pub(crate) fn answered(&mut self, reference: u32, acked: bool, retryable: bool) -> Answered {
        let Some(flight) = self.in_flight.remove(&reference) else {
            return Answered::Unknown;
        };
        let Some(lane) = self.lanes.get_mut(&flight.conv) else {
            return Answered::Unknown;
        };
        lane.in_flight -= 1;
        let result = if acked || !retryable {
            let item = lane.take(flight.id);
            self.len -= usize::from(item.is_some());
            if acked {
                lane.failures = 0;
            } else {
                // Whether a refused restart opened the gate is not known here: the next send says it again.
                lane.restart |= flight.restart;
            }
            item.map_or(Answered::Unknown, Answered::Done)
        } else {
            lane.blocked = true;
            Answered::Again
        };
        if lane.items.is_empty() {
            self.lanes.remove(&flight.conv);
        } else if lane.blocked && lane.in_flight == 0 {
            self.pauses.push((flight.conv, lane.failures));
            lane.failures += 1;
        }
        result
    }

    /// Lanes that now pause, each with how often it was refused before.
    pub(crate) fn take_pauses(&mut self) -> Vec<(ConvId, u32)> {
        std::mem::take(&mut self.pauses)
    }

    /// The pause of a lane is over. Does nothing if it is not paused (any more).
    pub(crate) fn resume(&mut self, conv: ConvId) {
        let Some(lane) = self
            .lanes
            .get_mut(&conv)
            .filter(|lane| lane.blocked && lane.in_flight == 0)
        else {
            return;
        };
        (lane.blocked, lane.restart, lane.next) = (false, true, 0);
        self.queue(conv);
    }

    /// Encodes what may be sent now, one message per lane in turn.
    pub(crate) fn pump(
        &mut self,
        now: Instant,
        next_reference: &mut impl FnMut() -> u32,
        out: &mut VecDeque<Vec<u8>>,
    ) {
        while self.in_flight.len() < self.window
            && let Some(conv) = self.ready.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&conv) else {
                continue;
            };
            lane.queued = false;
            if lane.blocked {
                continue;
            }
            let Some(item) = lane.items.get_mut(lane.next) else {
                continue;
            };
            let restart = std::mem::take(&mut lane.restart);
            let reference = next_reference();
            let flags = if restart { flag::RESTART } else { 0 };
            out.push_back(encode_with(FrameKind::Send, flags, reference, &item.body, &[]));
            item.attempts += 1;
            lane.next += 1;
            lane.in_flight += 1;
            let flight = Flight {
                conv: conv.clone(),
                id: item.id(),
                restart,
                since: now,
            };
            self.in_flight.insert(reference, flight);
            self.queue(conv);
        }
    }

    /// Empties it.
    pub(crate) fn take_all(&mut self) -> Vec<Item> {
        self.offline();
        self.ready.clear();
        self.len = 0;
        self.lanes.drain().flat_map(|(_, lane)| lane.items).collect()
    }

    fn take(&mut self, conv: &ConvId, id: ClientMsgId) -> Option<Item> {
        let lane = self.lanes.get_mut(conv)?;
        let item = lane.take(id)?;
        self.len -= 1;
        if lane.items.is_empty() {
            self.lanes.remove(conv);
        }
        Some(item)
    }

    fn queue(&mut self, conv: ConvId) {
        if let Some(lane) = self.lanes.get_mut(&conv)
            && !lane.queued
            && lane.next < lane.items.len()
        {
            lane.queued = true;
            self.ready.push_back(conv);
        }
    }
}
