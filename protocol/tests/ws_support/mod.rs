//! Items that outlive their read, and frames as any client could write them.

use corelane_protocol::ws::{Decoder, Item, Opcode, Role, WsError, client_frame};

/// An item, owned.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Error(WsError),
}

impl From<Result<Item<'_>, WsError>> for Owned {
    fn from(item: Result<Item<'_>, WsError>) -> Self {
        match item {
            Ok(Item::Text(text)) => Self::Text(text.to_owned()),
            Ok(Item::Binary(bytes)) => Self::Binary(bytes.to_vec()),
            Ok(Item::Ping(bytes)) => Self::Ping(bytes.to_vec()),
            Ok(Item::Pong(bytes)) => Self::Pong(bytes.to_vec()),
            Ok(Item::Close(close)) => Self::Close(close.map(|(code, text)| (code, text.to_owned()))),
            Err(error) => Self::Error(error),
        }
    }
}

/// Feeds one read and appends what came out.
pub(crate) fn drain(decoder: &mut Decoder, read: &[u8], into: &mut Vec<Owned>) {
    let mut read = read.to_vec();
    let mut items = decoder.feed(&mut read);
    while let Some(item) = items.next() {
        into.push(item.into());
    }
}

/// All items of a stream that a server reads in these pieces.
pub(crate) fn decode<'a>(message_bytes_max: u32, reads: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
    let mut decoder = Decoder::new(Role::Server, message_bytes_max);
    let mut items = Vec::new();
    for read in reads {
        drain(&mut decoder, read, &mut items);
    }
    items
}

/// A masked frame whose first byte is free to be wrong.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(Opcode::Text, payload, [0x1f, 0x2e, 0x3d, 0x4c], &mut bytes);
    if let Some(byte) = bytes.first_mut() {
        *byte = first;
    }
    bytes
}
