//! One link: a shard's way to one router.
//!
//! Owns its codec, its pace of reconnecting (`link_retry`, doubling with jitter up to [`RETRY_MAX`]) and the control
//! records that wait for the end of the turn. Leases are renewed on every link (`lease.rs`), so that a living router
//! always has something to answer; one that says nothing for `link_silence` is given up.
//!
//! Control records need no credit and are bounded by the number of connections; what carries payload is bounded by
//! the link's credit and waits in `waiting.rs`. What happens to all links together is in `links.rs`.

use std::time::Duration;

use corelane_protocol::arena::Span;
use corelane_protocol::hash::content_hash;
use corelane_protocol::link::codec::{LinkCodec, PeerInfo};
use corelane_protocol::link::record::Record;

use crate::event::LinkId;

/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Pause before a seed that led to a router which has a link already is tried again: its name may mean another by then.
const ALIAS_PAUSE: Duration = Duration::from_mins(1);
/// Longest time that an attempt may take, proof included.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// A close that is not answered within this time is not waited for.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(1);

/// How far a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Down {
        retry_at: Duration,
    },
    Connecting {
        since: Duration,
    },
    /// Connected; neither end has proved who it is.
    Shaking {
        since: Duration,
    },
    /// Established.
    Up,
    /// The shell was told to close it; `LinkClosed` is awaited.
    Closing {
        since: Duration,
    },
}

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) state: State,
    /// The present attempt, or the last.
    pub(crate) id: LinkId,
    codec: Option<Box<LinkCodec>>,
    /// Encoded control records of this turn.
    outbox: Vec<u8>,
    in_flight: bool,
    attempts: u32,
    /// Where its router listens: a seed, or what the list says.
    address: String,
    /// Where it was reached the last time.
    reached: String,
    /// Whether it was looked at who the other end claims to be.
    pub(crate) is_greeted: bool,
    /// What the last router that was reached said of itself.
    router: Option<PeerInfo>,
    pub(crate) heard_at: Duration,
    /// When a renewal left after which nothing was heard.
    asked_at: Option<Duration>,
    /// When the lease is renewed next on it.
    pub(crate) renew_at: Duration,
    /// While the list does not name its router, it stays at least until then.
    pub(crate) stays_until: Duration,
}

impl Link {
    /// A link to whatever listens at `address`, to be connected at once.
    pub(crate) fn new(address: String, now: Duration) -> Self {
        Self {
            state: State::Down { retry_at: now },
            id: LinkId(0),
            codec: None,
            outbox: Vec::new(),
            in_flight: false,
            attempts: 0,
            address,
            reached: String::new(),
            is_greeted: false,
            router: None,
            heard_at: now,
            asked_at: None,
            renew_at: now,
            stays_until: now,
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        self.state == State::Up
    }

    /// Whether bytes of the router are taken.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Shaking { .. } | State::Up)
    }

    /// Whether an attempt has failed, or the link was lost, since it was established last.
    pub(crate) const fn has_failed(&self) -> bool {
        self.attempts > 0
    }

    /// Whether one of its attempts leads to `address`.
    pub(crate) fn leads_to(&self, address: &str) -> bool {
        self.address == address || self.reached == address
    }

    /// What the last router that was reached said of itself.
    pub(crate) const fn router(&self) -> Option<&PeerInfo> {
        self.router.as_ref()
    }

    /// What the other end of the present connection says of itself, proved or not.
    pub(crate) fn claimed(&self) -> Option<&PeerInfo> {
        self.codec.as_ref()?.claimed()
    }

    /// Boot of the router, while the link is established.
    pub(crate) fn boot(&self) -> Option<u64> {
        let router = self.router.as_ref().filter(|_| self.is_established());
        router.map(|router| router.boot)
    }

    /// Its router says that it listens at `address`; empty if it does not say.
    pub(crate) fn readdress(&mut self, address: &str) {
        if !address.is_empty() {
            address.clone_into(&mut self.address);
        }
    }

    /// Where the next attempt goes: to the address that is known, and in turn to where the router was reached last, which
    /// it may not know of itself. Empty: nowhere.
    pub(crate) fn next_address(&self) -> &str {
        let is_other_turn = self.attempts.is_multiple_of(2) || self.address.is_empty();
        if is_other_turn && !self.reached.is_empty() {
            &self.reached
        } else {
            &self.address
        }
    }

    pub(crate) fn connecting(&mut self, id: LinkId, now: Duration) {
        self.id = id;
        self.state = State::Connecting { since: now };
    }

