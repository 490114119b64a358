//! One end of a link, without its socket: handshake, batches, credit.
//!
//! Owns the bytes that are on their way out and the part of a batch that has come in so far; both are bounded
//! (by credit, and by [`LINK_BATCH_BYTES_MAX`]). Used by gateway shards and routers alike.
//!
//! ```text
//! batch   = length u32 | payload          first = "CLNK" hello · second = proof · then records
//! proof   = HMAC-SHA256(secret, role of the prover | prover's hello | other's hello)
//! ```
//!
//! Both sides prove that they know the secret before any record is believed. Credit counts bytes and records of
//! the kinds that carry payload; what a peer may send beyond it is an error, so memory is bounded.

use hmac::{Hmac, KeyInit, Mac};
use rkyv::{Archive, Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use super::body::{ArchivedCredit, Credit};
use super::record::{Record, RecordError, RecordKind};
use crate::frame;
use crate::limits::LINK_BATCH_BYTES_MAX;

/// First bytes of a hello.
const MAGIC: &[u8; 4] = b"CLNK";
/// Version of the link that this build speaks.
pub const LINK_VERSION: u16 = 1;
/// Bytes that may be on their way before the first grant, in each direction.
pub const CREDIT_BYTES: u32 = 8 * 1024 * 1024;
/// Records that may be on their way before the first grant, in each direction.
pub const CREDIT_RECORDS: u32 = 16_384;
/// Largest hello, in bytes.
const HELLO_BYTES_MAX: usize = 1024;

const _: () = assert!(
    LINK_BATCH_BYTES_MAX < CREDIT_BYTES as usize,
    "the largest record needs credit to be sent at all"
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

/// What an end says of itself.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerInfo {
    /// [`LinkRole`].
    pub role: u8,
    /// Lowest link version it speaks.
    pub version_min: u16,
    /// Highest link version it speaks.
    pub version_max: u16,
    /// Optional features it knows.
    pub features: u64,
    /// The cluster; 0 if it does not know yet (a gateway takes the router's).
    pub cluster_id: u64,
    /// Its name.
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
    /// Partitions of a gateway's topic (router).
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
    /// It uses another secret, or does not know it.
    #[error(
        "peer does not know the link secret (its key id is {key_id}); check that both ends use the same link.key"
    )]
    Proof {
        /// The key id it named.
        key_id: u8,
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
}

