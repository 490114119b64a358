//! Keys of the TiKV store: where each row lies.
//!
//! ```text
//! lane u16 BE | 'h' | app u32 BE | conv                           head
//!             | 'm' | app        | conv | seq u64 BE              message
//!             | 'd' | client id 16 B | app | conv | user          dedupe
//!             | 'g' | app        | conv | user                    membership and read mark
//!             | 'v' | app        | conv | user | terminal u8 | device   delivered mark
//!             | 'r' | app        | user | place | conv            recent: the members' rows of a conversation
//!             | 'c' | app        | user | place | conv            changed: a user's own changes
//!             | 'l' | app        | user | tag u64 BE | conv       the large groups of a user
//!             | 'o' | id u64 BE                                   outbox
//!             | 'f'                                               up to when ids are forgotten
//! 0xffff      | 'C'                                               cluster: id, lanes, epoch
//!             | 'G'                                               who collects garbage, and until when
//! ```
//!
//! `conv`, `user` and `device` stand with their length before them (u8), so that no row's key begins with another's.
//! `place` is `!bucket u64 BE | !tag u64 BE`: a scan finds the newest bucket first. The tag is a hash of the conversation,
//! because a cursor has no room for its name. A dedupe row stands by its id first: ids begin with their time, so what is
//! forgotten is one range. Rows of a conversation lie in its lane, rows of a user in his
//! ([`Keys::user_lane`]). Prefixes `t`, `b`, `a`, `p`, `e`, `w` are held for timers, blocks, calls, push devices, media
//! references and dead letters. A store may live under a prefix of its own, which stands before everything.

use corelane_protocol::hash::{content_hash, lane_of, registry_slot_of};
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};

/// A conversation with its tenant.
pub(super) type ConvKey = (AppId, ConvId);

/// What the rows of a prefix are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    Head = b'h',
    Message = b'm',
    Dedupe = b'd',
    Member = b'g',
    Delivered = b'v',
    Recent = b'r',
    Changed = b'c',
    Large = b'l',
    Outbox = b'o',
    Forgotten = b'f',
}

/// Above every lane.
const CLUSTER_LANE: u16 = u16::MAX;

/// Builds keys of one store.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Vec<u8>,
    lanes: u16,
}

/// From a key on, and up to but without another.
pub(super) type KeyRange = (Vec<u8>, Vec<u8>);

impl Keys {
    pub(super) fn new(prefix: &[u8], lanes: u16) -> Self {
        Self {
            prefix: prefix.to_vec(),
            lanes,
        }
    }

    pub(super) const fn lanes(&self) -> u16 {
        self.lanes
    }

    pub(super) fn lane(&self, (app, conv): &ConvKey) -> Lane {
        lane_of(*app, conv, self.lanes)
    }

    /// Where a user's own rows lie.
    pub(super) fn user_lane(&self, app: AppId, user: &UserId) -> Lane {
        Lane(registry_slot_of(app, user) % self.lanes.max(1))
    }

    pub(super) fn cluster(&self) -> Vec<u8> {
        self.start(CLUSTER_LANE, b'C')
    }

    pub(super) fn collector(&self) -> Vec<u8> {
        self.start(CLUSTER_LANE, b'G')
    }

    pub(super) fn head(&self, conv: &ConvKey) -> Vec<u8> {
        self.of_conv(Table::Head, conv)
    }

    pub(super) fn message(&self, conv: &ConvKey, seq: u64) -> Vec<u8> {
        let mut key = self.of_conv(Table::Message, conv);
        key.extend(seq.to_be_bytes());
        key
    }

    /// Messages from `from` to the end of the conversation.
    pub(super) fn messages_from(&self, conv: &ConvKey, from: u64) -> KeyRange {
        (
            self.message(conv, from),
            successor(&self.of_conv(Table::Message, conv)),
        )
    }

    pub(super) fn dedupe(&self, conv: &ConvKey, sender: &str, id: ClientMsgId) -> Vec<u8> {
        let mut key = self.start(self.lane(conv).0, Table::Dedupe as u8);
        key.extend(id.0);
        push_conv(&mut key, conv);
        push_name(&mut key, sender.as_bytes());
        key
    }

    /// Dedupe rows of a lane whose ids were made before `time_ms`.
    pub(super) fn dedupe_before(&self, lane: Lane, time_ms: u64) -> KeyRange {
        let start = self.start(lane.0, Table::Dedupe as u8);
        let mut end = start.clone();
        end.extend(time_ms.to_be_bytes().into_iter().skip(2));
        (start, end)
    }

    /// When the id in the key of a dedupe row was made, in ms since 1970.
    pub(super) fn dedupe_time_of(&self, lane: Lane, key: &[u8]) -> Option<u64> {
        let id = key.strip_prefix(self.start(lane.0, Table::Dedupe as u8).as_slice())?;
        Some(ClientMsgId(*id.first_chunk::<16>()?).time_ms())
    }

