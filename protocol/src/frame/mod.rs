//! Client and server frames: a fixed header, an rkyv body, skippable extensions.
//!
//! ```text
//! kind u16 | version u8 | flags u8 | body length u32 | ref u32 | body | { type u16 | length u32 | value }*
//! ```
//!
//! All integers little-endian. rkyv has no schema evolution, so a body is frozen with its version and new
//! fields travel as extensions. `ref` is chosen by the client and comes back in every answer and error.
//! Unknown kinds and extensions are skipped unless marked otherwise. Bytes of a peer are reached through
//! checked access only: a hostile archive is an error, never a wrong read.

pub mod body;
pub mod error;
pub mod json;
pub mod kind;
pub mod read;

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Portable, Serialize, bytecheck::CheckBytes};
use thiserror::Error;

use crate::limits;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 12;
/// Protocol version of the frames.
pub const VERSION: u8 = 1;

/// Header flags.
pub mod flag {
    /// A receiver that does not know the kind must refuse it instead of skipping it.
    pub const MUST_UNDERSTAND: u8 = 1;
    /// Extensions follow the body.
    pub const EXTENSIONS: u8 = 2;
    /// `Send`: opens the gate of its conversation again; the sender's oldest unacknowledged.
    pub const RESTART: u8 = 4;
    /// Not stored, may be dropped.
    pub const TRANSIENT: u8 = 8;
}

