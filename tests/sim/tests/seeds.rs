//! The promise holds for every seed, of one router and of several.
//!
//! `CORELANE_SIM_FIRST` (0) says from which seed on, `CORELANE_SIM_SEEDS` (500) how many; `CORELANE_SIM_SEED` runs one
//! alone, and with `CORELANE_SIM_TRACE=1` prints its events. A seed that fails prints the command that runs it again.
#![cfg(not(feature = "planted"))]

use corelane_sim::{Counts, Shape};

const SEEDS: u64 = 500;
/// So many runs see every kind of fault.
const SEEDS_WORTH_IT: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, wanted is a number"))
    })
}

#[test]
fn the_promise_holds_in_every_run() {
    hold(Shape::Alone, "the_promise_holds_in_every_run");
}

#[test]
fn the_promise_holds_in_every_run_of_several_routers() {
    hold(
        Shape::Cluster,
        "the_promise_holds_in_every_run_of_several_routers",
    );
}

/// Runs the seeds for the test of this name.
#[expect(clippy::print_stdout, reason = "whoever runs the test is told the seed")]
fn hold(shape: Shape, test: &str) {
    let (first, count) = match number("CORELANE_SIM_SEED") {
        Some(seed) => (seed, Some(1)),
        None => (
            number("CORELANE_SIM_FIRST").unwrap_or(0),
            number("CORELANE_SIM_SEEDS"),
        ),
    };
    let count = count.unwrap_or(SEEDS);
    let seeds: Vec<u64> = (first..first + count).collect();
    let (mut failed, mut totals) = (Vec::new(), Counts::default());
    let outcomes = corelane_sim::for_each(&seeds, |seed| corelane_sim::run(shape, seed));
    for (seed, outcome) in seeds.iter().zip(outcomes) {
        match outcome {
            Ok(counts) => totals.add(&counts),
            Err(violations) => {
                println!(
                    "seed {seed} fails; again: CORELANE_SIM_SEED={seed} cargo test --profile ci -p corelane-sim --test seeds -- --exact {test} --nocapture"
                );
                for text in &violations {
                    println!("    {text}");
                }
                failed.push(*seed);
            }
        }
    }
    println!("{shape:?}, {count} seeds: {totals:?}");
    assert!(
        failed.is_empty(),
        "{} of {count} seeds fail: {failed:?}",
        failed.len()
    );
    if count >= SEEDS_WORTH_IT {
        let never = totals.missing(shape);
        assert!(never.is_empty(), "in no run there were any {never:?}");
    }
}
