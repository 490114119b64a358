//! A commit and the look at what became of it.
//!
//! What the client says of a commit is believed only where it says that nothing was written. Otherwise everything that
//! should be there is read back, in one batch at a fresh timestamp, and compared: that is the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::client::{Change, Rows, Write};
use super::doubt::Doubt;
use super::fault::{Fault, FaultClass};
use super::keys::{ConvKey, is_within};
use super::lane::{WAIT_FIRST, WAIT_MAX, Writer};

/// Why a transaction is not known to be written.
pub(super) enum Unwritten {
    /// It is not and will not be.
    Refused(Fault),
    /// It may be, in part or as a whole.
    Unknown(Fault),
}

/// A transaction whose commit is over.
struct Over<'a> {
    start: u64,
    primary: Vec<u8>,
    changes: &'a BTreeMap<Vec<u8>, Change>,
}

impl Writer {
    /// Commits and looks whether it is there. If that cannot be said, the transaction is doubted, and `convs` with it.
    pub(super) async fn write(
        &mut self,
        write: Write,
        changes: &BTreeMap<Vec<u8>, Change>,
        convs: &BTreeSet<ConvKey>,
        deadline: Duration,
    ) -> Result<(), Unwritten> {
        let start = write.start();
        // The primary key is the first that is written: one of this lane, so that whoever ends the transaction looks
        // where it begins.
        let lane = self.shared.keys.whole_lane(self.lane);
        let (here, elsewhere): (Vec<_>, Vec<_>) = changes.iter().partition(|(key, _)| is_within(&lane, key));
        let ordered: Vec<_> = here.into_iter().chain(elsewhere).collect();
        let over = Over {
            start,
            primary: ordered.first().map_or_else(Vec::new, |(key, _)| (*key).clone()),
            changes,
        };
        let committed = write.commit(ordered.into_iter()).await;
        match &committed {
            Err(fault) if fault.class.is_refusal() => return Err(Unwritten::Refused(fault.clone())),
            Err(fault) => {
                tracing::debug!(%fault, start, "a commit is looked for");
                self.end(&over).await;
            }
            Ok(()) => {}
        }
        let mut is_unsure = committed.is_err();
        let seen = self.is_there(&over, deadline, &mut is_unsure).await;
        if is_unsure {
            self.shared.counts.unsure.fetch_add(1, Ordering::Relaxed);
        }
        let fault = match seen {
            Ok(true) => {
                if committed.is_err() {
                    self.shared.counts.resolved.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(());
            }
            Ok(false) => committed.err().unwrap_or_else(|| self.torn(start)),
            Err(fault) => fault,
        };
        let doubt = Doubt {
            primary: over.primary,
            convs: convs.clone(),
        };
        self.doubts.add(start, doubt, self.shared.clock.now().mono);
        Err(Unwritten::Unknown(fault))
    }

    fn torn(&self, start: u64) -> Fault {
        self.shared.counts.torn.fetch_add(1, Ordering::Relaxed);
        let text = "a commit that was called successful is not there";
        tracing::warn!(lane = self.lane.0, start, "{text}");
        Fault::new(FaultClass::Undetermined, text)
    }

    /// Reads back, one batch at a fresh timestamp, and compares. Tries until the deadline; says whether once was not enough.
    async fn is_there(
        &self,
        over: &Over<'_>,
        deadline: Duration,
        is_unsure: &mut bool,
    ) -> Result<bool, Fault> {
        let mut wait = WAIT_FIRST;
        loop {
            let fault = match self.read_back(over.changes).await {
                Ok(is_there) => return Ok(is_there),
                Err(fault) => fault,
            };
            *is_unsure = true;
            if fault.may_be_of(over.start) {
                self.end(over).await;
            }
            if self.now() + wait >= deadline {
                return Err(fault);
            }
            tokio::time::sleep(self.shared.jitter(wait)).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    async fn read_back(&self, changes: &BTreeMap<Vec<u8>, Change>) -> Result<bool, Fault> {
        let mut read = self.shared.kv.snapshot().await?;
        let keys = changes.keys().cloned().collect();
        let found: BTreeMap<Vec<u8>, Vec<u8>> = read.many(keys).await?.into_iter().collect();
        let is_there =
            |(key, change): (&Vec<u8>, &Change)| found.get(key).map(Vec::as_slice) == change.value();
        Ok(changes.iter().all(is_there))
    }

    /// Ends an own transaction that is over, instead of waiting until its locks are too old.
    async fn end(&self, over: &Over<'_>) {
        if let Err(fault) = self.shared.kv.end(&over.primary, over.start).await {
            tracing::debug!(%fault, start = over.start, "a transaction cannot be ended; its locks end with their time");
        }
    }
}
