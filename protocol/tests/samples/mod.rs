//! One frame of each kind, one link record of each kind, bus records: with every field set to something of its own.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::too_many_lines, reason = "the lists of samples are lists")]

use corelane_protocol::bus::{BusFrame, BusRecord, FrameReceivers, Receivers, class};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{
    self, Extension, FrameKind, body, encode, encode_error, encode_with, extension, flag, kind,
    push_extension,
};
use corelane_protocol::id::{ConvId, GroupId, UserId};
use corelane_protocol::link::body as link;
use corelane_protocol::link::record::{Record, RecordKind};

pub(crate) const CLIENT_MSG_ID: [u8; 16] =
    *b"\x01\x93\x5a\x2b\x3c\x4d\x7e\xf0\x81\x23\x45\x67\x89\xab\xcd\xef";

pub(crate) fn direct() -> Vec<u8> {
    let users = ["alice", "bob"].map(|user| UserId::new(user).unwrap());
    ConvId::direct(&users[0], &users[1]).as_bytes().to_vec()
}

pub(crate) fn group() -> Vec<u8> {
    ConvId::group(&GroupId::new("team").unwrap()).as_bytes().to_vec()
}

pub(crate) fn stored_extension() -> Vec<u8> {
    let mut bytes = Vec::new();
    push_extension(
        &mut bytes,
        Extension {
            number: extension::STORED | 1,
            value: b"kept",
        },
    );
    bytes
}

fn send(content_type: u8, payload: &[u8]) -> body::Send {
    body::Send {
        target: body::Target::Conv(group()),
        kind: kind::TEXT,
        flags: kind::flag::SILENT,
        ref_seq: 41,
        client_msg_id: CLIENT_MSG_ID,
        content_type,
        payload: payload.to_vec(),
    }
}

pub(crate) fn message() -> Vec<u8> {
    let body = body::Message {
        conv: group(),
        seq: 42,
        n: 40,
        sender: "alice".to_owned(),
        kind: kind::TEXT,
        flags: kind::flag::SILENT,
        ref_seq: 41,
        origin_terminal: 1,
        origin_device: "laptop".to_owned(),
        client_msg_id: CLIENT_MSG_ID,
        time_ms: 1_732_460_000_000,
        content_type: kind::content::TEXT,
        payload: "grüße\n".as_bytes().to_vec(),
    };
    encode_with(FrameKind::Message, 0, 0, &body, &stored_extension())
}

fn place(seq: u64) -> body::ConvSeq {
    body::ConvSeq { conv: direct(), seq }
}

fn call(from: &str) -> body::Call {
    body::Call {
        target: body::Target::User("bob".to_owned()),
        from: from.to_owned(),
        call_id: [0xca; 16],
        step: kind::call_step::OFFER,
        body: br#"{"sdp":"v=0"}"#.to_vec(),
    }
}

fn typing(from: &str) -> body::Typing {
    body::Typing {
        target: body::Target::Conv(group()),
        from: from.to_owned(),
        on: true,
    }
}

