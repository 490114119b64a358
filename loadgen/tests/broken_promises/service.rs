//! A tiny service that keeps the promise, or breaks it on purpose.
//!
//! It is the opposite side of the wire, behind one or more addresses, and nothing else.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, body, flag, read};
use corelane_protocol::id::{ConvId, UserId};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::http::api;

/// What the service does, mostly to its 200th live message, or send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Drop,
    DropTail,
    Double,
    Swap,
    Change,
    Misdeliver,
    /// Brings a message back to who sent it.
    Return,
    /// Drops five and says so.
    Demote,
    /// Drops one without a word and, twenty later, five and says so.
    DropThenDemote,
    /// Drops one and tells to sync; once that is done, drops another.
    DropAroundResync,
    /// Tells one terminal to sync, then swaps two of its messages.
    ResyncThenSwap,
    /// Tells one terminal to sync, then doubles a message of another.
    ResyncThenDouble,
    /// Refuses one send, and those behind it until a restart comes.
    Refuse,
    /// Ends a connection.
    HangUp,
    /// Tells a connection to go within a minute, and ends it.
    GoAwayThenHangUp,
    /// Drops one without a word, and ends the connection more than four seconds later.
    DropThenHangUp,
    /// Never answers one send.
    Silence,
    /// Its first address ends all its connections and takes no more.
    CloseAddress,
    /// Its first address says nothing any more, whatever comes.
    FreezeAddress,
}

/// Where it listens.
pub(crate) struct Served {
    /// WebSocket.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) http: SocketAddr,
    service: Arc<Mutex<Service>>,
}

impl Served {
    /// Logins at each address so far.
    pub(crate) fn logins(&self) -> Vec<u64> {
        self.service.lock().unwrap().logins.clone()
    }

    /// Messages between users of one address so far.
    pub(crate) fn within_one_address(&self) -> u64 {
        self.service.lock().unwrap().within
    }
}

type Writer = Arc<Mutex<WebSocket<TcpStream>>>;

pub(crate) struct Service {
    fault: Fault,
    writers: HashMap<String, Writer>,
    /// The address at which each user logged in last.
    places: HashMap<String, usize>,
    logins: Vec<u64>,
    within: u64,
    /// The first address is closed, or frozen.
    is_first_gone: bool,
    pub(crate) logs: HashMap<ConvId, Vec<Vec<u8>>>,
    seqs: HashMap<(ConvId, String, [u8; 16]), u64>,
    gates: Vec<(String, ConvId)>,
    pub(crate) live: u64,
    sends: u64,
    /// A message that comes later than it should.
    held: Option<(String, Vec<u8>)>,
    dropped: u64,
    /// Whom the fault befell, and live messages for him since.
    victim: Option<String>,
    since: u64,
    has_synced: bool,
}

/// Serves at so many addresses.
pub(crate) fn serve(fault: Fault, addresses: usize) -> Served {
    let service = Arc::new(Mutex::new(Service {
        fault,
        writers: HashMap::new(),
        places: HashMap::new(),
        logins: vec![0; addresses],
        within: 0,
        is_first_gone: false,
        logs: HashMap::new(),
        seqs: HashMap::new(),
        gates: Vec::new(),
        live: 0,
        sends: 0,
        held: None,
        dropped: 0,
        victim: None,
        since: 0,
        has_synced: false,
    }));
    let at = |place| {
        listen(&service, move |stream, service| {
            connection(stream, service, place);
        })
    };
    Served {
        addresses: (0..addresses).map(at).collect(),
        http: listen(&service, api),
        service,
    }
}

fn listen(
    service: &Arc<Mutex<Service>>,
    serve: impl Fn(TcpStream, &Mutex<Service>) + Copy + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::clone(service);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, service) = (stream.unwrap(), Arc::clone(&service));
            std::thread::spawn(move || serve(stream, &service));
        }
    });
    address
}

