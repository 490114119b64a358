//! From the canonical frame to its JSON text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::KINDS;
use crate::frame::error::ErrorCode;
use crate::frame::kind::content;
use crate::frame::{Frame, FrameError, FrameKind, body, flag};
use crate::id::ConvId;
use crate::terminal::Terminal;

/// Appends the JSON twin of a frame to `out`.
///
/// # Errors
///
/// [`FrameError`] if the bytes are no frame of this version; `out` is left as it was.
///
/// # Panics
///
/// Never: memory takes every byte.
pub fn to_json(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let value = to_value(bytes)?;
    serde_json::to_writer(&mut *out, &value).expect("a vector takes every byte");
    Ok(())
}

/// The JSON twin of a frame.
///
/// # Errors
///
/// [`FrameError`] if the bytes are no frame of this version.
pub fn to_value(bytes: &[u8]) -> Result<Value, FrameError> {
    twin(&Frame::parse(bytes)?)
}

/// The twin of a `Message` frame within another frame. Nothing else may stand there, so frames nest once.
fn message_within(bytes: &[u8]) -> Result<Value, FrameError> {
    let frame = Frame::parse(bytes)?;
    if frame.known_kind() != Some(FrameKind::Message) {
        return Err(FrameError::Kind { number: frame.kind });
    }
    twin(&frame)
}

fn twin(frame: &Frame<'_>) -> Result<Value, FrameError> {
    let kind = frame
        .known_kind()
        .ok_or(FrameError::Kind { number: frame.kind })?;
    let (name, mut value) = if (kind as u16) < 0x8000 {
        client_value(kind, frame)?
    } else {
        server_value(kind, frame)?
    };
    insert(&mut value, "type", name.into());
    if frame.reference != 0 {
        insert(&mut value, "ref", frame.reference.into());
    }
    for (bit, name) in [
        (flag::RESTART, "restart"),
        (flag::MUST_UNDERSTAND, "must_understand"),
    ] {
        if frame.flags & bit != 0 {
            insert(&mut value, name, true.into());
        }
    }
    let extensions: Vec<Value> = frame
        .extensions()
        .map(|each| json!({"type": each.number, "value": BASE64.encode(each.value)}))
        .collect();
    if !extensions.is_empty() {
        insert(&mut value, "ext", extensions.into());
    }
    Ok(value)
}

fn client_value(kind: FrameKind, frame: &Frame<'_>) -> Result<(&'static str, Value), FrameError> {
    Ok(match kind {
        FrameKind::Hello => {
            let hello = frame.access::<body::ArchivedHello>()?;
            let value = json!({
                "token": hello.token.as_str(),
                "terminal": Terminal::from_number(hello.terminal).map(Terminal::name),
                "device": hello.device.as_str(),
                "epoch": format!("{:016x}", hello.epoch.to_native()),
            });
            ("hello", value)
        }
        FrameKind::Send => ("send", send(frame.access()?)?),
        FrameKind::Read => ("read", place(&frame.access::<body::ArchivedRead>()?.upto)?),
        FrameKind::Delivered => {
            let upto = places(&frame.access::<body::ArchivedDelivered>()?.upto)?;
            ("delivered", json!({"upto": upto}))
        }
        FrameKind::Sync => {
            let sync = frame.access::<body::ArchivedSync>()?;
            (
                "sync",
                json!({"cursor": BASE64.encode(&sync.cursor), "limit": sync.limit.to_native()}),
            )
        }
        FrameKind::Pull => {
            let pull = frame.access::<body::ArchivedPull>()?;
            let to_seq = Some(pull.to_seq.to_native()).filter(|seq| *seq != u64::MAX);
            let value = json!({
                "conv": conv_text(&pull.conv)?, "from_seq": pull.from_seq.to_native(), "to_seq": to_seq,
                "limit": pull.limit.to_native(),
            });
            ("pull", value)
        }
        FrameKind::CallStep => ("call", call(frame.access()?)?),
        FrameKind::TypingStep => ("typing", typing(frame.access()?)?),
        FrameKind::PresenceQuery => {
            let users = &frame.access::<body::ArchivedPresenceQuery>()?.users;
            let users: Vec<&str> = users.iter().map(rkyv::string::ArchivedString::as_str).collect();
            ("presence_query", json!({"users": users}))
        }
        FrameKind::JoinRoom => ("join_room", room(frame.access()?)),
        FrameKind::LeaveRoom => ("leave_room", room(frame.access()?)),
        FrameKind::RefreshToken => {
            let refresh = frame.access::<body::ArchivedRefreshToken>()?;
            ("refresh_token", json!({"token": refresh.token.as_str()}))
        }
        FrameKind::Ping => {
            let ping = frame.access::<body::ArchivedPing>()?;
            ("ping", json!({"time_ms": ping.time_ms.to_native()}))
        }
        _ => return Err(FrameError::Kind { number: kind as u16 }),
    })
}

