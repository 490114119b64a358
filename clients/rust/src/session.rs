//! The rules of a session: what every frame, command and moment means.
//!
//! Owns the outbox, the timelines and all requests without an answer; holds no socket and reads no clock. The driver
//! hands in what happens with the time, takes `out` to the socket and `events` to the user, and looks at `ending`
//! after each step. `out` stays small because sends keep to the window and the driver takes no commands while it is long.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameError, FrameKind, body, encode};
use corelane_protocol::id::{ClientMsgId, ConvId, UserId};
use corelane_protocol::ws::close::{CloseCode, may_reconnect};
use tokio::time::Instant;

use crate::client::{Answer, Command, PullAnswer};
use crate::error::ClientError;
use crate::event::{Event, Source};
use crate::message::{Ack, Received, conv, take};
use crate::options::{Options, exponential, random_up_to};
use crate::outbox::{Answered, Item, Outbox};
use crate::timeline::Timeline;

/// Longest pause before a refused conversation is tried again.
const GATE_PAUSE_MAX: Duration = Duration::from_secs(10);
/// First bound of that pause.
const GATE_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The gateway hung up on a frame that was too large (RFC 6455 section 7.4.1).
const CLOSED_TOO_LARGE: u16 = 1009;

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Timer {
    /// Ping, and look whether the server is alive.
    Heartbeat,
    /// A refused conversation may try again.
    Resume(ConvId),
    /// A gap did not close by itself.
    Gap(ConvId),
    /// Sync.
    Sync,
    /// Leave the gateway, as it asked.
    Leave,
    /// The `Welcome` is late.
    Welcome,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) enum Waiting {
    Sync,
    Fill(ConvId, RangeInclusive<u64>),
    /// Whether the log goes on at this place.
    Doubt(ConvId, u64),
    Pull(Answer<PullAnswer>),
    Read(Answer<body::ReadUpTo>),
    Presence(Answer<body::Presence>),
}

/// Why a connection is over.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) code: u16,
    pub(crate) reason: String,
    /// The client wanted it: no pause before the next, or no next.
    pub(crate) wanted: bool,
}

/// A sync that runs, page after page.
#[derive(Debug, Default)]
pub(crate) struct SyncRun {
    /// What it told, if somebody asked for it.
    pub(crate) states: Vec<body::ConvState>,
    /// Asked for once more meanwhile.
    pub(crate) again: bool,
    /// The cursor was dropped meanwhile: this sync must not bring it back.
    pub(crate) dropped: bool,
}

/// A session of one user on one terminal.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) options: Options,
    pub(crate) user: Option<UserId>,
    pub(crate) online: bool,
    /// Frames for the socket.
    pub(crate) out: VecDeque<Vec<u8>>,
    /// Events for the user.
    pub(crate) events: VecDeque<Event>,
    /// Set when the connection must end.
    pub(crate) ending: Option<Ending>,
    /// Set when the session must end with it.
    pub(crate) closing: bool,
    pub(crate) epoch: u64,
    pub(crate) cursor: Vec<u8>,
    pub(crate) timelines: HashMap<ConvId, Timeline>,
    /// Messages in the middle of conversations not known yet, until a sync tells of them.
    pub(crate) strangers: HashMap<ConvId, Vec<Received>>,
    pub(crate) stranger_count: usize,
    pub(crate) fills: usize,
    /// The sync that runs.
    pub(crate) sync: Option<SyncRun>,
    /// Who asked for the sync that runs, and for the one after it.
    pub(crate) sync_askers: Vec<Answer<Vec<body::ConvState>>>,
    pub(crate) next_sync_askers: Vec<Answer<Vec<body::ConvState>>>,
    outbox: Outbox,
    requests: HashMap<u32, (Instant, Waiting)>,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_count: u64,
    last_ref: u32,
    last_heard: Option<Instant>,
    heartbeat: Duration,
    /// Largest payload that the gateway takes; no limit before its first `Welcome`.
    payload_bytes_max: usize,
    failures: u32,
    token_expired: bool,
    /// Between these moments the gateway wants its clients back elsewhere.
    away: Option<(Instant, Instant)>,
}

