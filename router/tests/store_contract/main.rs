//! What every store must do, run against each adapter, and what the `SQLite` and TiKV stores promise beyond it.
//!
//! A new adapter implements [`support::Fixture`] and adds one line to `contract.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says so by failing"
)]

mod contract;
mod power_cut;
mod sqlite;
mod support;
mod tikv;
mod tikv_faults;
