//! Turns the bytes of one connection into messages and control frames.
//!
//! Owns nothing while the connection rests between frames: a frame that lies whole in the reader's buffer is
//! unmasked and handed out in place. What is cut by the end of a read, or spread over fragments, is gathered
//! in a box that exists only for that time and grows with the bytes that really came, never with a length
//! that was only announced. The items do not depend on where reads end.
//!
//! When a message would exceed its limit the connection is in error; nothing more is taken from it.

use super::header::{self, Header, Opcode};
use super::{WsError, close};

/// Which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads a client's masked frames.
    Server,
    /// Reads a server's unmasked frames.
    Client,
}

/// Decodes one connection.
#[derive(Debug)]
pub struct Decoder {
    pending: Option<Box<Pending>>,
    message_bytes_max: u32,
    role: Role,
}

const _: () = assert!(size_of::<Decoder>() <= 24, "every idle connection owns one");

/// What a read left unfinished.
#[derive(Debug, Default)]
struct Pending {
    /// Header bytes that are too few to be read.
    head: Vec<u8>,
    /// The frame whose payload is coming in, and how much of it is here.
    frame: Option<(Header, u64)>,
    /// Data payload of this message so far, unmasked.
    message: Vec<u8>,
    /// Opcode of the message that is coming in over several frames.
    opcode: Option<Opcode>,
    /// Leading bytes of `message` that are known to be UTF-8.
    utf8_bytes: usize,
    /// Payload of a control frame, unmasked.
    control: Vec<u8>,
    fragments: u64,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.opcode.is_none()
    }
}

