//! A load generator that can be believed, for any WebSocket service.
//!
//! One target or the gateways of a cluster. Sends are due by a plan and latency counts from the due time; what arrives is checked by content; against
//! Corelane the whole log is read back at the end and compared with a ledger of every send. When the
//! generator itself was the bottleneck it says so and voids the run.
//!
//! Owns its threads, each with an `io_uring` engine. Never waits for the target before the next send; when
//! too much waits, further sends are counted as unsent.

pub mod api;
pub mod cli;
pub mod clock;
pub mod driver;
pub mod faults;
pub mod history;
mod hlog;
mod leader;
pub mod ledger;
mod live;
pub mod metrics;
pub mod names;
pub mod payload;
pub mod plan;
pub mod probe;
pub mod proc;
pub mod ranges;
pub mod record;
pub mod report;
pub mod rng;
pub mod run;
mod seconds;
pub mod shared;
pub mod sources;
pub mod spread;
pub mod target;
pub mod text;
pub mod threshold;
pub mod token;
pub mod units;
mod verdict;
pub mod verify;
