//! JSON twins of all frames, for browsers and debugging: one object per WebSocket text message.
//!
//! Owns nothing. The canonical rkyv frame is what the platform works with; a JSON frame becomes one before anything
//! looks at it, and limits count its canonical payload. Numbers stay below 2^53. `type` names the frame, `ref` its
//! reference, the other fields are those of the body, in `snake_case`. Unknown fields are ignored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::body;
use super::error::ErrorCode;
use super::kind::{self, content};
use super::{Extension, Frame, FrameError, FrameKind, encode_with, flag, push_extension};
use crate::id::ConvId;
use crate::terminal::Terminal;

/// What a client's text became.
#[derive(Debug, PartialEq, Eq)]
pub enum JsonInput {
    /// A canonical frame.
    Frame(Vec<u8>),
    /// A type that this version does not know and need not understand.
    Skipped {
        /// Its reference.
        reference: u32,
    },
}

/// Message kinds by name.
const KINDS: [(u16, &str); 17] = [
    (kind::TEXT, "text"),
    (kind::EMOJI, "emoji"),
    (kind::IMAGE, "image"),
    (kind::FILE, "file"),
    (kind::VOICE, "voice"),
    (kind::VIDEO, "video"),
    (kind::LOCATION, "location"),
    (kind::CARD, "card"),
    (kind::CUSTOM, "custom"),
    (kind::RECALL, "recall"),
    (kind::EDIT, "edit"),
    (kind::REACTION, "reaction"),
    (kind::GROUP_CHANGE, "group_change"),
    (kind::VOID, "void"),
    (kind::REDACTED, "redacted"),
    (kind::CALL_STARTED, "call_started"),
    (kind::CALL_ENDED, "call_ended"),
];

fn wrong(field: &'static str, allowed: &str) -> FrameError {
    FrameError::Field { field, problem: format!("is missing or wrong; allowed: {allowed}") }
}

/// Turns a client's text into a canonical frame.
///
/// # Errors
///
/// What is wrong, with the frame's `ref` if it could be read (else 0): answer with it.
pub fn from_json(text: &str) -> Result<JsonInput, (u32, FrameError)> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| (0, FrameError::Field { field: "json", problem: format!("does not parse: {error}") }))?;
    let Value::Object(object) = value else { return Err((0, wrong("json", "one object per message"))) };
    let reference = match object.get("ref") {
        None => 0,
        Some(value) => value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or((0, wrong("ref", "a whole number below 2^32")))?,
    };
    client_frame(&object, reference).map_err(|error| (reference, error))
}

fn client_frame(object: &Map<String, Value>, reference: u32) -> Result<JsonInput, FrameError> {
    let fields = Fields(object);
    let name = fields.text("type")?;
    let mut flags = 0;
    if fields.boolean("restart")? {
        flags |= flag::RESTART;
    }
    let extensions = fields.extensions()?;
    let frame = |kind, bytes: Vec<u8>| {
        debug_assert_eq!(Frame::parse(&bytes).map(|frame| frame.kind), Ok(kind as u16));
        Ok(JsonInput::Frame(bytes))
    };
    macro_rules! encoded {
        ($kind:ident, $body:expr) => {
            frame(FrameKind::$kind, encode_with(FrameKind::$kind, flags, reference, &$body, &extensions))
        };
    }
    match name {
        "hello" => encoded!(
            Hello,
            body::Hello {
                token: fields.text_or("token", "")?.to_owned(),
                terminal: Terminal::from_name(fields.text("terminal")?)
                    .ok_or(wrong("terminal", "web, ios, android, desktop, pad, bot"))? as u8,
                device: fields.text_or("device", "")?.to_owned(),
                epoch: fields.hex("epoch")?,
            }
        ),
        "send" => {
            let (content_type, payload) = fields.content()?;
            encoded!(
                Send,
                body::Send {
                    target: fields.target()?,
                    kind: fields.kind()?,
                    flags: fields.small("flags")?,
                    ref_seq: fields.number_or("ref_seq", 0)?,
                    client_msg_id: fields.id16("client_msg_id")?,
                    content_type,
                    payload,
                }
            )
        }
        "read" => encoded!(Read, body::Read { upto: place(&fields)? }),
        "delivered" => {
            let places = object.get("upto").and_then(Value::as_array).ok_or(wrong("upto", "a list of {conv, seq}"))?;
            let places = places.iter().map(|each| {
                place(&Fields(each.as_object().ok_or(wrong("upto", "a list of {conv, seq}"))?))
            });
            encoded!(Delivered, body::Delivered { upto: places.collect::<Result<_, _>>()? })
        }
        "sync" => encoded!(
            Sync,
            body::Sync {
                cursor: BASE64
                    .decode(fields.text_or("cursor", "")?)
                    .map_err(|_| wrong("cursor", "the cursor of the last page, unchanged"))?,
                limit: fields.limit()?,
            }
        ),
        "pull" => encoded!(
            Pull,
            body::Pull {
                conv: fields.conv()?,
                from_seq: fields.number_or("from_seq", 1)?,
                to_seq: fields.number_or("to_seq", u64::MAX)?,
                limit: fields.limit()?,
            }
        ),
        "call" => encoded!(
            CallStep,
            body::Call {
                target: fields.target()?,
                from: String::new(),
                call_id: fields.id16("call_id")?,
                step: u8::try_from(fields.number("step")?).map_err(|_| wrong("step", "1 to 9"))?,
                body: object.get("body").map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            }
        ),
        "typing" => {
            let typing = body::Typing { target: fields.target()?, from: String::new(), on: fields.boolean("on")? };
            encoded!(TypingStep, typing)
        }
        "presence_query" => {
            let users = object.get("users").and_then(Value::as_array).ok_or(wrong("users", "a list of user ids"))?;
            let users = users.iter().map(|user| user.as_str().map(str::to_owned));
            let users = users.collect::<Option<Vec<_>>>().ok_or(wrong("users", "a list of user ids"))?;
            encoded!(PresenceQuery, body::PresenceQuery { users })
        }
        "join_room" => encoded!(JoinRoom, body::Room { room: fields.text("room")?.to_owned() }),
        "leave_room" => encoded!(LeaveRoom, body::Room { room: fields.text("room")?.to_owned() }),
        "refresh_token" => {
            encoded!(RefreshToken, body::RefreshToken { token: fields.text("token")?.to_owned() })
        }
        "ping" => encoded!(Ping, body::Ping { time_ms: fields.number_or("time_ms", 0)? }),
        _ if fields.boolean("must_understand")? => Err(FrameError::Field {
            field: "type",
            problem: format!("is {name:?}, which is not known here"),
        }),
        _ => Ok(JsonInput::Skipped { reference }),
    }
}

