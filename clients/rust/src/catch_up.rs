//! How a session learns what it missed: sync, pulls for gaps, `PullRequired`.
//!
//! At most [`FILLS_MAX`] pulls run at a time; conversations that find no place are taken up when one is free. Messages
//! of conversations that are not known wait for a sync, at most [`STRANGERS_MAX`] of them; the rest comes by pull.

use std::ops::RangeInclusive;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{FrameError, FrameKind, body};
use corelane_protocol::id::ConvId;
use corelane_protocol::limits::PAGE_ITEMS_MAX;
use tokio::time::Instant;

use crate::error::ClientError;
use crate::event::{Event, Source};
use crate::message::{Received, conv};
use crate::options::random_up_to;
use crate::session::{Session, SyncRun, Timer, Waiting, answer};
use crate::timeline::Timeline;

const FILLS_MAX: usize = 4;
const STRANGERS_MAX: usize = 1024;
/// An ack may overtake messages of others on their way here: a gap is pulled when it is older than this.
const GAP_GRACE: Duration = Duration::from_millis(200);
/// Bound of the random pause before something refused is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl Session {
    /// A message came, from wherever.
    pub(crate) fn arrived(&mut self, now: Instant, message: Received, source: Source) {
        let id = message.conv.clone();
        if !self.timelines.contains_key(&id) {
            if message.seq() != 1 {
                return self.stranger(now, message);
            }
            self.begin(now, id.clone(), 0);
        }
        let Some(timeline) = self.timelines.get_mut(&id) else {
            return;
        };
        let mut shown = Vec::new();
        timeline.offer(message, source, &mut shown);
        if timeline.gap().is_some() && !timeline.gap_timer {
            timeline.gap_timer = true;
            self.at(now + GAP_GRACE, Timer::Gap(id));
        }
        self.show(shown);
    }

    /// Asks what changed; once more if asked while asking.
    pub(crate) fn start_sync(&mut self, now: Instant) {
        if !self.online {
            return;
        }
        if let Some(run) = &mut self.sync {
            run.again = true;
            return;
        }
        self.sync = Some(SyncRun::default());
        self.sync_askers = std::mem::take(&mut self.next_sync_askers);
        // Who asks by name wants all of it.
        let cursor = if self.sync_askers.is_empty() {
            self.cursor.clone()
        } else {
            Vec::new()
        };
        self.ask(
            now,
            FrameKind::Sync,
            &body::Sync {
                cursor,
                limit: PAGE_ITEMS_MAX,
            },
            Waiting::Sync,
        );
    }

    pub(crate) fn sync_page(&mut self, now: Instant, page: body::SyncPage) -> Result<(), FrameError> {
        for state in page.conversations {
            let id = conv(&state.conv)?;
            if self.options.auto_sync {
                self.take_state(now, &id, &state);
            }
            self.events.push_back(Event::Conversation(id, state.clone()));
            if !self.sync_askers.is_empty()
                && let Some(run) = &mut self.sync
            {
                run.states.push(state);
            }
        }
        if page.more {
            let sync = body::Sync {
                cursor: page.cursor,
                limit: PAGE_ITEMS_MAX,
            };
            self.ask(now, FrameKind::Sync, &sync, Waiting::Sync);
            return Ok(());
        }
        let SyncRun {
            states,
            again,
            dropped,
        } = self.sync.take().unwrap_or_default();
        if !dropped {
            self.cursor = page.cursor;
        }
        for asker in self.sync_askers.drain(..) {
            answer(asker, Ok(states.clone()));
        }
        // What the sync did not tell of begins where it was seen first.
        for (id, waiting) in std::mem::take(&mut self.strangers) {
            self.stranger_count -= waiting.len();
            let first = waiting.iter().map(Received::seq).min().unwrap_or(1);
            self.begin(now, id, first - 1);
            for message in waiting {
                self.arrived(now, message, Source::Live);
            }
        }
        // What an earlier connection left missing need not have changed since.
        self.fill_waiting(now);
        self.events.push_back(Event::Synced);
        self.sync_once_more(now, again);
        Ok(())
    }

    pub(crate) fn sync_refused(&mut self, now: Instant, code: Option<ErrorCode>, text: String) {
        let mut again = self.sync.take().is_some_and(|run| run.again);
        for asker in self.sync_askers.drain(..) {
            answer(
                asker,
                Err(ClientError::Refused {
                    code,
                    text: text.clone(),
                }),
            );
        }
        match code {
            Some(ErrorCode::Ahead) => {
                self.forget_log();
                again = true;
            }
            Some(code) if code.is_retryable() => self.at(now + random_up_to(ASK_AGAIN), Timer::Sync),
            _ => self.events.push_back(Event::Error {
                code: code.map_or(0, |code| code as u16),
                text,
            }),
        }
        self.sync_once_more(now, again);
    }

    /// Pulls what is missing of a conversation.
    pub(crate) fn fill(&mut self, now: Instant, id: &ConvId) {
        if !self.online || self.fills >= FILLS_MAX {
            return;
        }
        let Some(timeline) = self.timelines.get_mut(id).filter(|timeline| !timeline.filling) else {
            return;
        };
        let Some(gap) = timeline.wanted() else { return };
        timeline.filling = true;
        self.fills += 1;
        let pull = body::Pull {
            conv: id.as_bytes().to_vec(),
            from_seq: *gap.start(),
            to_seq: *gap.end(),
            limit: timeline.pull_limit(),
        };
        self.ask(now, FrameKind::Pull, &pull, Waiting::Fill(id.clone(), gap));
    }

    pub(crate) fn filled(
        &mut self,
        now: Instant,
        id: &ConvId,
        gap: RangeInclusive<u64>,
        page: &body::PullPage,
        messages: Vec<Received>,
    ) {
        self.fill_done(id);
        let (from, to) = gap.into_inner();
        if let Some(timeline) = self.timelines.get_mut(id) {
            let mut shown = Vec::new();
            timeline.served();
            timeline.head(page.head_seq);
            for message in messages {
                timeline.offer(message, Source::Pulled, &mut shown);
            }
            // The answer is the last word about its range: what is not in it (below the floor, before the user joined)
            // is not there.
            let goes_on = page.next_seq > from;
            let complete = if goes_on { page.next_seq - 1 } else { to };
            timeline.skip_to(complete.min(to), &mut shown);
            timeline.skip_to(page.floor_seq.min(to), &mut shown);
            self.show(shown);
        }
        self.fill_waiting(now);
    }

    pub(crate) fn fill_refused(
        &mut self,
        now: Instant,
        id: &ConvId,
        gap: RangeInclusive<u64>,
        code: Option<ErrorCode>,
        text: String,
    ) {
        self.fill_done(id);
        let mut shown = Vec::new();
        let mut passed_over = false;
        match code {
            Some(code) if code.is_retryable() => {
                if let Some(timeline) = self.timelines.get_mut(id) {
                    timeline.gap_timer = true;
                    self.at(now + random_up_to(ASK_AGAIN), Timer::Gap(id.clone()));
                }
            }
            Some(ErrorCode::Ahead) => self.went_back(now, id),
            Some(ErrorCode::Rejected) => {
                if let Some(timeline) = self.timelines.get_mut(id) {
                    passed_over = timeline.damaged(gap, &mut shown);
                }
            }
            _ => {
                if let Some(timeline) = self.timelines.get_mut(id) {
                    timeline.skip_to(timeline.head_seq(), &mut shown);
                }
                passed_over = true;
            }
        }
        if passed_over {
            self.events.push_back(Event::Error {
                code: code.map_or(0, |code| code as u16),
                text,
            });
        }
        self.show(shown);
        self.fill_waiting(now);
    }

    /// The sync says that the log ends before what was shown: a backup was restored, or a message overtook the page, or
    /// the user left the group and is told its state before that. Only the server knows, and says `Ahead` in the first
    /// case.
    fn doubt(&mut self, now: Instant, id: &ConvId, shown_seq: u64) {
        let next = shown_seq + 1;
        let pull = body::Pull {
            conv: id.as_bytes().to_vec(),
            from_seq: next,
            to_seq: next,
            limit: 1,
        };
        self.ask(now, FrameKind::Pull, &pull, Waiting::Doubt(id.clone(), next));
    }

    /// Any other refusal leaves it to the next sync.
    pub(crate) fn doubt_refused(&mut self, now: Instant, id: &ConvId, seq: u64, code: Option<ErrorCode>) {
        let timeline = self.timelines.get(id);
        let same = timeline.is_some_and(|timeline| timeline.shown_seq() + 1 >= seq);
        if same && code == Some(ErrorCode::Ahead) {
            self.went_back(now, id);
        }
    }

    /// The log of a conversation is another one than was shown. Others may have gone back with it that changed before
    /// the cursor: everything is asked for again.
    fn went_back(&mut self, now: Instant, id: &ConvId) {
        self.timelines.remove(id);
        self.drop_cursor();
        self.events.push_back(Event::Reset(Some(id.clone())));
        self.start_sync(now);
    }

    fn drop_cursor(&mut self) {
        self.cursor.clear();
        if let Some(run) = &mut self.sync {
            run.dropped = true;
        }
    }

    pub(crate) fn pull_required(
        &mut self,
        now: Instant,
        places: body::PullRequired,
    ) -> Result<(), FrameError> {
        let mut asked = false;
        let mut unknown = false;
        for place in &places.upto {
            let id = conv(&place.conv)?;
            let fills = self.fills;
            match self.timelines.get_mut(&id) {
                Some(timeline) => timeline.head(place.seq),
                None => unknown = true,
            }
            self.fill(now, &id);
            asked |= self.fills > fills;
        }
        self.events.push_back(Event::PullRequired(places));
        // The gateway sends live again after the next Sync or Pull: one of them must go out from here on in any case.
        if !asked || unknown {
            self.start_sync(now);
        }
        Ok(())
    }

    /// The connection is gone, and with it all pulls.
    pub(crate) fn forget_fills(&mut self) {
        self.fills = 0;
        for timeline in self.timelines.values_mut() {
            timeline.filling = false;
            timeline.gap_timer = false;
        }
    }

    /// The log is another one.
    pub(crate) fn forget_log(&mut self) {
        self.drop_cursor();
        self.timelines.clear();
        self.strangers.clear();
        self.stranger_count = 0;
        self.events.push_back(Event::Reset(None));
    }

    fn take_state(&mut self, now: Instant, id: &ConvId, state: &body::ConvState) {
        let most = self.options.catch_up_messages;
        if !self.timelines.contains_key(id) {
            let start = state
                .read_seq
                .max(state.floor_seq)
                .max(state.head_seq.saturating_sub(most));
            self.begin(now, id.clone(), start.min(state.head_seq));
        }
        let Some(timeline) = self.timelines.get_mut(id) else {
            return;
        };
        let shown_seq = timeline.shown_seq();
        timeline.head(state.head_seq);
        if timeline.behind() > most {
            let start = timeline.head_seq() - most;
            timeline.restart(start);
            self.events.push_back(Event::Reset(Some(id.clone())));
        }
        if state.head_seq < shown_seq {
            self.doubt(now, id, shown_seq);
        }
        self.fill(now, id);
    }

    /// A message in the middle of a conversation that is not known here: the sync tells where to begin.
    fn stranger(&mut self, now: Instant, message: Received) {
        if !self.options.auto_sync {
            let before = message.seq().saturating_sub(1);
            self.begin(now, message.conv.clone(), before);
            return self.arrived(now, message, Source::Live);
        }
        if self.stranger_count < STRANGERS_MAX {
            self.stranger_count += 1;
            self.strangers
                .entry(message.conv.clone())
                .or_default()
                .push(message);
        }
        self.start_sync(now);
    }

    fn begin(&mut self, now: Instant, id: ConvId, shown_seq: u64) {
        self.timelines.insert(id.clone(), Timeline::new(shown_seq));
        let waiting = self.strangers.remove(&id).unwrap_or_default();
        self.stranger_count -= waiting.len();
        for message in waiting {
            self.arrived(now, message, Source::Live);
        }
    }

    fn fill_done(&mut self, id: &ConvId) {
        self.fills = self.fills.saturating_sub(1);
        if let Some(timeline) = self.timelines.get_mut(id) {
            timeline.filling = false;
        }
    }

    fn fill_waiting(&mut self, now: Instant) {
        let waiting = self
            .timelines
            .iter()
            .filter(|(_, each)| !each.filling && !each.gap_timer);
        let waiting = waiting
            .filter(|(_, each)| each.gap().is_some())
            .map(|(id, _)| id.clone());
        let next: Vec<ConvId> = waiting.take(FILLS_MAX.saturating_sub(self.fills)).collect();
        for id in next {
            self.fill(now, &id);
        }
    }

    fn sync_once_more(&mut self, now: Instant, again: bool) {
        if again || !self.next_sync_askers.is_empty() {
            self.start_sync(now);
        }
    }

    fn show(&mut self, shown: Vec<(Received, Source)>) {
        self.events.extend(
            shown
                .into_iter()
                .map(|(message, source)| Event::Message(message, source)),
        );
    }
}
