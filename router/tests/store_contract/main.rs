//! What every store must do, run against each adapter, and what the SQLite store promises beyond it.
//!
//! A new adapter implements [`support::Fixture`] and adds one line to `contract.rs`.

mod contract;
mod sqlite;
mod support;
