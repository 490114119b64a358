//! The key errors that a client acts on, as TiKV fills them.

use crate::proto::kvrpcpb::write_conflict::Reason;
use crate::proto::kvrpcpb::{
    AlreadyExist, CommitTsExpired, KeyError, LockInfo, Op, PrimaryMismatch, TxnNotFound, WriteConflict,
};
use crate::record::{Kind, Lock, Write};

/// A key error in place of a result: boxed, since it is many times as large as what it stands for.
pub(super) type Refusal = Box<KeyError>;

/// A lock as clients see it.
pub(crate) fn lock_info(key: &[u8], lock: &Lock) -> LockInfo {
    let op = match lock.kind() {
        Kind::Put => Op::Put,
        Kind::Delete => Op::Del,
        Kind::Lock | Kind::Rollback => Op::Lock,
    };
    LockInfo {
        primary_lock: lock.primary.clone(),
        lock_version: lock.start_ts,
        key: key.to_vec(),
        lock_ttl: lock.ttl_ms,
        txn_size: lock.txn_size,
        lock_type: op.into(),
        min_commit_ts: lock.min_commit_ts,
        ..LockInfo::default()
    }
}

/// Another transaction's lock is in the way: resolve it or wait.
pub(crate) fn locked(key: &[u8], lock: &Lock) -> KeyError {
    KeyError {
        locked: Some(lock_info(key, lock)),
        ..KeyError::default()
    }
}

/// Somebody wrote the key after the transaction started.
pub(crate) fn conflict(start_ts: u64, key: &[u8], primary: &[u8], write: &Write, reason: Reason) -> KeyError {
    let conflict = WriteConflict {
        start_ts,
        conflict_ts: write.start_ts,
        conflict_commit_ts: write.commit_ts,
        key: key.to_vec(),
        primary: primary.to_vec(),
        reason: reason.into(),
    };
    KeyError {
        conflict: Some(conflict),
        ..KeyError::default()
    }
}

/// The key that must not exist does.
pub(crate) fn already_exists(key: &[u8]) -> KeyError {
    KeyError {
        already_exist: Some(AlreadyExist { key: key.to_vec() }),
        ..KeyError::default()
    }
}

/// A commit below what the lock allows: commit again with a newer timestamp.
pub(crate) fn commit_ts_expired(key: &[u8], lock: &Lock, attempted_commit_ts: u64) -> KeyError {
    let expired = CommitTsExpired {
        start_ts: lock.start_ts,
        attempted_commit_ts,
        key: key.to_vec(),
        min_commit_ts: lock.min_commit_ts,
    };
    KeyError {
        commit_ts_expired: Some(expired),
        ..KeyError::default()
    }
}

/// No trace of the transaction on this key.
pub(crate) fn txn_not_found(start_ts: u64, primary_key: &[u8]) -> KeyError {
    let missing = TxnNotFound {
        start_ts,
        primary_key: primary_key.to_vec(),
    };
    KeyError {
        txn_not_found: Some(missing),
        ..KeyError::default()
    }
}

/// The lock on the key names another primary.
pub(crate) fn primary_mismatch(key: &[u8], lock: &Lock) -> KeyError {
    let mismatch = PrimaryMismatch {
        lock_info: Some(lock_info(key, lock)),
    };
    KeyError {
        primary_mismatch: Some(mismatch),
        ..KeyError::default()
    }
}

/// The transaction may be run again from its start.
pub(crate) fn retryable(what: String) -> KeyError {
    KeyError {
        retryable: what,
        ..KeyError::default()
    }
}

/// The transaction must be given up.
pub(crate) fn abort(what: String) -> KeyError {
    KeyError {
        abort: what,
        ..KeyError::default()
    }
}