/// Frames that clients send, by name.
pub(crate) fn client_frames() -> Vec<(&'static str, Vec<u8>)> {
    let room = body::Room {
        room: "lobby".to_owned(),
    };
    let user = body::Send {
        target: body::Target::User("bob".to_owned()),
        kind: kind::APP_FIRST + 7,
        ..send(kind::content::BYTES, &[0, 0xff, 7])
    };
    vec![
        (
            "hello",
            encode(
                FrameKind::Hello,
                1,
                &body::Hello {
                    token: "a.b.c".to_owned(),
                    terminal: 3,
                    device: "phone-1".to_owned(),
                    epoch: 0x1122_3344_5566_7788,
                },
            ),
        ),
        (
            "send",
            encode_with(
                FrameKind::Send,
                flag::RESTART,
                2,
                &send(kind::content::TEXT, "grüße\n".as_bytes()),
                &stored_extension(),
            ),
        ),
        (
            "send_json",
            encode(
                FrameKind::Send,
                3,
                &send(kind::content::JSON, br#"{"a":[1,null]}"#),
            ),
        ),
        ("send_bytes", encode(FrameKind::Send, 4, &user)),
        (
            "read",
            encode(FrameKind::Read, 5, &body::Read { upto: place(42) }),
        ),
        (
            "delivered",
            encode(
                FrameKind::Delivered,
                6,
                &body::Delivered {
                    upto: vec![place(42), place(43)],
                },
            ),
        ),
        (
            "sync",
            encode(
                FrameKind::Sync,
                7,
                &body::Sync {
                    cursor: vec![1, 2, 0xfe],
                    limit: 50,
                },
            ),
        ),
        (
            "pull",
            encode(
                FrameKind::Pull,
                8,
                &body::Pull {
                    conv: direct(),
                    from_seq: 3,
                    to_seq: 9,
                    limit: 100,
                },
            ),
        ),
        ("call_step", encode(FrameKind::CallStep, 9, &call(""))),
        ("typing_step", encode(FrameKind::TypingStep, 10, &typing(""))),
        (
            "presence_query",
            encode(
                FrameKind::PresenceQuery,
                11,
                &body::PresenceQuery {
                    users: vec!["alice".to_owned(), "bob".to_owned()],
                },
            ),
        ),
        ("join_room", encode(FrameKind::JoinRoom, 12, &room)),
        ("leave_room", encode(FrameKind::LeaveRoom, 13, &room)),
        (
            "refresh_token",
            encode(
                FrameKind::RefreshToken,
                14,
                &body::RefreshToken {
                    token: "d.e.f".to_owned(),
                },
            ),
        ),
        (
            "ping",
            encode(
                FrameKind::Ping,
                15,
                &body::Ping {
                    time_ms: 1_732_460_000_001,
                },
            ),
        ),
    ]
}

/// Frames that the server sends, by name.
pub(crate) fn server_frames() -> Vec<(&'static str, Vec<u8>)> {
    let state = |last| body::ConvState {
        conv: group(),
        head_seq: 42,
        head_n: 40,
        floor_seq: 2,
        conv_version: 5,
        read_seq: 30,
        read_n: 29,
        last,
    };
    vec![
        (
            "welcome",
            encode(
                FrameKind::Welcome,
                1,
                &body::Welcome {
                    session: 0x0123_4567_89ab_cdef,
                    user: "alice".to_owned(),
                    epoch: 0x1122_3344_5566_7788,
                    window: 64,
                    payload_bytes_max: 65_536,
                    heartbeat_ms: 30_000,
                    server_time_ms: 1_732_460_000_000,
                },
            ),
        ),
        (
            "send_ack",
            encode(
                FrameKind::SendAck,
                2,
                &body::SendAck {
                    conv: group(),
                    seq: 42,
                    n: 40,
                    time_ms: 1_732_460_000_000,
                },
            ),
        ),
        ("message", message()),
        (
            "sync_page",
            encode(
                FrameKind::SyncPage,
                7,
                &body::SyncPage {
                    cursor: vec![9, 8, 7],
                    more: true,
                    conversations: vec![state(message()), state(Vec::new())],
                },
            ),
        ),
        (
            "pull_page",
            encode(
                FrameKind::PullPage,
                8,
                &body::PullPage {
                    conv: group(),
                    next_seq: 43,
                    head_seq: 50,
                    head_n: 48,
                    floor_seq: 2,
                    messages: vec![message(), message()],
                },
            ),
        ),
        (
            "read_up_to",
            encode(
                FrameKind::ReadUpTo,
                5,
                &body::ReadUpTo {
                    conv: direct(),
                    whose: "bob".to_owned(),
                    seq: 42,
                    n: 40,
                },
            ),
        ),
        ("call", encode(FrameKind::Call, 0, &call("alice"))),
        ("typing", encode(FrameKind::Typing, 0, &typing("alice"))),
        (
            "presence",
            encode(
                FrameKind::Presence,
                11,
                &body::Presence {
                    users: vec![
                        body::UserPresence {
                            user: "alice".to_owned(),
                            terminals: 1 << 1 | 1 << 3,
                        },
                        body::UserPresence {
                            user: "bob".to_owned(),
                            terminals: 0,
                        },
                    ],
                },
            ),
        ),
        (
            "pull_required",
            encode(
                FrameKind::PullRequired,
                0,
                &body::PullRequired {
                    upto: vec![place(44)],
                },
            ),
        ),
        (
            "resync",
            encode(FrameKind::Resync, 0, &body::Resync { spread_ms: 5000 }),
        ),
        (
            "go_away",
            encode(
                FrameKind::GoAway,
                0,
                &body::GoAway {
                    after_ms: 100,
                    window_ms: 30_000,
                },
            ),
        ),
        (
            "error",
            encode_error(2, ErrorCode::Overloaded, "the lane is full; try again later"),
        ),
        (
            "pong",
            encode(
                FrameKind::Pong,
                15,
                &body::Pong {
                    time_ms: 1_732_460_000_001,
                    server_time_ms: 1_732_460_000_002,
                },
            ),
        ),
    ]
}

fn record_body(kind: RecordKind) -> Vec<u8> {
    let archived = match kind {
        RecordKind::ClientFrame => return client_frames().swap_remove(1).1,
        RecordKind::ServerFrame => return server_frames().swap_remove(1).1,
        RecordKind::ConnClosed | RecordKind::Leave | RecordKind::ClaimsDone | RecordKind::ClaimsBegin => {
            return Vec::new();
        }
        RecordKind::Claim => frame::archive(&link::Claim {
            owner_seq: 3,
            issued_at_s: 1_732_460_000,
            again: true,
        }),
        RecordKind::Unclaim => frame::archive(&link::Unclaim { owner_seq: 3 }),
        RecordKind::Owned => frame::archive(&link::Owned { owner_seq: 3 }),
        RecordKind::Consumed => frame::archive(&link::Consumed {
            router_boot: 0xb007,
            partition: 5,
            number: 77,
            gaps: vec![79, 81],
        }),
        RecordKind::Bounce => frame::archive(&link::Bounce {
            app: 9,
            conv: group(),
            seq: 42,
            conns: vec![0x0040_0000_0000_0001],
        }),
        RecordKind::BusFetch => frame::archive(&link::BusFetch {
            boot: 0xb007,
            partition: 5,
            from: 12,
            credit_bytes: 65_536,
        }),
        RecordKind::Renew => frame::archive(&link::Renew { sessions: 1000 }),
        RecordKind::Claimed => frame::archive(&link::Claimed {
            owner_seq: 3,
            refused_code: 4505,
        }),
        RecordKind::Kick => frame::archive(&link::Kick {
            code: 4501,
            owner_seq: 3,
        }),
        RecordKind::BusBatch => frame::archive(&link::BusBatch {
            partition: 5,
            from: 12,
            lost: false,
            records: bus_records().into_iter().map(|(_, bytes)| bytes).collect(),
        }),
        RecordKind::RouterList => frame::archive(&link::RouterList {
            version: 2,
            routers: vec![link::RouterInfo {
                node: "router-1".to_owned(),
                boot: 0xb007,
                address: "127.0.0.1:7090".to_owned(),
            }],
        }),
        RecordKind::Renewed => frame::archive(&link::Renewed { alive: true }),
        RecordKind::Credit => frame::archive(&link::Credit {
            bytes: 65_536,
            records: 12,
        }),
    };
    archived.to_vec()
}

/// Link records, by name.
pub(crate) fn records() -> Vec<(String, Vec<u8>)> {
    let all = RecordKind::ALL.iter().map(|kind| {
        let body = record_body(*kind);
        let record = Record {
            kind: *kind as u8,
            flags: 0,
            priority: 2,
            terminal: 1,
            app: 9,
            lane: 77,
            user: "alice",
            device: "laptop",
            conn: 0x0040_0000_0000_0001,
            reference: 2,
            deadline_ms: 5000,
            stamp: 1_732_460_000_000_123,
            body: &body,
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        (snake_case(&format!("{kind:?}")), bytes)
    });
    all.collect()
}

/// Bus records, by who receives them.
pub(crate) fn bus_records() -> Vec<(&'static str, Vec<u8>)> {
    let record = |receivers| {
        let record = BusRecord {
            class: class::STORED,
            priority: 2,
            app: 9,
            conv: group(),
            first_seq: 42,
            last_seq: 42,
            member_version: 5,
            epoch: 0x1122_3344_5566_7788,
            router_boot: 0xb007,
            number: 77,
            outbox: 1001,
            expires_ms: 0,
            published_us: 1_732_460_000_000_456,
            receivers,
            frames: [
                FrameReceivers::AllBut(0x0040_0000_0000_0001),
                FrameReceivers::All,
                FrameReceivers::Only(vec![3]),
            ]
            .map(|receivers| BusFrame {
                seq: 42,
                receivers,
                sender: "alice".to_owned(),
                stamp: 1_732_460_000_000_123,
                frame: message(),
            })
            .to_vec(),
        };
        record.encode()
    };
    vec![
        ("conns", record(Receivers::Conns(vec![0x0040_0000_0000_0002, 3]))),
        ("group_except", record(Receivers::GroupExcept(3))),
        ("users", record(Receivers::Users(vec!["bob".to_owned()]))),
    ]
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for each in name.chars() {
        if each.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(each.to_lowercase());
    }
    out
}
