//! Timestamps for the served PD: milliseconds, and a counter within them. No timestamp is given out below one given out
//! before, restarts included: a bound above all of them is durable first.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::clock::now_ms;
use crate::log::LogError;
use crate::node::Node;
use crate::proto::pdpb::Timestamp;

/// Timestamps of one millisecond.
const PER_MS: u64 = 1 << 18;
/// How far the durable bound runs ahead.
const BOUND_AHEAD_MS: u64 = 3_000;

struct Last {
    physical: u64,
    logical: u64,
    bound: u64,
}

/// See the module.
pub(crate) struct Oracle {
    node: Arc<Node>,
    last: Mutex<Last>,
}

impl Oracle {
    /// Goes on above everything that was given out before.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let bound = node.store.time_bound();
        Self {
            node,
            last: Mutex::new(Last {
                physical: bound,
                logical: 0,
                bound,
            }),
        }
    }

    /// Gives out `count` timestamps; returns the last one.
    ///
    /// # Errors
    /// The log failed.
    pub(crate) async fn take(&self, count: u32) -> Result<Timestamp, LogError> {
        let mut last = self.last.lock().await;
        let now = now_ms();
        if now > last.physical {
            (last.physical, last.logical) = (now, 0);
        }
        if last.logical + u64::from(count) >= PER_MS {
            (last.physical, last.logical) = (last.physical + 1, 0);
        }
        if last.physical >= last.bound {
            let bound = last.physical + BOUND_AHEAD_MS;
            self.node.store.raise_time_bound(bound).await?;
            last.bound = bound;
        }
        last.logical += u64::from(count);
        Ok(Timestamp {
            physical: i64::try_from(last.physical).unwrap_or(i64::MAX),
            logical: i64::try_from(last.logical).unwrap_or(i64::MAX),
            suffix_bits: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn timestamps_rise_over_a_restart_and_through_a_full_millisecond() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = (0, 0);
        for _ in 0..3 {
            let oracle = Oracle::new(Arc::new(Node::new(Store::open(folder.path()).unwrap())));
            for count in [1, 200_000, 200_000, 1] {
                let last = oracle.take(count).await.unwrap();
                let first = (last.physical, last.logical - i64::from(count) + 1);
                assert!(
                    first > before && last.logical < 1 << 18,
                    "{first:?} after {before:?}"
                );
                before = (last.physical, last.logical);
            }
        }
    }
}