fn server_value(kind: FrameKind, frame: &Frame<'_>) -> Result<(&'static str, Value), FrameError> {
    Ok(match kind {
        FrameKind::Welcome => ("welcome", welcome(frame.access()?)),
        FrameKind::SendAck => {
            let ack = frame.access::<body::ArchivedSendAck>()?;
            let value = json!({
                "conv": conv_text(&ack.conv)?, "seq": ack.seq.to_native(), "n": ack.n.to_native(),
                "time_ms": ack.time_ms.to_native(),
            });
            ("send_ack", value)
        }
        FrameKind::Message => ("message", message(frame.access()?)?),
        FrameKind::SyncPage => {
            let page = frame.access::<body::ArchivedSyncPage>()?;
            let conversations = page
                .conversations
                .iter()
                .map(conv_state)
                .collect::<Result<Vec<_>, _>>()?;
            let value = json!({"cursor": BASE64.encode(&page.cursor), "more": page.more, "conversations": conversations});
            ("sync_page", value)
        }
        FrameKind::PullPage => ("pull_page", pull_page(frame.access()?)?),
        FrameKind::ReadUpTo => {
            let read = frame.access::<body::ArchivedReadUpTo>()?;
            let value = json!({
                "conv": conv_text(&read.conv)?, "whose": read.whose.as_str(), "seq": read.seq.to_native(),
                "n": read.n.to_native(),
            });
            ("read_up_to", value)
        }
        FrameKind::Call => ("call", call(frame.access()?)?),
        FrameKind::Typing => ("typing", typing(frame.access()?)?),
        FrameKind::Presence => ("presence", presence(frame.access()?)),
        FrameKind::PullRequired => {
            let upto = places(&frame.access::<body::ArchivedPullRequired>()?.upto)?;
            ("pull_required", json!({"upto": upto}))
        }
        FrameKind::Resync => (
            "resync",
            json!({"spread_ms": frame.access::<body::ArchivedResync>()?.spread_ms.to_native()}),
        ),
        FrameKind::GoAway => {
            let away = frame.access::<body::ArchivedGoAway>()?;
            (
                "go_away",
                json!({"after_ms": away.after_ms.to_native(), "window_ms": away.window_ms.to_native()}),
            )
        }
        FrameKind::Error => {
            let error = frame.access::<body::ArchivedErrorBody>()?;
            let code = ErrorCode::from_number(error.code.to_native());
            let value = json!({
                "code": code.map_or("unknown", ErrorCode::name), "retryable": code.is_some_and(ErrorCode::is_retryable),
                "text": error.text.as_str(),
            });
            ("error", value)
        }
        FrameKind::Pong => {
            let pong = frame.access::<body::ArchivedPong>()?;
            let value = json!({"time_ms": pong.time_ms.to_native(), "server_time_ms": pong.server_time_ms.to_native()});
            ("pong", value)
        }
        _ => return Err(FrameError::Kind { number: kind as u16 }),
    })
}

fn welcome(welcome: &body::ArchivedWelcome) -> Value {
    json!({
        "session": format!("{:016x}", welcome.session.to_native()),
        "user": welcome.user.as_str(),
        "epoch": format!("{:016x}", welcome.epoch.to_native()),
        "window": welcome.window.to_native(),
        "payload_bytes_max": welcome.payload_bytes_max.to_native(),
        "heartbeat_ms": welcome.heartbeat_ms.to_native(),
        "server_time_ms": welcome.server_time_ms.to_native(),
    })
}

fn pull_page(page: &body::ArchivedPullPage) -> Result<Value, FrameError> {
    let messages = page.messages.iter().map(|each| message_within(each));
    Ok(json!({
        "conv": conv_text(&page.conv)?,
        "next_seq": page.next_seq.to_native(),
        "head_seq": page.head_seq.to_native(),
        "head_n": page.head_n.to_native(),
        "floor_seq": page.floor_seq.to_native(),
        "messages": messages.collect::<Result<Vec<_>, _>>()?,
    }))
}

/// A body that is JSON stands as such, any other as base64; `from` stands only where somebody is named.
fn call(call: &body::ArchivedCall) -> Result<Value, FrameError> {
    let mut value = json!({
        "target": target_value(&call.target)?, "call_id": uuid_text(&call.call_id), "step": call.step,
    });
    insert_from(&mut value, &call.from);
    if !call.body.is_empty() {
        let body = serde_json::from_slice::<Value>(&call.body);
        insert(
            &mut value,
            "body",
            body.unwrap_or_else(|_| BASE64.encode(&call.body).into()),
        );
    }
    Ok(value)
}

