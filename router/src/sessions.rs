//! Sessions of one link: routes are claimed and given up, those who must go are told.
//!
//! Owns one task per link, so that claims and unclaims of a connection are carried out in their order; the task of a
//! shard's newer link begins when that of the older one has ended. Its queue holds [`QUEUE`] records; when it is full the
//! link is not read until there is room.
//!
//! A session that ended while there was no link could not give its route up. So every new link begins with the claims of
//! all sessions of its shard, and ends them with `ClaimsDone`: until then the task gathers what was claimed (two words
//! per session), and then drops every other route of the shard, up to the newest claim that the shard had made by then: it
//! may have another home since, which holds what came later. Links of a shard whose home is another router never say that
//! all claims are made, and neither their course nor the end of any link drops a route.
//!
//! A kick may be lost, and a registry may lose a route that nobody misses. So a shard names all its sessions once a minute,
//! behind their claims; those that do not hold their route any more are told to go, with 4501 where another login has the
//! place and else with 4003, to come again. While the registry is away nobody is, nor for [`CLAIMS_SETTLE`] after it could
//! not answer a claim: until then sessions may be without a route that claim it again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::frame;
use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, NodeId};
use corelane_protocol::link::body::{Claimed, Kick};
use corelane_protocol::link::record::RecordKind;
use corelane_protocol::ws::CloseCode;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::hub::{LinkHandle, Outgoing};
use crate::intake::{SessionKey, SessionRecord};
use crate::lease::gateway_left;
use crate::registry::{ClaimOutcome, ClaimRequest, Registry as _, RegistryError, Route, conflicts};
use crate::shared::Shared;

/// Records that wait.
const QUEUE: usize = 1024;
/// Who is live claims again within this time of a claim that was not answered, and long before its end.
const CLAIMS_SETTLE: Duration = Duration::from_secs(5);
/// Replaced by a newer login.
pub(crate) const CODE_REPLACED: u16 = 4501;
/// The route is lost: come again, with jitter.
const CODE_POSITION_LOST: u16 = 4003;
/// The registry is away: come again, with jitter.
const CODE_OVERLOADED: u16 = 4007;

/// The way to the session task of a link.
#[derive(Debug)]
pub(crate) struct Sessions {
    queue: mpsc::Sender<SessionRecord>,
    task: JoinHandle<()>,
}

impl Sessions {
    /// `older`: the link of this shard whose place `link` took.
    pub(crate) fn start(
        node: NodeId,
        (boot, number): (u64, u16),
        shared: Arc<Shared>,
        link: LinkHandle,
        older: Option<LinkHandle>,
    ) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        let routes = Task {
            node,
            boot,
            shard: number,
            incarnation: shared.registry.incarnation(),
            shared,
            link,
            claimed: Some(HashSet::new()),
            compare_from: Duration::ZERO,
        };
        let task = tokio::spawn(async move {
            if let Some(older) = older {
                older.ended().await;
            }
            routes.run(records).await;
        });
        Self { queue, task }
    }

    /// Queues a record; waits while the queue is full.
    pub(crate) async fn take(&mut self, record: SessionRecord) {
        // The task ends only with this sender.
        let _ = self.queue.send(record).await;
    }

    /// Waits until everything that was queued is done.
    pub(crate) async fn finish(self) {
        drop(self.queue);
        // It is cancelled when the router stops.
        if self.task.await.is_err_and(|error| error.is_panic()) {
            tracing::error!("the session task of a link panicked");
        }
    }
}

struct Task {
    node: NodeId,
    boot: u64,
    shard: u16,
    /// The registry's, when the link came up.
    incarnation: u64,
    shared: Arc<Shared>,
    link: LinkHandle,
    /// Claims of this link that hold a route, until all are made.
    claimed: Option<HashSet<(ConnId, u64)>>,
    /// No routes are compared before.
    compare_from: Duration,
}