/// Extension type bits.
pub mod extension {
    /// A receiver that does not know it must refuse the frame.
    pub const CRITICAL: u16 = 1 << 15;
    /// Is stored with the message and comes with it.
    pub const STORED: u16 = 1 << 14;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Kind of a frame. Client kinds lie below 0x8000, server kinds from there.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum FrameKind { $($(#[$doc])* $name = $number,)* }

        impl FrameKind {
            /// Every kind of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// [`body::Hello`].
    Hello = 0x0001,
    /// [`body::Send`].
    Send = 0x0002,
    /// [`body::Read`].
    Read = 0x0003,
    /// [`body::Delivered`].
    Delivered = 0x0004,
    /// [`body::Sync`].
    Sync = 0x0005,
    /// [`body::Pull`].
    Pull = 0x0006,
    /// [`body::Call`], from a client.
    CallStep = 0x0007,
    /// [`body::Typing`], from a client.
    TypingStep = 0x0008,
    /// [`body::PresenceQuery`].
    PresenceQuery = 0x0009,
    /// [`body::Room`].
    JoinRoom = 0x000a,
    /// [`body::Room`].
    LeaveRoom = 0x000b,
    /// [`body::RefreshToken`].
    RefreshToken = 0x000c,
    /// [`body::Ping`].
    Ping = 0x000d,
    /// [`body::Welcome`].
    Welcome = 0x8001,
    /// [`body::SendAck`].
    SendAck = 0x8002,
    /// [`body::Message`].
    Message = 0x8003,
    /// [`body::SyncPage`].
    SyncPage = 0x8004,
    /// [`body::PullPage`].
    PullPage = 0x8005,
    /// [`body::ReadUpTo`].
    ReadUpTo = 0x8006,
    /// [`body::Call`], to a client.
    Call = 0x8007,
    /// [`body::Typing`], to a client.
    Typing = 0x8008,
    /// [`body::Presence`].
    Presence = 0x8009,
    /// [`body::PullRequired`].
    PullRequired = 0x800a,
    /// [`body::Resync`].
    Resync = 0x800b,
    /// [`body::GoAway`].
    GoAway = 0x800c,
    /// [`body::ErrorBody`].
    Error = 0x800d,
    /// [`body::Pong`].
    Pong = 0x800e,
}

/// Bytes that are no frame, or a frame that says something it must not. Always the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Shorter than a header, or than its header says, or longer.
    #[error("frame has {bytes} bytes, its header needs {needed}")]
    Length {
        /// Bytes present.
        bytes: usize,
        /// Bytes that a header, or the header's body length, needs.
        needed: usize,
    },
    /// Another protocol version.
    #[error("frame version is {version}, spoken here is {VERSION}")]
    Version {
        /// The version announced.
        version: u8,
    },
    /// The body does not validate as an archive of its kind.
    #[error("body of a {kind} frame is no valid archive")]
    Archive {
        /// Name of the frame's type.
        kind: &'static str,
    },
    /// A field is out of range.
    #[error("{field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// Extensions are malformed, too many or too long.
    #[error("extensions {problem}")]
    Extensions {
        /// What is wrong.
        problem: &'static str,
    },
    /// An unknown extension that is marked critical.
    #[error("extension {number:#06x} is marked critical and unknown here")]
    CriticalExtension {
        /// Its type.
        number: u16,
    },
    /// An unknown kind that is marked must-understand, or one that only the other side may send.
    #[error("frame kind {number:#06x} is not accepted here")]
    Kind {
        /// Its number.
        number: u16,
    },
    /// A JSON type that is unknown and marked must-understand.
    #[error("type {name:?} is not known here")]
    UnknownType {
        /// The first characters of its name.
        name: String,
    },
    /// Something has too many bytes.
    #[error("{what} has {bytes} bytes, allowed are {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// Most bytes.
        limit: usize,
    },
}

impl FrameError {
    /// The code of the `Error` frame that answers it.
    pub const fn code(&self) -> error::ErrorCode {
        match self {
            Self::Kind { .. } | Self::UnknownType { .. } => error::ErrorCode::UnknownKind,
            Self::CriticalExtension { .. } => error::ErrorCode::UnknownExtension,
            Self::TooLarge { .. } => error::ErrorCode::TooLarge,
            Self::Length { .. }
            | Self::Version { .. }
            | Self::Archive { .. }
            | Self::Field { .. }
            | Self::Extensions { .. } => error::ErrorCode::Malformed,
        }
    }
}

/// Refuses what has more bytes than its limit.
fn check_bytes(what: &'static str, bytes: usize, limit: usize) -> Result<(), FrameError> {
    if bytes > limit {
        return Err(FrameError::TooLarge { what, bytes, limit });
    }
    Ok(())
}

/// A frame, borrowed from the bytes that hold it. Lengths and extensions are checked; the body is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'buf> {
    /// Kind as on the wire; it may be one that this version does not know.
    pub kind: u16,
    /// Header flags.
    pub flags: u8,
    /// The client's reference; 0 for none.
    pub reference: u32,
    /// The archive.
    pub body: &'buf [u8],
    /// The extensions, encoded.
    pub extensions: &'buf [u8],
}

/// One extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension<'buf> {
    /// Type, with its two bits.
    pub number: u16,
    /// Value.
    pub value: &'buf [u8],
}

impl<'buf> Frame<'buf> {
    /// Takes the frame that fills `bytes`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Length`], [`FrameError::Version`], [`FrameError::Extensions`]: close with 4504, or
    /// answer `malformed` if `bytes` at least hold a header.
    pub fn parse(bytes: &'buf [u8]) -> Result<Self, FrameError> {
        let short = |needed| FrameError::Length {
            bytes: bytes.len(),
            needed,
        };
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(short(HEADER_BYTES))?;
        let [k0, k1, version, flags, b0, b1, b2, b3, r0, r1, r2, r3] = *header;
        if version != VERSION {
            return Err(FrameError::Version { version });
        }
        let body_bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        let (body, extensions) = rest
            .split_at_checked(body_bytes)
            .ok_or(short(HEADER_BYTES.saturating_add(body_bytes)))?;
        if flags & flag::EXTENSIONS == 0 && !extensions.is_empty() {
            return Err(short(HEADER_BYTES + body_bytes));
        }
        check_extensions(extensions)?;
        Ok(Self {
            kind: u16::from_le_bytes([k0, k1]),
            flags,
            reference: u32::from_le_bytes([r0, r1, r2, r3]),
            body,
            extensions,
        })
    }

