//! Everything of Corelane that is bytes, and nothing that does I/O: client frames, the WebSocket codec, the
//! link between gateway and router, bus records, ids and limits.
//!
//! Depends on no runtime, socket, clock or source of randomness. All integers on any wire are
//! little-endian unless an RFC says otherwise.
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are bounded by `limits` before they are narrowed"
)]

pub mod arena;
pub mod bus;
pub mod frame;
pub mod hash;
pub mod id;
pub mod limits;
pub mod link;
pub mod listener;
pub mod proxy;
pub mod terminal;
pub mod time;
pub mod ws;
