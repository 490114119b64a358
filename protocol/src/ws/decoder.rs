//! Turns the bytes of one connection into messages and control frames.
//!
//! Owns nothing while the connection rests between frames: a frame that lies whole in the reader's buffer is
//! unmasked and handed out in place. What is cut by the end of a read, or spread over fragments, is gathered
//! in a box that exists only for that time and grows with the bytes that really came, never with a length
//! that was only announced. The items do not depend on where reads end.
//!
//! What a message may cost is bounded by its bytes and by its count of fragments, empty ones included. When there
//! is one too many of either, that is an error like any other, found in the header before anything is gathered. At the
//! first error, and after a close frame, the connection has ended: nothing more is taken from it.

use std::fmt;

use super::header::{self, HEADER_BYTES_MAX, Header, Opcode};
use super::{WsError, close};

/// Fragments that a message of any size may have.
const FRAGMENTS_MIN: u64 = 1024;
/// A message may have one more fragment for each of these bytes of its limit: enough for senders that write in
/// small pieces, and still a small multiple of the header bytes that the same message costs in one frame.
const FRAGMENT_BYTES: u64 = 16;

/// Least capacity a gathered payload begins with, unless less was announced.
const PAYLOAD_BYTES_FIRST: usize = 64;

/// Which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads a client's masked frames.
    Server,
    /// Reads a server's unmasked frames.
    Client,
}

/// Decodes one connection. The memory it owns beyond itself is [`Decoder::held_bytes`].
pub struct Decoder {
    pending: Option<Box<Pending>>,
    message_bytes_max: u32,
    role: Role,
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 24, "every idle connection owns one");

impl fmt::Debug for Decoder {
    /// Leaves out what people wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("role", &self.role)
            .field("message_bytes_max", &self.message_bytes_max)
            .field("ended", &self.ended)
            .field("held_bytes", &self.held_bytes())
            .finish_non_exhaustive()
    }
}

/// What a read left unfinished.
#[derive(Default)]
struct Pending {
    /// Header bytes that are too few to be read, and how many.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: u8,
    /// The frame whose payload is coming in, and how much of it is here.
    frame: Option<(Header, u64)>,
    /// Data payload of this message so far, unmasked.
    message: Vec<u8>,
    /// Opcode of the message that is coming in over several frames or reads.
    opcode: Option<Opcode>,
    /// Leading bytes of `message` that are known to be UTF-8.
    utf8_bytes: usize,
    /// Payload of a control frame, unmasked.
    control: Vec<u8>,
    fragments: u64,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.head_bytes == 0 && self.frame.is_none() && self.opcode.is_none()
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
            ended: false,
        }
    }

    /// Takes what was read. Go through the items before the next call: what was not gone through is lost
    /// ([`Items::unread_bytes`] tells how much it was). Payloads are unmasked in place.
    pub fn feed<'a>(&'a mut self, bytes: &'a mut [u8]) -> Items<'a> {
        Items {
            decoder: self,
            bytes,
            at: 0,
            hold: Vec::new(),
        }
    }

    /// Bytes of memory it owns beyond itself.
    pub fn held_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| {
            size_of::<Pending>() + pending.message.capacity() + pending.control.capacity()
        })
    }

    /// Whether the peer said its last word: it closed, or broke the rules.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn fragments_max(&self) -> u64 {
        FRAGMENTS_MIN + u64::from(self.message_bytes_max) / FRAGMENT_BYTES
    }

    fn end(&mut self) {
        self.ended = true;
        self.pending = None;
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
pub struct Items<'a> {
    decoder: &'a mut Decoder,
    bytes: &'a mut [u8],
    at: usize,
    /// A gathered payload, while it is handed out.
    hold: Vec<u8>,
}

impl fmt::Debug for Items<'_> {
    /// Leaves out what people wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("decoder", &self.decoder)
            .field("unread_bytes", &self.unread_bytes())
            .finish_non_exhaustive()
    }
}

