//! The router: registry, store, bus, link server and HTTP API.

pub mod bus;
pub mod clock;
pub mod registry;
pub mod store;
