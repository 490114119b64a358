//! Leases of gateways: what counts as a sign of life, and what becomes of a boot that gives none.
//!
//! Owns the pace at which one link's signs of life are passed on. Whatever is read from a proved link is one, so that a
//! renewal behind a storm of claims does not cost the lease; and while the router itself does not read, because a queue
//! of its own is full, the gateway's silence does not count. A renewal proper is answered before anything that was
//! read with it. While the registry is away renewals are answered by what this router knows itself, so that sends go on being
//! stored. A boot whose lease ran out is told so on its links, in case its process only stood still. When this
//! router itself stood still, the renewals that wait unread are read before any lease is looked at.
//!
//! Again and again the registry is told for whom this router waits: one that forgot a boot would never find that its lease
//! ran out, and what waits for that boot would stay as long as this router lives.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::frame;
use corelane_protocol::id::BootId;
use corelane_protocol::limits::{LEASE, RENEWALS_PER_LEASE};
use corelane_protocol::link::body::Renewed;
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::event::Input;

use crate::bus::BusError;
use crate::hub::{LinkHandle, Outgoing};
use crate::registry::{Registry as _, RegistryError};
use crate::shared::Shared;

/// A link's signs of life are passed on to the registry no more often.
const LIFE_PACE: Duration = Duration::from_secs(1);
/// How often leases that ran out are looked for.
const REAP_PACE: Duration = Duration::from_secs(1);
/// How often the registry is told for whom this router waits.
const EXPECT_PACE: Duration = Duration::from_secs(5);
/// After this router stood still no lease is looked at for so long.
const REAP_GRACE: Duration = Duration::from_secs(5);

const _: () = assert!(
    LIFE_PACE.as_millis() + LEASE.as_millis() / (RENEWALS_PER_LEASE as u128) < LEASE.as_millis() / 2,
    "what was not passed on is made up for by the next renewal, long before the lease ends"
);
const _: () = assert!(
    LEASE.as_millis() / (RENEWALS_PER_LEASE as u128) < REAP_GRACE.as_millis(),
    "every living gateway renews in that time"
);

/// The signs of life of one link's gateway.
pub(crate) struct Life {
    boot: BootId,
    shared: Arc<Shared>,
    link: LinkHandle,
    /// Not passed on before.
    next_at: Duration,
}

impl Life {
    pub(crate) fn new(boot: BootId, shared: Arc<Shared>, link: LinkHandle) -> Self {
        let next_at = shared.clock.now().mono + LIFE_PACE;
        Self {
            boot,
            shared,
            link,
            next_at,
        }
    }

    /// Something was read from the link.
    pub(crate) async fn heard(&mut self) {
        let now = self.shared.clock.now().mono;
        if now < self.next_at {
            return;
        }
        self.next_at = now + LIFE_PACE;
        if self.is_alive().await == Some(false) {
            self.link.send(vec![renewed(false, 0)]);
        }
    }

    /// A `Renew`.
    pub(crate) async fn renew(&self, reference: u32) {
        if let Some(alive) = self.is_alive().await {
            self.link.send(vec![renewed(alive, reference)]);
        }
    }

    /// Waits for `work`, during which the link is not read.
    pub(crate) async fn while_unread<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(LIFE_PACE) => {
                    let _ = self.is_alive().await;
                }
            }
        }
    }

    /// Renews the lease. `None`: nothing can be said of the boot.
    async fn is_alive(&self) -> Option<bool> {
        let renewed = self.shared.registry.renew(self.boot).await;
        is_alive(renewed, || self.shared.dead().has(self.boot.0))
    }
}

/// What a renewal is answered. While the registry is away nobody can take a lease that ran out, and who was declared dead
/// before, wherever it was, hears it with the first renewal after. The gates that this router closed for the boot are as
/// they were, unless it gave the boot up itself: then nothing is said that would have its gateway go on, nor, before the
/// registry knows, that would have it claim under another boot.
fn is_alive(renewed: Result<bool, RegistryError>, is_given_up: impl FnOnce() -> bool) -> Option<bool> {
    match renewed {
        Ok(alive) => Some(alive),
        Err(error) => {
            tracing::debug!(%error, "a lease could not be renewed");
            (!is_given_up()).then_some(true)
        }
    }
}

/// The answer to a renewal; or, unasked and with reference 0, the word that a boot is dead.
pub(crate) fn renewed(alive: bool, reference: u32) -> Outgoing {
    let body = frame::archive(&Renewed { alive }).to_vec();
    Outgoing {
        kind: RecordKind::Renewed,
        priority: 0,
        conn: 0,
        reference,
        body,
    }
}

/// Forgets a gateway that left or is dead: its routes, its topic, and what was waited for there. Every router does this
/// for every boot, in any order: routes that are dropped and a topic that is deleted already are as they should be. False:
/// the registry could not be told, and nothing was forgotten. Outbox rows go with what is forgotten: a router that ended
/// between the two would leave a boot that lives and lacks what they held.
async fn gateway_gone(shared: &Shared, boot: BootId) -> bool {
    let told = tell_registry(shared, boot).await;
    if told {
        forget(shared, boot).await;
    }
    told
}

async fn tell_registry(shared: &Shared, boot: BootId) -> bool {
    shared.dead().add(boot.0);
    let left = shared.registry.leave(boot).await;
    if let Err(error) = &left {
        tracing::warn!(%error, "a gateway's routes could not be dropped");
    }
    left.is_ok()
}

