//! From a client's JSON text to the canonical frame.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::KINDS;
use crate::frame::kind::{self, content};
use crate::frame::{
    Extension, Frame, FrameError, FrameKind, body, check_bytes, check_extensions, encode_with, flag,
    push_extension,
};
use crate::id::ConvId;
use crate::limits;
use crate::terminal::Terminal;

/// What a client's text became.
#[derive(Debug, PartialEq, Eq)]
pub enum JsonInput {
    /// A canonical frame. Its fields have the right types and its payload the right size; `frame::read` checks the rest.
    Frame(Vec<u8>),
    /// A type that this version does not know and need not understand.
    Skipped {
        /// Its reference.
        reference: u32,
    },
}

fn wrong(field: &'static str, allowed: &str) -> FrameError {
    FrameError::Field {
        field,
        problem: format!("is missing or wrong; allowed: {allowed}"),
    }
}

/// The first characters of a text from outside, for an error text.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Turns a client's text into a canonical frame.
///
/// # Errors
///
/// What is wrong, with the frame's `ref` if it could be read (else 0): answer with it.
pub fn from_json(text: &str) -> Result<JsonInput, (u32, FrameError)> {
    check_bytes("json", text.len(), limits::CLIENT_JSON_BYTES_MAX).map_err(|error| (0, error))?;
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let problem = format!("does not parse: {error}");
        (
            0,
            FrameError::Field {
                field: "json",
                problem,
            },
        )
    })?;
    let Value::Object(object) = value else {
        return Err((0, wrong("json", "one object per message")));
    };
    let fields = Fields(&object);
    let reference = fields
        .number_or("ref", 0)
        .and_then(|number| u32::try_from(number).map_err(|_| wrong("ref", "a whole number below 2^32")))
        .map_err(|error| (0, error))?;
    client_frame(&fields, reference).map_err(|error| (reference, error))
}

fn client_frame(fields: &Fields<'_>, reference: u32) -> Result<JsonInput, FrameError> {
    let name = fields.text("type")?;
    let mut flags = 0;
    if fields.boolean("restart")? {
        flags |= flag::RESTART;
    }
    let must_understand = fields.boolean("must_understand")?;
    if must_understand {
        flags |= flag::MUST_UNDERSTAND;
    }
    let extensions = fields.extensions()?;
    macro_rules! encoded {
        ($kind:ident, $body:expr) => {
            encode_with(FrameKind::$kind, flags, reference, &$body, &extensions)
        };
    }
    let bytes = match name {
        "hello" => encoded!(Hello, hello(fields)?),
        "send" => encoded!(Send, send(fields)?),
        "read" => encoded!(Read, body::Read { upto: place(fields)? }),
        "delivered" => encoded!(Delivered, delivered(fields)?),
        "sync" => encoded!(Sync, sync(fields)?),
        "pull" => encoded!(Pull, pull(fields)?),
        "call" => encoded!(CallStep, call(fields)?),
        "typing" => encoded!(TypingStep, typing(fields)?),
        "presence_query" => encoded!(PresenceQuery, presence_query(fields)?),
        "join_room" => encoded!(JoinRoom, room(fields)?),
        "leave_room" => encoded!(LeaveRoom, room(fields)?),
        "refresh_token" => encoded!(
            RefreshToken,
            body::RefreshToken {
                token: fields.text("token")?.to_owned()
            }
        ),
        "ping" => encoded!(
            Ping,
            body::Ping {
                time_ms: fields.number_or("time_ms", 0)?
            }
        ),
        _ if must_understand => return Err(FrameError::UnknownType { name: shown(name) }),
        _ => return Ok(JsonInput::Skipped { reference }),
    };
    check_bytes("frame", bytes.len(), limits::CLIENT_FRAME_BYTES_MAX)?;
    debug_assert!(Frame::parse(&bytes).is_ok(), "what was encoded here is a frame");
    Ok(JsonInput::Frame(bytes))
}

fn hello(fields: &Fields<'_>) -> Result<body::Hello, FrameError> {
    let terminal = Terminal::from_name(fields.text("terminal")?);
    Ok(body::Hello {
        token: fields.text_or("token", "")?.to_owned(),
        terminal: terminal.ok_or(wrong("terminal", "web, ios, android, desktop, pad, bot"))? as u8,
        device: fields.text_or("device", "")?.to_owned(),
        epoch: fields.hex("epoch")?,
    })
}

