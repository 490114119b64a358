//! Topics of dead gateways in a bus that stands apart: deleted an hour after their death.
//!
//! Every router sweeps, and each counts the time by itself: what another one deleted is not there any more. While the
//! registry or the bus cannot be asked nothing is swept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::id::BootId;

use crate::bus::kafka::Janitor;
use crate::registry::Registry as _;
use crate::shared::Shared;

/// Time between two sweeps.
const PACE: Duration = Duration::from_mins(1);

/// Sweeps until the router stops. Topics are kept for `keep` after their boot was found dead.
pub(crate) async fn sweep(shared: Arc<Shared>, keep: Duration) {
    let Some(bus) = shared.bus.kafka() else { return };
    let mut janitor = Janitor::new(keep);
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        // Asked for before the topics: a gateway that comes in between has its whole time before it.
        let live: HashSet<BootId> = match shared.registry.live_gateways().await {
            Ok(live) => live.into_iter().map(|gateway| gateway.boot).collect(),
            Err(error) => {
                tracing::warn!(%error, "topics are not swept: nobody knows who lives");
                continue;
            }
        };
        let now = shared.clock.now().mono;
        if let Err(error) = janitor.sweep(bus, now, |boot| live.contains(&boot)).await {
            tracing::warn!(%error, "topics could not be swept; it is tried again");
        }
    }
}
