//! Lanes that are behind: commits whose receivers nobody can look up now are kept as rows of the outbox, without their
//! messages, and read back from the store when their turn comes.
//!
//! Owns, per lane, the rows that were let go of, oldest first; all of them are newer than the lane's publications, and
//! whatever is committed while there are any becomes one of them, so the order of the lane stays. A lane lets go of
//! messages only while the ports fail: at [`PUBLICATIONS_MAX`] commits, or at [`COMMIT_BYTES_MAX`] of frames. A lane whose
//! ports are slow but answer stops committing instead, so that senders slow down with it. Rows are read back, at most
//! [`READ_BACK_ROWS`] and [`COMMIT_BYTES_MAX`] at a time, once less than half of the publications are left. A row is 16
//! bytes here; at [`ROWS_BEHIND_MAX`] rows the lane commits no more. What is read back goes to the sender's own connection
//! too, which is not known any more. A process that ends meanwhile has lost nothing: the rows are in the store.

use std::collections::VecDeque;

use corelane_protocol::id::Lane;
use corelane_protocol::limits::COMMIT_BYTES_MAX;

use crate::core::{LaneState, RouterCore};
use crate::event::{Output, Recovered};
use crate::planted::Bug;
use crate::publish::{Publication, Stored, stored_of};

/// Most commits of a lane that wait to be published with their messages.
pub(crate) const PUBLICATIONS_MAX: usize = 64;
/// Most commits of a lane that wait without them.
const ROWS_BEHIND_MAX: usize = 8_192;
/// Most rows that are read back at a time.
const READ_BACK_ROWS: usize = 8;

const _: () = assert!(
    READ_BACK_ROWS <= PUBLICATIONS_MAX / 2,
    "what is read back has room among the publications"
);

/// What a lane has let go of.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    rows: VecDeque<Row>,
    asked: Option<Asked>,
    /// A port failed what was asked last for the lane's publications.
    is_failing: bool,
}

#[derive(Debug)]
struct Row {
    outbox: u64,
    /// Of its frames.
    bytes: usize,
}

/// The oldest rows are being read back.
#[derive(Debug)]
struct Asked {
    ticket: u64,
    rows: usize,
}

impl Behind {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) const fn set_failing(&mut self, is_failing: bool) {
        self.is_failing = is_failing;
    }

    /// Forgets that rows are being read back under this ticket; how many they were.
    fn answered(&mut self, ticket: u64) -> Option<usize> {
        let asked = self.asked.take_if(|asked| asked.ticket == ticket)?;
        Some(asked.rows)
    }

    /// Lets go of a commit's messages. False: its row is here already.
    fn push(&mut self, publication: &Publication) -> bool {
        let (outbox, bytes) = (publication.outbox, publication.bytes);
        if let Some(last) = self.rows.back_mut().filter(|last| last.outbox == outbox) {
            last.bytes += bytes;
            return false;
        }
        self.rows.push_back(Row { outbox, bytes });
        true
    }

    /// The oldest rows, as many as are read back at a time.
    fn oldest(&self) -> Vec<u64> {
        let mut bytes = 0;
        let fit = self.rows.iter().take(READ_BACK_ROWS).take_while(|row| {
            let is_first = bytes == 0;
            bytes += row.bytes.max(1);
            is_first || bytes <= COMMIT_BYTES_MAX
        });
        fit.map(|row| row.outbox).collect()
    }
}

impl LaneState {
    /// Whether there is room for what one more commit leaves to be published, where `kept` are kept with their messages.
    pub(crate) fn may_take_commit(&self, kept: usize) -> bool {
        if self.behind.len() > 0 || self.behind.is_failing {
            self.behind.len() < ROWS_BEHIND_MAX
        } else {
            self.publications.len() < kept
        }
    }