#[expect(
    clippy::result_large_err,
    clippy::unnecessary_wraps,
    reason = "the callback's type is tungstenite's"
)]
fn accept(
    _: &Request,
    mut response: Response,
) -> Result<Response, tungstenite::handshake::server::ErrorResponse> {
    let name = "corelane.rkyv.v1".parse().unwrap();
    response.headers_mut().insert("sec-websocket-protocol", name);
    Ok(response)
}

fn connection(stream: TcpStream, service: &Mutex<Service>, place: usize) {
    if service.lock().unwrap().is_closed(place) {
        return;
    }
    let writer = stream.try_clone().unwrap();
    let Ok(mut socket) = tungstenite::accept_hdr(stream, accept) else {
        return;
    };
    let writer = Arc::new(Mutex::new(WebSocket::from_raw_socket(writer, Role::Server, None)));
    let mut me = String::new();
    while let Ok(message) = socket.read() {
        if !message.is_binary() {
            continue;
        }
        let bytes = message.into_data();
        let frame = Frame::parse(&bytes).unwrap();
        let mut service = service.lock().unwrap();
        if service.is_frozen(place) {
            continue;
        }
        match frame.known_kind().unwrap() {
            FrameKind::Hello => {
                let hello = read::hello(&frame).unwrap();
                me = user_of(hello.token.unwrap());
                service.writers.insert(me.clone(), Arc::clone(&writer));
                service.places.insert(me.clone(), place);
                service.logins[place] += 1;
                let welcome = body::Welcome {
                    session: 1,
                    user: me.clone(),
                    epoch: 1,
                    window: 64,
                    payload_bytes_max: 65_536,
                    heartbeat_ms: 60_000,
                    server_time_ms: 0,
                };
                put(
                    &writer,
                    &frame::encode(FrameKind::Welcome, frame.reference, &welcome),
                );
            }
            FrameKind::Send => service.send(&frame, &me, &writer),
            FrameKind::Sync => service.sync(&frame, &me, &writer),
            FrameKind::Pull => service.pull(&frame, &writer),
            FrameKind::Ping => {
                let pong = body::Pong {
                    time_ms: 0,
                    server_time_ms: 0,
                };
                put(&writer, &frame::encode(FrameKind::Pong, frame.reference, &pong));
            }
            _ => {}
        }
    }
    // The clone that others write to would keep the connection open.
    drop(socket.get_ref().shutdown(std::net::Shutdown::Both));
}

impl Service {
    fn is_closed(&self, place: usize) -> bool {
        self.fault == Fault::CloseAddress && self.is_first_gone && place == 0
    }

    fn is_frozen(&self, place: usize) -> bool {
        self.fault == Fault::FreezeAddress && self.is_first_gone && place == 0
    }

    fn sync(&mut self, frame: &Frame<'_>, me: &str, writer: &Writer) {
        let page = body::SyncPage {
            cursor: vec![1],
            more: false,
            conversations: self.changed(me),
        };
        put(
            writer,
            &frame::encode(FrameKind::SyncPage, frame.reference, &page),
        );
        self.has_synced |= self.victim.as_deref() == Some(me);
    }

    fn changed(&self, me: &str) -> Vec<body::ConvState> {
        let mine = |conv: &ConvId| {
            conv.direct_users()
                .is_some_and(|(a, b)| a.as_str() == me || b.as_str() == me)
        };
        let state = |conv: &ConvId, log: &Vec<Vec<u8>>| body::ConvState {
            conv: conv.as_bytes().to_vec(),
            head_seq: log.len() as u64,
            head_n: log.len() as u64,
            floor_seq: 0,
            conv_version: 0,
            read_seq: 0,
            read_n: 0,
            last: log.last().cloned().unwrap_or_default(),
        };
        self.logs
            .iter()
            .filter(|(conv, _)| mine(conv))
            .map(|(conv, log)| state(conv, log))
            .collect()
    }

