//! Processes that stand still and go on.
//!
//! What would happen to a process that stands still is held, in order, and happens in one turn when it goes on; what its
//! sockets had sent, and what it had asked a port for, is on its way all the same. What would happen to a gateway that is
//! down happens to nobody.

use crate::member::Step;
use crate::world::{Event, World};

/// Longest pause.
pub(crate) const PAUSE_US_MAX: u64 = 3_000_000;
/// A process that can stand still, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Gateway(usize),
    Router(usize),
}

/// Whether a process stands still, and what waits for it.
#[derive(Debug)]
pub(crate) struct Standstill {
    pub(crate) is_on: bool,
    held: Vec<Event>,
}

impl Standstill {
    /// It runs.
    pub(crate) const fn new() -> Self {
        Self {
            is_on: false,
            held: Vec::new(),
        }
    }
}

impl World {
    /// The process that an event happens to.
    pub(crate) fn standing_of(&self, event: &Event) -> Option<Standing> {
        if let Some(shard) = self.shard_of(event) {
            return Some(Standing::Gateway(self.gateways[shard].process));
        }
        let life = match event {
            Event::LinkIn(link, _)
            | Event::Claim(link, ..)
            | Event::Unclaim(link, ..)
            | Event::Owned(link, ..)
            | Event::ClaimsBegin(link)
            | Event::ClaimsDone(link, _)
            | Event::Leave(link)
            | Event::Request(link, _) => self.links[*link].life,
            // It left before.
            Event::Member(_, Step::Do(..)) => return None,
            Event::Reap(life)
            | Event::Committed(life, ..)
            | Event::Stray(life, _)
            | Event::Settle(life)
            | Event::Core(life, _)
            | Event::Bounced(life, ..)
            | Event::TopicLost(life, _)
            | Event::Member(life, _)
            | Event::Noticed(life)
            | Event::Sweep(life)
            | Event::Adopt(life, _)
            | Event::Stop(life) => *life,
            _ => return None,
        };
        self.router_of(life).map(Standing::Router)
    }

    /// The shard that an event happens to.
    fn shard_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Wake(shard)
            | Event::Inbox(shard, _)
            | Event::LinkUp(shard, ..)
            | Event::LinkSent(shard, _)
            | Event::LinkLost(shard, _)
            | Event::NewBoot(shard, _) => Some(*shard),
            Event::Accepted(socket)
            | Event::Bytes(socket, _)
            | Event::Fin(socket)
            | Event::Left(socket, _)
            | Event::SocketGone(socket) => Some(self.sockets[*socket].shard),
            Event::LinkOut(link, _) => Some(self.links[*link].shard),
            _ => None,
        }
    }

    fn standstill(&mut self, standing: Standing) -> &mut Standstill {
        match standing {
            Standing::Gateway(process) => &mut self.processes[process].still,
            Standing::Router(router) => &mut self.routers[router].still,
        }
    }

    /// Holds an event whose process stands still; gives back any other.
    pub(crate) fn hold(&mut self, event: Event) -> Option<Event> {
        let Some(standing) = self.standing_of(&event) else {
            return Some(event);
        };
        if let Standing::Gateway(process) = standing
            && self.processes[process].is_down
        {
            return None;
        }
        let still = self.standstill(standing);
        if !still.is_on {
            return Some(event);
        }
        still.held.push(event);
        None
    }

    pub(crate) fn stand_still(&mut self, standing: Standing) {
        if std::mem::replace(&mut self.standstill(standing).is_on, true) {
            return;
        }
        self.counts.pauses += 1;
        let time = self.rng.between(100_000, PAUSE_US_MAX);
        self.after(time, Event::GoOn(standing));
    }

    pub(crate) fn go_on(&mut self, standing: Standing) {
        let still = self.standstill(standing);
        still.is_on = false;
        let held = std::mem::take(&mut still.held);
        // Sockets and inboxes are looked at before deadlines.
        let (deadlines, others): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|event| matches!(event, Event::Wake(_) | Event::Reap(_)));
        for event in others.into_iter().chain(deadlines) {
            self.happen(event);
        }
    }
}
