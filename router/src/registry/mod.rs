//! The registry port: which gateway connection holds (user, terminal), and which routers there are.
//!
//! An adapter owns the routes, the leases of gateways and routers, the list of the routers with its version, and the login
//! policy, which lives nowhere else. A user holds at
//! most [`SESSIONS_PER_USER_MAX`] routes: when he has them all, the next claim is refused with 4505. Claims are
//! idempotent: one that is repeated or late changes nothing that came after it. "No route" is an answer; "I do not
//! know" is [`RegistryError::Unavailable`] and never believed to mean offline. Every adapter runs the same contract
//! tests (`router/tests/registry_contract/`).

pub mod any;
pub mod memory;
mod policy;
pub mod redis;

use std::collections::{BTreeSet, HashSet};
use std::future::Future;

use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, NodeId, UserId};
use corelane_protocol::terminal::Terminal;
use thiserror::Error;

pub use corelane_router_core::place::{RouterEntry, RouterSet};
pub use policy::{SESSIONS_PER_USER_MAX, conflicts};

/// The registry cannot be asked. Nothing is known about anybody: keep what waits and ask again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It is away.
    #[error("the registry is away: {0}")]
    Unavailable(String),
}

/// A gateway process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// As its operator named it.
    pub node: NodeId,
    /// This start of it.
    pub boot: BootId,
}

/// Where a session is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The gateway.
    pub gateway: NodeId,
    /// Its boot.
    pub boot: BootId,
    /// The connection there (its shard is in it).
    pub conn: ConnId,
    /// Terminal class.
    pub terminal: Terminal,
    /// Device, may be empty.
    pub device: String,
    /// The claim that made the route: counts the claims of the boot.
    pub owner_seq: u64,
}

/// A session that wants its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Tenant.
    pub app: AppId,
    /// Whose session.
    pub user: UserId,
    /// What it asks for.
    pub route: Route,
    /// When its token was issued, s since 1970.
    pub issued_at_s: u64,
    /// Made again after the registry lost it: gives way to whoever logged in since.
    pub again: bool,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The route is held. These sessions gave way and must be told (4501).
    Held {
        /// The routes as they were.
        kicks: Vec<Route>,
    },
    /// Close the connection with this code.
    Refused {
        /// Close code: 4501 replaced, 4505 too many sessions, 4003 the boot is dead (take a new one).
        code: u16,
    },
}

/// What became of a router that wants to be in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterJoin {
    /// It is in the list, since this version or an earlier one.
    Joined {
        /// The list's version.
        version: u64,
    },
    /// A router of the same node is, and its lease stands.
    Taken {
        /// That router.
        by: RouterEntry,
        /// When its lease ends, in ms on the registry's clock: later from one attempt to the next if it lives.
        lease_ends_ms: u64,
    },
}

/// The registry.
pub trait Registry: Send + Sync + 'static {
    /// Drawn when the registry lost its memory last. When it changed, gateways claim all their sessions again.
    fn incarnation(&self) -> u64;

    /// Takes a gateway in and starts its lease. False: this boot was declared dead, it must take a new one.
    fn join(&self, gateway: Gateway) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Renews a lease. False: the boot was declared dead or never joined.
    fn renew(&self, boot: BootId) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Ends a lease in order: its routes go, the boot never comes back.
    fn leave(&self, boot: BootId) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Something here waits for these boots: each has to renew its lease. One that the registry does not know, because it
    /// forgot it, has a lease from now on, by which it comes back or is declared dead like any other; until it comes it claims
    /// nothing and is no live gateway. A lease that is known is not touched, and who is dead stays so. An adapter adds
    /// those that it knows of itself.
    fn expect_renewals(
        &self,
        boots: BTreeSet<BootId>,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Declares the boots dead whose leases ran out, drops their routes, and names all that were declared dead since it
    /// was asked last, here or by another router. Who left in order at this router is not named.
    fn reap(&self) -> impl Future<Output = Result<Vec<BootId>, RegistryError>> + Send;

    /// Asks for a route; applies the login policy.
    fn claim(&self, claim: ClaimRequest) -> impl Future<Output = Result<ClaimOutcome, RegistryError>> + Send;

    /// Gives a route up if it is still this one, and keeps a late repeat of its claim from bringing it back.
    /// True: it was still this one.
    fn unclaim(
        &self,
        app: AppId,
        user: UserId,
        route: Route,
    ) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Drops every route of a shard of `boot`, made by a claim up to `up_to`, whose connection and claim are not in
    /// `claimed`: its session ended and nobody could be told. Names whose route it was. No claim of the shard up to there
    /// may be under way at this router; later ones may have been made at another.
    fn keep_only(
        &self,
        boot: BootId,
        shard: u16,
        up_to: u64,
        claimed: HashSet<(ConnId, u64)>,
    ) -> impl Future<Output = Result<Vec<(AppUser, ConnId)>, RegistryError>> + Send;

    /// Routes of each user, in the order asked. Those of dead boots are left out.
    fn lookup(
        &self,
        app: AppId,
        users: Vec<UserId>,
    ) -> impl Future<Output = Result<Vec<Vec<Route>>, RegistryError>> + Send;

    /// Routes of one user.
    fn sessions(
        &self,
        app: AppId,
        user: UserId,
    ) -> impl Future<Output = Result<Vec<Route>, RegistryError>> + Send;

    /// Gateways whose lease stands.
    fn live_gateways(&self) -> impl Future<Output = Result<Vec<Gateway>, RegistryError>> + Send;

    /// Puts a router into the list and starts its lease, in the place of one of the same node whose lease ran out. The
    /// list's version is above `above`, and above all earlier ones. Joining again changes nothing.
    fn join_router(
        &self,
        entry: RouterEntry,
        above: u64,
    ) -> impl Future<Output = Result<RouterJoin, RegistryError>> + Send;

    /// Renews a router's lease. False: it is not in the list (any more); it must join again.
    fn renew_router(&self, boot: BootId) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Takes a router out of the list.
    fn leave_router(&self, boot: BootId) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// The list. Routers whose leases ran out are taken out first.
    fn routers(&self) -> impl Future<Output = Result<RouterSet, RegistryError>> + Send;

    /// A router has published all it had in lanes that it does not serve any more by this version of the list. Of a
    /// router that is not in the list nothing is noted.
    fn set_drained(
        &self,
        boot: BootId,
        version: u64,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;
}
