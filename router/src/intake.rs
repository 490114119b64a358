//! Stage admit, the bytes: turns records of a link into what the rest of the router works with.
//!
//! Pure. Every field of a client's frame is checked here; what is wrong is answered at once with an `Error` that names
//! it. Records that say something else than they must are skipped: they come from a gateway that proved who it is.
//!
//! Owns nothing: what a record became goes to the end of the link's list, at most one entry per record that was read
//! (sessions that are to be compared share one, up to [`OWNED_MAX`]). Nothing is ever full here. Whoever takes an entry
//! has a bound and an answer of its own: `driver.rs` and `sessions.rs` have the link wait, `requests.rs` refuses or drops,
//! and in `fetch.rs` a newer one takes the place of an older one.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::read::{self, Place, TargetId};
use corelane_protocol::frame::{self, Frame, FrameError, FrameKind, encode_error};
use corelane_protocol::id::{AppId, ConvId, UserId};
use corelane_protocol::limits::PAYLOAD_BYTES_MAX;

use corelane_protocol::link::body::{
    ArchivedBounce, ArchivedBusFetch, ArchivedClaim, ArchivedConsumed, ArchivedOwned, ArchivedUnclaim,
};
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_protocol::terminal::Terminal;
use corelane_router_core::append::{Append, MemberChange};
use corelane_router_core::event::{Input, Origin, Submission};

use crate::clock::Clock;
use crate::hub::Outgoing;
use crate::store::DeliveredMark;

/// A send without a deadline of its own waits at most this long for its commit, in ms.
const DEADLINE_MS: u64 = 5_000;

/// Most sessions that are compared with the registry in one go.
const OWNED_MAX: usize = 256;

/// What a record became.
#[derive(Debug)]
pub(crate) enum FromLink {
    /// For the core.
    ToDriver(Input),
    /// An answer that needs nobody else.
    Refused(Outgoing),
    /// A client wants to know or tell something.
    Request(Request),
    /// A session begins or ends.
    Session(SessionRecord),
    /// The gateway is alive; the reference of its word.
    Renew(u32),
    /// Connections were gone.
    Bounce(BounceRecord),
    /// Bus records are wanted.
    Fetch(FetchRecord),
}

/// A request of a client, other than a send.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    pub(crate) conn: u64,
    pub(crate) reference: u32,
    pub(crate) what: What,
}

/// What is requested.
#[derive(Debug)]
pub(crate) enum What {
    Sync {
        cursor: Vec<u8>,
        limit: u16,
    },
    Pull(read::PullView),
    Read(Place),
    Delivered(Vec<DeliveredMark>),
    Presence(Vec<UserId>),
    Typing {
        conv: ConvId,
        on: bool,
    },
    Call {
        conv: ConvId,
        call_id: [u8; 16],
        step: u8,
        body: Vec<u8>,
    },
}

/// Connections of the gateway that were gone when a record came.
#[derive(Debug)]
pub(crate) struct BounceRecord {
    pub(crate) app: AppId,
    pub(crate) conv: ConvId,
    pub(crate) seq: u64,
    pub(crate) conns: Vec<u64>,
}

/// A record about sessions.
#[derive(Debug)]
pub(crate) enum SessionRecord {
    Claim {
        key: SessionKey,
        reference: u32,
        issued_at_s: u64,
        again: bool,
    },
    Unclaim(SessionKey),
    /// Sessions that are there as far as their shard knows.
    Owned(Vec<SessionKey>),
    /// All that follow were claimed at another router before, or are to be claimed again.
    ClaimsBegin,
    /// All that this shard has, up to this claim, were claimed on this link.
    ClaimsDone(u64),
    Leave,
}

/// Which session.
#[derive(Debug)]
pub(crate) struct SessionKey {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    pub(crate) conn: u64,
    pub(crate) terminal: Terminal,
    pub(crate) device: String,
    pub(crate) owner_seq: u64,
}

/// A `BusFetch`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchRecord {
    pub(crate) boot: u64,
    pub(crate) partition: u16,
    pub(crate) from: u64,
    pub(crate) credit_bytes: u32,
}

