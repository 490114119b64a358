//! What is done in the background: routes of dead boots are taken out, dead boots are forgotten after an hour, and what
//! belongs to the living is kept from expiring.
//!
//! The router that declared a boot dead sweeps up after it at once. If it dies over that, nothing is wrong but space:
//! dead boots are left out of every answer. Whoever holds the lock of the minute sweeps once more before a boot is
//! forgotten. Routes expire by themselves three days after they were touched last, in case all of this fails.

use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::id::BootId;
use fred::error::Error;
use fred::interfaces::{HashesInterface as _, KeysInterface as _, SortedSetsInterface as _};
use fred::types::{Expiration, SetOptions, Value};

use super::Inner;
use super::keys::Group;
use super::routes::{Leaving, read_index, unreadable};
use super::row::{hex, parse_hex};
use super::script::{BATCH, of_each, texts};
use crate::registry::RegistryError;

/// Routes, indexes and the numbers of changes live so long without being touched.
pub(super) const FLOOR_MS: u64 = 72 * 3600 * 1000;
/// How often what belongs to the living is touched.
const TOUCH_MS: i64 = 12 * 3600 * 1000;
/// How often the work of the minute is looked for; the lock of it is shorter.
const PACE: Duration = Duration::from_mins(1);
const PACE_LOCK_MS: i64 = 50_000;
/// Dead boots are remembered so long. A router that heard nothing for half of it knows nothing of who died.
pub(super) const DEAD_KEPT: Duration = Duration::from_hours(1);

const _: () = assert!(
    (TOUCH_MS as u64) * 4 < FLOOR_MS,
    "what belongs to the living is touched several times before it would expire"
);

/// Works until the task is ended.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_tick = tokio::select! {
            _ = ticks.tick() => true,
            () = inner.roster.unswept.notified() => false,
        };
        let mut done = inner.sweep_new().await;
        if is_tick && done.is_ok() {
            done = inner.minute().await;
        }
        if let Err(error) = done {
            tracing::debug!(url = inner.url, %error, "the sweep goes on in a minute");
        }
    }
}

impl Inner {
    /// Sweeps up after the boots that this router declared dead.
    async fn sweep_new(&self) -> Result<(), RegistryError> {
        for boot in self.roster.to_sweep() {
            let count = self.sweep_boot(boot).await?;
            tracing::info!(boot = hex(boot.0), count, "routes of a dead boot were taken out");
            self.roster.swept(boot);
        }
        Ok(())
    }

    async fn minute(&self) -> Result<(), RegistryError> {
        if self.lock(self.keys.sweep(), PACE_LOCK_MS).await? {
            self.forget_dead().await?;
        }
        if self.lock(self.keys.floor(), TOUCH_MS).await? {
            let touched = self.touch_living().await;
            if touched.is_err() {
                // Not done: another minute, perhaps another router.
                self.ask(self.client.del::<(), _>(self.keys.floor())).await?;
            }
            return touched;
        }
        Ok(())
    }

    /// Takes a lock until it expires by itself. False: somebody else has it.
    async fn lock(&self, key: String, for_ms: i64) -> Result<bool, RegistryError> {
        let (expires, absent) = (Some(Expiration::PX(for_ms)), Some(SetOptions::NX));
        let set = self
            .client
            .set::<Option<String>, _, _>(key, self.name.as_str(), expires, absent, false);
        Ok(self.ask(set).await?.is_some())
    }

    async fn forget_dead(&self) -> Result<(), RegistryError> {
        let Some(server_ms) = self.health().server_ms() else {
            return Ok(());
        };
        let kept_ms = u64::try_from(DEAD_KEPT.as_millis()).unwrap_or(u64::MAX);
        let before = server_ms.saturating_sub(kept_ms).to_string();
        let dead = self.keys.dead();
        let old =
            self.client
                .zrangebyscore::<Vec<String>, _, _, _>(dead.clone(), "-inf", before, false, None);
        for boot in self.ask(old).await? {
            if let Some(boot) = parse_hex(&boot) {
                self.sweep_boot(BootId(boot)).await?;
            }
            let _turn = self.roster.turn.lock().await;
            self.ask(self.client.zrem::<(), _, _>(dead.clone(), boot)).await?;
        }
        Ok(())
    }

    /// Takes all routes of a dead boot out. Returns how many there were.
    async fn sweep_boot(&self, boot: BootId) -> Result<usize, RegistryError> {
        let mut count = 0;
        for (group, held) in self.index_of(boot).await? {
            let held = read_index(held).map_err(unreadable)?;
            let leaving = held.into_iter().map(|held| Leaving::of(boot, held, false));
            count += self.take_out(group, &leaving.collect::<Vec<_>>()).await?;
        }
        Ok(count)
    }

    /// Keeps routes and indexes of living boots from expiring.
    async fn touch_living(&self) -> Result<(), RegistryError> {
        for gateway in self.live_gateways().await? {
            for (group, held) in self.index_of(gateway.boot).await? {
                let mut keys = vec![self.keys.held(group, gateway.boot)];
                let held = read_index(held).map_err(unreadable)?;
                keys.extend(
                    held.iter()
                        .map(|held| self.keys.route(held.at.app, &held.at.user)),
                );
                for batch in keys.chunks(BATCH) {
                    self.ask(self.touch(batch)).await?;
                }
            }
        }
        Ok(())
    }

    async fn touch(&self, keys: &[String]) -> Result<(), Error> {
        let pipeline = self.client.pipeline();
        for key in keys {
            let floor_ms = i64::try_from(FLOOR_MS).unwrap_or(i64::MAX);
            let _: () = pipeline.pexpire(key.as_str(), floor_ms, None).await?;
        }
        for result in of_each(pipeline.try_all::<Value>().await, keys.len())? {
            result?;
        }
        Ok(())
    }

    /// What a boot holds, by slot group; groups where it holds nothing are left out.
    async fn index_of(&self, boot: BootId) -> Result<Vec<(Group, Vec<String>)>, RegistryError> {
        let groups: Vec<Group> = Group::all().collect();
        let mut index = Vec::new();
        for batch in groups.chunks(BATCH) {
            let held = self.ask(self.read_index(batch, boot)).await?;
            let some = batch.iter().copied().zip(held);
            index.extend(some.filter(|(_, held)| !held.is_empty()));
        }
        Ok(index)
    }

    async fn read_index(&self, groups: &[Group], boot: BootId) -> Result<Vec<Vec<String>>, Error> {
        let pipeline = self.client.pipeline();
        for group in groups {
            let _: () = pipeline.hgetall(self.keys.held(*group, boot)).await?;
        }
        of_each(pipeline.try_all::<Value>().await, groups.len())?
            .into_iter()
            .map(|result| texts(result?))
            .collect()
    }
}
