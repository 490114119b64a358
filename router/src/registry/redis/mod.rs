//! The registry in Redis: one server or a Redis Cluster, shared by all routers.
//!
//! Owns the connections, a task that watches them, and a task that sweeps up after dead boots. What it keeps of the
//! registry's content is only what must be known without asking: which boots are dead, which gateways live, what the
//! slot groups must remember. Bounds: the commands that wait (`config.rs`), the sessions of a user by the login policy,
//! one entry per connection in the index of its boot, 4,096 ended claims per slot group for ten minutes. When too many
//! commands wait, an answer is late, or the connection was lost, the answer is [`RegistryError::Unavailable`].
//!
//! Every change is a script that compares and sets, so that it can be repeated and can come late (`scripts/`). The login
//! policy is not in them: the router judges by what the user's hash held, and the script changes the hash only if it
//! still holds that.
//!
//! **A registry that forgot.** Redis can come back empty, or without the last seconds of what it was told (a failover,
//! a restart from a file). Each slot group carries the incarnation in which it was empty, and the number of each router's
//! last change in it. Either one not as expected: a new incarnation is drawn, and the gateways claim everything again.
//! Not noticed is only a loss of changes of a router that ended before anybody looked: the numbers are in its memory.
//!
//! **Death.** A lease is a time in a sorted set. A boot is dead only once it stands in `dead`; until then its lease can
//! be renewed, however long it ran out. No router writes that within a time of grace after it could not talk to the
//! registry, and the script refuses to when it was delayed. A boot that Redis forgot has no lease that could run out. A
//! router that misses it, because something waits for it, because it was linked there, or because a route names it, begins
//! one, by which the boot comes back or dies like any other. Dead boots are left out of every answer at once, their routes
//! are swept up in the background, and an hour later they are forgotten. Routers have leases of the same kind
//! (`routers.rs`); one that lapsed is out of the list, and may join again.

mod config;
mod error;
mod groups;
mod health;
mod incarnation;
mod keys;
mod leases;
mod roster;
mod routers;
mod routes;
mod row;
mod script;
mod sweep;

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, UserId};
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::types::ConnectHandle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use self::config::RedisConfig;
pub use self::error::RedisError;
use self::groups::Groups;
use self::health::Health;
use self::keys::Keys;
use self::roster::Roster;
use self::script::Scripts;
use super::{
    ClaimOutcome, ClaimRequest, Gateway, Registry, RegistryError, Route, RouterEntry, RouterJoin, RouterSet,
};

/// How often the registry is looked at.
const WATCH_PACE: Duration = Duration::from_secs(1);
/// Every so many looks, what the slot groups remember is checked too.
const CHECK_EVERY: u32 = 30;
/// How long a start waits for another router that draws an incarnation.
const START_TRIES: u32 = 30;

/// The registry in Redis. Dropping it ends its tasks and connections.
pub struct RedisRegistry {
    inner: Arc<Inner>,
    watch: JoinHandle<()>,
    sweep: JoinHandle<()>,
}

/// What the registry and its tasks share.
struct Inner {
    client: Client,
    url: String,
    keys: Keys,
    scripts: Scripts,
    lease: Duration,
    now: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Drawn by each start, as the holder of locks.
    name: String,
    incarnation: watch::Sender<u64>,
    groups: Groups,
    health: Mutex<Health>,
    /// Something happened that the watch must look at before its time.
    wake: Notify,
    roster: Roster,
}

impl std::fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisRegistry")
            .field("url", &self.inner.url)
            .field("incarnation", &self.incarnation())
            .finish_non_exhaustive()
    }
}

impl Drop for RedisRegistry {
    fn drop(&mut self) {
        self.watch.abort();
        self.sweep.abort();
    }
}

