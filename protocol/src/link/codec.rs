//! One end of a link, without its socket: handshake, batches, credit.
//!
//! Owns the bytes that are on their way out and the part of a batch that has come in so far; both are bounded
//! (by credit, and by [`LINK_BATCH_BYTES_MAX`]). Used by gateway shards and routers alike.
//!
//! ```text
//! batch = length u32 | payload          first the hello, second the proof (handshake.rs), then records
//! ```
//!
//! Feed what was read; send what [`LinkCodec::output`] gives. Records pushed before the other end proved who it is
//! wait. What was fed counts as taken, and half a credit of it is granted again: queues behind the codec have bounds of
//! their own and answer what they cannot take, and an end that stops feeding stops granting.

use super::body::ArchivedCredit;
use super::credit::{self, Allowance};
pub use super::credit::{CREDIT_BYTES, CREDIT_RECORDS, NoCredit, Room};
use super::handshake::{HANDSHAKE_BATCH_BYTES_MAX, Handshake, push_batch};
pub use super::handshake::{LINK_VERSION, LinkError, LinkRole, LinkSecret, PeerInfo};
use super::record::{Record, RecordKind};
use crate::frame;
use crate::limits::LINK_BATCH_BYTES_MAX;

/// Bytes of room for an incomplete batch that are kept once it is complete.
const INPUT_BYTES_KEPT: usize = 64 * 1024;

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

/// One end of a link.
#[derive(Debug)]
pub struct LinkCodec {
    /// Until it is established.
    handshake: Option<Box<Handshake>>,
    /// From then on.
    peer: Option<PeerInfo>,
    /// Incomplete batch.
    input: Vec<u8>,
    /// Our part of the handshake, on its way out.
    greeting: Vec<u8>,
    /// Complete batches of records on their way out, once established.
    sealed: Vec<u8>,
    /// Records of the batch that is open.
    open: Vec<u8>,
    room: Room,
    allowance: Allowance,
}

impl LinkCodec {
    /// An end that says `info` of itself; its hello is the first output. `info.role`, versions, key id and nonce are
    /// set here. `nonce` is random and never used twice.
    pub fn new(role: LinkRole, info: PeerInfo, secret: LinkSecret, nonce: [u8; 16]) -> Self {
        let handshake = Handshake::new(role, info, secret, nonce);
        Self {
            greeting: handshake.hello().to_vec(),
            handshake: Some(Box::new(handshake)),
            peer: None,
            input: Vec::new(),
            sealed: Vec::new(),
            open: Vec::new(),
            room: Room::first(),
            allowance: Allowance::first(),
        }
    }

