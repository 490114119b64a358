//! The link between a gateway shard and a router: batches of records over TCP.
//!
//! ```text
//! batch = length u32 | record*          record = fixed header | user | device | body
//! ```

pub mod body;
pub mod codec;
pub mod credit;
pub mod handshake;
pub mod record;
