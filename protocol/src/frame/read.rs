//! Client frames with every field checked: what the rest of the system may rely on.
//!
//! One function per frame kind takes a [`Frame`] whose lengths were checked and answers with values in range, or
//! with an error that names the field, what it held and what is allowed. Nothing is copied but ids.

use super::body::{
    ArchivedCall, ArchivedConvSeq, ArchivedDelivered, ArchivedHello, ArchivedPing, ArchivedPresenceQuery,
    ArchivedPull, ArchivedRead, ArchivedRefreshToken, ArchivedRoom, ArchivedSend, ArchivedSync,
    ArchivedTarget, ArchivedTyping,
};
use super::{Extension, Frame, FrameError, check_bytes, extension, flag, kind, push_extension};
use crate::hash;
use crate::id::{ClientMsgId, ConvId, GroupId, ID_BYTES_MAX, IdError, UserId};
use crate::limits;
use crate::terminal::Terminal;

/// Where a frame is aimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetId {
    /// A conversation.
    Conv(ConvId),
    /// The direct conversation with this user.
    User(UserId),
}

impl TargetId {
    /// The conversation, as seen from `from`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Field`] if it is a direct conversation of two others.
    pub fn conv_for(&self, from: &UserId) -> Result<ConvId, FrameError> {
        match self {
            Self::User(user) => Ok(ConvId::direct(from, user)),
            Self::Conv(conv) => {
                let others = conv
                    .direct_users()
                    .is_some_and(|(small, large)| small != *from && large != *from);
                if others {
                    return Err(field(
                        "target",
                        format!("is {conv}, a direct conversation of two other users"),
                    ));
                }
                Ok(conv.clone())
            }
        }
    }
}

/// A checked `Hello`.
#[derive(Debug)]
pub struct HelloView<'buf> {
    /// Token, if it did not come with the upgrade.
    pub token: Option<&'buf str>,
    /// Terminal class.
    pub terminal: Terminal,
    /// Device, may be empty.
    pub device: &'buf str,
    /// Epoch of the client's cursors, 0 for none.
    pub epoch: u64,
}

/// A checked `Send`.
#[derive(Debug)]
pub struct SendView<'buf> {
    /// Where it goes.
    pub target: TargetId,
    /// Message kind a client may send.
    pub kind: u16,
    /// Message flags.
    pub flags: u16,
    /// Earlier message, 0 for none.
    pub ref_seq: u64,
    /// The sender's id.
    pub client_msg_id: ClientMsgId,
    /// Content type.
    pub content_type: u8,
    /// Payload.
    pub payload: &'buf [u8],
    /// Whether it opens the gate again.
    pub restart: bool,
}

/// A place in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The conversation.
    pub conv: ConvId,
    /// The seq.
    pub seq: u64,
}

/// A checked `Sync`.
#[derive(Debug)]
pub struct SyncView<'buf> {
    /// Cursor, empty for everything.
    pub cursor: &'buf [u8],
    /// 1 to 200.
    pub limit: u16,
}

/// A checked `Pull`.
#[derive(Debug)]
pub struct PullView {
    /// The conversation.
    pub conv: ConvId,
    /// First place, from 1.
    pub from_seq: u64,
    /// Last place.
    pub to_seq: u64,
    /// 1 to 200.
    pub limit: u16,
}

/// A checked `Call`.
#[derive(Debug)]
pub struct CallView<'buf> {
    /// Where.
    pub target: TargetId,
    /// The call.
    pub call_id: [u8; 16],
    /// The step.
    pub step: u8,
    /// Opaque.
    pub body: &'buf [u8],
}

/// A checked `Typing`.
#[derive(Debug)]
pub struct TypingView {
    /// Where.
    pub target: TargetId,
    /// Started or stopped.
    pub on: bool,
}

fn field(field: &'static str, problem: String) -> FrameError {
    FrameError::Field { field, problem }
}

fn id_field(name: &'static str) -> impl Fn(IdError) -> FrameError {
    move |error| field(name, format!("is not allowed: {error}"))
}

/// Reads a target.
///
/// # Errors
///
/// [`FrameError::Field`].
pub fn target(archived: &ArchivedTarget) -> Result<TargetId, FrameError> {
    match archived {
        ArchivedTarget::Conv(bytes) => ConvId::parse(bytes)
            .map(TargetId::Conv)
            .map_err(id_field("target")),
        ArchivedTarget::User(user) => UserId::new(user).map(TargetId::User).map_err(id_field("target")),
    }
}

fn place(archived: &ArchivedConvSeq) -> Result<Place, FrameError> {
    let seq = archived.seq.to_native();
    if seq > limits::SEQ_MAX {
        return Err(field(
            "seq",
            format!("is {seq}, allowed are 0 to {}", limits::SEQ_MAX),
        ));
    }
    Ok(Place {
        conv: ConvId::parse(&archived.conv).map_err(id_field("conv"))?,
        seq,
    })
}

