//! Prewrite: locks every key of the request, or none and says why.
//!
//! A newer version, or a rolled-back transaction's mark above the start, is a write conflict; another's lock is told with
//! all that the client needs to resolve it. A repeat after success changes nothing; a repeat after the commit is told that it
//! was committed. Async commit and one-phase commit are answered with TiKV's fallback to two phases; pessimistic
//! transactions are refused.

use super::error::{self, Refusal};
use super::{Command, RequestKind, command};
use crate::proto::errorpb;
use crate::proto::kvrpcpb::write_conflict::Reason;
use crate::proto::kvrpcpb::{Context, Mutation, Op, PrewriteRequest, PrewriteResponse};
use crate::record::{Change, Kind, Lock, Region, Row, Write};
use crate::rows::{Ended, View};

/// What a mutation comes to.
enum Outcome {
    Lock(Change),
    Nothing,
    CommittedBefore(u64),
}

impl Command for PrewriteRequest {
    command!(Prewrite -> PrewriteResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.mutations.iter().map(|mutation| mutation.key.as_slice())
    }

    fn run(&self, view: &View<'_>, _: &Region, changes: &mut Vec<Change>) -> PrewriteResponse {
        let mut answer = PrewriteResponse::default();
        for mutation in &self.mutations {
            match prewrite(self, mutation, view) {
                Ok(Outcome::Lock(change)) => changes.push(change),
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::CommittedBefore(min_commit_ts)) => {
                    changes.clear();
                    return PrewriteResponse {
                        min_commit_ts,
                        ..PrewriteResponse::default()
                    };
                }
                // All locks are told at once, so that the client resolves them together.
                Err(error) if error.locked.is_some() => answer.errors.push(*error),
                Err(error) => {
                    answer.errors = vec![*error];
                    break;
                }
            }
        }
        if !answer.errors.is_empty() {
            changes.clear();
        }
        answer
    }
}

fn prewrite(request: &PrewriteRequest, mutation: &Mutation, view: &View<'_>) -> Result<Outcome, Refusal> {
    let (op, start_ts, key) = (mutation.op(), request.start_version, mutation.key.as_slice());
    let kind = match op {
        Op::Put | Op::Insert => Kind::Put,
        Op::Del => Kind::Delete,
        Op::Lock | Op::CheckNotExists => Kind::Lock,
        Op::Rollback | Op::PessimisticLock => {
            return Err(error::abort(format!("a mutation cannot be {op:?}")).into());
        }
    };
    if request.for_update_ts != 0 {
        return Err(error::abort("this store serves no pessimistic transactions".to_owned()).into());
    }
    match view.lock_of(key) {
        Some(lock) if lock.start_ts == start_ts => return Ok(Outcome::Nothing),
        Some(lock) => return Err(error::locked(key, lock).into()),
        None => {}
    }
    if let Some(newest) = view.newest(key)
        && let Err(error) = constrain(request, mutation, newest, view)
    {
        return match view.ended(key, start_ts) {
            Some(Ended::Committed(at)) if error.conflict.is_some() => Ok(Outcome::CommittedBefore(at)),
            _ => Err(error),
        };
    }
    if op == Op::CheckNotExists {
        return Ok(Outcome::Nothing);
    }
    let lock = Lock {
        primary: request.primary_lock.clone(),
        start_ts,
        ttl_ms: request.lock_ttl,
        kind: kind.into(),
        value: if kind == Kind::Put {
            mutation.value.clone()
        } else {
            Vec::new()
        },
        min_commit_ts: request.min_commit_ts,
        txn_size: request.txn_size,
    };
    Ok(Outcome::Lock(Change::Lock(Row {
        key: key.to_vec(),
        lock: Some(lock),
        writes: Vec::new(),
    })))
}

