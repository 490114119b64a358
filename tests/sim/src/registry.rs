//! The registry: routes, leases, and the list of the routers.
//!
//! Of one router it is part of its memory. Shared by several it outlives them, may be away, and may forget its end or
//! everything; then it has another incarnation. Which boots are dead routers remember themselves, so that is not forgotten.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::id::{BootId, ConnId, UserId};
use corelane_protocol::terminal::Terminal;
use corelane_router_core::place::{RouterEntry, RouterSet};

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
    /// Whether both cannot be online.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let one_per_device = other.terminal == Terminal::Web as u8 || other.terminal == Terminal::Bot as u8;
        self.terminal == other.terminal && (!one_per_device || self.device == other.device)
    }

    fn is_in_the_way(&self, wanted: &Self) -> bool {
        self.conflicts(wanted) || (self.boot == wanted.boot && self.conn == wanted.conn)
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

/// A router of the list.
#[derive(Debug, Clone)]
struct Listed {
    entry: RouterEntry,
    until: u64,
    drained: u64,
}

/// What the registry knows, and may forget.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// When each boot's lease ends.
    leases: BTreeMap<u64, u64>,
    /// The same of boots that something waits for and that did not join.
    expected: BTreeMap<u64, u64>,
    users: BTreeMap<UserId, Vec<Session>>,
    /// Boot, connection and claim of sessions that are over.
    ended: BTreeSet<(u64, u64, u64)>,
    routers: BTreeMap<BootId, Listed>,
    routers_version: u64,
}

/// The registry.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) memory: Memory,
    dead: BTreeSet<u64>,
    /// The dead in the order in which they were found.
    buried: Vec<u64>,
    /// Another one whenever something was forgotten.
    pub(crate) incarnation: u64,
    /// It does not answer before.
    pub(crate) away_until: u64,
    /// No lease is ended before.
    bury_from: u64,
}

impl Registry {
    pub(crate) fn of(incarnation: u64) -> Self {
        Self {
            incarnation,
            ..Self::default()
        }
    }

    /// Takes a boot in, unless it is dead.
    pub(crate) fn join(&mut self, boot: u64, until: u64) -> bool {
        let is_alive = !self.dead.contains(&boot);
        if is_alive {
            self.memory.expected.remove(&boot);
            self.memory.leases.insert(boot, until);
        }
        is_alive
    }

    pub(crate) fn renew(&mut self, boot: u64, until: u64) -> bool {
        let lease = self.memory.leases.get_mut(&boot);
        lease.map(|lease| *lease = until).is_some()
    }

    /// Something waits for these boots: who is not known has a lease from now on.
    pub(crate) fn expect(&mut self, boots: impl IntoIterator<Item = u64>, until: u64) {
        for boot in boots {
            if self.has_forgotten(boot) {
                self.memory.expected.entry(boot).or_insert(until);
            }
        }
    }

    /// Declares those dead whose lease has ended; says of each whether it was only expected.
    pub(crate) fn reap(&mut self, now: u64) -> Vec<(u64, bool)> {
        if now < self.bury_from {
            return Vec::new();
        }
        let joined = self.memory.leases.iter().map(|lease| (lease, false));
        let expected = self.memory.expected.iter().map(|lease| (lease, true));
        let lapsed = joined.chain(expected).filter(|((_, until), _)| **until < now);
        let lapsed: Vec<(u64, bool)> = lapsed.map(|((boot, _), expected)| (*boot, expected)).collect();
        for (boot, _) in &lapsed {
            self.bury(*boot);
        }
        lapsed
    }

    /// Ends a boot for good.
    pub(crate) fn bury(&mut self, boot: u64) {
        self.memory.forget_boot(boot);
        if self.dead.insert(boot) {
            self.buried.push(boot);
        }
    }

    /// Those that died since there were so many dead.
    pub(crate) fn dead_since(&self, count: usize) -> Vec<u64> {
        self.buried.get(count..).unwrap_or_default().to_vec()
    }

    /// Whether it knows a boot neither as living nor as dead.
    fn has_forgotten(&self, boot: u64) -> bool {
        !self.dead.contains(&boot) && !self.memory.leases.contains_key(&boot)
    }

    pub(crate) fn dead_count(&self) -> usize {
        self.buried.len()
    }

    /// Does not answer for a while; no lease is ended for `grace` after it.
    pub(crate) fn go_away(&mut self, until: u64, grace: u64) {
        self.away_until = self.away_until.max(until);
        self.bury_from = self.away_until + grace;
    }

    /// Comes back as it was earlier, or empty.
    pub(crate) fn forget(&mut self, earlier: Memory) {
        self.memory = earlier;
        for boot in &self.dead {
            self.memory.forget_boot(*boot);
        }
        self.incarnation += 1;
    }

