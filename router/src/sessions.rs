//! Sessions of one link: routes are claimed and given up, leases are kept, those who must go are told.
//!
//! Owns one task per link, so that claims and unclaims of a connection are carried out in their order. Its queue holds
//! [`QUEUE`] records; when it is full the link is not read until there is room.

use std::sync::Arc;

use corelane_protocol::frame;
use corelane_protocol::id::{AppUser, BootId, ConnId, NodeId};
use corelane_protocol::link::body::{Claimed, Kick, Renewed};
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::event::Input;
use tokio::sync::mpsc;

use crate::bus::Bus as _;
use crate::hub::{LinkHandle, Outgoing};
use crate::intake::{SessionKey, SessionRecord};
use crate::registry::{ClaimOutcome, ClaimRequest, Registry as _, Route};
use crate::shared::Shared;

/// Records that wait.
const QUEUE: usize = 1024;
/// Replaced by a newer login.
pub(crate) const CODE_REPLACED: u16 = 4501;
/// The registry is away: come again, with jitter.
const CODE_OVERLOADED: u16 = 4007;

/// The way to the session task of a link.
#[derive(Debug)]
pub(crate) struct Sessions {
    queue: mpsc::Sender<SessionRecord>,
}

impl Sessions {
    pub(crate) fn start(node: NodeId, boot: u64, shared: Arc<Shared>, link: LinkHandle) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        tokio::spawn(
            Worker {
                node,
                boot,
                shared,
                link,
            }
            .run(records),
        );
        Self { queue }
    }

    /// Queues a record; waits while the queue is full.
    pub(crate) async fn take(&mut self, record: SessionRecord) {
        // The task ends only with this sender.
        let _ = self.queue.send(record).await;
    }
}

struct Worker {
    node: NodeId,
    boot: u64,
    shared: Arc<Shared>,
    link: LinkHandle,
}

impl Worker {
    async fn run(self, mut records: mpsc::Receiver<SessionRecord>) {
        while let Some(record) = records.recv().await {
            match record {
                SessionRecord::Claim {
                    key,
                    reference,
                    issued_at_s,
                    again,
                } => {
                    self.claim(key, reference, issued_at_s, again).await;
                }
                SessionRecord::Unclaim(key) => self.unclaim(key).await,
                SessionRecord::Renew => self.renew().await,
                SessionRecord::Leave => gateway_gone(&self.shared, BootId(self.boot)).await,
            }
        }
    }

    fn route(&self, key: &SessionKey) -> Route {
        Route {
            gateway: self.node.clone(),
            boot: BootId(self.boot),
            conn: ConnId(key.conn),
            terminal: key.terminal,
            device: key.device.clone(),
            owner_seq: key.owner_seq,
        }
    }

    async fn claim(&self, key: SessionKey, reference: u32, issued_at_s: u64, again: bool) {
        let route = self.route(&key);
        let (conn, owner_seq) = (key.conn, key.owner_seq);
        let claim = ClaimRequest {
            app: key.app,
            user: key.user,
            route,
            issued_at_s,
            again,
        };
        let (refused_code, kicks) = match self.shared.registry.claim(claim).await {
            Ok(ClaimOutcome::Held { kicks }) => (0, kicks),
            Ok(ClaimOutcome::Refused { code }) => (code, Vec::new()),
            Err(error) => {
                tracing::warn!(%error, "a claim was refused");
                (CODE_OVERLOADED, Vec::new())
            }
        };
        // Those who give way go first: who sees the answer may rely on being the only one.
        for kick in &kicks {
            kick_route(&self.shared, kick, CODE_REPLACED);
        }
        let body = frame::archive(&Claimed {
            owner_seq,
            refused_code,
        })
        .to_vec();
        self.link.send(vec![Outgoing {
            kind: RecordKind::Claimed,
            priority: 0,
            conn,
            reference,
            body,
        }]);
    }

    async fn unclaim(&self, key: SessionKey) {
        let route = self.route(&key);
        let user = AppUser {
            app: key.app,
            user: key.user,
        };
        self.shared.gone().add(self.boot, key.conn, user.clone());
        if let Err(error) = self.shared.registry.unclaim(user.app, user.user, route).await {
            tracing::warn!(%error, "a route could not be given up; its records will bounce");
        }
    }

    async fn renew(&self) {
        let alive = match self.shared.registry.renew(BootId(self.boot)).await {
            Ok(alive) => alive,
            Err(error) => {
                tracing::warn!(%error, "a lease could not be renewed");
                return;
            }
        };
        self.link.send(vec![renewed(alive)]);
    }
}

/// The answer to a renewal.
pub(crate) fn renewed(alive: bool) -> Outgoing {
    let body = frame::archive(&Renewed { alive }).to_vec();
    Outgoing {
        kind: RecordKind::Renewed,
        priority: 0,
        conn: 0,
        reference: 0,
        body,
    }
}

/// Tells the gateway of a route to close it.
pub(crate) fn kick_route(shared: &Shared, route: &Route, code: u16) {
    let body = frame::archive(&Kick {
        code,
        owner_seq: route.owner_seq,
    })
    .to_vec();
    let kick = Outgoing {
        kind: RecordKind::Kick,
        priority: 0,
        conn: route.conn.0,
        reference: 0,
        body,
    };
    shared.hub.send(route.boot.0, kick);
}

/// Forgets a gateway that left or is dead: its routes, its topic, and what was waited for there.
pub(crate) async fn gateway_gone(shared: &Shared, boot: BootId) {
    if let Err(error) = shared.registry.leave(boot).await {
        tracing::warn!(%error, "a gateway's routes could not be dropped");
    }
    let _ = shared.bus.delete(boot).await;
    shared.input(Input::GatewayGone(boot.0)).await;
}

/// Looks for gateways whose lease ran out, until the router stops.
pub(crate) async fn reap(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        match shared.registry.reap().await {
            Ok(dead) => {
                for boot in dead {
                    tracing::warn!(boot = format!("{:016x}", boot.0), "a gateway's lease ran out");
                    gateway_gone(&shared, boot).await;
                }
            }
            Err(error) => tracing::warn!(%error, "leases could not be looked at"),
        }
    }
}
