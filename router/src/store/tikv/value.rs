//! Values of the TiKV store: how a row becomes bytes and is checked when it comes back.
//!
//! Every value is `version u8 | crc u32 | body`, little-endian. The CRC-32 covers the key, the version and the body, so that
//! a row that was moved or torn is never served.

use super::super::StoreError;

/// Version of the rows.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// A row that goes into a value and comes out of it.
pub(super) trait Value: Sized {
    /// For errors.
    const NAME: &'static str;

    fn write(&self, body: &mut Vec<u8>);

    fn read(body: &mut Reader<'_>) -> Option<Self>;

    /// The value to store under `key`.
    fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION, 0, 0, 0, 0];
        self.write(&mut bytes);
        let crc = crc(key, bytes.get(HEADER_BYTES..).unwrap_or_default());
        if let Some(field) = bytes.get_mut(1..HEADER_BYTES) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// What the value under `key` says.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`]: it is not served.
    fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |problem: &str| StoreError::Damaged {
            what: format!("{} row {}", Self::NAME, key.escape_ascii()),
            problem: problem.to_owned(),
        };
        let Some((version, rest)) = bytes.split_first() else {
            return Err(damaged("it is empty"));
        };
        if *version != VERSION {
            return Err(damaged("its format version is unknown"));
        }
        let (stored, body) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("it is too short"))?;
        if crc(key, body) != u32::from_le_bytes(*stored) {
            return Err(damaged("its CRC does not hold"));
        }
        let mut reader = Reader(body);
        Self::read(&mut reader).ok_or_else(|| damaged("it does not decode"))
    }
}

pub(super) fn crc(key: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(key.len() as u64).to_le_bytes());
    crc.update(key);
    crc.update(&[VERSION]);
    crc.update(body);
    crc.finalize()
}

/// Takes a body apart.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// Whether all is taken.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn name(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        std::str::from_utf8(self.bytes(length)?).ok().map(str::to_owned)
    }

    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}

pub(super) fn numbers(body: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        body.extend(number.to_le_bytes());
    }
}

pub(super) fn push_name(body: &mut Vec<u8>, name: &str) {
    body.push(u8::try_from(name.len()).expect("a user id has at most 64 bytes"));
    body.extend(name.as_bytes());
}
