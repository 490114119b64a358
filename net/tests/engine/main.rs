//! The engine against real sockets on the loopback: one property per file.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod accept;
mod bench;
mod buffers;
mod churn;
mod connect;
mod descriptors;
mod dropped;
mod echo;
mod fin;
mod flood;
mod gather;
mod listen;
mod pause;
mod quiet;
mod stuck;
mod wake;