    /// Up to when ids of a lane are forgotten.
    pub(super) fn forgotten(&self, lane: Lane) -> Vec<u8> {
        self.start(lane.0, Table::Forgotten as u8)
    }

    pub(super) fn member(&self, conv: &ConvKey, user: &UserId) -> Vec<u8> {
        let mut key = self.of_conv(Table::Member, conv);
        push_name(&mut key, user.as_str().as_bytes());
        key
    }

    pub(super) fn members(&self, conv: &ConvKey) -> KeyRange {
        range(self.of_conv(Table::Member, conv))
    }

    pub(super) fn delivered(&self, conv: &ConvKey, user: &UserId, terminal: u8, device: &str) -> Vec<u8> {
        let mut key = self.of_conv(Table::Delivered, conv);
        push_name(&mut key, user.as_str().as_bytes());
        key.push(terminal);
        push_name(&mut key, device.as_bytes());
        key
    }

    /// A row of [`Table::Recent`] or [`Table::Changed`].
    pub(super) fn listed(&self, table: Table, user: &UserId, bucket: u64, conv: &ConvKey) -> Vec<u8> {
        let mut key = self.of_user(table, conv.0, user);
        key.extend((!bucket).to_be_bytes());
        key.extend((!tag(conv)).to_be_bytes());
        push_name(&mut key, conv.1.as_bytes());
        key
    }

    /// Rows of a user in `table`, newest bucket first, below (`bucket`, `tag`), down to and with bucket `since`.
    pub(super) fn listed_below(
        &self,
        table: Table,
        (app, user): (AppId, &UserId),
        since: u64,
        (bucket, tag): (u64, u64),
    ) -> KeyRange {
        let of_user = self.of_user(table, app, user);
        let mut from = of_user.clone();
        from.extend((!bucket).to_be_bytes());
        from.extend((!tag).to_be_bytes());
        let mut to = of_user;
        to.extend((!since).to_be_bytes());
        // Behind the rows of the tag itself.
        (successor(&from), successor(&to))
    }

    pub(super) fn large(&self, user: &UserId, conv: &ConvKey) -> Vec<u8> {
        let mut key = self.of_user(Table::Large, conv.0, user);
        key.extend(tag(conv).to_be_bytes());
        push_name(&mut key, conv.1.as_bytes());
        key
    }

    /// A user's large groups above `tag`.
    pub(super) fn large_above(&self, app: AppId, user: &UserId, tag: u64) -> KeyRange {
        let of_user = self.of_user(Table::Large, app, user);
        let mut from = of_user.clone();
        from.extend(tag.to_be_bytes());
        (successor(&from), successor(&of_user))
    }

    pub(super) fn outbox(&self, lane: Lane, id: u64) -> Vec<u8> {
        let mut key = self.start(lane.0, Table::Outbox as u8);
        key.extend(id.to_be_bytes());
        key
    }

    /// Outbox rows of a lane behind `after`.
    pub(super) fn outbox_behind(&self, lane: Lane, after: u64) -> KeyRange {
        let end = successor(&self.start(lane.0, Table::Outbox as u8));
        match after.checked_add(1) {
            Some(from) => (self.outbox(lane, from), end),
            None => (end.clone(), end),
        }
    }

    /// All rows of a lane.
    pub(super) fn whole_lane(&self, lane: Lane) -> KeyRange {
        let mut start = self.prefix.clone();
        start.extend(lane.0.to_be_bytes());
        range(start)
    }

    /// The conversation that a row belongs to, of whichever table; `None` for outbox rows and foreign keys.
    pub(super) fn conv_of(&self, key: &[u8]) -> Option<ConvKey> {
        let rest = key.strip_prefix(self.prefix.as_slice())?;
        let (_, rest) = rest.split_first_chunk::<2>()?;
        let (table, rest) = rest.split_first()?;
        let rest = if *table == Table::Dedupe as u8 {
            rest.get(16..)?
        } else {
            rest
        };
        let (app, rest) = rest.split_first_chunk::<4>()?;
        let conv = match table {
            b'h' | b'm' | b'd' | b'g' | b'v' => take_name(rest)?.0,
            b'r' | b'c' => take_name(take_name(rest)?.1.get(16..)?)?.0,
            b'l' => take_name(take_name(rest)?.1.get(8..)?)?.0,
            _ => return None,
        };
        Some((AppId(u32::from_be_bytes(*app)), ConvId::parse(conv).ok()?))
    }

    /// The user in the key of a membership.
    pub(super) fn user_of(&self, conv: &ConvKey, key: &[u8]) -> Option<UserId> {
        let name = key.strip_prefix(self.of_conv(Table::Member, conv).as_slice())?;
        let (name, _) = take_name(name)?;
        UserId::new(std::str::from_utf8(name).ok()?).ok()
    }