/// Something the other end said.
#[derive(Debug)]
pub enum LinkEvent<'a> {
    /// It proved who it is. Comes once, before any record.
    Established(&'a PeerInfo),
    /// A record.
    Record(Record<'a>),
    /// The other end can take more: what [`LinkCodec::push`] refused may fit now.
    Room,
}

/// A record was not taken for lack of credit. Keep it and try again after [`LinkEvent::Room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no credit on the link")]
pub struct NoCredit;

/// One end of a link.
#[derive(Debug)]
pub struct LinkCodec {
    info: PeerInfo,
    secret: LinkSecret,
    hello: Vec<u8>,
    peer: Option<(PeerInfo, Vec<u8>)>,
    established: bool,
    /// Incomplete batch.
    input: Vec<u8>,
    /// Complete batches on their way out.
    output: Vec<u8>,
    /// Records of the batch that is open.
    open: Vec<u8>,
    send_bytes: u64,
    send_records: u64,
    /// What the peer may still send.
    grant_bytes: u64,
    grant_records: u64,
    /// Taken since the last grant.
    taken_bytes: u32,
    taken_records: u32,
}

impl LinkCodec {
    /// An end that says `info` of itself. `info.role`, versions and key id are set here.
    pub fn new(role: LinkRole, mut info: PeerInfo, secret: LinkSecret, nonce: [u8; 16]) -> Self {
        info.role = role as u8;
        (info.version_min, info.version_max) = (LINK_VERSION, LINK_VERSION);
        info.key_id = secret.key_id;
        info.nonce = nonce;
        let hello = frame::archive(&info).to_vec();
        let mut output = Vec::new();
        push_batch(&[MAGIC, &hello], &mut output);
        Self {
            info,
            secret,
            hello,
            peer: None,
            established: false,
            input: Vec::new(),
            output,
            open: Vec::new(),
            send_bytes: u64::from(CREDIT_BYTES),
            send_records: u64::from(CREDIT_RECORDS),
            grant_bytes: u64::from(CREDIT_BYTES),
            grant_records: u64::from(CREDIT_RECORDS),
            taken_bytes: 0,
            taken_records: 0,
        }
    }

    /// Takes what was read from the socket.
    ///
    /// # Errors
    ///
    /// [`LinkError`]: close; nothing of this call's remainder was taken.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn FnMut(LinkEvent<'_>)) -> Result<(), LinkError> {
        let mut gathered = std::mem::take(&mut self.input);
        let mut unread: &[u8] = if gathered.is_empty() {
            bytes
        } else {
            gathered.extend_from_slice(bytes);
            &gathered
        };
        while let Some((length, rest)) = unread.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let limit = if self.established {
                LINK_BATCH_BYTES_MAX
            } else {
                HELLO_BYTES_MAX
            };
            if length > limit {
                return Err(if self.established {
                    LinkError::BatchLength { bytes: length }
                } else {
                    LinkError::Magic
                });
            }
            let Some((batch, rest)) = rest.split_at_checked(length) else {
                break;
            };
            unread = rest;
            self.take_batch(batch, sink)?;
        }
        self.input = unread.to_vec();
        self.grant();
        Ok(())
    }

    /// Appends a record to the open batch.
    ///
    /// # Errors
    ///
    /// [`NoCredit`]: not taken. Only for kinds that carry payload; control records always fit.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), NoCredit> {
        let bytes = record.wire_bytes();
        if is_credited(record.kind) {
            if self.send_bytes < bytes as u64 || self.send_records == 0 {
                return Err(NoCredit);
            }
            self.send_bytes -= bytes as u64;
            self.send_records -= 1;
        }
        if self.open.len() + bytes > LINK_BATCH_BYTES_MAX {
            self.seal();
        }
        record.encode(&mut self.open);
        Ok(())
    }

    /// Whether a record with a body of this length would be taken now.
    pub fn has_room_for(&self, body_bytes: usize) -> bool {
        self.send_records > 0 && self.send_bytes >= (body_bytes + 256) as u64
    }

    /// Moves everything that is to be sent to the end of `into`. Records wait until the link is established.
    pub fn output(&mut self, into: &mut Vec<u8>) {
        if self.established {
            self.seal();
        }
        into.append(&mut self.output);
    }

    /// Whether [`Self::output`] would give anything.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty() || (self.established && !self.open.is_empty())
    }

    /// Whether both ends have proved who they are.
    pub const fn is_established(&self) -> bool {
        self.established
    }

    /// What the other end said of itself, once it is established.
    pub fn peer(&self) -> Option<&PeerInfo> {
        self.peer
            .as_ref()
            .map(|(info, _)| info)
            .filter(|_| self.established)
    }

    fn take_batch(&mut self, batch: &[u8], sink: &mut dyn FnMut(LinkEvent<'_>)) -> Result<(), LinkError> {
        if self.established {
            return self.take_records(batch, sink);
        }
        let Some((peer, hello)) = &self.peer else {
            return self.take_hello(batch);
        };
        let mut mac = self.mac();
        mac.update(&[peer.role]);
        mac.update(hello);
        mac.update(&self.hello);
        mac.verify_slice(batch)
            .map_err(|_| LinkError::Proof { key_id: peer.key_id })?;
        self.established = true;
        sink(LinkEvent::Established(peer));
        Ok(())
    }

    fn take_hello(&mut self, batch: &[u8]) -> Result<(), LinkError> {
        let hello = batch.strip_prefix(MAGIC).ok_or(LinkError::Magic)?;
        let archived = frame::access::<ArchivedPeerInfo>(hello)
            .map_err(|_| LinkError::Hello("not an archive of its version"))?;
        let peer = rkyv::deserialize::<PeerInfo, rkyv::rancor::Failure>(archived)
            .map_err(|_| LinkError::Hello("not an archive of its version"))?;
        let other = if self.info.role == LinkRole::Gateway as u8 {
            LinkRole::Router
        } else {
            LinkRole::Gateway
        };
        if peer.role != other as u8 {
            return Err(LinkError::Role(peer.role));
        }
        if peer.version_min > LINK_VERSION || peer.version_max < LINK_VERSION {
            return Err(LinkError::Version {
                min: peer.version_min,
                max: peer.version_max,
            });
        }
        if peer.cluster_id != 0 && self.info.cluster_id != 0 && peer.cluster_id != self.info.cluster_id {
            return Err(LinkError::Cluster {
                theirs: peer.cluster_id,
                ours: self.info.cluster_id,
            });
        }
        if peer.role == LinkRole::Router as u8 && (!peer.lanes.is_power_of_two() || peer.partitions == 0) {
            return Err(LinkError::Hello(
                "lane count is no power of two, or there is no partition",
            ));
        }
        if peer.shard >= peer.shards.max(1) || usize::from(peer.shards) > 1024 {
            return Err(LinkError::Hello("shard number is not below its shard count"));
        }
        let mut mac = self.mac();
        mac.update(&[self.info.role]);
        mac.update(&self.hello);
        mac.update(hello);
        push_batch(&[&mac.finalize().into_bytes()], &mut self.output);
        self.peer = Some((peer, hello.to_vec()));
        Ok(())
    }

    fn take_records(&mut self, batch: &[u8], sink: &mut dyn FnMut(LinkEvent<'_>)) -> Result<(), LinkError> {
        let mut rest = batch;
        while !rest.is_empty() {
            let (record, after) = Record::split(rest)?;
            rest = after;
            if record.known_kind() == Some(RecordKind::Credit) {
                if let Ok(credit) = frame::access::<ArchivedCredit>(record.body) {
                    self.send_bytes = self
                        .send_bytes
                        .saturating_add(u64::from(credit.bytes.to_native()));
                    self.send_records = self
                        .send_records
                        .saturating_add(u64::from(credit.records.to_native()));
                    sink(LinkEvent::Room);
                }
                continue;
            }
            if is_credited(record.kind) {
                let bytes = record.wire_bytes() as u64;
                if self.grant_bytes < bytes || self.grant_records == 0 {
                    return Err(LinkError::Credit);
                }
                self.grant_bytes -= bytes;
                self.grant_records -= 1;
                self.taken_bytes += bytes as u32;
                self.taken_records += 1;
            }
            sink(LinkEvent::Record(record));
        }
        Ok(())
    }

    /// Gives the peer new credit once half of it is used up. What was fed was taken: queues behind have bounds of
    /// their own and answer what they cannot take.
    fn grant(&mut self) {
        if self.taken_bytes < CREDIT_BYTES / 2 && self.taken_records < CREDIT_RECORDS / 2 {
            return;
        }
        let credit = Credit {
            bytes: self.taken_bytes,
            records: self.taken_records,
        };
        self.grant_bytes += u64::from(self.taken_bytes);
        self.grant_records += u64::from(self.taken_records);
        (self.taken_bytes, self.taken_records) = (0, 0);
        let body = frame::archive(&credit);
        let record = Record {
            kind: RecordKind::Credit as u8,
            body: &body,
            ..Record::default()
        };
        self.push(&record).expect("credit needs no credit");
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            push_batch(&[&self.open], &mut self.output);
            self.open.clear();
        }
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(&self.secret.key).expect("HMAC takes keys of every length")
    }
}

