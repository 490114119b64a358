//! Joining a real PD: bootstraps its cluster with this store, keeps telling it that store and regions are there, and asks
//! it for ids when a region splits.
//!
//! PD forgets who leads a region when it restarts, and a client finds no leader until the next heartbeat; hence heartbeats
//! every second and a new stream at once when one breaks. What PD orders in its answers (moves, merges) is ignored: there is
//! one store, and `ops/services.d/tikv.sh` turns PD's schedulers off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::clock::now_ms;
use crate::log::LogError;
use crate::node::Node;
use crate::proto::metapb;
use crate::proto::pdpb::pd_client::PdClient;
use crate::proto::pdpb::{
    AllocIdRequest, AskBatchSplitRequest, BootstrapRequest, GetGcSafePointRequest, GetMembersRequest,
    GetRegionByIdRequest, IsBootstrappedRequest, PutStoreRequest, RegionHeartbeatRequest,
    ReportBatchSplitRequest, RequestHeader, ResponseHeader, StoreHeartbeatRequest, StoreStats, TimeInterval,
    TsoRequest,
};
use crate::record::{Identity, Region};

/// What the store says it is; PD wants a version that it knows.
pub(crate) const STORE_VERSION: &str = "5.0.0";
/// Between two heartbeats, and between two looks at the safe point.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Before the next try when PD does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// No single call to PD takes longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long PD may take to know the parts of a split.
const SPLIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Regions whose heartbeats wait to be sent.
const HEARTBEATS: usize = 64;
/// As told to PD; it places nothing, so any size does.
const CAPACITY_BYTES: u64 = 1 << 40;

/// Why the store cannot live with its PD.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No answer; worth another try.
    #[error("PD at {endpoint} did not answer")]
    Unreachable {
        /// As configured, or the leader's.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer with an error in it.
    #[error("PD refused {call}: {message}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// PD's words.
        message: String,
    },
    /// PD is of another cluster than the store's data.
    #[error(
        "PD is cluster {theirs}, the store's data is of cluster {own}: start with an empty folder or the other PD"
    )]
    WrongCluster {
        /// The store's.
        own: u64,
        /// PD's.
        theirs: u64,
    },
    /// PD has a cluster already and the store has no data of it.
    #[error("PD's cluster was bootstrapped by another store, and this one has no data")]
    NotOurs,
    /// PD lost what it knew of this store.
    #[error("PD knows no cluster, the store has {0} regions: start both with empty folders")]
    PdIsEmpty(usize),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A connection to PD's leader.
struct Leader {
    client: PdClient<Channel>,
    cluster_id: u64,
}

/// A store that has joined.
pub(crate) struct Joined {
    node: Arc<Node>,
    endpoint: String,
    address: String,
    leader: Mutex<Option<Leader>>,
    /// Wakes the heartbeats after a split.
    changed: Notify,
    started_at_s: u64,
    safe_point: AtomicU64,
}

impl Joined {
    /// Joins the PD at `endpoint` with the store that listens at `address`.
    ///
    /// # Errors
    /// PD did not answer, or its cluster is not this store's.
    pub(crate) async fn join(node: Arc<Node>, endpoint: String, address: String) -> Result<Self, JoinError> {
        let joined = Self {
            node,
            endpoint,
            address,
            leader: Mutex::new(None),
            changed: Notify::new(),
            started_at_s: now_ms() / 1_000,
            safe_point: AtomicU64::new(0),
        };
        joined.bootstrap().await?;
        let (mut client, header) = joined.leader().await?;
        let request = PutStoreRequest {
            header,
            store: Some(joined.store()),
        };
        let answer = client
            .put_store(request)
            .await
            .map_err(|status| joined.unreachable(status))?;
        check("PutStore", answer.into_inner().header)?;
        Ok(joined)
    }

