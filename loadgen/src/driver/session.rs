//! One Corelane user at one terminal: what it sends, what it has seen, what it still has to fetch.
//!
//! Does no I/O: frames come in, WebSocket frames are appended to a buffer. It behaves as a good client SDK
//! does (go-back-N, sync and pull when told) and judges everything it sees on the way.

use std::collections::HashMap;

use corelane_protocol::frame::{self, Frame, FrameError, FrameKind, body, error::ErrorCode, flag, kind};
use corelane_protocol::id::ClientMsgId;
use corelane_protocol::limits::SEQ_MAX;
use corelane_protocol::ws::header::{Opcode, client_frame};

use super::Env;
use super::catchup::{CatchUp, Request};
use super::outbox::{Outbox, Pending};
use crate::faults::Faults;
use crate::ledger::{Entry, Outcome, message_id};
use crate::names::ConvKey;
use crate::payload::{PayloadError, Stamp};
use crate::shared::Phase;
use crate::verify::{Stream, Verdict};

/// What the frame means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The session stands; ping at least this often.
    Welcome {
        /// The server closes a connection that is silent longer than this.
        heartbeat_ms: u32,
    },
    /// Reconnect after this time.
    GoAway {
        /// ns from now.
        after_ns: u64,
    },
}

/// What an answer belongs to.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Catch(Request),
    Other,
}

/// One user's session.
#[derive(Debug, Default)]
pub struct Session {
    /// Number of the user.
    pub me: u32,
    /// Its latencies are not recorded: it does not read all the time.
    pub is_unmeasured: bool,
    /// When the last thing came that it lacked: a message, an ack, or why a gap is none.
    pub completed_ns: u64,
    faults: Faults,
    window: usize,
    counter: u64,
    reference: u32,
    is_ready: bool,
    was_ready: bool,
    epoch: u64,
    cursor: Vec<u8>,
    /// Requests without an answer, and when they left.
    asks: HashMap<u32, (Ask, u64)>,
    outbox: Outbox,
    catch_up: CatchUp,
    streams: HashMap<ConvKey, Stream>,
}

impl Session {
    /// The session of user `me`.
    pub fn new(me: u32, faults: Faults) -> Self {
        Self {
            me,
            faults,
            ..Self::default()
        }
    }

    /// First frame of a connection.
    pub fn hello(&mut self, env: &mut Env<'_>, out: &mut Vec<u8>) {
        let user = env.shared.names.user(self.me);
        let minter = env.shared.minter.as_ref();
        let token = minter.map_or_else(String::new, |minter| {
            minter.mint(&user, "loadgen", env.shared.clock.wall_ms())
        });
        let hello = body::Hello {
            token,
            terminal: corelane_protocol::terminal::Terminal::Desktop as u8,
            device: "loadgen".to_owned(),
            epoch: self.epoch,
        };
        let reference = self.next_reference();
        self.asks.insert(reference, (Ask::Other, env.now_ns));
        put(env, out, &frame::encode(FrameKind::Hello, reference, &hello));
    }

    /// A heartbeat.
    pub fn ping(&mut self, env: &mut Env<'_>, out: &mut Vec<u8>) {
        let time_ms = env.shared.clock.wall_ms();
        put(
            env,
            out,
            &frame::encode(FrameKind::Ping, 0, &body::Ping { time_ms }),
        );
    }

    /// Plans a send: it is in the ledger from now on.
    pub fn offer(&mut self, conv: ConvKey, due_ns: u64, env: &mut Env<'_>) {
        let counter = self.counter;
        self.counter += 1;
        let place = env.ledger.add(Entry {
            id: message_id(env.shared.clock.wall_ms(), env.shared.run_id, self.me, counter),
            conv,
            sender: self.me,
            counter,
            outcome: Outcome::Unsent,
        });
        let send = Pending {
            counter,
            conv,
            place,
            due_ns,
            sent_ns: 0,
            left_ns: 0,
        };
        if !self.outbox.offer(send) {
            env.tally.unsent += 1;
        }
    }

    /// Whether the session stands.
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Sends whatever may leave now.
    pub fn pump(&mut self, env: &mut Env<'_>, out: &mut Vec<u8>) {
        if !self.is_ready {
            return;
        }
        while let Some(request) = self.catch_up.next(env.now_ns) {
            self.fetch(request, env, out);
        }
        while let Some((send, restart)) = self.outbox.next(env.now_ns, self.window) {
            self.transmit(send, restart, env, out);
        }
    }

