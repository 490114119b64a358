//! The state of a transaction, asked of its primary key, and the heartbeat that keeps it alive.

use super::error::{self, Refusal};
use super::rollback::has_expired;
use super::{Command, RequestKind, command};
use crate::proto::errorpb;
use crate::proto::kvrpcpb::{
    Action, CheckTxnStatusRequest, CheckTxnStatusResponse, Context, TxnHeartBeatRequest, TxnHeartBeatResponse,
};
use crate::record::{Change, Decision, Lock, Region, Row};
use crate::rows::{Ended, View};

impl Command for CheckTxnStatusRequest {
    command!(CheckTxnStatus -> CheckTxnStatusResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.primary_key.as_slice())
    }

    fn run(&self, view: &View<'_>, _: &Region, changes: &mut Vec<Change>) -> CheckTxnStatusResponse {
        let lock = view
            .lock_of(&self.primary_key)
            .filter(|lock| lock.start_ts == self.lock_ts);
        let answer = match lock {
            Some(lock) => self.locked(lock, changes),
            None => self.unlocked(view, changes),
        };
        answer.unwrap_or_else(|error| CheckTxnStatusResponse {
            error: Some(*error),
            ..CheckTxnStatusResponse::default()
        })
    }
}

impl CheckTxnStatusRequest {
    fn rollback(&self) -> Change {
        Change::Decide(Decision {
            key: self.primary_key.clone(),
            start_ts: self.lock_ts,
            commit_ts: 0,
        })
    }

    /// The primary is locked: roll it back if it has expired, else say for how long it may live, and let a reader pass
    /// by a transaction that allows it.
    fn locked(&self, lock: &Lock, changes: &mut Vec<Change>) -> Result<CheckTxnStatusResponse, Refusal> {
        if self.verify_is_primary && lock.primary != self.primary_key {
            return Err(error::primary_mismatch(&self.primary_key, lock).into());
        }
        if has_expired(lock, self.current_ts) {
            changes.push(self.rollback());
            return Ok(acted(Action::TtlExpireRollback));
        }
        let mut lock = lock.clone();
        let reader = self.caller_start_ts;
        if lock.min_commit_ts != 0 && reader != u64::MAX && reader >= lock.min_commit_ts {
            lock.min_commit_ts = (reader + 1).max(self.current_ts);
            let writes = Vec::new();
            changes.push(Change::Lock(Row {
                key: self.primary_key.clone(),
                lock: Some(lock.clone()),
                writes,
            }));
        }
        let passes = reader == u64::MAX || (reader != 0 && lock.min_commit_ts > reader);
        let action = if passes {
            Action::MinCommitTsPushed
        } else {
            Action::NoAction
        };
        let lock_info = Some(error::lock_info(&self.primary_key, &lock));
        Ok(CheckTxnStatusResponse {
            lock_ttl: lock.ttl_ms,
            lock_info,
            ..acted(action)
        })
    }

    /// The primary is not locked: it ended, or its prewrite has not come (yet).
    fn unlocked(
        &self,
        view: &View<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<CheckTxnStatusResponse, Refusal> {
        match view.ended(&self.primary_key, self.lock_ts) {
            Some(Ended::Committed(commit_version)) => Ok(CheckTxnStatusResponse {
                commit_version,
                ..CheckTxnStatusResponse::default()
            }),
            Some(Ended::RolledBack) => Ok(acted(Action::NoAction)),
            None if self.rollback_if_not_exist => {
                changes.push(self.rollback());
                Ok(acted(Action::LockNotExistRollback))
            }
            None => Err(error::txn_not_found(self.lock_ts, &self.primary_key).into()),
        }
    }
}

fn acted(action: Action) -> CheckTxnStatusResponse {
    CheckTxnStatusResponse {
        action: action.into(),
        ..CheckTxnStatusResponse::default()
    }
}

impl Command for TxnHeartBeatRequest {
    command!(Heartbeat -> TxnHeartBeatResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.primary_lock.as_slice())
    }

