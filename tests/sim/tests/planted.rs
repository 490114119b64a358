//! A simulation that finds nothing proves nothing: each bug that can be planted in a core is found.
//!
//! One build with the feature `planted` holds all of them; which one the code has is chosen at run time. A bug that is
//! named in a core's `planted.rs` is tried here: there is no second list. `CORELANE_SIM_BUG` tries one
//! alone, with `CORELANE_SIM_SEED` on one seed, and with `CORELANE_SIM_TRACE=1` its events are printed.
#![cfg(feature = "planted")]

use std::ops::Range;

/// A bug that these seeds do not find is not found.
const SEEDS: u64 = 500;
/// Without a bug these seeds find nothing.
const CONTROL_SEEDS: u64 = 50;

#[derive(Debug, Clone, Copy)]
struct Planted {
    core: &'static str,
    bug: &'static str,
}

/// The first seed that finds something, and what.
type Found = Option<(u64, String)>;

fn planted() -> Vec<Planted> {
    let gateway = corelane_gateway_core::PLANTABLE
        .iter()
        .map(|bug| Planted { core: "gateway", bug });
    let router = corelane_router_core::PLANTABLE
        .iter()
        .map(|bug| Planted { core: "router", bug });
    gateway.chain(router).collect()
}

fn first_violation(seeds: Range<u64>) -> Found {
    seeds
        .into_iter()
        .find_map(|seed| Some((seed, corelane_sim::run(seed).err()?.into_iter().next()?)))
}

fn find(planted: Planted) -> Found {
    corelane_gateway_core::plant(planted.bug);
    corelane_router_core::plant(planted.bug);
    let alone: Option<u64> = std::env::var("CORELANE_SIM_SEED")
        .ok()
        .map(|text| text.parse().expect("CORELANE_SIM_SEED is a number"));
    let found = first_violation(alone.map_or(0..SEEDS, |seed| seed..seed + 1));
    corelane_gateway_core::plant("");
    corelane_router_core::plant("");
    found
}

#[test]
fn every_planted_bug_is_found() {
    let wanted = std::env::var("CORELANE_SIM_BUG").ok();
    let all = planted();
    let names: Vec<&str> = all.iter().map(|planted| planted.bug).collect();
    let bugs: Vec<Planted> = all
        .iter()
        .filter(|planted| wanted.as_deref().is_none_or(|wanted| wanted == planted.bug))
        .copied()
        .collect();
    assert!(
        !bugs.is_empty(),
        "no bug is named {wanted:?}; there are {names:?}"
    );
    assert_eq!(
        first_violation(0..CONTROL_SEEDS),
        None,
        "no bug is planted, and something is found"
    );

    // A bug may show as a panic of a core: what it says is in the table.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = corelane_sim::for_each(&bugs, find);
    std::panic::set_hook(hook);

    let mut missed = Vec::new();
    for (Planted { core, bug }, found) in bugs.iter().zip(found) {
        if let Some((seed, text)) = found {
            println!("{core:<8} {bug:<26} seed {seed:>3}  {text:.150}");
        } else {
            println!("{core:<8} {bug:<26} NOT FOUND in {SEEDS} seeds");
            missed.push(bug);
        }
    }
    assert!(
        missed.is_empty(),
        "{} of {} bugs are not found: {missed:?}",
        missed.len(),
        bugs.len()
    );
}
