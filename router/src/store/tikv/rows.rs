//! Rows of the TiKV store: what each says, and its body ([`super::value`] puts version and CRC before it).
//!
//! Numbers are little-endian. A message's body ends with the very frame that is published; a change of a group's members
//! stands in its message's row once more, so that whoever mends a commit that is in pieces can make it again.

use corelane_protocol::id::{Lane, UserId};
use corelane_router_core::append::Head;

use super::super::OutboxRow;
use super::super::rows::{OutboxEntries, decode_entries, encode_entries};
use super::keys::ConvKey;
pub(super) use super::value::Value;
use super::value::{Reader, numbers, push_name};

/// Head of a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HeadRow {
    /// The head.
    pub(super) head: Head,
    /// Members now; 0 for direct conversations.
    pub(super) members: u64,
    /// Whether it is too large for recent rows.
    pub(super) large: bool,
    /// Boot of the router that wrote it last.
    pub(super) writer: u64,
    /// First place that its last commit wrote.
    pub(super) first_seq: u64,
    /// Start timestamp of that commit.
    pub(super) commit: u64,
}

/// Who joins and who leaves a group by a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// Joins, made first.
    pub(super) join: Vec<UserId>,
    /// Leaves.
    pub(super) leave: Vec<UserId>,
}

impl Moves {
    /// Names with their lengths before them; a length of 0 stands between joins and leaves.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.join
            .iter()
            .for_each(|user| push_name(&mut bytes, user.as_str()));
        bytes.push(0);
        self.leave
            .iter()
            .for_each(|user| push_name(&mut bytes, user.as_str()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut moves = Self::default();
        let mut reader = Reader::new(bytes);
        loop {
            match reader.name()?.as_str() {
                "" => break,
                name => moves.join.push(UserId::new(name).ok()?),
            }
        }
        while !reader.is_empty() {
            moves.leave.push(UserId::new(&reader.name()?).ok()?);
        }
        Some(moves)
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MessageRow {
    /// Countable messages up to it.
    pub(super) n: u64,
    /// Hash of what it says.
    pub(super) hash: u64,
    /// Store time, ms since 1970.
    pub(super) time_ms: u64,
    /// Message flags.
    pub(super) flags: u16,
    /// The sender's id for it.
    pub(super) client_id: [u8; 16],
    /// Who sent it; empty for a void.
    pub(super) sender: String,
    /// For a change of a group's members: which.
    pub(super) moves: Option<Moves>,
    /// The `Message` frame.
    pub(super) frame: Vec<u8>,
}

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DedupeRow {
    /// Where its message is.
    pub(super) seq: u64,
    /// Hash of what it said.
    pub(super) hash: u64,
}

/// A stay in a group, and what its user read. In direct conversations only the latter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MemberRow {
    /// Place at which he joined; 0 in direct conversations.
    pub(super) join_seq: u64,
    /// Place at which he left; 0 for who is there.
    pub(super) leave_seq: u64,
    /// Role.
    pub(super) role: u8,
    /// Read up to here.
    pub(super) read_seq: u64,
    /// Countable messages up to there.
    pub(super) read_n: u64,
    /// Hidden for him up to here.
    pub(super) deleted_to: u64,
    /// Last place at which he was named.
    pub(super) mention_seq: u64,
    /// Bucket of his row in `changed`; 0 for none.
    pub(super) changed_bucket: u64,
    /// Settings, opaque.
    pub(super) settings: Vec<u8>,
}

impl MemberRow {
    /// Whether he is in the group.
    pub(super) const fn is_present(&self) -> bool {
        self.join_seq > 0 && self.leave_seq == 0
    }
}

/// Messages of one commit that may not have been delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outbox {
    /// Boot of the router that wrote it.
    pub(super) writer: u64,
    /// Conversations with first and last place.
    pub(super) entries: OutboxEntries,
}

impl Outbox {
    /// As the port's, with its id and lane, which stand in its key.
    pub(super) fn named(self, id: u64, lane: Lane) -> OutboxRow {
        OutboxRow {
            id,
            lane,
            writer: self.writer,
            entries: self.entries,
        }
    }
}

/// What the store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cluster {
    /// Drawn when it was made.
    pub(super) id: u64,
    /// Epoch of the log.
    pub(super) epoch: u64,
    /// Lanes.
    pub(super) lanes: u16,
}

/// Who collects garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Collector {
    /// Boot of the router.
    pub(super) holder: u64,
    /// Until when, ms of the timestamp oracle.
    pub(super) until_ms: u64,
}

