//! A registry to test, a way to let time pass for its leases, and claims to make.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_protocol::id::{AppId, BootId, ConnId, NodeId, UserId};
use corelane_protocol::terminal::Terminal;
use corelane_router::clock::Clock;
use corelane_router::registry::memory::MemoryRegistry;
use corelane_router::registry::redis::{RedisConfig, RedisRegistry};
use corelane_router::registry::{
    ClaimOutcome, ClaimRequest, Gateway, Registry, Route, RouterEntry, RouterJoin,
};
use fred::clients::Client;
use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::Builder;
use fred::types::config::Config;

pub(crate) const APP: AppId = AppId(1);
pub(crate) const ONE: BootId = BootId(1);
pub(crate) const TWO: BootId = BootId(2);

/// A registry of its own, that nobody else uses.
pub(crate) trait Fixture: Sized {
    type Registry: Registry;

    async fn make() -> Self;
    fn registry(&self) -> &Self::Registry;
    /// Lets time pass for the leases.
    async fn pass(&self, time: Duration);
}

pub(crate) struct Memory {
    registry: MemoryRegistry,
    clock_ms: Arc<AtomicU64>,
}

impl Fixture for Memory {
    type Registry = MemoryRegistry;

    async fn make() -> Self {
        let clock_ms = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&clock_ms);
        Self {
            registry: MemoryRegistry::new(5, move || Duration::from_millis(read.load(Ordering::SeqCst))),
            clock_ms,
        }
    }

    fn registry(&self) -> &MemoryRegistry {
        &self.registry
    }

    async fn pass(&self, time: Duration) {
        self.clock_ms.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }
}

/// A part of the one Redis that `ops/services` runs, behind a prefix of its own.
pub(crate) struct InRedis {
    registry: RedisRegistry,
    prefix: String,
    beside: Client,
}

impl InRedis {
    async fn in_server(variable: &str) -> Self {
        let config = RedisConfig {
            url: address(variable),
            prefix: prefix(),
            // A test of its own shows that nobody is declared dead too early.
            grace: Duration::ZERO,
            ..RedisConfig::default()
        };
        Self {
            registry: connect(&config).await,
            beside: client(&config.url).await,
            prefix: config.prefix,
        }
    }

    /// Leases end as if `time` had passed.
    async fn pass_time(&self, time: Duration) {
        let earlier = "for _, boot in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
                       redis.call('ZINCRBY', KEYS[1], -ARGV[1], boot) end return 1";
        for kind in ["lease", "routerlease"] {
            let leases = format!("{}{kind}:{{leases}}", self.prefix);
            let ms = time.as_millis().to_string();
            let _: i64 = self.beside.eval(earlier, leases, ms).await.unwrap();
        }
    }
}

/// One server.
pub(crate) struct Redis(InRedis);

impl Fixture for Redis {
    type Registry = RedisRegistry;

    async fn make() -> Self {
        Self(InRedis::in_server("CORELANE_TEST_REDIS").await)
    }

    fn registry(&self) -> &RedisRegistry {
        &self.0.registry
    }

    async fn pass(&self, time: Duration) {
        self.0.pass_time(time).await;
    }
}

/// A cluster of three.
pub(crate) struct RedisCluster(InRedis);

impl Fixture for RedisCluster {
    type Registry = RedisRegistry;

    async fn make() -> Self {
        Self(InRedis::in_server("CORELANE_TEST_REDIS_CLUSTER").await)
    }

    fn registry(&self) -> &RedisRegistry {
        &self.0.registry
    }

    async fn pass(&self, time: Duration) {
        self.0.pass_time(time).await;
    }
}

/// Where `ops/services` put a service.
pub(crate) fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set; start Redis and set it: eval \"$(ops/services up redis)\"")
    })
}

/// A prefix of keys that no other test has.
pub(crate) fn prefix() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    format!("test{:016x}.", u64::from_le_bytes(bytes))
}

pub(crate) async fn connect(config: &RedisConfig) -> RedisRegistry {
    let clock = Clock::start();
    RedisRegistry::connect(config, move || clock.now().mono)
        .await
        .unwrap_or_else(|error| panic!("{error} (ops/services up redis)"))
}

/// A client to look behind a registry's back.
pub(crate) async fn client(url: &str) -> Client {
    let client = Builder::from_config(Config::from_url(url).unwrap())
        .build()
        .unwrap();
    if let Err(error) = client.init().await {
        panic!("{url}: {error} (ops/services up redis)");
    }
    client
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn gateway(boot: BootId) -> Gateway {
    let node = NodeId::new(&format!("gateway-{}", boot.0)).unwrap();
    Gateway { node, boot }
}

pub(crate) fn claim(boot: BootId, owner_seq: u64, terminal: Terminal, device: &str) -> ClaimRequest {
    let route = Route {
        gateway: gateway(boot).node,
        boot,
        conn: ConnId::new(0, owner_seq as u32, 1),
        terminal,
        device: device.to_owned(),
        owner_seq,
    };
    ClaimRequest {
        app: APP,
        user: user("alice"),
        route,
        issued_at_s: 100,
        again: false,
    }
}

pub(crate) fn router(node: &str, boot: u64) -> RouterEntry {
    RouterEntry {
        node: NodeId::new(node).unwrap(),
        boot: BootId(boot),
        address: format!("{node}:7090"),
        http: format!("{node}:7080"),
        cluster: 5,
    }
}

/// Puts a router into the list; panics if its name is taken. Returns the version.
pub(crate) async fn listed(registry: &impl Registry, router: &RouterEntry, above: u64) -> u64 {
    match registry.join_router(router.clone(), above).await.unwrap() {
        RouterJoin::Joined { version } => version,
        RouterJoin::Taken { by, .. } => panic!("taken by {by:?}"),
    }
}

/// The routes that a claim kicked; panics if it was refused.
pub(crate) async fn held(registry: &impl Registry, claim: &ClaimRequest) -> Vec<Route> {
    match registry.claim(claim.clone()).await.unwrap() {
        ClaimOutcome::Held { kicks } => kicks,
        ClaimOutcome::Refused { code } => panic!("refused with {code}"),
    }
}

pub(crate) async fn refused(registry: &impl Registry, claim: &ClaimRequest) -> u16 {
    match registry.claim(claim.clone()).await.unwrap() {
        ClaimOutcome::Held { kicks } => panic!("held, kicks {kicks:?}"),
        ClaimOutcome::Refused { code } => code,
    }
}

pub(crate) async fn routes(registry: &impl Registry) -> Vec<Route> {
    registry.sessions(APP, user("alice")).await.unwrap()
}