    /// A client of the leader and the header for its requests.
    async fn leader(&self) -> Result<(PdClient<Channel>, Option<RequestHeader>), JoinError> {
        let mut known = self.leader.lock().await;
        if known.is_none() {
            *known = Some(self.find_leader().await?);
        }
        let own = self.node.store.identity();
        match (&*known, own) {
            (Some(leader), Some(own)) if own.cluster_id != leader.cluster_id => {
                Err(JoinError::WrongCluster {
                    own: own.cluster_id,
                    theirs: leader.cluster_id,
                })
            }
            (Some(leader), _) => {
                let header = RequestHeader {
                    cluster_id: leader.cluster_id,
                    sender_id: 0,
                };
                Ok((leader.client.clone(), Some(header)))
            }
            (None, _) => Err(self.unreachable(Status::unavailable("no leader"))),
        }
    }

    async fn find_leader(&self) -> Result<Leader, JoinError> {
        let mut any = connect(&self.endpoint).await?;
        let members = any.get_members(GetMembersRequest::default()).await;
        let members = members.map_err(|status| self.unreachable(status))?.into_inner();
        let cluster_id = members.header.as_ref().map_or(0, |header| header.cluster_id);
        check("GetMembers", members.header)?;
        let url = members
            .leader
            .and_then(|leader| leader.client_urls.into_iter().next());
        let url = url.ok_or_else(|| self.unreachable(Status::unavailable("there is no leader")))?;
        Ok(Leader {
            client: connect(&url).await?,
            cluster_id,
        })
    }

    /// Forgets the leader: the next call looks for it again.
    fn unreachable(&self, status: Status) -> JoinError {
        if let Ok(mut leader) = self.leader.try_lock() {
            *leader = None;
        }
        JoinError::Unreachable {
            endpoint: self.endpoint.clone(),
            source: status.into(),
        }
    }

    fn store_id(&self) -> u64 {
        self.node.store.identity().unwrap_or_default().store_id
    }

    fn store(&self) -> metapb::Store {
        metapb::Store {
            id: self.store_id(),
            address: self.address.clone(),
            version: STORE_VERSION.to_owned(),
            start_timestamp: i64::try_from(self.started_at_s).unwrap_or(i64::MAX),
            ..metapb::Store::default()
        }
    }

    /// Makes PD's cluster and the store's data belong together.
    async fn bootstrap(&self) -> Result<(), JoinError> {
        let (mut client, header) = self.leader().await?;
        let request = IsBootstrappedRequest { header };
        let answer = client
            .is_bootstrapped(request)
            .await
            .map_err(|status| self.unreachable(status))?
            .into_inner();
        check("IsBootstrapped", answer.header)?;
        match (answer.bootstrapped, self.node.store.identity()) {
            (true, Some(_)) => return Ok(()),
            (true, None) => return Err(JoinError::NotOurs),
            (false, Some(_)) => {}
            (false, None) => {
                let cluster_id = header.map_or(0, |header| header.cluster_id);
                let identity = Identity {
                    cluster_id,
                    store_id: self.alloc_id().await?,
                };
                let region = Region::whole(self.alloc_id().await?, self.alloc_id().await?);
                // Durable first: a crash in between leaves a store that bootstraps again with the same ids.
                self.node.store.join(identity, region).await?;
            }
        }
        let regions = self.node.store.regions();
        let [region] = regions.all() else {
            return Err(JoinError::PdIsEmpty(regions.all().len()));
        };
        let region = Some(region.to_proto(self.store_id()));
        let request = BootstrapRequest {
            header,
            store: Some(self.store()),
            region,
        };
        let answer = client
            .bootstrap(request)
            .await
            .map_err(|status| self.unreachable(status))?;
        check("Bootstrap", answer.into_inner().header)
    }

    async fn alloc_id(&self) -> Result<u64, JoinError> {
        let (mut client, header) = self.leader().await?;
        let request = AllocIdRequest { header };
        let answer = client
            .alloc_id(request)
            .await
            .map_err(|status| self.unreachable(status))?
            .into_inner();
        check("AllocID", answer.header)?;
        Ok(answer.id)
    }

