//! A server that says what the test says: real sockets, real frames, no rules of its own.
#![expect(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use corelane_client::{Client, Event, Events, Options};
use corelane_protocol::frame::body::{self, ArchivedPull, ArchivedSend, ArchivedSync};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameKind, encode, encode_error, flag};
use corelane_protocol::id::{ConvId, UserId};
use corelane_protocol::terminal::Terminal;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const EPOCH: u64 = 7;
/// What the welcome says.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4096;

/// Waits, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future)
        .await
        .expect("it happens before the deadline")
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// The conversation of alice, who is the client, and bob.
pub(crate) fn conv() -> ConvId {
    ConvId::direct(&user("alice"), &user("bob"))
}

pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn options(&self) -> Options {
        let url = format!("ws://{}/ws", self.0.local_addr().unwrap());
        let mut options = Options::new(url, "token").on(Terminal::Bot, "test");
        options.backoff_min = Duration::from_millis(1);
        options.backoff_max = Duration::from_millis(5);
        options
    }

    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = within(self.0.accept()).await.unwrap();
        let answer = |_: &Request, mut response: Response| {
            let name = HeaderValue::from_static("corelane.rkyv.v1");
            response.headers_mut().insert("sec-websocket-protocol", name);
            Ok(response)
        };
        Peer(
            within(tokio_tungstenite::accept_hdr_async(stream, answer))
                .await
                .unwrap(),
        )
    }

    /// A client that is logged in and has synced `states`.
    pub(crate) async fn client(
        &self,
        options: Options,
        states: Vec<body::ConvState>,
    ) -> (Client, Events, Peer) {
        let serve = async {
            let mut peer = self.accept().await;
            peer.login(states).await;
            peer
        };
        let (connected, peer) = tokio::join!(within(Client::connect(options)), serve);
        let (client, mut events) = connected.unwrap();
        until_synced(&mut events).await;
        (client, events, peer)
    }
}

/// A frame from the client.
pub(crate) struct Got {
    pub(crate) kind: FrameKind,
    pub(crate) restart: bool,
    pub(crate) reference: u32,
    bytes: Vec<u8>,
}

impl Got {
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame::parse(&self.bytes).unwrap()
    }

    /// Payload of a `Send`.
    pub(crate) fn payload(&self) -> String {
        String::from_utf8(self.frame().access::<ArchivedSend>().unwrap().payload.to_vec()).unwrap()
    }

    pub(crate) fn client_msg_id(&self) -> [u8; 16] {
        self.frame().access::<ArchivedSend>().unwrap().client_msg_id
    }

    /// Range of a `Pull`.
    pub(crate) fn range(&self) -> (u64, u64) {
        let frame = self.frame();
        let pull = frame.access::<ArchivedPull>().unwrap();
        (pull.from_seq.to_native(), pull.to_seq.to_native())
    }

    /// Limit of a `Pull`.
    pub(crate) fn limit(&self) -> u16 {
        self.frame().access::<ArchivedPull>().unwrap().limit.to_native()
    }

    /// Cursor of a `Sync`.
    pub(crate) fn cursor(&self) -> Vec<u8> {
        self.frame().access::<ArchivedSync>().unwrap().cursor.to_vec()
    }
}

pub(crate) struct Peer(WebSocketStream<TcpStream>);

impl Peer {
    /// The next frame that is no ping.
    pub(crate) async fn next(&mut self) -> Got {
        loop {
            let Message::Binary(bytes) = within(self.0.next()).await.unwrap().unwrap() else {
                continue;
            };
            let bytes = bytes.to_vec();
            let frame = Frame::parse(&bytes).unwrap();
            let kind = frame.known_kind().unwrap();
            if kind != FrameKind::Ping {
                let restart = frame.flags & flag::RESTART != 0;
                let reference = frame.reference;
                return Got {
                    kind,
                    restart,
                    reference,
                    bytes,
                };
            }
        }
    }

    pub(crate) async fn expect(&mut self, kind: FrameKind) -> Got {
        let got = self.next().await;
        assert_eq!(got.kind, kind);
        got
    }