/// Forgets what waited for a boot that the registry knows to be over.
async fn forget(shared: &Shared, boot: BootId) {
    shared.bus.gateway_gone(boot).await;
    shared.hub.forget_kicks(boot.0);
    shared.input(Input::GatewayGone(boot.0)).await;
}

/// A gateway leaves, or gives its boot up because it lost its topic. Shards that are linked are told that the boot is
/// dead: those of a gateway that goes on take another one. Not before the registry knows, or the sessions would be
/// refused under the next boot because of their own routes; who hears nothing says it again.
pub(crate) async fn gateway_left(shared: &Shared, boot: BootId) {
    if gateway_gone(shared, boot).await {
        shared.hub.send_all(boot.0, &renewed(false, 0));
    }
}

/// What was published to a boot is lost, and numbers cannot mend it: declares the boot dead. Returns when the registry
/// knows.
pub(crate) async fn give_up(shared: &Shared, boot: BootId, why: &BusError) {
    // Many records may find out at a time.
    if shared.bus.gateway_gone(boot).await {
        tracing::warn!(error = %why, "what waited for a gateway is lost; it must take another boot");
    }
    let tell = || tell_registry(shared, boot);
    let forget = || async {
        forget(shared, boot).await;
        shared.hub.send_all(boot.0, &renewed(false, 0));
    };
    shared.given_up.give_up(boot, tell, forget).await;
}

/// Whether gateways could be heard of late.
#[derive(Debug)]
struct Attention {
    looked_at: Duration,
    reap_from: Duration,
}

impl Attention {
    const fn new(now: Duration) -> Self {
        Self {
            looked_at: now,
            reap_from: now,
        }
    }

    /// To be asked every [`REAP_PACE`]. Whoever asks much later stood still.
    fn may_reap(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.looked_at) > 3 * REAP_PACE {
            self.reap_from = now + REAP_GRACE;
        }
        self.looked_at = now;
        now >= self.reap_from
    }
}

/// Looks for gateways whose lease ran out, until the router stops.
pub(crate) async fn reap(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(REAP_PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut attention = Attention::new(shared.clock.now().mono);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        if !attention.may_reap(shared.clock.now().mono) {
            continue;
        }
        match shared.registry.reap().await {
            Ok(dead) => {
                for boot in dead {
                    tracing::warn!(boot = format!("{:016x}", boot.0), "a gateway's lease ran out");
                    shared.metrics.lease_lapsed();
                    // The registry knows it: its routes may go later.
                    tell_registry(&shared, boot).await;
                    forget(&shared, boot).await;
                    shared.hub.send_all(boot.0, &renewed(false, 0));
                }
            }
            Err(error) => tracing::warn!(%error, "leases could not be looked at"),
        }
    }
}

/// Tells the registry for whom this router waits, until it stops.
pub(crate) async fn expect(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EXPECT_PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        expect_once(&shared).await;
    }
}

async fn expect_once(shared: &Shared) {
    let Some(boots) = shared.boots_awaited().await else {
        return;
    };
    if let Err(error) = shared.registry.expect_renewals(boots).await {
        tracing::debug!(%error, "the registry was not told for whom this router waits; it is told again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::bench;
    use crate::driver::Event;
    use crate::registry::memory::MemoryRegistry;
    use crate::shared::StopReason;

    #[tokio::test]
    async fn who_is_waited_for_and_known_to_nobody_is_gone_after_a_lease() {
        let dir = tempfile::tempdir().unwrap();
        let clock_ms = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&clock_ms);
        let registry = MemoryRegistry::new(1, move || Duration::from_millis(read.load(Ordering::SeqCst)));
        let (shared, mut events) = bench::shared_with(dir.path(), registry);
        let driver = async {
            let Some(Event::Awaited(answer)) = events.recv().await else {
                panic!("the core is asked for whom it waits");
            };
            answer.send([BootId(9)].into()).unwrap();
        };
        tokio::join!(expect_once(&shared), driver);
        assert_eq!(shared.registry.reap().await, Ok(Vec::new()), "it may come back");
        let after_it = LEASE + Duration::from_millis(1);
        clock_ms.store(u64::try_from(after_it.as_millis()).unwrap(), Ordering::SeqCst);
        let looking = tokio::spawn(reap(Arc::clone(&shared)));
        let Some(Event::Inputs(inputs)) = events.recv().await else {
            panic!("the core is told that it is gone");
        };
        assert!(matches!(inputs[..], [Input::GatewayGone(9)]), "{inputs:?}");
        shared.stop.give(StopReason::Asked);
        looking.await.unwrap();
    }

    #[test]
    fn while_the_registry_is_away_a_boot_lives_unless_it_was_given_up_here() {
        let away = || Err(RegistryError::Unavailable("no answer".to_owned()));
        assert_eq!(is_alive(away(), || false), Some(true));
        assert_eq!(is_alive(away(), || true), None);
        assert_eq!(
            is_alive(Ok(false), || false),
            Some(false),
            "what the registry says counts"
        );
        assert_eq!(is_alive(Ok(true), || true), Some(true));
    }

    #[test]
    fn a_router_that_stood_still_listens_before_it_declares_anybody_dead() {
        let at = Duration::from_secs;
        let mut attention = Attention::new(at(100));
        assert!((101..110).all(|second| attention.may_reap(at(second))));
        let refused = (140..160).filter(|second| !attention.may_reap(at(*second)));
        assert_eq!(refused.collect::<Vec<_>>(), [140, 141, 142, 143, 144]);
    }
}
