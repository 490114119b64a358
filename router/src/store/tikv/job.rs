//! What a lane has in hand: a batch and the requests beside it, over all attempts and parts.
//!
//! A batch is written in parts when it is larger than a transaction should be. Each part writes an outbox row for everything
//! that is written so far and deletes that of the part before, so that the whole batch has one in the end. The rows of
//! attempts whose outcome was unknown go the same way.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_router_core::append::{Append, Appended, Batch};

use super::super::rows::OutboxEntries;
use super::super::{DeliveredMark, ReadMark, StoreError};
use super::client::Change;
use super::draft::{Author, Draft};
use super::keys::{ConvKey, Keys};
use super::known::Wanted;
use super::rows::{Outbox, Value, add_entry};

/// A read mark to move.
#[derive(Debug, Clone)]
pub(super) struct ReadRequest {
    pub(super) app: AppId,
    pub(super) user: UserId,
    pub(super) conv: ConvId,
    pub(super) seq: u64,
}

/// What is to be written, and how far it is.
#[derive(Debug, Default)]
pub(super) struct Job {
    appends: Vec<Append>,
    requests: Vec<ReadRequest>,
    delivered: Vec<DeliveredMark>,
    /// Outbox rows to forget.
    pub(super) clears: Vec<u64>,
    /// Those that are forgotten.
    pub(super) cleared: Vec<u64>,
    /// Per message, once it is sure.
    pub(super) answers: Vec<Option<Appended>>,
    /// Per read mark, once it is sure.
    pub(super) marks: Vec<Option<Result<ReadMark, StoreError>>>,
    /// Per message, what attempts of unknown outcome would have answered.
    earlier: Vec<Vec<Appended>>,
    /// Conversations to mend if another wrote them last.
    pub(super) mends: BTreeSet<ConvKey>,
    /// Conversations that may be in pieces, whoever wrote them.
    pub(super) suspects: BTreeSet<ConvKey>,
    /// Conversations that were not touched because another's lock holds them.
    pub(super) held: HashSet<ConvKey>,
    /// Places of the parts that are written.
    entries: OutboxEntries,
    /// Outbox rows that the next one stands in for.
    superseded: BTreeSet<u64>,
    /// Transactions of unknown outcome whose outbox rows are gone.
    pub(super) settled: BTreeSet<u64>,
    /// The outbox row of all that is written.
    pub(super) outbox: u64,
    /// Messages stored.
    pub(super) stored: u64,
}

/// What one transaction decides.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Messages by their place in the batch.
    answers: Vec<(usize, Appended)>,
    marks: Vec<(usize, Result<ReadMark, StoreError>)>,
    /// Whether the requests beside the batch are in it.
    is_last: bool,
    /// Places of all parts with this one.
    entries: OutboxEntries,
    /// Whether it writes the outbox row of them.
    has_row: bool,
    /// Messages that it stores.
    stored: u64,
    /// Conversations of its messages.
    pub(super) convs: BTreeSet<ConvKey>,
}

impl Job {
    pub(super) fn new(
        batch: Option<Batch>,
        requests: Vec<ReadRequest>,
        delivered: Vec<DeliveredMark>,
        clears: Vec<u64>,
    ) -> Self {
        let appends = batch.map_or_else(Vec::new, |batch| batch.appends);
        Self {
            answers: vec![None; appends.len()],
            marks: vec![None; requests.len()],
            earlier: vec![Vec::new(); appends.len()],
            appends,
            requests,
            delivered,
            clears,
            ..Self::default()
        }
    }