/// Where the payload of a finished item lies.
enum Found {
    InPlace(Opcode, usize, usize),
    Gathered(Opcode),
}

impl Items<'_> {
    /// The next item; `None` when the read is used up, or the connection has ended.
    #[expect(clippy::should_implement_trait, reason = "items borrow from the iterator")]
    pub fn next(&mut self) -> Option<Result<Item<'_>, WsError>> {
        if self.decoder.ended {
            return None;
        }
        let found = match self.advance() {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.decoder.pending.take_if(|pending| pending.is_empty());
                return None;
            }
            Err(error) => {
                self.decoder.end();
                return Some(Err(error));
            }
        };
        let (opcode, payload) = match found {
            Found::InPlace(opcode, start, end) => (opcode, self.bytes.get(start..end).unwrap_or(&[])),
            Found::Gathered(opcode) => (opcode, self.hold.as_slice()),
        };
        let item = item_of(opcode, payload);
        if matches!(item, Err(_) | Ok(Item::Close(_))) {
            self.decoder.end();
        }
        Some(item)
    }

    /// Bytes behind the last item: those a caller that stops early would lose, and after the end those that
    /// are not looked at.
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
            .filter(|pending| pending.head_bytes > 0)
        else {
            let header = header::parse(unread, masked)?;
            match &header {
                Some(header) => self.at += header.header_bytes,
                None if unread.is_empty() => {}
                None => {
                    let pending = self.decoder.pending.get_or_insert_default();
                    for (slot, byte) in pending.head.iter_mut().zip(unread.iter()) {
                        *slot = *byte;
                    }
                    pending.head_bytes = unread.len() as u8;
                    self.at = self.bytes.len();
                }
            }
            return Ok(header);
        };
        for byte in unread {
            if let Some(slot) = pending.head.get_mut(usize::from(pending.head_bytes)) {
                *slot = *byte;
            }
            pending.head_bytes += 1;
            self.at += 1;
            let head = pending
                .head
                .get(..usize::from(pending.head_bytes))
                .unwrap_or(&pending.head);
            if let Some(header) = header::parse(head, masked)? {
                pending.head_bytes = 0;
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
        let message_bytes_max = self.decoder.message_bytes_max as usize;
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
        // Until the last fragment has begun, the limit is all that is known of the message's size.
        let most = if header.fin {
            target.len().saturating_add(left)
        } else {
            message_bytes_max
        };
        extend(target, chunk, most);
        let have = have + (end - self.at) as u64;
        self.at = end;
        pending.frame = Some((header, have));
        let finished = have == header.payload_bytes;
        if !header.opcode.is_control() && pending.opcode == Some(Opcode::Text) {
            pending.check_utf8()?;
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
    /// Fails as soon as a byte cannot be UTF-8. Whether the last character is whole is checked with the whole
    /// message, which must be looked at once more to be handed out as text.
    fn check_utf8(&mut self) -> Result<(), WsError> {
        let unchecked = self.message.get(self.utf8_bytes..).unwrap_or(&[]);
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => self.utf8_bytes = self.message.len(),
            Err(error) if error.error_len().is_none() => self.utf8_bytes += error.valid_up_to(),
            Err(_) => return Err(WsError::Utf8),
        }
        Ok(())
    }
}

/// Appends `chunk` to what will be `most` bytes at most. Capacity doubles as usual, so that many small reads or
/// fragments stay linear, but not beyond `most`; what is only announced never adds any.
fn extend(target: &mut Vec<u8>, chunk: &[u8], most: usize) {
    let need = target.len() + chunk.len();
    if need > target.capacity() {
        let doubled = (2 * target.capacity()).max(PAYLOAD_BYTES_FIRST);
        target.reserve_exact(doubled.min(most).max(need) - target.len());
    }
    target.extend_from_slice(chunk);
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
            None => Err(WsError::CloseTorn),
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
