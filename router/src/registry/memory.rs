//! The registry of one router: routes and leases in memory.
//!
//! Owns the routes of every session of the gateways linked to this router. It forgets everything with its process;
//! the incarnation says so, and the gateways claim again. Bounded by what the gateways hold: one route per session,
//! [`SESSIONS_PER_USER_MAX`](super::SESSIONS_PER_USER_MAX) per user; of each boot the newest [`ENDED_CLAIMS_MAX`] claims
//! that were given up, [`DEAD_BOOTS_MAX`] dead boots, the boots that something waits for, and the routers that joined.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, UserId};
use corelane_protocol::limits::LEASE;

use super::policy::{Session, Verdict, code, judge, kicks};
use super::{
    ClaimOutcome, ClaimRequest, Gateway, Registry, RegistryError, Route, RouterEntry, RouterJoin, RouterSet,
};

/// Claims given up that are remembered per boot, so that a late repeat is known as such.
pub const ENDED_CLAIMS_MAX: usize = 4096;
/// Dead boots that are remembered.
pub const DEAD_BOOTS_MAX: usize = 1024;

/// The memory registry.
pub struct MemoryRegistry {
    incarnation: u64,
    now: Box<dyn Fn() -> Duration + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gateways: HashMap<BootId, Lease>,
    /// Boots that are expected and did not join, and when their leases end.
    expected: BTreeMap<BootId, Duration>,
    dead: VecDeque<BootId>,
    users: HashMap<AppUser, Vec<Session>>,
    routers: BTreeMap<BootId, Router>,
    routers_version: u64,
}

#[derive(Debug)]
struct Router {
    entry: RouterEntry,
    until: Duration,
    drained: u64,
}

#[derive(Debug)]
struct Lease {
    gateway: Gateway,
    until: Duration,
    /// Whose each connection's route is, so that a dead boot, or a shard that lost some, costs what it held.
    held: BTreeMap<ConnId, AppUser>,
    ended: VecDeque<(ConnId, u64)>,
    ended_set: HashSet<(ConnId, u64)>,
}

