//! A cluster in virtual time: the shipped cores of gateway shards and a router, the shipped codecs between them and
//! their clients, and around them ports and networks that delay, lose, double and answer "unknown".
//!
//! A run is its seed. [`run`] lets faults happen for a while, lets everything settle, and then checks the promise:
//! acknowledged is stored, once, in order; who is online has everything, and was told when something was not sent.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::struct_excessive_bools,
    clippy::wrong_self_convention,
    clippy::type_complexity,
    clippy::maybe_infinite_iter,
    reason = "a run that goes wrong may panic: it is a test"
)]

mod check;
mod gateway;
mod pause;
mod ports;
mod rng;
mod router;
mod store;
mod terminal;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// What happened in a run: to see that it is one that can find something.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "each is a count of what its name says")]
pub struct Counts {
    pub events: u64,
    pub said: u64,
    pub acked: u64,
    pub refused: u64,
    pub live: u64,
    pub records: u64,
    pub logins: u64,
    pub kicks: u64,
    pub cuts: u64,
    pub crashes: u64,
    pub unknown: u64,
    pub bounces: u64,
    pub overflows: u64,
    pub pull_required: u64,
    pub resyncs: u64,
    pub online: u64,
    pub lapses: u64,
}

/// Runs one seed.
///
/// # Errors
///
/// What of the promise was broken, one line each; a panic of a core is one, too.
pub fn run(seed: u64) -> Result<Counts, Vec<String>> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.run();
        if world.violations.is_empty() {
            world.check();
        }
        (world.counts, world.violations)
    }));
    match ran {
        Ok((counts, violations)) if violations.is_empty() => Ok(counts),
        Ok((_, violations)) => Err(violations),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(vec![format!("panic: {}", text.unwrap_or_default())])
        }
    }
}