    /// Takes what was read from the socket.
    ///
    /// # Errors
    ///
    /// [`LinkError`]: close; nothing of this call's remainder was taken.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn FnMut(LinkEvent<'_>)) -> Result<(), LinkError> {
        if self.input.is_empty() {
            let unread = self.take_batches(bytes, sink)?;
            self.input.extend_from_slice(unread);
        } else {
            let mut gathered = std::mem::take(&mut self.input);
            gathered.extend_from_slice(bytes);
            let unread_bytes = self.take_batches(&gathered, sink)?.len();
            gathered.drain(..gathered.len() - unread_bytes);
            if gathered.is_empty() {
                gathered.shrink_to(INPUT_BYTES_KEPT);
            }
            self.input = gathered;
        }
        self.grant();
        Ok(())
    }

    /// Appends a record to the open batch.
    ///
    /// # Errors
    ///
    /// [`NoCredit`]: not taken. Only for kinds that carry payload (`ClientFrame`, `ServerFrame`, `BusBatch`); control
    /// records always fit.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), NoCredit> {
        let bytes = record.wire_bytes();
        debug_assert!(
            bytes <= LINK_BATCH_BYTES_MAX,
            "frames, pages and bus batches are cut below the batch limit"
        );
        if credit::is_counted(record.kind) {
            self.room.spend(bytes)?;
        }
        if self.open.len() + bytes > LINK_BATCH_BYTES_MAX {
            self.seal();
        }
        record.encode(&mut self.open);
        Ok(())
    }

    /// Whether a record with a body of this length would be taken now.
    pub const fn has_room_for(&self, body_bytes: usize) -> bool {
        self.room.records > 0 && self.room.bytes >= (body_bytes + 256) as u64
    }

    /// What may be sent before the other end grants more.
    pub const fn room(&self) -> Room {
        self.room
    }

    /// Moves everything that is to be sent to the end of `into`. Records wait until the link is established.
    pub fn output(&mut self, into: &mut Vec<u8>) {
        into.append(&mut self.greeting);
        if self.is_established() {
            self.seal();
            into.append(&mut self.sealed);
        }
    }

    /// Whether [`Self::output`] would give anything.
    pub const fn has_output(&self) -> bool {
        !self.greeting.is_empty()
            || (self.is_established() && !(self.open.is_empty() && self.sealed.is_empty()))
    }

    /// Whether both ends have proved who they are.
    pub const fn is_established(&self) -> bool {
        self.peer.is_some()
    }

    /// What the other end said of itself, once it is established.
    pub const fn peer(&self) -> Option<&PeerInfo> {
        self.peer.as_ref()
    }

    /// What the other end says of itself, from its hello on: not proved before [`Self::is_established`].
    pub fn claimed(&self) -> Option<&PeerInfo> {
        let claimed = || self.handshake.as_ref()?.claimed();
        self.peer.as_ref().or_else(claimed)
    }

    /// Takes all complete batches; returns what is left.
    fn take_batches<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: &mut dyn FnMut(LinkEvent<'_>),
    ) -> Result<&'a [u8], LinkError> {
        let mut unread = bytes;
        while let Some((length, rest)) = unread.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            self.check_length(length)?;
            let Some((batch, rest)) = rest.split_at_checked(length) else {
                break;
            };
            unread = rest;
            self.take_batch(batch, sink)?;
        }
        Ok(unread)
    }

    const fn check_length(&self, length: usize) -> Result<(), LinkError> {
        if self.handshake.is_some() && length > HANDSHAKE_BATCH_BYTES_MAX {
            return Err(LinkError::Magic);
        }
        if length > LINK_BATCH_BYTES_MAX {
            return Err(LinkError::BatchLength { bytes: length });
        }
        Ok(())
    }

    fn take_batch(&mut self, batch: &[u8], sink: &mut dyn FnMut(LinkEvent<'_>)) -> Result<(), LinkError> {
        let Some(handshake) = &mut self.handshake else {
            return self.take_records(batch, sink);
        };
        if let Some(peer) = handshake.take(batch, &mut self.greeting)? {
            self.handshake = None;
            sink(LinkEvent::Established(self.peer.insert(peer)));
        }
        Ok(())
    }

    fn take_records(&mut self, batch: &[u8], sink: &mut dyn FnMut(LinkEvent<'_>)) -> Result<(), LinkError> {
        let mut rest = batch;
        while !rest.is_empty() {
            let (record, after) = Record::split(rest)?;
            rest = after;
            if record.known_kind() == Some(RecordKind::Credit) {
                let credit =
                    frame::access::<ArchivedCredit>(record.body).map_err(|_| LinkError::CreditBody)?;
                self.room
                    .grow(credit.bytes.to_native(), credit.records.to_native());
                sink(LinkEvent::Room);
                continue;
            }
            if credit::is_counted(record.kind) {
                self.allowance.take(record.wire_bytes())?;
            }
            sink(LinkEvent::Record(record));
        }
        Ok(())
    }

    /// Gives the peer new credit when it is due.
    fn grant(&mut self) {
        let Some(credit) = self.allowance.due() else {
            return;
        };
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
            push_batch(&[&self.open], &mut self.sealed);
            self.open.clear();
        }
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
                            seen.push(format!("{} {}", record.user, record.body.len()));
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
    fn who_the_other_end_claims_to_be_is_known_before_this_end_has_proved_anything() {
        let (mut gateway, mut router) = pair(b"key", b"another");
        assert_eq!(gateway.claimed(), None);
        let mut hello = Vec::new();
        router.output(&mut hello);
        gateway.feed(&hello, &mut |_| ()).unwrap();
        assert_eq!(gateway.claimed().map(|peer| peer.node.as_str()), Some("n"));
        assert!(!gateway.is_established());
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
