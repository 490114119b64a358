//! Stage persist on TiKV: the one task that writes a lane.
//!
//! Owns which of its own commits it never saw whole, and what their messages would be answered ([`super::doubt`], both
//! with a bound); which conversations another's lock held in the last [`HELD`]; and outbox rows that it could not clear yet.
//! One transaction takes a batch together with the read marks, delivered marks and cleared rows that wait beside it
//! ([`super::queue`]), so that a lane never conflicts with itself.
//!
//! What comes while a transaction runs waits in the queue, which its callers bound: one batch of the core, whose own queue
//! then fills. A batch that is more than one transaction may hold ([`CHANGE_BYTES_MAX`]) is written in several, one at once
//! behind the other. A store that does not keep up, or is away, is waited for until the time of a commit is over.
//!
//! Neither an error nor an Ok of the client is believed ([`super::fault`]): after every commit that was not refused, what
//! it should have written is read back at a fresh timestamp and compared. If it is there, that is the answer. If not, the
//! next attempt reads everything again: a message that is there is found by its id and answered as it was planned, one that
//! is not is sequenced anew. When the time of a commit is over, its outcome is `Unknown`: heads that carry its start
//! timestamp are mended ([`super::repair`]) before anything is built on them, and what it may have stored is looked for
//! until that is known ([`super::settle`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::Lane;
use corelane_router_core::append::{Appended, Committed};

use super::super::StoreError;
use super::doubt::{Doubts, Orphans};
use super::draft::Draft;
use super::fault::{Fault, FaultClass};
use super::job::Job;
use super::keys::ConvKey;
use super::known::{Known, Wanted};
use super::queue::Turn;
use super::repair::Repair;
use super::seen::Unwritten;
use super::shared::Shared;

/// Bytes of one transaction, but for its last message.
const CHANGE_BYTES_MAX: usize = 512 * 1024;
/// Conversations that one transaction mends.
const MENDS_MAX: usize = 32;
/// Waits between attempts.
pub(super) const WAIT_FIRST: Duration = Duration::from_millis(2);
pub(super) const WAIT_MAX: Duration = Duration::from_millis(250);
/// A conversation that another's lock holds is not tried again before: each try costs the whole lane the time that the
/// client waits for a lock.
const HELD: Duration = Duration::from_millis(500);

/// Who writes a lane.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: Lane,
    pub(super) doubts: Doubts,
    pub(super) orphans: Orphans,
    /// Conversations that another's lock held lately, and until when they are left alone.
    held: HashMap<ConvKey, Duration>,
    /// Outbox rows that could not be forgotten.
    clears: Vec<u64>,
}

