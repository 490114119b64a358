//! The registry port: which gateway holds (user, terminal, device).
//!
//! An adapter owns routes, leases and the login policy, which lives here only: at most one session per (terminal class)
//! on phones, tablets and desktops, one per device in browsers and for bots; a newer login replaces an older one.

pub mod memory;

use std::future::Future;

use corelane_protocol::id::{AppId, AppUser, NodeId};
use corelane_protocol::terminal::Terminal;
use thiserror::Error;

/// The registry is away. What depends on it waits; nothing is believed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("registry failed: {0}")]
pub struct RegistryError(pub String);

/// A session that wants its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Whose.
    pub user: AppUser,
    /// Terminal class.
    pub terminal: Terminal,
    /// Device, may be empty.
    pub device: String,
    /// The gateway's boot.
    pub boot: u64,
    /// The connection.
    pub conn: u64,
    /// Counts the claims of the boot's shard up.
    pub owner_seq: u64,
    /// When the token was issued, s since 1970.
    pub issued_at_s: u64,
    /// Made again after a loss: kicks nobody that claimed after it.
    pub again: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// Terminal class.
    pub terminal: Terminal,
    /// Device.
    pub device: String,
    /// The gateway's boot.
    pub boot: u64,
    /// The connection.
    pub conn: u64,
    /// The claim.
    pub owner_seq: u64,
}

/// What became of a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimOutcome {
    /// 0, or the close code that the claimant gets.
    pub refused_code: u16,
    /// Sessions that must go, with 4501.
    pub kicks: Vec<RouteEntry>,
}

/// A live gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Its name.
    pub node: NodeId,
    /// Its boot.
    pub boot: u64,
}

/// The registry.
pub trait Registry: Send + Sync + 'static {
    /// Changes when everything was forgotten: gateways then claim all sessions again.
    fn incarnation(&self) -> u64;

    /// Claims a route. Idempotent: the same claim again changes nothing.
    fn claim(&self, request: ClaimRequest) -> impl Future<Output = Result<ClaimOutcome, RegistryError>> + Send;

    /// Gives a route up, if it is still of this claim.
    fn unclaim(
        &self,
        user: AppUser,
        boot: u64,
        conn: u64,
        owner_seq: u64,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Routes of users, in the order asked for.
    fn lookup(
        &self,
        app: AppId,
        users: Vec<corelane_protocol::id::UserId>,
    ) -> impl Future<Output = Result<Vec<Vec<RouteEntry>>, RegistryError>> + Send;

    /// Makes or keeps a gateway's lease. False: it was declared dead; it must take a new boot.
    fn renew(&self, gateway: GatewayEntry) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Ends a gateway's lease and drops its routes.
    fn leave(&self, boot: u64) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Gateways whose lease ran out since the last call; their routes are dropped.
    fn expired(&self) -> impl Future<Output = Result<Vec<u64>, RegistryError>> + Send;

    /// Gateways with a lease.
    fn gateways(&self) -> impl Future<Output = Result<Vec<GatewayEntry>, RegistryError>> + Send;
}