impl RedisRegistry {
    /// Connects, checks that this Redis can be used, and reads or draws its incarnation. `now` never goes back.
    ///
    /// # Errors
    ///
    /// [`RedisError`]: what is wrong and how to mend it; for the operator, do not start without it.
    pub async fn connect(
        config: &RedisConfig,
        now: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Result<Self, RedisError> {
        let client = config.client()?;
        let health = Health::new(&client, config.grace);
        let connection = client.init().await.map_err(|error| config.explain(error))?;
        // From here on an early return ends the connection with it.
        let connection = Connection(connection);
        config.check(&client).await?;
        let inner = Arc::new(Inner {
            client,
            url: config.url.clone(),
            keys: Keys::new(config.prefix.clone()),
            scripts: Scripts::new(),
            lease: config.lease,
            now: Box::new(now),
            name: random_name(config)?,
            incarnation: watch::Sender::new(0),
            groups: Groups::new(),
            health: Mutex::new(health),
            wake: Notify::new(),
            roster: Roster::default(),
        });
        inner.start(config).await?;
        Ok(Self {
            watch: tokio::spawn(run(Arc::clone(&inner), connection)),
            sweep: tokio::spawn(sweep::run(Arc::clone(&inner))),
            inner,
        })
    }

    /// Whether it cannot be asked now, as far as this router knows.
    pub fn is_away(&self) -> bool {
        self.inner.health().is_away()
    }

    /// Ends when the incarnation is another one than `known`: the registry forgot something, and every gateway must
    /// claim again.
    pub async fn forgot(&self, known: u64) {
        let mut incarnation = self.inner.incarnation.subscribe();
        // The sender lives in self: it cannot be gone.
        let _ = incarnation.wait_for(|current| *current != known).await;
    }
}

fn random_name(config: &RedisConfig) -> Result<String, RedisError> {
    let number = incarnation::random().map_err(|error| RedisError::NotReady {
        url: config.url.clone(),
        reason: error.to_string(),
    })?;
    Ok(row::hex(number))
}

/// The task that drives the client's connections; it ends with this.
struct Connection(ConnectHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    fn health(&self) -> MutexGuard<'_, Health> {
        // A panic elsewhere leaves it whole: every change is made in one go.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mono(&self) -> Duration {
        (self.now)()
    }

    fn lease_ms(&self) -> String {
        self.lease.as_millis().to_string()
    }

    /// Asks. The answer counts only if the connections stood before and after.
    async fn ask<T>(&self, work: impl Future<Output = Result<T, Error>> + Send) -> Result<T, RegistryError> {
        let ticket = self.health().ticket()?;
        match work.await {
            Ok(answer) => self.health().confirm(ticket).map(|()| answer),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Takes note of a failed command.
    fn failed(&self, error: &Error) -> RegistryError {
        let reason = error.to_string();
        // A full buffer says nothing of the server, and a refused command is its answer.
        if !matches!(
            error.kind(),
            ErrorKind::Backpressure
                | ErrorKind::Unknown
                | ErrorKind::InvalidArgument
                | ErrorKind::InvalidCommand
        ) {
            self.doubt(&reason);
        }
        RegistryError::Unavailable(reason)
    }

    /// The registry counts as away until the watch has checked it.
    fn doubt(&self, reason: &str) {
        if self.health().doubt(reason) {
            tracing::warn!(url = self.url, reason, "the registry is away");
        }
        self.wake.notify_one();
    }

    async fn start(&self, config: &RedisConfig) -> Result<(), RedisError> {
        let mut tries = 0;
        loop {
            let reason = match self.check_memory().await {
                Ok(()) => return Ok(()),
                Err(incarnation::CheckError::Client(error))
                    if !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::IO) =>
                {
                    return Err(config.explain(error));
                }
                Err(error) => error.to_string(),
            };
            tries += 1;
            if tries == START_TRIES {
                let url = self.url.clone();
                return Err(RedisError::NotReady { url, reason });
            }
            tokio::time::sleep(WATCH_PACE / 2).await;
        }
    }
}

/// Looks at the registry until the task is ended: whether it is there, what it remembers, who is dead.
async fn run(inner: Arc<Inner>, mut connection: Connection) {
    let mut ticks = tokio::time::interval(WATCH_PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks: u32 = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = inner.wake.notified() => {}
        }
        if connection.0.is_finished() {
            // It does so only for what it takes for a mistake in the configuration; Redis may be mended meanwhile.
            connection = Connection(inner.client.connect());
        }
        looks = looks.wrapping_add(1);
        let was_away = inner.health().is_away();
        let looked = if was_away || looks.is_multiple_of(CHECK_EVERY) {
            inner.check_memory().await.map_err(|error| error.to_string())
        } else {
            inner.refresh().await.map_err(|error| error.to_string())
        };
        match looked {
            Ok(()) if was_away => tracing::info!(url = inner.url, "the registry is back"),
            Ok(()) => {}
            Err(reason) => inner.doubt_quietly(&reason),
        }
    }
}

