//! The sockets of one shard: an `io_uring` engine in which an idle connection costs no task, no buffer and
//! no process descriptor.
//!
//! One thread owns an [`Engine`] and calls [`Engine::turn`] in a loop: a turn hands everything that was
//! asked for since the last one to the kernel, waits, and appends what happened as [`Event`]s. Other
//! threads reach the shard only by a [`Waker`].
//!
//! ```text
//!   listen ─┐                                     ┌─ Accepted, Connected
//!   connect ┤             ┌────────────┐          ├─ Received (bytes stay in the kernel's buffer)
//!   send    ┼─ queued ──> │ turn(wait) │ ─────────┼─ PeerClosed, Sent
//!   close   ┤             └────────────┘          ├─ Closed (the last word about a socket)
//!   pause   ┘      one enter in the usual case    └─ Woken
//! ```
//!
//! Owns: the rings, the direct descriptors in them, the receive buffers, and every [`Span`] that is being
//! sent. All `unsafe` code of the project is in this crate; its surface is safe.
//!
//! Never does: reading a clock for its users, spawning threads, logging, panicking on what a peer or the
//! kernel answers.
//!
//! When something is full: a full ring makes the next one; when all are full, connections are accepted from
//! a reserve and marked so ([`Event::Accepted`]); when the reserve is used up too, they wait in the
//! listener's backlog. Receive buffers that are all out leave bytes in the sockets until some come back.
//!
//! [`Span`]: corelane_protocol::arena::Span

mod address;
mod buffers;
mod clock;
mod close;
mod config;
mod connect;
mod engine;
mod error;
mod event;
mod id;
mod listener;
mod preflight;
mod receive;
mod region;
mod ring;
mod send;
mod slab;
mod slots;
mod sockopt;
mod stats;
mod table;
mod token;
mod waker;

pub use config::{EngineConfig, ListenOptions};
pub use engine::Engine;
pub use error::EngineError;
pub use event::{CloseReason, Event};
pub use id::{BufferId, ListenerId, Socket};
pub use preflight::preflight;
pub use stats::{EngineStats, UserBytes};
pub use waker::Waker;
