//! Numbers of message kinds, flags, content types and call steps.
//!
//! Ranges, not lists, decide how the platform treats a message, so that a kind made tomorrow is counted
//! right by a router of today: below 0x100 countable, 0x100 to 0x1ff control, 0x200 to 0x2ff call, from
//! 0x8000 the application's own (countable unless its flag says otherwise).

/// Text.
pub const TEXT: u16 = 1;
/// Emoji or sticker.
pub const EMOJI: u16 = 2;
/// Image.
pub const IMAGE: u16 = 3;
/// File.
pub const FILE: u16 = 4;
/// Voice message.
pub const VOICE: u16 = 5;
/// Video message.
pub const VIDEO: u16 = 6;
/// Location.
pub const LOCATION: u16 = 7;
/// Card.
pub const CARD: u16 = 8;
/// Custom.
pub const CUSTOM: u16 = 9;
/// Recall of the message at `ref_seq`.
pub const RECALL: u16 = 0x100;
/// New content for the message at `ref_seq`.
pub const EDIT: u16 = 0x101;
/// Reaction to the message at `ref_seq`.
pub const REACTION: u16 = 0x102;
/// Change of a group: members, roles, name. Made by routers only.
pub const GROUP_CHANGE: u16 = 0x103;
/// A hole of the log made good. Made by routers only.
pub const VOID: u16 = 0x1fe;
/// Body removed by law; id, place and hash are kept. Made by routers only.
pub const REDACTED: u16 = 0x1ff;
/// A call started.
pub const CALL_STARTED: u16 = 0x200;
/// Outcome of the call at `ref_seq`. Made by routers only.
pub const CALL_ENDED: u16 = 0x201;
/// First kind of the application's own.
pub const APP_FIRST: u16 = 0x8000;

/// Whether messages of this kind count as unread, given their flags.
pub const fn is_countable(kind: u16, flags: u16) -> bool {
    (kind < 0x100 || kind == CALL_STARTED || kind >= APP_FIRST) && flags & flag::UNCOUNTED == 0
}

/// Whether a client may send this kind.
pub const fn is_client_kind(kind: u16) -> bool {
    matches!(kind, 1..=0xff | RECALL | EDIT | REACTION | CALL_STARTED | APP_FIRST..)
}

/// Message flags.
pub mod flag {
    /// Does not count as unread although its kind would.
    pub const UNCOUNTED: u16 = 1;
    /// No sound.
    pub const SILENT: u16 = 2;
    /// Urgent.
    pub const URGENT: u16 = 4;
    /// Not for push services.
    pub const NO_PUSH: u16 = 8;
    /// All flags a client may set.
    pub const ALL: u16 = UNCOUNTED | SILENT | URGENT | NO_PUSH;
}

/// Content types.
pub mod content {
    /// Bytes; base64 in JSON.
    pub const BYTES: u8 = 0;
    /// UTF-8 text; a string in JSON.
    pub const TEXT: u8 = 1;
    /// JSON; itself in JSON.
    pub const JSON: u8 = 2;
}

/// Steps of a call.
pub mod call_step {
    /// Caller to callee.
    pub const INVITE: u8 = 1;
    /// Callee's terminal rings.
    pub const RINGING: u8 = 2;
    /// Callee takes it.
    pub const ACCEPT: u8 = 3;
    /// Session description of the caller.
    pub const OFFER: u8 = 4;
    /// Session description of the callee.
    pub const ANSWER: u8 = 5;
    /// A network candidate.
    pub const CANDIDATE: u8 = 6;
    /// Over.
    pub const HANG_UP: u8 = 7;
    /// Callee does not take it.
    pub const DECLINE: u8 = 8;
    /// Callee is in another call.
    pub const BUSY: u8 = 9;
}