fn typing(typing: &body::ArchivedTyping) -> Result<Value, FrameError> {
    let mut value = json!({"target": target_value(&typing.target)?, "on": typing.on});
    insert_from(&mut value, &typing.from);
    Ok(value)
}

fn insert_from(value: &mut Value, from: &str) {
    if !from.is_empty() {
        insert(value, "from", from.into());
    }
}

fn insert(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

fn presence(presence: &body::ArchivedPresence) -> Value {
    let users = presence.users.iter().map(|each| {
        let bits = each.terminals.to_native();
        let online: Vec<&str> = Terminal::ALL
            .into_iter()
            .filter(|terminal| bits & 1 << *terminal as u16 != 0)
            .map(Terminal::name)
            .collect();
        json!({"user": each.user.as_str(), "online": online})
    });
    json!({"users": users.collect::<Vec<_>>()})
}

fn room(room: &body::ArchivedRoom) -> Value {
    json!({"room": room.room.as_str()})
}

fn place(place: &body::ArchivedConvSeq) -> Result<Value, FrameError> {
    Ok(json!({"conv": conv_text(&place.conv)?, "seq": place.seq.to_native()}))
}

fn places(upto: &[body::ArchivedConvSeq]) -> Result<Vec<Value>, FrameError> {
    upto.iter().map(place).collect()
}

fn send(send: &body::ArchivedSend) -> Result<Value, FrameError> {
    let (content_type, payload) = payload_value(send.content_type, &send.payload);
    Ok(json!({
        "target": target_value(&send.target)?,
        "kind": kind_value(send.kind.to_native()),
        "flags": send.flags.to_native(),
        "ref_seq": send.ref_seq.to_native(),
        "client_msg_id": uuid_text(&send.client_msg_id),
        "content_type": content_type,
        "payload": payload,
    }))
}

fn kind_value(number: u16) -> Value {
    let name = KINDS.iter().find(|(known, _)| *known == number);
    name.map_or_else(|| number.into(), |(_, name)| (*name).into())
}

fn message(message: &body::ArchivedMessage) -> Result<Value, FrameError> {
    let (content_type, payload) = payload_value(message.content_type, &message.payload);
    Ok(json!({
        "conv": conv_text(&message.conv)?,
        "seq": message.seq.to_native(),
        "n": message.n.to_native(),
        "sender": message.sender.as_str(),
        "kind": kind_value(message.kind.to_native()),
        "flags": message.flags.to_native(),
        "ref_seq": message.ref_seq.to_native(),
        "origin_terminal": Terminal::from_number(message.origin_terminal).map(Terminal::name),
        "origin_device": message.origin_device.as_str(),
        "client_msg_id": uuid_text(&message.client_msg_id),
        "time_ms": message.time_ms.to_native(),
        "content_type": content_type,
        "payload": payload,
    }))
}

/// Content type and payload; a payload that is not what its type says travels as base64.
fn payload_value(content_type: u8, payload: &[u8]) -> (Value, Value) {
    let text = std::str::from_utf8(payload).ok();
    match (content_type, text) {
        (content::TEXT, Some(text)) => ("text".into(), text.into()),
        (content::JSON, Some(text)) => match serde_json::from_str::<Value>(text) {
            Ok(value) => ("json".into(), value),
            Err(_) => ("bytes".into(), BASE64.encode(payload).into()),
        },
        (content::BYTES | content::TEXT | content::JSON, _) => {
            ("bytes".into(), BASE64.encode(payload).into())
        }
        (other, _) => (other.into(), BASE64.encode(payload).into()),
    }
}

fn conv_state(state: &body::ArchivedConvState) -> Result<Value, FrameError> {
    let last = if state.last.is_empty() {
        Value::Null
    } else {
        message_within(&state.last)?
    };
    Ok(json!({
        "conv": conv_text(&state.conv)?,
        "head_seq": state.head_seq.to_native(),
        "head_n": state.head_n.to_native(),
        "floor_seq": state.floor_seq.to_native(),
        "conv_version": state.conv_version.to_native(),
        "read_seq": state.read_seq.to_native(),
        "read_n": state.read_n.to_native(),
        "last": last,
    }))
}

fn target_value(target: &body::ArchivedTarget) -> Result<Value, FrameError> {
    Ok(match target {
        body::ArchivedTarget::Conv(conv) => json!({"conv": conv_text(conv)?}),
        body::ArchivedTarget::User(user) => json!({"user": user.as_str()}),
    })
}

fn conv_text(bytes: &[u8]) -> Result<String, FrameError> {
    ConvId::parse(bytes)
        .map(|conv| conv.to_string())
        .map_err(|error| FrameError::Field {
            field: "conv",
            problem: error.to_string(),
        })
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or(""));
    parts.join("-")
}
