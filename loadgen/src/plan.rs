//! When each send is due, decided before the run: an open loop that does not slow down when the target does.

use crate::rng::Rng;

/// How due times are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Evenly.
    Fixed,
    /// As independent people would: exponential gaps, from the seed.
    Poisson,
}

/// Due times of one thread, as offsets in ns from the start of the run. Threads share the rate: thread `t` of
/// `n` takes every n-th send of an even plan, or draws its own arrivals at an n-th of the rate.
#[derive(Debug)]
pub struct Plan {
    arrivals: Arrivals,
    gap_ns: f64,
    phase_ns: f64,
    index: u64,
    next_ns: f64,
    end_ns: u64,
    rng: Rng,
}

impl Plan {
    /// The plan of thread `thread` of `threads`, at `rate` per second over all threads, ending at `end_ns`.
    pub fn new(arrivals: Arrivals, rate: f64, thread: u32, threads: u32, end_ns: u64, seed: u64) -> Self {
        let gap_ns = if rate > 0.0 {
            1e9 * f64::from(threads) / rate
        } else {
            f64::INFINITY
        };
        let phase_ns = if rate > 0.0 {
            1e9 * f64::from(thread) / rate
        } else {
            f64::INFINITY
        };
        let mut plan = Self {
            arrivals,
            gap_ns,
            phase_ns,
            index: 0,
            next_ns: phase_ns,
            end_ns,
            rng: Rng::new(seed, 0x706c_616e + u64::from(thread)),
        };
        if arrivals == Arrivals::Poisson {
            plan.next_ns = plan.draw();
        }
        plan
    }

    /// The next due time; `None` when the plan is over.
    pub fn peek(&self) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive; infinity saturates and lies behind every end"
        )]
        let due = self.next_ns as u64;
        (due < self.end_ns).then_some(due)
    }

    /// Takes the next due time if it has come.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.peek().filter(|due| *due <= now_ns)?;
        self.index += 1;
        #[expect(clippy::cast_precision_loss, reason = "a plan has far fewer than 2^53 sends")]
        match self.arrivals {
            Arrivals::Fixed => self.next_ns = self.phase_ns + self.gap_ns * self.index as f64,
            Arrivals::Poisson => self.next_ns += self.draw(),
        }
        Some(due)
    }

    fn draw(&mut self) -> f64 {
        -self.rng.unit().ln() * self.gap_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut plan: Plan) -> Vec<u64> {
        std::iter::from_fn(|| plan.take(u64::MAX)).collect()
    }

    #[test]
    fn threads_together_make_the_even_plan() {
        let mut dues: Vec<u64> = (0..3)
            .flat_map(|thread| all(Plan::new(Arrivals::Fixed, 1000.0, thread, 3, 1_000_000_000, 1)))
            .collect();
        dues.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|i| i * 1_000_000).collect();
        assert_eq!(dues, expected);
    }

    #[test]
    fn poisson_keeps_the_rate_and_the_seed() {
        let draw = |seed| all(Plan::new(Arrivals::Poisson, 10_000.0, 0, 1, 10_000_000_000, seed));
        let dues = draw(5);
        assert!((98_000..102_000).contains(&dues.len()), "{}", dues.len());
        assert!(dues.is_sorted());
        assert_eq!(dues, draw(5));
        assert_ne!(dues, draw(6));
    }

    #[test]
    fn nothing_is_taken_before_it_is_due() {
        let mut plan = Plan::new(Arrivals::Fixed, 10.0, 0, 1, 1_000_000_000, 0);
        assert_eq!(plan.take(0), Some(0));
        assert_eq!(plan.take(99_999_999), None);
        assert_eq!(plan.peek(), Some(100_000_000));
        assert_eq!(plan.take(5_000_000_000), Some(100_000_000));
        assert_eq!(
            Plan::new(Arrivals::Poisson, 0.0, 0, 1, u64::MAX - 1, 0).peek(),
            None
        );
    }
}