/// Something a peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'buf> {
    /// A text message.
    Text(&'buf str),
    /// A binary message.
    Binary(&'buf [u8]),
    /// Answer with a pong of the same payload.
    Ping(&'buf [u8]),
    /// Answer to a ping, or unasked for.
    Pong(&'buf [u8]),
    /// Code and reason, if it gave any. Answer with a close and stop reading.
    Close(Option<(u16, &'buf str)>),
}

impl Decoder {
    /// A decoder for messages of up to `message_bytes_max` bytes.
    pub const fn new(role: Role, message_bytes_max: u32) -> Self {
        Self {
            pending: None,
            message_bytes_max,
            role,
        }
    }

    /// Takes what was read. Go through the items before the next call; after an error there are no more.
    pub fn feed<'a>(&'a mut self, bytes: &'a mut [u8]) -> Items<'a> {
        Items {
            decoder: self,
            bytes,
            at: 0,
            hold: Vec::new(),
            ended: false,
        }
    }

    /// Bytes of memory it owns beyond itself.
    pub fn held_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| {
            size_of::<Pending>()
                + pending.head.capacity()
                + pending.message.capacity()
                + pending.control.capacity()
        })
    }

    fn fragments_max(&self) -> u64 {
        1024 + u64::from(self.message_bytes_max) / 16
    }

    /// Checks a header against what has come so far.
    fn admit(&self, header: &Header) -> Result<(), WsError> {
        if header.opcode.is_control() {
            return Ok(());
        }
        let pending = self.pending.as_deref();
        let within = pending.is_some_and(|pending| pending.opcode.is_some());
        match (header.opcode, within) {
            (Opcode::Continuation, false) => return Err(WsError::Continuation("nothing to continue")),
            (Opcode::Text | Opcode::Binary, true) => {
                return Err(WsError::Continuation("a message began before the last one ended"));
            }
            _ => {}
        }
        let before = pending.map_or(0, |pending| pending.message.len() as u64);
        let bytes = before.saturating_add(header.payload_bytes);
        if bytes > u64::from(self.message_bytes_max) {
            return Err(WsError::TooLong {
                bytes,
                limit: u64::from(self.message_bytes_max),
            });
        }
        if pending.is_some_and(|pending| pending.fragments >= self.fragments_max()) {
            return Err(WsError::Fragments {
                limit: self.fragments_max(),
            });
        }
        Ok(())
    }
}

/// Goes through the items of one read.
#[derive(Debug)]
pub struct Items<'a> {
    decoder: &'a mut Decoder,
    bytes: &'a mut [u8],
    at: usize,
    /// A gathered payload, while it is handed out.
    hold: Vec<u8>,
    ended: bool,
}

/// Where the payload of a finished item lies.
enum Found {
    InPlace(Opcode, usize, usize),
    Gathered(Opcode),
}

impl Items<'_> {
    /// The next item; `None` when the read is used up.
    #[expect(clippy::should_implement_trait, reason = "items borrow from the iterator")]
    pub fn next(&mut self) -> Option<Result<Item<'_>, WsError>> {
        if self.ended {
            return None;
        }
        let found = match self.advance() {
            Ok(Some(found)) => found,
            Ok(None) => {
                if self
                    .decoder
                    .pending
                    .as_ref()
                    .is_some_and(|pending| pending.is_empty())
                {
                    self.decoder.pending = None;
                }
                self.ended = true;
                return None;
            }
            Err(error) => {
                self.ended = true;
                self.decoder.pending = None;
                return Some(Err(error));
            }
        };
        let (opcode, payload) = match found {
            Found::InPlace(opcode, start, end) => (opcode, self.bytes.get(start..end).unwrap_or(&[])),
            Found::Gathered(opcode) => (opcode, self.hold.as_slice()),
        };
        let item = item_of(opcode, payload);
        self.ended = item.is_err() || matches!(item, Ok(Item::Close(_)));
        Some(item)
    }

    /// Bytes behind the last item that were not looked at (after a close or an error).
    pub fn unread_bytes(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn advance(&mut self) -> Result<Option<Found>, WsError> {
        loop {
            let in_payload = self
                .decoder
                .pending
                .as_ref()
                .is_some_and(|pending| pending.frame.is_some());
            if in_payload {
                match self.gather()? {
                    Gather::Starved => return Ok(None),
                    Gather::Fragment => continue,
                    Gather::Whole(opcode) => return Ok(Some(Found::Gathered(opcode))),
                }
            }
            let Some(header) = self.next_header()? else {
                return Ok(None);
            };
            self.decoder.admit(&header)?;
            if let Some(found) = self.take_in_place(&header) {
                return Ok(Some(found));
            }
            let pending = self.decoder.pending.get_or_insert_default();
            if !header.opcode.is_control() {
                pending.fragments += 1;
                if header.opcode != Opcode::Continuation {
                    pending.opcode = Some(header.opcode);
                }
            }
            pending.frame = Some((header, 0));
        }
    }

    /// Reads a header, from the read alone or together with the few bytes left of the last one.
    fn next_header(&mut self) -> Result<Option<Header>, WsError> {
        let masked = self.decoder.role == Role::Server;
        let unread = self.bytes.get(self.at..).unwrap_or(&[]);
        let Some(pending) = self
            .decoder
            .pending
            .as_mut()
            .filter(|pending| !pending.head.is_empty())
        else {
            let header = header::parse(unread, masked)?;
            match &header {
                Some(header) => self.at += header.header_bytes,
                None if unread.is_empty() => {}
                None => {
                    self.decoder
                        .pending
                        .get_or_insert_default()
                        .head
                        .extend_from_slice(unread);
                    self.at = self.bytes.len();
                }
            }
            return Ok(header);
        };
        for byte in unread {
            pending.head.push(*byte);
            self.at += 1;
            if let Some(header) = header::parse(&pending.head, masked)? {
                pending.head = Vec::new();
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// The usual case: the whole frame is in the read and is a message or control frame by itself.
    fn take_in_place(&mut self, header: &Header) -> Option<Found> {
        let alone = header.fin && header.opcode != Opcode::Continuation;
        let end = usize::try_from(header.payload_bytes)
            .ok()
            .and_then(|bytes| self.at.checked_add(bytes))?;
        if !alone || end > self.bytes.len() {
            return None;
        }
        let start = std::mem::replace(&mut self.at, end);
        if let Some(key) = header.key {
            header::unmask(self.bytes.get_mut(start..end)?, key);
        }
        Some(Found::InPlace(header.opcode, start, end))
    }

    /// Copies payload out of the read, as much as there is.
    fn gather(&mut self) -> Result<Gather, WsError> {
        let Some(pending) = self.decoder.pending.as_mut() else {
            return Ok(Gather::Starved);
        };
        let Some((header, have)) = pending.frame else {
            return Ok(Gather::Starved);
        };
        let left = usize::try_from(header.payload_bytes - have).unwrap_or(usize::MAX);
        let end = self.at.saturating_add(left).min(self.bytes.len());
        let chunk = self.bytes.get_mut(self.at..end).unwrap_or(&mut []);
        if let Some(key) = header.key {
            header::unmask(chunk, header::rotate_key(key, have));
        }
        let target = if header.opcode.is_control() {
            &mut pending.control
        } else {
            &mut pending.message
        };
        target.extend_from_slice(chunk);
        let have = have + (end - self.at) as u64;
        self.at = end;
        pending.frame = Some((header, have));
        let finished = have == header.payload_bytes;
        if !header.opcode.is_control() && pending.opcode == Some(Opcode::Text) {
            pending.check_utf8(finished && header.fin)?;
        }
        if !finished {
            return Ok(Gather::Starved);
        }
        pending.frame = None;
        if header.opcode.is_control() {
            self.hold = std::mem::take(&mut pending.control);
            return Ok(Gather::Whole(header.opcode));
        }
        if !header.fin {
            return Ok(Gather::Fragment);
        }
        self.hold = std::mem::take(&mut pending.message);
        pending.utf8_bytes = 0;
        pending.fragments = 0;
        let opcode = pending.opcode.take().unwrap_or(header.opcode);
        Ok(Gather::Whole(opcode))
    }
}

enum Gather {
    Starved,
    Fragment,
    Whole(Opcode),
}

impl Pending {
    /// Fails as soon as a byte cannot be UTF-8, not only when the message is whole.
    fn check_utf8(&mut self, whole: bool) -> Result<(), WsError> {
        let unchecked = self.message.get(self.utf8_bytes..).unwrap_or(&[]);
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => self.utf8_bytes = self.message.len(),
            Err(error) if error.error_len().is_none() && !whole => self.utf8_bytes += error.valid_up_to(),
            Err(_) => return Err(WsError::Utf8),
        }
        Ok(())
    }
}

fn item_of(opcode: Opcode, payload: &[u8]) -> Result<Item<'_>, WsError> {
    let text = |bytes| simdutf8::basic::from_utf8(bytes).map_err(|_| WsError::Utf8);
    match opcode {
        Opcode::Text => Ok(Item::Text(text(payload)?)),
        Opcode::Binary | Opcode::Continuation => Ok(Item::Binary(payload)),
        Opcode::Ping => Ok(Item::Ping(payload)),
        Opcode::Pong => Ok(Item::Pong(payload)),
        Opcode::Close => match payload.split_first_chunk::<2>() {
            None if payload.is_empty() => Ok(Item::Close(None)),
            None => Err(WsError::CloseCode { code: 0 }),
            Some((code, reason)) => {
                let code = u16::from_be_bytes(*code);
                if !close::may_be_sent(code) {
                    return Err(WsError::CloseCode { code });
                }
                Ok(Item::Close(Some((code, text(reason)?))))
            }
        },
    }
}