    fn run(&self, view: &View<'_>, _: &Region, changes: &mut Vec<Change>) -> TxnHeartBeatResponse {
        let key = &self.primary_lock;
        let Some(lock) = view
            .lock_of(key)
            .filter(|lock| lock.start_ts == self.start_version)
        else {
            let error = Some(error::txn_not_found(self.start_version, key));
            return TxnHeartBeatResponse {
                error,
                ..TxnHeartBeatResponse::default()
            };
        };
        let lock_ttl = lock.ttl_ms.max(self.advise_lock_ttl);
        if lock_ttl > lock.ttl_ms {
            let lock = Lock {
                ttl_ms: lock_ttl,
                ..lock.clone()
            };
            changes.push(Change::Lock(Row {
                key: key.clone(),
                lock: Some(lock),
                writes: Vec::new(),
            }));
        }
        TxnHeartBeatResponse {
            lock_ttl,
            ..TxnHeartBeatResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvrpcpb::{Op, PrewriteRequest};
    use crate::txn::at_ms;
    use crate::txn::bench::{Bench, prewrite};

    fn check(primary: &str, lock_ts: u64, current_ts: u64) -> CheckTxnStatusRequest {
        CheckTxnStatusRequest {
            primary_key: primary.as_bytes().to_vec(),
            lock_ts,
            current_ts,
            verify_is_primary: true,
            ..CheckTxnStatusRequest::default()
        }
    }

    #[test]
    fn a_live_transaction_is_told_and_an_expired_one_is_rolled_back() {
        let mut bench = Bench::new();
        let start = at_ms(1_000);
        bench.prewrite(start, &[(Op::Put, "a", "1"), (Op::Put, "b", "1")]);
        let live = bench.run(&check("a", start, at_ms(4_000)));
        assert_eq!(
            (live.lock_ttl, live.lock_info.unwrap().key),
            (3_000, b"a".to_vec())
        );
        let expired = bench.run(&check("a", start, at_ms(4_001)));
        assert_eq!(
            (expired.action(), expired.lock_ttl),
            (Action::TtlExpireRollback, 0)
        );
        assert!(bench.commit(start, at_ms(5_000), &["a"]).error.is_some());
        assert_eq!(bench.run(&check("a", start, at_ms(9_000))).commit_version, 0);
    }

    #[test]
    fn a_heartbeat_keeps_a_transaction_alive_and_never_shortens_its_time() {
        let mut bench = Bench::new();
        let start = at_ms(1_000);
        bench.prewrite(start, &[(Op::Put, "a", "1")]);
        let beat = |advise_lock_ttl| TxnHeartBeatRequest {
            primary_lock: b"a".to_vec(),
            start_version: start,
            advise_lock_ttl,
            ..TxnHeartBeatRequest::default()
        };
        assert_eq!(bench.run(&beat(9_000)).lock_ttl, 9_000);
        assert_eq!(bench.run(&beat(100)).lock_ttl, 9_000);
        assert_eq!(bench.run(&check("a", start, at_ms(9_000))).lock_ttl, 9_000);
        bench.commit(start, at_ms(9_001), &["a"]);
        assert!(bench.run(&beat(1)).error.unwrap().txn_not_found.is_some());
    }

    #[test]
    fn an_unknown_transaction_is_an_error_unless_it_is_to_be_kept_out() {
        let mut bench = Bench::new();
        assert!(
            bench
                .run(&check("a", 10, 99))
                .error
                .unwrap()
                .txn_not_found
                .is_some()
        );
        let keep_out = CheckTxnStatusRequest {
            rollback_if_not_exist: true,
            ..check("a", 10, 99)
        };
        assert_eq!(bench.run(&keep_out).action(), Action::LockNotExistRollback);
        assert!(!bench.prewrite(10, &[(Op::Put, "a", "1")]).errors.is_empty());
    }

    #[test]
    fn a_committed_transaction_tells_when() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 12);
        assert_eq!(bench.run(&check("a", 10, 99)).commit_version, 12);
    }

    #[test]
    fn a_secondary_that_is_asked_names_its_primary() {
        let mut bench = Bench::new();
        bench.prewrite(10, &[(Op::Put, "a", "1"), (Op::Put, "b", "1")]);
        assert!(
            bench
                .run(&check("b", 10, 10))
                .error
                .unwrap()
                .primary_mismatch
                .is_some()
        );
    }

    #[test]
    fn a_reader_pushes_the_commit_of_a_transaction_that_allows_it() {
        let mut bench = Bench::new();
        bench.run(&PrewriteRequest {
            min_commit_ts: 11,
            ..prewrite(10, &[(Op::Put, "a", "1")])
        });
        let read = CheckTxnStatusRequest {
            caller_start_ts: 20,
            ..check("a", 10, 15)
        };
        assert_eq!(bench.run(&read).action(), Action::MinCommitTsPushed);
        assert!(
            bench
                .commit(10, 20, &["a"])
                .error
                .unwrap()
                .commit_ts_expired
                .is_some()
        );
        assert_eq!(bench.commit(10, 21, &["a"]).error, None);
    }
}