/// Takes one record of the gateway `boot`.
pub(crate) fn take_record(
    boot: u64,
    own_boot: u64,
    clock: &Clock,
    record: &Record<'_>,
    into: &mut Vec<FromLink>,
) {
    let Some(kind) = record.known_kind() else { return };
    let taken = match kind {
        RecordKind::ClientFrame => client_frame(boot, clock, record),
        RecordKind::Claim => claim(record).map(FromLink::Session),
        RecordKind::Unclaim => unclaim(record).map(FromLink::Session),
        RecordKind::ConnClosed => Some(FromLink::ToDriver(Input::ConnClosed(boot, record.conn))),
        RecordKind::Consumed => consumed(boot, own_boot, record),
        RecordKind::Bounce => bounce(record).map(FromLink::Bounce),
        RecordKind::BusFetch => fetch(record).map(FromLink::Fetch),
        RecordKind::Renew => Some(FromLink::Renew(record.reference)),
        RecordKind::Owned => owned(record, into),
        RecordKind::ClaimsBegin => Some(FromLink::Session(SessionRecord::ClaimsBegin)),
        RecordKind::ClaimsDone => {
            let up_to = if record.stamp == 0 { u64::MAX } else { record.stamp };
            Some(FromLink::Session(SessionRecord::ClaimsDone(up_to)))
        }
        RecordKind::Leave => Some(FromLink::Session(SessionRecord::Leave)),
        RecordKind::ServerFrame
        | RecordKind::Claimed
        | RecordKind::Kick
        | RecordKind::BusBatch
        | RecordKind::RouterList
        | RecordKind::Renewed
        | RecordKind::Credit => None,
    };
    into.extend(taken);
}

fn client_frame(boot: u64, clock: &Clock, record: &Record<'_>) -> Option<FromLink> {
    let refuse = |code, text: &str| {
        let body = encode_error(record.reference, code, text);
        Some(FromLink::Refused(Outgoing::frame(
            record.conn,
            record.reference,
            0,
            body,
        )))
    };
    let Ok(user) = UserId::new(record.user) else {
        return refuse(ErrorCode::Malformed, "the gateway named no user");
    };
    let frame = match Frame::parse(record.body) {
        Ok(frame) => frame,
        Err(error) => return refuse(error.code(), &error.to_string()),
    };
    let taken = match frame.known_kind() {
        Some(FrameKind::Send) => {
            return match send(boot, clock, record, &frame, user) {
                Ok(submission) => Some(submission),
                Err((code, text)) => refuse(code, &text),
            };
        }
        Some(kind) => request(kind, record, &frame, &user),
        None => return refuse(ErrorCode::UnknownKind, "this frame kind is not known here"),
    };
    match taken {
        Ok(what) => Some(FromLink::Request(Request {
            app: AppId(record.app),
            user,
            conn: record.conn,
            reference: record.reference,
            what,
        })),
        Err((code, text)) => refuse(code, &text),
    }
}

type Refusal = (ErrorCode, String);

fn refusal(error: FrameError) -> Refusal {
    (error.code(), error.to_string())
}

/// The conversation of a target, for `user`.
pub(crate) fn conv_of(target: &TargetId, user: &UserId) -> Result<ConvId, Refusal> {
    let conv = target
        .conv_for(user)
        .map_err(|error| (ErrorCode::NotMember, error.to_string()))?;
    if conv.direct_users().is_none() && !conv.is_group() {
        return Err((
            ErrorCode::Unsupported,
            "rooms are not served by this version".to_owned(),
        ));
    }
    Ok(conv)
}

fn send(
    boot: u64,
    clock: &Clock,
    record: &Record<'_>,
    frame: &Frame<'_>,
    user: UserId,
) -> Result<FromLink, Refusal> {
    let body = frame.access::<frame::body::ArchivedSend>().map_err(refusal)?;
    if body.payload.len() > PAYLOAD_BYTES_MAX {
        let text = format!(
            "payload has {} bytes, allowed are {PAYLOAD_BYTES_MAX}",
            body.payload.len()
        );
        return Err((ErrorCode::TooLarge, text));
    }
    let view = read::send(frame).map_err(refusal)?;
    let conv = conv_of(&view.target, &user)?;
    let now_ms = u64::try_from(clock.now().mono.as_millis()).unwrap_or(u64::MAX);
    let deadline_ms = match record.deadline_ms {
        0 => DEADLINE_MS,
        left => u64::from(left).min(DEADLINE_MS),
    };
    let append = Append {
        app: AppId(record.app),
        conv,
        sender: user,
        client_msg_id: view.client_msg_id,
        kind: view.kind,
        flags: view.flags,
        ref_seq: view.ref_seq,
        content_type: view.content_type,
        payload: view.payload.to_vec(),
        extensions: read::stored_extensions(frame),
        origin_terminal: record.terminal,
        origin_device: record.device.to_owned(),
        members: MemberChange::default(),
        check_member: true,
        moves_read_mark: true,
    };
    Ok(FromLink::ToDriver(Input::Submit(Submission {
        origin: Origin::Client {
            boot,
            conn: record.conn,
            reference: record.reference,
        },
        append,
        restart: view.restart,
        deadline_ms: now_ms + deadline_ms,
        stamp: record.stamp,
    })))
}

