//! PD's calls, served by the store itself: what tikv-client asks, for a cluster of this one store. The quick way for tests
//! that need no PD process; it neither schedules nor elects.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::tso::Oracle;
use crate::clock::now_ms;
use crate::log::LogError;
use crate::node::{Node, failed};
use crate::proto::metapb::{self, Cluster};
use crate::proto::pdpb::pd_server::Pd;
use crate::proto::pdpb::{
    GetAllStoresRequest, GetAllStoresResponse, GetClusterConfigRequest, GetClusterConfigResponse,
    GetGcSafePointRequest, GetGcSafePointResponse, GetMembersRequest, GetMembersResponse,
    GetRegionByIdRequest, GetRegionRequest, GetRegionResponse, GetStoreRequest, GetStoreResponse,
    IsBootstrappedRequest, IsBootstrappedResponse, Member, ResponseHeader, ScanRegionsRequest,
    ScanRegionsResponse, TsoRequest, TsoResponse, UpdateGcSafePointRequest, UpdateGcSafePointResponse,
};
use crate::record::{Identity, Region};

/// Timestamp answers that a client has not read yet.
const TSO_ANSWERS: usize = 16;
/// Ids of a cluster that begins.
const STORE_ID: u64 = 1;
const REGION_ID: u64 = 2;
const PEER_ID: u64 = 3;

/// See the module.
pub(crate) struct PdService {
    node: Arc<Node>,
    oracle: Arc<Oracle>,
    address: SocketAddr,
    store_address: SocketAddr,
}

/// Makes the store a cluster of its own, unless it is in one.
///
/// # Errors
/// The log failed.
pub(crate) async fn found(node: &Node) -> Result<(), LogError> {
    if node.store.identity().is_some() {
        return Ok(());
    }
    let identity = Identity {
        cluster_id: now_ms(),
        store_id: STORE_ID,
    };
    node.store.join(identity, Region::whole(REGION_ID, PEER_ID)).await
}

impl PdService {
    /// PD at `address`, for the store at `store_address`.
    pub(crate) fn new(node: Arc<Node>, address: SocketAddr, store_address: SocketAddr) -> Self {
        let oracle = Arc::new(Oracle::new(Arc::clone(&node)));
        Self {
            node,
            oracle,
            address,
            store_address,
        }
    }

    fn identity(&self) -> Identity {
        self.node.store.identity().unwrap_or_default()
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.identity().cluster_id,
            error: None,
        }
    }

    fn store(&self) -> metapb::Store {
        metapb::Store {
            id: self.identity().store_id,
            address: self.store_address.to_string(),
            version: super::join::STORE_VERSION.to_owned(),
            ..metapb::Store::default()
        }
    }

    fn region(&self, region: Option<&Region>) -> Response<GetRegionResponse> {
        let store_id = self.identity().store_id;
        Response::new(GetRegionResponse {
            header: Some(self.header()),
            region: region.map(|region| region.to_proto(store_id)),
            leader: region.map(|region| region.peer(store_id)),
            ..GetRegionResponse::default()
        })
    }
}

#[tonic::async_trait]
impl Pd for PdService {
    async fn get_members(
        &self,
        _: Request<GetMembersRequest>,
    ) -> Result<Response<GetMembersResponse>, Status> {
        self.node.pd_gate.pass().await;
        let member = Member {
            name: "served by the test store".to_owned(),
            member_id: 1,
            client_urls: vec![format!("http://{}", self.address)],
            ..Member::default()
        };
        Ok(Response::new(GetMembersResponse {
            header: Some(self.header()),
            members: vec![member.clone()],
            leader: Some(member.clone()),
            etcd_leader: Some(member),
            ..GetMembersResponse::default()
        }))
    }

