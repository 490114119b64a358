//! The only place that reads the machine's clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970: the physical part of a timestamp.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that reads the clock"
)]
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| {
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    })
}
