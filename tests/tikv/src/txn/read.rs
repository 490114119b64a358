//! Reads of a snapshot. A lock that may still commit below the snapshot's timestamp is told instead of a value: the
//! reader has to resolve it first.

use super::error::{self, Refusal};
use super::{Command, RequestKind, command};
use crate::proto::errorpb;
use crate::proto::kvrpcpb::{
    BatchGetRequest, BatchGetResponse, Context, GetRequest, GetResponse, KeyError, KvPair, ScanRequest,
    ScanResponse,
};
use crate::record::{Change, Kind, Lock, Region};
use crate::rows::View;

impl Command for GetRequest {
    command!(Get -> GetResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.key.as_slice())
    }

    fn run(&self, view: &View<'_>, _: &Region, _: &mut Vec<Change>) -> GetResponse {
        let answer = GetResponse::default();
        match get(&self.key, self.version, self.context(), view) {
            Err(error) => GetResponse {
                error: Some(*error),
                ..answer
            },
            Ok(None) => GetResponse {
                not_found: true,
                ..answer
            },
            Ok(Some(value)) => GetResponse {
                value: value.to_vec(),
                ..answer
            },
        }
    }
}

impl Command for BatchGetRequest {
    command!(BatchGet -> BatchGetResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }

    fn run(&self, view: &View<'_>, _: &Region, _: &mut Vec<Change>) -> BatchGetResponse {
        let read = |key: &Vec<u8>| match get(key, self.version, self.context(), view) {
            Err(error) => Some(refused(key, *error)),
            Ok(value) => value.map(|value| pair(key, value)),
        };
        BatchGetResponse {
            pairs: self.keys.iter().filter_map(read).collect(),
            ..BatchGetResponse::default()
        }
    }
}

impl Command for ScanRequest {
    command!(Scan -> ScanResponse);

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        // The range is cut to the region.
        std::iter::empty()
    }

    fn run(&self, view: &View<'_>, region: &Region, _: &mut Vec<Change>) -> ScanResponse {
        // Going backwards, `start_key` is the upper bound.
        let (lower, upper) = if self.reverse {
            (&self.end_key, &self.start_key)
        } else {
            (&self.start_key, &self.end_key)
        };
        let (lower, upper) = region.clamp(lower, upper);
        let read = |(key, lock, value): (&[u8], Option<&Lock>, Option<&[u8]>)| match lock
            .filter(|lock| blocks(lock, key, self.version, self.context()))
        {
            Some(lock) => Some(refused(key, error::locked(key, lock))),
            None => value.map(|value| pair(key, if self.key_only { &[] } else { value })),
        };
        let rows = view.scan(lower, upper, self.version);
        let limit = self.limit as usize;
        let pairs = if self.reverse {
            rows.rev().filter_map(read).take(limit).collect()
        } else {
            rows.filter_map(read).take(limit).collect()
        };
        ScanResponse {
            pairs,
            ..ScanResponse::default()
        }
    }
}

fn get<'a>(
    key: &[u8],
    ts: u64,
    context: Option<&Context>,
    view: &View<'a>,
) -> Result<Option<&'a [u8]>, Refusal> {
    match view.lock_of(key).filter(|lock| blocks(lock, key, ts, context)) {
        Some(lock) => Err(error::locked(key, lock).into()),
        None => Ok(view.value_at(key, ts)),
    }
}

/// Whether a snapshot at `ts` cannot be read past the lock.
fn blocks(lock: &Lock, key: &[u8], ts: u64, context: Option<&Context>) -> bool {
    let resolved = |context: &Context| context.resolved_locks.contains(&lock.start_ts);
    // The newest committed value of the primary itself is asked with the greatest timestamp.
    let newest_of_primary = ts == u64::MAX && lock.primary == key;
    lock.start_ts <= ts
        && lock.kind() != Kind::Lock
        && lock.min_commit_ts <= ts
        && !newest_of_primary
        && !context.is_some_and(resolved)
}

fn pair(key: &[u8], value: &[u8]) -> KvPair {
    KvPair {
        key: key.to_vec(),
        value: value.to_vec(),
        ..KvPair::default()
    }
}