    /// Whether a commit's messages are let go of. Of a row that comes in parts either all of it is or nothing.
    fn lets_go_of(&self, publication: &Publication, kept: usize) -> bool {
        if self.behind.len() > 0 && !Bug::BehindOvertaken.is_planted() {
            return true;
        }
        let last = self.publications.back();
        let begins = last.is_some_and(|last| last.outbox != publication.outbox);
        let is_full = || {
            self.publications.len() >= kept
                || (self.behind.is_failing && self.frames_bytes() >= COMMIT_BYTES_MAX)
        };
        begins && is_full()
    }

    /// Whether something will have the lane look at its oldest row.
    pub(crate) fn comes_to_what_is_behind(&self) -> bool {
        self.behind.len() == 0 || self.behind.asked.is_some() || !self.publications.is_empty()
    }

    fn frames_bytes(&self) -> usize {
        self.publications.iter().map(|each| each.bytes).sum()
    }
}

impl RouterCore {
    /// Has lanes keep fewer commits with their messages than they would, at least 2, so that short runs of tests see lanes
    /// that are behind.
    pub fn keep_publications(&mut self, count: usize) {
        self.publications_max = count.clamp(2, PUBLICATIONS_MAX);
    }

    /// Commits that wait to be published and whose messages must be read back for it.
    pub fn rows_behind(&self) -> usize {
        self.lanes.values().map(|lane| lane.behind.len()).sum()
    }

    /// Lets go of a commit's messages if its lane is behind, or gives it back.
    pub(crate) fn let_go(&mut self, lane: Lane, publication: Publication) -> Option<Publication> {
        let kept = self.publications_max;
        let state = self.lanes.entry(lane).or_default();
        if !state.lets_go_of(&publication, kept) {
            return Some(publication);
        }
        debug_assert_ne!(publication.outbox, 0, "what is stored anew has a row");
        if state.behind.push(&publication) {
            self.outbox.hold(publication.outbox);
        }
        None
    }

    /// Asks for the oldest rows of a lane, once most of what came before is published.
    pub(crate) fn read_back(&mut self, lane: Lane, outputs: &mut Vec<Output>) {
        let Some(state) = self.lanes.get(&lane) else {
            return;
        };
        let half = self.publications_max / 2;
        let has_room = || state.publications.len() < half && state.frames_bytes() < COMMIT_BYTES_MAX;
        let rows = state.behind.oldest();
        if rows.is_empty() || state.behind.asked.is_some() || !has_room() {
            return;
        }
        let ticket = self.ticket(lane);
        if let Some(state) = self.lanes.get_mut(&lane) {
            let rows = rows.len();
            state.behind.asked = Some(Asked { ticket, rows });
        }
        outputs.push(Output::ReadRows(ticket, lane, rows));
    }

    /// Rows were read back: they are the lane's next publications.
    pub(crate) fn rows_read(&mut self, ticket: u64, read: Vec<Vec<Recovered>>, outputs: &mut Vec<Output>) {
        let Some(lane) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        let Some(count) = state.behind.answered(ticket) else {
            return;
        };
        debug_assert_eq!(read.len(), count, "every row that was asked for is answered");
        let mut gone = Vec::new();
        for messages in read.into_iter().take(count) {
            let Some(row) = state.behind.rows.pop_front() else {
                break;
            };
            let stored: Vec<Stored> = messages.into_iter().flat_map(stored_of).collect();
            if stored.is_empty() {
                gone.push(row.outbox);
            } else {
                self.metrics.read_back += stored.len() as u64;
                let publication = Publication::new(row.outbox, stored);
                state.publications.push_back(publication);
            }
        }
        for row in gone {
            self.row_published(row, outputs);
        }
        self.go_on_publishing(lane, outputs);
        self.read_back(lane, outputs);
        self.start_commit(lane, outputs);
    }

    /// The store failed to read rows back: the same is asked again. False: the ticket is of something else.
    pub(crate) fn read_back_again(&mut self, lane: Lane, ticket: u64, outputs: &mut Vec<Output>) -> bool {
        let state = self.lanes.get_mut(&lane);
        if state.and_then(|state| state.behind.answered(ticket)).is_none() {
            return false;
        }
        self.read_back(lane, outputs);
        true
    }
}
