//! What this terminal knows of one conversation, and in which order it hands the messages out.
//!
//! Every message once and in the order of `seq`: `shown_seq` only grows, what is at or below it is a repeat, what is
//! further ahead than the next place is held until a pull filled the gap. When [`HELD_MAX`] messages are held, later
//! ones are let go: the head remembers that they exist, and the pull brings them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use corelane_protocol::limits::PAGE_ITEMS_MAX;

use crate::event::Source;
use crate::message::Received;

/// Most messages held behind a gap.
pub(crate) const HELD_MAX: usize = 512;

/// One conversation.
#[derive(Debug)]
pub(crate) struct Timeline {
    shown_seq: u64,
    head_seq: u64,
    held: BTreeMap<u64, (Received, Source)>,
    /// A pull for its gap is under way.
    pub(crate) filling: bool,
    /// Its gap will be looked at.
    pub(crate) gap_timer: bool,
    /// Places to ask for at a time; halved by each refusal of a damaged row, doubled by each page.
    pull_limit: u16,
}

impl Timeline {
    /// Nothing at or below `shown_seq` is handed out.
    pub(crate) fn new(shown_seq: u64) -> Self {
        Self {
            shown_seq,
            head_seq: shown_seq,
            held: BTreeMap::new(),
            filling: false,
            gap_timer: false,
            pull_limit: PAGE_ITEMS_MAX,
        }
    }

    /// Last place that exists, as far as is known.
    pub(crate) fn head_seq(&self) -> u64 {
        self.head_seq
    }

    /// Last place that was handed out or passed over.
    pub(crate) fn shown_seq(&self) -> u64 {
        self.shown_seq
    }

    /// How much is known to exist and was not handed out.
    pub(crate) fn behind(&self) -> u64 {
        self.head_seq - self.shown_seq
    }

    /// The first range that is missing.
    pub(crate) fn gap(&self) -> Option<RangeInclusive<u64>> {
        if self.shown_seq >= self.head_seq {
            return None;
        }
        let to = self
            .held
            .first_key_value()
            .map_or(self.head_seq, |(seq, _)| seq - 1);
        Some(self.shown_seq + 1..=to)
    }

    /// What to ask for next: the first range that is missing, as far as one page may reach.
    pub(crate) fn wanted(&self) -> Option<RangeInclusive<u64>> {
        let (from, to) = self.gap()?.into_inner();
        Some(from..=to.min(from + u64::from(self.pull_limit) - 1))
    }

    /// Most places of one page.
    pub(crate) fn pull_limit(&self) -> u16 {
        self.pull_limit
    }

    /// A page came.
    pub(crate) fn served(&mut self) {
        self.pull_limit = (2 * self.pull_limit).min(PAGE_ITEMS_MAX);
    }

    /// The server refused `range` because a row in it is damaged. Fewer places are asked for until that row stands alone:
    /// it is passed over, and nothing else is. Says whether it was.
    pub(crate) fn damaged(
        &mut self,
        range: RangeInclusive<u64>,
        shown: &mut Vec<(Received, Source)>,
    ) -> bool {
        let (from, to) = range.into_inner();
        let asked = u16::try_from(to - from + 1).unwrap_or(PAGE_ITEMS_MAX);
        self.pull_limit = (asked / 2).max(1);
        if asked == 1 {
            self.skip_to(to, shown);
        }
        asked == 1
    }

    /// The head is at least here.
    pub(crate) fn head(&mut self, seq: u64) {
        self.head_seq = self.head_seq.max(seq);
    }

    /// Takes a message; appends to `shown` what can be handed out now.
    pub(crate) fn offer(&mut self, message: Received, source: Source, shown: &mut Vec<(Received, Source)>) {
        let seq = message.seq();
        self.head(seq);
        if seq <= self.shown_seq {
            return;
        }
        if seq > self.shown_seq + 1 {
            if self.held.len() < HELD_MAX {
                self.held.entry(seq).or_insert((message, source));
            }
            return;
        }
        self.shown_seq = seq;
        shown.push((message, source));
        self.release(shown);
    }

    /// The log has nothing more up to and with `seq` than what was offered; goes on behind it.
    pub(crate) fn skip_to(&mut self, seq: u64, shown: &mut Vec<(Received, Source)>) {
        if seq <= self.shown_seq {
            return;
        }
        let behind = self.held.split_off(&(seq + 1));
        shown.extend(std::mem::replace(&mut self.held, behind).into_values());
        self.shown_seq = seq;
        self.head(seq);
        self.release(shown);
    }

    /// Forgets what is held and goes on behind `seq`.
    pub(crate) fn restart(&mut self, seq: u64) {
        self.held.clear();
        self.shown_seq = seq;
        self.head(seq);
    }

    fn release(&mut self, shown: &mut Vec<(Received, Source)>) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.shown_seq + 1 {
                return;
            }
            self.shown_seq = self.shown_seq.max(*entry.key());
            shown.push(entry.remove());
        }
    }
}
