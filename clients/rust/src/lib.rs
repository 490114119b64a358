//! An async Corelane client that speaks `corelane.rkyv.v1`, for native programs, tests and examples.
//!
//! [`Client`] stays logged in: it reconnects as close codes and `GoAway` ask, sends each message until it is
//! acknowledged (go-back-N per conversation, one id for all attempts), and hands out every message once and in the
//! order of its conversation, pulling what it missed. [`RawClient`] does none of that: it carries frames, for tests
//! that want to say something wrong.
//!
//! Every queue is bounded. A full outbox refuses the message; when nobody takes [`Event`]s, the client stops reading
//! its socket (and nothing else) until somebody does.
#![forbid(unsafe_code)]

mod catch_up;
mod client;
mod driver;
mod error;
mod event;
mod message;
mod options;
mod outbox;
mod raw;
mod session;
mod timeline;

pub use client::{Client, PendingAck, PullAnswer};
pub use corelane_protocol::frame::read::TargetId;
pub use error::ClientError;
pub use event::{Event, Events, Source};
pub use message::{Ack, Received, new_client_msg_id};
pub use options::Options;
pub use raw::{RawClient, RawItem};
