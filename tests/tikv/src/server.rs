//! Starting a store: its listeners, its log, its PD, its regions. Everything runs on a runtime of its own, so that dropping
//! a [`TestStore`] ends all of it at once, as a crash would.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::control;
use crate::fault::{Rule, TooManyRules};
use crate::log::LogError;
use crate::node::Node;
use crate::pd::join::{JoinError, Joined};
use crate::pd::serve::{self, PdService};
use crate::proto::pdpb::pd_server::PdServer;
use crate::proto::tikvpb::tikv_server::TikvServer;
use crate::service::TikvService;
use crate::store::{Store, Summary};

/// Longest request; TiKV refuses raft entries above 8 MiB.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// How long a PD that is starting is waited for.
const PD_TRIES: u32 = 150;
/// Between two tries.
const PD_RETRY: Duration = Duration::from_millis(200);

/// Where PD is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pd {
    /// The store serves PD's calls itself, at this address.
    Serve(SocketAddr),
    /// The store joins the real PD there (`host:port`).
    Join(String),
}

/// How to start. Port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// For the log; made if need be.
    pub folder: PathBuf,
    /// TiKV's gRPC service. Told to PD, so it must be one that clients reach.
    pub listen: SocketAddr,
    /// The control port (HTTP).
    pub control: SocketAddr,
    /// Where PD is.
    pub pd: Pd,
    /// Raw keys at which regions begin.
    pub splits: Vec<Vec<u8>>,
}

impl Options {
    /// On free loopback ports, serving PD, with three regions that begin at these two keys.
    pub fn local(folder: impl Into<PathBuf>, splits: [&[u8]; 2]) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let splits = splits.map(<[u8]>::to_vec).into();
        Self {
            folder: folder.into(),
            listen: any,
            control: any,
            pd: Pd::Serve(any),
            splits,
        }
    }
}

/// Why a store did not start, or did not split.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No threads.
    #[error("cannot start a runtime")]
    Runtime(#[source] std::io::Error),
    /// The data.
    #[error(transparent)]
    Log(#[from] LogError),
    /// PD.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The task that started it was ended.
    #[error("the start was broken off")]
    BrokenOff,
}

/// A running store. Dropping it ends it without a word to its clients.
pub struct TestStore {
    inner: Inner,
    runtime: Option<Runtime>,
}

/// What the control port reaches, too.
#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) node: Arc<Node>,
    joined: Option<Arc<Joined>>,
    addresses: Addresses,
}

#[derive(Clone)]
struct Addresses {
    store: SocketAddr,
    control: SocketAddr,
    pd: String,
}