    /// Ids for the new part of a region.
    ///
    /// # Errors
    /// PD did not answer, or does not (yet) know the region as it is.
    pub(crate) async fn ask_split(&self, region: &Region) -> Result<(u64, u64), JoinError> {
        let (mut client, header) = self.leader().await?;
        let region = Some(region.to_proto(self.store_id()));
        let request = AskBatchSplitRequest {
            header,
            region,
            split_count: 1,
        };
        let answer = client
            .ask_batch_split(request)
            .await
            .map_err(|status| self.unreachable(status))?
            .into_inner();
        check("AskBatchSplit", answer.header)?;
        let ids = answer
            .ids
            .first()
            .and_then(|ids| Some((ids.new_region_id, *ids.new_peer_ids.first()?)));
        let message = "an answer without ids".to_owned();
        ids.ok_or(JoinError::Refused {
            call: "AskBatchSplit",
            message,
        })
    }

    /// Tells PD of a split and returns when it sends clients to both parts.
    ///
    /// # Errors
    /// PD did not answer in time. The split stands; heartbeats go on telling of it.
    pub(crate) async fn report_split(&self, parts: &[Region; 2]) -> Result<(), JoinError> {
        self.changed.notify_one();
        let (mut client, header) = self.leader().await?;
        let regions = parts.iter().map(|part| part.to_proto(self.store_id())).collect();
        let request = ReportBatchSplitRequest { header, regions };
        let answer = client
            .report_batch_split(request)
            .await
            .map_err(|status| self.unreachable(status))?;
        check("ReportBatchSplit", answer.into_inner().header)?;
        let known = async {
            for part in parts {
                while !self.knows(part).await? {
                    tokio::time::sleep(RETRY_EVERY / 10).await;
                }
            }
            Ok::<(), JoinError>(())
        };
        let late = |_| self.unreachable(Status::deadline_exceeded("PD did not take over a split"));
        timeout(SPLIT_TIMEOUT, known).await.map_err(late)?
    }

    /// Whether PD sends clients to this region as it is.
    async fn knows(&self, region: &Region) -> Result<bool, JoinError> {
        let (mut client, header) = self.leader().await?;
        let request = GetRegionByIdRequest {
            header,
            region_id: region.id,
            ..GetRegionByIdRequest::default()
        };
        let answer = client
            .get_region_by_id(request)
            .await
            .map_err(|status| self.unreachable(status))?
            .into_inner();
        let epoch = answer
            .region
            .and_then(|region| region.region_epoch)
            .map(|epoch| epoch.version);
        Ok(epoch == Some(region.version) && answer.leader.is_some_and(|leader| leader.id == region.peer_id))
    }

    /// Whether PD gives out timestamps, without which no client can do anything.
    async fn gives_timestamps(&self) -> Result<bool, JoinError> {
        let (mut client, header) = self.leader().await?;
        let request = TsoRequest {
            header,
            count: 1,
            ..TsoRequest::default()
        };
        let answers = client
            .tso(tokio_stream::once(request))
            .await
            .map_err(|status| self.unreachable(status))?;
        let answer = answers
            .into_inner()
            .message()
            .await
            .map_err(|status| self.unreachable(status))?;
        Ok(answer.is_some_and(|answer| answer.timestamp.is_some()))
    }

