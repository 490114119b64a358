//! A small blocking client: one connection, one frame at a time, nothing hidden.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::Duration;

use corelane_protocol::frame::{self, Frame, FrameKind, body, kind};
use corelane_protocol::terminal::Terminal;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::{Gateway, now};

/// A message as a receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Conversation bytes.
    pub conv: Vec<u8>,
    /// Place.
    pub seq: u64,
    /// Sender.
    pub sender: String,
    /// Payload.
    pub payload: Vec<u8>,
}

/// One connection that speaks `corelane.rkyv.v1`.
#[derive(Debug)]
pub struct Client {
    socket: WebSocket<TcpStream>,
    next_reference: u32,
    /// Messages that came while something else was waited for.
    pub inbox: VecDeque<Received>,
    /// Epoch of the log, as the welcome said.
    pub epoch: u64,
    user: String,
}

/// A fresh `UUIDv7`-shaped id.
///
/// # Panics
///
/// If the clock stands before 1970.
#[expect(clippy::disallowed_methods, reason = "an id carries the time")]
pub fn message_id() -> [u8; 16] {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("it is after 1970");
    let mut id = [0; 16];
    let millis = u64::try_from(since.as_millis())
        .expect("fits for ages")
        .to_be_bytes();
    id[..6].copy_from_slice(&millis[2..]);
    id[6..8].copy_from_slice(&[0x70, 0]);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id());
    id[8..].copy_from_slice(&unique.to_be_bytes());
    id[8] = 0x80 | id[8] & 0x3f;
    id
}

impl Client {
    /// Who is logged in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Connects, says `Hello`, waits for `Welcome`.
    ///
    /// # Panics
    ///
    /// If it is not welcome.
    pub fn login(gateway: &Gateway, user: &str) -> Self {
        Self::login_at(gateway, user, Terminal::Desktop, "test")
    }

    /// As [`Self::login`], at a terminal and device.
    ///
    /// # Panics
    ///
    /// If it is not welcome.
    pub fn login_at(gateway: &Gateway, user: &str, terminal: Terminal, device: &str) -> Self {
        let token = gateway.token(user);
        let mut client = Self::connect(gateway, user);
        client.must_be_welcome(&token, terminal, device);
        client
    }

    /// As [`Self::login`], on a connection that leads to the gateway, or to another one with the same keys.
    ///
    /// # Panics
    ///
    /// If it is not welcome.
    pub fn login_over(stream: TcpStream, gateway: &Gateway, user: &str) -> Self {
        let token = gateway.token(user);
        let mut client = Self::upgrade(stream, gateway, user);
        client.must_be_welcome(&token, Terminal::Desktop, "test");
        client
    }

    fn must_be_welcome(&mut self, token: &str, terminal: Terminal, device: &str) {
        self.say_hello(token, terminal, device);
        if let Err(code) = self.welcome() {
            panic!("{}: closed with {code}, awaited Welcome", self.user);
        }
    }

