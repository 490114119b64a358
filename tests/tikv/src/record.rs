//! What the log holds: a record is one [`Batch`], the changes that one request made. A batch is applied as a whole or,
//! where its record is torn, not at all. The same types are the rows in memory.

use prost::{Message, Oneof};

/// What a lock will write, and what a write record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    /// A value.
    Put = 0,
    /// The key's end.
    Delete = 1,
    /// Nothing: the key was locked to find conflicts.
    Lock = 2,
    /// Nothing: the transaction was rolled back and must not come again. Never the kind of a lock.
    Rollback = 3,
}

/// The lock of a prewritten transaction on one key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Lock {
    /// The key that decides whether the transaction is committed.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) primary: Vec<u8>,
    /// The transaction.
    #[prost(uint64, tag = "2")]
    pub(crate) start_ts: u64,
    /// Counted from the physical part of `start_ts`; afterwards anyone may roll the transaction back.
    #[prost(uint64, tag = "3")]
    pub(crate) ttl_ms: u64,
    /// What a commit will write.
    #[prost(enumeration = "Kind", tag = "4")]
    pub(crate) kind: i32,
    /// The value that a commit will write.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) value: Vec<u8>,
    /// No commit below this timestamp. 0 where the client asked for none.
    #[prost(uint64, tag = "6")]
    pub(crate) min_commit_ts: u64,
    /// As the client said; given back with the lock.
    #[prost(uint64, tag = "7")]
    pub(crate) txn_size: u64,
}

/// One version of a key, or the mark of a rollback.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Write {
    /// When it became visible; of a rollback, its `start_ts`.
    #[prost(uint64, tag = "1")]
    pub(crate) commit_ts: u64,
    /// The transaction.
    #[prost(uint64, tag = "2")]
    pub(crate) start_ts: u64,
    /// What was written.
    #[prost(enumeration = "Kind", tag = "3")]
    pub(crate) kind: i32,
    /// Empty unless the kind is `Put`.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) value: Vec<u8>,
    /// A transaction whose `start_ts` is this `commit_ts` was rolled back here, too.
    #[prost(bool, tag = "5")]
    pub(crate) overlapped_rollback: bool,
}

/// A range of keys. Bounds are raw keys; an empty end is without end.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Region {
    /// From PD.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// First key.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) start: Vec<u8>,
    /// First key behind it.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) end: Vec<u8>,
    /// Epoch: changes of members. There is one member, so it stays 1.
    #[prost(uint64, tag = "4")]
    pub(crate) conf_ver: u64,
    /// Epoch: splits.
    #[prost(uint64, tag = "5")]
    pub(crate) version: u64,
    /// From PD.
    #[prost(uint64, tag = "6")]
    pub(crate) peer_id: u64,
}

/// Who this store is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Identity {
    /// PD's cluster.
    #[prost(uint64, tag = "1")]
    pub(crate) cluster_id: u64,
    /// From PD.
    #[prost(uint64, tag = "2")]
    pub(crate) store_id: u64,
}

/// A lock or a write record with its key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Row {
    /// The raw key.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    /// The key's lock.
    #[prost(message, optional, tag = "2")]
    pub(crate) lock: Option<Lock>,
    /// Write records, oldest first.
    #[prost(message, repeated, tag = "3")]
    pub(crate) writes: Vec<Write>,
}

/// The end of a transaction on one key.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Decision {
    /// The raw key.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    /// The transaction.
    #[prost(uint64, tag = "2")]
    pub(crate) start_ts: u64,
    /// 0 is a rollback.
    #[prost(uint64, tag = "3")]
    pub(crate) commit_ts: u64,
}

/// A range of keys whose rows are gone, whatever their versions.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct KeyRange {
    /// First key.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) start: Vec<u8>,
    /// First key behind it; empty is without end.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) end: Vec<u8>,
}

/// One change of the state.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Change {
    /// The key's lock is this one, whatever was there. Carries no writes.
    #[prost(message, tag = "1")]
    Lock(Row),
    /// The key's lock turns into a write record, or into a rollback.
    #[prost(message, tag = "2")]
    Decide(Decision),
    /// A whole row, from a checkpoint.
    #[prost(message, tag = "3")]
    Restore(Row),
    /// The region with this id is so.
    #[prost(message, tag = "4")]
    Region(Region),
    /// Who this store is.
    #[prost(message, tag = "5")]
    Identity(Identity),
    /// Timestamps up to this one (physical part, exclusive) may have been given out.
    #[prost(uint64, tag = "6")]
    TimeBound(u64),
    /// Versions that no snapshot at or above this timestamp sees may go.
    #[prost(uint64, tag = "7")]
    SafePoint(u64),
    /// The range is empty.
    #[prost(message, tag = "8")]
    Destroy(KeyRange),
}

/// A [`Change`], as prost wants it in a list.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Item {
    /// Always there; an unknown one is an error at replay.
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub(crate) change: Option<Change>,
}

/// One record of the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Batch {
    /// Applied in this order.
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<Item>,
}

impl From<Vec<Change>> for Batch {
    fn from(changes: Vec<Change>) -> Self {
        Self {
            items: changes
                .into_iter()
                .map(|change| Item { change: Some(change) })
                .collect(),
        }
    }
}
