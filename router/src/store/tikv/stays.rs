//! Mends who is in a group, what everybody has read, and who finds a conversation in his lists.
//!
//! Messages that change members say so in their rows: changes of the examined messages that were not made are made, those of
//! messages that are not in the log are unmade. A stay that such a change had replaced is lost with it. A read mark that a
//! send moved counts what there is at its place now, and stands no higher than the log: else the next message there would
//! pass for read. Then every member has his row in the recent index, in the bucket of now if something is new or one of them is missing, because no sync may
//! have seen it; large groups are listed apart.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::id::UserId;
use corelane_router_core::decide::RECENT_BUCKET_MS;

use super::client::{Change, Rows};
use super::fault::Fault;
use super::keys::{ConvKey, Table};
use super::known::{LARGE_GROUP_MEMBERS, stays};
use super::repair::{Examined, Repair};
use super::rows::{HeadRow, Listed, MemberRow, Moves, Value};

type Stays = BTreeMap<UserId, MemberRow>;

impl Repair<'_> {
    /// Puts members, and the lists that a conversation stands in, in order.
    ///
    /// # Errors
    ///
    /// The connection's.
    pub(super) async fn lists<R: Rows>(
        &mut self,
        rows: &mut R,
        conv: &ConvKey,
        seen: &Examined,
        mended: &mut HeadRow,
    ) -> Result<(), Fault> {
        let before: Stays = match stays(rows, self.keys, conv).await? {
            Ok(list) => list.into_iter().collect(),
            Err(damage) => {
                tracing::error!(%damage, conv = %conv.1, "the members of a conversation cannot be listed");
                return Ok(());
            }
        };
        let mut after = replay(&before, seen);
        for row in after.values_mut() {
            mend_mark(row, seen, mended.head.n);
        }
        let is_changed = before != after;
        if let Some((small, large)) = conv.1.direct_users() {
            self.write_stays(conv, &before, after, mended);
            let users = BTreeSet::from([small, large]);
            return self.recent(rows, conv, &users, seen, mended).await;
        }
        let users: BTreeSet<UserId> = after
            .iter()
            .filter(|(_, row)| row.is_present())
            .map(|(user, _)| user.clone())
            .collect();
        self.write_stays(conv, &before, after, mended);
        mended.members = users.len() as u64;
        let moving = seen.readable().filter(|(_, message)| message.moves.is_some());
        let changed = moving.map(|(seq, _)| seq).max();
        mended.head.conv_version = mended.head.conv_version.max(changed.unwrap_or(0));
        if mended.large || mended.members > LARGE_GROUP_MEMBERS {
            let is_touched = is_changed || changed.is_some() || !seen.holes.is_empty();
            return self.large(rows, conv, &users, is_touched, mended).await;
        }
        self.recent(rows, conv, &users, seen, mended).await
    }

    /// Writes what is different, and takes who is no member any more out of the lists.
    fn write_stays(&mut self, conv: &ConvKey, before: &Stays, after: Stays, mended: &HeadRow) {
        let bucket = mended.head.recent_bucket;
        for (user, row) in before {
            let now = after.get(user);
            if row.is_present() && !now.is_some_and(MemberRow::is_present) {
                let key = if mended.large {
                    self.keys.large(user, conv)
                } else {
                    self.keys.listed(Table::Recent, user, bucket, conv)
                };
                self.changes.insert(key, Change::Delete);
            }
            if now.is_none() {
                let key = self.keys.member(conv, user);
                self.changes.insert(key, Change::Delete);
            }
        }
        for (user, mut row) in after {
            let known = before.get(&user);
            if known == Some(&row) {
                continue;
            }
            let has_left = known.is_some_and(MemberRow::is_present) && !row.is_present();
            let has_read = |known: &MemberRow| (known.read_seq, known.read_n) == (row.read_seq, row.read_n);
            if has_left || known.is_some_and(|known| !has_read(known)) {
                self.tell(conv, &user, &mut row);
            }
            let key = self.keys.member(conv, &user);
            let value = row.encode(&key);
            self.changes.insert(key, Change::Put(value));
        }
    }

    /// His terminals learn at their next sync that he left, or what he has read.
    fn tell(&mut self, conv: &ConvKey, user: &UserId, row: &mut MemberRow) {
        let bucket = self.author.now_ms / RECENT_BUCKET_MS;
        if row.changed_bucket >= bucket {
            return;
        }
        if row.changed_bucket > 0 {
            let key = self.keys.listed(Table::Changed, user, row.changed_bucket, conv);
            self.changes.insert(key, Change::Delete);
        }
        row.changed_bucket = bucket;
        self.put_listed(self.keys.listed(Table::Changed, user, bucket, conv));
    }

    async fn recent<R: Rows>(
        &mut self,
        rows: &mut R,
        conv: &ConvKey,
        users: &BTreeSet<UserId>,
        seen: &Examined,
        mended: &mut HeadRow,
    ) -> Result<(), Fault> {
        let before = mended.head.recent_bucket;
        let there = users
            .iter()
            .map(|user| self.keys.listed(Table::Recent, user, before, conv));
        let there: Vec<Vec<u8>> = there.collect();
        let is_whole = rows.many(there.clone()).await?.len() == there.len();
        if is_whole && !seen.grew {
            return Ok(());
        }
        let now = before.max(self.author.now_ms / RECENT_BUCKET_MS);
        for (user, old) in users.iter().zip(there) {
            let new = self.keys.listed(Table::Recent, user, now, conv);
            if old != new {
                self.changes.insert(old, Change::Delete);
            }
            self.put_listed(new);
        }
        mended.head.recent_bucket = now;
        Ok(())
    }

    /// Members of a large group list it apart. It may become one just now.
    async fn large<R: Rows>(
        &mut self,
        rows: &mut R,
        conv: &ConvKey,
        users: &BTreeSet<UserId>,
        is_touched: bool,
        mended: &mut HeadRow,
    ) -> Result<(), Fault> {
        if mended.large && !is_touched {
            return Ok(());
        }
        let wanted: Vec<Vec<u8>> = users.iter().map(|user| self.keys.large(user, conv)).collect();
        let found = rows.many(wanted.clone()).await?;
        let found: BTreeSet<Vec<u8>> = found.into_iter().map(|(key, _)| key).collect();
        for (user, key) in users.iter().zip(wanted) {
            if !found.contains(&key) {
                self.put_listed(key);
                let old = self
                    .keys
                    .listed(Table::Recent, user, mended.head.recent_bucket, conv);
                self.changes.insert(old, Change::Delete);
            }
        }
        mended.large = true;
        Ok(())
    }

    fn put_listed(&mut self, key: Vec<u8>) {
        let value = Listed.encode(&key);
        self.changes.insert(key, Change::Put(value));
    }
}

