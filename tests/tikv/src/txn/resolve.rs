//! Finding locks and ending them, once the primary has said how their transaction ended.

use std::collections::HashMap;

use super::commit::commit;
use super::error::{self, Refusal};
use super::rollback::rollback;
use super::{Command, RequestKind, command};
use crate::proto::errorpb;
use crate::proto::kvrpcpb::{
    Context, ResolveLockRequest, ResolveLockResponse, ScanLockRequest, ScanLockResponse,
};
use crate::record::{Change, Region};
use crate::rows::View;

impl Command for ResolveLockRequest {
    command!(ResolveLock -> ResolveLockResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }

    fn run(&self, view: &View<'_>, region: &Region, changes: &mut Vec<Change>) -> ResolveLockResponse {
        let ended: HashMap<u64, u64> = if self.txn_infos.is_empty() {
            HashMap::from([(self.start_version, self.commit_version)])
        } else {
            self.txn_infos
                .iter()
                .map(|info| (info.txn, info.status))
                .collect()
        };
        let asked = |key: &[u8]| self.keys.is_empty() || self.keys.iter().any(|asked| asked == key);
        for (key, lock) in view
            .locks(&region.start, &region.end)
            .filter(|(key, _)| asked(key))
        {
            let Some(commit_ts) = ended.get(&lock.start_ts) else {
                continue;
            };
            match end(key, lock.start_ts, *commit_ts, view) {
                Ok(change) => changes.extend(change),
                Err(error) => {
                    changes.clear();
                    return ResolveLockResponse {
                        error: Some(*error),
                        ..ResolveLockResponse::default()
                    };
                }
            }
        }
        ResolveLockResponse::default()
    }
}

/// Commits the key, or rolls it back where `commit_ts` is 0.
fn end(key: &[u8], start_ts: u64, commit_ts: u64, view: &View<'_>) -> Result<Option<Change>, Refusal> {
    if commit_ts > 0 {
        return commit(key, start_ts, commit_ts, view);
    }
    rollback(key, start_ts, view)
        .map_err(|at| error::abort(format!("{start_ts} is committed at {at}")).into())
}

impl Command for ScanLockRequest {
    command!(ScanLock -> ScanLockResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        // The range is cut to the region: its start may lie before it.
        std::iter::empty()
    }

    fn run(&self, view: &View<'_>, region: &Region, _: &mut Vec<Change>) -> ScanLockResponse {
        let (start, end) = region.clamp(&self.start_key, &self.end_key);
        let limit = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit as usize
        };
        let found = view
            .locks(start, end)
            .filter(|(_, lock)| lock.start_ts <= self.max_version);
        let locks = found
            .take(limit)
            .map(|(key, lock)| error::lock_info(key, lock))
            .collect();
        ScanLockResponse {
            locks,
            ..ScanLockResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvrpcpb::{Op, TxnInfo};
    use crate::txn::bench::Bench;

    fn region(start: &str, end: &str) -> Region {
        Region {
            start: start.into(),
            end: end.into(),
            ..Region::whole(1, 2)
        }
    }

    fn scan(limit: u32, max_version: u64) -> ScanLockRequest {
        ScanLockRequest {
            limit,
            max_version,
            ..ScanLockRequest::default()
        }
    }

    fn found(bench: &mut Bench, limit: u32, max_version: u64) -> Vec<String> {
        let locks = bench.run(&scan(limit, max_version)).locks;
        locks
            .into_iter()
            .map(|lock| String::from_utf8(lock.key).unwrap())
            .collect()
    }

    #[test]
    fn only_old_locks_of_the_region_are_found_and_at_most_so_many() {
        let mut bench = Bench::with_region(region("b", "y"));
        bench.prewrite(
            10,
            &[
                (Op::Put, "a", ""),
                (Op::Put, "b", ""),
                (Op::Put, "c", ""),
                (Op::Put, "y", ""),
            ],
        );
        bench.prewrite(20, &[(Op::Put, "d", "")]);
        assert_eq!(found(&mut bench, 0, 19), ["b", "c"]);
        assert_eq!(found(&mut bench, 0, 20), ["b", "c", "d"]);
        assert_eq!(found(&mut bench, 1, 20), ["b"]);
    }

    #[test]
    fn a_resolve_ends_the_locks_of_its_transaction_in_its_region() {
        let mut bench = Bench::with_region(region("b", ""));
        bench.prewrite(
            10,
            &[(Op::Put, "a", "1"), (Op::Put, "b", "1"), (Op::Put, "c", "1")],
        );
        bench.prewrite(20, &[(Op::Put, "d", "2")]);
        let resolve = ResolveLockRequest {
            start_version: 10,
            commit_version: 11,
            ..ResolveLockRequest::default()
        };
        assert_eq!(bench.run(&resolve).error, None);
        assert_eq!(bench.view().value_at(b"b", 30), Some(&b"1"[..]));
        assert_eq!(bench.view().value_at(b"c", 30), Some(&b"1"[..]));
        assert!(bench.view().lock_of(b"a").is_some());
        assert!(bench.view().lock_of(b"d").is_some());
    }

    #[test]
    fn several_transactions_are_ended_each_in_its_own_way() {
        let mut bench = Bench::new();
        bench.prewrite(10, &[(Op::Put, "a", "1")]);
        bench.prewrite(20, &[(Op::Put, "b", "2")]);
        let info = |txn, status| TxnInfo {
            txn,
            status,
            ..TxnInfo::default()
        };
        let txn_infos = vec![info(10, 0), info(20, 21)];
        bench.run(&ResolveLockRequest {
            txn_infos,
            ..ResolveLockRequest::default()
        });
        assert_eq!(bench.view().value_at(b"a", 30), None);
        assert_eq!(bench.view().value_at(b"b", 30), Some(&b"2"[..]));
        assert_eq!(found(&mut bench, 0, 99), Vec::<String>::new());
    }
}
