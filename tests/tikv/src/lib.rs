//! A store for tests that speaks TiKV's gRPC protocol.
//!
//! TiKV's server is in no package registry, so this stands in for it where tests must run on a machine that has only
//! registries. It is **not TiKV**: one process, no Raft, rows in memory. What it does keep is what a client can tell: the
//! Percolator transactions of `tikv-client`, snapshots, locks that outlive their owner, regions with epochs that split,
//! durability of everything that was answered (locks included), and PD, either the real one or served by the store itself.
//! On command it loses, delays and repeats answers, refuses requests with region errors, freezes and splits, which a
//! real cluster does only when it wants to.
//!
//! [`TestStore`] runs one inside a test; the binary of the same name runs one as a process, with the [`control`] port for
//! its faults. Rows, locks and their history are held in memory: a long run needs some hundred bytes per version.

mod clock;
pub mod control;
mod fault;
mod gate;
mod key;
mod log;
mod node;
mod pd;
mod proto;
mod record;
mod region;
mod rows;
mod server;
mod service;
mod store;
mod txn;

pub use fault::{Action, Hits, Rule, TooManyRules};
pub use key::{WrongKey, format_key, parse_key};
pub use log::LogError;
pub use pd::join::JoinError;
pub use server::{Options, Pd, StoreError, TestStore};
pub use store::Summary;
pub use txn::RequestKind;
