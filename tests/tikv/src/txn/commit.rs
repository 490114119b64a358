//! Commit: turns a transaction's locks into versions. A commit of what is committed answers success; of what was rolled
//! back or never prewritten, that the transaction must be run again.

use super::error::{self, Refusal};
use super::{Command, RequestKind, command};
use crate::proto::errorpb;
use crate::proto::kvrpcpb::{CommitRequest, CommitResponse, Context};
use crate::record::{Change, Decision, Region};
use crate::rows::{Ended, View};

impl Command for CommitRequest {
    command!(Commit -> CommitResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }

    fn run(&self, view: &View<'_>, _: &Region, changes: &mut Vec<Change>) -> CommitResponse {
        for key in &self.keys {
            match commit(key, self.start_version, self.commit_version, view) {
                Ok(change) => changes.extend(change),
                Err(error) => {
                    changes.clear();
                    return CommitResponse {
                        error: Some(*error),
                        ..CommitResponse::default()
                    };
                }
            }
        }
        CommitResponse {
            commit_version: self.commit_version,
            ..CommitResponse::default()
        }
    }
}

/// The commit of one key; `None` where it is committed already.
///
/// # Errors
/// The key error to answer.
pub(super) fn commit(
    key: &[u8],
    start_ts: u64,
    commit_ts: u64,
    view: &View<'_>,
) -> Result<Option<Change>, Refusal> {
    if commit_ts <= start_ts {
        return Err(error::abort(format!("cannot commit {start_ts} at {commit_ts}")).into());
    }
    match view.lock_of(key).filter(|lock| lock.start_ts == start_ts) {
        Some(lock) if commit_ts < lock.min_commit_ts => {
            Err(error::commit_ts_expired(key, lock, commit_ts).into())
        }
        Some(_) => Ok(Some(Change::Decide(Decision {
            key: key.to_vec(),
            start_ts,
            commit_ts,
        }))),
        None => match view.ended(key, start_ts) {
            Some(Ended::Committed(_)) => Ok(None),
            Some(Ended::RolledBack) | None => Err(error::retryable(format!(
                "TxnLockNotFound: {start_ts} to be committed at {commit_ts}"
            ))
            .into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::proto::kvrpcpb::{Op, PrewriteRequest};
    use crate::txn::bench::{Bench, prewrite};

    #[test]
    fn a_repeated_commit_succeeds_and_one_without_locks_does_not() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        assert_eq!(bench.commit(10, 11, &["a"]).error, None);
        assert!(!bench.commit(12, 13, &["a"]).error.unwrap().retryable.is_empty());
        assert_eq!(bench.view().value_at(b"a", 20), Some(&b"1"[..]));
    }

    #[test]
    fn one_missing_lock_commits_no_key_of_the_request() {
        let mut bench = Bench::new();
        bench.prewrite(10, &[(Op::Put, "a", "1")]);
        assert!(bench.commit(10, 11, &["a", "b"]).error.is_some());
        assert_eq!(bench.view().value_at(b"a", 20), None);
        assert!(bench.view().lock_of(b"a").is_some());
    }

    #[test]
    fn a_commit_below_what_the_lock_allows_is_told_the_least_timestamp() {
        let mut bench = Bench::new();
        bench.run(&PrewriteRequest {
            min_commit_ts: 15,
            ..prewrite(10, &[(Op::Put, "a", "1")])
        });
        let expired = bench
            .commit(10, 14, &["a"])
            .error
            .unwrap()
            .commit_ts_expired
            .unwrap();
        assert_eq!((expired.min_commit_ts, expired.key), (15, b"a".to_vec()));
        assert_eq!(bench.commit(10, 15, &["a"]).error, None);
    }
}
