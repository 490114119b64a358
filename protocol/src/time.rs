//! Time as the cores see it: handed in with every input, never read.

use std::time::Duration;

/// The moment of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Since the start of the process; never goes back. Deadlines count on this.
    pub mono: Duration,
    /// Wall clock, ms since 1970. For what people and other processes read; may jump.
    pub wall_ms: u64,
}