    async fn tso(
        &self,
        request: Request<Streaming<TsoRequest>>,
    ) -> Result<Response<BoxStream<TsoResponse>>, Status> {
        let (mut requests, header) = (request.into_inner(), Some(self.header()));
        let (node, oracle) = (Arc::clone(&self.node), Arc::clone(&self.oracle));
        let (answers, stream) = mpsc::channel(TSO_ANSWERS);
        tokio::spawn(async move {
            while let Ok(Some(TsoRequest { count, .. })) = requests.message().await {
                node.pd_gate.pass().await;
                let answer = match oracle.take(count).await {
                    Ok(last) => Ok(TsoResponse {
                        header: header.clone(),
                        count,
                        timestamp: Some(last),
                    }),
                    Err(error) => Err(failed(error)),
                };
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_region(
        &self,
        request: Request<GetRegionRequest>,
    ) -> Result<Response<GetRegionResponse>, Status> {
        self.node.pd_gate.pass().await;
        let regions = self.node.store.regions();
        Ok(self.region(regions.of_encoded_key(&request.into_inner().region_key)))
    }

    async fn get_region_by_id(
        &self,
        request: Request<GetRegionByIdRequest>,
    ) -> Result<Response<GetRegionResponse>, Status> {
        self.node.pd_gate.pass().await;
        let regions = self.node.store.regions();
        Ok(self.region(regions.by_id(request.into_inner().region_id)))
    }

    async fn scan_regions(
        &self,
        request: Request<ScanRegionsRequest>,
    ) -> Result<Response<ScanRegionsResponse>, Status> {
        self.node.pd_gate.pass().await;
        let ScanRegionsRequest {
            start_key,
            end_key,
            limit,
            ..
        } = request.into_inner();
        let limit = usize::try_from(limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        let store_id = self.identity().store_id;
        let list = self.node.store.regions();
        let all = list.all().iter().map(|region| region.to_proto(store_id));
        let asked = all.filter(|region| region.end_key.is_empty() || region.end_key > start_key);
        let asked = asked.filter(|region| end_key.is_empty() || region.start_key < end_key);
        let region_metas: Vec<metapb::Region> = asked.take(limit).collect();
        let leaders = region_metas
            .iter()
            .flat_map(|region| region.peers.clone())
            .collect();
        let header = Some(self.header());
        Ok(Response::new(ScanRegionsResponse {
            header,
            region_metas,
            leaders,
            ..ScanRegionsResponse::default()
        }))
    }

    async fn get_store(
        &self,
        request: Request<GetStoreRequest>,
    ) -> Result<Response<GetStoreResponse>, Status> {
        self.node.pd_gate.pass().await;
        let id = request.into_inner().store_id;
        let store = Some(self.store()).filter(|store| store.id == id);
        let store = store.ok_or_else(|| Status::unknown(format!("invalid store ID {id}, not found")))?;
        Ok(Response::new(GetStoreResponse {
            header: Some(self.header()),
            store: Some(store),
            stats: None,
        }))
    }

    async fn get_all_stores(
        &self,
        _: Request<GetAllStoresRequest>,
    ) -> Result<Response<GetAllStoresResponse>, Status> {
        self.node.pd_gate.pass().await;
        Ok(Response::new(GetAllStoresResponse {
            header: Some(self.header()),
            stores: vec![self.store()],
        }))
    }

    async fn is_bootstrapped(
        &self,
        _: Request<IsBootstrappedRequest>,
    ) -> Result<Response<IsBootstrappedResponse>, Status> {
        self.node.pd_gate.pass().await;
        Ok(Response::new(IsBootstrappedResponse {
            header: Some(self.header()),
            bootstrapped: true,
        }))
    }

    async fn get_cluster_config(
        &self,
        _: Request<GetClusterConfigRequest>,
    ) -> Result<Response<GetClusterConfigResponse>, Status> {
        self.node.pd_gate.pass().await;
        let cluster = Some(Cluster {
            id: self.identity().cluster_id,
            max_peer_count: 1,
        });
        Ok(Response::new(GetClusterConfigResponse {
            header: Some(self.header()),
            cluster,
        }))
    }

    async fn get_gc_safe_point(
        &self,
        _: Request<GetGcSafePointRequest>,
    ) -> Result<Response<GetGcSafePointResponse>, Status> {
        self.node.pd_gate.pass().await;
        let safe_point = self.node.store.safe_point();
        Ok(Response::new(GetGcSafePointResponse {
            header: Some(self.header()),
            safe_point,
        }))
    }

    async fn update_gc_safe_point(
        &self,
        request: Request<UpdateGcSafePointRequest>,
    ) -> Result<Response<UpdateGcSafePointResponse>, Status> {
        self.node.pd_gate.pass().await;
        self.node
            .store
            .raise_safe_point(request.into_inner().safe_point)
            .await
            .map_err(failed)?;
        let node = Arc::clone(&self.node);
        tokio::spawn(async move { node.collect_garbage().await });
        let new_safe_point = self.node.store.safe_point();
        Ok(Response::new(UpdateGcSafePointResponse {
            header: Some(self.header()),
            new_safe_point,
        }))
    }
}
