//! The one place of the router that reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use corelane_protocol::time::Now;

/// Counts from the start of the router.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads clocks")]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The moment, for the core.
    pub fn now(&self) -> Now {
        Now {
            mono: self.start.elapsed(),
            wall_ms: u64::try_from(wall().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Wall time in microseconds since 1970: what trace stamps count in.
    pub fn wall_us(&self) -> u64 {
        u64::try_from(wall().as_micros()).unwrap_or(u64::MAX)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads clocks")]
fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}