    fn pull(&mut self, frame: &Frame<'_>, writer: &Writer) {
        let pull = read::pull(frame).unwrap();
        let log = self.logs.get(&pull.conv).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(pull.from_seq - 1).unwrap();
        let messages = log.get(from..).unwrap_or(&[]).to_vec();
        let page = body::PullPage {
            conv: pull.conv.as_bytes().to_vec(),
            next_seq: 0,
            head_seq: log.len() as u64,
            head_n: log.len() as u64,
            floor_seq: 0,
            messages,
        };
        put(
            writer,
            &frame::encode(FrameKind::PullPage, frame.reference, &page),
        );
    }

    fn send(&mut self, frame: &Frame<'_>, me: &str, writer: &Writer) {
        let send = read::send(frame).unwrap();
        let user = UserId::new(me).unwrap();
        let conv = send.target.conv_for(&user).unwrap();
        self.sends += 1;
        let gate = (me.to_owned(), conv.clone());
        let refuse = |code| put(writer, &frame::encode_error(frame.reference, code, "planted"));
        match self.fault {
            Fault::Silence if self.sends == 200 => return,
            Fault::Refuse if self.sends == 200 => {
                self.gates.push(gate);
                return refuse(ErrorCode::Overloaded);
            }
            _ => {}
        }
        if frame.flags & flag::RESTART != 0 {
            self.gates.retain(|closed| *closed != gate);
        } else if self.gates.contains(&gate) {
            return refuse(ErrorCode::GateClosed);
        }
        let key = (conv.clone(), me.to_owned(), send.client_msg_id.0);
        let is_new = !self.seqs.contains_key(&key);
        let log = self.logs.entry(conv.clone()).or_default();
        let seq = *self.seqs.entry(key).or_insert(log.len() as u64 + 1);
        let message = body::Message {
            conv: conv.as_bytes().to_vec(),
            seq,
            n: seq,
            sender: me.to_owned(),
            kind: send.kind,
            flags: send.flags,
            ref_seq: 0,
            origin_terminal: 4,
            origin_device: String::new(),
            client_msg_id: send.client_msg_id.0,
            time_ms: 0,
            content_type: send.content_type,
            payload: send.payload.to_vec(),
        };
        ack(writer, frame.reference, &conv, seq);
        if is_new {
            log.push(frame::encode(FrameKind::Message, 0, &message));
            let (small, large) = conv.direct_users().unwrap();
            let peer = if small == user { large } else { small };
            self.deliver(peer.as_str(), &message);
        }
    }

