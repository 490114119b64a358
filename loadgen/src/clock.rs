//! Time: the only place of this process that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds of a duration, as the plan and the payloads count them.
#[expect(clippy::cast_possible_truncation, reason = "584 years fit")]
pub const fn ns_of(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// One clock for all threads of a run, so that a time written by one can be compared by another.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall_start: SystemTime,
}

impl Clock {
    /// A clock that starts at 1 s, so that 0 can mean "never".
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            wall_start: SystemTime::now(),
        }
    }

    /// Monotonic time in ns.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    pub fn now_ns(&self) -> u64 {
        ns_of(Instant::now().duration_since(self.start)) + 1_000_000_000
    }

    /// Wall clock in ms since 1970: its reading at the start, moved on by the monotonic clock.
    pub fn wall_ms(&self) -> u64 {
        let start = self.wall_start.duration_since(UNIX_EPOCH).unwrap_or_default();
        (ns_of(start) + self.now_ns() - 1_000_000_000) / 1_000_000
    }

    /// Wall clock at the start.
    pub const fn wall_start(&self) -> SystemTime {
        self.wall_start
    }
}