impl std::fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryRegistry")
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl MemoryRegistry {
    /// An empty registry. `incarnation` is drawn at random by the caller; `now` never goes back.
    pub fn new(incarnation: u64, now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            incarnation,
            now: Box::new(now),
            state: Mutex::default(),
        }
    }

    /// Versions of the router list begin above this: above those of earlier lives, which gateways may know.
    #[must_use]
    pub fn with_versions_above(self, version: u64) -> Self {
        self.lock().routers_version = version;
        self
    }

    /// Routes that are held.
    pub fn route_count(&self) -> usize {
        self.lock().users.values().map(Vec::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: every change below is made in one go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn claim(&mut self, claim: ClaimRequest) -> ClaimOutcome {
        let at = AppUser {
            app: claim.app,
            user: claim.user,
        };
        let route = claim.route;
        let Some(lease) = self.gateways.get(&route.boot) else {
            return ClaimOutcome::Refused {
                code: code::POSITION_LOST,
            };
        };
        if lease.ended_set.contains(&(route.conn, route.owner_seq)) {
            return ClaimOutcome::Refused { code: code::REPLACED };
        }
        let wanted = Session {
            route,
            issued_at_s: claim.issued_at_s,
            again: claim.again,
        };
        let sessions = self.users.entry(at.clone()).or_default();
        let gave_way = match judge(sessions, &wanted) {
            Verdict::Held => return ClaimOutcome::Held { kicks: Vec::new() },
            Verdict::Refused(code) => {
                self.forget_if_empty(&at);
                return ClaimOutcome::Refused { code };
            }
            Verdict::Granted(give_way) => give_way,
        };
        sessions.retain(|held| !gave_way.contains(held));
        sessions.push(wanted.clone());
        for held in &gave_way {
            self.ended(&at, &held.route);
        }
        let (boot, conn) = (wanted.route.boot, wanted.route.conn);
        let lease = self.gateways.get_mut(&boot);
        let other = lease.and_then(|lease| lease.held.insert(conn, at.clone()));
        // One session per connection, whatever a gateway says.
        if let Some(other) = other.filter(|other| *other != at) {
            self.take_out(&other, boot, conn);
        }
        ClaimOutcome::Held {
            kicks: kicks(gave_way, &wanted.route),
        }
    }

    fn unclaim(&mut self, at: &AppUser, route: &Route) -> bool {
        let Some(sessions) = self.users.get_mut(at) else {
            self.remember_ended(route);
            return false;
        };
        let before = sessions.len();
        sessions.retain(|held| held.route != *route);
        if sessions.len() == before {
            self.remember_ended(route);
            return false;
        }
        self.ended(at, route);
        self.forget_if_empty(at);
        true
    }

    /// A session's route was taken out: its boot holds one less and knows its claim as ended.
    fn ended(&mut self, at: &AppUser, route: &Route) {
        if let Some(lease) = self.gateways.get_mut(&route.boot)
            && lease.held.get(&route.conn) == Some(at)
        {
            lease.held.remove(&route.conn);
        }
        self.remember_ended(route);
    }

    /// Takes the route of a connection out of those of a user.
    fn take_out(&mut self, at: &AppUser, boot: BootId, conn: ConnId) {
        let Some(sessions) = self.users.get_mut(at) else {
            return;
        };
        sessions.retain(|held| held.route.boot != boot || held.route.conn != conn);
        self.forget_if_empty(at);
    }

    fn keep_only(
        &mut self,
        boot: BootId,
        shard: u16,
        up_to: u64,
        claimed: &HashSet<(ConnId, u64)>,
    ) -> Vec<(AppUser, ConnId)> {
        let Some(lease) = self.gateways.get(&boot) else {
            return Vec::new();
        };
        let of_shard =
            ConnId::new(shard, 0, 0)..=ConnId::new(shard, ConnId::SLOTS_MAX - 1, ConnId::GENERATION_MASK);
        let is_claimed = |at: &AppUser, conn: ConnId| {
            let sessions = self.users.get(at).into_iter().flatten();
            sessions
                .filter(|held| held.route.boot == boot && held.route.conn == conn)
                .any(|held| {
                    let owner_seq = held.route.owner_seq;
                    owner_seq > up_to || claimed.contains(&(conn, owner_seq))
                })
        };
        let stale: Vec<(AppUser, ConnId)> = lease
            .held
            .range(of_shard)
            .filter(|(conn, at)| !is_claimed(at, **conn))
            .map(|(conn, at)| (at.clone(), *conn))
            .collect();
        for (at, conn) in &stale {
            self.take_out(at, boot, *conn);
            if let Some(lease) = self.gateways.get_mut(&boot) {
                lease.held.remove(conn);
            }
        }
        stale
    }

    fn remember_ended(&mut self, route: &Route) {
        let Some(lease) = self.gateways.get_mut(&route.boot) else {
            return;
        };
        let claim = (route.conn, route.owner_seq);
        if lease.ended_set.insert(claim) {
            lease.ended.push_back(claim);
        }
        if lease.ended.len() > ENDED_CLAIMS_MAX
            && let Some(oldest) = lease.ended.pop_front()
        {
            lease.ended_set.remove(&oldest);
        }
    }

    fn forget_if_empty(&mut self, at: &AppUser) {
        if self.users.get(at).is_some_and(Vec::is_empty) {
            self.users.remove(at);
        }
    }

    fn bury(&mut self, boot: BootId) {
        self.expected.remove(&boot);
        let held = self.gateways.remove(&boot).map(|lease| lease.held);
        for (conn, at) in held.into_iter().flatten() {
            self.take_out(&at, boot, conn);
        }
        if self.dead.contains(&boot) {
            return;
        }
        self.dead.push_back(boot);
        if self.dead.len() > DEAD_BOOTS_MAX {
            self.dead.pop_front();
        }
    }

    fn join_router(&mut self, entry: RouterEntry, above: u64, now: Duration) -> RouterJoin {
        let same_node = |other: &&Router| other.entry.node == entry.node && other.entry.boot != entry.boot;
        if let Some(other) = self.routers.values().find(same_node) {
            if other.until >= now {
                return RouterJoin::Taken {
                    by: other.entry.clone(),
                    lease_ends_ms: u64::try_from(other.until.as_millis()).unwrap_or(u64::MAX),
                };
            }
            let boot = other.entry.boot;
            self.routers.remove(&boot);
        }
        let until = now + LEASE;
        match self.routers.get_mut(&entry.boot) {
            Some(known) if known.entry == entry => known.until = until,
            _ => {
                self.routers_version = self.routers_version.max(above) + 1;
                let joined = Router {
                    until,
                    drained: 0,
                    entry,
                };
                self.routers.insert(joined.entry.boot, joined);
            }
        }
        RouterJoin::Joined {
            version: self.routers_version,
        }
    }

    /// Takes out the routers that are not to `stay`.
    fn retain_routers(&mut self, stay: impl Fn(&Router) -> bool) {
        let before = self.routers.len();
        self.routers.retain(|_, router| stay(router));
        self.routers_version += u64::from(self.routers.len() < before);
    }

    fn routers(&self) -> RouterSet {
        let mut routers: Vec<RouterEntry> =
            self.routers.values().map(|router| router.entry.clone()).collect();
        routers.sort_unstable_by(|one, other| one.node.cmp(&other.node));
        let drained = self.routers.iter().map(|(boot, router)| (*boot, router.drained));
        RouterSet {
            version: self.routers_version,
            routers,
            drained: drained.collect(),
        }
    }

    fn routes(&self, app: AppId, user: UserId) -> Vec<Route> {
        let sessions = self.users.get(&AppUser { app, user });
        sessions.map_or_else(Vec::new, |sessions| {
            sessions.iter().map(|held| held.route.clone()).collect()
        })
    }
}

impl Registry for MemoryRegistry {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn join(&self, gateway: Gateway) -> Result<bool, RegistryError> {
        let until = (self.now)() + LEASE;
        let mut state = self.lock();
        if state.dead.contains(&gateway.boot) {
            return Ok(false);
        }
        state.expected.remove(&gateway.boot);
        let lease = state.gateways.entry(gateway.boot).or_insert_with(|| Lease {
            gateway,
            until,
            held: BTreeMap::new(),
            ended: VecDeque::new(),
            ended_set: HashSet::new(),
        });
        lease.until = until;
        Ok(true)
    }

    async fn renew(&self, boot: BootId) -> Result<bool, RegistryError> {
        let until = (self.now)() + LEASE;
        let mut state = self.lock();
        // A lease that ran out unnoticed is simply renewed: nobody acted on the lapse.
        Ok(state
            .gateways
            .get_mut(&boot)
            .map(|lease| lease.until = until)
            .is_some())
    }

    async fn leave(&self, boot: BootId) -> Result<(), RegistryError> {
        self.lock().bury(boot);
        Ok(())
    }

    async fn expect_renewals(&self, boots: BTreeSet<BootId>) -> Result<(), RegistryError> {
        let until = (self.now)() + LEASE;
        let mut state = self.lock();
        for boot in boots {
            if !state.gateways.contains_key(&boot) && !state.dead.contains(&boot) {
                state.expected.entry(boot).or_insert(until);
            }
        }
        Ok(())
    }

    async fn reap(&self) -> Result<Vec<BootId>, RegistryError> {
        let now = (self.now)();
        let mut state = self.lock();
        let joined = state.gateways.iter().map(|(boot, lease)| (*boot, lease.until));
        let expected = state.expected.iter().map(|(boot, until)| (*boot, *until));
        let lapsed = joined.chain(expected).filter(|(_, until)| *until < now);
        let lapsed: Vec<BootId> = lapsed.map(|(boot, _)| boot).collect();
        for boot in &lapsed {
            state.bury(*boot);
        }
        Ok(lapsed)
    }

    async fn claim(&self, claim: ClaimRequest) -> Result<ClaimOutcome, RegistryError> {
        Ok(self.lock().claim(claim))
    }

    async fn unclaim(&self, app: AppId, user: UserId, route: Route) -> Result<bool, RegistryError> {
        Ok(self.lock().unclaim(&AppUser { app, user }, &route))
    }

    async fn keep_only(
        &self,
        boot: BootId,
        shard: u16,
        up_to: u64,
        claimed: HashSet<(ConnId, u64)>,
    ) -> Result<Vec<(AppUser, ConnId)>, RegistryError> {
        Ok(self.lock().keep_only(boot, shard, up_to, &claimed))
    }

    async fn lookup(&self, app: AppId, users: Vec<UserId>) -> Result<Vec<Vec<Route>>, RegistryError> {
        let state = self.lock();
        Ok(users.into_iter().map(|user| state.routes(app, user)).collect())
    }

    async fn sessions(&self, app: AppId, user: UserId) -> Result<Vec<Route>, RegistryError> {
        Ok(self.lock().routes(app, user))
    }

    async fn live_gateways(&self) -> Result<Vec<Gateway>, RegistryError> {
        Ok(self
            .lock()
            .gateways
            .values()
            .map(|lease| lease.gateway.clone())
            .collect())
    }

    async fn join_router(&self, entry: RouterEntry, above: u64) -> Result<RouterJoin, RegistryError> {
        let now = (self.now)();
        Ok(self.lock().join_router(entry, above, now))
    }

    async fn renew_router(&self, boot: BootId) -> Result<bool, RegistryError> {
        let until = (self.now)() + LEASE;
        let mut state = self.lock();
        Ok(state
            .routers
            .get_mut(&boot)
            .map(|router| router.until = until)
            .is_some())
    }

    async fn leave_router(&self, boot: BootId) -> Result<(), RegistryError> {
        self.lock().retain_routers(|router| router.entry.boot != boot);
        Ok(())
    }

    async fn routers(&self) -> Result<RouterSet, RegistryError> {
        let now = (self.now)();
        let mut state = self.lock();
        state.retain_routers(|router| router.until >= now);
        Ok(state.routers())
    }

    async fn set_drained(&self, boot: BootId, version: u64) -> Result<(), RegistryError> {
        if let Some(router) = self.lock().routers.get_mut(&boot) {
            router.drained = version;
        }
        Ok(())
    }
}