impl Inner {
    /// As [`Inner::doubt`], for the watch itself, which comes again anyway.
    fn doubt_quietly(&self, reason: &str) {
        if self.health().doubt(reason) {
            tracing::warn!(url = self.url, reason, "the registry is away");
        }
    }
}

impl Registry for RedisRegistry {
    fn incarnation(&self) -> u64 {
        *self.inner.incarnation.borrow()
    }

    async fn join(&self, gateway: Gateway) -> Result<bool, RegistryError> {
        self.inner.join(gateway).await
    }

    async fn renew(&self, boot: BootId) -> Result<bool, RegistryError> {
        self.inner.renew(boot).await
    }

    async fn leave(&self, boot: BootId) -> Result<(), RegistryError> {
        self.inner.leave(boot).await
    }

    async fn expect_renewals(&self, boots: BTreeSet<BootId>) -> Result<(), RegistryError> {
        self.inner.expect_renewals(&boots).await
    }

    async fn reap(&self) -> Result<Vec<BootId>, RegistryError> {
        self.inner.reap().await
    }

    async fn claim(&self, claim: ClaimRequest) -> Result<ClaimOutcome, RegistryError> {
        self.inner.claim(claim).await
    }

    async fn unclaim(&self, app: AppId, user: UserId, route: Route) -> Result<bool, RegistryError> {
        self.inner.unclaim(AppUser { app, user }, &route).await
    }

    async fn keep_only(
        &self,
        boot: BootId,
        shard: u16,
        up_to: u64,
        claimed: HashSet<(ConnId, u64)>,
    ) -> Result<Vec<(AppUser, ConnId)>, RegistryError> {
        self.inner.keep_only(boot, shard, up_to, &claimed).await
    }

    async fn lookup(&self, app: AppId, users: Vec<UserId>) -> Result<Vec<Vec<Route>>, RegistryError> {
        self.inner.lookup(app, &users).await
    }

    async fn sessions(&self, app: AppId, user: UserId) -> Result<Vec<Route>, RegistryError> {
        let mut routes = self.inner.lookup(app, &[user]).await?;
        Ok(routes.pop().unwrap_or_default())
    }

    async fn live_gateways(&self) -> Result<Vec<Gateway>, RegistryError> {
        self.inner.live_gateways().await
    }

    async fn join_router(&self, entry: RouterEntry, above: u64) -> Result<RouterJoin, RegistryError> {
        self.inner.join_router(entry, above).await
    }

    async fn renew_router(&self, boot: BootId) -> Result<bool, RegistryError> {
        self.inner.renew_router(boot).await
    }

    async fn leave_router(&self, boot: BootId) -> Result<(), RegistryError> {
        self.inner.leave_router(boot).await
    }

    async fn routers(&self) -> Result<RouterSet, RegistryError> {
        self.inner.routers().await
    }

    async fn set_drained(&self, boot: BootId, version: u64) -> Result<(), RegistryError> {
        self.inner.set_router_drained(boot, version).await
    }
}