const fn is_credited(kind: u8) -> bool {
    kind == RecordKind::ClientFrame as u8
        || kind == RecordKind::ServerFrame as u8
        || kind == RecordKind::BusBatch as u8
}

fn push_batch(parts: &[&[u8]], into: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    into.extend((length as u32).to_le_bytes());
    for part in parts {
        into.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(one: &[u8], other: &[u8]) -> (LinkCodec, LinkCodec) {
        let end = |role, key: &[u8], nonce| {
            let info = PeerInfo {
                node: "n".to_owned(),
                shards: 1,
                lanes: 8,
                partitions: 4,
                ..PeerInfo::default()
            };
            LinkCodec::new(
                role,
                info,
                LinkSecret {
                    key_id: 1,
                    key: key.to_vec(),
                },
                [nonce; 16],
            )
        };
        (end(LinkRole::Gateway, one, 1), end(LinkRole::Router, other, 2))
    }

    /// Carries bytes until both are silent, in pieces of `piece` bytes.
    fn settle(
        a: &mut LinkCodec,
        b: &mut LinkCodec,
        piece: usize,
        seen: &mut Vec<String>,
    ) -> Result<(), LinkError> {
        while a.has_output() || b.has_output() {
            for turn in 0..2 {
                let (from, to) = if turn == 0 {
                    (&mut *a, &mut *b)
                } else {
                    (&mut *b, &mut *a)
                };
                let mut bytes = Vec::new();
                from.output(&mut bytes);
                for part in bytes.chunks(piece) {
                    to.feed(part, &mut |event| match event {
                        LinkEvent::Established(peer) => seen.push(format!("established {}", peer.role)),
                        LinkEvent::Record(record) => {
                            seen.push(format!("{} {}", record.user, record.body.len()))
                        }
                        LinkEvent::Room => {}
                    })?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn records_arrive_wherever_reads_end() {
        for piece in [1, 3, 7, 1000] {
            let (mut gateway, mut router) = pair(b"key", b"key");
            let mut seen = Vec::new();
            let record = Record {
                kind: RecordKind::ClientFrame as u8,
                user: "alice",
                body: b"abc",
                ..Record::default()
            };
            gateway.push(&record).unwrap();
            settle(&mut gateway, &mut router, piece, &mut seen).unwrap();
            assert_eq!(
                seen,
                ["established 2", "established 1", "alice 3"],
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn another_secret_is_refused_before_any_record() {
        let (mut gateway, mut router) = pair(b"key", b"other");
        let mut seen = Vec::new();
        let error = settle(&mut gateway, &mut router, 100, &mut seen).unwrap_err();
        assert_eq!(error, LinkError::Proof { key_id: 1 });
        assert!(seen.is_empty());
    }

    #[test]
    fn a_sender_without_credit_keeps_its_record() {
        let (mut gateway, mut router) = pair(b"key", b"key");
        let mut seen = Vec::new();
        settle(&mut gateway, &mut router, 4096, &mut seen).unwrap();
        let body = vec![0; 1024 * 1024];
        let record = Record {
            kind: RecordKind::ClientFrame as u8,
            body: &body,
            ..Record::default()
        };
        let mut sent = 0;
        while gateway.push(&record).is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 7);
        settle(&mut gateway, &mut router, 65536, &mut seen).unwrap();
        assert!(
            gateway.push(&record).is_ok(),
            "the router took everything and granted again"
        );
    }

    #[test]
    fn a_stranger_costs_no_memory() {
        let (mut gateway, _) = pair(b"key", b"key");
        let error = gateway.feed(b"GET / HTTP/1.1\r\n\r\n", &mut |_| ()).unwrap_err();
        assert_eq!(error, LinkError::Magic);
    }
}