    pub(crate) async fn say(&mut self, frame: Vec<u8>) {
        within(self.0.send(Message::Binary(frame.into()))).await.unwrap();
    }

    pub(crate) async fn welcome(&mut self) {
        let hello = self.expect(FrameKind::Hello).await;
        let welcome = body::Welcome {
            session: 1,
            user: "alice".to_owned(),
            epoch: EPOCH,
            window: 8,
            payload_bytes_max: u32::try_from(PAYLOAD_BYTES_MAX).unwrap(),
            heartbeat_ms: 60_000,
            server_time_ms: 0,
        };
        self.say(encode(FrameKind::Welcome, hello.reference, &welcome))
            .await;
    }

    pub(crate) async fn login(&mut self, states: Vec<body::ConvState>) {
        self.welcome().await;
        let sync = self.expect(FrameKind::Sync).await;
        self.sync_page(&sync, states).await;
    }

    pub(crate) async fn sync_page(&mut self, sync: &Got, conversations: Vec<body::ConvState>) {
        self.sync_page_of(sync, conversations, false).await;
    }

    pub(crate) async fn sync_page_of(&mut self, sync: &Got, conversations: Vec<body::ConvState>, more: bool) {
        let page = body::SyncPage {
            cursor: b"cursor".to_vec(),
            more,
            conversations,
        };
        self.say(encode(FrameKind::SyncPage, sync.reference, &page)).await;
    }

    pub(crate) async fn pull_page(&mut self, pull: &Got, seqs: &[u64], next_seq: u64, head_seq: u64) {
        let page = body::PullPage {
            conv: conv().as_bytes().to_vec(),
            next_seq,
            head_seq,
            head_n: head_seq,
            floor_seq: 0,
            messages: seqs.iter().map(|seq| message(*seq)).collect(),
        };
        self.say(encode(FrameKind::PullPage, pull.reference, &page)).await;
    }

    pub(crate) async fn ack(&mut self, send: &Got, seq: u64) {
        let ack = body::SendAck {
            conv: conv().as_bytes().to_vec(),
            seq,
            n: seq,
            time_ms: 1,
        };
        self.say(encode(FrameKind::SendAck, send.reference, &ack)).await;
    }

    pub(crate) async fn refuse(&mut self, got: &Got, code: ErrorCode) {
        self.say(encode_error(got.reference, code, "no")).await;
    }

    pub(crate) async fn close(mut self, code: u16) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "bye".into(),
        };
        // The client may be faster in hanging up.
        drop(self.0.close(Some(frame)).await);
        while let Some(Ok(_)) = within(self.0.next()).await {}
    }

    /// Ends the connection without a close frame.
    pub(crate) fn cut(self) {
        drop(self.0);
    }

    /// What the client closes with.
    pub(crate) async fn closed(&mut self) {
        while let Some(Ok(_)) = within(self.0.next()).await {}
    }
}

pub(crate) fn message(seq: u64) -> Vec<u8> {
    let body = body::Message {
        conv: conv().as_bytes().to_vec(),
        seq,
        n: seq,
        sender: "bob".to_owned(),
        kind: 1,
        flags: 0,
        ref_seq: 0,
        origin_terminal: 1,
        origin_device: String::new(),
        client_msg_id: [u8::try_from(seq % 251).unwrap(); 16],
        time_ms: seq,
        content_type: 1,
        payload: format!("m{seq}").into_bytes(),
    };
    encode(FrameKind::Message, 0, &body)
}

pub(crate) fn state(head_seq: u64, read_seq: u64) -> body::ConvState {
    body::ConvState {
        conv: conv().as_bytes().to_vec(),
        head_seq,
        head_n: head_seq,
        floor_seq: 0,
        conv_version: 0,
        read_seq,
        read_n: read_seq,
        last: message(head_seq),
    }
}

pub(crate) async fn until_synced(events: &mut Events) {
    while within(events.next()).await.expect("the session lives") != Event::Synced {}
}

/// The next `count` messages, by place; other events are passed over.
pub(crate) async fn seqs(events: &mut Events, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        if let Event::Message(message, _) = within(events.next()).await.expect("the session lives") {
            seqs.push(message.seq());
        }
    }
    seqs
}