    /// Whether there is nothing to write at all.
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
            && self.requests.is_empty()
            && self.delivered.is_empty()
            && self.clears.is_empty()
            && self.mends.is_empty()
    }

    /// Takes those of its conversations for suspects that are doubted.
    pub(super) fn suspect(&mut self, is_doubted: impl Fn(&ConvKey) -> bool) {
        let convs = self
            .appends
            .iter()
            .map(|append| (append.app, append.conv.clone()));
        self.suspects.extend(convs.filter(is_doubted));
    }

    /// Takes what earlier commits would have answered.
    pub(super) fn earlier(&mut self, mut known: impl FnMut(&Append) -> Vec<Appended>) {
        for (append, earlier) in self.appends.iter().zip(&mut self.earlier) {
            *earlier = known(append);
        }
    }

    /// Hands on what is still not known.
    pub(super) fn orphans(&mut self, mut keep: impl FnMut(&Append, Vec<Appended>)) {
        for ((append, earlier), answer) in self.appends.iter().zip(&mut self.earlier).zip(&self.answers) {
            // What an earlier part stored is not answered either.
            earlier.extend(answer.clone().filter(is_new));
            if !earlier.is_empty() {
                keep(append, std::mem::take(earlier));
            }
        }
    }

    /// What must be read to decide the rest.
    pub(super) fn wanted(&self, keys: &Keys) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.convs.extend(self.mends.iter().cloned());
        for (append, answer) in self.appends.iter().zip(&self.answers) {
            if answer.is_none() {
                wanted.append(append);
            }
        }
        for (request, mark) in self.requests.iter().zip(&self.marks) {
            if mark.is_none() {
                let conv = (request.app, request.conv.clone());
                wanted.convs.insert(conv.clone());
                wanted.members.insert((conv.clone(), request.user.clone()));
                wanted.messages.insert((conv, request.seq));
            }
        }
        for mark in &self.delivered {
            let conv = (mark.app, mark.conv.clone());
            wanted.convs.insert(conv.clone());
            if mark.conv.is_group() {
                wanted.members.insert((conv.clone(), mark.user.clone()));
            }
            wanted
                .delivered
                .insert(keys.delivered(&conv, &mark.user, mark.terminal as u8, &mark.device));
        }
        wanted
    }

    /// Decides as much as one transaction should hold.
    pub(super) fn decide(&self, draft: &mut Draft<'_>, lane: Lane, keys: &Keys, bytes_max: usize) -> Part {
        let mut part = Part::default();
        for (at, append) in self.appends.iter().enumerate() {
            if self.answers.get(at).is_some_and(Option::is_some) {
                continue;
            }
            if draft.bytes >= bytes_max {
                part.stored = draft.stored;
                return part;
            }
            let earlier = self.earlier.get(at).map_or(&[][..], Vec::as_slice);
            part.answers.push((at, draft.append(append, earlier)));
            part.convs.insert((append.app, append.conv.clone()));
        }
        for (at, request) in self.requests.iter().enumerate() {
            if self.marks.get(at).is_some_and(Option::is_none) {
                let conv = (request.app, request.conv.clone());
                let mark = draft.read(&conv, &request.user, request.seq);
                part.marks.push((at, mark));
            }
        }
        self.delivered.iter().for_each(|mark| draft.delivered(mark));
        for row in &self.clears {
            draft.forget(keys.outbox(lane, *row));
        }
        part.stored = draft.stored;
        part.is_last = true;
        part
    }

    /// Adds the outbox row of everything that is written with this part, if it has anything new, and deletes those that
    /// it stands in for.
    pub(super) fn outbox_row(
        &self,
        part: &mut Part,
        entries: OutboxEntries,
        changes: &mut BTreeMap<Vec<u8>, Change>,
        keys: &Keys,
        (lane, author): (Lane, Author),
    ) {
        part.entries.clone_from(&self.entries);
        if entries.is_empty() {
            return;
        }
        for (app, conv, first, last) in entries {
            let conv = (app, conv);
            add_entry(&mut part.entries, &conv, first);
            add_entry(&mut part.entries, &conv, last);
        }
        for row in &self.superseded {
            changes.insert(keys.outbox(lane, *row), Change::Delete);
        }
        part.has_row = true;
        let key = keys.outbox(lane, author.start);
        let row = Outbox {
            writer: author.boot,
            entries: part.entries.clone(),
        };
        let value = row.encode(&key);
        changes.insert(key, Change::Put(value));
    }

    /// The part is written and was seen, by the transaction that began at `start`. True: it was the last one.
    pub(super) fn accept(&mut self, part: Part, start: u64) -> bool {
        for (at, answer) in part.answers {
            if let Some(slot) = self.answers.get_mut(at) {
                *slot = Some(answer);
            }
        }
        for (at, mark) in part.marks {
            if let Some(slot) = self.marks.get_mut(at) {
                *slot = Some(mark);
            }
        }
        if part.has_row {
            self.entries = part.entries;
            self.settled.append(&mut std::mem::replace(
                &mut self.superseded,
                BTreeSet::from([start]),
            ));
            self.outbox = start;
        }
        self.stored += part.stored;
        if part.is_last {
            self.delivered.clear();
            self.cleared.append(&mut self.clears);
        }
        part.is_last
    }

    /// Nobody knows what became of the part, which the transaction that began at `start` wrote.
    pub(super) fn disown(&mut self, part: Part, start: u64) {
        for (at, answer) in part.answers {
            if is_new(&answer)
                && let Some(earlier) = self.earlier.get_mut(at)
            {
                earlier.push(answer);
            }
        }
        self.superseded.insert(start);
        self.suspects.extend(part.convs);
    }

    /// Answers what has to do with conversations that are held by others. Returns how many messages.
    pub(super) fn set_aside(&mut self, held: &HashSet<ConvKey>, refusal: &Appended) -> u64 {
        let mut count = 0;
        for ((append, answer), earlier) in self.appends.iter().zip(&mut self.answers).zip(&self.earlier) {
            // What may be stored already is not refused: its outcome is found out.
            if answer.is_none() && earlier.is_empty() && held.contains(&(append.app, append.conv.clone())) {
                *answer = Some(refusal.clone());
                count += 1;
            }
        }
        for (request, mark) in self.requests.iter().zip(&mut self.marks) {
            if mark.is_none() && held.contains(&(request.app, request.conv.clone())) {
                let text = "another router's commit holds the conversation".to_owned();
                *mark = Some(Err(StoreError::Full(text)));
            }
        }
        self.delivered
            .retain(|mark| !held.contains(&(mark.app, mark.conv.clone())));
        self.mends.retain(|conv| !held.contains(conv));
        let unanswered = self.appends.iter().zip(&self.answers);
        let unanswered: HashSet<ConvKey> = unanswered
            .filter(|(_, answer)| answer.is_none())
            .map(|(append, _)| (append.app, append.conv.clone()))
            .collect();
        self.suspects
            .retain(|conv| !held.contains(conv) || unanswered.contains(conv));
        self.held.extend(held.iter().cloned());
        count
    }

    /// These conversations are whole now.
    pub(super) fn mended(&mut self, convs: &[ConvKey]) {
        for conv in convs {
            self.mends.remove(conv);
            self.suspects.remove(conv);
        }
    }
}

fn is_new(answer: &Appended) -> bool {
    matches!(answer, Appended::Stored { repeated: false, .. })
}
