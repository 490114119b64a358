//! Rules of the router's core, one noun per file, each against ports that answer as the test wants.
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "these are tests: every item is for the file beside it, and a panic is how a test fails"
)]

mod awaited_gateway;
mod bench;
mod drained_once;
mod gained_lane;
mod lapsed_list;
mod lone_router;
mod lost_lane;
mod members;
mod stranger;
mod tenants;
