//! Registry and bus of one router life, in memory: both forget everything with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use corelane_protocol::id::{ConnId, UserId};
use corelane_protocol::terminal::Terminal;

/// Where a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) boot: u64,
    pub(crate) conn: u64,
    pub(crate) terminal: u8,
    pub(crate) device: String,
    pub(crate) owner_seq: u64,
    pub(crate) issued_at_s: u64,
    pub(crate) again: bool,
}

impl Session {
    fn is_in_the_way(&self, wanted: &Self) -> bool {
        let one_per_device = wanted.terminal == Terminal::Web as u8 || wanted.terminal == Terminal::Bot as u8;
        let conflicts = self.terminal == wanted.terminal && (!one_per_device || self.device == wanted.device);
        conflicts || (self.boot == wanted.boot && self.conn == wanted.conn)
    }

    /// Whether this one stays against a claim that conflicts with it.
    fn outranks(&self, claim: &Self) -> bool {
        if self.boot == claim.boot {
            return self.owner_seq > claim.owner_seq;
        }
        claim.again && (!self.again || self.issued_at_s >= claim.issued_at_s)
    }

    pub(crate) fn is_route(&self, other: &Self) -> bool {
        (self.boot, self.conn, self.owner_seq) == (other.boot, other.conn, other.owner_seq)
    }
}

/// Routes of all users.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// When each boot's lease ends.
    leases: BTreeMap<u64, u64>,
    dead: BTreeSet<u64>,
    users: BTreeMap<UserId, Vec<Session>>,
    ended: BTreeSet<(u64, u64, u64)>,
}

impl Registry {
    /// Takes a boot in, unless it is dead.
    pub(crate) fn join(&mut self, boot: u64, until: u64) -> bool {
        let is_alive = !self.dead.contains(&boot);
        if is_alive {
            self.leases.insert(boot, until);
        }
        is_alive
    }

    pub(crate) fn renew(&mut self, boot: u64, until: u64) -> bool {
        self.leases.get_mut(&boot).map(|lease| *lease = until).is_some()
    }

    /// Declares those dead whose lease has ended.
    pub(crate) fn reap(&mut self, now: u64) -> Vec<u64> {
        let lapsed = self.leases.iter().filter(|(_, until)| **until < now);
        let lapsed: Vec<u64> = lapsed.map(|(boot, _)| *boot).collect();
        for boot in &lapsed {
            self.leases.remove(boot);
            self.dead.insert(*boot);
            for sessions in self.users.values_mut() {
                sessions.retain(|held| held.boot != *boot);
            }
        }
        lapsed
    }

    /// Drops the routes of a shard whose (connection, claim) is not in `claimed`.
    pub(crate) fn keep_only(
        &mut self,
        boot: u64,
        shard: u16,
        claimed: &BTreeSet<(u64, u64)>,
    ) -> Vec<(UserId, u64)> {
        let mut dropped = Vec::new();
        for (user, sessions) in &mut self.users {
            sessions.retain(|held| {
                let is_kept = held.boot != boot
                    || ConnId(held.conn).shard() != shard
                    || claimed.contains(&(held.conn, held.owner_seq));
                if !is_kept {
                    dropped.push((user.clone(), held.conn));
                }
                is_kept
            });
        }
        dropped
    }

    /// Those who must go, or the code of the refusal.
    pub(crate) fn claim(&mut self, user: &UserId, wanted: Session) -> Result<Vec<Session>, u16> {
        if !self.leases.contains_key(&wanted.boot) {
            return Err(4003);
        }
        if self.ended.contains(&(wanted.boot, wanted.conn, wanted.owner_seq)) {
            return Err(4501);
        }
        let sessions = self.users.entry(user.clone()).or_default();
        if sessions.iter().any(|held| held.is_route(&wanted)) {
            return Ok(Vec::new());
        }
        if sessions
            .iter()
            .any(|held| held.is_in_the_way(&wanted) && held.outranks(&wanted))
        {
            return Err(4501);
        }
        let (gone, mut rest): (Vec<_>, Vec<_>) =
            sessions.drain(..).partition(|held| held.is_in_the_way(&wanted));
        let (boot, conn) = (wanted.boot, wanted.conn);
        rest.push(wanted);
        *sessions = rest;
        self.ended
            .extend(gone.iter().map(|held| (held.boot, held.conn, held.owner_seq)));
        Ok(gone
            .into_iter()
            .filter(|held| held.boot != boot || held.conn != conn)
            .collect())
    }

    pub(crate) fn unclaim(&mut self, user: &UserId, route: &Session) {
        if let Some(sessions) = self.users.get_mut(user) {
            sessions.retain(|held| !held.is_route(route));
        }
        self.ended.insert((route.boot, route.conn, route.owner_seq));
    }

    /// Every route: user, boot, connection.
    pub(crate) fn all(&self) -> BTreeSet<(UserId, u64, u64)> {
        let routes = self
            .users
            .iter()
            .flat_map(|(user, sessions)| sessions.iter().map(|held| (user.clone(), held.boot, held.conn)));
        routes.collect()
    }

    pub(crate) fn routes(&self, user: &UserId) -> &[Session] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }
}

/// One partition of a gateway boot's topic: number and bytes of each record that is kept.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    first_offset: u64,
    /// Below it records were dropped that nobody had consumed.
    lost_below: u64,
    pub(crate) records: VecDeque<(u64, Arc<[u8]>)>,
}

impl Partition {
    pub(crate) fn append(&mut self, number: u64, record: Arc<[u8]>) {
        self.records.push_back((number, record));
    }

    /// Drops what waits, and the record that did not fit.
    pub(crate) fn drop_all(&mut self) {
        self.first_offset += self.records.len() as u64 + 1;
        self.lost_below = self.first_offset;
        self.records.clear();
    }

    /// First offset and records from `from` on, and whether some before are lost.
    pub(crate) fn read(&self, from: u64, count: usize) -> (u64, Vec<Vec<u8>>, bool) {
        let start = from.max(self.first_offset);
        let skipped = (start - self.first_offset) as usize;
        let records = self.records.iter().skip(skipped).take(count);
        let records = records.map(|(_, record)| record.to_vec()).collect();
        (start, records, from < self.lost_below)
    }

    pub(crate) fn consumed(&mut self, upto: u64) {
        while self.records.front().is_some_and(|(number, _)| *number <= upto) {
            self.records.pop_front();
            self.first_offset += 1;
        }
    }
}