/// Who is and was in the group by what the log says.
fn replay(before: &Stays, seen: &Examined) -> Stays {
    let mut after = before.clone();
    after.retain(|_, row| !seen.is_void(row.join_seq));
    for row in after.values_mut() {
        if seen.is_void(row.leave_seq) {
            row.leave_seq = 0;
        }
    }
    for (seq, message) in seen.readable() {
        if let Some(moves) = &message.moves {
            make(&mut after, seq, message.n, moves);
        }
    }
    after
}

/// Puts a read mark right that stands at an examined place, or above the log. `n`: countable messages in all.
fn mend_mark(row: &mut MemberRow, seen: &Examined, n: u64) {
    if row.read_seq < seen.from {
        return;
    }
    row.read_seq = row.read_seq.min(seen.last);
    if let Some(n) = seen.count_at(row.read_seq, n) {
        row.read_n = n;
    }
}

/// Makes a change, as far as nothing later is known of each user.
fn make(stays: &mut Stays, seq: u64, n: u64, moves: &Moves) {
    for user in &moves.join {
        let row = stays.entry(user.clone()).or_default();
        if !row.is_present() && row.join_seq < seq && row.leave_seq < seq {
            (row.join_seq, row.leave_seq, row.read_seq, row.read_n) = (seq, 0, seq - 1, n);
        }
    }
    for user in &moves.leave {
        if let Some(row) = stays.get_mut(user)
            && row.is_present()
            && row.join_seq <= seq
        {
            row.leave_seq = seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::MessageRow;
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn stay(join_seq: u64, leave_seq: u64) -> MemberRow {
        MemberRow {
            join_seq,
            leave_seq,
            ..MemberRow::default()
        }
    }

    fn change(join: &[&str], leave: &[&str]) -> Moves {
        let users = |names: &[&str]| names.iter().map(|name| user(name)).collect();
        Moves {
            join: users(join),
            leave: users(leave),
        }
    }

    /// A conversation from place 5 to `last`, with changes at some places and nothing at others.
    fn seen(last: u64, moves: Vec<(u64, Option<Moves>)>) -> Examined {
        let messages = moves.into_iter().map(|(seq, moves)| {
            let message = MessageRow {
                n: seq - 1,
                hash: 0,
                time_ms: 0,
                flags: 0,
                client_id: [0; 16],
                sender: "backend".to_owned(),
                moves,
                frame: Vec::new(),
            };
            (seq, Ok(message))
        });
        Examined::new(5, last, messages.collect())
    }

    fn stays_of(rows: &[(&str, MemberRow)]) -> Stays {
        let rows = rows.iter().map(|(name, row)| (user(name), row.clone()));
        rows.collect()
    }

    #[test]
    fn a_change_that_was_not_made_is_made_once() {
        let before = stays_of(&[("alice", stay(1, 0)), ("bob", stay(1, 0)), ("dan", stay(1, 3))]);
        let seen = seen(
            6,
            vec![
                (5, Some(change(&["carol", "alice"], &["bob", "carol"]))),
                (6, Some(change(&["dan"], &[]))),
            ],
        );
        let after = replay(&before, &seen);
        let places = |name: &str| {
            let row = &after[&user(name)];
            (row.join_seq, row.leave_seq)
        };
        assert_eq!(
            places("alice"),
            (1, 0),
            "who is there keeps the place of his join"
        );
        assert_eq!(places("bob"), (1, 5));
        assert_eq!(places("carol"), (5, 5), "who comes and goes in one message");
        assert_eq!(places("dan"), (6, 0), "who comes back");
        assert_eq!((after[&user("dan")].read_seq, after[&user("dan")].read_n), (5, 5));
        assert_eq!(
            replay(&after, &seen),
            after,
            "it changes nothing where it was made"
        );
    }

    #[test]
    fn what_came_later_stands() {
        let seen = seen(
            7,
            vec![(5, Some(change(&["bob"], &["alice"]))), (6, None), (7, None)],
        );
        let rows = stays_of(&[("alice", stay(7, 0)), ("bob", stay(5, 6))]);
        assert_eq!(replay(&rows, &seen), rows);
    }

    #[test]
    fn a_change_that_is_not_in_the_log_is_unmade() {
        // 6 is a hole, and 8 lies above the end.
        let seen = seen(7, vec![(5, None), (7, None)]);
        let before = stays_of(&[
            ("alice", stay(6, 0)),
            ("bob", stay(1, 6)),
            ("carol", stay(1, 8)),
            ("dan", stay(8, 0)),
            ("eve", stay(1, 5)),
        ]);
        let left = stays_of(&[("bob", stay(1, 0)), ("carol", stay(1, 0)), ("eve", stay(1, 5))]);
        assert_eq!(replay(&before, &seen), left);
    }

    #[test]
    fn a_mark_counts_what_is_at_its_place_and_stands_no_higher_than_the_log() {
        // Places 6 and 7 are of nobody: 5 is the last message, and 4 of the 5 before it count.
        let seen = seen(7, vec![(5, None), (7, None)]);
        let mended = |read_seq, read_n| {
            let mut row = MemberRow {
                read_seq,
                read_n,
                ..MemberRow::default()
            };
            mend_mark(&mut row, &seen, 4);
            (row.read_seq, row.read_n)
        };
        assert_eq!(mended(4, 3), (4, 3), "it is below what was examined");
        assert_eq!(mended(5, 4), (5, 4));
        assert_eq!(mended(6, 5), (6, 4), "at a void");
        assert_eq!(mended(9, 8), (7, 4), "above the log");
    }
}