fn send(fields: &Fields<'_>) -> Result<body::Send, FrameError> {
    let (content_type, payload) = fields.content()?;
    Ok(body::Send {
        target: fields.target()?,
        kind: fields.kind()?,
        flags: fields.small_or("flags", 0)?,
        ref_seq: fields.number_or("ref_seq", 0)?,
        client_msg_id: fields.id16("client_msg_id")?,
        content_type,
        payload,
    })
}

fn place(fields: &Fields<'_>) -> Result<body::ConvSeq, FrameError> {
    Ok(body::ConvSeq {
        conv: fields.conv()?,
        seq: fields.number("seq")?,
    })
}

fn delivered(fields: &Fields<'_>) -> Result<body::Delivered, FrameError> {
    let places = fields.list("upto", "a list of {conv, seq}")?.iter().map(|each| {
        let object = each.as_object().ok_or(wrong("upto", "a list of {conv, seq}"))?;
        place(&Fields(object))
    });
    Ok(body::Delivered {
        upto: places.collect::<Result<_, _>>()?,
    })
}

fn sync(fields: &Fields<'_>) -> Result<body::Sync, FrameError> {
    Ok(body::Sync {
        cursor: BASE64
            .decode(fields.text_or("cursor", "")?)
            .map_err(|_| wrong("cursor", "the cursor of the last page, unchanged"))?,
        limit: fields.small_or("limit", LIMIT_DEFAULT)?,
    })
}

fn pull(fields: &Fields<'_>) -> Result<body::Pull, FrameError> {
    Ok(body::Pull {
        conv: fields.conv()?,
        from_seq: fields.number_or("from_seq", 1)?,
        to_seq: fields.number_or("to_seq", u64::MAX)?,
        limit: fields.small_or("limit", LIMIT_DEFAULT)?,
    })
}

fn call(fields: &Fields<'_>) -> Result<body::Call, FrameError> {
    let body = fields.get("body").map(Value::to_string).unwrap_or_default();
    Ok(body::Call {
        target: fields.target()?,
        from: String::new(),
        call_id: fields.id16("call_id")?,
        step: u8::try_from(fields.number("step")?).map_err(|_| wrong("step", "1 to 9"))?,
        body: body.into_bytes(),
    })
}

fn typing(fields: &Fields<'_>) -> Result<body::Typing, FrameError> {
    Ok(body::Typing {
        target: fields.target()?,
        from: String::new(),
        on: fields.boolean("on")?,
    })
}

fn presence_query(fields: &Fields<'_>) -> Result<body::PresenceQuery, FrameError> {
    let allowed = "a list of user ids";
    let users = fields
        .list("users", allowed)?
        .iter()
        .map(|user| user.as_str().map(str::to_owned));
    Ok(body::PresenceQuery {
        users: users.collect::<Option<_>>().ok_or(wrong("users", allowed))?,
    })
}

fn room(fields: &Fields<'_>) -> Result<body::Room, FrameError> {
    Ok(body::Room {
        room: fields.text("room")?.to_owned(),
    })
}

fn conv_bytes(text: &str) -> Result<Vec<u8>, FrameError> {
    let conv: ConvId = text.parse().map_err(|error| FrameError::Field {
        field: "conv",
        problem: format!("is {:?}: {error}", shown(text)),
    })?;
    Ok(conv.as_bytes().to_vec())
}

/// Items of a page when the client does not say.
const LIMIT_DEFAULT: u16 = 100;