    /// When [`Session::pump`] will have something to do that waits for time only.
    pub fn wake_at_ns(&self) -> Option<u64> {
        if !self.is_ready {
            return None;
        }
        self.outbox
            .wake_at_ns()
            .into_iter()
            .chain(self.catch_up.wake_at_ns())
            .min()
    }

    /// When the oldest send or request that has no answer left.
    pub fn unanswered_since_ns(&self) -> Option<u64> {
        let asked = self.asks.values().map(|(_, left_ns)| *left_ns);
        asked.chain(self.outbox.out_since_ns()).min()
    }

    /// Syncs at `at_ns`, and takes what is missing up to the heads reported as explained.
    pub fn resync(&mut self, at_ns: u64, now_ns: u64) {
        self.owe_explanation(now_ns);
        self.catch_up.want_sync(at_ns);
    }

    /// Something may be missing from now on. What comes before an earlier fault is explained adds nothing to it.
    fn owe_explanation(&mut self, now_ns: u64) {
        if !self.catch_up.is_unexplained() {
            let gap_age_ns = self.faults.gap_age_ns();
            for stream in self.streams.values_mut() {
                stream.blame(now_ns, gap_age_ns);
            }
        }
        self.catch_up.owe();
    }

    /// The connection is gone; `is_fault` if it stood and the run was not over.
    pub fn disconnected(&mut self, is_fault: bool, env: &mut Env<'_>) {
        self.is_ready = false;
        self.asks.clear();
        self.outbox.disconnected();
        self.catch_up.disconnected();
        if is_fault {
            self.faults.note(env.now_ns, env.tally);
            self.owe_explanation(env.now_ns);
        }
    }

    /// No fault explains any more what was seen so far.
    pub fn settle_faults(&mut self, env: &mut Env<'_>) {
        self.faults.settle(env.tally);
    }

    /// Sends not answered for good.
    pub fn unsettled(&self) -> u64 {
        self.outbox.unsettled()
    }

    /// Gives up what was not answered for good: its outcome stays unknown.
    pub fn give_up(&mut self, env: &mut Env<'_>) {
        for send in self.outbox.drain() {
            if send.sent_ns == 0 {
                env.tally.unsent += 1;
            } else {
                env.tally.unanswered += 1;
            }
        }
    }

    /// The stream of a conversation.
    pub fn stream(&mut self, conv: ConvKey, env: &Env<'_>) -> &mut Stream {
        self.streams
            .entry(conv)
            .or_insert_with(|| Stream::starting_after(env.shared.groups.base(conv)))
    }

    /// Whether nothing is left to fetch.
    pub fn is_caught_up(&self) -> bool {
        self.catch_up.is_idle()
    }

    /// Pulls a conversation in which something is missing at the end.
    pub fn repair(&mut self, conv: ConvKey) {
        self.catch_up.want_pull(conv);
    }

