//! Starting and stopping a router: files, sockets, threads, in this order, so that what is wrong is said before anything
//! runs.
//!
//! Owns the threads. A stop that is wished begins with leaving the other routers in order (`membership.rs`). It lets the
//! HTTP server finish what it answers, closes the links (gateways send again what was not answered) and waits until the
//! store wrote what it was handed.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use corelane_protocol::id::{BootId, NodeId};
use corelane_protocol::link::codec::LinkSecret;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::api::{self, ApiState, Demo, MoreMetrics, WebFile};
use crate::bus::any::AnyBus;
use crate::bus::kafka::{KafkaBus, KafkaError};
use crate::bus::memory::MemoryBus;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::config::{ConfigError, Durability, RouterConfig, StoreSection};
use crate::driver::{Driver, QUEUE};
use crate::given_up::GivenUp;
use crate::http::{self, HttpLimits};
use crate::hub::Hub;
use crate::keys::{self, KeyError};
use crate::membership::{self, JoinError, LEAVE_GRACE, Member};
use crate::metrics::Metrics;
use crate::registry::any::AnyRegistry;
use crate::registry::memory::MemoryRegistry;
use crate::registry::redis::{RedisError, RedisRegistry};
use crate::registry::{Registry as _, RouterEntry};
use crate::shared::{Shared, Stop, StopReason};
use crate::store::any::AnyStore;
use crate::store::{MessageStore as _, StoreError, StoreInfo};
use crate::{adopt, lease, link, sweep};

/// How long a stop may take.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why a router did not start. For the operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory or a key in it cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RedisError),
    /// The bus cannot be used.
    #[error(transparent)]
    Bus(#[from] KafkaError),
    /// It cannot be one of the registry's routers.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// An address cannot be listened on.
    #[error("{key} = {address}: cannot be listened on: {source}{}", hint(source))]
    Listen {
        /// Section and key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system refused a thread or random bytes.
    #[error("the system refused {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has this port: stop it or choose another one",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    }
}

/// What only the program that starts a router knows.
#[derive(Default)]
pub struct RouterOptions {
    /// Files of the demo page. Empty: none is served.
    pub web: &'static [WebFile],
    /// The demo, where the configuration allows it.
    pub demo: Option<DemoOptions>,
    /// Metrics of the rest of the process, served together with the router's.
    pub more_metrics: Option<MoreMetrics>,
}

/// What the demo page needs to know.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Where clients connect, as in `ws://127.0.0.1:7070/ws`.
    pub ws_url: String,
}

/// A router that runs. Dropping it stops it.
#[derive(Debug)]
pub struct RouterHandle {
    link_address: SocketAddr,
    http_address: SocketAddr,
    info: StoreInfo,
    boot: u64,
    stop: Arc<Stop>,
    stopped: watch::Receiver<Option<StopReason>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl RouterHandle {
    /// Where gateways connect.
    pub const fn link_addr(&self) -> SocketAddr {
        self.link_address
    }

    /// Where HTTP is served.
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_address
    }

    /// Cluster, epoch and lanes of the store.
    pub const fn info(&self) -> StoreInfo {
        self.info
    }

    /// This start of the router.
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Ends when the router failed for good, with the reason. Does not end for a router that was asked to stop.
    pub fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            let reason = stopped
                .wait_for(|reason| matches!(reason, Some(StopReason::Failed(_))))
                .await
                .ok()
                .and_then(|reason| reason.clone());
            match reason {
                Some(StopReason::Failed(reason)) => reason,
                _ => std::future::pending().await,
            }
        }
    }

    /// Stops the router and waits until everything it was handed is written.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.wish();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the router's thread panicked");
        }
    }
}