fn place(fields: &Fields<'_>) -> Result<body::ConvSeq, FrameError> {
    Ok(body::ConvSeq { conv: fields.conv()?, seq: fields.number("seq")? })
}

/// The fields of a client's object, each read as what it must be.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn text(&self, name: &'static str) -> Result<&'a str, FrameError> {
        self.0.get(name).and_then(Value::as_str).ok_or(wrong(name, "a text"))
    }

    fn text_or(&self, name: &'static str, default: &'a str) -> Result<&'a str, FrameError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_str().ok_or(wrong(name, "a text")),
        }
    }

    fn number(&self, name: &'static str) -> Result<u64, FrameError> {
        self.0.get(name).and_then(Value::as_u64).ok_or(wrong(name, "a whole number, 0 or more"))
    }

    fn number_or(&self, name: &'static str, default: u64) -> Result<u64, FrameError> {
        if self.0.contains_key(name) { self.number(name) } else { Ok(default) }
    }

    fn small(&self, name: &'static str) -> Result<u16, FrameError> {
        u16::try_from(self.number_or(name, 0)?).map_err(|_| wrong(name, "a whole number below 65536"))
    }

    fn boolean(&self, name: &'static str) -> Result<bool, FrameError> {
        match self.0.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or(wrong(name, "true or false")),
        }
    }

    fn hex(&self, name: &'static str) -> Result<u64, FrameError> {
        u64::from_str_radix(self.text_or(name, "0")?, 16).map_err(|_| wrong(name, "up to 16 hex digits"))
    }

    fn limit(&self) -> Result<u16, FrameError> {
        if self.0.contains_key("limit") { self.small("limit") } else { Ok(100) }
    }

    fn conv(&self) -> Result<Vec<u8>, FrameError> {
        conv_bytes(self.text("conv")?)
    }

    fn target(&self) -> Result<body::Target, FrameError> {
        let target = self.0.get("target").and_then(Value::as_object);
        let target = Fields(target.ok_or(wrong("target", "{\"user\": id} or {\"conv\": id}"))?);
        match (target.0.get("user"), target.0.get("conv")) {
            (Some(Value::String(user)), None) => Ok(body::Target::User(user.clone())),
            (None, Some(Value::String(conv))) => Ok(body::Target::Conv(conv_bytes(conv)?)),
            _ => Err(wrong("target", "{\"user\": id} or {\"conv\": id}")),
        }
    }

    fn kind(&self) -> Result<u16, FrameError> {
        let allowed = "a number, or text, emoji, image, file, voice, video, location, card, custom, recall, edit, \
                       reaction, call_started";
        match self.0.get("kind") {
            None => Ok(kind::TEXT),
            Some(Value::Number(number)) => {
                number.as_u64().and_then(|number| u16::try_from(number).ok()).ok_or(wrong("kind", allowed))
            }
            Some(Value::String(name)) => KINDS
                .iter()
                .find(|(_, known)| known == name)
                .map(|(number, _)| *number)
                .ok_or(wrong("kind", allowed)),
            Some(_) => Err(wrong("kind", allowed)),
        }
    }

    fn id16(&self, name: &'static str) -> Result<[u8; 16], FrameError> {
        let digits: String = self.text(name)?.chars().filter(|each| *each != '-').collect();
        let allowed = "a UUID, or 32 hex digits";
        if digits.len() != 32 || !digits.bytes().all(|each| each.is_ascii_hexdigit()) {
            return Err(wrong(name, allowed));
        }
        u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).map_err(|_| wrong(name, allowed))
    }

    fn content(&self) -> Result<(u8, Vec<u8>), FrameError> {
        let payload = self.0.get("payload").ok_or(wrong("payload", "a text, JSON, or base64"))?;
        let content_type = match self.0.get("content_type") {
            None if payload.is_string() => content::TEXT,
            None => content::JSON,
            Some(Value::String(name)) => match name.as_str() {
                "text" => content::TEXT,
                "json" => content::JSON,
                "bytes" => content::BYTES,
                _ => return Err(wrong("content_type", "text, json, bytes, or a number")),
            },
            Some(value) => value
                .as_u64()
                .and_then(|number| u8::try_from(number).ok())
                .ok_or(wrong("content_type", "text, json, bytes, or a number"))?,
        };
        let bytes = match (content_type, payload) {
            (content::TEXT, Value::String(text)) => text.clone().into_bytes(),
            (content::TEXT, _) => return Err(wrong("payload", "a text, as content_type says")),
            (content::JSON, value) => value.to_string().into_bytes(),
            (_, Value::String(text)) => {
                BASE64.decode(text).map_err(|_| wrong("payload", "base64, as content_type says"))?
            }
            _ => return Err(wrong("payload", "base64, as content_type says")),
        };
        Ok((content_type, bytes))
    }

    fn extensions(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = Vec::new();
        let Some(list) = self.0.get("ext") else { return Ok(bytes) };
        let allowed = "a list of {type, value (base64)}";
        for each in list.as_array().ok_or(wrong("ext", allowed))? {
            let number = each.get("type").and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
            let value = each.get("value").and_then(Value::as_str).and_then(|text| BASE64.decode(text).ok());
            let (Some(number), Some(value)) = (number, value) else { return Err(wrong("ext", allowed)) };
            push_extension(&mut bytes, Extension { number, value: &value });
        }
        Ok(bytes)
    }
}

