//! The row that says whose store it is: cluster id, lanes, epoch.
//!
//! Written once, by whichever router comes first. A router that was told of another cluster or number of lanes does not
//! start: its lanes would not be where the others look for them.

use std::sync::Arc;

use super::super::{StoreError, schema};
use super::client::{Change, Kv, Rows};
use super::fault::{Fault, FaultClass};
use super::keys::Keys;
use super::options::TikvOptions;
use super::rows::{Cluster, Value};
use super::shared::Tries;

/// Finds the store, or makes it.
///
/// # Errors
///
/// [`StoreError::Open`]: it cannot be reached, or is another's.
pub(super) async fn open(kv: &Arc<Kv>, options: &TikvOptions) -> Result<Cluster, StoreError> {
    let path = || format!("tikv at {}", options.pd.join(", "));
    let wrong = |problem: String| StoreError::Open {
        path: path(),
        problem,
    };
    if !options.lanes.is_power_of_two() {
        return Err(wrong(format!(
            "cannot have {} lanes; store.lanes is a power of two",
            options.lanes
        )));
    }
    let keys = Keys::new(&options.prefix, options.lanes);
    let mut tries = Tries::new(options.clock, options.limits.open);
    let made = Cluster {
        id: options.cluster_id.unwrap_or(options.random).max(1),
        epoch: schema::new_epoch(options.random, 0),
        lanes: options.lanes,
    };
    let found = loop {
        let outcome = match find(kv, &keys).await {
            Ok(Some(found)) => break found.map_err(|damage| wrong(damage.to_string()))?,
            Ok(None) if !options.makes => {
                return Err(wrong(format!(
                    "holds no store, but this router has known one, of cluster {:016x}; set store.pd and store.prefix to \
                     where it is, restore it, or remove the file `cluster` of the data directory to begin with an empty one",
                    made.id
                )));
            }
            Ok(None) => write(kv, &keys, made, true).await,
            Err(fault) => Err(fault),
        };
        // Written or not: what is there says.
        let fault = outcome
            .err()
            .unwrap_or_else(|| Fault::timeout("the store's first write"));
        if tries.wait(&fault).await.is_err() {
            return Err(wrong(format!(
                "cannot be reached ({fault}); check store.pd and that PD and TiKV run"
            )));
        }
    };
    check(found, options).map_err(wrong)?;
    Ok(found)
}

fn check(found: Cluster, options: &TikvOptions) -> Result<(), String> {
    let id = found.id;
    if let Some(wanted) = options.cluster_id.filter(|wanted| *wanted != id) {
        return Err(format!(
            "belongs to cluster {id:016x}, this router to {wanted:016x}; set store.pd to the TiKV of its own cluster, or \
             store.cluster and the data directory to those of this one"
        ));
    }
    let (lanes, wanted) = (found.lanes, options.lanes);
    if lanes != wanted {
        return Err(format!(
            "belongs to cluster {id:016x} and was made with {lanes} lanes, the configuration says {wanted}; set store.lanes \
             to {lanes}"
        ));
    }
    Ok(())
}

/// The row as it is now.
///
/// # Errors
///
/// The connection's; inside, that it is damaged.
pub(super) async fn find(kv: &Arc<Kv>, keys: &Keys) -> Result<Option<Result<Cluster, StoreError>>, Fault> {
    let key = keys.cluster();
    let mut read = kv.snapshot().await?;
    let found = read.many(vec![key.clone()]).await?;
    Ok(found.first().map(|(_, value)| Cluster::decode(&key, value)))
}

async fn write(kv: &Arc<Kv>, keys: &Keys, row: Cluster, is_new: bool) -> Result<(), Fault> {
    let key = keys.cluster();
    let value = row.encode(&key);
    let change = if is_new {
        Change::Insert(value)
    } else {
        Change::Put(value)
    };
    let write = kv.begin().await?;
    write.commit(std::iter::once((&key, &change))).await
}

/// Draws a new epoch, and sees that it is there.
///
/// # Errors
///
/// [`StoreError::Failed`]: it may or may not be changed; call again.
pub(super) async fn bump_epoch(
    kv: &Arc<Kv>,
    keys: &Keys,
    random: u64,
    mut tries: Tries,
) -> Result<u64, StoreError> {
    let mut wanted = None;
    loop {
        let fault = match find(kv, keys).await {
            Ok(Some(Ok(row))) if wanted == Some(row.epoch) => return Ok(row.epoch),
            Ok(Some(Ok(row))) => {
                let epoch = schema::new_epoch(random, row.epoch);
                wanted = Some(epoch);
                match write(kv, keys, Cluster { epoch, ..row }, false).await {
                    // Found by the next look.
                    Ok(()) => continue,
                    Err(fault) => fault,
                }
            }
            Ok(Some(Err(damage))) => return Err(damage),
            Ok(None) => Fault::new(FaultClass::Other, "the cluster's row is gone"),
            Err(fault) => fault,
        };
        tries.wait(&fault).await?;
    }
}
