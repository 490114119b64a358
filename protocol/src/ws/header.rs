//! Frame headers and masking (RFC 6455 section 5.2 and 5.3).
//!
//! ```text
//! fin 1 | reserved 3 | opcode 4 | masked 1 | length 7 | length 16 or 64, big-endian | masking key 32
//! ```

use std::ops::Deref;

use super::WsError;

/// Longest header, in bytes.
pub const HEADER_BYTES_MAX: usize = 14;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation = 0,
    /// Text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// Close.
    Close = 8,
    /// Ping.
    Ping = 9,
    /// Pong.
    Pong = 10,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    /// Close, ping and pong.
    pub const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Last fragment of its message.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Masking key, if it is masked.
    pub key: Option<[u8; 4]>,
    /// Payload length in bytes.
    pub payload_bytes: u64,
    /// Bytes of the header itself.
    pub header_bytes: usize,
}

/// Reads the header at the front of `unread`; `None` while it is incomplete.
///
/// # Errors
///
/// [`WsError`] as soon as the offending byte is there: close.
pub fn parse(unread: &[u8], masked: bool) -> Result<Option<Header>, WsError> {
    let [first, rest @ ..] = unread else {
        return Ok(None);
    };
    let reserved = first >> 4 & 0b111;
    if reserved != 0 {
        return Err(WsError::ReservedBits { bits: reserved });
    }
    let opcode = Opcode::from_bits(first & 0xf).ok_or(WsError::Opcode { opcode: first & 0xf })?;
    let fin = first & 0x80 != 0;
    let [second, rest @ ..] = rest else {
        return Ok(None);
    };
    if (second & 0x80 != 0) != masked {
        return Err(WsError::Mask { expected: masked });
    }
    let (payload_bytes, length_bytes, rest) = match second & 0x7f {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            (u64::from(u16::from_be_bytes(*length)), 2, rest)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            (u64::from_be_bytes(*length), 8, rest)
        }
        short => (u64::from(short), 0, rest),
    };
    let shortest = match length_bytes {
        2 => payload_bytes > 125,
        8 => payload_bytes > 0xffff && payload_bytes >> 63 == 0,
        _ => true,
    };
    if opcode.is_control() && (!fin || second & 0x7f > 125) {
        return Err(WsError::Control { bytes: payload_bytes });
    }
    if !shortest {
        return Err(WsError::LengthForm {
            length: payload_bytes,
        });
    }
    let key = if masked {
        let Some((key, _)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        Some(*key)
    } else {
        None
    };
    let header_bytes = 2 + length_bytes + if masked { 4 } else { 0 };
    Ok(Some(Header {
        fin,
        opcode,
        key,
        payload_bytes,
        header_bytes,
    }))
}

/// A server's frame header, inline.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBytes {
    bytes: [u8; 10],
    len: u8,
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// Header of an unmasked frame.
pub fn server_header(opcode: Opcode, payload_bytes: usize, fin: bool) -> HeaderBytes {
    let first = opcode as u8 | if fin { 0x80 } else { 0 };
    let [l0, l1, l2, l3, l4, l5, l6, l7] = (payload_bytes as u64).to_be_bytes();
    match payload_bytes {
        0..=125 => HeaderBytes {
            bytes: [first, l7, 0, 0, 0, 0, 0, 0, 0, 0],
            len: 2,
        },
        126..=0xffff => HeaderBytes {
            bytes: [first, 126, l6, l7, 0, 0, 0, 0, 0, 0],
            len: 4,
        },
        _ => HeaderBytes {
            bytes: [first, 127, l0, l1, l2, l3, l4, l5, l6, l7],
            len: 10,
        },
    }
}

/// Appends a whole client frame, its payload masked with `key`.
pub fn client_frame(opcode: Opcode, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    let header = server_header(opcode, payload.len(), true);
    let at = out.len() + 1;
    out.extend_from_slice(&header);
    if let Some(second) = out.get_mut(at) {
        *second |= 0x80;
    }
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(out.get_mut(start..).unwrap_or(&mut []), key);
}

/// Masks or unmasks in place (section 5.3), eight bytes at a time.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d].into_iter().cycle()) {
        *byte ^= key;
    }
}

/// The key as it stands `offset` bytes into the payload.
pub fn rotate_key(key: [u8; 4], offset: u64) -> [u8; 4] {
    let mut rotated = key;
    rotated.rotate_left((offset % 4) as usize);
    rotated
}
