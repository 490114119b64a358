//! TiKV's gRPC service: the requests that tikv-client's transactions send. Every other one is answered UNIMPLEMENTED.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::node::{Node, failed};
use crate::proto::kvrpcpb::{
    BatchGetRequest, BatchGetResponse, BatchRollbackRequest, BatchRollbackResponse, CheckTxnStatusRequest,
    CheckTxnStatusResponse, CleanupRequest, CleanupResponse, CommitRequest, CommitResponse, GetRequest,
    GetResponse, PrewriteRequest, PrewriteResponse, ResolveLockRequest, ResolveLockResponse, ScanLockRequest,
    ScanLockResponse, ScanRequest, ScanResponse, TxnHeartBeatRequest, TxnHeartBeatResponse,
    UnsafeDestroyRangeRequest, UnsafeDestroyRangeResponse,
};
use crate::proto::tikvpb::tikv_server::Tikv;
use crate::txn::Command;

/// See the module.
pub(crate) struct TikvService {
    pub(crate) node: Arc<Node>,
}

impl TikvService {
    /// Runs a request in a task of its own: a client that gives up does not take it back.
    async fn serve<C: Command>(&self, request: Request<C>) -> Result<Response<C::Answer>, Status> {
        let work = tokio::spawn(Arc::clone(&self.node).answer(request.into_inner()));
        match work.await {
            Ok(Ok(Some(answer))) => Ok(Response::new(answer)),
            Ok(Ok(None)) => std::future::pending().await,
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::internal("the request panicked")),
        }
    }
}

#[tonic::async_trait]
impl Tikv for TikvService {
    async fn kv_get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_prewrite(
        &self,
        request: Request<PrewriteRequest>,
    ) -> Result<Response<PrewriteResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_batch_rollback(
        &self,
        request: Request<BatchRollbackRequest>,
    ) -> Result<Response<BatchRollbackResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_cleanup(
        &self,
        request: Request<CleanupRequest>,
    ) -> Result<Response<CleanupResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_check_txn_status(
        &self,
        request: Request<CheckTxnStatusRequest>,
    ) -> Result<Response<CheckTxnStatusResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_txn_heart_beat(
        &self,
        request: Request<TxnHeartBeatRequest>,
    ) -> Result<Response<TxnHeartBeatResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_resolve_lock(
        &self,
        request: Request<ResolveLockRequest>,
    ) -> Result<Response<ResolveLockResponse>, Status> {
        self.serve(request).await
    }

    async fn kv_scan_lock(
        &self,
        request: Request<ScanLockRequest>,
    ) -> Result<Response<ScanLockResponse>, Status> {
        self.serve(request).await
    }

    async fn unsafe_destroy_range(
        &self,
        request: Request<UnsafeDestroyRangeRequest>,
    ) -> Result<Response<UnsafeDestroyRangeResponse>, Status> {
        self.node.gate.pass().await;
        let UnsafeDestroyRangeRequest {
            start_key, end_key, ..
        } = request.into_inner();
        self.node
            .store
            .destroy(start_key, end_key)
            .await
            .map_err(failed)?;
        Ok(Response::new(UnsafeDestroyRangeResponse::default()))
    }
}
