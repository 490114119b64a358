//! A cluster in virtual time: the shipped cores of gateway shards and routers, the shipped codecs between them and
//! their clients, and around them ports and networks that delay, lose, double, forget and answer "unknown".
//!
//! A run is its [`Shape`] (one router with everything in its memory, or several that share a store, a registry and a bus)
//! and its seed. [`run`] lets faults happen for a while, lets everything settle, and then checks the promise:
//! acknowledged is stored, as it was said, once, in order; who is online has everything, from what came live, what his
//! sync told of and what he pulled; he was told when something was not sent, got nothing that is not his, and counts the
//! same unread messages as the platform.
//!
//! `tests/seeds.rs` runs many seeds of each shape: `CORELANE_SIM_FIRST` and `CORELANE_SIM_SEEDS` say which,
//! `CORELANE_SIM_SEED` runs one alone, `CORELANE_SIM_TRACE=1` prints its events. `tests/planted.rs`, in a build of its own,
//! sees that each bug that can be planted in a core is found.
//!
//! A file of `src` is a noun of the model: `world.rs` is time, `shape.rs` and `fault.rs` say who there is and what goes
//! wrong, `gateway.rs`, `process.rs` and `pause.rs` are the shells of gateways, `router.rs`, `link.rs`, `claims.rs`,
//! `lease.rs`, `member.rs`, `outbox.rs` and `request.rs` those of routers, `store.rs`, `registry.rs` and `bus.rs` the ports,
//! `terminal.rs` a client, `check.rs` the promise.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::struct_excessive_bools,
    clippy::wrong_self_convention,
    clippy::maybe_infinite_iter,
    reason = "a run that goes wrong may panic: it is a test"
)]

mod bus;
mod check;
mod claims;
mod conv;
mod drain;
mod fault;
mod gateway;
mod lease;
mod link;
mod member;
mod mend;
mod outbox;
mod pause;
mod persist;
mod planted;
mod process;
mod receive;
mod registry;
mod request;
mod rng;
mod router;
mod say;
mod shape;
mod store;
mod terminal;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "planted")]
pub use planted::{PLANTABLE, plant};
pub use shape::Shape;
use world::World;

macro_rules! counts {
    ($($name:ident,)+) => {
        /// What happened in a run: to see that it is one that can find something.
        #[derive(Debug, Clone, Copy, Default)]
        #[expect(missing_docs, reason = "each is a count of what its name says")]
        pub struct Counts {
            $(pub $name: u64,)+
        }

        impl Counts {
            /// Adds those of another run.
            pub const fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// Each with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }
        }
    };
}

counts! {
    events, said, acked, refused, conflicts, read, live, records, logins, kicks, cuts, crashes, unknown, bounces,
    reused_slots, inbox_overflows, topics_lost, pull_required, resyncs, online, lapses, pauses, read_back,
    lists, leaves, adopted, strays, late_commits, torn, mended, gateway_deaths, stalls, tails_lost, registry_aways, registry_losses,
    unrouted,
}

/// What happens only where there are several routers.
const OF_SEVERAL: &[&str] = &[
    "lists",
    "leaves",
    "adopted",
    "strays",
    "late_commits",
    "torn",
    "mended",
    "gateway_deaths",
    "stalls",
    "tails_lost",
    "registry_aways",
    "registry_losses",
    "unrouted",
];

impl Counts {
    /// What of all that can happen in runs of this shape did not.
    pub fn missing(&self, shape: Shape) -> Vec<&'static str> {
        let named = self.named().into_iter();
        let missing = named
            .filter(|(name, count)| *count == 0 && (shape == Shape::Cluster || !OF_SEVERAL.contains(name)));
        missing.map(|(name, _)| name).collect()
    }
}

/// Runs one seed.
///
/// # Errors
///
/// What of the promise was broken, one line each; a panic of a core is one, too.
pub fn run(shape: Shape, seed: u64) -> Result<Counts, Vec<String>> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(shape, seed);
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

/// Does `work` for each item, on all cores; the answers are in the order of the items.
///
/// # Panics
///
/// When `work` does.
pub fn for_each<I: Copy + Sync, T: Send>(items: &[I], work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        items.get(at).map(|item| (at, work(*item)))
    };
    let mut answers = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let started: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| std::iter::from_fn(take).collect::<Vec<_>>()))
            .collect();
        let ended = started
            .into_iter()
            .flat_map(|thread| thread.join().expect("no work panics"));
        ended.collect::<Vec<_>>()
    });
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