fn conv_bytes(text: &str) -> Result<Vec<u8>, FrameError> {
    let conv: ConvId = text
        .parse()
        .map_err(|error| FrameError::Field { field: "conv", problem: format!("is {text:?}: {error}") })?;
    Ok(conv.as_bytes().to_vec())
}

/// Appends the JSON twin of a server frame to `out`.
///
/// # Errors
///
/// [`FrameError`] if the bytes are no server frame of this version.
pub fn to_json(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let value = to_value(bytes)?;
    serde_json::to_writer(&mut *out, &value).expect("a vector takes every byte");
    Ok(())
}

/// The JSON twin of a server frame.
///
/// # Errors
///
/// [`FrameError`] if the bytes are no server frame of this version.
pub fn to_value(bytes: &[u8]) -> Result<Value, FrameError> {
    let frame = Frame::parse(bytes)?;
    let kind = frame.known_kind().ok_or(FrameError::Kind { number: frame.kind })?;
    let (name, mut value) = server_value(kind, &frame)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("type".to_owned(), name.into());
        if frame.reference != 0 {
            object.insert("ref".to_owned(), frame.reference.into());
        }
        let extensions: Vec<Value> = frame
            .extensions()
            .map(|each| json!({"type": each.number, "value": BASE64.encode(each.value)}))
            .collect();
        if !extensions.is_empty() {
            object.insert("ext".to_owned(), extensions.into());
        }
    }
    Ok(value)
}