    /// Whether PD serves: it gives out timestamps and sends clients to every region as it is.
    ///
    /// # Errors
    /// PD did not answer.
    pub(crate) async fn serves_all(&self) -> Result<bool, JoinError> {
        if !self.gives_timestamps().await? {
            return Ok(false);
        }
        for region in self.node.store.regions().all() {
            if !self.knows(region).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends heartbeats for ever, from one stream to the next.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        loop {
            if let Err(error) = self.heartbeats().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "heartbeats to PD broke off"
                );
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Sends heartbeats until PD no longer takes them.
    async fn heartbeats(&self) -> Result<(), JoinError> {
        let (mut client, header) = self.leader().await?;
        let (sender, stream) = mpsc::channel(HEARTBEATS);
        // PD answers the call with its first message only, so the first heartbeats have to be on their way by then.
        let mut answers = std::pin::pin!(async {
            let mut answers = client
                .region_heartbeat(ReceiverStream::new(stream))
                .await?
                .into_inner();
            while answers.message().await?.is_some() {}
            Ok::<(), Status>(())
        });
        let ended = |status| self.unreachable(status);
        tokio::select! {
            end = &mut answers => Err(ended(end.err().unwrap_or_else(|| Status::cancelled("the stream ended")))),
            end = self.beat_for_ever(header, sender) => end,
        }
    }

    async fn beat_for_ever(
        &self,
        header: Option<RequestHeader>,
        sender: mpsc::Sender<RegionHeartbeatRequest>,
    ) -> Result<(), JoinError> {
        loop {
            self.beat(header, &sender).await?;
            // A split does not wait for the next beat.
            let _ = timeout(HEARTBEAT_EVERY, self.changed.notified()).await;
        }
    }

    /// One heartbeat of the store and of each region, and a look at the safe point.
    async fn beat(
        &self,
        header: Option<RequestHeader>,
        sender: &mpsc::Sender<RegionHeartbeatRequest>,
    ) -> Result<(), JoinError> {
        let regions = self.node.store.regions();
        for region in regions.all() {
            let heartbeat = self.region_heartbeat(header, region);
            let gone = |_| self.unreachable(Status::cancelled("PD takes no heartbeats"));
            sender.send(heartbeat).await.map_err(gone)?;
        }
        let (mut client, header) = self.leader().await?;
        let request = StoreHeartbeatRequest {
            header,
            stats: Some(self.stats(regions.all().len())),
            ..StoreHeartbeatRequest::default()
        };
        let answer = client
            .store_heartbeat(request)
            .await
            .map_err(|status| self.unreachable(status))?;
        check("StoreHeartbeat", answer.into_inner().header)?;
        let request = GetGcSafePointRequest { header };
        let answer = client
            .get_gc_safe_point(request)
            .await
            .map_err(|status| self.unreachable(status))?
            .into_inner();
        self.follow_safe_point(answer.safe_point).await
    }

    async fn follow_safe_point(&self, safe_point: u64) -> Result<(), JoinError> {
        if self.safe_point.fetch_max(safe_point, Ordering::Relaxed) < safe_point {
            self.node.store.raise_safe_point(safe_point).await?;
            self.node.collect_garbage().await;
        }
        Ok(())
    }

    fn region_heartbeat(&self, header: Option<RequestHeader>, region: &Region) -> RegionHeartbeatRequest {
        let store_id = self.store_id();
        let now = now_ms() / 1_000;
        RegionHeartbeatRequest {
            header,
            region: Some(region.to_proto(store_id)),
            leader: Some(region.peer(store_id)),
            approximate_size: 1,
            approximate_keys: 1,
            term: 1,
            interval: Some(TimeInterval {
                start_timestamp: now.saturating_sub(1),
                end_timestamp: now,
            }),
            ..RegionHeartbeatRequest::default()
        }
    }

    fn stats(&self, regions: usize) -> StoreStats {
        let now = now_ms() / 1_000;
        StoreStats {
            store_id: self.store_id(),
            capacity: CAPACITY_BYTES,
            available: CAPACITY_BYTES,
            region_count: u32::try_from(regions).unwrap_or(u32::MAX),
            start_time: u32::try_from(self.started_at_s).unwrap_or(u32::MAX),
            interval: Some(TimeInterval {
                start_timestamp: now.saturating_sub(1),
                end_timestamp: now,
            }),
            ..StoreStats::default()
        }
    }
}

async fn connect(url: &str) -> Result<PdClient<Channel>, JoinError> {
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let named = |source| JoinError::Unreachable {
        endpoint: url.clone(),
        source,
    };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| named(error.into()))?;
    let endpoint = endpoint.connect_timeout(CALL_TIMEOUT).tcp_nodelay(true);
    Ok(PdClient::new(
        endpoint.connect().await.map_err(|error| named(error.into()))?,
    ))
}

fn check(call: &'static str, header: Option<ResponseHeader>) -> Result<(), JoinError> {
    match header.and_then(|header| header.error) {
        Some(error) => Err(JoinError::Refused {
            call,
            message: error.message,
        }),
        None => Ok(()),
    }
}