impl Value for HeadRow {
    const NAME: &'static str = "head";

    fn write(&self, body: &mut Vec<u8>) {
        let head = self.head;
        numbers(
            body,
            &[
                head.seq,
                head.n,
                head.floor_seq,
                head.conv_version,
                head.recent_bucket,
            ],
        );
        numbers(body, &[self.members, self.writer, self.first_seq, self.commit]);
        body.push(u8::from(self.large));
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        let head = Head {
            seq: body.u64()?,
            n: body.u64()?,
            floor_seq: body.u64()?,
            conv_version: body.u64()?,
            recent_bucket: body.u64()?,
        };
        Some(Self {
            head,
            members: body.u64()?,
            writer: body.u64()?,
            first_seq: body.u64()?,
            commit: body.u64()?,
            large: body.u8()? != 0,
        })
    }
}

impl Value for MessageRow {
    const NAME: &'static str = "message";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.n, self.hash, self.time_ms]);
        body.extend(self.flags.to_le_bytes());
        body.extend(self.client_id);
        push_name(body, &self.sender);
        let moves = self.moves.as_ref().map_or_else(Vec::new, Moves::encode);
        let length = u32::try_from(moves.len()).expect("a group has at most 10,000 members");
        body.extend(length.to_le_bytes());
        body.extend(moves);
        body.extend(&self.frame);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            n: body.u64()?,
            hash: body.u64()?,
            time_ms: body.u64()?,
            flags: body.u16()?,
            client_id: body.take()?,
            sender: body.name()?,
            moves: match body.u32()? {
                0 => None,
                length => Some(Moves::decode(body.bytes(usize::try_from(length).ok()?)?)?),
            },
            frame: body.rest(),
        })
    }
}

impl Value for DedupeRow {
    const NAME: &'static str = "dedupe";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.seq, self.hash]);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            seq: body.u64()?,
            hash: body.u64()?,
        })
    }
}

impl Value for MemberRow {
    const NAME: &'static str = "member";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.join_seq, self.leave_seq, self.read_seq, self.read_n]);
        numbers(body, &[self.deleted_to, self.mention_seq, self.changed_bucket]);
        body.push(self.role);
        body.extend(&self.settings);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            join_seq: body.u64()?,
            leave_seq: body.u64()?,
            read_seq: body.u64()?,
            read_n: body.u64()?,
            deleted_to: body.u64()?,
            mention_seq: body.u64()?,
            changed_bucket: body.u64()?,
            role: body.u8()?,
            settings: body.rest(),
        })
    }
}

impl Value for Outbox {
    const NAME: &'static str = "outbox";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.writer]);
        body.extend(encode_entries(&self.entries));
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            writer: body.u64()?,
            entries: decode_entries(&body.rest())?,
        })
    }
}

impl Value for Cluster {
    const NAME: &'static str = "cluster";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.id, self.epoch]);
        body.extend(self.lanes.to_le_bytes());
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: body.u64()?,
            epoch: body.u64()?,
            lanes: body.u16()?,
        })
    }
}

impl Value for Collector {
    const NAME: &'static str = "collector";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.holder, self.until_ms]);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            holder: body.u64()?,
            until_ms: body.u64()?,
        })
    }
}

/// A place of a mark that a terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeliveredRow(pub(super) u64);

impl Value for DeliveredRow {
    const NAME: &'static str = "delivered";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.0]);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        body.u64().map(Self)
    }
}

/// Ids of a lane up to this time, in ms since 1970, may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForgottenRow(pub(super) u64);

impl Value for ForgottenRow {
    const NAME: &'static str = "forgotten";

    fn write(&self, body: &mut Vec<u8>) {
        numbers(body, &[self.0]);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        body.u64().map(Self)
    }
}

/// A row of `recent`, `changed` or `large`: its key says everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed;

impl Value for Listed {
    const NAME: &'static str = "list";

    fn write(&self, _: &mut Vec<u8>) {}

