//! The gateway process: checks the machine, starts the embedded router and the shards, waits, drains.
//!
//! Owns the threads. A shard is a glommio executor pinned to a CPU of its own; the embedded router and the admin
//! endpoints run on threads beside them. When a shard or the embedded store fails for good the process ends with
//! the reason: whoever supervises it starts it again, and clients reconnect.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_gateway_core::ShardConfig;
use corelane_net::{Engine, EngineConfig, Waker};
use corelane_protocol::link::codec::LinkSecret;
use corelane_router::keys;
use glommio::{LocalExecutorBuilder, Placement};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, Admin};
use crate::boot::ProcessBoot;
use crate::bus::{BusRequests, Topic, TopicError};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::doctor;
use crate::embedded::{self, Embedded};
use crate::inbox::Inbox;
use crate::placement::Cpus;
use crate::shard_loop::{ShardLoop, ShardSetup, Snapshot};
use crate::token::Verifier;

/// Time that shards have to end after a drain before the process ends without them.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// A link whose router acknowledges nothing for so long is broken, however much waits to be sent on it.
const LINK_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Why the gateway did not start, or ended. For the operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The machine lacks something.
    #[error("this machine lacks something that the gateway needs:\n{0}")]
    Machine(String),
    /// A configuration value does not work here.
    #[error("configuration: {key} = {value}: {problem}")]
    Config {
        /// Section and key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Relation(#[from] ConfigError),
    /// A key file cannot be read or made.
    #[error(transparent)]
    Key(#[from] keys::KeyError),
    /// There is no topic for this gateway.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The embedded router did not start, or failed.
    #[error("embedded router: {0}")]
    Router(String),
    /// A shard did not start, or failed.
    #[error("shard {shard}: {problem}")]
    Shard {
        /// Which.
        shard: usize,
        /// Why.
        problem: String,
    },
    /// The system refused a thread, a socket or a signal handler.
    #[error("the system refused {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The key that tokens are signed with: `token.key` in the data directory, made if it is missing.
///
/// # Errors
///
/// [`ProcessError::Key`].
pub fn token_secret(config: &Config) -> Result<Vec<u8>, ProcessError> {
    let dir = Path::new(&config.store.data_dir);
    keys::ensure_dir(dir)?;
    Ok(keys::ensure(dir, "token.key")?.to_vec())
}

fn link_secret(config: &Config) -> Result<LinkSecret, ProcessError> {
    let dir = Path::new(&config.store.data_dir);
    keys::ensure_dir(dir)?;
    let key = if config.router.link_key_file.is_empty() {
        keys::ensure(dir, "link.key")?
    } else {
        keys::read(&PathBuf::from(&config.router.link_key_file))?
    };
    Ok(LinkSecret {
        key_id: 1,
        key: key.to_vec(),
    })
}

/// An address of the configuration, resolved.
///
/// # Errors
///
/// [`ProcessError::Config`], naming the key.
pub fn resolve(key: &'static str, text: &str) -> Result<SocketAddr, ProcessError> {
    let wrong = |problem: String| ProcessError::Config {
        key,
        value: text.to_owned(),
        problem,
    };
    text.to_socket_addrs()
        .map_err(|error| wrong(format!("is no host:port that resolves: {error}")))?
        .next()
        .ok_or_else(|| wrong("resolves to no address".to_owned()))
}

/// Shards share one port; port 0 (in tests) is chosen once for all of them.
fn listen_address(config: &Config) -> Result<SocketAddr, ProcessError> {
    let listen = resolve("gateway.listen", &config.gateway.listen)?;
    if listen.port() != 0 {
        return Ok(listen);
    }
    let chosen = TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    chosen.map_err(|source| ProcessError::System {
        what: "a free port",
        source,
    })
}

/// Runs the gateway until SIGTERM or SIGINT has drained it.
///
/// # Errors
///
/// [`ProcessError`]: print it and exit with a failure.
pub fn run(config: Config) -> Result<(), ProcessError> {
    let findings = doctor::examine(&config);
    let unmet: Vec<_> = findings
        .into_iter()
        .filter(|finding| finding.required && finding.fix.is_some())
        .collect();
    if !unmet.is_empty() {
        return Err(ProcessError::Machine(doctor::table(&unmet)));
    }
    let clock = Clock::start();
    let listen = listen_address(&config)?;
    let verifier = Arc::new(Verifier::new(&token_secret(&config)?));
    let secret = link_secret(&config)?;
    let shards = usize::try_from(config.gateway.shards).unwrap_or(usize::MAX);
    let cpus = Cpus::of_this_process()
        .place(shards)
        .ok_or_else(|| ProcessError::Config {
            key: "gateway.shards",
            value: shards.to_string(),
            problem: "there are fewer CPUs".to_owned(),
        })?;
    let snapshots: Vec<Arc<Mutex<Snapshot>>> = cpus.iter().map(|_| Arc::default()).collect();
    let admin = Admin::new(snapshots.clone());
    let router = if config.router.embedded {
        Some(embedded::start(&config, listen, &admin)?)
    } else {
        None
    };
    let routers = match &router {
        Some(router) => vec![router.link_address().to_string()],
        None => config.router.seeds.clone(),
    };
    let boot = ProcessBoot::draw().map_err(|source| ProcessError::System {
        what: "random bytes",
        source,
    })?;
    let shard_config = shard_config(&config, cpus.len(), secret, routers, boot.current())?;
    let topic = own_topic(&config, shard_config.bus_partitions, boot.current(), &admin)?;
    let boot = Arc::new(boot);
    let admin_address = match config.admin_listen() {
        Some(listen) => Some(admin_serve(&admin, listen)?),
        None => None,
    };
    let gather = Duration::from_micros(config.gateway.gather_us);
    let common = Common {
        boot: Arc::clone(&boot),
        bus: topic.as_ref().map(Topic::requests),
        listen,
        verifier,
        gather,
        clock,
    };
    let started = match start_shards(&cpus, &shard_config, &common, &snapshots) {
        Ok(started) => started,
        Err(error) => {
            if let Some(router) = router {
                router.stop();
            }
            return Err(error);
        }
    };
    if let Some(topic) = topic {
        let served = topic.serve(boot, started.inboxes.clone());
        served.map_err(|source| ProcessError::System {
            what: "a thread",
            source,
        })?;
    }
    let announce = |router: Option<&Embedded>| embedded::announce(&config, listen, router, admin_address);
    wait(&config, &admin, router, started, announce)
}

/// The topic of this boot, where the bus stands apart from the routers: there before anything is linked.
fn own_topic(
    config: &Config,
    partitions: u16,
    boot: u64,
    admin: &Admin,
) -> Result<Option<Topic>, ProcessError> {
    let Some(kafka) = config.bus.kafka() else {
        return Ok(None);
    };
    let topic = Topic::make(kafka, partitions, boot)?;
    admin.set_bus(Arc::clone(topic.bus()));
    Ok(Some(topic))
}

fn admin_serve(admin: &Admin, listen: &str) -> Result<SocketAddr, ProcessError> {
    let address = resolve("admin.listen", listen)?;
    admin::serve(admin, address).map_err(|source| ProcessError::Config {
        key: "admin.listen",
        value: listen.to_owned(),
        problem: format!("cannot be listened on: {source}"),
    })
}

fn shard_config(
    config: &Config,
    shards: usize,
    link_secret: LinkSecret,
    routers: Vec<String>,
    boot: u64,
) -> Result<ShardConfig, ProcessError> {
    let connection = &config.connection;
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(ShardConfig {
        node: config.gateway.node.clone(),
        boot,
        shards: u16::try_from(shards).unwrap_or(u16::MAX),
        cluster_id: config.cluster_id()?,
        link_secret,
        routers,
        echo: config.gateway.echo,
        echo_bytes_max: small(config.gateway.echo_bytes_max),
        origins: config.gateway.origins.clone(),
        proxy_sources: config.gateway.proxy_sources.clone(),
        connections_max: small(connection.count_max),
        connections_per_ip_max: small(connection.per_ip_max),
        heartbeat: Duration::from_millis(connection.heartbeat_ms),
        handshake: Duration::from_millis(connection.handshake_ms),
        queue_bytes_max: small(connection.queue_bytes_max),
        queue_total_bytes_max: connection.queue_total_bytes_max,
        slow: Duration::from_millis(connection.drain_slow_ms),
        frames_per_s: small(connection.frames_per_s),
        drain: Duration::from_millis(config.gateway.drain_ms),
        send_deadline: Duration::from_millis(config.router.send_deadline_ms),
        link_retry: Duration::from_millis(config.router.link_retry_ms),
        link_silence: Duration::from_millis(config.router.link_silence_ms),
        bus_partitions: config.bus.own_partitions(),
        ..ShardConfig::default()
    })
}

/// How a shard ended.
type End = (usize, Result<(), String>);

/// Shards that run, and how they end.
struct Started {
    inboxes: Vec<Inbox>,
    ended: Receiver<End>,
}

/// Tells how a shard ended, whatever ends it: dropped without an outcome it says so.
struct EndNotice {
    shard: usize,
    outcome: Result<(), String>,
    ended: Sender<End>,
}

impl EndNotice {
    fn new(shard: usize, ended: Sender<End>) -> Self {
        let outcome = Err("its executor could not be started".to_owned());
        Self {
            shard,
            outcome,
            ended,
        }
    }

    fn run(mut self, run: impl FnOnce() -> Result<(), String>) {
        self.outcome = Err("panicked".to_owned());
        self.outcome = run();
    }
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        let _ = self.ended.send((self.shard, outcome));
    }
}

/// Runs `run` on a glommio executor of its own, pinned to `cpu`.
fn spawn_shard(
    notice: EndNotice,
    cpu: usize,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), ProcessError> {
    let shard = notice.shard;
    LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name(&format!("shard-{shard}"))
        .io_memory(64 * 1024)
        .ring_depth(1024)
        .preempt_timer(Duration::from_millis(1))
        .spawn(move || async move { notice.run(run) })
        .map(drop)
        .map_err(|error| ProcessError::Shard {
            shard,
            problem: error.to_string(),
        })
}

/// Starts the shards and waits until all of them listen.
fn start_shards(
    cpus: &[usize],
    config: &ShardConfig,
    common: &Common,
    snapshots: &[Arc<Mutex<Snapshot>>],
) -> Result<Started, ProcessError> {
    let (ended_sender, ended) = channel();
    let (waker_sender, wakers) = channel();
    let (listening_sender, listening) = channel();
    let mut inbox_senders: Vec<Sender<Vec<Inbox>>> = Vec::new();
    for ((shard, cpu), snapshot) in cpus.iter().copied().enumerate().zip(snapshots) {
        let (inbox_sender, inboxes) = channel();
        inbox_senders.push(inbox_sender);
        let start = ShardStart {
            shard,
            config: config.clone(),
            common: common.clone(),
            snapshot: Arc::clone(snapshot),
            wakers: waker_sender.clone(),
            inboxes,
            listening: listening_sender.clone(),
        };
        let notice = EndNotice::new(shard, ended_sender.clone());
        spawn_shard(notice, cpu, move || start.run())?;
    }
    drop((waker_sender, listening_sender, ended_sender));
    let mut found: Vec<(usize, Waker)> = wakers.iter().take(cpus.len()).collect();
    if found.len() < cpus.len() {
        return Err(did_not_start(&ended));
    }
    found.sort_by_key(|(shard, _)| *shard);
    let inboxes: Vec<Inbox> = (0..)
        .zip(found)
        .map(|(shard, (_, waker))| Inbox::new(shard, waker))
        .collect();
    for sender in inbox_senders {
        let _ = sender.send(inboxes.clone());
    }
    if listening.iter().take(cpus.len()).count() < cpus.len() {
        return Err(did_not_start(&ended));
    }
    Ok(Started { inboxes, ended })
}

fn did_not_start(ended: &Receiver<End>) -> ProcessError {
    let (shard, outcome) = ended
        .recv()
        .unwrap_or((0, Err("ended before it began".to_owned())));
    ProcessError::Shard {
        shard,
        problem: outcome.err().unwrap_or_default(),
    }
}

/// What all shards share.
#[derive(Clone)]
struct Common {
    boot: Arc<ProcessBoot>,
    bus: Option<BusRequests>,
    listen: SocketAddr,
    verifier: Arc<Verifier>,
    gather: Duration,
    clock: Clock,
}

/// What a shard's thread begins with. The engine must be made on the thread that uses it.
struct ShardStart {
    shard: usize,
    config: ShardConfig,
    common: Common,
    snapshot: Arc<Mutex<Snapshot>>,
    wakers: Sender<(usize, Waker)>,
    inboxes: Receiver<Vec<Inbox>>,
    listening: Sender<()>,
}

impl ShardStart {
    fn run(self) -> Result<(), String> {
        let engine_config = EngineConfig {
            unacknowledged_max: Some(LINK_UNACKNOWLEDGED_MAX),
            ..EngineConfig::default()
        };
        let engine = Engine::new(engine_config).map_err(|error| error.to_string())?;
        self.wakers
            .send((self.shard, engine.waker()))
            .map_err(|error| error.to_string())?;
        drop(self.wakers);
        let inboxes = self
            .inboxes
            .recv()
            .map_err(|_| "another shard did not start".to_owned())?;
        let setup = ShardSetup {
            shard: u16::try_from(self.shard).map_err(|error| error.to_string())?,
            config: self.config,
            listen: self.common.listen,
            inboxes,
            boot: self.common.boot,
            bus: self.common.bus,
            verifier: self.common.verifier,
            snapshot: self.snapshot,
            gather: self.common.gather,
            clock: self.common.clock,
        };
        let shard = ShardLoop::new(setup, engine).map_err(|error| error.to_string())?;
        self.listening.send(()).map_err(|error| error.to_string())?;
        drop(self.listening);
        shard.run().map_err(|error| error.to_string())
    }
}

/// Waits for a signal, or for something to fail; then drains. `announce` is called once signals are heeded: whoever reads
/// it may send one at once.
fn wait(
    config: &Config,
    admin: &Admin,
    router: Option<Embedded>,
    started: Started,
    announce: impl FnOnce(Option<&Embedded>),
) -> Result<(), ProcessError> {
    let Started { inboxes, ended } = started;
    let system = |what| move |source| ProcessError::System { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("a runtime"))?;
    let shards = inboxes.len();
    let (ends_sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("shard-ends".to_owned())
        .spawn(move || {
            while let Ok(end) = ended.recv() {
                if ends_sender.send(end).is_err() {
                    return;
                }
            }
        })
        .map_err(system("a thread"))?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("a signal handler"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("a signal handler"))?;
        announce(router.as_ref());
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            end = ends.recv() => {
                let (shard, outcome) = end.unwrap_or((0, Ok(())));
                return Err(ProcessError::Shard { shard, problem: outcome.err().unwrap_or("ended".to_owned()) });
            }
            reason = embedded::failed(router.as_ref()) => return Err(ProcessError::Router(reason)),
        }
        tracing::info!(drain_ms = config.gateway.drain_ms, "draining");
        admin.set_draining();
        for inbox in &inboxes {
            inbox.drain();
        }
        let limit = Duration::from_millis(config.gateway.drain_ms) + DRAIN_GRACE;
        let all = async {
            for _ in 0..shards {
                if let Some((shard, Err(problem))) = ends.recv().await {
                    return Err(ProcessError::Shard { shard, problem });
                }
            }
            Ok(())
        };
        tokio::select! {
            drained = all => return drained,
            () = tokio::time::sleep(limit) => tracing::warn!("shards did not end in time"),
            _ = terminate.recv() => tracing::warn!("second signal: ending at once"),
            _ = interrupt.recv() => tracing::warn!("second signal: ending at once"),
        }
        Ok(())
    });
    if let Some(router) = router {
        router.stop();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a shard that runs `run` ends, as the process sees it.
    fn outcome_of(run: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), ProcessError> {
        let (sender, ended) = channel();
        let cpus = Cpus::of_this_process().place(1).unwrap();
        spawn_shard(EndNotice::new(3, sender), cpus[0], run)?;
        let started = Started {
            inboxes: Vec::new(),
            ended,
        };
        wait(&Config::default(), &Admin::default(), None, started, |_| {})
    }

    #[test]
    fn a_shard_that_panics_ends_the_process_with_the_reason() {
        let error = outcome_of(|| panic!("as planned")).unwrap_err();
        assert_eq!(error.to_string(), "shard 3: panicked");
    }

    #[test]
    fn a_shard_that_fails_or_just_ends_ends_the_process_too() {
        let error = outcome_of(|| Err("ring is broken".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "shard 3: ring is broken");
        let error = outcome_of(|| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "shard 3: ended");
    }

    #[test]
    fn a_shard_whose_executor_cannot_be_made_is_reported() {
        let (sender, ended) = channel();
        drop(EndNotice::new(0, sender));
        let (_, outcome) = ended.recv().unwrap();
        assert!(outcome.unwrap_err().contains("executor"));
    }

    #[test]
    fn nobody_left_to_report_is_a_failure() {
        let started = Started {
            inboxes: Vec::new(),
            ended: channel().1,
        };
        let error = wait(&Config::default(), &Admin::default(), None, started, |_| {}).unwrap_err();
        assert!(matches!(error, ProcessError::Shard { .. }), "{error}");
    }

    #[test]
    fn the_defaults_of_the_file_are_those_of_a_shard() {
        let secret = ShardConfig::default().link_secret;
        let routers = vec!["one:7090".to_owned(), "two:7090".to_owned()];
        let made = shard_config(&Config::default(), 1, secret, routers.clone(), 1).unwrap();
        let expected = ShardConfig {
            boot: made.boot,
            routers,
            ..ShardConfig::default()
        };
        assert_eq!(format!("{made:?}"), format!("{expected:?}"));
    }
}