impl TestStore {
    /// Starts a store and returns when its clients can use it.
    ///
    /// # Errors
    /// A port is taken, the log is damaged, or PD is not this store's.
    pub async fn start(options: Options) -> Result<Self, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-store")
            .enable_all()
            .build()
            .map_err(StoreError::Runtime)?;
        let started = runtime.spawn(start(options)).await;
        let started = started.unwrap_or(Err(StoreError::BrokenOff));
        match started {
            Ok(inner) => Ok(Self {
                inner,
                runtime: Some(runtime),
            }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// TiKV's service.
    pub fn store_address(&self) -> SocketAddr {
        self.inner.addresses.store
    }

    /// The control port.
    pub fn control_address(&self) -> SocketAddr {
        self.inner.addresses.control
    }

    /// What clients are given: PD's `host:port`.
    pub fn pd_address(&self) -> &str {
        &self.inner.addresses.pd
    }

    /// Adds a fault.
    ///
    /// # Errors
    /// There are too many.
    pub fn fault(&self, rule: Rule) -> Result<(), TooManyRules> {
        self.inner.node.faults.add(rule)
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.inner.node.faults.clear();
    }

    /// How many requests faults have hit.
    pub fn faults_hit(&self) -> u64 {
        self.inner.node.faults.report().1
    }

    /// Freezes or thaws the store.
    pub fn set_frozen(&self, frozen: bool) {
        self.inner.node.gate.set_shut(frozen);
    }

    /// Splits the region of a raw key there; `false` where a region begins there already.
    ///
    /// # Errors
    /// PD did not answer, or the log failed.
    pub async fn split(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.inner.split(key).await
    }

    /// What the store holds.
    pub fn summary(&self) -> Summary {
        self.inner.node.store.summary()
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    /// See [`TestStore::split`].
    pub(crate) async fn split(&self, key: &[u8]) -> Result<bool, StoreError> {
        let store = &self.node.store;
        let Some(region) = store
            .regions()
            .of_key(key)
            .filter(|region| region.start != key)
            .cloned()
        else {
            return Ok(false);
        };
        let (id, peer_id) = match &self.joined {
            Some(joined) => joined.ask_split(&region).await?,
            None => (self.node.unused_id(), self.node.unused_id() + 1),
        };
        let Some(parts) = store.split(key, id, peer_id).await? else {
            return Ok(false);
        };
        if let Some(joined) = &self.joined {
            joined.report_split(&parts).await?;
        }
        Ok(true)
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StoreError> {
    let named = |source| StoreError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(named)?;
    let bound = listener.local_addr().map_err(named)?;
    Ok((listener, bound))
}

async fn start(options: Options) -> Result<Inner, StoreError> {
    let (store_listener, store) = bind(options.listen).await?;
    let (control_listener, control) = bind(options.control).await?;
    let node = Arc::new(Node::new(Store::open(&options.folder)?));
    let service = TikvServer::new(TikvService {
        node: Arc::clone(&node),
    })
    .max_decoding_message_size(REQUEST_BYTES_MAX)
    .max_encoding_message_size(usize::MAX);
    let incoming = TcpIncoming::from(store_listener).with_nodelay(Some(true));
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let (joined, pd) = match options.pd {
        Pd::Serve(address) => (None, serve_pd(&node, address, store).await?),
        Pd::Join(endpoint) => (Some(join_pd(&node, &endpoint, store).await?), endpoint),
    };
    let inner = Inner {
        node,
        joined,
        addresses: Addresses { store, control, pd },
    };
    tokio::spawn(control::serve(control_listener, inner.clone()));
    for key in &options.splits {
        inner.split_at_start(key).await?;
    }
    let node = Arc::clone(&inner.node);
    tokio::spawn(async move { node.collect_garbage().await });
    inner.node.ready.store(true, Ordering::Release);
    Ok(inner)
}

async fn serve_pd(node: &Arc<Node>, address: SocketAddr, store: SocketAddr) -> Result<String, StoreError> {
    let (listener, address) = bind(address).await?;
    serve::found(node).await?;
    let service = PdServer::new(PdService::new(Arc::clone(node), address, store));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    Ok(address.to_string())
}

/// Joins PD, waiting for one that is starting, and returns when it sends clients to all regions.
async fn join_pd(node: &Arc<Node>, endpoint: &str, store: SocketAddr) -> Result<Arc<Joined>, StoreError> {
    let mut tries = 0;
    let joined = loop {
        match Joined::join(Arc::clone(node), endpoint.to_owned(), store.to_string()).await {
            Ok(joined) => break Arc::new(joined),
            Err(error @ JoinError::Unreachable { .. }) if tries < PD_TRIES => {
                tracing::info!(error = &error as &dyn std::error::Error, "waiting for PD");
            }
            Err(error) => return Err(error.into()),
        }
        tries += 1;
        tokio::time::sleep(PD_RETRY).await;
    };
    tokio::spawn(Arc::clone(&joined).keep_alive());
    for _ in 0..PD_TRIES {
        if joined.serves_all().await.unwrap_or(false) {
            return Ok(joined);
        }
        tokio::time::sleep(PD_RETRY / 10).await;
    }
    let message = "it does not take the heartbeats of the regions".to_owned();
    Err(JoinError::Refused {
        call: "RegionHeartbeat",
        message,
    }
    .into())
}

impl Inner {
    /// A split while PD may still be getting to know the regions.
    async fn split_at_start(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            match self.split(key).await {
                Ok(_) => return Ok(()),
                Err(error @ StoreError::Join(_)) if tries < PD_TRIES => {
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        "splitting a region again"
                    );
                }
                Err(error) => return Err(error),
            }
            tries += 1;
            tokio::time::sleep(PD_RETRY).await;
        }
    }

    /// Whether store and PD can be used now.
    pub(crate) async fn is_ready(&self) -> bool {
        let started = self.node.ready.load(Ordering::Acquire) && !self.node.gate.is_shut();
        match &self.joined {
            Some(joined) if started => joined.serves_all().await.unwrap_or(false),
            _ => started,
        }
    }
}