fn limit(limit: u16) -> Result<u16, FrameError> {
    if limit == 0 || limit > limits::PAGE_ITEMS_MAX {
        return Err(field(
            "limit",
            format!("is {limit}, allowed are 1 to {}", limits::PAGE_ITEMS_MAX),
        ));
    }
    Ok(limit)
}

/// Refuses extensions that are marked critical: this version knows none.
///
/// # Errors
///
/// [`FrameError::CriticalExtension`].
pub fn check_critical(frame: &Frame<'_>) -> Result<(), FrameError> {
    match frame
        .extensions()
        .find(|each| each.number & extension::CRITICAL != 0)
    {
        Some(each) => Err(FrameError::CriticalExtension { number: each.number }),
        None => Ok(()),
    }
}

/// The extensions that are stored with a message, encoded, sorted by type.
pub fn stored_extensions(frame: &Frame<'_>) -> Vec<u8> {
    let mut stored: Vec<Extension<'_>> = frame
        .extensions()
        .filter(|each| each.number & extension::STORED != 0)
        .collect();
    stored.sort_by_key(|each| each.number);
    let mut bytes = Vec::new();
    for each in stored {
        push_extension(&mut bytes, each);
    }
    bytes
}

/// Reads a `Hello`.
///
/// # Errors
///
/// [`FrameError`]: close with 4504.
pub fn hello<'buf>(frame: &Frame<'buf>) -> Result<HelloView<'buf>, FrameError> {
    let body = frame.access::<ArchivedHello>()?;
    check_critical(frame)?;
    check_bytes("token", body.token.len(), limits::TOKEN_BYTES_MAX)?;
    if body.device.len() > ID_BYTES_MAX || body.device.chars().any(char::is_control) {
        let problem = format!(
            "has {} bytes, allowed are {ID_BYTES_MAX} and no control characters",
            body.device.len()
        );
        return Err(field("device", problem));
    }
    let terminal = Terminal::from_number(body.terminal).ok_or_else(|| {
        field(
            "terminal",
            format!(
                "is {}, allowed are 1 (web) to {}",
                body.terminal,
                Terminal::ALL.len()
            ),
        )
    })?;
    Ok(HelloView {
        token: Some(body.token.as_str()).filter(|token| !token.is_empty()),
        terminal,
        device: &body.device,
        epoch: body.epoch.to_native(),
    })
}

/// Reads a `Send`.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed` or `too_large`; permanent.
pub fn send<'buf>(frame: &Frame<'buf>) -> Result<SendView<'buf>, FrameError> {
    let body = frame.access::<ArchivedSend>()?;
    check_critical(frame)?;
    let number = body.kind.to_native();
    if !kind::is_client_kind(number) {
        return Err(field(
            "kind",
            format!("is {number:#06x}, allowed are 1 to 0xff, 0x100 to 0x102, 0x200 and from 0x8000"),
        ));
    }
    let flags = body.flags.to_native();
    if flags & !kind::flag::ALL != 0 {
        return Err(field(
            "flags",
            format!("are {flags:#06x}, allowed are bits of {:#06x}", kind::flag::ALL),
        ));
    }
    let ref_seq = body.ref_seq.to_native();
    if ref_seq > limits::SEQ_MAX {
        return Err(field(
            "ref_seq",
            format!("is {ref_seq}, allowed are 0 to {}", limits::SEQ_MAX),
        ));
    }
    let needs_ref = matches!(number, kind::RECALL | kind::EDIT | kind::REACTION);
    if needs_ref && ref_seq == 0 {
        return Err(field(
            "ref_seq",
            "is 0, but recall, edit and reaction name an earlier message".to_owned(),
        ));
    }
    check_bytes("payload", body.payload.len(), limits::PAYLOAD_BYTES_MAX)?;
    if body.content_type == kind::content::TEXT && simdutf8::basic::from_utf8(&body.payload).is_err() {
        return Err(field(
            "payload",
            "is not UTF-8 although its content type is text".to_owned(),
        ));
    }
    let client_msg_id = ClientMsgId(body.client_msg_id);
    if !client_msg_id.is_uuid_v7() {
        let id = u128::from_be_bytes(body.client_msg_id);
        return Err(field(
            "client_msg_id",
            format!("is {id:032x}, allowed are UUIDs of version 7 (RFC 9562)"),
        ));
    }
    Ok(SendView {
        target: target(&body.target)?,
        kind: number,
        flags,
        ref_seq,
        client_msg_id,
        content_type: body.content_type,
        payload: &body.payload,
        restart: frame.flags & flag::RESTART != 0,
    })
}

/// Reads a `Read`.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn read(frame: &Frame<'_>) -> Result<Place, FrameError> {
    check_critical(frame)?;
    place(&frame.access::<ArchivedRead>()?.upto)
}

/// Reads a `Delivered`.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn delivered(frame: &Frame<'_>) -> Result<Vec<Place>, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedDelivered>()?;
    if body.upto.len() > limits::PLACES_MAX {
        return Err(field(
            "upto",
            format!(
                "has {} places, allowed are {}",
                body.upto.len(),
                limits::PLACES_MAX
            ),
        ));
    }
    body.upto.iter().map(place).collect()
}

