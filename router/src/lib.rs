//! The router: registry, store, bus, link server and HTTP API.
//!
//! [`start`] runs one on threads of its own: `corelane-router` does nothing else, and a gateway embeds one the same way.
//! The rules are in `corelane-router-core`; here are the sockets, the ports and their adapters.

mod adopt;
pub mod api;
#[cfg(test)]
mod bench;
pub mod bus;
pub mod clock;
mod cluster;
pub mod config;
mod dead;
mod driver;
mod fetch;
mod given_up;
pub mod http;
mod hub;
mod intake;
pub mod keys;
mod kicks;
mod lease;
mod link;
mod membership;
mod metrics;
pub mod registry;
mod requests;
mod sessions;
mod shared;
mod start;
pub mod store;
mod sweep;

pub use self::membership::JoinError;
pub use self::start::{DemoOptions, RouterHandle, RouterOptions, StartError, bump_epoch, start};
