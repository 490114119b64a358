//! The promise holds for every seed. `CORELANE_SIM_SEEDS` says how many, `CORELANE_SIM_SEED` runs one.
#![cfg(not(feature = "planted"))]

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

#[test]
fn the_promise_holds_in_every_run() {
    let seeds = match number("CORELANE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CORELANE_SIM_SEEDS").unwrap_or(300),
    };
    let mut failed = Vec::new();
    let mut totals: Vec<u64> = Vec::new();
    for seed in seeds.clone() {
        match corelane_sim::run(seed) {
            Ok(counts) => {
                let counts = [
                    counts.acked,
                    counts.live,
                    counts.crashes,
                    counts.unknown,
                    counts.kicks,
                    counts.cuts,
                    counts.lapses,
                ];
                totals.resize(counts.len(), 0);
                totals
                    .iter_mut()
                    .zip(counts)
                    .for_each(|(total, count)| *total += count);
            }
            Err(violations) => {
                println!("CORELANE_SIM_SEED={seed} fails:");
                for text in &violations {
                    println!("    {text}");
                }
                failed.push(seed);
            }
        }
    }
    println!("acked, delivered live, crashes, unknown commits, kicks, lost links, lapsed leases: {totals:?}");
    assert!(
        failed.is_empty(),
        "{} of {} seeds fail: {failed:?}",
        failed.len(),
        seeds.count()
    );
    let is_worth_it = seeds.count() < 50 || (totals.len() == 7 && totals.iter().all(|total| *total > 0));
    assert!(is_worth_it, "every kind of fault happened in some run");
}
