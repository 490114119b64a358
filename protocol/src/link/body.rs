//! Bodies of link records, as they are archived by rkyv. Read with [`crate::frame::access`].

use rkyv::{Archive, Deserialize, Serialize};

/// `Claim`: route (user, terminal) to this connection.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Counts the claims of this gateway boot up, so that a late or repeated one is told apart.
    pub owner_seq: u64,
    /// When the token was issued, s since 1970 (a newer login may replace an older).
    pub issued_at_s: u64,
    /// Whether it is made again after the registry lost it: kicks nobody that logged in later.
    pub again: bool,
}

/// `Unclaim`: give the route up if it is still this one.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Unclaim {
    /// As in the claim.
    pub owner_seq: u64,
}

/// `Owned`: the session holds this route.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// As in the claim.
    pub owner_seq: u64,
}

/// `Claimed`: the answer.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// As in the claim.
    pub owner_seq: u64,
    /// 0: the route is held. 4003: the boot was declared dead; take a new one and claim again. Else the close code that
    /// the connection gets (4501, 4505, 4007).
    pub refused_code: u16,
}

/// `Kick`: why.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    /// Close code.
    pub code: u16,
    /// The claim that this is about; another one of the same connection is left alone. 0: whichever.
    pub owner_seq: u64,
}

/// `Consumed`: how far one router's records of one partition were taken.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The router boot that numbered them.
    pub router_boot: u64,
    /// The partition.
    pub partition: u16,
    /// Everything up to here was consumed.
    pub number: u64,
    /// Missing numbers above `number` that are below one that was seen: send them again. At most 256.
    pub gaps: Vec<u64>,
}

/// `Bounce`: these connections were gone when the record came.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Bounce {
    /// Tenant.
    pub app: u32,
    /// The conversation.
    pub conv: Vec<u8>,
    /// Last place in the record.
    pub seq: u64,
    /// The connections.
    pub conns: Vec<u64>,
}

/// `BusFetch`: give me records of this partition from here on.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct BusFetch {
    /// The gateway's boot: whose topic.
    pub boot: u64,
    /// The partition.
    pub partition: u16,
    /// Offset of the first record wanted.
    pub from: u64,
    /// Most bytes to send before the next fetch.
    pub credit_bytes: u32,
}

/// `BusBatch`: records, in order, without a gap in their offsets.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct BusBatch {
    /// The partition.
    pub partition: u16,
    /// Offset of the first record.
    pub from: u64,
    /// Whether records before `from` that were asked for are lost: the gateway must resync its sessions.
    pub lost: bool,
    /// Encoded [`crate::bus::BusRecord`]s.
    pub records: Vec<Vec<u8>>,
}

/// `Renew`: the gateway is alive.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Renew {
    /// Sessions it holds, for the registry's own check.
    pub sessions: u64,
}

/// `Renewed`: the answer.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// False: the boot was declared dead; take a new boot id and claim all sessions again.
    pub alive: bool,
}

/// One router.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RouterInfo {
    /// Its id.
    pub node: String,
    /// Its boot.
    pub boot: u64,
    /// Where its link server listens.
    pub address: String,
}

/// `RouterList`: all routers, as of a version.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RouterList {
    /// Higher is newer.
    pub version: u64,
    /// In any order.
    pub routers: Vec<RouterInfo>,
}

/// `Credit`: this much more may be sent.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// Bytes ([`super::record::Record::wire_bytes`]).
    pub bytes: u32,
    /// Records.
    pub records: u32,
}
