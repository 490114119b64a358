//! The rules of one gateway shard, without any I/O.
//!
//! A message passes the files in this order: `accept`, `handshake`, `decode`, `admit`, `forward` on its way in;
//! `consume`, `deliver`, `flush` on its way out. [`Shard`] is the state they share, [`event`] its edge.
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths and counts are bounded by limits before they are narrowed"
)]

mod accept;
mod admit;
mod close;
mod config;
mod connect;
mod consume;
mod decode;
mod deliver;
mod drain;
mod encoding;
pub mod event;
mod flush;
mod forward;
mod handshake;
mod heartbeat;
mod home;
mod invariants;
mod lease;
mod link;
mod links;
mod memory;
mod metrics;
mod network;
mod numbers;
mod outbound;
mod places;
mod planted;
mod proxy;
mod routers;
mod session;
mod shard;
mod table;
mod transform;
mod waiting;
mod wheel;
mod window;

pub use config::ShardConfig;
pub use metrics::ShardMetrics;
pub use network::{Network, NetworkError};
#[cfg(feature = "planted")]
pub use planted::{PLANTABLE, plant};
pub use proxy::ProxyRefusal;
pub use shard::Shard;
