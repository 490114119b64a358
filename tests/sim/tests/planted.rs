//! A simulation that finds nothing proves nothing: each planted bug is found. `tests/sim/planted` runs them all.
#![cfg(feature = "planted")]

const SEEDS: u64 = 500;

#[test]
fn the_planted_bug_is_found() {
    let found = (0..SEEDS).find_map(|seed| Some((seed, corelane_sim::run(seed).err()?)));
    let (seed, violations) = found.expect("no seed finds the planted bug");
    println!(
        "found by seed {seed}: {}",
        violations.first().map_or("", String::as_str)
    );
}