fn refused(key: &[u8], error: KeyError) -> KvPair {
    KvPair {
        key: key.to_vec(),
        error: Some(error),
        ..KvPair::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvrpcpb::Op;
    use crate::txn::bench::Bench;

    fn get(key: &str, version: u64) -> GetRequest {
        GetRequest {
            key: key.into(),
            version,
            ..GetRequest::default()
        }
    }

    fn scan(start: &str, end: &str, limit: u32) -> ScanRequest {
        let (start_key, end_key) = (start.into(), end.into());
        ScanRequest {
            start_key,
            end_key,
            limit,
            version: 99,
            ..ScanRequest::default()
        }
    }

    fn keys(answer: ScanResponse) -> Vec<String> {
        answer
            .pairs
            .into_iter()
            .map(|pair| String::from_utf8(pair.key).unwrap())
            .collect()
    }

    #[test]
    fn a_lock_blocks_snapshots_after_its_start_only() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        bench.prewrite(20, &[(Op::Put, "a", "2")]);
        assert_eq!(bench.run(&get("a", 19)).value, b"1");
        assert_eq!(
            bench
                .run(&get("a", 20))
                .error
                .unwrap()
                .locked
                .unwrap()
                .lock_version,
            20
        );
        assert_eq!(bench.run(&get("a", u64::MAX)).value, b"1");
        let context = Some(Context {
            resolved_locks: vec![20],
            ..Context::default()
        });
        assert_eq!(
            bench
                .run(&GetRequest {
                    context,
                    ..get("a", 30)
                })
                .value,
            b"1"
        );
        bench.commit(20, 25, &["a"]);
        assert_eq!(bench.run(&get("a", 24)).value, b"1");
        assert_eq!(bench.run(&get("a", 25)).value, b"2");
        assert!(bench.run(&get("b", 25)).not_found);
    }

    #[test]
    fn a_batch_tells_values_and_locks_and_leaves_out_what_is_not_there() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        bench.prewrite(20, &[(Op::Put, "b", "2")]);
        let keys = ["a", "b", "c"].map(|key| key.as_bytes().to_vec()).to_vec();
        let pairs = bench
            .run(&BatchGetRequest {
                keys,
                version: 30,
                ..BatchGetRequest::default()
            })
            .pairs;
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[0].value, b"1");
        assert!(pairs[1].error.as_ref().unwrap().locked.is_some());
    }

    #[test]
    fn scans_go_both_ways_page_by_page_within_the_region() {
        let region = Region {
            start: b"b".to_vec(),
            end: b"e".to_vec(),
            ..Region::whole(1, 2)
        };
        let mut bench = Bench::with_region(region);
        for (index, key) in (10..).step_by(2).zip(["a", "b", "c", "d", "e"]) {
            bench.put(key, "v", index, index + 1);
        }
        bench.prewrite(50, &[(Op::Del, "c", "")]);
        bench.commit(50, 51, &["c"]);
        assert_eq!(keys(bench.run(&scan("", "", 9))), ["b", "d"]);
        assert_eq!(keys(bench.run(&scan("", "", 1))), ["b"]);
        assert_eq!(keys(bench.run(&scan("c", "d", 9))), Vec::<String>::new());
        let backwards = ScanRequest {
            reverse: true,
            version: 40,
            key_only: true,
            ..scan("e", "c", 9)
        };
        let answer = bench.run(&backwards);
        assert!(answer.pairs.iter().all(|pair| pair.value.is_empty()));
        assert_eq!(keys(answer), ["d", "c"]);
    }

    #[test]
    fn a_scan_tells_a_lock_in_its_place() {
        let mut bench = Bench::new();
        bench.put("a", "1", 10, 11);
        bench.prewrite(20, &[(Op::Put, "b", "2")]);
        bench.prewrite(21, &[(Op::Lock, "c", "")]);
        let pairs = bench.run(&scan("", "", 9)).pairs;
        assert_eq!(pairs.len(), 2);
        assert!(pairs[1].error.as_ref().unwrap().locked.is_some());
    }
}
