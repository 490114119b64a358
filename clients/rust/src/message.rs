//! Messages as a client hands them out, and ids for those it sends.

use corelane_protocol::frame::body::{self, ArchivedMessage};
use corelane_protocol::frame::{Frame, FrameError};
use corelane_protocol::id::{ClientMsgId, ConvId};

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its conversation.
    pub conv: ConvId,
    /// The message.
    pub message: body::Message,
    /// The extensions stored with it, encoded.
    pub extensions: Vec<u8>,
}

impl Received {
    /// Its place.
    pub fn seq(&self) -> u64 {
        self.message.seq
    }

    /// Takes a `Message` frame apart.
    pub(crate) fn from_frame(frame: &Frame<'_>) -> Result<Self, FrameError> {
        let message: body::Message = take::<ArchivedMessage, _>(frame)?;
        Ok(Self {
            conv: conv(&message.conv)?,
            message,
            extensions: frame.extensions.to_vec(),
        })
    }

    /// Takes the bytes of a `Message` frame apart.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        Self::from_frame(&Frame::parse(bytes)?)
    }
}

/// The server has a message durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The id it was sent under.
    pub client_msg_id: ClientMsgId,
    /// The conversation it went to.
    pub conv: ConvId,
    /// Its place.
    pub seq: u64,
    /// Countable messages up to and with it.
    pub n: u64,
    /// When the store took it, ms since 1970.
    pub time_ms: u64,
}

/// A new id for a message: a `UUIDv7`, later than every one made before by this process.
pub fn new_client_msg_id() -> ClientMsgId {
    ClientMsgId(*uuid::Uuid::now_v7().as_bytes())
}

/// The owned body of a frame.
pub(crate) fn take<A, T>(frame: &Frame<'_>) -> Result<T, FrameError>
where
    A: rkyv::Portable
        + for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rkyv::rancor::Failure>>
        + rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Failure>>,
{
    let archived = frame.access::<A>()?;
    rkyv::deserialize::<T, rkyv::rancor::Failure>(archived)
        .map_err(|_| FrameError::Archive { kind: "checked body" })
}

/// A conversation as the server names it.
pub(crate) fn conv(bytes: &[u8]) -> Result<ConvId, FrameError> {
    ConvId::parse(bytes).map_err(|error| FrameError::Field {
        field: "conv",
        problem: error.to_string(),
    })
}
