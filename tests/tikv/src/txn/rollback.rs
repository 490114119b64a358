//! Rollback and cleanup: end a transaction on a key with a mark that keeps it from coming back, whether it was locked or
//! not. What is committed stays so, and the caller is told.

use super::{Command, RequestKind, command, error, physical_ms};
use crate::proto::errorpb;
use crate::proto::kvrpcpb::{
    BatchRollbackRequest, BatchRollbackResponse, CleanupRequest, CleanupResponse, Context,
};
use crate::record::{Change, Decision, Lock, Region};
use crate::rows::{Ended, View};

impl Command for BatchRollbackRequest {
    command!(Rollback -> BatchRollbackResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }

    fn run(&self, view: &View<'_>, _: &Region, changes: &mut Vec<Change>) -> BatchRollbackResponse {
        for key in &self.keys {
            match rollback(key, self.start_version, view) {
                Ok(change) => changes.extend(change),
                Err(at) => {
                    changes.clear();
                    let error = error::abort(format!("{} is committed at {at}", self.start_version));
                    return BatchRollbackResponse {
                        error: Some(error),
                        ..BatchRollbackResponse::default()
                    };
                }
            }
        }
        BatchRollbackResponse::default()
    }
}

impl Command for CleanupRequest {
    command!(Cleanup -> CleanupResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.key.as_slice())
    }

    fn run(&self, view: &View<'_>, _: &Region, changes: &mut Vec<Change>) -> CleanupResponse {
        let own = view
            .lock_of(&self.key)
            .filter(|lock| lock.start_ts == self.start_version);
        if let Some(lock) = own.filter(|lock| self.current_ts != 0 && !has_expired(lock, self.current_ts)) {
            return CleanupResponse {
                error: Some(error::locked(&self.key, lock)),
                ..CleanupResponse::default()
            };
        }
        match rollback(&self.key, self.start_version, view) {
            Ok(change) => {
                changes.extend(change);
                CleanupResponse::default()
            }
            Err(commit_version) => CleanupResponse {
                commit_version,
                ..CleanupResponse::default()
            },
        }
    }
}

/// Whether the lock has outlived its time at `current_ts`.
pub(super) fn has_expired(lock: &Lock, current_ts: u64) -> bool {
    physical_ms(lock.start_ts).saturating_add(lock.ttl_ms) < physical_ms(current_ts)
}

/// The rollback of one key; `None` where it is rolled back already.
///
/// # Errors
/// The timestamp at which it is committed.
pub(super) fn rollback(key: &[u8], start_ts: u64, view: &View<'_>) -> Result<Option<Change>, u64> {
    let decision = Change::Decide(Decision {
        key: key.to_vec(),
        start_ts,
        commit_ts: 0,
    });
    if view.lock_of(key).is_some_and(|lock| lock.start_ts == start_ts) {
        return Ok(Some(decision));
    }
    match view.ended(key, start_ts) {
        Some(Ended::Committed(at)) => Err(at),
        Some(Ended::RolledBack) => Ok(None),
        None => Ok(Some(decision)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvrpcpb::Op;
    use crate::txn::at_ms;
    use crate::txn::bench::Bench;

    fn rollback(start_version: u64, key: &str) -> BatchRollbackRequest {
        let keys = vec![key.as_bytes().to_vec()];
        BatchRollbackRequest {
            start_version,
            keys,
            ..BatchRollbackRequest::default()
        }
    }

    #[test]
    fn a_rollback_leaves_the_locks_of_others_and_no_value() {
        let mut bench = Bench::new();
        bench.prewrite(10, &[(Op::Put, "a", "1")]);
        assert_eq!(bench.run(&rollback(9, "a")).error, None);
        assert_eq!(bench.view().lock_of(b"a").unwrap().start_ts, 10);
        assert_eq!(bench.run(&rollback(10, "a")).error, None);
        assert_eq!(bench.run(&rollback(10, "a")).error, None);
        assert_eq!(bench.view().lock_of(b"a"), None);
        assert_eq!(bench.view().value_at(b"a", 99), None);
        assert!(bench.commit(10, 11, &["a"]).error.is_some());
    }

    #[test]
    fn what_is_committed_cannot_be_rolled_back() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        assert!(!bench.run(&rollback(10, "a")).error.unwrap().abort.is_empty());
        let cleanup = CleanupRequest {
            key: b"a".to_vec(),
            start_version: 10,
            ..CleanupRequest::default()
        };
        assert_eq!(bench.run(&cleanup).commit_version, 11);
    }

    #[test]
    fn a_cleanup_waits_for_the_lock_to_expire() {
        let mut bench = Bench::new();
        let start_version = at_ms(1_000);
        bench.prewrite(start_version, &[(Op::Put, "a", "1")]);
        let at = |ms| CleanupRequest {
            key: b"a".to_vec(),
            start_version,
            current_ts: at_ms(ms),
            ..CleanupRequest::default()
        };
        assert!(bench.run(&at(4_000)).error.unwrap().locked.is_some());
        assert_eq!(bench.run(&at(4_001)).error, None);
        assert_eq!(bench.view().lock_of(b"a"), None);
    }
}
