//! How a client connects and what it keeps.

use std::time::Duration;

use corelane_protocol::terminal::Terminal;

/// Options of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Of the gateway, `ws://host:7070/ws`.
    pub url: String,
    /// The token; [`crate::Client::refresh_token`] replaces it.
    pub token: String,
    /// Class of the terminal.
    pub terminal: Terminal,
    /// Device id, 0 to 64 bytes. One session per (user, terminal, device).
    pub device: String,
    /// Whether to come back after a lost connection. Without it the first close is the end.
    pub auto_reconnect: bool,
    /// Whether to sync after every login, and so learn what was missed. Default true.
    pub auto_sync: bool,
    /// First upper bound of the random pause before a reconnect; doubles with each failure. Default 500 ms.
    pub backoff_min: Duration,
    /// Last upper bound of that pause. Default 30 s.
    pub backoff_max: Duration,
    /// Most events that wait to be taken, from 1. Default 1,024. When full, the socket is not read.
    pub event_slots: usize,
    /// Most messages that wait to be acknowledged, from 1. Default 1,000. When full, `send` refuses.
    pub outbox_slots: usize,
    /// Most missed messages per conversation that are pulled unasked; older ones are left to `pull`. Default 500.
    pub catch_up_messages: u64,
    /// An answer or a `Welcome` that takes longer than this means a dead connection. Default 20 s.
    pub answer_timeout: Duration,
}

impl Options {
    /// The defaults, as a desktop program without a device id.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            terminal: Terminal::Desktop,
            device: String::new(),
            auto_reconnect: true,
            auto_sync: true,
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            event_slots: 1024,
            outbox_slots: 1000,
            catch_up_messages: 500,
            answer_timeout: Duration::from_secs(20),
        }
    }

    /// With this terminal and device.
    #[must_use]
    pub fn on(mut self, terminal: Terminal, device: impl Into<String>) -> Self {
        self.terminal = terminal;
        self.device = device.into();
        self
    }

    /// A random pause after `failures` failed attempts: exponential, full jitter.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        random_up_to(exponential(self.backoff_min, self.backoff_max, failures))
    }
}

/// `min * 2^failures`, at most `max`.
pub(crate) fn exponential(min: Duration, max: Duration, failures: u32) -> Duration {
    min.saturating_mul(1 << failures.min(20)).min(max)
}

/// A random time below `bound`; the whole bound if the machine has no randomness to give.
pub(crate) fn random_up_to(bound: Duration) -> Duration {
    let Ok(random) = getrandom::u32() else {
        return bound;
    };
    bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