    pub(crate) fn connected(&mut self, codec: LinkCodec, now: Duration) {
        self.codec = Some(Box::new(codec));
        self.state = State::Shaking { since: now };
        self.is_greeted = false;
        self.in_flight = false;
        self.heard_at = now;
    }

    /// Both ends proved who they are.
    pub(crate) fn established(&mut self, router: PeerInfo, now: Duration) {
        let reached = self.next_address().to_owned();
        self.reached = reached;
        self.attempts = 0;
        self.state = State::Up;
        self.renew_at = now;
        self.router = Some(router);
    }

    /// Forgets the present connection; how it goes on is `next`.
    pub(crate) fn lose(&mut self, next: State) {
        self.codec = None;
        self.outbox.clear();
        self.in_flight = false;
        self.asked_at = None;
        self.state = next;
    }

    /// When the next attempt is made: after a pause that grows with their number.
    pub(crate) fn retry_at(&mut self, first: Duration, shard: u16, now: Duration) -> State {
        let pause = first.saturating_mul(1 << self.attempts.min(8)).min(RETRY_MAX);
        // Shards of one gateway, and gateways that lost the same router, do not come back in step.
        let spread = content_hash(&[shard.to_le_bytes(), (self.id.0 as u16).to_le_bytes()].concat()) % 512;
        self.attempts = self.attempts.saturating_add(1);
        State::Down {
            retry_at: now + pause / 2 + pause / 1024 * spread as u32,
        }
    }

    /// The next attempt comes after the shortest pause.
    pub(crate) const fn hurry(&mut self) {
        self.attempts = 0;
    }

    /// Another link leads to its router.
    pub(crate) fn park(&mut self, now: Duration) {
        self.lose(State::Down {
            retry_at: now + ALIAS_PAUSE,
        });
    }

    /// Takes the codec out while it is fed.
    pub(crate) const fn take_codec(&mut self) -> Option<Box<LinkCodec>> {
        self.codec.take()
    }

    pub(crate) fn put_codec(&mut self, codec: Box<LinkCodec>) {
        self.codec = Some(codec);
    }

    pub(crate) fn heard(&mut self, now: Duration) {
        self.heard_at = now;
        self.asked_at = None;
    }

    /// A renewal leaves; the next one is due at `next`.
    pub(crate) fn asked(&mut self, now: Duration, next: Duration) {
        self.asked_at.get_or_insert(now);
        self.renew_at = next;
    }

    /// Whether nothing was heard for `time` although something was asked.
    pub(crate) fn is_silent(&self, time: Duration, now: Duration) -> bool {
        self.asked_at.is_some_and(|asked| asked + time <= now)
    }

    /// Queues a control record; it leaves at the end of the turn, or is forgotten with the link.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        if self.is_established() {
            record.encode(&mut self.outbox);
        }
    }

    /// Whether there is credit for a frame of `bytes`.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        let codec = self.codec.as_ref().filter(|_| self.is_established());
        codec.is_some_and(|codec| codec.has_room_for(bytes))
    }

    /// Writes a record that needs credit.
    pub(crate) fn write(&mut self, record: &Record<'_>) -> bool {
        self.codec
            .as_mut()
            .is_some_and(|codec| codec.push(record).is_ok())
    }

    /// Whether everything has left.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.in_flight
            && self.outbox.is_empty()
            && self.codec.as_ref().is_none_or(|codec| !codec.has_output())
    }

    pub(crate) const fn sent(&mut self) {
        self.in_flight = false;
    }

    /// What was gathered for the router, if nothing is in flight. Never two spans without [`Self::sent`] between them.
    pub(crate) fn flush(&mut self, scratch: &mut Vec<u8>) -> Option<Span> {
        let codec = self.codec.as_mut()?;
        if codec.is_established() {
            let mut rest: &[u8] = &self.outbox;
            while let Ok((record, after)) = Record::split(rest) {
                rest = after;
                codec.push(&record).expect("control records need no credit");
            }
            self.outbox.clear();
        }
        if self.in_flight || !codec.has_output() {
            return None;
        }
        scratch.clear();
        codec.output(scratch);
        self.in_flight = true;
        Some(Span::copied_from(scratch))
    }

    /// When it is looked at next. While it `may_connect` that is also when it is connected.
    pub(crate) fn next_deadline(&self, may_connect: bool) -> Option<Duration> {
        match self.state {
            State::Down { retry_at } => (may_connect && !self.next_address().is_empty()).then_some(retry_at),
            State::Connecting { since } | State::Shaking { since } => Some(since + ATTEMPT_MAX),
            State::Up => Some(self.renew_at),
            State::Closing { since } => Some(since + CLOSE_MAX),
        }
    }
}
