//! Which sessions of one user exclude each other: the login policy, and the only place that knows it.
//!
//! One session per (terminal class, device); of phones, tablets and desktops one per class; of browsers and bots one
//! per device. The newer login wins.

use corelane_protocol::terminal::Terminal;

use super::Route;

/// Most sessions of one user at a time; one more login is refused with 4505.
pub const SESSIONS_PER_USER_MAX: usize = 32;

/// Whether two sessions of one user cannot both be online.
pub fn conflicts(one: &Route, other: &Route) -> bool {
    one.terminal == other.terminal
        && match one.terminal {
            Terminal::Web | Terminal::Bot => one.device == other.device,
            Terminal::Ios | Terminal::Android | Terminal::Desktop | Terminal::Pad => true,
        }
}
