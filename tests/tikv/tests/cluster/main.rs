//! The store as `tikv-client` sees it. Every test has a store of its own; those in `anywhere` also run, as ignored tests,
//! on the cluster whose PD is named by `CORELANE_TEST_PD`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "helpers of tests"
)]

mod anywhere;
mod faults;
mod garbage;
mod harness;
mod killed;
mod locks;
mod splits;