    /// Drops the routes of a shard, made by a claim up to `up_to`, whose (connection, claim) is not in `claimed`.
    pub(crate) fn keep_only(
        &mut self,
        boot: u64,
        shard: u16,
        up_to: u64,
        claimed: &BTreeSet<(u64, u64)>,
    ) -> Vec<(UserId, u64)> {
        let mut dropped = Vec::new();
        for (user, sessions) in &mut self.memory.users {
            sessions.retain(|held| {
                let is_kept = held.boot != boot
                    || ConnId(held.conn).shard() != shard
                    || held.owner_seq > up_to
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
        let memory = &mut self.memory;
        if !memory.leases.contains_key(&wanted.boot) {
            return Err(4003);
        }
        if memory
            .ended
            .contains(&(wanted.boot, wanted.conn, wanted.owner_seq))
        {
            return Err(4501);
        }
        let sessions = memory.users.entry(user.clone()).or_default();
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
        memory
            .ended
            .extend(gone.iter().map(|held| (held.boot, held.conn, held.owner_seq)));
        Ok(gone
            .into_iter()
            .filter(|held| held.boot != boot || held.conn != conn)
            .collect())
    }

    pub(crate) fn unclaim(&mut self, user: &UserId, route: &Session) {
        if let Some(sessions) = self.memory.users.get_mut(user) {
            sessions.retain(|held| !held.is_route(route));
        }
        self.memory
            .ended
            .insert((route.boot, route.conn, route.owner_seq));
    }

    /// Every route: user, boot, connection.
    pub(crate) fn all(&self) -> BTreeSet<(UserId, u64, u64)> {
        let routes =
            self.memory.users.iter().flat_map(|(user, sessions)| {
                sessions.iter().map(|held| (user.clone(), held.boot, held.conn))
            });
        routes.collect()
    }

    pub(crate) fn routes(&self, user: &UserId) -> &[Session] {
        self.memory.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// Puts a router into the list, and gives the list's version; `None` while one of the same name lives.
    pub(crate) fn join_router(
        &mut self,
        entry: &RouterEntry,
        above: u64,
        now: u64,
        until: u64,
    ) -> Option<u64> {
        let memory = &mut self.memory;
        let same_node = |other: &&Listed| other.entry.node == entry.node && other.entry.boot != entry.boot;
        if let Some(other) = memory.routers.values().find(same_node) {
            if other.until >= now {
                return None;
            }
            let boot = other.entry.boot;
            memory.routers.remove(&boot);
        }
        if let Some(known) = memory.routers.get_mut(&entry.boot) {
            known.until = until;
        } else {
            // Not below the time, so that versions rise even where the last one is forgotten.
            memory.routers_version = memory.routers_version.max(above).max(now / 1000) + 1;
            let listed = Listed {
                entry: entry.clone(),
                until,
                drained: 0,
            };
            memory.routers.insert(entry.boot, listed);
        }
        Some(memory.routers_version)
    }

    pub(crate) fn renew_router(&mut self, boot: BootId, until: u64) -> bool {
        let router = self.memory.routers.get_mut(&boot);
        router.map(|router| router.until = until).is_some()
    }

    pub(crate) fn leave_router(&mut self, boot: BootId) {
        let was_there = self.memory.routers.remove(&boot).is_some();
        self.memory.routers_version += u64::from(was_there);
    }

    pub(crate) fn set_drained(&mut self, boot: BootId, version: u64) {
        if let Some(router) = self.memory.routers.get_mut(&boot) {
            router.drained = version;
        }
    }

    /// Whether a router is in the list, and nobody can have taken it out.
    pub(crate) fn lists(&self, boot: BootId, now: u64) -> bool {
        let router = self.memory.routers.get(&boot);
        router.is_some_and(|router| router.until >= now || now < self.bury_from)
    }

    /// The list, without those whose leases ran out.
    pub(crate) fn routers(&mut self, now: u64) -> RouterSet {
        let may_bury = now >= self.bury_from;
        let memory = &mut self.memory;
        let before = memory.routers.len();
        memory
            .routers
            .retain(|_, router| router.until >= now || !may_bury);
        memory.routers_version += u64::from(memory.routers.len() < before);
        let mut routers: Vec<RouterEntry> = memory
            .routers
            .values()
            .map(|router| router.entry.clone())
            .collect();
        routers.sort_unstable_by(|one, other| one.node.cmp(&other.node));
        let drained = memory
            .routers
            .iter()
            .map(|(boot, router)| (*boot, router.drained));
        RouterSet {
            version: memory.routers_version,
            routers,
            drained: drained.collect(),
        }
    }
}

impl Memory {
    fn forget_boot(&mut self, boot: u64) {
        self.leases.remove(&boot);
        self.expected.remove(&boot);
        for sessions in self.users.values_mut() {
            sessions.retain(|held| held.boot != boot);
        }
    }
}