/// Reads a `Sync`.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn sync<'buf>(frame: &Frame<'buf>) -> Result<SyncView<'buf>, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedSync>()?;
    check_bytes("cursor", body.cursor.len(), limits::CURSOR_BYTES_MAX)?;
    Ok(SyncView {
        cursor: &body.cursor,
        limit: limit(body.limit.to_native())?,
    })
}

/// Reads a `Pull`.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn pull(frame: &Frame<'_>) -> Result<PullView, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedPull>()?;
    let (from_seq, to_seq) = (body.from_seq.to_native(), body.to_seq.to_native());
    if from_seq == 0 || from_seq > limits::SEQ_MAX || to_seq < from_seq {
        let problem = format!("is {from_seq} with to_seq {to_seq}, allowed are 1 <= from_seq <= to_seq");
        return Err(field("from_seq", problem));
    }
    let conv = ConvId::parse(&body.conv).map_err(id_field("conv"))?;
    Ok(PullView {
        conv,
        from_seq,
        to_seq,
        limit: limit(body.limit.to_native())?,
    })
}

/// Reads a `Call` of a client.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn call<'buf>(frame: &Frame<'buf>) -> Result<CallView<'buf>, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedCall>()?;
    check_bytes("body", body.body.len(), limits::CALL_BODY_BYTES_MAX)?;
    if !(kind::call_step::INVITE..=kind::call_step::BUSY).contains(&body.step) {
        return Err(field(
            "step",
            format!("is {}, allowed are 1 to {}", body.step, kind::call_step::BUSY),
        ));
    }
    Ok(CallView {
        target: target(&body.target)?,
        call_id: body.call_id,
        step: body.step,
        body: &body.body,
    })
}

/// Reads a `Typing` of a client.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn typing(frame: &Frame<'_>) -> Result<TypingView, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedTyping>()?;
    Ok(TypingView {
        target: target(&body.target)?,
        on: body.on,
    })
}

/// Reads a `PresenceQuery`.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn presence_query(frame: &Frame<'_>) -> Result<Vec<UserId>, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedPresenceQuery>()?;
    if body.users.is_empty() || body.users.len() > limits::PRESENCE_USERS_MAX {
        let problem = format!(
            "are {}, allowed are 1 to {}",
            body.users.len(),
            limits::PRESENCE_USERS_MAX
        );
        return Err(field("users", problem));
    }
    body.users
        .iter()
        .map(|user| UserId::new(user).map_err(id_field("users")))
        .collect()
}

/// Reads a `JoinRoom` or `LeaveRoom`: the conversation of the room.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn room(frame: &Frame<'_>) -> Result<ConvId, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedRoom>()?;
    let room = GroupId::new(&body.room).map_err(id_field("room"))?;
    Ok(ConvId::room(&room))
}

/// Reads a `RefreshToken`: the token, not yet verified.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed` or `too_large`.
pub fn refresh_token<'buf>(frame: &Frame<'buf>) -> Result<&'buf str, FrameError> {
    check_critical(frame)?;
    let body = frame.access::<ArchivedRefreshToken>()?;
    check_bytes("token", body.token.len(), limits::TOKEN_BYTES_MAX)?;
    if body.token.is_empty() {
        return Err(field("token", "is empty".to_owned()));
    }
    Ok(&body.token)
}

/// Reads a `Ping`: the client's time.
///
/// # Errors
///
/// [`FrameError`]: answer `malformed`.
pub fn ping(frame: &Frame<'_>) -> Result<u64, FrameError> {
    check_critical(frame)?;
    Ok(frame.access::<ArchivedPing>()?.time_ms.to_native())
}

/// What a repeated id is compared by: target, kind, flags, `ref_seq`, content type, payload, stored extensions.
/// Never frame bytes, which two clients may encode differently.
pub fn send_hash(conv: &ConvId, view: &HashedSend<'_>) -> u64 {
    let mut bytes = Vec::with_capacity(64 + view.payload.len() + view.extensions.len());
    bytes.extend((conv.as_bytes().len() as u32).to_le_bytes());
    bytes.extend(conv.as_bytes());
    bytes.extend(view.kind.to_le_bytes());
    bytes.extend(view.flags.to_le_bytes());
    bytes.extend(view.ref_seq.to_le_bytes());
    bytes.push(view.content_type);
    bytes.extend((view.payload.len() as u32).to_le_bytes());
    bytes.extend(view.payload);
    bytes.extend(view.extensions);
    hash::content_hash(&bytes)
}

/// What [`send_hash`] looks at beside the conversation.
#[derive(Debug, Clone, Copy)]
pub struct HashedSend<'a> {
    /// Message kind.
    pub kind: u16,
    /// Message flags.
    pub flags: u16,
    /// Earlier message.
    pub ref_seq: u64,
    /// Content type.
    pub content_type: u8,
    /// Payload.
    pub payload: &'a [u8],
    /// Stored extensions, encoded, sorted by type ([`stored_extensions`]).
    pub extensions: &'a [u8],
}
