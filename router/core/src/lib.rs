//! What a router does with a message, without any I/O: admit, persist, locate, publish, and the outbox.
//!
//! The drive contract is [`RouterCore::handle`]: one input in, effects appended to a buffer of the caller. Time comes
//! with each input. `decide` holds the rules that every store applies inside its transaction, `place` what follows for one
//! router from the list of all.
#![forbid(unsafe_code)]

mod admit;
pub mod append;
mod behind;
mod core;
pub mod decide;
pub mod event;
mod lanes;
mod notice;
mod outbox;
mod persist;
pub mod place;
mod planted;
mod publish;

pub use self::core::{RouterCore, RouterMetrics};
pub use self::notice::Notice;
#[cfg(feature = "planted")]
pub use self::planted::{PLANTABLE, plant};