    /// The seq in the key of a message.
    pub(super) fn seq_of(&self, conv: &ConvKey, key: &[u8]) -> Option<u64> {
        let seq = key.strip_prefix(self.of_conv(Table::Message, conv).as_slice())?;
        Some(u64::from_be_bytes(seq.try_into().ok()?))
    }

    /// Bucket and tag in the key of a row of [`Table::Recent`] or [`Table::Changed`].
    pub(super) fn place_of(&self, table: Table, app: AppId, user: &UserId, key: &[u8]) -> Option<(u64, u64)> {
        let rest = key.strip_prefix(self.of_user(table, app, user).as_slice())?;
        let (bucket, rest) = rest.split_first_chunk::<8>()?;
        let tag = rest.first_chunk::<8>()?;
        Some((!u64::from_be_bytes(*bucket), !u64::from_be_bytes(*tag)))
    }

    /// The id in the key of an outbox row.
    pub(super) fn outbox_of(&self, lane: Lane, key: &[u8]) -> Option<u64> {
        let id = key.strip_prefix(self.start(lane.0, Table::Outbox as u8).as_slice())?;
        Some(u64::from_be_bytes(id.try_into().ok()?))
    }

    fn start(&self, lane: u16, table: u8) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + 64);
        key.extend(&self.prefix);
        key.extend(lane.to_be_bytes());
        key.push(table);
        key
    }

    fn of_conv(&self, table: Table, conv: &ConvKey) -> Vec<u8> {
        let mut key = self.start(self.lane(conv).0, table as u8);
        push_conv(&mut key, conv);
        key
    }

    fn of_user(&self, table: Table, app: AppId, user: &UserId) -> Vec<u8> {
        let mut key = self.start(self.user_lane(app, user).0, table as u8);
        key.extend(app.0.to_be_bytes());
        push_name(&mut key, user.as_str().as_bytes());
        key
    }
}

/// Stands for a conversation in a cursor: 63 bits, so that it fits wherever a conversation's number does.
pub(super) fn tag((app, conv): &ConvKey) -> u64 {
    let mut bytes = app.0.to_le_bytes().to_vec();
    bytes.extend(conv.as_bytes());
    content_hash(&bytes) >> 1
}

fn range(start: Vec<u8>) -> KeyRange {
    let end = successor(&start);
    (start, end)
}

/// Whether a key lies in a range.
pub(super) fn is_within((from, to): &KeyRange, key: &[u8]) -> bool {
    from.as_slice() <= key && (to.is_empty() || key < to.as_slice())
}

/// The first key that does not begin with `key`; empty (no end) behind the last.
pub(super) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            break;
        }
    }
    next
}

fn push_conv(key: &mut Vec<u8>, (app, conv): &ConvKey) {
    key.extend(app.0.to_be_bytes());
    push_name(key, conv.as_bytes());
}

fn push_name(key: &mut Vec<u8>, name: &[u8]) {
    key.push(u8::try_from(name.len()).expect("ids are bounded at 130 bytes"));
    key.extend(name);
}