impl Session {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            outbox: Outbox::new(options.outbox_slots.max(1)),
            options,
            user: None,
            online: false,
            out: VecDeque::new(),
            events: VecDeque::new(),
            ending: None,
            closing: false,
            epoch: 0,
            cursor: Vec::new(),
            timelines: HashMap::new(),
            strangers: HashMap::new(),
            stranger_count: 0,
            fills: 0,
            sync: None,
            sync_askers: Vec::new(),
            next_sync_askers: Vec::new(),
            requests: HashMap::new(),
            timers: BTreeMap::new(),
            timer_count: 0,
            last_ref: 0,
            last_heard: None,
            heartbeat: Duration::ZERO,
            payload_bytes_max: usize::MAX,
            failures: 0,
            token_expired: false,
            away: None,
        }
    }

    /// The socket is open.
    pub(crate) fn connected(&mut self, now: Instant) {
        let hello = body::Hello {
            token: self.options.token.clone(),
            terminal: self.options.terminal as u8,
            device: self.options.device.clone(),
            epoch: self.epoch,
        };
        self.transmit(FrameKind::Hello, &hello);
        self.at(now + self.options.answer_timeout, Timer::Welcome);
    }

    /// The next moment that something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            match entry.remove() {
                Timer::Heartbeat => self.beat(now),
                Timer::Resume(conv) => self.outbox.resume(conv),
                Timer::Gap(conv) => {
                    if let Some(timeline) = self.timelines.get_mut(&conv) {
                        timeline.gap_timer = false;
                    }
                    self.fill(now, &conv);
                }
                Timer::Sync => self.start_sync(now),
                Timer::Leave => self.end(CloseCode::Draining as u16, "gateway is draining", true),
                Timer::Welcome if !self.online => self.end(1006, "no welcome in time", false),
                Timer::Welcome => {}
            }
        }
    }

    /// Encodes the sends that the window allows.
    pub(crate) fn pump(&mut self, now: Instant) {
        let last_ref = &mut self.last_ref;
        self.outbox.pump(now, &mut || following(last_ref), &mut self.out);
    }

    /// The user wants something.
    pub(crate) fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Send(conv, body, done) => {
                let (bytes, bytes_max) = (body.payload.len(), self.payload_bytes_max);
                if bytes > bytes_max {
                    return answer(done, Err(ClientError::TooLarge { bytes, bytes_max }));
                }
                if let Err(item) = self.outbox.push(conv, Item::new(body, done)) {
                    let full = ClientError::OutboxFull {
                        slots: self.options.outbox_slots,
                    };
                    answer(item.done, Err(full));
                }
            }
            Command::Sync(done) => {
                if !self.online {
                    return answer(done, Err(ClientError::Disconnected));
                }
                self.next_sync_askers.push(done);
                self.start_sync(now);
            }
            Command::Pull(body, done) => self.ask(now, FrameKind::Pull, &body, Waiting::Pull(done)),
            Command::Read(body, done) => self.ask(now, FrameKind::Read, &body, Waiting::Read(done)),
            Command::Presence(body, done) => {
                self.ask(now, FrameKind::PresenceQuery, &body, Waiting::Presence(done));
            }
            Command::Typing(body) if self.online => drop(self.transmit(FrameKind::TypingStep, &body)),
            Command::Call(body) if self.online => drop(self.transmit(FrameKind::CallStep, &body)),
            Command::Typing(_) | Command::Call(_) => {}
            Command::RefreshToken(token) => {
                self.options.token.clone_from(&token);
                self.token_expired = false;
                if self.online {
                    self.transmit(FrameKind::RefreshToken, &body::RefreshToken { token });
                }
            }
            Command::Close => {
                self.closing = true;
                self.end(0, "closed by the client", true);
            }
        }
    }

    /// A frame came.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the server is not one; end the connection.
    pub(crate) fn frame(&mut self, now: Instant, bytes: &[u8]) -> Result<(), FrameError> {
        use body::{
            ArchivedCall, ArchivedErrorBody, ArchivedGoAway, ArchivedPresence, ArchivedPullPage,
            ArchivedPullRequired, ArchivedReadUpTo, ArchivedResync, ArchivedSendAck, ArchivedSyncPage,
            ArchivedTyping, ArchivedWelcome,
        };
        self.last_heard = Some(now);
        let frame = Frame::parse(bytes)?;
        // Kinds made later, and those of clients, are skipped.
        let Some(kind) = frame.known_kind() else {
            return Ok(());
        };
        match kind {
            FrameKind::Welcome => self.welcomed(now, take::<ArchivedWelcome, _>(&frame)?)?,
            FrameKind::SendAck => self.acked(now, frame.reference, &take::<ArchivedSendAck, _>(&frame)?)?,
            FrameKind::Message => self.arrived(now, Received::from_frame(&frame)?, Source::Live),
            FrameKind::SyncPage => {
                if let Some(Waiting::Sync) = self.answered(frame.reference) {
                    self.sync_page(now, take::<ArchivedSyncPage, _>(&frame)?)?;
                }
            }
            FrameKind::PullPage => {
                let page: body::PullPage = take::<ArchivedPullPage, _>(&frame)?;
                self.pulled(now, frame.reference, &page)?;
            }
            FrameKind::ReadUpTo => {
                let read: body::ReadUpTo = take::<ArchivedReadUpTo, _>(&frame)?;
                match self.answered(frame.reference) {
                    Some(Waiting::Read(done)) => answer(done, Ok(read)),
                    _ => self.events.push_back(Event::ReadUpTo(read)),
                }
            }
            FrameKind::Presence => {
                if let Some(Waiting::Presence(done)) = self.answered(frame.reference) {
                    answer(done, Ok(take::<ArchivedPresence, _>(&frame)?));
                }
            }
            FrameKind::PullRequired => self.pull_required(now, take::<ArchivedPullRequired, _>(&frame)?)?,
            FrameKind::Resync => {
                let resync: body::Resync = take::<ArchivedResync, _>(&frame)?;
                let spread = Duration::from_millis(resync.spread_ms.into());
                self.at(now + random_up_to(spread), Timer::Sync);
                self.events.push_back(Event::Resync(resync));
            }
            FrameKind::GoAway => {
                let away: body::GoAway = take::<ArchivedGoAway, _>(&frame)?;
                let from = now + Duration::from_millis(away.after_ms.into());
                let window = Duration::from_millis(away.window_ms.into());
                self.away = Some((from, from + window));
                if self.options.auto_reconnect {
                    self.at(from + random_up_to(window), Timer::Leave);
                }
                self.events.push_back(Event::GoAway(away));
            }
            FrameKind::Typing => {
                self.events
                    .push_back(Event::Typing(take::<ArchivedTyping, _>(&frame)?));
            }
            FrameKind::Call => self
                .events
                .push_back(Event::Call(take::<ArchivedCall, _>(&frame)?)),
            FrameKind::Error => self.refused(now, frame.reference, take::<ArchivedErrorBody, _>(&frame)?),
            _ => {}
        }
        Ok(())
    }

    /// The connection is gone; lets go of all that was waiting for its answers. Says when to try again; `None` when the
    /// session is over.
    pub(crate) fn ended(&mut self, now: Instant, ending: Ending) -> Option<Duration> {
        self.online = false;
        self.ending = None;
        self.out.clear();
        self.timers.clear();
        if ending.code == CLOSED_TOO_LARGE
            && let Some(item) = self.outbox.take_largest()
        {
            // No other can have been too large if this one was not; without it the next connection lives.
            let bytes = item.body.payload.len();
            answer(item.done, Err(ClientError::HungUp { bytes }));
        }
        self.outbox.offline();
        self.forget_fills();
        self.sync = None;
        for asker in self.sync_askers.drain(..).chain(self.next_sync_askers.drain(..)) {
            answer(asker, Err(ClientError::Disconnected));
        }
        for (_, (_, waiting)) in std::mem::take(&mut self.requests) {
            refuse(waiting, ClientError::Disconnected);
        }
        let expired = ending.code == CloseCode::TokenExpired as u16;
        let stale = expired && std::mem::replace(&mut self.token_expired, expired);
        let never_in = self.user.is_none();
        if self.closing || never_in || stale || !self.options.auto_reconnect || !may_reconnect(ending.code) {
            let Ending { code, reason, .. } = ending;
            for item in self.outbox.take_all() {
                answer(
                    item.done,
                    Err(ClientError::Closed {
                        code,
                        reason: reason.clone(),
                    }),
                );
            }
            self.events.push_back(Event::Closed { code, reason });
            return None;
        }
        let away = self.away.take();
        let retry_in = if ending.wanted {
            Duration::ZERO
        } else if let Some((from, to)) = away {
            let rest = to.saturating_duration_since(from.max(now));
            from.saturating_duration_since(now) + random_up_to(rest)
        } else {
            self.options.backoff(self.failures)
        };
        self.failures += 1;
        let Ending { code, reason, .. } = ending;
        self.events.push_back(Event::Offline {
            code,
            reason,
            retry_in,
        });
        Some(retry_in)
    }

    /// Ends the connection after this step.
    pub(crate) fn end(&mut self, code: u16, reason: &str, wanted: bool) {
        self.ending.get_or_insert(Ending {
            code,
            reason: reason.to_owned(),
            wanted,
        });
    }

    /// Sends a frame whose answer somebody waits for.
    pub(crate) fn ask<T>(&mut self, now: Instant, kind: FrameKind, body: &T, waiting: Waiting)
    where
        T: Encode,
    {
        if !self.online {
            return refuse(waiting, ClientError::Disconnected);
        }
        let reference = self.transmit(kind, body);
        self.requests.insert(reference, (now, waiting));
    }

    /// Runs `timer` at `at`, unless the connection ends before.
    pub(crate) fn at(&mut self, at: Instant, timer: Timer) {
        self.timer_count += 1;
        self.timers.insert((at, self.timer_count), timer);
    }

    fn transmit<T: Encode>(&mut self, kind: FrameKind, body: &T) -> u32 {
        let reference = following(&mut self.last_ref);
        self.out.push_back(body.encode(kind, reference));
        reference
    }

    fn answered(&mut self, reference: u32) -> Option<Waiting> {
        self.requests.remove(&reference).map(|(_, waiting)| waiting)
    }

    fn welcomed(&mut self, now: Instant, welcome: body::Welcome) -> Result<(), FrameError> {
        let user = UserId::new(&welcome.user).map_err(|error| FrameError::Field {
            field: "user",
            problem: error.to_string(),
        })?;
        let same = self.user.as_ref() == Some(&user) && self.epoch == welcome.epoch;
        if self.user.is_some() && !same {
            self.forget_log();
        }
        self.user = Some(user);
        self.epoch = welcome.epoch;
        self.online = true;
        self.failures = 0;
        self.payload_bytes_max = welcome.payload_bytes_max as usize;
        self.token_expired = false;
        self.away = None;
        self.heartbeat = Duration::from_millis(welcome.heartbeat_ms.max(100).into());
        self.at(now + self.heartbeat / 2, Timer::Heartbeat);
        self.outbox.online(welcome.window.max(1));
        self.events.push_back(Event::Online(welcome));
        if self.options.auto_sync {
            self.start_sync(now);
        }
        Ok(())
    }

    fn beat(&mut self, now: Instant) {
        // While events wait for room the socket is not read, and its silence says nothing.
        let reading = self.events.is_empty();
        let silent = self.last_heard.is_none_or(|heard| now - heard > self.heartbeat);
        let asked = self
            .requests
            .values()
            .map(|(since, _)| *since)
            .chain(self.outbox.oldest_flight())
            .min();
        let unanswered = asked.is_some_and(|since| now - since > self.options.answer_timeout);
        if reading && (silent || unanswered) {
            return self.end(1006, "the server does not answer", false);
        }
        self.transmit(FrameKind::Ping, &body::Ping { time_ms: 0 });
        self.at(now + self.heartbeat / 2, Timer::Heartbeat);
    }

    fn acked(&mut self, now: Instant, reference: u32, ack: &body::SendAck) -> Result<(), FrameError> {
        let Answered::Done(item) = self.outbox.answered(reference, true, false) else {
            return Ok(());
        };
        let conv = conv(&ack.conv)?;
        let Item { body: sent, done, .. } = item;
        // The gateway does not send a message back to the connection it came from: here it is made from the ack.
        let message = body::Message {
            conv: ack.conv.clone(),
            seq: ack.seq,
            n: ack.n,
            sender: self
                .user
                .as_ref()
                .map_or_else(String::new, |user| user.as_str().to_owned()),
            kind: sent.kind,
            flags: sent.flags,
            ref_seq: sent.ref_seq,
            origin_terminal: self.options.terminal as u8,
            origin_device: self.options.device.clone(),
            client_msg_id: sent.client_msg_id,
            time_ms: ack.time_ms,
            content_type: sent.content_type,
            payload: sent.payload,
        };
        let acked = Ack {
            client_msg_id: ClientMsgId(sent.client_msg_id),
            conv: conv.clone(),
            seq: ack.seq,
            n: ack.n,
            time_ms: ack.time_ms,
        };
        answer(done, Ok(acked));
        self.arrived(
            now,
            Received {
                conv,
                message,
                extensions: Vec::new(),
            },
            Source::Own,
        );
        self.pause_refused(now);
        Ok(())
    }

    fn refused(&mut self, now: Instant, reference: u32, body: body::ErrorBody) {
        let code = ErrorCode::from_number(body.code);
        let retryable = code.is_some_and(ErrorCode::is_retryable);
        let text = body.text.clone();
        match self.outbox.answered(reference, false, retryable) {
            Answered::Done(item) => answer(item.done, Err(ClientError::Refused { code, text })),
            Answered::Again => {}
            Answered::Unknown => match self.answered(reference) {
                Some(Waiting::Sync) => self.sync_refused(now, code, text),
                Some(Waiting::Fill(conv, gap)) => self.fill_refused(now, &conv, gap, code, text),
                Some(Waiting::Doubt(conv, seq)) => self.doubt_refused(now, &conv, seq, code),
                Some(waiting) => refuse(waiting, ClientError::Refused { code, text }),
                None => self.events.push_back(Event::Error {
                    code: body.code,
                    text,
                }),
            },
        }
        self.pause_refused(now);
    }

    fn pause_refused(&mut self, now: Instant) {
        for (conv, failures) in self.outbox.take_pauses() {
            let pause = random_up_to(exponential(GATE_PAUSE_MIN, GATE_PAUSE_MAX, failures));
            self.at(now + pause, Timer::Resume(conv));
        }
    }

    fn pulled(&mut self, now: Instant, reference: u32, page: &body::PullPage) -> Result<(), FrameError> {
        let messages = page.messages.iter().map(|bytes| Received::from_bytes(bytes));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        match self.answered(reference) {
            Some(Waiting::Fill(conv, gap)) => self.filled(now, &conv, gap, page, messages),
            Some(Waiting::Doubt(..)) => {
                for message in messages {
                    self.arrived(now, message, Source::Pulled);
                }
            }
            Some(Waiting::Pull(done)) => {
                let body::PullPage {
                    next_seq,
                    head_seq,
                    head_n,
                    floor_seq,
                    ..
                } = *page;
                answer(
                    done,
                    Ok(PullAnswer {
                        next_seq,
                        head_seq,
                        head_n,
                        floor_seq,
                        messages,
                    }),
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// A body that can be sent; saves every caller the bounds of the archive.
pub(crate) trait Encode {
    /// The frame with this body.
    fn encode(&self, kind: FrameKind, reference: u32) -> Vec<u8>;
}

macro_rules! encode_bodies {
    ($($body:ident)*) => {
        $(impl Encode for body::$body {
            fn encode(&self, kind: FrameKind, reference: u32) -> Vec<u8> {
                encode(kind, reference, self)
            }
        })*
    };
}

encode_bodies!(Hello Sync Pull Read PresenceQuery Typing Call RefreshToken Ping);

/// Gives an answer; whoever asked may have stopped waiting.
pub(crate) fn answer<T>(to: Answer<T>, result: Result<T, ClientError>) {
    drop(to.send(result));
}

fn refuse(waiting: Waiting, error: ClientError) {
    match waiting {
        Waiting::Sync | Waiting::Fill(..) | Waiting::Doubt(..) => {}
        Waiting::Pull(done) => answer(done, Err(error)),
        Waiting::Read(done) => answer(done, Err(error)),
        Waiting::Presence(done) => answer(done, Err(error)),
    }
}

/// The next reference; 0 stands for none and is left out.
fn following(last: &mut u32) -> u32 {
    *last = last.checked_add(1).unwrap_or(1);
    *last
}
