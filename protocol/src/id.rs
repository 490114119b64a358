//! Names of everything that has one: users, conversations, connections, nodes.
//!
//! Each is a type of its own, so that two of them cannot be swapped unnoticed. Text ids share their
//! memory when cloned. A [`ConvId`] is the same bytes in frames, keys and bus records.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest user, group, room, node or device id, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 64;

/// Longest [`ConvId`]: kind, length, two user ids.
pub const CONV_ID_BYTES_MAX: usize = 2 + 2 * ID_BYTES_MAX;

/// An id that is not one. Always the fault of whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// A text id was empty or too long.
    #[error("{what} has {bytes} bytes, allowed are 1 to {ID_BYTES_MAX}")]
    Length {
        /// Which id.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A text id held a control character or a byte that is not UTF-8.
    #[error("{what} holds a control character or is not UTF-8")]
    Characters {
        /// Which id.
        what: &'static str,
    },
    /// The bytes are no conversation id.
    #[error("conversation id is malformed: {reason}")]
    Conversation {
        /// What is wrong with it.
        reason: &'static str,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes `text` as an id: 1 to [`ID_BYTES_MAX`] bytes, no control characters.
            ///
            /// # Errors
            ///
            /// [`IdError::Length`] or [`IdError::Characters`]; refuse what carried it.
            pub fn new(text: &str) -> Result<Self, IdError> {
                if text.is_empty() || text.len() > ID_BYTES_MAX {
                    return Err(IdError::Length { what: $what, bytes: text.len() });
                }
                if text.chars().any(char::is_control) {
                    return Err(IdError::Characters { what: $what });
                }
                Ok(Self(Arc::from(text)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A user of one tenant.
    UserId,
    "user id"
);
text_id!(
    /// A group of one tenant.
    GroupId,
    "group id"
);
text_id!(
    /// A gateway or a router, as its operator named it.
    NodeId,
    "node id"
);

/// The tenant. 0 unless the token says otherwise; part of every key, never of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AppId(pub u32);

/// A user together with the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppUser {
    /// The tenant.
    pub app: AppId,
    /// The user in it.
    pub user: UserId,
}

/// One start of a process. Drawn at random at each start, so nothing of an earlier life is mistaken for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub u64);

/// A part of the conversation space that one router serves at a time; below the store's lane count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u16);

/// Chosen by the sender, once per message: a `UUIDv7`, so that it also says when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientMsgId(pub [u8; 16]);

impl ClientMsgId {
    /// The time in it, in ms since 1970 (RFC 9562 section 5.7).
    pub fn time_ms(self) -> u64 {
        (u128::from_be_bytes(self.0) >> 80) as u64
    }

    /// Whether version and variant bits are those of a `UUIDv7`.
    pub fn is_uuid_v7(self) -> bool {
        self.0[6] >> 4 == 7 && self.0[8] >> 6 == 0b10
    }
}

/// A connection of one gateway: shard (10 bits), slot (24 bits), generation (30 bits). Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

impl ConnId {
    /// Most shards of a gateway.
    pub const SHARDS_MAX: u32 = 1 << 10;
    /// Most slots of a shard.
    pub const SLOTS_MAX: u32 = 1 << 24;
    /// Bits of the generation that are kept.
    pub const GENERATION_MASK: u32 = (1 << 30) - 1;

    /// Puts the parts together; bits above the ranges named in the type's docs are dropped.
    pub fn new(shard: u16, slot: u32, generation: u32) -> Self {
        Self(
            (u64::from(shard) & 0x3ff) << 54
                | (u64::from(slot) & 0xff_ffff) << 30
                | u64::from(generation & Self::GENERATION_MASK),
        )
    }

    /// The shard that owns the connection.
    pub const fn shard(self) -> u16 {
        (self.0 >> 54) as u16
    }

    /// Its slot in the shard's table.
    pub const fn slot(self) -> u32 {
        (self.0 >> 30) as u32 & 0xff_ffff
    }

    /// Which user of the slot it is.
    pub const fn generation(self) -> u32 {
        self.0 as u32 & Self::GENERATION_MASK
    }
}

/// What kind of conversation a [`ConvId`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConvKind {
    /// Two users (or one with himself), smaller id first.
    Direct(UserId, UserId),
    /// A group with members.
    Group(GroupId),
    /// A room: soft membership, nothing stored for it.
    Room(GroupId),
}

/// A conversation: `0x01 len smaller-user larger-user` | `0x02 group` | `0x03 room`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConvId(Arc<[u8]>);

impl ConvId {
    /// The conversation of two users, whichever is named first.
    pub fn direct(one: &UserId, other: &UserId) -> Self {
        let (small, large) = if one <= other { (one, other) } else { (other, one) };
        let mut bytes = Vec::with_capacity(2 + small.0.len() + large.0.len());
        bytes.extend([0x01, small.0.len() as u8]);
        bytes.extend(small.0.as_bytes());
        bytes.extend(large.0.as_bytes());
        Self(bytes.into())
    }

    /// The conversation of a group.
    pub fn group(group: &GroupId) -> Self {
        Self([&[0x02], group.0.as_bytes()].concat().into())
    }

    /// The conversation of a room.
    pub fn room(room: &GroupId) -> Self {
        Self([&[0x03], room.0.as_bytes()].concat().into())
    }

    /// Takes bytes from outside.
    ///
    /// # Errors
    ///
    /// [`IdError`]: not one of the three forms, or users not in order. Refuse what carried it.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdError> {
        kind_of(bytes).map(|_| Self(bytes.into()))
    }

    /// Its bytes, as in frames, keys and records.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its kind and whom it names.
    ///
    /// # Panics
    ///
    /// Never: it was checked when it was made.
    pub fn kind(&self) -> ConvKind {
        kind_of(&self.0).expect("checked when it was made")
    }

    /// The two users of a direct conversation.
    pub fn direct_users(&self) -> Option<(UserId, UserId)> {
        match self.kind() {
            ConvKind::Direct(small, large) => Some((small, large)),
            ConvKind::Group(_) | ConvKind::Room(_) => None,
        }
    }

    /// Whether it is a group.
    pub fn is_group(&self) -> bool {
        self.0.first() == Some(&0x02)
    }
}

impl fmt::Debug for ConvId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As in logs and JSON: `u:len:smaller:larger`, `g:group`, `r:room`.
impl fmt::Display for ConvId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            ConvKind::Direct(small, large) => write!(f, "u:{}:{small}:{large}", small.0.len()),
            ConvKind::Group(group) => write!(f, "g:{group}"),
            ConvKind::Room(room) => write!(f, "r:{room}"),
        }
    }
}