fn take_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use corelane_protocol::id::GroupId;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn direct() -> ConvKey {
        (AppId(3), ConvId::direct(&user("alice"), &user("bob")))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Stored data depends on these bytes.
    #[test]
    fn keys_are_these_bytes() {
        let keys = Keys::new(b"", 128);
        let conv = direct();
        let lane = keys.lane(&conv).0;
        assert_eq!(hex(&lane.to_be_bytes()), "000b");
        let named = "000000030a0105616c696365626f62";
        let at = |table: &str, rest: &str| format!("000b{table}{named}{rest}");
        assert_eq!(hex(&keys.head(&conv)), at("68", ""));
        assert_eq!(hex(&keys.message(&conv, 258)), at("6d", "0000000000000102"));
        assert_eq!(
            hex(&keys.dedupe(&conv, "bob", ClientMsgId([7; 16]))),
            format!("000b64{}{named}03626f62", "07".repeat(16))
        );
        assert_eq!(hex(&keys.member(&conv, &user("bob"))), at("67", "03626f62"));
        assert_eq!(
            hex(&keys.delivered(&conv, &user("bob"), 2, "d")),
            at("76", "03626f62020164")
        );
        assert_eq!(hex(&keys.outbox(Lane(5), 1)), "00056f0000000000000001");
        assert_eq!(hex(&keys.forgotten(Lane(5))), "000566");
        assert_eq!(hex(&keys.cluster()), "ffff43");
        assert_eq!(hex(&keys.collector()), "ffff47");
        assert_eq!(hex(&Keys::new(b"\x01\x02", 8).cluster()), "0102ffff43");
    }

    #[test]
    fn rows_of_users_are_these_bytes() {
        let keys = Keys::new(b"", 128);
        let conv = direct();
        let bob = user("bob");
        assert_eq!(hex(&keys.user_lane(AppId(3), &bob).0.to_be_bytes()), "0042");
        let tagged = tag(&conv);
        assert_eq!(format!("{tagged:016x}"), "2cecbe5d7a90beb4");
        let name = "0a0105616c696365626f62";
        let place = format!("{:016x}{:016x}", !6_u64, !tagged);
        assert_eq!(
            hex(&keys.listed(Table::Recent, &bob, 6, &conv)),
            format!("0042720000000303626f62{place}{name}")
        );
        assert_eq!(
            hex(&keys.listed(Table::Changed, &bob, 6, &conv)),
            format!("0042630000000303626f62{place}{name}")
        );
        assert_eq!(
            hex(&keys.large(&bob, &conv)),
            format!("00426c0000000303626f62{tagged:016x}{name}")
        );
    }

    #[test]
    fn every_row_names_its_conversation() {
        let keys = Keys::new(b"p", 8);
        let (conv, bob) = (direct(), user("bob"));
        for key in [
            keys.head(&conv),
            keys.message(&conv, 9),
            keys.dedupe(&conv, "alice", ClientMsgId([1; 16])),
            keys.member(&conv, &bob),
            keys.delivered(&conv, &bob, 1, ""),
            keys.listed(Table::Recent, &bob, 7, &conv),
            keys.listed(Table::Changed, &bob, 7, &conv),
            keys.large(&bob, &conv),
        ] {
            assert_eq!(keys.conv_of(&key), Some(conv.clone()));
        }
        assert_eq!(keys.conv_of(&keys.outbox(Lane(1), 7)), None);
        assert_eq!(keys.conv_of(&keys.cluster()), None);
        assert_eq!(keys.user_of(&conv, &keys.member(&conv, &bob)), Some(bob.clone()));
        assert_eq!(keys.seq_of(&conv, &keys.message(&conv, 9)), Some(9));
        assert_eq!(keys.outbox_of(Lane(1), &keys.outbox(Lane(1), 7)), Some(7));
        let place = keys.place_of(
            Table::Recent,
            AppId(3),
            &bob,
            &keys.listed(Table::Recent, &bob, 7, &conv),
        );
        assert_eq!(place, Some((7, tag(&conv))));
    }

    #[test]
    fn a_group_whose_name_begins_with_anothers_keeps_out_of_its_ranges() {
        let keys = Keys::new(b"", 1);
        let conv = |name: &str| (AppId(0), ConvId::group(&GroupId::new(name).unwrap()));
        let (short, long) = (conv("team"), conv("team2"));
        let range = keys.messages_from(&short, 1);
        let inside = |key: Vec<u8>| is_within(&range, &key);
        assert!(inside(keys.message(&short, 1)) && inside(keys.message(&short, u64::MAX)));
        assert!(!inside(keys.message(&long, 1)));
        let (from, to) = keys.members(&short);
        assert!(from <= keys.member(&short, &user("a")) && keys.member(&short, &user("z")) < to);
        assert!(keys.member(&long, &user("a")) >= to);
    }

    #[test]
    fn newer_buckets_come_first_and_a_scan_goes_on_below_its_place() {
        let keys = Keys::new(b"", 8);
        let (conv, bob) = (direct(), user("bob"));
        let row = |bucket| keys.listed(Table::Recent, &bob, bucket, &conv);
        assert!(row(9) < row(8));
        let of = (AppId(3), &bob);
        let range = keys.listed_below(Table::Recent, of, 5, (8, tag(&conv)));
        let inside = |key: Vec<u8>| is_within(&range, &key);
        assert!(!inside(row(8)) && inside(row(7)) && inside(row(5)) && !inside(row(4)));
    }

    #[test]
    fn ids_that_are_forgotten_are_one_range() {
        let keys = Keys::new(b"", 8);
        let conv = direct();
        let lane = keys.lane(&conv);
        let made_at = |time_ms: u64| {
            let mut id = [0xff; 16];
            id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
            keys.dedupe(&conv, "bob", ClientMsgId(id))
        };
        let range = keys.dedupe_before(lane, 1_000);
        assert!(is_within(&range, &made_at(0)) && is_within(&range, &made_at(999)));
        assert!(!is_within(&range, &made_at(1_000)));
        assert_eq!(keys.dedupe_time_of(lane, &made_at(999)), Some(999));
        assert_eq!(keys.dedupe_time_of(lane, &keys.head(&conv)), None);
    }

    #[test]
    fn the_end_of_everything_is_open() {
        assert_eq!(successor(b"\xff\xff"), b"");
        assert_eq!(successor(b"a\xff"), b"b");
    }
}
