//! The transactional requests, each in TiKV's own semantics (Percolator). A command reads a [`View`] and says which
//! changes to make; the store runs it under its lock, logs the changes and answers when they are durable.
//!
//! What a prewrite locks, a commit turns into a version, and a rollback into a mark that keeps a late prewrite out. The
//! primary key of a transaction decides: whoever meets a lock asks its primary and ends the lock accordingly.
//! Every command may come twice, early or late, and must then answer what is true.

mod commit;
mod error;
mod prewrite;
mod read;
mod resolve;
mod rollback;
mod status;

use serde::{Deserialize, Serialize};

use crate::proto::errorpb;
use crate::proto::kvrpcpb::Context;
use crate::record::{Change, Region};
use crate::rows::View;

/// Milliseconds stand above these bits of a timestamp.
const LOGICAL_BITS: u32 = 18;

/// The kinds of requests, as faults name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// `KvGet`.
    Get,
    /// `KvBatchGet`.
    BatchGet,
    /// `KvScan`.
    Scan,
    /// `KvPrewrite`.
    Prewrite,
    /// `KvCommit`.
    Commit,
    /// `KvBatchRollback`.
    Rollback,
    /// `KvCleanup`.
    Cleanup,
    /// `KvCheckTxnStatus`.
    CheckTxnStatus,
    /// `KvTxnHeartBeat`.
    Heartbeat,
    /// `KvResolveLock`.
    ResolveLock,
    /// `KvScanLock`.
    ScanLock,
}

/// A request to one region.
pub(crate) trait Command: Clone + Send + Sync + 'static {
    /// TiKV's answer to it.
    type Answer: Default + Send + 'static;

    /// Which one it is.
    const KIND: RequestKind;

    /// The region it is meant for.
    fn context(&self) -> Option<&Context>;

    /// The keys that must be in that region.
    fn keys(&self) -> impl Iterator<Item = &[u8]>;

    /// Decides: what to answer, and what to change. An answer with an error changes nothing.
    fn run(&self, view: &View<'_>, region: &Region, changes: &mut Vec<Change>) -> Self::Answer;

    /// The answer that is a region error.
    fn refuse(error: errorpb::Error) -> Self::Answer;
}

/// The parts of [`Command`] that are the same for every message.
macro_rules! command {
    ($kind:ident -> $answer:ident) => {
        type Answer = $answer;

        const KIND: RequestKind = RequestKind::$kind;

        fn context(&self) -> Option<&Context> {
            self.context.as_ref()
        }

        fn refuse(error: errorpb::Error) -> Self::Answer {
            $answer {
                region_error: Some(error),
                ..$answer::default()
            }
        }
    };
}
use command;

/// The milliseconds in a timestamp.
fn physical_ms(ts: u64) -> u64 {
    ts >> LOGICAL_BITS
}

/// The timestamp at the start of a millisecond.
#[cfg(test)]
fn at_ms(ms: u64) -> u64 {
    ms << LOGICAL_BITS
}

#[cfg(test)]
pub(crate) mod bench {
    //! Rows and a region to run commands on, without a log.

    use super::{Change, Command, Region, View};
    use crate::proto::kvrpcpb::{
        CommitRequest, CommitResponse, KeyError, Mutation, Op, PrewriteRequest, PrewriteResponse,
    };
    use crate::rows::Rows;

    /// One region with all keys.
    pub(crate) struct Bench {
        rows: Rows,
        region: Region,
    }

    impl Bench {
        pub(crate) fn new() -> Self {
            Self {
                rows: Rows::default(),
                region: Region::whole(1, 2),
            }
        }

        pub(crate) fn with_region(region: Region) -> Self {
            Self {
                rows: Rows::default(),
                region,
            }
        }

        /// Runs a command and applies what it changes.
        pub(crate) fn run<C: Command>(&mut self, command: &C) -> C::Answer {
            let mut changes = Vec::new();
            let answer = command.run(&View::new(&self.rows), &self.region, &mut changes);
            for change in changes {
                match change {
                    Change::Lock(row) => self.rows.lock(row.key, row.lock.unwrap(), 1),
                    Change::Decide(decision) => self.rows.decide(decision, 1).unwrap(),
                    other => panic!("a request never makes {other:?}"),
                }
            }
            answer
        }

        pub(crate) fn view(&self) -> View<'_> {
            View::new(&self.rows)
        }

        pub(crate) fn prewrite(
            &mut self,
            start_version: u64,
            mutations: &[(Op, &str, &str)],
        ) -> PrewriteResponse {
            self.run(&prewrite(start_version, mutations))
        }

        pub(crate) fn commit(
            &mut self,
            start_version: u64,
            commit_version: u64,
            keys: &[&str],
        ) -> CommitResponse {
            let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
            self.run(&CommitRequest {
                start_version,
                commit_version,
                keys,
                ..CommitRequest::default()
            })
        }

        /// Prewrites and commits one put.
        pub(crate) fn put(&mut self, key: &str, value: &str, start: u64, commit: u64) {
            assert_eq!(self.prewrite(start, &[(Op::Put, key, value)]).errors, []);
            assert_eq!(self.commit(start, commit, &[key]).error, None);
        }
    }

    /// A prewrite whose primary is its first key, with 3 s to live.
    pub(crate) fn prewrite(start_version: u64, mutations: &[(Op, &str, &str)]) -> PrewriteRequest {
        let mutation = |(op, key, value): &(Op, &str, &str)| Mutation {
            op: (*op).into(),
            key: key.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
            ..Mutation::default()
        };
        PrewriteRequest {
            mutations: mutations.iter().map(mutation).collect(),
            primary_lock: mutations[0].1.as_bytes().to_vec(),
            start_version,
            lock_ttl: 3_000,
            ..PrewriteRequest::default()
        }
    }

    /// The only error of an answer.
    pub(crate) fn only(errors: Vec<KeyError>) -> KeyError {
        let [error] = errors.try_into().unwrap();
        error
    }
}
