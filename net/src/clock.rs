//! The engine's own clock: how long it has existed. For deadlines inside the engine only.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the engine that reads the clock"
    )]
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// Since [`Clock::start`].
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
