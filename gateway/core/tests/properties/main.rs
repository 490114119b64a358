//! One property of a shard per file.
#![expect(unreachable_pub, reason = "the harness is a module of this test only")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::struct_excessive_bools,
    reason = "a test that finds something else than it expects ends there"
)]
#![expect(clippy::cast_possible_truncation, reason = "test figures are small")]

mod apart;
mod budget;
mod chaos;
mod consuming;
mod deadlines;
mod demotion;
mod drain;
mod echo;
mod gates;
mod handshake;
mod harness;
mod homes;
mod hostile;
mod json;
mod kick;
mod lease;
mod link_loss;
mod moves;
mod order;
mod owners;
mod proxied;
mod rate;
mod reads;
mod reclaim;
mod routers;
mod segment;
mod stale;
mod welcome;
mod window;
