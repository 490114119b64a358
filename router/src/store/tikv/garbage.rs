//! Garbage collection: versions that are read no more, and ids that are refused as stale.
//!
//! Without TiDB nobody tells TiKV which versions are read no more. One router does, under a lease that is a row of the store
//! and counts by the timestamp oracle: it ends transactions that are older than the safepoint and advances it. The safepoint
//! lags the oracle by [`LAG`], longer than any read or commit takes. The same router forgets ids whose time is over. That of
//! the last one stands in a row of its lane, written before the first one goes: ids up to it are refused from then on,
//! whatever a router's clock says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corelane_protocol::id::Lane;
use corelane_router_core::decide::DEDUPE_RETENTION_MS;

use super::client::{Change, RawRow, Rows, millis, version_of};
use super::fault::Fault;
use super::rows::{Collector, ForgottenRow, Value};
use super::shared::Shared;

/// How far the safepoint lags.
const LAG: Duration = Duration::from_mins(10);
/// How often it is advanced.
const EVERY: Duration = Duration::from_mins(5);
/// How long the lease of a collector is.
const LEASE: Duration = Duration::from_mins(12);
/// Ids are refused as stale this long before their rows go.
const MARGIN_MS: u64 = 3_600_000;
/// Rows that go at a time.
const FORGET_ROWS: u32 = 1_024;

const _: () = assert!(
    LEASE.as_millis() > 2 * EVERY.as_millis(),
    "a collector renews its lease before it ends"
);

/// Collects for as long as the store is open; versions only if this router may.
pub(super) async fn run(shared: Arc<Shared>, collects_versions: bool) {
    loop {
        tokio::time::sleep(shared.jitter(EVERY)).await;
        let collected = if collects_versions {
            collect(&shared, LAG).await
        } else {
            Ok(false)
        };
        match collected {
            Ok(true) => tracing::debug!("the safepoint was advanced"),
            Ok(false) => {}
            Err(fault) => tracing::warn!(%fault, "garbage could not be collected; tried again later"),
        }
        if let Err(fault) = forget_ids(&shared).await {
            tracing::warn!(%fault, "stale ids could not be forgotten; tried again later");
        }
    }
}

/// Advances the safepoint, if this router is the one who does it.
pub(super) async fn collect(shared: &Arc<Shared>, lag: Duration) -> Result<bool, Fault> {
    let Some(now) = lead(shared).await? else {
        return Ok(false);
    };
    let lag = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
    let until = version_of(millis(now).saturating_sub(lag));
    shared.kv.collect_garbage(until).await
}

/// Takes or renews the lease. The version of now, if it is ours.
async fn lead(shared: &Arc<Shared>) -> Result<Option<u64>, Fault> {
    let key = shared.keys.collector();
    let mut write = shared.kv.begin().await?;
    let now = write.start();
    let found = match write.many(vec![key.clone()]).await {
        Ok(found) => found,
        Err(fault) => {
            write.abandon().await;
            return Err(fault);
        }
    };
    // A damaged lease is nobody's.
    let holder = found
        .first()
        .and_then(|(_, value)| Collector::decode(&key, value).ok());
    let is_others = holder.is_some_and(|row| row.holder != shared.boot && row.until_ms > millis(now));
    if is_others {
        write.abandon().await;
        return Ok(None);
    }
    let lease = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
    let row = Collector {
        holder: shared.boot,
        until_ms: millis(now).saturating_add(lease),
    };
    let change = Change::Put(row.encode(&key));
    write.commit(std::iter::once((&key, &change))).await?;
    // An Ok is not the last word: only who finds himself in the row collects.
    let is_ours = holds(shared, &key, &change).await?;
    Ok(is_ours.then_some(now))
}

async fn holds(shared: &Arc<Shared>, key: &[u8], change: &Change) -> Result<bool, Fault> {
    let mut read = shared.kv.snapshot().await?;
    let found = read.many(vec![key.to_vec()]).await?;
    Ok(found.first().map(|(_, value)| value.as_slice()) == change.value())
}

/// Forgets ids of all lanes whose time is over, if this router is the one who does it.
pub(super) async fn forget_ids(shared: &Arc<Shared>) -> Result<bool, Fault> {
    let Some(now) = lead(shared).await? else {
        return Ok(false);
    };
    let cut_ms = shared
        .time_at(now)
        .saturating_sub(DEDUPE_RETENTION_MS + MARGIN_MS);
    for lane in (0..shared.keys.lanes()).map(Lane) {
        while forget_some(shared, lane, cut_ms).await? {}
    }
    Ok(true)
}

/// Forgets the oldest ids of a lane that were made before `cut_ms`. True: there may be more.
async fn forget_some(shared: &Arc<Shared>, lane: Lane, cut_ms: u64) -> Result<bool, Fault> {
    let mut read = shared.kv.snapshot().await?;
    let found = read
        .scan(shared.keys.dedupe_before(lane, cut_ms), FORGET_ROWS)
        .await?;
    let last = found.last();
    let Some(last_ms) = last.and_then(|(key, _)| shared.keys.dedupe_time_of(lane, key)) else {
        return Ok(false);
    };
    if !mark(shared, lane, last_ms).await? {
        return Ok(false);
    }
    let gone = found.iter().map(|(key, _)| (key.clone(), Change::Delete));
    let gone: BTreeMap<Vec<u8>, Change> = gone.collect();
    let write = shared.kv.begin().await?;
    // What is not deleted is found the next time.
    write.commit(gone.iter()).await?;
    shared
        .counts
        .ids_forgotten
        .fetch_add(found.len() as u64, Ordering::Relaxed);
    Ok(found.len() == FORGET_ROWS as usize)
}

/// Says that ids up to `time_ms` are forgotten, and sees that it is there. False: not this time.
async fn mark(shared: &Arc<Shared>, lane: Lane, time_ms: u64) -> Result<bool, Fault> {
    let key = shared.keys.forgotten(lane);
    let mut write = shared.kv.begin().await?;
    let found = match write.many(vec![key.clone()]).await {
        Ok(found) => found,
        Err(fault) => {
            write.abandon().await;
            return Err(fault);
        }
    };
    if forgotten(&key, &found) >= time_ms {
        write.abandon().await;
        return Ok(true);
    }
    let change = Change::Put(ForgottenRow(time_ms).encode(&key));
    write.commit(std::iter::once((&key, &change))).await?;
    holds(shared, &key, &change).await
}

fn forgotten(key: &[u8], found: &[RawRow]) -> u64 {
    let row = found
        .first()
        .and_then(|(_, value)| ForgottenRow::decode(key, value).ok());
    row.map_or(0, |ForgottenRow(time_ms)| time_ms)
}
