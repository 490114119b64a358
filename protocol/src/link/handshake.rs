//! How the two ends of a link learn that they belong together, before any record is believed.
//!
//! ```text
//! hello = length u32 | "CLNK" | version min u16 | version max u16 | archive of PeerInfo
//! proof = length u32 | HMAC-SHA256(secret, role of the prover u8 | prover's hello | other's hello)
//! ```
//!
//! Both ends send their hello at once and their proof when they have the other's hello. The versions stand before the
//! archive, so that they can be read whatever the archive looks like; it is always that of the lowest version named. A
//! proof covers both hellos as they were on the wire, lengths included, so that it fits no other pair of hellos; the
//! role in front keeps it from being sent back to its maker, and the two nonces keep it from being used again.

use hmac::{Hmac, KeyInit, Mac};
use rkyv::{Archive, Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use super::record::RecordError;
use crate::frame;
use crate::id::{ID_BYTES_MAX, NodeId};
use crate::limits::LINK_BATCH_BYTES_MAX;

/// First bytes of a hello.
const MAGIC: &[u8; 4] = b"CLNK";
/// Version of the link that this build speaks.
pub const LINK_VERSION: u16 = 1;
/// Largest batch of a handshake, in bytes, its length prefix excluded.
pub(super) const HANDSHAKE_BATCH_BYTES_MAX: usize = 1024;
/// Most shards of a gateway.
const SHARDS_MAX: u16 = 1024;

const _: () = assert!(
    size_of::<ArchivedPeerInfo>() + ID_BYTES_MAX + 8 <= HANDSHAKE_BATCH_BYTES_MAX,
    "a hello with the longest name fits"
);

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkRole {
    /// A gateway shard.
    Gateway = 1,
    /// A router.
    Router = 2,
}

/// Bits of [`PeerInfo::features`].
pub mod feature {
    /// Deliveries take a bus that stands apart from the routers: a gateway makes its topic before it links and reads it
    /// itself. Without it they are fetched over the link. Both ends must agree.
    pub const BUS_APART: u64 = 1;
    /// A router that compares routes with the registry: it takes [`crate::link::record::RecordKind::Owned`].
    pub const OWNED: u64 = 1 << 1;
}

/// What an end says of itself.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerInfo {
    /// [`LinkRole`].
    pub role: u8,
    /// Lowest link version it speaks. Stands before the archive on the wire.
    #[rkyv(with = rkyv::with::Skip)]
    pub version_min: u16,
    /// Highest link version it speaks. Stands before the archive on the wire.
    #[rkyv(with = rkyv::with::Skip)]
    pub version_max: u16,
    /// Optional features it knows. A record kind that version 1 does not have goes only to a peer whose bit names it.
    pub features: u64,
    /// The cluster; 0 if it does not know yet (a gateway takes the router's).
    pub cluster_id: u64,
    /// Its name: a [`NodeId`], or empty.
    pub node: String,
    /// Its boot.
    pub boot: u64,
    /// Which shard of a gateway.
    pub shard: u16,
    /// How many shards the gateway has.
    pub shards: u16,
    /// Epoch of the log (router).
    pub epoch: u64,
    /// Lanes of the store (router).
    pub lanes: u16,
    /// Partitions of a gateway's topic (router); of the topic that it made, or 0 (gateway).
    pub partitions: u16,
    /// Version of the router list (router).
    pub router_list_version: u64,
    /// Changes when the registry forgot everything (router).
    pub registry_incarnation: u64,
    /// Which secret it uses.
    pub key_id: u8,
    /// Random, against replay.
    pub nonce: [u8; 16],
}

/// What both ends of all links know.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkSecret {
    /// Tells keys apart while they are rotated.
    pub key_id: u8,
    /// The key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkSecret(key {})", self.key_id)
    }
}