impl Task {
    async fn run(mut self, mut records: mpsc::Receiver<SessionRecord>) {
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
                SessionRecord::Owned(keys) => self.compare(keys).await,
                SessionRecord::ClaimsBegin => self.claimed = Some(HashSet::new()),
                SessionRecord::ClaimsDone(up_to) => self.claims_done(up_to).await,
                SessionRecord::Leave => gateway_left(&self.shared, BootId(self.boot)).await,
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

    async fn claim(&mut self, key: SessionKey, reference: u32, issued_at_s: u64, again: bool) {
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
            Ok(ClaimOutcome::Held { kicks }) => {
                self.note_claimed(conn, owner_seq);
                (0, kicks)
            }
            Ok(ClaimOutcome::Refused { code }) => {
                if code == CloseCode::PositionLost as u16 {
                    // The registry does not know the boot, or not yet again: what this link claimed says nothing about
                    // routes that another router makes once it does.
                    self.claimed = None;
                }
                (code, Vec::new())
            }
            Err(error) => {
                tracing::warn!(%error, "a claim was refused");
                // Who is live stays so, and claims again.
                self.note_claimed(conn, owner_seq);
                self.compare_from = self.shared.clock.now().mono + CLAIMS_SETTLE;
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

    fn note_claimed(&mut self, conn: u64, owner_seq: u64) {
        if let Some(claimed) = &mut self.claimed {
            claimed.insert((ConnId(conn), owner_seq));
        }
    }

    async fn unclaim(&mut self, key: SessionKey) {
        let route = self.route(&key);
        if let Some(claimed) = &mut self.claimed {
            claimed.remove(&(route.conn, route.owner_seq));
        }
        let user = AppUser {
            app: key.app,
            user: key.user,
        };
        self.shared.gone().add(self.boot, key.conn, user.clone());
        if let Err(error) = self.shared.registry.unclaim(user.app, user.user, route).await {
            tracing::warn!(%error, "a route could not be given up; its records will bounce");
        }
    }

    /// Tells sessions to go that do not hold their routes any more.
    async fn compare(&self, keys: Vec<SessionKey>) {
        if self.shared.clock.now().mono < self.compare_from {
            return;
        }
        let lost = match self.lost(keys).await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::debug!(%error, "routes could not be compared; the next pass does");
                return;
            }
        };
        if lost.is_empty() {
            return;
        }
        // No route of a boot that is dead is found, and none at all in a registry that forgot: then all claim again anyway.
        let lives = self.shared.registry.renew(BootId(self.boot)).await == Ok(true);
        if !lives || self.shared.registry.incarnation() != self.incarnation {
            return;
        }
        tracing::warn!(
            count = lost.len(),
            shard = self.shard,
            "sessions without their routes are told to go"
        );
        self.shared.metrics.routes_lost(lost.len());
        for (route, code) in lost {
            kick_route(&self.shared, &route, code);
        }
    }

    /// Which of the sessions hold their routes no more, and the code for each.
    async fn lost(&self, keys: Vec<SessionKey>) -> Result<Vec<(Route, u16)>, RegistryError> {
        let mut tenants: BTreeMap<AppId, Vec<SessionKey>> = BTreeMap::new();
        for key in keys {
            tenants.entry(key.app).or_default().push(key);
        }
        let mut lost = Vec::new();
        for (app, keys) in tenants {
            let users = keys.iter().map(|key| key.user.clone()).collect();
            let found = self.shared.registry.lookup(app, users).await?;
            for (key, held) in keys.iter().zip(found) {
                let route = self.route(key);
                let is_same = |held: &Route| {
                    (held.boot, held.conn, held.owner_seq) == (route.boot, route.conn, route.owner_seq)
                };
                if held.iter().any(is_same) {
                    continue;
                }
                let is_taken = held.iter().any(|other| conflicts(other, &route));
                let code = if is_taken {
                    CODE_REPLACED
                } else {
                    CODE_POSITION_LOST
                };
                lost.push((route, code));
            }
        }
        Ok(lost)
    }

    /// Routes of the shard that nobody claimed on this link are of sessions that ended without a word.
    async fn claims_done(&mut self, up_to: u64) {
        let Some(claimed) = self.claimed.take() else {
            return;
        };
        let registry = &self.shared.registry;
        match registry
            .keep_only(BootId(self.boot), self.shard, up_to, claimed)
            .await
        {
            Ok(stale) => {
                let count = stale.len();
                let mut gone = self.shared.gone();
                for (user, conn) in stale {
                    gone.add(self.boot, conn.0, user);
                }
                if count > 0 {
                    tracing::info!(
                        count,
                        shard = self.shard,
                        "routes of sessions that ended were dropped"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(%error, "stale routes could not be dropped; the next link asks again");
            }
        }
    }
}

/// Tells the gateway of a route to close it, at once or when its shard has a link to this router.
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
    let now = shared.clock.now().mono;
    shared.hub.kick(now, route.boot.0, kick);
}
