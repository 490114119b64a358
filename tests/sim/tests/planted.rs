//! A simulation that finds nothing proves nothing: each bug that can be planted is found.
//!
//! One build with the feature `planted` holds all of them; which one the code has is chosen at run time. A bug that is
//! named in the `planted.rs` of a core, or in that of the model, is tried here: there is no second list.
//! `CORELANE_SIM_BUG` tries these, with commas between them, on [`SEEDS`] or on `CORELANE_SIM_SEED` alone, and with
//! `CORELANE_SIM_TRACE=1` events are printed; `CORELANE_SIM_BUGS` tries so many, of all kinds. A seed is run with one router
//! and with several.
#![cfg(feature = "planted")]

use std::ops::Range;

use corelane_sim::Shape;

/// A bug that these seeds do not find is not found.
const SEEDS: u64 = 1000;
/// Without a bug these seeds find nothing.
const CONTROL_SEEDS: u64 = 50;

#[derive(Debug, Clone, Copy)]
struct Planted {
    place: &'static str,
    bug: &'static str,
}

/// The first seed that finds something, with which shape, and what.
type Found = Option<(u64, Shape, String)>;

fn planted() -> Vec<Planted> {
    let places = [
        ("gateway", corelane_gateway_core::PLANTABLE),
        ("router", corelane_router_core::PLANTABLE),
        ("model", corelane_sim::PLANTABLE),
    ];
    let all = places
        .iter()
        .flat_map(|(place, bugs)| bugs.iter().map(|bug| Planted { place, bug }));
    all.collect()
}

/// Those that are to be tried: all, if nobody says anything else.
fn wanted(all: &[Planted]) -> Vec<Planted> {
    if let Ok(list) = std::env::var("CORELANE_SIM_BUG") {
        let known = |name| all.iter().find(|planted| planted.bug == name).copied();
        let names = list.split(',').map(str::trim);
        let bugs = names.map(|name| known(name).unwrap_or_else(|| panic!("{name:?} is none of {all:?}")));
        return bugs.collect();
    }
    // Spread over the list, so that gateway, router and model are among them.
    let count =
        number("CORELANE_SIM_BUGS").map_or(all.len(), |count| usize::try_from(count).unwrap_or(usize::MAX));
    let step = all.len().div_ceil(count.clamp(1, all.len()));
    all.iter().step_by(step).copied().collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, wanted is a number")),
    )
}

fn first_violation(seeds: Range<u64>) -> Found {
    let run = |seed, shape| {
        let violations = corelane_sim::run(shape, seed).err()?;
        Some((seed, shape, violations.into_iter().next()?))
    };
    seeds
        .into_iter()
        .find_map(|seed| run(seed, Shape::Alone).or_else(|| run(seed, Shape::Cluster)))
}

fn plant(bug: &str) {
    corelane_gateway_core::plant(bug);
    corelane_router_core::plant(bug);
    corelane_sim::plant(bug);
}

fn find(planted: Planted) -> Found {
    plant(planted.bug);
    let found = first_violation(number("CORELANE_SIM_SEED").map_or(0..SEEDS, |seed| seed..seed + 1));
    plant("");
    found
}

#[test]
fn every_planted_bug_is_found() {
    let bugs = wanted(&planted());
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
    for (Planted { place, bug }, found) in bugs.iter().zip(found) {
        if let Some((seed, shape, text)) = found {
            println!("{place:<8} {bug:<26} seed {seed:>3} {shape:<7?}  {text:.150}");
        } else {
            println!("{place:<8} {bug:<26} NOT FOUND in {SEEDS} seeds");
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
