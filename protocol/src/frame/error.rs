//! Codes of the `Error` frame: what was refused, and whether trying again can help.

/// Why a frame was refused. The number is on the wire and never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum ErrorCode {
    /// The frame is not what its header says, or a field is out of range.
    Malformed = 1,
    /// The frame kind is unknown and marked must-understand.
    UnknownKind = 2,
    /// An extension is unknown and marked critical.
    UnknownExtension = 3,
    /// Payload or frame above the limit.
    TooLarge = 4,
    /// The same id was used with another body.
    Conflict = 5,
    /// The id is older than what the store remembers.
    StaleId = 6,
    /// No such group.
    UnknownGroup = 7,
    /// The sender is not a member.
    NotMember = 8,
    /// Not allowed for this user or scope.
    Forbidden = 9,
    /// The cursor or place lies behind the head: drop the conversation and pull it anew.
    Ahead = 10,
    /// Something the platform does not do for this kind of target.
    Unsupported = 11,
    /// The message was stored as a hole or cannot be stored; trying again with this id cannot help.
    Rejected = 12,
    /// Try again: the outcome is unknown or the way was interrupted.
    Retry = 0x100,
    /// Try again later: a queue is full or a deadline passed.
    Overloaded = 0x101,
    /// An earlier send of this conversation was refused; start again from the oldest with the restart flag.
    GateClosed = 0x102,
    /// Too many frames; try again later.
    RateLimited = 0x103,
    /// The store or registry is away; try again later.
    Unavailable = 0x104,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 17] = [
        Self::Malformed,
        Self::UnknownKind,
        Self::UnknownExtension,
        Self::TooLarge,
        Self::Conflict,
        Self::StaleId,
        Self::UnknownGroup,
        Self::NotMember,
        Self::Forbidden,
        Self::Ahead,
        Self::Unsupported,
        Self::Rejected,
        Self::Retry,
        Self::Overloaded,
        Self::GateClosed,
        Self::RateLimited,
        Self::Unavailable,
    ];

    /// The code with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u16 == number)
    }

    /// Whether the same frame may succeed later. A retryable refusal of a send closes its gate.
    pub const fn is_retryable(self) -> bool {
        self as u16 >= 0x100
    }

    /// Its name in JSON and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKind => "unknown_kind",
            Self::UnknownExtension => "unknown_extension",
            Self::TooLarge => "too_large",
            Self::Conflict => "conflict",
            Self::StaleId => "stale_id",
            Self::UnknownGroup => "unknown_group",
            Self::NotMember => "not_member",
            Self::Forbidden => "forbidden",
            Self::Ahead => "ahead",
            Self::Unsupported => "unsupported",
            Self::Rejected => "rejected",
            Self::Retry => "retry",
            Self::Overloaded => "overloaded",
            Self::GateClosed => "gate_closed",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
        }
    }
}