/// How an attempt ended.
enum Attempt {
    /// All is written and seen.
    Done,
    /// Some of it is; the rest goes on at once.
    Onward,
    /// Not this time.
    Failed(Fault),
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, lane: Lane, doubts: Doubts) -> Self {
        Self {
            shared,
            lane,
            doubts,
            orphans: Orphans::default(),
            held: HashMap::new(),
            clears: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.shared.clock.now().mono
    }

    /// Writes what a turn took, and answers it.
    pub(super) async fn transact(&mut self, turn: Turn) {
        if self.doubts.due().is_some_and(|due| due <= self.now()) {
            self.settle().await;
        }
        let (batch, done) = turn.batch.unzip();
        let (requests, answers): (Vec<_>, Vec<_>) = turn.reads.into_iter().unzip();
        let clears = [std::mem::take(&mut self.clears), turn.clears].concat();
        let mut job = Job::new(batch, requests, turn.delivered, clears);
        job.mends
            .extend(turn.mends.iter().flat_map(|(convs, _)| convs.iter().cloned()));
        job.suspect(|conv| self.doubts.names(conv));
        job.earlier(|append| self.orphans.take(append));
        self.leave_held_alone(&mut job);
        let failure = if job.is_empty() {
            None
        } else {
            self.finish(&mut job).await.err()
        };
        if failure.is_some() {
            job.orphans(|append, answers| self.orphans.keep(append, answers));
            self.clears = std::mem::take(&mut job.clears);
            self.doubts.unsettled(self.now());
        }
        self.shared.forget(&job.cleared);
        if let Some(done) = done {
            let committed = self.committed(&mut job, failure.as_ref());
            let _ = done.send(committed);
        }
        for (convs, done) in turn.mends {
            let _ = done.send(mended(&job, &convs, failure.as_ref()));
        }
        let unanswered = failure.unwrap_or_else(|| Fault::timeout("the commit"));
        let unanswered = StoreError::Failed(unanswered.to_string());
        for (at, done) in answers.into_iter().enumerate() {
            let answer = job.marks.get(at).cloned().flatten();
            let _ = done.send(answer.unwrap_or_else(|| Err(unanswered.clone())));
        }
    }

    fn committed(&self, job: &mut Job, failure: Option<&Fault>) -> Committed {
        let counts = &self.shared.counts;
        match failure {
            None => {
                counts.commits.fetch_add(1, Ordering::Relaxed);
                counts.messages.fetch_add(job.stored, Ordering::Relaxed);
                if job.outbox > 0 {
                    self.shared.remember(job.outbox, self.lane);
                }
                let answers = std::mem::take(&mut job.answers).into_iter().flatten();
                Committed::Done {
                    answers: answers.collect(),
                    outbox: job.outbox,
                }
            }
            Some(fault) => {
                counts.unknown.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(lane = self.lane.0, %fault, "the outcome of a commit is unknown");
                Committed::Unknown(fault.to_string())
            }
        }
    }

    /// Attempts until all is written, or the time is over.
    async fn finish(&mut self, job: &mut Job) -> Result<(), Fault> {
        let deadline = self.now() + self.shared.limits.commit;
        let mut wait = WAIT_FIRST;
        loop {
            self.shared.counts.attempts.fetch_add(1, Ordering::Relaxed);
            match self.attempt(job, deadline).await {
                Attempt::Done => return Ok(()),
                // Two routers that mend each other's heads get on, but not for ever.
                Attempt::Onward if self.now() >= deadline => {
                    return Err(Fault::timeout("a commit in parts"));
                }
                Attempt::Onward => wait = WAIT_FIRST,
                Attempt::Failed(fault) => {
                    if !fault.class.is_passing() || self.now() + wait >= deadline {
                        return Err(fault);
                    }
                    tokio::time::sleep(self.shared.jitter(wait)).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    async fn attempt(&mut self, job: &mut Job, deadline: Duration) -> Attempt {
        let shared = Arc::clone(&self.shared);
        let mut write = match shared.kv.begin().await {
            Ok(write) => write,
            Err(fault) => return Attempt::Failed(fault),
        };
        let start = write.start();
        self.doubts.begins(start);
        let author = shared.author(start);
        let wanted = job.wanted(&shared.keys);
        let known = match Known::load(&mut write, &shared.keys, &wanted, author.now_ms).await {
            Ok(known) => known,
            Err(fault) => {
                write.abandon().await;
                return self.failed(job, fault).await;
            }
        };
        let foreign = self.foreign(job, &wanted, &known);
        if !foreign.is_empty() {
            write.abandon().await;
            return match self.mend(&foreign, deadline).await {
                Ok(()) => {
                    job.mended(&foreign);
                    Attempt::Onward
                }
                Err(fault) => self.failed(job, fault).await,
            };
        }
        let mut draft = Draft::new(&shared.keys, known, author);
        let mut part = job.decide(&mut draft, self.lane, &shared.keys, CHANGE_BYTES_MAX);
        let (entries, mut changes) = draft.finish();
        job.outbox_row(
            &mut part,
            entries,
            &mut changes,
            &shared.keys,
            (self.lane, author),
        );
        let written = if changes.is_empty() {
            write.abandon().await;
            Ok(())
        } else {
            self.write(write, &changes, &part.convs, deadline).await
        };
        match written {
            Ok(()) => {
                let is_last = job.accept(part, start);
                job.settled.iter().for_each(|start| self.doubts.remove(*start));
                if is_last { Attempt::Done } else { Attempt::Onward }
            }
            Err(Unwritten::Refused(fault)) => {
                if fault.class == FaultClass::Exists {
                    // Rows of a commit in pieces lie above a head that does not know them.
                    job.suspects.extend(part.convs);
                }
                self.failed(job, fault).await
            }
            Err(Unwritten::Unknown(fault)) => {
                job.disown(part, start);
                Attempt::Failed(fault)
            }
        }
    }

    /// Conversations whose heads cannot be built on.
    fn foreign(&self, job: &Job, wanted: &Wanted, known: &Known) -> Vec<ConvKey> {
        let mut foreign = job.suspects.clone();
        foreign.extend(known.torn().cloned());
        for conv in &wanted.convs {
            let is_foreign = match known.heads.get(conv) {
                Some(Ok(head)) => !self.doubts.is_whole(self.shared.boot, head),
                // What cannot be read cannot be mended.
                Some(Err(_)) => false,
                // An outbox row names it: there may be messages without a head.
                None => job.mends.contains(conv),
            };
            if is_foreign {
                foreign.insert(conv.clone());
            }
        }
        foreign.into_iter().collect()
    }

    /// Makes conversations whole.
    ///
    /// # Errors
    ///
    /// Some of them may be; the others are as they were, or in doubt.
    pub(super) async fn mend(&mut self, convs: &[ConvKey], deadline: Duration) -> Result<(), Fault> {
        for some in convs.chunks(MENDS_MAX) {
            self.mend_some(some, deadline).await?;
        }
        Ok(())
    }

    async fn mend_some(&mut self, convs: &[ConvKey], deadline: Duration) -> Result<(), Fault> {
        let shared = Arc::clone(&self.shared);
        let mut write = shared.kv.begin().await?;
        let start = write.start();
        let mut repair = Repair::new(&shared.keys, self.lane, shared.author(start), &self.doubts);
        for conv in convs {
            if let Err(fault) = repair.examine(&mut write, conv).await {
                write.abandon().await;
                return Err(fault);
            }
        }
        let mended = repair.finish();
        if mended.changes.is_empty() {
            write.abandon().await;
            return Ok(());
        }
        let named: BTreeSet<ConvKey> = convs.iter().cloned().collect();
        match self.write(write, &mended.changes, &named, deadline).await {
            Ok(()) => {
                let counts = &shared.counts;
                counts.repairs.fetch_add(mended.convs, Ordering::Relaxed);
                counts.voids.fetch_add(mended.voids, Ordering::Relaxed);
                if let Some(row) = mended.row
                    && !shared.hand_over(row)
                {
                    // It is found when the lane is looked through again.
                    self.doubts.unsettled(self.now());
                }
                Ok(())
            }
            Err(Unwritten::Refused(fault) | Unwritten::Unknown(fault)) => Err(fault),
        }
    }

    /// An attempt failed. What waits for another's lock is refused, so that the rest of the lane goes on.
    async fn failed(&mut self, job: &mut Job, fault: Fault) -> Attempt {
        if fault.class == FaultClass::Locked {
            let held = self.held_by_others(&fault).await;
            let until = self.now() + HELD;
            self.held.extend(held.iter().map(|conv| (conv.clone(), until)));
            self.set_aside(job, &held);
        }
        Attempt::Failed(fault)
    }

    /// Conversations of the lane that others hold who stand in the way. A lock that was met names its holder, but not
    /// always the key that was wanted.
    async fn held_by_others(&self, fault: &Fault) -> HashSet<ConvKey> {
        let holders: HashSet<u64> = fault
            .locks
            .iter()
            .map(|lock| lock.holder)
            .filter(|holder| !self.doubts.contains(*holder))
            .collect();
        if holders.is_empty() {
            return HashSet::new();
        }
        let keys = &self.shared.keys;
        let locks = match self.shared.kv.locks(keys.whole_lane(self.lane)).await {
            Ok(locks) => locks,
            Err(fault) => {
                tracing::debug!(%fault, "what others hold cannot be looked at");
                return HashSet::new();
            }
        };
        let theirs = locks.iter().filter(|lock| holders.contains(&lock.holder));
        theirs.filter_map(|lock| keys.conv_of(&lock.key)).collect()
    }

    /// Refuses at once what was held a moment ago.
    fn leave_held_alone(&mut self, job: &mut Job) {
        let now = self.now();
        self.held.retain(|_, until| *until > now);
        let held: HashSet<ConvKey> = self.held.keys().cloned().collect();
        self.set_aside(job, &held);
    }

    fn set_aside(&self, job: &mut Job, held: &HashSet<ConvKey>) {
        if held.is_empty() {
            return;
        }
        let refusal = Appended::Refused(
            ErrorCode::Retry,
            "another router's commit holds the conversation; send again".to_owned(),
        );
        let count = job.set_aside(held, &refusal);
        self.shared.counts.aside.fetch_add(count, Ordering::Relaxed);
    }
}

/// What is said to who asked for conversations to be mended.
fn mended(job: &Job, convs: &[ConvKey], failure: Option<&Fault>) -> Result<(), StoreError> {
    match failure {
        Some(fault) => Err(StoreError::Failed(fault.to_string())),
        None if convs.iter().any(|conv| job.held.contains(conv)) => Err(StoreError::Full(
            "another router's commit holds the conversation".to_owned(),
        )),
        None => Ok(()),
    }
}
