//! The registry of a single router, in memory: the embedded default.
//!
//! Owns all routes and leases of its life; a restarted router has another incarnation, and gateways claim again.
//! Bounded by the sessions there are: every route belongs to a connection of a live gateway.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use corelane_protocol::id::{AppId, AppUser, UserId};
use corelane_protocol::terminal::Terminal;

use super::{ClaimOutcome, ClaimRequest, GatewayEntry, Registry, RegistryError, RouteEntry};
use crate::clock::Clock;

/// A gateway that does not renew within this time is dead.
pub const LEASE: Duration = Duration::from_secs(10);

/// The registry.
#[derive(Debug)]
pub struct MemoryRegistry {
    incarnation: u64,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    routes: HashMap<AppUser, Vec<(RouteEntry, u64)>>,
    leases: HashMap<u64, (GatewayEntry, Duration)>,
    /// Declared dead: their renewals fail.
    dead: Vec<u64>,
}

impl MemoryRegistry {
    /// An empty registry. `incarnation` is random.
    pub fn new(incarnation: u64, clock: Clock) -> Self {
        Self { incarnation, clock, state: Mutex::default() }
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether two sessions of one user may not both be online.
fn exclude(one: (Terminal, &str), other: (Terminal, &str)) -> bool {
    one.0 == other.0
        && match one.0 {
            Terminal::Ios | Terminal::Android | Terminal::Desktop | Terminal::Pad => true,
            Terminal::Web | Terminal::Bot => one.1 == other.1,
        }
}

impl State {
    fn drop_gateway(&mut self, boot: u64) {
        self.routes.retain(|_, routes| {
            routes.retain(|(route, _)| route.boot != boot);
            !routes.is_empty()
        });
    }
}

impl Registry for MemoryRegistry {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, RegistryError> {
        Ok(self.with(|state| {
            let routes = state.routes.entry(request.user).or_default();
            let mine = |route: &RouteEntry| {
                route.boot == request.boot && route.conn == request.conn && route.owner_seq == request.owner_seq
            };
            if routes.iter().any(|(route, _)| mine(route)) {
                return ClaimOutcome::default();
            }
            let key = (request.terminal, request.device.as_str());
            // A claim made again does not push out a login that came after it.
            let newer = routes.iter().any(|(route, issued)| {
                exclude((route.terminal, &route.device), key) && request.again && *issued > request.issued_at_s
            });
            if newer {
                return ClaimOutcome { refused_code: 4501, kicks: Vec::new() };
            }
            let mut kicks = Vec::new();
            routes.retain(|(route, _)| {
                let goes = exclude((route.terminal, &route.device), key);
                if goes {
                    kicks.push(route.clone());
                }
                !goes
            });
            let entry = RouteEntry {
                terminal: request.terminal,
                device: request.device,
                boot: request.boot,
                conn: request.conn,
                owner_seq: request.owner_seq,
            };
            routes.push((entry, request.issued_at_s));
            ClaimOutcome { refused_code: 0, kicks }
        }))
    }

    async fn unclaim(&self, user: AppUser, boot: u64, conn: u64, owner_seq: u64) -> Result<(), RegistryError> {
        self.with(|state| {
            if let Some(routes) = state.routes.get_mut(&user) {
                routes.retain(|(route, _)| {
                    route.boot != boot || route.conn != conn || (owner_seq != 0 && route.owner_seq != owner_seq)
                });
                if routes.is_empty() {
                    state.routes.remove(&user);
                }
            }
        });
        Ok(())
    }

    async fn lookup(&self, app: AppId, users: Vec<UserId>) -> Result<Vec<Vec<RouteEntry>>, RegistryError> {
        Ok(self.with(|state| {
            let routes = |user| state.routes.get(&AppUser { app, user });
            users
                .into_iter()
                .map(|user| routes(user).into_iter().flatten().map(|(route, _)| route.clone()).collect())
                .collect()
        }))
    }

    async fn renew(&self, gateway: GatewayEntry) -> Result<bool, RegistryError> {
        let now = self.clock.now().mono;
        Ok(self.with(|state| {
            if state.dead.contains(&gateway.boot) {
                return false;
            }
            state.leases.insert(gateway.boot, (gateway, now + LEASE));
            true
        }))
    }

    async fn leave(&self, boot: u64) -> Result<(), RegistryError> {
        self.with(|state| {
            state.leases.remove(&boot);
            state.drop_gateway(boot);
        });
        Ok(())
    }

    async fn expired(&self) -> Result<Vec<u64>, RegistryError> {
        let now = self.clock.now().mono;
        Ok(self.with(|state| {
            let over: Vec<u64> =
                state.leases.iter().filter(|(_, (_, until))| *until < now).map(|(boot, _)| *boot).collect();
            for boot in &over {
                state.leases.remove(boot);
                state.drop_gateway(*boot);
                state.dead.push(*boot);
            }
            let excess = state.dead.len().saturating_sub(1024);
            state.dead.drain(..excess);
            over
        }))
    }

    async fn gateways(&self) -> Result<Vec<GatewayEntry>, RegistryError> {
        Ok(self.with(|state| state.leases.values().map(|(gateway, _)| gateway.clone()).collect()))
    }
}
