//! What every registry must do, run against each adapter, and what the one in Redis promises beyond it.
//!
//! A new adapter implements [`support::Fixture`] and adds one line to `contract.rs`. Tests that need a real Redis are
//! run by `eval "$(ops/services up redis)"` and then with `--ignored`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says so by failing"
)]

mod contract;
mod redis;
mod support;