    fn deliver(&mut self, peer: &str, message: &body::Message) {
        self.live += 1;
        self.within += u64::from(self.places.get(peer) == self.places.get(&message.sender));
        let bytes = frame::encode(FrameKind::Message, 0, message);
        let is_planted = self.live == 200;
        let is_victim = self.victim.as_deref() == Some(peer);
        self.since += u64::from(is_victim);
        match self.fault {
            Fault::Drop if is_planted => return,
            Fault::DropTail if self.live >= 500 => return,
            Fault::DropThenDemote | Fault::DropAroundResync | Fault::DropThenHangUp if is_planted => {
                self.victim = Some(peer.to_owned());
                return;
            }
            Fault::Double if is_planted => self.put_to(peer, &bytes),
            Fault::Swap if is_planted => {
                self.held = Some((peer.to_owned(), bytes));
                return;
            }
            Fault::Change if is_planted => {
                let mut changed = message.clone();
                changed.payload[60] ^= 1;
                return self.put_to(peer, &frame::encode(FrameKind::Message, 0, &changed));
            }
            Fault::Misdeliver if is_planted => {
                let other = self
                    .writers
                    .keys()
                    .find(|user| *user != peer && *user != &message.sender);
                let other = other.unwrap().clone();
                self.put_to(&other, &bytes);
            }
            Fault::Return if is_planted => self.put_to(&message.sender, &bytes),
            Fault::Demote if (200..).contains(&self.live) && self.dropped < 5 => {
                self.dropped += 1;
                return self.demote(peer, message);
            }
            Fault::DropThenDemote if is_victim && (20..25).contains(&self.since) => {
                return self.demote(peer, message);
            }
            Fault::DropAroundResync if is_victim && self.since == 2 => self.resync(peer),
            Fault::DropAroundResync if is_victim && self.has_synced && self.dropped == 0 => {
                self.dropped += 1;
                return;
            }
            Fault::ResyncThenSwap | Fault::ResyncThenDouble if is_planted => {
                self.victim = Some(peer.to_owned());
                self.resync(peer);
            }
            Fault::ResyncThenSwap if is_victim && self.has_synced && self.dropped == 0 => {
                self.dropped += 1;
                self.held = Some((peer.to_owned(), bytes));
                return;
            }
            Fault::ResyncThenDouble if self.has_synced && !is_victim && self.dropped == 0 => {
                self.dropped += 1;
                self.put_to(peer, &bytes);
            }
            Fault::HangUp if is_planted => return self.hang_up(peer),
            Fault::GoAwayThenHangUp if is_planted => {
                self.tell_to_go(peer);
                return self.hang_up(peer);
            }
            Fault::FreezeAddress if is_planted => self.is_first_gone = true,
            Fault::CloseAddress if is_planted => {
                self.is_first_gone = true;
                let there = self.places.iter().filter(|(_, place)| **place == 0);
                there.for_each(|(user, _)| self.hang_up(user));
            }
            Fault::DropThenHangUp if is_victim && self.live > 4_500 && self.dropped == 0 => {
                self.dropped += 1;
                return self.hang_up(peer);
            }
            _ => {}
        }
        self.put_to(peer, &bytes);
        if let Some((_, bytes)) = self.held.take_if(|(held_for, _)| held_for == peer) {
            self.put_to(peer, &bytes);
        }
    }

    fn demote(&self, peer: &str, message: &body::Message) {
        let place = body::ConvSeq {
            conv: message.conv.clone(),
            seq: message.seq,
        };
        let told = body::PullRequired { upto: vec![place] };
        self.put_to(peer, &frame::encode(FrameKind::PullRequired, 0, &told));
    }

    fn resync(&self, peer: &str) {
        let resync = body::Resync { spread_ms: 0 };
        self.put_to(peer, &frame::encode(FrameKind::Resync, 0, &resync));
    }

    fn tell_to_go(&self, peer: &str) {
        let away = body::GoAway {
            after_ms: 60_000,
            window_ms: 0,
        };
        self.put_to(peer, &frame::encode(FrameKind::GoAway, 0, &away));
    }

    fn hang_up(&self, peer: &str) {
        let writer = self.writers.get(peer).unwrap().lock().unwrap();
        drop(writer.get_ref().shutdown(std::net::Shutdown::Both));
    }

    fn put_to(&self, user: &str, bytes: &[u8]) {
        let is_frozen = self.places.get(user).is_some_and(|place| self.is_frozen(*place));
        if let Some(writer) = self.writers.get(user).filter(|_| !is_frozen) {
            put(writer, bytes);
        }
    }
}

fn ack(writer: &Writer, reference: u32, conv: &ConvId, seq: u64) {
    let ack = body::SendAck {
        conv: conv.as_bytes().to_vec(),
        seq,
        n: seq,
        time_ms: 0,
    };
    put(writer, &frame::encode(FrameKind::SendAck, reference, &ack));
}

fn put(writer: &Writer, bytes: &[u8]) {
    // A peer that is gone is no concern of the service.
    drop(writer.lock().unwrap().send(Message::binary(bytes.to_vec())));
}

/// Who a token is for. Its signature is of no concern here.
fn user_of(token: &str) -> String {
    use base64::Engine as _;
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}