impl Drop for RouterHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a router on threads of its own. When this returns its ports are open.
///
/// # Errors
///
/// [`StartError`]: nothing runs; print it and exit.
pub fn start(config: &RouterConfig, options: RouterOptions) -> Result<RouterHandle, StartError> {
    config.check()?;
    let clock = Clock::start();
    let dir = &config.store.data_dir;
    keys::ensure_dir(dir)?;
    let link_key = keys::ensure(dir, keys::LINK_KEY)?;
    let admin_key = keys::to_hex(&keys::ensure(dir, keys::ADMIN_KEY)?);
    let demo = match options.demo.filter(|_| config.router.demo) {
        Some(DemoOptions { ws_url }) => Some(Demo {
            token_key: keys::ensure(dir, keys::TOKEN_KEY)?.to_vec(),
            ws_url,
        }),
        None => None,
    };
    let (link_listener, link_address) = listen("router.link_listen", config.router.link_listen)?;
    let (http_listener, http_address) = listen("router.http_listen", config.router.http_listen)?;
    let boot = random()? | 1;
    let store = AnyStore::open(&config.store, boot, random()?, clock)?;
    let info = store.info();
    let runtime = threads(config.router.threads)?;
    let registry = runtime.block_on(registry(config, clock))?;
    let bus = runtime.block_on(bus(config))?;
    let (events, receiver) = mpsc::channel(QUEUE);
    let stop = Arc::new(Stop::new());
    let shared = Arc::new(Shared {
        node: NodeId::new(&config.router.node).map_err(|error| StartError::System {
            what: "the node's name",
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?,
        boot,
        partitions: config.router.partitions,
        link_secret: LinkSecret {
            key_id: 1,
            key: link_key.to_vec(),
        },
        clock,
        store: Arc::new(store),
        registry: Arc::new(registry),
        bus: Arc::new(bus),
        hub: Hub::default(),
        cluster: Cluster::new(BootId(boot)),
        gone: std::sync::Mutex::default(),
        given_up: GivenUp::default(),
        dead: std::sync::Mutex::default(),
        metrics: Metrics::default(),
        driver: events,
        adopting: Arc::new(Semaphore::new(adopt::ADOPTED_MAX)),
        stop: Arc::clone(&stop),
    });
    let api = ApiState {
        shared: Arc::clone(&shared),
        admin_key,
        demo,
        web: options.web,
        more_metrics: options.more_metrics,
    };
    let mut driver = Driver::new(Arc::clone(&shared), receiver);
    let addresses = (link_address, http_address);
    let member = runtime.block_on(enter(config, &shared, &mut driver, addresses))?;
    let stopped = stop.subscribe();
    let keep = Duration::from_secs(config.bus.topic_keep_secs.into());
    let thread = thread::Builder::new()
        .name("router-main".to_owned())
        .spawn(move || {
            runtime.block_on(serve(
                shared,
                api,
                driver,
                member,
                (link_listener, http_listener),
                keep,
            ));
            runtime.shutdown_timeout(STOP_GRACE);
        })
        .map_err(|source| StartError::System {
            what: "a thread",
            source,
        })?;
    Ok(RouterHandle {
        link_address,
        http_address,
        info,
        boot,
        stop,
        stopped,
        thread: Some(thread),
    })
}

/// Publishes what was left by who is dead, and joins the list of routers.
async fn enter(
    config: &RouterConfig,
    shared: &Arc<Shared>,
    driver: &mut Driver,
    (link_address, http_address): (SocketAddr, SocketAddr),
) -> Result<Member, StartError> {
    let left = driver.recover().await?;
    let entry = RouterEntry {
        node: shared.node.clone(),
        boot: BootId(shared.boot),
        address: config.router.link_address(link_address),
        http: config.router.http_address(http_address),
        cluster: shared.store.info().cluster_id,
    };
    let member = Box::pin(membership::join(shared, entry, config.alone())).await?;
    let info = shared.store.info();
    tracing::info!(
        node = config.router.node,
        boot = format!("{:016x}", shared.boot),
        cluster = format!("{:016x}", info.cluster_id),
        lanes = info.lanes,
        link = %link_address,
        http = %http_address,
        outbox_rows = left,
        "router starts"
    );
    Ok(member)
}

fn threads(configured: usize) -> Result<tokio::runtime::Runtime, StartError> {
    let count = match configured {
        0 => thread::available_parallelism().map_or(2, usize::from).min(4),
        count => count,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count)
        .thread_name("router")
        .enable_all()
        .build()
        .map_err(|source| StartError::System {
            what: "threads",
            source,
        })
}

async fn registry(config: &RouterConfig, clock: Clock) -> Result<AnyRegistry, StartError> {
    let now = move || clock.now().mono;
    Ok(match config.registry.redis() {
        None => {
            let registry = MemoryRegistry::new(random()? | 1, now);
            AnyRegistry::Memory(registry.with_versions_above(clock.now().wall_ms))
        }
        Some(redis) => AnyRegistry::Redis(RedisRegistry::connect(&redis, now).await?),
    })
}

async fn bus(config: &RouterConfig) -> Result<AnyBus, StartError> {
    Ok(match config.bus.kafka() {
        None => AnyBus::Memory(MemoryBus::default()),
        Some(kafka) => AnyBus::Kafka(Box::new(KafkaBus::connect(kafka).await?)),
    })
}

/// Gives the log of a store that does not run a new epoch, so that every client drops its cursors: the last step after a
/// backup was restored. Returns the epoch before and after.
///
/// # Errors
///
/// [`StartError`]: nothing was changed; the store is in use, or cannot be opened.
pub fn bump_epoch(config: &StoreSection) -> Result<(u64, u64), StartError> {
    let synced = StoreSection {
        durability: Durability::Full,
        ..config.clone()
    };
    let store = AnyStore::open(&synced, random()? | 1, random()?, Clock::start())?;
    let before = store.info().epoch;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::System {
            what: "a runtime",
            source,
        })?;
    let after = runtime.block_on(store.bump_epoch(random()?))?;
    Ok((before, after))
}

async fn serve(
    shared: Arc<Shared>,
    api: ApiState,
    driver: Driver,
    member: Member,
    (link_listener, http_listener): (TcpListener, TcpListener),
    keep_topics: Duration,
) {
    let listeners = tokio::net::TcpListener::from_std(link_listener)
        .and_then(|link| Ok((link, tokio::net::TcpListener::from_std(http_listener)?)));
    let (link_listener, http_listener) = match listeners {
        Ok(listeners) => listeners,
        Err(error) => {
            shared
                .stop
                .give(StopReason::Failed(format!("the sockets cannot be used: {error}")));
            return;
        }
    };
    let driver = tokio::spawn(driver.run());
    tokio::spawn(lease::reap(Arc::clone(&shared)));
    tokio::spawn(lease::expect(Arc::clone(&shared)));
    tokio::spawn(tell_of_incarnations(Arc::clone(&shared)));
    tokio::spawn(sweep::sweep(Arc::clone(&shared), keep_topics));
    tokio::spawn(adopt::strays(Arc::clone(&shared)));
    if matches!(*shared.store, AnyStore::Tikv(_)) {
        tokio::spawn(adopt::sweep(Arc::clone(&shared)));
    }
    // Nothing arrives before the core knows its lanes.
    member.tell_core().await;
    let membership = tokio::spawn(membership::run(member));
    let links = tokio::spawn(link::serve(link_listener, Arc::clone(&shared)));
    let stop = Arc::clone(&shared.stop);
    let http = tokio::spawn(async move {
        let stopped = async { stop.cancelled().await };
        http::serve(http_listener, api::router(api), HttpLimits::default(), stopped).await;
    });
    let watch = {
        let shared = Arc::clone(&shared);
        async move {
            if driver.await.is_err() {
                shared
                    .stop
                    .give(StopReason::Failed("the driver panicked".to_owned()));
            }
        }
    };
    tokio::spawn(watch);
    until_stop(&shared).await;
    if tokio::time::timeout(LEAVE_GRACE, membership).await.is_err() {
        tracing::warn!("the list of routers was not left in {LEAVE_GRACE:?}: others take this one out");
    }
    shared.stop.give(StopReason::Asked);
    let _ = tokio::time::timeout(STOP_GRACE, async { tokio::join!(links, http) }).await;
    tracing::info!("router stops");
}

/// A gateway hears of a new incarnation when it links: all links are closed when the registry forgot something.
async fn tell_of_incarnations(shared: Arc<Shared>) {
    let mut known = shared.registry.incarnation();
    loop {
        tokio::select! {
            () = shared.registry.forgot(known) => {}
            () = shared.stop.cancelled() => return,
        }
        known = shared.registry.incarnation();
        tracing::warn!("the registry forgot something: gateways link anew and claim again");
        shared.hub.close_all();
    }
}

/// Ends with the wish or the sign to stop. When the store failed for good it gives the sign itself.
async fn until_stop(shared: &Shared) {
    tokio::select! {
        () = shared.stop.is_wished() => {}
        () = shared.stop.cancelled() => {}
        reason = shared.store.failed() => {
            tracing::error!(reason, "the store failed for good");
            shared.stop.give(StopReason::Failed(format!("the store failed for good: {reason}")));
        }
    }
}

fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let wrong = |source| StartError::Listen { key, address, source };
    let listener = TcpListener::bind(address).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StartError::System {
        what: "random bytes",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(u64::from_le_bytes(bytes))
}
