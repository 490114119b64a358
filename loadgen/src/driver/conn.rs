//! One connection: its socket, its WebSocket, and whoever speaks on it.

use std::collections::VecDeque;

use corelane_net::Socket;
use corelane_protocol::ws::decoder::{Decoder, Role};

use super::echo::Matcher;
use super::session::Session;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not opened yet, or waiting to be opened again.
    Waiting,
    /// The socket connects.
    Connecting,
    /// The upgrade request left.
    Upgrading,
    /// Waiting for `Welcome`.
    Greeting,
    /// In use.
    Ready,
    /// Gone for good.
    Gone,
}

/// Who speaks.
#[derive(Debug)]
pub enum Speaker {
    /// A Corelane user.
    User(Box<Session>),
    /// A client of an echo server, and the sends (counter, due time) that wait for room.
    Echo(Matcher, VecDeque<(u64, u64)>),
}

/// One connection.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not states of one thing"
)]
pub struct Conn {
    /// Number of the user.
    pub index: u32,
    /// The target it is at, or comes to next.
    pub target: u32,
    /// How far it is.
    pub stage: Stage,
    /// Its socket, while there is one.
    pub socket: Option<Socket>,
    /// Reads the server's frames.
    pub decoder: Decoder,
    /// Who speaks.
    pub speaker: Speaker,
    /// Bytes that wait for the send that is under way.
    pub out: Vec<u8>,
    /// A send is under way.
    pub is_sending: bool,
    /// It was put on the list of connections with something to send.
    pub is_listed: bool,
    /// We asked for its end.
    pub is_closing: bool,
    /// It was told to go (`GoAway`).
    pub was_told_to_go: bool,
    /// It never reads.
    pub is_stalled: bool,
    /// It was made before.
    pub was_ready: bool,
    /// Answer to the upgrade request so far.
    pub head: Vec<u8>,
    /// Key of the upgrade request.
    pub key: [u8; 16],
    /// When this attempt began.
    pub opened_ns: u64,
    /// When it is given up; 0 for never.
    pub attempt_until_ns: u64,
    /// Attempts since it last stood.
    pub attempts: u32,
    /// Close code that the server sent.
    pub close_code: Option<u16>,
    /// Why we ended it.
    pub ended_for: Option<&'static str>,
    /// When it is opened again.
    pub open_at_ns: u64,
    /// When it stops and starts to read; 0 for never.
    pub pause_ns: (u64, u64),
    /// When it leaves after a `GoAway`; 0 for never.
    pub leave_at_ns: u64,
    /// Time between heartbeats, and the next one.
    pub heartbeat_ns: u64,
    /// When the next heartbeat is due.
    pub heartbeat_at_ns: u64,
    /// When the last one left; 0 for never.
    pub pinged_ns: u64,
    /// When bytes last came.
    pub heard_ns: u64,
    /// The timer that is set; 0 for none.
    pub timer_ns: u64,
}

impl Conn {
    /// A connection of user `index` that was not opened yet.
    pub fn new(index: u32, target: u32, speaker: Speaker, message_bytes_max: u32, heartbeat_ns: u64) -> Self {
        Self {
            index,
            target,
            stage: Stage::Waiting,
            socket: None,
            decoder: Decoder::new(Role::Client, message_bytes_max),
            speaker,
            out: Vec::new(),
            is_sending: false,
            is_listed: false,
            is_closing: false,
            was_told_to_go: false,
            is_stalled: false,
            was_ready: false,
            head: Vec::new(),
            key: [0; 16],
            opened_ns: 0,
            attempt_until_ns: 0,
            attempts: 0,
            close_code: None,
            ended_for: None,
            open_at_ns: 0,
            pause_ns: (0, 0),
            leave_at_ns: 0,
            heartbeat_ns,
            heartbeat_at_ns: 0,
            pinged_ns: 0,
            heard_ns: 0,
            timer_ns: 0,
        }
    }

    /// Whether it is between its opening and its end.
    pub const fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Gone)
    }

    /// Forgets the socket that is gone.
    pub fn reset(&mut self, message_bytes_max: u32) {
        self.socket = None;
        self.decoder = Decoder::new(Role::Client, message_bytes_max);
        self.out.clear();
        self.head.clear();
        self.is_sending = false;
        self.is_closing = false;
        self.was_told_to_go = false;
        self.leave_at_ns = 0;
        self.heartbeat_at_ns = 0;
        self.pinged_ns = 0;
        self.attempt_until_ns = 0;
    }

    /// Whether nothing came since the last heartbeat, though the next one is due.
    pub const fn is_silent(&self) -> bool {
        let is_reading = !self.is_stalled && self.pause_ns.1 == 0;
        is_reading && self.pinged_ns != 0 && self.heard_ns < self.pinged_ns
    }

    /// The next moment at which something is to be done.
    pub fn next_timer_ns(&self) -> Option<u64> {
        let set = |at: u64| (at != 0).then_some(at);
        let own = match self.stage {
            Stage::Waiting => set(self.open_at_ns),
            Stage::Connecting | Stage::Upgrading | Stage::Greeting => set(self.attempt_until_ns),
            Stage::Ready if !self.is_closing => {
                let session = match &self.speaker {
                    Speaker::User(session) => session.wake_at_ns(),
                    Speaker::Echo(..) => None,
                };
                [set(self.heartbeat_at_ns), set(self.leave_at_ns), session]
                    .into_iter()
                    .flatten()
                    .min()
            }
            _ => None,
        };
        [own, set(self.pause_ns.0), set(self.pause_ns.1)]
            .into_iter()
            .flatten()
            .min()
    }
}