/// The other end cannot be talked to. Close the link; the text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It is no Corelane node.
    #[error("peer did not begin with a Corelane link hello")]
    Magic,
    /// Its hello is malformed.
    #[error("hello of the peer is malformed: {0}")]
    Hello(&'static str),
    /// It is of the same kind as this end.
    #[error("peer has role {0}, expected the other end of a link")]
    Role(u8),
    /// No version in common.
    #[error("peer speaks link versions {min} to {max}, spoken here is {LINK_VERSION}")]
    Version {
        /// Its lowest.
        min: u16,
        /// Its highest.
        max: u16,
    },
    /// Another cluster.
    #[error("peer belongs to cluster {theirs:016x}, this node to {ours:016x}")]
    Cluster {
        /// Its cluster.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// Deliveries would not arrive.
    #[error(
        "{} a bus on Kafka; set bus.servers at routers and gateways to the same brokers, or at neither",
        who_is_apart(*theirs_apart)
    )]
    Bus {
        /// Whether it is the peer that has [`feature::BUS_APART`].
        theirs_apart: bool,
    },
    /// Deliveries would be published where nobody reads, or the other way round.
    #[error(
        "topics have {theirs} partitions for the peer, {ours} for this node; router.partitions of the routers and \
         bus.partitions of the gateways must be the same"
    )]
    Partitions {
        /// As the peer says.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// It uses another key.
    #[error("peer uses link key {theirs}, this node uses {ours}; check that both ends use the same link.key")]
    KeyId {
        /// The key id it named.
        theirs: u8,
        /// Ours.
        ours: u8,
    },
    /// It names the same key and does not know it.
    #[error(
        "peer does not know the link secret (its key id is {key_id}); check that both ends use the same link.key"
    )]
    Proof {
        /// The key id it named.
        key_id: u8,
    },
    /// It is another router than its address stands for in the router list.
    #[error("peer is router {theirs:?}, the router list says that {ours:?} is at its address")]
    Node {
        /// Its name.
        theirs: String,
        /// The name in the list.
        ours: String,
    },
    /// Its store has another number of lanes than that of the routers that are linked.
    #[error("peer has {theirs} lanes, the routers that are linked have {ours}")]
    Lanes {
        /// Its lanes.
        theirs: u16,
        /// Those of the others.
        ours: u16,
    },
    /// A batch above the limit.
    #[error("peer announced a batch of {bytes} bytes, limit is {LINK_BATCH_BYTES_MAX}")]
    BatchLength {
        /// As announced.
        bytes: usize,
    },
    /// A malformed record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It sent more than it had credit for.
    #[error("peer sent beyond its credit")]
    Credit,
    /// It granted credit in a form that is none.
    #[error("credit record of the peer is no valid archive")]
    CreditBody,
}

const fn who_is_apart(theirs_apart: bool) -> &'static str {
    if theirs_apart {
        "peer uses, and this node does not,"
    } else {
        "this node uses, and peer does not,"
    }
}

/// A handshake that is under way.
#[derive(Debug)]
pub(super) struct Handshake {
    info: PeerInfo,
    secret: LinkSecret,
    /// Our hello as sent.
    hello: Vec<u8>,
    /// What the other end said, and its hello as received.
    peer: Option<(PeerInfo, Vec<u8>)>,
}

impl Handshake {
    pub(super) fn new(role: LinkRole, mut info: PeerInfo, secret: LinkSecret, nonce: [u8; 16]) -> Self {
        info.role = role as u8;
        (info.version_min, info.version_max) = (LINK_VERSION, LINK_VERSION);
        info.key_id = secret.key_id;
        info.nonce = nonce;
        let mut hello = Vec::new();
        push_batch(
            &[
                MAGIC,
                &info.version_min.to_le_bytes(),
                &info.version_max.to_le_bytes(),
                &frame::archive(&info),
            ],
            &mut hello,
        );
        Self {
            info,
            secret,
            hello,
            peer: None,
        }
    }

    /// The first bytes to send.
    pub(super) fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// What the other end says of itself, once its hello is there.
    pub(super) fn claimed(&self) -> Option<&PeerInfo> {
        self.peer.as_ref().map(|(peer, _)| peer)
    }

