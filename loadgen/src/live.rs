//! The line on the terminal that says once a second how the run goes.
//!
//! A courtesy: a terminal that went away does not end the run.

use std::io::{IsTerminal as _, Write as _};

use crate::shared::{Interval, Phase, Tally};
use crate::text::human_us;

/// The line; nothing if standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Live {
    is_shown: bool,
    before: Tally,
}

impl Live {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self {
            is_shown: !is_quiet && std::io::stderr().is_terminal(),
            before: Tally::default(),
        }
    }

    /// Shows the second that `latest` is of, and `total` of everything so far.
    pub(crate) fn show(&mut self, elapsed_s: u64, phase: Phase, latest: &Interval, total: &Tally) {
        if !self.is_shown {
            return;
        }
        let since = total.since(&self.before);
        self.before = *total;
        let delivery = &latest.recorder.due_to_delivery;
        let line = format!(
            "\r\x1b[K{elapsed_s}s {phase:?}: {} connected, {}/s sent, {}/s acked, {}/s delivered, p50 {} p99 {}, {} lost {} doubled {} reordered {} dropped",
            total.connected,
            since.sent,
            since.acked,
            since.delivered,
            human_us(delivery.quantile_us(0.5)),
            human_us(delivery.quantile_us(0.99)),
            total.lost,
            total.duplicated,
            total.reordered,
            total.dropped
        );
        drop(std::io::stderr().write_all(line.as_bytes()));
    }

    /// Makes room for the summary.
    pub(crate) fn clear(&self) {
        if self.is_shown {
            drop(std::io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}