/// Whether the key's newest record lets the transaction write.
fn constrain(
    request: &PrewriteRequest,
    mutation: &Mutation,
    newest: &Write,
    view: &View<'_>,
) -> Result<(), Refusal> {
    let (start_ts, key) = (request.start_version, mutation.key.as_slice());
    let conflict = |reason| {
        Refusal::from(error::conflict(
            start_ts,
            key,
            &request.primary_lock,
            newest,
            reason,
        ))
    };
    if newest.commit_ts > start_ts {
        return Err(conflict(Reason::Optimistic));
    }
    let marked = newest.kind() == Kind::Rollback || newest.overlapped_rollback;
    if newest.commit_ts == start_ts && marked {
        return Err(conflict(Reason::SelfRolledBack));
    }
    let must_not_exist = matches!(mutation.op(), Op::Insert | Op::CheckNotExists);
    if must_not_exist && view.value_at(key, start_ts).is_some() {
        return Err(error::already_exists(key).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvrpcpb::BatchRollbackRequest;
    use crate::txn::bench::{Bench, only};

    #[test]
    fn of_two_writers_of_a_key_the_second_meets_the_lock_and_then_the_conflict() {
        let mut bench = Bench::new();
        assert_eq!(
            bench
                .prewrite(10, &[(Op::Put, "a", "1"), (Op::Put, "b", "1")])
                .errors,
            []
        );
        let locked = only(bench.prewrite(11, &[(Op::Put, "b", "2")]).errors)
            .locked
            .unwrap();
        assert_eq!((locked.lock_version, locked.primary_lock), (10, b"a".to_vec()));
        bench.commit(10, 12, &["a", "b"]);
        let conflict = only(bench.prewrite(11, &[(Op::Put, "b", "2")]).errors)
            .conflict
            .unwrap();
        assert_eq!((conflict.conflict_ts, conflict.conflict_commit_ts), (10, 12));
        assert_eq!(bench.prewrite(13, &[(Op::Put, "b", "2")]).errors, []);
    }

    #[test]
    fn an_insert_fails_where_the_key_lives_and_not_where_it_was_deleted() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        for op in [Op::Insert, Op::CheckNotExists] {
            let error = only(bench.prewrite(20, &[(op, "a", "2")]).errors);
            assert_eq!(error.already_exist.unwrap().key, b"a");
        }
        bench.prewrite(30, &[(Op::Del, "a", "")]);
        bench.commit(30, 31, &["a"]);
        assert_eq!(bench.prewrite(40, &[(Op::Insert, "a", "2")]).errors, []);
    }

    #[test]
    fn an_insert_sees_the_value_under_a_mere_lock_record() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        bench.prewrite(20, &[(Op::Lock, "a", "")]);
        bench.commit(20, 21, &["a"]);
        assert!(
            only(bench.prewrite(30, &[(Op::Insert, "a", "2")]).errors)
                .already_exist
                .is_some()
        );
    }

    #[test]
    fn one_refused_key_locks_none_and_a_check_locks_nothing() {
        let mut bench = Bench::new();
        bench.put("b", "1", 10, 11);
        assert_eq!(
            bench
                .prewrite(20, &[(Op::Put, "a", "2"), (Op::Insert, "b", "2")])
                .errors
                .len(),
            1
        );
        assert_eq!(bench.view().lock_of(b"a"), None);
        assert_eq!(bench.prewrite(20, &[(Op::CheckNotExists, "c", "")]).errors, []);
        assert_eq!(bench.view().lock_of(b"c"), None);
    }

    #[test]
    fn a_repeat_changes_nothing_before_the_commit_and_is_told_of_it_after() {
        let mut bench = Bench::new();
        bench.prewrite(10, &[(Op::Insert, "a", "1")]);
        assert_eq!(bench.prewrite(10, &[(Op::Insert, "a", "1")]).errors, []);
        bench.commit(10, 12, &["a"]);
        let again = bench.prewrite(10, &[(Op::Insert, "a", "1")]);
        assert_eq!((again.errors, again.min_commit_ts), (vec![], 12));
        assert_eq!(bench.view().lock_of(b"a"), None);
    }

    #[test]
    fn a_late_prewrite_of_a_rolled_back_transaction_is_kept_out() {
        let mut bench = Bench::new();
        let rollback = BatchRollbackRequest {
            start_version: 10,
            keys: vec![b"a".to_vec()],
            ..BatchRollbackRequest::default()
        };
        bench.run(&rollback);
        let conflict = only(bench.prewrite(10, &[(Op::Put, "a", "1")]).errors)
            .conflict
            .unwrap();
        assert_eq!(conflict.reason(), Reason::SelfRolledBack);
    }
}