    /// The kind, if this version knows it.
    pub fn known_kind(&self) -> Option<FrameKind> {
        FrameKind::from_number(self.kind)
    }

    /// Checked access to the body as an archived `T`, such as [`body::ArchivedSend`].
    ///
    /// # Errors
    ///
    /// [`FrameError::Archive`]: answer `malformed`.
    pub fn access<T>(&self) -> Result<&'buf T, FrameError>
    where
        T: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Failure>>,
    {
        access(self.body)
    }

    /// Goes through the extensions.
    pub fn extensions(&self) -> impl Iterator<Item = Extension<'buf>> + use<'buf> {
        let mut rest = self.extensions;
        std::iter::from_fn(move || {
            let (extension, after) = split_extension(rest)?;
            rest = after;
            Some(extension)
        })
    }
}

/// Checked access to an archive in place.
///
/// # Errors
///
/// [`FrameError::Archive`]: whoever sent it is not to be trusted with anything in it.
pub fn access<T>(archive: &[u8]) -> Result<&T, FrameError>
where
    T: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Failure>>,
{
    rkyv::access::<T, rancor::Failure>(archive).map_err(|_| FrameError::Archive {
        kind: std::any::type_name::<T>().rsplit("::").next().unwrap_or("?"),
    })
}

/// Archives `body`.
///
/// # Panics
///
/// Never with the types of this crate: their archives are plain memory.
pub fn archive<T>(body: &T) -> AlignedVec
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    rkyv::to_bytes::<rancor::Error>(body).expect("memory is the only sink and no type here can fail")
}

/// Encodes a frame with `body`.
pub fn encode<T>(kind: FrameKind, reference: u32, body: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    encode_with(kind, 0, reference, body, &[])
}

/// Encodes a frame with header `flags` and already encoded `extensions` ([`push_extension`]).
pub fn encode_with<T>(kind: FrameKind, flags: u8, reference: u32, body: &T, extensions: &[u8]) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let body = archive(body);
    let flags = if extensions.is_empty() {
        flags
    } else {
        flags | flag::EXTENSIONS
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + extensions.len());
    bytes.extend((kind as u16).to_le_bytes());
    bytes.extend([VERSION, flags]);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(reference.to_le_bytes());
    bytes.extend(body.as_slice());
    bytes.extend(extensions);
    bytes
}

/// Encodes an `Error` frame.
pub fn encode_error(reference: u32, code: error::ErrorCode, text: &str) -> Vec<u8> {
    encode(
        FrameKind::Error,
        reference,
        &body::ErrorBody {
            code: code as u16,
            text: text.to_owned(),
        },
    )
}

/// Appends one extension to `into`.
pub fn push_extension(into: &mut Vec<u8>, extension: Extension<'_>) {
    into.extend(extension.number.to_le_bytes());
    into.extend((extension.value.len() as u32).to_le_bytes());
    into.extend(extension.value);
}

fn check_extensions(mut rest: &[u8]) -> Result<(), FrameError> {
    if rest.len() > limits::EXTENSION_BYTES_MAX {
        return Err(FrameError::Extensions {
            problem: "exceed 2048 bytes",
        });
    }
    let mut count = 0;
    while !rest.is_empty() {
        let (_, after) = split_extension(rest).ok_or(FrameError::Extensions {
            problem: "end in the middle of one",
        })?;
        rest = after;
        count += 1;
    }
    if count > limits::EXTENSIONS_MAX {
        return Err(FrameError::Extensions {
            problem: "are more than 16",
        });
    }
    Ok(())
}

fn split_extension(bytes: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let ([t0, t1, l0, l1, l2, l3], rest) = bytes.split_first_chunk::<6>()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize)?;
    Some((
        Extension {
            number: u16::from_le_bytes([*t0, *t1]),
            value,
        },
        rest,
    ))
}