    /// Takes a batch; appends what is to be sent in return. Gives the peer once it proved who it is.
    pub(super) fn take(&mut self, batch: &[u8], output: &mut Vec<u8>) -> Result<Option<PeerInfo>, LinkError> {
        let Some((peer, hello)) = &self.peer else {
            let peer = self.read_hello(batch)?;
            let mut hello = Vec::new();
            push_batch(&[batch], &mut hello);
            let proof = self.proof(self.info.role, &self.hello, &hello);
            push_batch(&[&proof.finalize().into_bytes()], output);
            self.peer = Some((peer, hello));
            return Ok(None);
        };
        // Compares in constant time.
        self.proof(peer.role, hello, &self.hello)
            .verify_slice(batch)
            .map_err(|_| LinkError::Proof { key_id: peer.key_id })?;
        Ok(Some(peer.clone()))
    }

    fn read_hello(&self, batch: &[u8]) -> Result<PeerInfo, LinkError> {
        let rest = batch.strip_prefix(MAGIC).ok_or(LinkError::Magic)?;
        let ([a0, a1, b0, b1], archive) = rest
            .split_first_chunk::<4>()
            .ok_or(LinkError::Hello("ends before its versions"))?;
        let (min, max) = (u16::from_le_bytes([*a0, *a1]), u16::from_le_bytes([*b0, *b1]));
        if min > LINK_VERSION || max < LINK_VERSION {
            return Err(LinkError::Version { min, max });
        }
        let malformed = LinkError::Hello("not an archive of its version");
        let archived = frame::access::<ArchivedPeerInfo>(archive).map_err(|_| malformed.clone())?;
        let mut peer =
            rkyv::deserialize::<PeerInfo, rkyv::rancor::Failure>(archived).map_err(|_| malformed)?;
        (peer.version_min, peer.version_max) = (min, max);
        self.check(&peer)?;
        Ok(peer)
    }

    fn check(&self, peer: &PeerInfo) -> Result<(), LinkError> {
        let other = if self.info.role == LinkRole::Gateway as u8 {
            LinkRole::Router
        } else {
            LinkRole::Gateway
        };
        if peer.role != other as u8 {
            return Err(LinkError::Role(peer.role));
        }
        let (theirs, ours) = (peer.cluster_id, self.info.cluster_id);
        if theirs != 0 && ours != 0 && theirs != ours {
            return Err(LinkError::Cluster { theirs, ours });
        }
        let (theirs, ours) = (peer.key_id, self.info.key_id);
        if theirs != ours {
            return Err(LinkError::KeyId { theirs, ours });
        }
        self.check_bus(peer)?;
        if !peer.node.is_empty() && NodeId::new(&peer.node).is_err() {
            return Err(LinkError::Hello("its name is no node id"));
        }
        if peer.role == LinkRole::Router as u8 && (!peer.lanes.is_power_of_two() || peer.partitions == 0) {
            return Err(LinkError::Hello(
                "lane count is no power of two, or there is no partition",
            ));
        }
        if peer.shard >= peer.shards.max(1) || peer.shards > SHARDS_MAX {
            return Err(LinkError::Hello(
                "shard number is not below its shard count, or there are more than 1024",
            ));
        }
        Ok(())
    }

    fn check_bus(&self, peer: &PeerInfo) -> Result<(), LinkError> {
        let is_apart = |info: &PeerInfo| info.features & feature::BUS_APART != 0;
        let theirs_apart = is_apart(peer);
        if theirs_apart != is_apart(&self.info) {
            return Err(LinkError::Bus { theirs_apart });
        }
        let (theirs, ours) = (peer.partitions, self.info.partitions);
        if theirs != 0 && ours != 0 && theirs != ours {
            return Err(LinkError::Partitions { theirs, ours });
        }
        Ok(())
    }

    fn proof(&self, prover: u8, own: &[u8], other: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret.key).expect("HMAC takes keys of every length");
        mac.update(&[prover]);
        mac.update(own);
        mac.update(other);
        mac
    }
}

/// Appends a batch that consists of `parts`.
pub(super) fn push_batch(parts: &[&[u8]], into: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    into.reserve(4 + length);
    into.extend((length as u32).to_le_bytes());
    for part in parts {
        into.extend_from_slice(part);
    }
}
