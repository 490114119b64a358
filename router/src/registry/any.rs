//! The registry that the configuration chose.

use std::collections::{BTreeSet, HashSet};

use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, UserId};

use super::memory::MemoryRegistry;
use super::redis::RedisRegistry;
use super::{
    ClaimOutcome, ClaimRequest, Gateway, Registry, RegistryError, Route, RouterEntry, RouterJoin, RouterSet,
};

/// One of the adapters.
#[derive(Debug)]
pub enum AnyRegistry {
    /// In the router's own memory.
    Memory(MemoryRegistry),
    /// Shared by all routers.
    Redis(RedisRegistry),
}

impl AnyRegistry {
    /// Routes that are held, where that is known without asking.
    pub fn route_count(&self) -> Option<usize> {
        match self {
            Self::Memory(registry) => Some(registry.route_count()),
            Self::Redis(_) => None,
        }
    }

    /// Whether other routers can be in it, too.
    pub const fn is_shared(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(_) => true,
        }
    }

    /// Whether it cannot be asked now, as far as this router knows.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(registry) => registry.is_away(),
        }
    }

    /// Ends when the incarnation is another one than `known`.
    pub async fn forgot(&self, known: u64) {
        match self {
            // It forgets with its process only.
            Self::Memory(_) => std::future::pending().await,
            Self::Redis(registry) => registry.forgot(known).await,
        }
    }
}

macro_rules! both {
    ($self:ident, $registry:ident => $call:expr) => {
        match $self {
            Self::Memory($registry) => $call,
            Self::Redis($registry) => $call,
        }
    };
}

impl Registry for AnyRegistry {
    fn incarnation(&self) -> u64 {
        both!(self, registry => registry.incarnation())
    }

    async fn join(&self, gateway: Gateway) -> Result<bool, RegistryError> {
        both!(self, registry => registry.join(gateway).await)
    }

    async fn renew(&self, boot: BootId) -> Result<bool, RegistryError> {
        both!(self, registry => registry.renew(boot).await)
    }

    async fn leave(&self, boot: BootId) -> Result<(), RegistryError> {
        both!(self, registry => registry.leave(boot).await)
    }

    async fn expect_renewals(&self, boots: BTreeSet<BootId>) -> Result<(), RegistryError> {
        both!(self, registry => registry.expect_renewals(boots).await)
    }

    async fn reap(&self) -> Result<Vec<BootId>, RegistryError> {
        both!(self, registry => registry.reap().await)
    }

    async fn claim(&self, claim: ClaimRequest) -> Result<ClaimOutcome, RegistryError> {
        both!(self, registry => registry.claim(claim).await)
    }

    async fn unclaim(&self, app: AppId, user: UserId, route: Route) -> Result<bool, RegistryError> {
        both!(self, registry => registry.unclaim(app, user, route).await)
    }

    async fn keep_only(
        &self,
        boot: BootId,
        shard: u16,
        up_to: u64,
        claimed: HashSet<(ConnId, u64)>,
    ) -> Result<Vec<(AppUser, ConnId)>, RegistryError> {
        both!(self, registry => registry.keep_only(boot, shard, up_to, claimed).await)
    }

    async fn lookup(&self, app: AppId, users: Vec<UserId>) -> Result<Vec<Vec<Route>>, RegistryError> {
        both!(self, registry => registry.lookup(app, users).await)
    }

    async fn sessions(&self, app: AppId, user: UserId) -> Result<Vec<Route>, RegistryError> {
        both!(self, registry => registry.sessions(app, user).await)
    }

    async fn live_gateways(&self) -> Result<Vec<Gateway>, RegistryError> {
        both!(self, registry => registry.live_gateways().await)
    }

    async fn join_router(&self, entry: RouterEntry, above: u64) -> Result<RouterJoin, RegistryError> {
        both!(self, registry => registry.join_router(entry, above).await)
    }

    async fn renew_router(&self, boot: BootId) -> Result<bool, RegistryError> {
        both!(self, registry => registry.renew_router(boot).await)
    }

    async fn leave_router(&self, boot: BootId) -> Result<(), RegistryError> {
        both!(self, registry => registry.leave_router(boot).await)
    }

    async fn routers(&self) -> Result<RouterSet, RegistryError> {
        both!(self, registry => registry.routers().await)
    }

    async fn set_drained(&self, boot: BootId, version: u64) -> Result<(), RegistryError> {
        both!(self, registry => registry.set_drained(boot, version).await)
    }
}
