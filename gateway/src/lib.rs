//! The gateway: shards that hold `WebSocket`s, links to routers, configuration and administration.
//!
//! The rules of a shard live in `corelane-gateway-core`, its sockets in `corelane-net`. This crate holds the
//! system calls: threads, files, clocks, signals.

pub mod admin;
pub mod boot;
pub mod bus;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod embedded;
pub mod inbox;
pub mod logging;
pub mod placement;
pub mod process;
pub mod resolver;
pub mod shard_loop;
pub mod token;