/// The fields of a client's object, each read as what it must be.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &'static str) -> Result<&'a str, FrameError> {
        self.get(name)
            .and_then(Value::as_str)
            .ok_or(wrong(name, "a text"))
    }

    fn text_or(&self, name: &'static str, default: &'a str) -> Result<&'a str, FrameError> {
        self.get(name).map_or(Ok(default), |_| self.text(name))
    }

    fn number(&self, name: &'static str) -> Result<u64, FrameError> {
        self.get(name)
            .and_then(Value::as_u64)
            .ok_or(wrong(name, "a whole number, 0 or more"))
    }

    fn number_or(&self, name: &'static str, default: u64) -> Result<u64, FrameError> {
        self.get(name).map_or(Ok(default), |_| self.number(name))
    }

    fn small_or(&self, name: &'static str, default: u16) -> Result<u16, FrameError> {
        u16::try_from(self.number_or(name, default.into())?)
            .map_err(|_| wrong(name, "a whole number below 65536"))
    }

    fn boolean(&self, name: &'static str) -> Result<bool, FrameError> {
        self.get(name).map_or(Ok(false), |value| {
            value.as_bool().ok_or(wrong(name, "true or false"))
        })
    }

    fn hex(&self, name: &'static str) -> Result<u64, FrameError> {
        let digits = self.text_or(name, "0")?;
        u64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| digits.len() <= 16 && !digits.starts_with('+'))
            .ok_or(wrong(name, "1 to 16 hex digits"))
    }

    fn list(&self, name: &'static str, allowed: &str) -> Result<&'a [Value], FrameError> {
        let list = self.get(name).and_then(Value::as_array);
        list.map(Vec::as_slice).ok_or(wrong(name, allowed))
    }

    fn conv(&self) -> Result<Vec<u8>, FrameError> {
        conv_bytes(self.text("conv")?)
    }

    fn target(&self) -> Result<body::Target, FrameError> {
        let allowed = "{\"user\": id} or {\"conv\": id}";
        let target = self.get("target").and_then(Value::as_object);
        let target = Self(target.ok_or(wrong("target", allowed))?);
        match (target.get("user"), target.get("conv")) {
            (Some(Value::String(user)), None) => Ok(body::Target::User(user.clone())),
            (None, Some(Value::String(conv))) => Ok(body::Target::Conv(conv_bytes(conv)?)),
            _ => Err(wrong("target", allowed)),
        }
    }

    fn kind(&self) -> Result<u16, FrameError> {
        let number = match self.get("kind") {
            None => Some(kind::TEXT),
            Some(Value::String(name)) => KINDS
                .iter()
                .find(|(_, known)| known == name)
                .map(|(number, _)| *number),
            Some(value) => value.as_u64().and_then(|number| u16::try_from(number).ok()),
        };
        let allowed = "a number, or text, emoji, image, file, voice, video, location, card, custom, recall, edit, \
                       reaction, call_started";
        number.ok_or(wrong("kind", allowed))
    }

    fn id16(&self, name: &'static str) -> Result<[u8; 16], FrameError> {
        let digits = self.text(name)?.replace('-', "");
        let allowed = "a UUID, or 32 hex digits";
        if digits.len() != 32 || !digits.bytes().all(|each| each.is_ascii_hexdigit()) {
            return Err(wrong(name, allowed));
        }
        u128::from_str_radix(&digits, 16)
            .map(u128::to_be_bytes)
            .map_err(|_| wrong(name, allowed))
    }

    fn content(&self) -> Result<(u8, Vec<u8>), FrameError> {
        // A JSON payload may be null.
        let payload = self
            .0
            .get("payload")
            .ok_or(wrong("payload", "a text, JSON, or base64"))?;
        let content_type = match self.get("content_type") {
            None if payload.is_string() => Some(content::TEXT),
            None => Some(content::JSON),
            Some(Value::String(name)) => match name.as_str() {
                "text" => Some(content::TEXT),
                "json" => Some(content::JSON),
                "bytes" => Some(content::BYTES),
                _ => None,
            },
            Some(value) => value.as_u64().and_then(|number| u8::try_from(number).ok()),
        };
        let content_type =
            content_type.ok_or(wrong("content_type", "text, json, bytes, or a number below 256"))?;
        let bytes = match (content_type, payload) {
            (content::TEXT, Value::String(text)) => text.clone().into_bytes(),
            (content::TEXT, _) => return Err(wrong("payload", "a text, as content_type says")),
            (content::JSON, value) => value.to_string().into_bytes(),
            (_, Value::String(text)) => BASE64
                .decode(text)
                .map_err(|_| wrong("payload", "base64, as content_type says"))?,
            _ => return Err(wrong("payload", "base64, as content_type says")),
        };
        check_bytes("payload", bytes.len(), limits::PAYLOAD_BYTES_MAX)?;
        Ok((content_type, bytes))
    }

    fn extensions(&self) -> Result<Vec<u8>, FrameError> {
        let allowed = "a list of {type, value (base64)}";
        let mut bytes = Vec::new();
        if self.get("ext").is_none() {
            return Ok(bytes);
        }
        for each in self.list("ext", allowed)? {
            let number = each
                .get("type")
                .and_then(Value::as_u64)
                .and_then(|number| u16::try_from(number).ok());
            let value = each
                .get("value")
                .and_then(Value::as_str)
                .and_then(|text| BASE64.decode(text).ok());
            let (Some(number), Some(value)) = (number, value) else {
                return Err(wrong("ext", allowed));
            };
            push_extension(
                &mut bytes,
                Extension {
                    number,
                    value: &value,
                },
            );
        }
        check_extensions(&bytes)?;
        Ok(bytes)
    }
}
