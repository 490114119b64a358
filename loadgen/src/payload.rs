//! What every message of a run carries, so that its receiver can tell whose it is, when it was due, and that
//! nothing of it changed on the way.
//!
//! ```text
//! "CLG1" | run u64 | sender u32 | conversation u64 | counter u64 | due ns u64 | sent ns u64 | crc32 u32 | filler
//! ```
//!
//! Little-endian; the checksum covers everything but itself. As text, the fields are hexadecimal and the filler
//! is letters, for servers that speak no binary frames.

/// Bytes of the fields.
pub const HEADER_BYTES: usize = 52;
/// Smallest text payload.
pub const TEXT_BYTES_MIN: usize = 2 * HEADER_BYTES;
const MAGIC: [u8; 4] = *b"CLG1";
const CRC_AT: usize = HEADER_BYTES - 4;
const FILLER: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-";

/// The fields of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run it belongs to.
    pub run: u64,
    /// Number of the user or connection that sent it.
    pub sender: u32,
    /// Where it was sent to ([`crate::names::ConvKey::number`]).
    pub conv: u64,
    /// The sender's count of its sends, from 0.
    pub counter: u64,
    /// When it was due.
    pub due_ns: u64,
    /// When it was first handed to the socket.
    pub sent_ns: u64,
}

/// A payload that is not what its sender made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It has no stamp at all: it comes from somebody else.
    #[error("payload carries no stamp of a load generator")]
    Foreign,
    /// It has a stamp, but its checksum does not fit its bytes.
    #[error("payload does not match its checksum: its bytes were changed")]
    Corrupt,
}

impl Stamp {
    /// Appends the payload of `size` bytes (at least the fields).
    pub fn write(&self, size: usize, text: bool, out: &mut Vec<u8>) {
        let fields = self.fields();
        let taken = if text { TEXT_BYTES_MIN } else { HEADER_BYTES };
        let start = out.len();
        if text {
            for byte in fields {
                out.extend([hex_digit(byte >> 4), hex_digit(byte & 15)]);
            }
        } else {
            out.extend(fields);
        }
        let mut left = size.saturating_sub(taken);
        while left > 0 {
            let part = left.min(FILLER.len());
            out.extend_from_slice(FILLER.get(..part).unwrap_or(FILLER));
            left -= part;
        }
        let filler = out.get(start + taken..).unwrap_or(&[]);
        let crc = checksum(&fields, filler).to_le_bytes();
        if text {
            let hex: Vec<u8> = crc
                .iter()
                .flat_map(|b| [hex_digit(b >> 4), hex_digit(b & 15)])
                .collect();
            put(out, start + 2 * CRC_AT, &hex);
        } else {
            put(out, start + CRC_AT, &crc);
        }
    }

    /// Reads a payload and checks it.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Foreign`]: skip it. [`PayloadError::Corrupt`]: a promise was broken.
    pub fn read(payload: &[u8]) -> Result<Self, PayloadError> {
        let (header, filler) = payload
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(PayloadError::Foreign)?;
        if header.starts_with(&MAGIC) {
            return Self::of_fields(header, filler);
        }
        let (text, filler) = payload
            .split_first_chunk::<TEXT_BYTES_MIN>()
            .ok_or(PayloadError::Foreign)?;
        let mut header = [0_u8; HEADER_BYTES];
        for (byte, pair) in header.iter_mut().zip(text.as_chunks::<2>().0) {
            let [high, low] = pair.map(hex_value);
            *byte = high.ok_or(PayloadError::Foreign)? << 4 | low.ok_or(PayloadError::Foreign)?;
        }
        if !header.starts_with(&MAGIC) {
            return Err(PayloadError::Foreign);
        }
        Self::of_fields(&header, filler)
    }

    fn of_fields(header: &[u8; HEADER_BYTES], filler: &[u8]) -> Result<Self, PayloadError> {
        let word = |at: usize| {
            let bytes = header.get(at..at + 8).and_then(|b| b.first_chunk::<8>());
            u64::from_le_bytes(*bytes.expect("inside the fields"))
        };
        let half = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
            u32::from_le_bytes(*bytes.expect("inside the fields"))
        };
        if checksum(header, filler) != half(CRC_AT) {
            return Err(PayloadError::Corrupt);
        }
        Ok(Self {
            run: word(4),
            sender: half(12),
            conv: word(16),
            counter: word(24),
            due_ns: word(32),
            sent_ns: word(40),
        })
    }

    fn fields(&self) -> [u8; HEADER_BYTES] {
        let mut fields = Vec::with_capacity(HEADER_BYTES);
        fields.extend(MAGIC);
        fields.extend(self.run.to_le_bytes());
        fields.extend(self.sender.to_le_bytes());
        fields.extend(self.conv.to_le_bytes());
        fields.extend(self.counter.to_le_bytes());
        fields.extend(self.due_ns.to_le_bytes());
        fields.extend(self.sent_ns.to_le_bytes());
        fields.extend([0; 4]);
        fields.try_into().expect("the lengths above add up")
    }
}

fn checksum(fields: &[u8; HEADER_BYTES], filler: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields.get(..CRC_AT).unwrap_or(&[]));
    hasher.update(filler);
    hasher.finalize()
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + nibble - 10
    }
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            run: 0x1122_3344_5566_7788,
            sender: 9,
            conv: 77,
            counter: 3,
            due_ns: 1 << 40,
            sent_ns: 5,
        }
    }

    #[test]
    fn what_was_written_is_read_in_both_forms() {
        for (text, size) in [
            (false, HEADER_BYTES),
            (false, 512),
            (true, TEXT_BYTES_MIN),
            (true, 300),
        ] {
            let mut bytes = Vec::new();
            stamp().write(size, text, &mut bytes);
            assert_eq!(bytes.len(), size);
            assert_eq!(Stamp::read(&bytes), Ok(stamp()));
            assert_eq!(
                std::str::from_utf8(&bytes).is_ok() && bytes.is_ascii(),
                text || bytes.is_ascii()
            );
        }
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let mut bytes = Vec::new();
        stamp().write(128, false, &mut bytes);
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert_ne!(Stamp::read(&changed), Ok(stamp()), "bit {at}");
        }
        bytes.pop();
        assert_eq!(Stamp::read(&bytes), Err(PayloadError::Corrupt));
        assert_eq!(Stamp::read(b"hello"), Err(PayloadError::Foreign));
    }
}
