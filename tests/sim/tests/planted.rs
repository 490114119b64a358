//! A simulation that finds nothing proves nothing: each bug that can be planted is found.
//!
//! One build with the feature `planted` holds all of them; which one the code has is chosen at run time. A bug that is
//! named in the `planted.rs` of a core, or in that of the model, is tried here: there is no second list. A seed is run with
//! one router and with several; one that finds something is run again without the bug, and must find nothing then.
//!
//! `CORELANE_SIM_BUG` tries these, with commas between them, on [`SEEDS`] or on `CORELANE_SIM_SEED` alone, and with
//! `CORELANE_SIM_TRACE=1` events are printed. `CORELANE_SIM_BUGS` tries so many, of all kinds; `CORELANE_SIM_SAMPLE`, any
//! number, says which.
#![cfg(feature = "planted")]

use corelane_sim::Shape;

/// A bug that these seeds do not find is not found.
const SEEDS: u64 = 1000;

#[derive(Debug, Clone, Copy)]
struct Planted {
    place: &'static str,
    bug: &'static str,
}

/// The first run that finds something.
#[derive(Debug)]
struct Find {
    seed: u64,
    shape: Shape,
    text: String,
    /// What the same run finds without the bug.
    without: Option<String>,
}

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
    let Some(count) = number("CORELANE_SIM_BUGS") else {
        return all.to_vec();
    };
    // Spread over the list, so that gateway, router and model are among them.
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(all.len());
    let sample = number("CORELANE_SIM_SAMPLE").unwrap_or(0) % all.len() as u64;
    let first = usize::try_from(sample).expect("below a length");
    let places = (0..count).map(|nth| (first + nth * all.len() / count) % all.len());
    places.filter_map(|place| all.get(place).copied()).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, wanted is a number")),
    )
}

fn violation(seed: u64, shape: Shape) -> Option<String> {
    corelane_sim::run(shape, seed).err()?.into_iter().next()
}

fn plant(bug: &str) {
    corelane_gateway_core::plant(bug);
    corelane_router_core::plant(bug);
    corelane_sim::plant(bug);
}

fn find(planted: Planted) -> Option<Find> {
    plant(planted.bug);
    let mut seeds = number("CORELANE_SIM_SEED").map_or(0..SEEDS, |seed| seed..seed + 1);
    let found = seeds.find_map(|seed| {
        let shapes = [Shape::Alone, Shape::Cluster];
        shapes
            .into_iter()
            .find_map(|shape| Some((seed, shape, violation(seed, shape)?)))
    });
    plant("");
    let (seed, shape, text) = found?;
    Some(Find {
        seed,
        shape,
        text,
        without: violation(seed, shape),
    })
}

#[test]
fn every_planted_bug_is_found() {
    let bugs = wanted(&planted());
    let names: Vec<&str> = bugs.iter().map(|planted| planted.bug).collect();
    println!(
        "{} bugs; again: CORELANE_SIM_BUG={}",
        names.len(),
        names.join(",")
    );

    // A bug may show as a panic of a core: what it says is in the table.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = corelane_sim::for_each(&bugs, find);
    std::panic::set_hook(hook);

    let (mut missed, mut false_finds) = (Vec::new(), Vec::new());
    for (Planted { place, bug }, found) in bugs.iter().zip(found) {
        let Some(Find {
            seed,
            shape,
            text,
            without,
        }) = found
        else {
            println!("{place:<8} {bug:<26} NOT FOUND in {SEEDS} seeds");
            missed.push(*bug);
            continue;
        };
        println!("{place:<8} {bug:<26} seed {seed:>3} {shape:<7?}  {text:.150}");
        if let Some(text) = without {
            println!("    without it, too: {text}");
            false_finds.push((seed, shape));
        }
    }
    assert!(
        missed.is_empty(),
        "{} of {} bugs are not found: {missed:?}",
        missed.len(),
        bugs.len()
    );
    assert!(
        false_finds.is_empty(),
        "runs that find something without a bug prove nothing: {false_finds:?}"
    );
}