    /// Takes a frame from the server.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the server sent something that is no frame.
    pub fn frame(&mut self, bytes: &[u8], env: &mut Env<'_>) -> Result<Effect, FrameError> {
        let frame = Frame::parse(bytes)?;
        match frame.known_kind() {
            Some(FrameKind::Message) => self.message(&frame, env)?,
            Some(FrameKind::SendAck) => self.ack(&frame, env)?,
            Some(FrameKind::Error) => self.error(&frame, env)?,
            Some(FrameKind::Welcome) => {
                let welcome = frame.access::<body::ArchivedWelcome>()?;
                self.window = usize::from(welcome.window.to_native()).max(1);
                self.is_ready = true;
                self.asks.remove(&frame.reference);
                let epoch = welcome.epoch.to_native();
                if std::mem::replace(&mut self.epoch, epoch) != epoch {
                    // Of another log.
                    self.cursor.clear();
                }
                if std::mem::replace(&mut self.was_ready, true) {
                    self.faults.is_back(env.now_ns);
                    self.resync(env.now_ns, env.now_ns);
                } else if env.shared.options.scenario != crate::cli::Scenario::Idle && !self.is_unmeasured {
                    self.catch_up.want_sync(env.now_ns);
                }
                let heartbeat_ms = welcome.heartbeat_ms.to_native();
                return Ok(Effect::Welcome { heartbeat_ms });
            }
            Some(FrameKind::SyncPage) => self.sync_page(&frame, env)?,
            Some(FrameKind::PullPage) => self.pull_page(&frame, env)?,
            Some(FrameKind::PullRequired) => {
                env.tally.pull_required += 1;
                for place in frame.access::<body::ArchivedPullRequired>()?.upto.iter() {
                    if let Some(conv) = self.conv_of(&place.conv, env) {
                        self.stream(conv, env).told(place.seq.to_native().min(SEQ_MAX));
                        self.catch_up.want_pull(conv);
                    }
                }
            }
            Some(FrameKind::Resync) => {
                env.tally.resyncs += 1;
                self.faults.note(env.now_ns, env.tally);
                let spread_ms = frame.access::<body::ArchivedResync>()?.spread_ms.to_native();
                let wait_ns = env.rng.below(u64::from(spread_ms) * 1_000_000 + 1);
                self.resync(env.now_ns + wait_ns, env.now_ns);
            }
            Some(FrameKind::GoAway) => {
                let away = frame.access::<body::ArchivedGoAway>()?;
                let window_ns = u64::from(away.window_ms.to_native()) * 1_000_000;
                let after_ns =
                    u64::from(away.after_ms.to_native()) * 1_000_000 + env.rng.below(window_ns + 1);
                return Ok(Effect::GoAway { after_ns });
            }
            _ => {}
        }
        Ok(Effect::None)
    }

    /// A live message.
    fn message(&mut self, frame: &Frame<'_>, env: &mut Env<'_>) -> Result<(), FrameError> {
        let message = frame.access::<body::ArchivedMessage>()?;
        let Some(conv) = self.conv_of(&message.conv, env) else {
            env.tally.misdelivered += 1;
            return Ok(());
        };
        let Some(seq) = place_of(message.seq.to_native(), env) else {
            return Ok(());
        };
        let id = ClientMsgId(message.client_msg_id);
        let stamp = Stamp::read(&message.payload);
        let is_own = env.shared.names.user_index(&message.sender) == Some(self.me);
        let moment = self.faults.moment(env.now_ns);
        let (verdict, is_first) = if is_own {
            let sent_ns = stamp.map_or(env.now_ns, |stamp| stamp.sent_ns);
            let verdict = if self.faults.may_return(sent_ns) {
                Verdict::Redelivered
            } else {
                Verdict::Returned
            };
            (verdict, self.stream(conv, env).returned(seq, id))
        } else {
            self.stream(conv, env).live(seq, id, moment)
        };
        self.faults.judge(verdict, env.now_ns, env.tally);
        if is_first {
            self.completed_ns = env.now_ns;
        }
        match stamp {
            Ok(stamp) if stamp.run == env.shared.run_id && stamp.conv == conv.number() => {
                let is_delivery = matches!(verdict, Verdict::New | Verdict::Late | Verdict::Reordered);
                env.tally.delivered += u64::from(is_delivery);
                if is_first && !is_own {
                    self.record(&stamp, env);
                }
            }
            Ok(_) => env.tally.misdelivered += 1,
            Err(PayloadError::Corrupt) => env.tally.corrupt += 1,
            // A change of the group, or a message of somebody else: only its place counts.
            Err(PayloadError::Foreign) => {}
        }
        Ok(())
    }

    /// Records how long a message took until it was here, live or in a page: a reader that the service demotes and
    /// lets pull is not faster for it.
    fn record(&self, stamp: &Stamp, env: &mut Env<'_>) {
        let (from, to) = env.measured;
        if !self.is_unmeasured && (from..to).contains(&stamp.due_ns) {
            let half_ns = env.half_ns();
            env.recorder.delivered(stamp, half_ns, env.now_ns);
        }
    }

    /// The conversation with these bytes, if it is this user's.
    fn conv_of(&self, conv: &[u8], env: &Env<'_>) -> Option<ConvKey> {
        let conv = env.shared.names.conv_key(conv)?;
        self.is_mine(conv, env).then_some(conv)
    }

    fn is_mine(&self, conv: ConvKey, env: &Env<'_>) -> bool {
        match (conv.users(), conv.group_index()) {
            (Some((small, large)), _) => small == self.me || large == self.me,
            (None, Some(group)) => {
                group < env.shared.groups.count() && env.shared.groups.is_member(group, self.me)
            }
            (None, None) => false,
        }
    }