fn request(kind: FrameKind, record: &Record<'_>, frame: &Frame<'_>, user: &UserId) -> Result<What, Refusal> {
    let what = match kind {
        FrameKind::Sync => {
            let view = read::sync(frame).map_err(refusal)?;
            What::Sync {
                cursor: view.cursor.to_vec(),
                limit: view.limit,
            }
        }
        FrameKind::Pull => What::Pull(read::pull(frame).map_err(refusal)?),
        FrameKind::Read => What::Read(read::read(frame).map_err(refusal)?),
        FrameKind::Delivered => {
            let terminal = Terminal::from_number(record.terminal)
                .ok_or_else(|| (ErrorCode::Malformed, "the gateway named no terminal".to_owned()))?;
            let places = read::delivered(frame).map_err(refusal)?;
            let marks = places.into_iter().map(|place| DeliveredMark {
                app: AppId(record.app),
                user: user.clone(),
                terminal,
                device: record.device.to_owned(),
                conv: place.conv,
                seq: place.seq,
            });
            What::Delivered(marks.collect())
        }
        FrameKind::PresenceQuery => What::Presence(read::presence_query(frame).map_err(refusal)?),
        FrameKind::TypingStep => {
            let view = read::typing(frame).map_err(refusal)?;
            What::Typing {
                conv: conv_of(&view.target, user)?,
                on: view.on,
            }
        }
        FrameKind::CallStep => {
            let view = read::call(frame).map_err(refusal)?;
            let conv = conv_of(&view.target, user)?;
            What::Call {
                conv,
                call_id: view.call_id,
                step: view.step,
                body: view.body.to_vec(),
            }
        }
        FrameKind::JoinRoom | FrameKind::LeaveRoom => {
            return Err((
                ErrorCode::Unsupported,
                "rooms are not served by this version".to_owned(),
            ));
        }
        _ => {
            return Err((
                ErrorCode::UnknownKind,
                "this frame kind is not for routers".to_owned(),
            ));
        }
    };
    Ok(what)
}

fn session_key(record: &Record<'_>, owner_seq: u64) -> Option<SessionKey> {
    Some(SessionKey {
        app: AppId(record.app),
        user: UserId::new(record.user).ok()?,
        conn: record.conn,
        terminal: Terminal::from_number(record.terminal)?,
        device: record.device.to_owned(),
        owner_seq,
    })
}

fn claim(record: &Record<'_>) -> Option<SessionRecord> {
    let body = frame::access::<ArchivedClaim>(record.body).ok()?;
    Some(SessionRecord::Claim {
        key: session_key(record, body.owner_seq.to_native())?,
        reference: record.reference,
        issued_at_s: body.issued_at_s.to_native(),
        again: body.again,
    })
}

fn unclaim(record: &Record<'_>) -> Option<SessionRecord> {
    let body = frame::access::<ArchivedUnclaim>(record.body).ok()?;
    Some(SessionRecord::Unclaim(session_key(
        record,
        body.owner_seq.to_native(),
    )?))
}

/// What comes one behind the other is compared together.
fn owned(record: &Record<'_>, into: &mut [FromLink]) -> Option<FromLink> {
    let body = frame::access::<ArchivedOwned>(record.body).ok()?;
    let key = session_key(record, body.owner_seq.to_native())?;
    if let Some(FromLink::Session(SessionRecord::Owned(keys))) = into.last_mut()
        && keys.len() < OWNED_MAX
    {
        keys.push(key);
        return None;
    }
    Some(FromLink::Session(SessionRecord::Owned(vec![key])))
}

/// Reports about another router's records, or about an earlier life of this one, mean nothing here.
fn consumed(boot: u64, own_boot: u64, record: &Record<'_>) -> Option<FromLink> {
    let body = frame::access::<ArchivedConsumed>(record.body).ok()?;
    (body.router_boot.to_native() == own_boot).then(|| {
        FromLink::ToDriver(Input::Consumed {
            boot,
            partition: body.partition.to_native(),
            number: body.number.to_native(),
            gaps: body.gaps.iter().take(256).map(|gap| gap.to_native()).collect(),
        })
    })
}

fn bounce(record: &Record<'_>) -> Option<BounceRecord> {
    let body = frame::access::<ArchivedBounce>(record.body).ok()?;
    let conv = ConvId::parse(&body.conv).ok()?;
    Some(BounceRecord {
        app: AppId(body.app.to_native()),
        conv,
        seq: body.seq.to_native(),
        conns: body.conns.iter().map(|conn| conn.to_native()).collect(),
    })
}

fn fetch(record: &Record<'_>) -> Option<FetchRecord> {
    let body = frame::access::<ArchivedBusFetch>(record.body).ok()?;
    Some(FetchRecord {
        boot: body.boot.to_native(),
        partition: body.partition.to_native(),
        from: body.from.to_native(),
        credit_bytes: body.credit_bytes.to_native(),
    })
}