    fn read(_: &mut Reader<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// Adds a place to the entries of an outbox row.
pub(super) fn add_entry(entries: &mut OutboxEntries, (app, conv): &ConvKey, seq: u64) {
    let known = entries
        .iter_mut()
        .find(|(known_app, known_conv, ..)| known_app == app && known_conv == conv);
    match known {
        Some((_, _, first, last)) => (*first, *last) = ((*first).min(seq), (*last).max(seq)),
        None => entries.push((*app, conv.clone(), seq, seq)),
    }
}

#[cfg(test)]
mod tests {
    use corelane_protocol::id::{AppId, ConvId};

    use super::super::value::crc;
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    fn u64s(numbers: &[u64]) -> String {
        numbers.iter().map(|number| hex(&number.to_le_bytes())).collect()
    }

    /// The stored bytes without version and CRC, and that they come back.
    fn body<V: Value + PartialEq + std::fmt::Debug>(row: &V) -> String {
        let bytes = row.encode(b"key");
        assert_eq!(bytes[0], 1, "version");
        assert_eq!(bytes[1..5], crc(b"key", &bytes[5..]).to_le_bytes());
        assert_eq!(&V::decode(b"key", &bytes).unwrap(), row);
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x10;
            assert!(V::decode(b"key", &spoilt).is_err(), "byte {at}");
            assert!(V::decode(b"key", &bytes[..at]).is_err(), "{at} bytes");
        }
        assert!(V::decode(b"other key", &bytes).is_err());
        hex(&bytes[5..])
    }

    /// Stored data depends on these bytes.
    #[test]
    fn rows_are_these_bytes() {
        let head = Head {
            seq: 1,
            n: 2,
            floor_seq: 3,
            conv_version: 4,
            recent_bucket: 5,
        };
        let row = HeadRow {
            head,
            members: 6,
            large: true,
            writer: 7,
            first_seq: 8,
            commit: 9,
        };
        assert_eq!(body(&row), u64s(&[1, 2, 3, 4, 5, 6, 7, 8, 9]) + "01");
        let message = MessageRow {
            n: 1,
            hash: 2,
            time_ms: 3,
            flags: 0x0405,
            client_id: [6; 16],
            sender: "bob".to_owned(),
            moves: None,
            frame: vec![8, 9],
        };
        let sent = format!("{}0504{}03626f62", u64s(&[1, 2, 3]), "06".repeat(16));
        assert_eq!(body(&message), format!("{sent}000000000809"));
        let user = |name| UserId::new(name).unwrap();
        let change = |join, leave| MessageRow {
            moves: Some(Moves { join, leave }),
            ..message.clone()
        };
        assert_eq!(
            body(&change(vec![user("a"), user("bc")], vec![user("d")])),
            format!("{sent}080000000161026263000164") + "0809"
        );
        assert_eq!(
            body(&change(Vec::new(), Vec::new())),
            format!("{sent}01000000000809")
        );
        assert_eq!(body(&DedupeRow { seq: 1, hash: 2 }), u64s(&[1, 2]));
        let member = MemberRow {
            join_seq: 1,
            leave_seq: 2,
            role: 8,
            read_seq: 3,
            read_n: 4,
            deleted_to: 5,
            mention_seq: 6,
            changed_bucket: 7,
            settings: vec![9],
        };
        assert_eq!(body(&member), u64s(&[1, 2, 3, 4, 5, 6, 7]) + "0809");
        assert_eq!(body(&DeliveredRow(4)), u64s(&[4]));
        let cluster = Cluster {
            id: 1,
            epoch: 2,
            lanes: 128,
        };
        assert_eq!(body(&cluster), u64s(&[1, 2]) + "8000");
        let collector = Collector {
            holder: 1,
            until_ms: 2,
        };
        assert_eq!(body(&collector), u64s(&[1, 2]));
        assert_eq!(body(&ForgottenRow(5)), u64s(&[5]));
        assert_eq!(body(&Listed), "");
        let outbox = Outbox {
            writer: 1,
            entries: vec![(AppId(2), ConvId::direct(&user("a"), &user("b")), 3, 4)],
        };
        assert_eq!(
            body(&outbox),
            u64s(&[1]) + "02000000040101" + "6162" + &u64s(&[3, 4])
        );
    }

    #[test]
    fn the_checksum_is_this_one() {
        assert_eq!(
            hex(&DeliveredRow(4).encode(b"key")),
            "01d0905241".to_owned() + &u64s(&[4])
        );
    }

    #[test]
    fn an_outbox_row_has_one_entry_per_conversation() {
        let user = |name: &str| UserId::new(name).unwrap();
        let conv = |name| (AppId(1), ConvId::direct(&user("a"), &user(name)));
        let mut entries = Vec::new();
        for (name, seq) in [("b", 3), ("c", 9), ("b", 5), ("b", 4)] {
            add_entry(&mut entries, &conv(name), seq);
        }
        let places: Vec<_> = entries
            .iter()
            .map(|(_, _, first, last)| (*first, *last))
            .collect();
        assert_eq!(places, [(3, 5), (9, 9)]);
    }
}
