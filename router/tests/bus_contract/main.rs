//! What every bus must do, run against each adapter, and what adapters promise beyond it.
//!
//! A new adapter implements [`support::Fixture`] and adds one line to `contract.rs`. The tests of the Kafka bus run
//! against a real Kafka: `eval "$(ops/services up kafka)"`, then `cargo test -- --ignored kafka`; with
//! `--features kafka-tls` also over TLS.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says so by failing"
)]

mod contract;
mod kafka;
#[path = "../kafka_support/mod.rs"]
mod kafka_support;
#[cfg(feature = "kafka-tls")]
mod kafka_tls;
mod memory;
mod support;