impl std::str::FromStr for ConvId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some(group) = text.strip_prefix("g:") {
            return Ok(Self::group(&GroupId::new(group)?));
        }
        if let Some(room) = text.strip_prefix("r:") {
            return Ok(Self::room(&GroupId::new(room)?));
        }
        let malformed = IdError::Conversation {
            reason: "text form is u:len:smaller:larger, g:group or r:room",
        };
        let rest = text.strip_prefix("u:").ok_or(malformed.clone())?;
        let (len, users) = rest.split_once(':').ok_or(malformed.clone())?;
        let len: usize = len.parse().map_err(|_| malformed.clone())?;
        let small = users.get(..len).ok_or(malformed.clone())?;
        let large = users
            .get(len..)
            .and_then(|rest| rest.strip_prefix(':'))
            .ok_or(malformed)?;
        let (small, large) = (UserId::new(small)?, UserId::new(large)?);
        if small > large {
            return Err(IdError::Conversation {
                reason: "users of a direct conversation are not in order",
            });
        }
        Ok(Self::direct(&small, &large))
    }
}

fn kind_of(bytes: &[u8]) -> Result<ConvKind, IdError> {
    let text = |bytes| {
        std::str::from_utf8(bytes).map_err(|_| IdError::Conversation {
            reason: "an id in it is not UTF-8",
        })
    };
    match bytes {
        [0x01, len, users @ ..] => {
            let (small, large) = users
                .split_at_checked(usize::from(*len))
                .ok_or(IdError::Conversation {
                    reason: "shorter than its length byte says",
                })?;
            let (small, large) = (UserId::new(text(small)?)?, UserId::new(text(large)?)?);
            if small > large {
                return Err(IdError::Conversation {
                    reason: "users of a direct conversation are not in order",
                });
            }
            Ok(ConvKind::Direct(small, large))
        }
        [0x02, group @ ..] => Ok(ConvKind::Group(GroupId::new(text(group)?)?)),
        [0x03, room @ ..] => Ok(ConvKind::Room(GroupId::new(text(room)?)?)),
        _ => Err(IdError::Conversation {
            reason: "first byte must be 1 (direct), 2 (group) or 3 (room)",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_conversation_is_the_same_from_both_sides() {
        let (a, b) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let conv = ConvId::direct(&a, &b);
        assert_eq!(conv, ConvId::direct(&b, &a));
        assert_eq!(conv.as_bytes(), b"\x01\x05alicebob");
        assert_eq!(ConvId::parse(conv.as_bytes()).unwrap(), conv);
        assert_eq!(conv.to_string().parse::<ConvId>().unwrap(), conv);
    }

    #[test]
    fn a_client_msg_id_says_when() {
        let id = ClientMsgId(*b"\x01\x93\x5a\x2b\x3c\x4d\x7e\xf0\x81\x23\x45\x67\x89\xab\xcd\xef");
        assert!(id.is_uuid_v7());
        assert_eq!(id.time_ms(), 0x0193_5a2b_3c4d);
        assert!(!ClientMsgId([0xff; 16]).is_uuid_v7());
    }

    #[test]
    fn users_out_of_order_are_no_second_conversation() {
        assert!(ConvId::parse(b"\x01\x03bobalice").is_err());
        assert!("u:3:bob:alice".parse::<ConvId>().is_err());
        assert!(ConvId::parse(b"\x01\xffbob").is_err());
        assert!(ConvId::parse(b"").is_err());
        assert!(ConvId::parse(b"\x02").is_err());
    }

    #[test]
    fn a_conn_id_keeps_its_parts() {
        let conn = ConnId::new(1023, ConnId::SLOTS_MAX - 1, ConnId::GENERATION_MASK);
        assert_eq!(
            (conn.shard(), conn.slot(), conn.generation()),
            (1023, (1 << 24) - 1, (1 << 30) - 1)
        );
    }
}