    fn ack(&mut self, frame: &Frame<'_>, env: &mut Env<'_>) -> Result<(), FrameError> {
        let ack = frame.access::<body::ArchivedSendAck>()?;
        let Some(send) = self.outbox.settle(frame.reference) else {
            // What was given up may still be acked; its outcome stays unknown.
            env.tally.stray += u64::from(env.shared.phase() < Phase::Settle);
            return Ok(());
        };
        if env.shared.names.conv_key(&ack.conv) != Some(send.conv) {
            env.tally.stray += 1;
        }
        let Some(seq) = place_of(ack.seq.to_native(), env) else {
            return Ok(());
        };
        env.tally.acked += 1;
        let (from, to) = env.measured;
        if (from..to).contains(&send.due_ns) {
            env.recorder.due_to_ack.record_ns(send.due_ns, env.now_ns);
        }
        let head = env.acked_heads.entry(send.conv).or_insert(0);
        *head = (*head).max(seq);
        let Some(entry) = env.ledger.entry_mut(send.place) else {
            return Ok(());
        };
        entry.outcome = Outcome::Acked(seq);
        let entry = *entry;
        if env.shared.ack_file.is_some() {
            env.acked.push(entry);
        }
        self.stream(send.conv, env).acked(seq, entry.id);
        self.completed_ns = env.now_ns;
        Ok(())
    }

    fn error(&mut self, frame: &Frame<'_>, env: &mut Env<'_>) -> Result<(), FrameError> {
        let error = frame.access::<body::ArchivedErrorBody>()?;
        let code = ErrorCode::from_number(error.code.to_native());
        let retryable = code.is_some_and(ErrorCode::is_retryable);
        if matches!(code, Some(ErrorCode::Retry | ErrorCode::Unavailable)) {
            env.tally.retries += 1;
            self.faults.note(env.now_ns, env.tally);
        }
        if let Some((Ask::Catch(request), _)) = self.asks.remove(&frame.reference) {
            let is_ahead = code == Some(ErrorCode::Ahead) && request == Request::Sync;
            if is_ahead {
                self.cursor.clear();
            }
            self.catch_up.refused(request, retryable || is_ahead, env.now_ns);
        } else if retryable && self.outbox.refuse(frame.reference, env.now_ns) {
            env.tally.retryable += 1;
            return Ok(());
        } else if let Some(send) = self.outbox.settle(frame.reference) {
            env.tally.refused += 1;
            if let Some(entry) = env.ledger.entry_mut(send.place) {
                entry.outcome = Outcome::Refused(error.code.to_native());
            }
        }
        let name = code.map_or("unknown", ErrorCode::name);
        env.problem(&format!("refused: {name}: {}", &*error.text));
        Ok(())
    }

    fn sync_page(&mut self, frame: &Frame<'_>, env: &mut Env<'_>) -> Result<(), FrameError> {
        if self.asks.remove(&frame.reference).is_none() {
            env.tally.stray += 1;
            return Ok(());
        }
        let page = frame.access::<body::ArchivedSyncPage>()?;
        // The one at login has nothing to explain.
        let explains = self.catch_up.explains();
        for state in page.conversations.iter() {
            let Some(conv) = self.conv_of(&state.conv, env).filter(|_| explains) else {
                continue;
            };
            let head = state.head_seq.to_native().min(SEQ_MAX);
            let stream = self.stream(conv, env);
            let was_complete = stream.is_complete(head);
            stream.explained(head);
            if !stream.has_all(head) {
                self.catch_up.want_pull(conv);
            }
            if !was_complete {
                self.completed_ns = env.now_ns;
            }
        }
        self.cursor = page.cursor.to_vec();
        self.catch_up.sync_answered(page.more, env.now_ns);
        Ok(())
    }