fn server_value(kind: FrameKind, frame: &Frame<'_>) -> Result<(&'static str, Value), FrameError> {
    Ok(match kind {
        FrameKind::Welcome => {
            let welcome = frame.access::<body::ArchivedWelcome>()?;
            let value = json!({
                "session": format!("{:016x}", welcome.session.to_native()),
                "user": welcome.user.as_str(),
                "epoch": format!("{:016x}", welcome.epoch.to_native()),
                "window": welcome.window.to_native(),
                "payload_bytes_max": welcome.payload_bytes_max.to_native(),
                "heartbeat_ms": welcome.heartbeat_ms.to_native(),
                "server_time_ms": welcome.server_time_ms.to_native(),
            });
            ("welcome", value)
        }
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
            let conversations = page.conversations.iter().map(conv_state).collect::<Result<Vec<_>, _>>()?;
            let value = json!({"cursor": BASE64.encode(&page.cursor), "more": page.more, "conversations": conversations});
            ("sync_page", value)
        }
        FrameKind::PullPage => {
            let page = frame.access::<body::ArchivedPullPage>()?;
            let messages = page.messages.iter().map(|each| to_value(each)).collect::<Result<Vec<_>, _>>()?;
            let value = json!({
                "conv": conv_text(&page.conv)?, "next_seq": page.next_seq.to_native(),
                "head_seq": page.head_seq.to_native(), "head_n": page.head_n.to_native(),
                "floor_seq": page.floor_seq.to_native(), "messages": messages,
            });
            ("pull_page", value)
        }
        FrameKind::ReadUpTo => {
            let read = frame.access::<body::ArchivedReadUpTo>()?;
            let value = json!({
                "conv": conv_text(&read.conv)?, "whose": read.whose.as_str(), "seq": read.seq.to_native(),
                "n": read.n.to_native(),
            });
            ("read_up_to", value)
        }
        FrameKind::Call => {
            let call = frame.access::<body::ArchivedCall>()?;
            let text = std::str::from_utf8(&call.body).ok();
            let body = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
            let value = json!({
                "target": target_value(&call.target)?, "from": call.from.as_str(), "call_id": uuid_text(&call.call_id),
                "step": call.step, "body": body.unwrap_or_else(|| BASE64.encode(&call.body).into()),
            });
            ("call", value)
        }
        FrameKind::Typing => {
            let typing = frame.access::<body::ArchivedTyping>()?;
            let value =
                json!({"target": target_value(&typing.target)?, "from": typing.from.as_str(), "on": typing.on});
            ("typing", value)
        }
        FrameKind::Presence => {
            let presence = frame.access::<body::ArchivedPresence>()?;
            let users: Vec<Value> = presence
                .users
                .iter()
                .map(|each| {
                    let bits = each.terminals.to_native();
                    let online: Vec<&str> = Terminal::ALL
                        .into_iter()
                        .filter(|terminal| bits & 1 << *terminal as u16 != 0)
                        .map(Terminal::name)
                        .collect();
                    json!({"user": each.user.as_str(), "online": online})
                })
                .collect();
            ("presence", json!({"users": users}))
        }
        FrameKind::PullRequired => {
            let pull = frame.access::<body::ArchivedPullRequired>()?;
            let places = pull
                .upto
                .iter()
                .map(|each| Ok(json!({"conv": conv_text(&each.conv)?, "seq": each.seq.to_native()})))
                .collect::<Result<Vec<Value>, FrameError>>()?;
            ("pull_required", json!({"upto": places}))
        }
        FrameKind::Resync => {
            ("resync", json!({"spread_ms": frame.access::<body::ArchivedResync>()?.spread_ms.to_native()}))
        }
        FrameKind::GoAway => {
            let away = frame.access::<body::ArchivedGoAway>()?;
            ("go_away", json!({"after_ms": away.after_ms.to_native(), "window_ms": away.window_ms.to_native()}))
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
            let value =
                json!({"time_ms": pong.time_ms.to_native(), "server_time_ms": pong.server_time_ms.to_native()});
            ("pong", value)
        }
        _ => return Err(FrameError::Kind { number: kind as u16 }),
    })
}

fn message(message: &body::ArchivedMessage) -> Result<Value, FrameError> {
    let number = message.kind.to_native();
    let name = KINDS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    let (content_type, payload) = payload_value(message.content_type, &message.payload);
    Ok(json!({
        "conv": conv_text(&message.conv)?,
        "seq": message.seq.to_native(),
        "n": message.n.to_native(),
        "sender": message.sender.as_str(),
        "kind": name.map_or_else(|| number.into(), Value::from),
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
        (content::BYTES | content::TEXT | content::JSON, _) => ("bytes".into(), BASE64.encode(payload).into()),
        (other, _) => (other.into(), BASE64.encode(payload).into()),
    }
}

fn conv_state(state: &body::ArchivedConvState) -> Result<Value, FrameError> {
    let last = if state.last.is_empty() { Value::Null } else { to_value(&state.last)? };
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
        .map_err(|error| FrameError::Field { field: "conv", problem: error.to_string() })
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or(""));
    parts.join("-")
}
