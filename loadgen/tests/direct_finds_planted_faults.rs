//! `direct` against a tiny service in this process that keeps the promise, or breaks it once on purpose.
//!
//! The service is the opposite side of the wire and nothing else: it proves that the generator sees each fault.
//! What the real gateway does is measured by the system tests.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use corelane_loadgen::cli::Options;
use corelane_loadgen::report::{Report, Verdict};
use corelane_loadgen::run::run;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, body, flag, read};
use corelane_protocol::id::{ConvId, UserId};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

/// What the service does with its 200th live message (or send, for the refusal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    DropTail,
    Double,
    Swap,
    Change,
    Misdeliver,
    /// Drops five and says so.
    Demote,
    /// Refuses one send, and those behind it until a restart comes.
    Refuse,
    /// Ends a connection.
    HangUp,
    /// Ends a connection with a code that says not to come back.
    Kick,
    /// Never answers one send.
    Silence,
}

#[derive(Default)]
struct Service {
    writers: HashMap<String, Arc<Mutex<WebSocket<TcpStream>>>>,
    logs: HashMap<ConvId, Vec<Vec<u8>>>,
    seqs: HashMap<(ConvId, String, [u8; 16]), u64>,
    gates: Vec<(String, ConvId)>,
    live: u64,
    sends: u64,
    held: Option<(String, Vec<u8>)>,
    dropped: u64,
}

fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::new(Mutex::new(Service::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, service) = (stream.unwrap(), Arc::clone(&service));
            std::thread::spawn(move || connection(stream, &service, fault));
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

fn connection(stream: TcpStream, service: &Mutex<Service>, fault: Fault) {
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
        match frame.known_kind().unwrap() {
            FrameKind::Hello => {
                let hello = read::hello(&frame).unwrap();
                me = user_of(hello.token.unwrap());
                service.writers.insert(me.clone(), Arc::clone(&writer));
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
            FrameKind::Send => service.send(&frame, &me, &writer, fault),
            FrameKind::Sync => {
                let conversations = service.changed(&me);
                let page = body::SyncPage {
                    cursor: vec![1],
                    more: false,
                    conversations,
                };
                put(
                    &writer,
                    &frame::encode(FrameKind::SyncPage, frame.reference, &page),
                );
            }
            FrameKind::Pull => {
                let pull = read::pull(&frame).unwrap();
                let log = service.logs.get(&pull.conv).map_or(&[][..], Vec::as_slice);
                let from = usize::try_from(pull.from_seq - 1).unwrap();
                let page = body::PullPage {
                    conv: pull.conv.as_bytes().to_vec(),
                    next_seq: 0,
                    head_seq: log.len() as u64,
                    head_n: log.len() as u64,
                    floor_seq: 0,
                    messages: log.get(from..).unwrap_or(&[]).to_vec(),
                };
                put(
                    &writer,
                    &frame::encode(FrameKind::PullPage, frame.reference, &page),
                );
            }
            _ => {}
        }
    }
    // The clone that others write to would keep the connection open.
    drop(socket.get_ref().shutdown(std::net::Shutdown::Both));
}

impl Service {
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

    fn send(&mut self, frame: &Frame<'_>, me: &str, writer: &Mutex<WebSocket<TcpStream>>, fault: Fault) {
        let send = read::send(frame).unwrap();
        let user = UserId::new(me).unwrap();
        let conv = send.target.conv_for(&user).unwrap();
        self.sends += 1;
        let gate = (me.to_owned(), conv.clone());
        if fault == Fault::Silence && self.sends == 200 {
            return;
        }
        if fault == Fault::Refuse && self.sends == 200 {
            self.gates.push(gate);
            return put(
                writer,
                &frame::encode_error(frame.reference, ErrorCode::Overloaded, "planted"),
            );
        }
        if frame.flags & flag::RESTART != 0 {
            self.gates.retain(|closed| *closed != gate);
        } else if self.gates.contains(&gate) {
            return put(
                writer,
                &frame::encode_error(frame.reference, ErrorCode::GateClosed, "planted"),
            );
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
        let ack = body::SendAck {
            conv: conv.as_bytes().to_vec(),
            seq,
            n: seq,
            time_ms: 0,
        };
        put(writer, &frame::encode(FrameKind::SendAck, frame.reference, &ack));
        if is_new {
            log.push(frame::encode(FrameKind::Message, 0, &message));
            let (small, large) = conv.direct_users().unwrap();
            let peer = if small == user { large } else { small };
            self.deliver(peer.as_str(), &message, fault);
        }
    }

    fn deliver(&mut self, peer: &str, message: &body::Message, fault: Fault) {
        self.live += 1;
        let bytes = frame::encode(FrameKind::Message, 0, message);
        let is_planted = self.live == 200;
        match fault {
            Fault::Drop if is_planted => return,
            Fault::DropTail if self.live >= 500 => return,
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
            Fault::Demote if (200..).contains(&self.live) && self.dropped < 5 => {
                self.dropped += 1;
                let place = body::ConvSeq {
                    conv: message.conv.clone(),
                    seq: message.seq,
                };
                let told = frame::encode(
                    FrameKind::PullRequired,
                    0,
                    &body::PullRequired { upto: vec![place] },
                );
                return self.put_to(peer, &told);
            }
            Fault::HangUp if is_planted => {
                let writer = self.writers.get(peer).unwrap().lock().unwrap();
                return drop(writer.get_ref().shutdown(std::net::Shutdown::Both));
            }
            Fault::Kick if is_planted => {
                let mut writer = self.writers.get(peer).unwrap().lock().unwrap();
                let (code, reason) = (4501.into(), "planted".into());
                return drop(writer.close(Some(CloseFrame { code, reason })));
            }
            _ => {}
        }
        self.put_to(peer, &bytes);
        if let Some((held_for, bytes)) = self.held.take() {
            if held_for == peer {
                self.put_to(peer, &bytes);
            } else {
                self.held = Some((held_for, bytes));
            }
        }
    }

    fn put_to(&self, user: &str, bytes: &[u8]) {
        if let Some(writer) = self.writers.get(user) {
            put(writer, bytes);
        }
    }
}

fn put(writer: &Mutex<WebSocket<TcpStream>>, bytes: &[u8]) {
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

fn measure(fault: Fault, more: &[&str]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("token.key");
    std::fs::write(&secret, "ab".repeat(32)).unwrap();
    let url = format!("ws://{}", serve(fault));
    let args = [
        "corelane-loadgen",
        "direct",
        &url,
        "-c",
        "4",
        "-r",
        "1k/s",
        "-d",
        "600ms",
        "-w",
        "100ms",
        "--drain",
        "1s",
        "-q",
        "--pattern",
        "pairs",
        "--secret-file",
        secret.to_str().unwrap(),
    ];
    run(Options::try_parse_from(args.iter().copied().chain(more.iter().copied())).unwrap()).unwrap()
}

/// Everything but what `allowed` names is as it should be.
#[track_caller]
fn assert_only(report: &Report, allowed: &[&str], exit_code: u8) {
    let figures = [
        ("lost", report.lost),
        ("repaired", report.repaired),
        ("duplicated", report.duplicated),
        ("reordered", report.reordered),
        ("missing", report.counters.missing),
        ("corrupt", report.counters.corrupt),
        ("misdelivered", report.counters.misdelivered),
        ("unanswered", report.counters.unanswered),
        ("stray", report.counters.stray),
        ("malformed", report.counters.malformed),
    ];
    for (name, figure) in figures {
        assert_eq!(figure > 0, allowed.contains(&name), "{name}\n{}", report.text());
    }
    if exit_code == 0 {
        // A busy machine may void the run; nothing else may be wrong.
        assert!(
            matches!(report.verdict, Verdict::Pass | Verdict::Void),
            "{}",
            report.text()
        );
    } else {
        assert_eq!(report.exit_code, exit_code, "{}", report.text());
    }
}

#[test]
fn a_faithful_service_passes() {
    for more in [
        &[][..],
        &["--threads", "2", "--pattern", "random", "--arrivals", "poisson"],
    ] {
        let report = measure(Fault::None, more);
        assert_only(&report, &[], 0);
        assert_eq!(
            (report.acked, report.delivered),
            (report.sent, report.sent),
            "{}",
            report.text()
        );
        assert!(report.sent > 500, "{}", report.text());
    }
}

#[test]
fn a_dropped_message_is_lost_though_a_pull_brings_it() {
    let report = measure(Fault::Drop, &[]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!((report.lost, report.repaired), (1, 1), "{}", report.text());
}

#[test]
fn dropped_messages_with_nothing_behind_them_are_lost() {
    let report = measure(Fault::DropTail, &[]);
    assert_only(&report, &["lost", "repaired"], 4);
    assert_eq!(report.lost, report.sent - 499, "{}", report.text());
}

#[test]
fn a_doubled_message_is_found() {
    let report = measure(Fault::Double, &[]);
    assert_only(&report, &["duplicated"], 4);
}

#[test]
fn a_swapped_message_is_found() {
    let report = measure(Fault::Swap, &[]);
    assert_only(&report, &["reordered"], 4);
}

#[test]
fn a_changed_payload_is_found() {
    let report = measure(Fault::Change, &[]);
    assert_only(&report, &["corrupt"], 4);
}

#[test]
fn a_message_for_somebody_else_is_found() {
    let report = measure(Fault::Misdeliver, &[]);
    assert_only(&report, &["misdelivered"], 4);
}

#[test]
fn a_send_without_an_answer_is_found() {
    let report = measure(Fault::Silence, &[]);
    assert_only(&report, &["unanswered"], 4);
}

#[test]
fn what_the_service_says_it_dropped_is_pulled_and_not_lost() {
    let report = measure(Fault::Demote, &[]);
    assert_only(&report, &[], 0);
    assert!(
        report.counters.pull_required == 5 && report.counters.pulled >= 1,
        "{}",
        report.text()
    );
}

#[test]
fn a_refused_conversation_is_sent_again_in_order() {
    let report = measure(Fault::Refuse, &[]);
    assert_only(&report, &[], 0);
    assert_eq!(report.acked, report.sent, "{}", report.text());
    assert!(
        report.counters.retryable >= 1 && report.counters.resent == report.counters.retryable,
        "{}",
        report.text()
    );
}

#[test]
fn a_lost_connection_is_a_fault_unless_reconnecting_is_asked_for() {
    let report = measure(Fault::HangUp, &[]);
    assert_eq!((report.dropped, report.exit_code), (1, 4), "{}", report.text());
    let report = measure(Fault::HangUp, &["--reconnect", "--drain", "5s"]);
    assert_only(&report, &[], 0);
    assert_eq!(
        (report.dropped, report.counters.reconnected),
        (1, 1),
        "{}",
        report.text()
    );
    assert_eq!(
        (report.acked, report.counters.offline),
        (report.sent, 0),
        "{}",
        report.text()
    );
}

#[test]
fn a_terminal_that_does_not_come_back_is_not_taken_for_complete() {
    let report = measure(Fault::Kick, &["--reconnect"]);
    assert_eq!(
        (report.dropped, report.counters.offline, report.exit_code),
        (1, 1, 4),
        "{}",
        report.text()
    );
}