    fn pull_page(&mut self, frame: &Frame<'_>, env: &mut Env<'_>) -> Result<(), FrameError> {
        let Some((Ask::Catch(Request::Pull(conv)), _)) = self.asks.remove(&frame.reference) else {
            env.tally.stray += 1;
            return Ok(());
        };
        let page = frame.access::<body::ArchivedPullPage>()?;
        for bytes in page.messages.iter() {
            let inner = Frame::parse(bytes)?;
            let message = inner.access::<body::ArchivedMessage>()?;
            env.tally.pulled += 1;
            if env.shared.names.conv_key(&message.conv) != Some(conv) {
                env.tally.misdelivered += 1;
                continue;
            }
            let Some(seq) = place_of(message.seq.to_native(), env) else {
                continue;
            };
            let is_own = env.shared.names.user_index(&message.sender) == Some(self.me);
            let id = ClientMsgId(message.client_msg_id);
            let is_first = self.stream(conv, env).pulled(seq, id, is_own);
            if is_first {
                self.completed_ns = env.now_ns;
            }
            match Stamp::read(&message.payload) {
                Ok(stamp) if stamp.run == env.shared.run_id && stamp.conv == conv.number() => {
                    if is_first && !is_own {
                        self.record(&stamp, env);
                    }
                }
                Ok(_) => env.tally.misdelivered += 1,
                Err(PayloadError::Corrupt) => env.tally.corrupt += 1,
                Err(PayloadError::Foreign) => {}
            }
        }
        let more = page.next_seq.to_native() != 0 && !page.messages.is_empty();
        self.catch_up.pull_answered(conv, more);
        Ok(())
    }

    fn fetch(&mut self, request: Request, env: &mut Env<'_>, out: &mut Vec<u8>) {
        let reference = self.next_reference();
        self.asks.insert(reference, (Ask::Catch(request), env.now_ns));
        let bytes = match request {
            Request::Sync => {
                let sync = body::Sync {
                    cursor: self.cursor.clone(),
                    limit: 200,
                };
                frame::encode(FrameKind::Sync, reference, &sync)
            }
            Request::Pull(conv) => {
                let pull = body::Pull {
                    conv: env.shared.names.conv_id(conv).as_bytes().to_vec(),
                    from_seq: self.stream(conv, env).next_missing(),
                    to_seq: u64::MAX,
                    limit: 200,
                };
                frame::encode(FrameKind::Pull, reference, &pull)
            }
        };
        put(env, out, &bytes);
    }

    fn transmit(&mut self, mut send: Pending, restart: bool, env: &mut Env<'_>, out: &mut Vec<u8>) {
        if send.sent_ns == 0 {
            send.sent_ns = env.now_ns;
            env.tally.sent += 1;
        } else {
            env.tally.resent += 1;
        }
        send.left_ns = env.now_ns;
        let Some(entry) = env.ledger.entry_mut(send.place) else {
            return;
        };
        entry.outcome = Outcome::Unknown;
        let id = entry.id;
        let stamp = Stamp {
            run: env.shared.run_id,
            sender: self.me,
            conv: send.conv.number(),
            counter: send.counter,
            due_ns: send.due_ns,
            sent_ns: send.sent_ns,
        };
        let mut payload = Vec::with_capacity(env.shared.options.size);
        stamp.write(env.shared.options.size, false, &mut payload);
        let target = match send.conv.users() {
            Some((small, large)) => {
                let peer = if small == self.me { large } else { small };
                body::Target::User(env.shared.names.user(peer))
            }
            None => body::Target::Conv(env.shared.names.conv_id(send.conv).as_bytes().to_vec()),
        };
        let message = body::Send {
            target,
            kind: kind::CUSTOM,
            flags: 0,
            ref_seq: 0,
            client_msg_id: id.0,
            content_type: kind::content::BYTES,
            payload,
        };
        let reference = self.next_reference();
        let flags = if restart { flag::RESTART } else { 0 };
        let bytes = frame::encode_with(FrameKind::Send, flags, reference, &message, &[]);
        put(env, out, &bytes);
        self.outbox.sent(reference, send);
    }

    fn next_reference(&mut self) -> u32 {
        self.reference = self.reference.wrapping_add(1).max(1);
        self.reference
    }
}

/// A place of a conversation, if it is one.
fn place_of(seq: u64, env: &mut Env<'_>) -> Option<u64> {
    let is_place = (1..=SEQ_MAX).contains(&seq);
    env.tally.malformed += u64::from(!is_place);
    is_place.then_some(seq)
}

/// Appends a frame as a masked binary message.
fn put(env: &mut Env<'_>, out: &mut Vec<u8>, frame: &[u8]) {
    client_frame(Opcode::Binary, frame, env.rng.mask(), out);
}