    /// Says `Hello`, and waits for nothing.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub fn say_hello(&mut self, token: &str, terminal: Terminal, device: &str) {
        let hello = body::Hello {
            token: token.to_owned(),
            terminal: terminal as u8,
            device: device.to_owned(),
            epoch: 0,
        };
        self.write(&frame::encode(FrameKind::Hello, 1, &hello));
    }

    /// Waits for the answer to `Hello`.
    ///
    /// # Errors
    ///
    /// The close code, if it is not welcome.
    ///
    /// # Panics
    ///
    /// If the answer is another one.
    pub fn welcome(&mut self) -> Result<(), u16> {
        let welcome = self.try_kind(FrameKind::Welcome)?;
        let welcome = Frame::parse(&welcome).expect("a frame");
        assert_eq!(welcome.reference, 1);
        let body = welcome.access::<body::ArchivedWelcome>().expect("a welcome");
        self.epoch = body.epoch.to_native();
        Ok(())
    }

    /// Upgrades and says nothing.
    ///
    /// # Panics
    ///
    /// If the upgrade is refused.
    pub fn connect(gateway: &Gateway, user: &str) -> Self {
        Self::upgrade(gateway.connect(), gateway, user)
    }

    fn upgrade(stream: TcpStream, gateway: &Gateway, user: &str) -> Self {
        let mut request = gateway.ws_url.as_str().into_client_request().expect("a URL");
        let subprotocol = "corelane.rkyv.v1".parse().expect("ASCII");
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", subprotocol);
        let (socket, _) = tungstenite::client(request, stream).expect("the upgrade is accepted");
        Self {
            socket,
            next_reference: 2,
            inbox: VecDeque::new(),
            epoch: 0,
            user: user.to_owned(),
        }
    }

    /// Sends bytes as one binary message.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) {
        self.socket
            .send(Message::binary(bytes.to_vec()))
            .expect("the connection stands");
    }

    /// The next frame, or the close code.
    ///
    /// # Errors
    ///
    /// The close code of the server; 1006 if there was none.
    pub fn read(&mut self) -> Result<Vec<u8>, u16> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return Ok(bytes.to_vec()),
                Ok(Message::Close(close)) => return Err(close.map_or(1005, |close| close.code.into())),
                Ok(_) => {}
                Err(_) => return Err(1006),
            }
        }
    }

    /// The next frame of this kind; messages on the way go to the inbox.
    ///
    /// # Panics
    ///
    /// If the connection ends first.
    pub fn read_kind(&mut self, kind: FrameKind) -> Vec<u8> {
        self.try_kind(kind)
            .unwrap_or_else(|code| panic!("{}: closed with {code}, awaited {kind:?}", self.user))
    }

    fn try_kind(&mut self, kind: FrameKind) -> Result<Vec<u8>, u16> {
        loop {
            let bytes = self.read()?;
            let frame = Frame::parse(&bytes).expect("servers send frames");
            if frame.known_kind() == Some(FrameKind::Message) {
                self.inbox.push_back(received(&bytes));
            }
            if frame.known_kind() == Some(kind) {
                return Ok(bytes);
            }
        }
    }

    /// The next message.
    ///
    /// # Panics
    ///
    /// If the connection ends first.
    pub fn message(&mut self) -> Received {
        self.try_message()
            .unwrap_or_else(|code| panic!("{}: closed with {code}, awaited a message", self.user))
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// The close code, if the connection ends first.
    ///
    /// # Panics
    ///
    /// Never: what was read is in the inbox.
    pub fn try_message(&mut self) -> Result<Received, u16> {
        if self.inbox.is_empty() {
            self.try_kind(FrameKind::Message)?;
        }
        Ok(self.inbox.pop_front().expect("one is there"))
    }

    /// The close code, skipping what comes before it.
    ///
    /// # Panics
    ///
    /// If the connection is not closed within 20 s.
    pub fn closed(&mut self) -> u16 {
        let deadline = now() + Duration::from_secs(20);
        while now() < deadline {
            if let Err(code) = self.read() {
                return code;
            }
        }
        panic!("{} was not closed", self.user);
    }

    /// Sends a text and gives its reference.
    pub fn send(&mut self, target: &body::Target, text: &str) -> u32 {
        self.send_with(target, message_id(), text.as_bytes())
    }

    /// Sends a payload under an id and gives its reference.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub fn send_with(&mut self, target: &body::Target, id: [u8; 16], payload: &[u8]) -> u32 {
        self.try_send_with(target, id, payload)
            .expect("the connection stands")
    }

    /// The same; `None` if the connection is gone.
    pub fn try_send_with(&mut self, target: &body::Target, id: [u8; 16], payload: &[u8]) -> Option<u32> {
        self.send_flagged(0, target, id, payload)
    }

    /// Sends what was refused once more, with the flag that opens its gate again.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub fn send_again(&mut self, target: &body::Target, id: [u8; 16], payload: &[u8]) -> u32 {
        self.send_flagged(frame::flag::RESTART, target, id, payload)
            .expect("the connection stands")
    }

    fn send_flagged(
        &mut self,
        flags: u8,
        target: &body::Target,
        id: [u8; 16],
        payload: &[u8],
    ) -> Option<u32> {
        let send = body::Send {
            target: target.clone(),
            kind: kind::TEXT,
            flags: 0,
            ref_seq: 0,
            client_msg_id: id,
            content_type: kind::content::TEXT,
            payload: payload.to_vec(),
        };
        let reference = self.next_reference;
        self.next_reference += 1;
        let bytes = frame::encode_with(FrameKind::Send, flags, reference, &send, &[]);
        self.socket.send(Message::binary(bytes)).ok()?;
        Some(reference)
    }

    /// The answer to a send: its seq, or the error's code and text.
    ///
    /// # Errors
    ///
    /// Code and text of the `Error` frame.
    ///
    /// # Panics
    ///
    /// If the connection ends first.
    pub fn answer(&mut self, reference: u32) -> Result<u64, (u16, String)> {
        loop {
            let bytes = self
                .read()
                .unwrap_or_else(|code| panic!("{}: closed with {code}", self.user));
            let frame = Frame::parse(&bytes).expect("servers send frames");
            match frame.known_kind() {
                Some(FrameKind::Message) => self.inbox.push_back(received(&bytes)),
                Some(FrameKind::SendAck) if frame.reference == reference => {
                    return Ok(frame
                        .access::<body::ArchivedSendAck>()
                        .expect("an ack")
                        .seq
                        .to_native());
                }
                Some(FrameKind::Error) if frame.reference == reference => {
                    let error = frame.access::<body::ArchivedErrorBody>().expect("an error");
                    return Err((error.code.to_native(), error.text.as_str().to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Asks for everything that changed.
    ///
    /// # Panics
    ///
    /// If the connection ends first.
    pub fn sync(&mut self) -> Vec<(Vec<u8>, u64, u64, u64)> {
        let sync = body::Sync {
            cursor: Vec::new(),
            limit: 200,
        };
        self.write(&frame::encode(FrameKind::Sync, 9_000, &sync));
        let page = self.read_kind(FrameKind::SyncPage);
        let frame = Frame::parse(&page).expect("a page");
        let page = frame.access::<body::ArchivedSyncPage>().expect("a page");
        let state = |state: &body::ArchivedConvState| {
            (
                state.conv.to_vec(),
                state.head_seq.to_native(),
                state.head_n.to_native(),
                state.read_n.to_native(),
            )
        };
        page.conversations.iter().map(state).collect()
    }

    /// Pulls a conversation from the beginning, as far as one page goes.
    ///
    /// # Panics
    ///
    /// If the connection ends first.
    pub fn pull(&mut self, conv: &[u8]) -> Vec<Received> {
        let pull = body::Pull {
            conv: conv.to_vec(),
            from_seq: 1,
            to_seq: u64::MAX,
            limit: 200,
        };
        self.write(&frame::encode(FrameKind::Pull, 9_001, &pull));
        let page = self.read_kind(FrameKind::PullPage);
        let frame = Frame::parse(&page).expect("a page");
        let page = frame.access::<body::ArchivedPullPage>().expect("a page");
        page.messages.iter().map(|each| received(each)).collect()
    }
}

fn received(bytes: &[u8]) -> Received {
    let frame = Frame::parse(bytes).expect("servers send frames");
    let message = frame.access::<body::ArchivedMessage>().expect("a message");
    Received {
        conv: message.conv.to_vec(),
        seq: message.seq.to_native(),
        sender: message.sender.as_str().to_owned(),
        payload: message.payload.to_vec(),
    }
}

/// The direct conversation with a user, as a target.
pub fn to_user(user: &str) -> body::Target {
    body::Target::User(user.to_owned())
}

/// A group, as a target.
pub fn to_group(group: &str) -> body::Target {
    body::Target::Conv([&[2], group.as_bytes()].concat())
}
