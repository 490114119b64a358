//! drain: the gateway leaves without everybody coming back at once.
//!
//! `GoAway` goes to all sessions, spread evenly over the `drain` time, each with the same short window to come back in, so
//! that they come back as evenly as they were told. The last window ends with the drain; then what is left is closed with
//! 4000, a bounded number per turn. `Drained` comes when the last connection is gone.

use std::time::Duration;

use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_protocol::ws::CloseCode;

use crate::event::Output;
use crate::outbound::Lane;
use crate::shard::Shard;
use crate::table::Stage;

/// Time between two steps.
const PACE: Duration = Duration::from_millis(20);
/// Longest that a client waits, once told, before it comes back somewhere else: it smooths what one step tells at once.
const WINDOW_MAX: Duration = Duration::from_secs(1);
/// Slots whose connections are closed per step.
const CLOSE_SLOTS: u32 = 8192;
/// Longest wait for the last bytes to the home.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// How far the draining is.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    started: Option<Duration>,
    step_at: Duration,
    /// Slots below this were told to go.
    told: u32,
    /// The time for telling is up and nobody was left out.
    has_told_all: bool,
    /// Slots below this were closed.
    closed: u32,
    left_at: Option<Duration>,
    is_over: bool,
}

impl Drain {
    pub(crate) const fn is_draining(&self) -> bool {
        self.started.is_some()
    }

    /// Whether the time of a drain that takes `whole` is up: what is left of this gateway's sessions is being closed.
    pub(crate) fn has_ended_sessions(&self, now: Duration, whole: Duration) -> bool {
        self.left_at.is_some() || self.started.is_some_and(|started| now >= started + whole)
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.started.filter(|_| !self.is_over).map(|_| self.step_at)
    }
}

impl Shard {
    pub(crate) fn begin_drain(&mut self) {
        if self.drain.started.is_none() {
            self.drain.started = Some(self.now.mono);
            self.drain.step_at = self.now.mono;
        }
    }

    /// Goes on, if it is draining.
    pub(crate) fn tend_drain(&mut self) {
        let now = self.now.mono;
        let Some(started) = self
            .drain
            .started
            .filter(|_| !self.drain.is_over && self.drain.step_at <= now)
        else {
            return;
        };
        self.drain.step_at = now + PACE;
        let (elapsed, whole) = (now.saturating_sub(started), self.config.drain);
        // Slots that are first used from here on are told when they are accepted.
        let slots = self.conns.slots();
        if elapsed < whole {
            let window = WINDOW_MAX.min(whole / 4);
            let telling = whole.saturating_sub(window).as_millis().max(1);
            let share = (u128::from(slots) * (elapsed + PACE).as_millis()).div_ceil(telling);
            return self.tell_to_go(
                u32::try_from(share).unwrap_or(slots),
                window.min(whole.saturating_sub(elapsed)),
            );
        }
        if !self.drain.has_told_all {
            // Steps come late on a busy machine: whoever none of them reached is told now and closed by the next one.
            self.drain.has_told_all = true;
            return self.tell_to_go(slots, Duration::ZERO);
        }
        let until = self.drain.closed.saturating_add(CLOSE_SLOTS).min(slots);
        for slot in self.drain.closed..until {
            if let Some(id) = self.conns.id_at(slot) {
                self.close(id, CloseCode::Draining as u16, "");
            }
        }
        self.drain.closed = if until == slots { 0 } else { until };
    }

    fn tell_to_go(&mut self, until: u32, window: Duration) {
        let until = until.min(self.conns.slots());
        let go_away = body::GoAway {
            after_ms: 0,
            window_ms: window.as_millis() as u32,
        };
        let frame = frame::encode(FrameKind::GoAway, 0, &go_away);
        for slot in self.drain.told..until {
            let Some(id) = self.conns.id_at(slot) else {
                continue;
            };
            match self.conns.get(id).map(|conn| conn.stage) {
                Some(Stage::Live) => {
                    self.metrics.drain_go_aways += 1;
                    self.reply(id, Lane::Control, &frame);
                }
                Some(Stage::Closing | Stage::Closed) | None => {}
                Some(_) => self.close(id, CloseCode::Draining as u16, ""),
            }
        }
        self.drain.told = self.drain.told.max(until);
    }

    /// Says good-bye to the home and to the shell once nobody is left.
    pub(crate) fn finish_drain(&mut self) {
        let now = self.now.mono;
        let Some(started) = self.drain.started.filter(|_| !self.drain.is_over) else {
            return;
        };
        // `Leave` speaks for the whole gateway: other shards may have sessions until the time is over.
        let is_alone = self.config.shards <= 1 || now >= started + self.config.drain;
        if self.conns.len() > 0 || !is_alone {
            return;
        }
        match self.drain.left_at {
            None => {
                self.drain.left_at = Some(now);
                self.links.push_home(&Record {
                    kind: RecordKind::Leave as u8,
                    ..Record::default()
                });
                self.flush_links();
            }
            Some(left_at) if self.links.is_home_quiet() || now >= left_at + LEAVE_MAX => {
                self.drain.is_over = true;
                self.outputs.push(Output::Drained);
            }
            Some(_) => {}
        }
    }
}
