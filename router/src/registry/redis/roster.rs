//! What this router knows of boots without asking: who is dead, who lives, and who joined here.
//!
//! Refreshed every second. That a boot lives may be known late: whoever is not known here is asked for. That it is dead
//! may be known late too: then a record goes to a topic that nobody reads any more, and its outbox row waits. A boot that is
//! neither, though it was linked here or a route names it, is missing: Redis forgot it, or knows it for less than a second.
//! Holds one entry per live gateway, per boot that died in the last hour, and per boot that is missing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use corelane_protocol::id::{BootId, NodeId};
use tokio::sync::{Mutex, Notify};

use super::sweep::DEAD_KEPT;

/// What is known of boots.
#[derive(Debug, Default)]
pub(super) struct Roster {
    known: RwLock<Known>,
    /// Held from reading or writing the boots in Redis until what came of it is known here, so that no older answer
    /// replaces a newer one.
    pub(super) turn: Mutex<()>,
    /// There are routes of dead boots to sweep up.
    pub(super) unswept: Notify,
}

#[derive(Debug, Default)]
struct Known {
    dead: HashSet<BootId>,
    live: HashMap<BootId, NodeId>,
    /// Gateways with a link here: their leases can be renewed even when Redis came back empty.
    joined: HashMap<BootId, NodeId>,
    /// Boots that came up here otherwise, until Redis says whether they live.
    strangers: BTreeSet<BootId>,
    unswept: BTreeSet<BootId>,
    /// Dead boots that were not named yet.
    unnamed: BTreeSet<BootId>,
    /// When this was refreshed last.
    refreshed_at: Option<Duration>,
}

impl Known {
    fn has_heard_of(&self, boot: BootId) -> bool {
        self.live.contains_key(&boot)
            || self.dead.contains(&boot)
            || self.joined.contains_key(&boot)
            || self.strangers.contains(&boot)
    }
}

impl Roster {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_dead(&self, boot: BootId) -> bool {
        self.read().dead.contains(&boot)
    }

    /// Whether it is known to live.
    pub(super) fn lives(&self, boot: BootId) -> bool {
        let known = self.read();
        !known.dead.contains(&boot) && (known.live.contains_key(&boot) || known.joined.contains_key(&boot))
    }

    /// Those of the boots that are dead.
    pub(super) fn without_dead<T>(&self, all: Vec<T>, boot: impl Fn(&T) -> BootId) -> Vec<T> {
        let known = self.read();
        all.into_iter()
            .filter(|each| !known.dead.contains(&boot(each)))
            .collect()
    }

    /// Those of boots that are not dead, and those of boots that are. A boot that nobody heard of passes for one that lives,
    /// and is missing until Redis says so.
    pub(super) fn split<T>(&self, all: Vec<T>, boot: impl Fn(&T) -> BootId) -> (Vec<T>, Vec<T>) {
        let known = self.read();
        let new = all.iter().map(&boot).filter(|boot| !known.has_heard_of(*boot));
        let new: Vec<BootId> = new.collect();
        let split = all
            .into_iter()
            .partition(|each| !known.dead.contains(&boot(each)));
        drop(known);
        if !new.is_empty() {
            self.write().strangers.extend(new);
        }
        split
    }

    /// Boots that Redis knows neither as living nor as dead, as far as was heard: of those that are `awaited`, and of those
    /// that came up here.
    pub(super) fn missing(&self, awaited: &BTreeSet<BootId>) -> BTreeSet<BootId> {
        let known = self.read();
        let all = awaited.iter().chain(known.joined.keys()).chain(&known.strangers);
        all.filter(|boot| !known.live.contains_key(*boot) && !known.dead.contains(*boot))
            .copied()
            .collect()
    }

    pub(super) fn node_of_joined(&self, boot: BootId) -> Option<NodeId> {
        self.read().joined.get(&boot).cloned()
    }

    pub(super) fn joined(&self, boot: BootId, node: NodeId) {
        let mut known = self.write();
        known.live.insert(boot, node.clone());
        known.joined.insert(boot, node);
    }

    /// This router declared it dead. `named`: whoever asks for the dead is told.
    pub(super) fn died(&self, boot: BootId, named: bool) {
        let mut known = self.write();
        known.dead.insert(boot);
        known.live.remove(&boot);
        known.joined.remove(&boot);
        known.unswept.insert(boot);
        if named {
            known.unnamed.insert(boot);
        }
        drop(known);
        self.unswept.notify_one();
    }

    /// Boots that died since this was asked last, wherever they were declared dead.
    pub(super) fn take_unnamed(&self) -> Vec<BootId> {
        std::mem::take(&mut self.write().unnamed).into_iter().collect()
    }

    /// It lives, as Redis says.
    pub(super) fn is_alive(&self, boot: BootId, node: NodeId) {
        self.write().live.insert(boot, node);
    }

    /// Takes over what stands in Redis.
    pub(super) fn refresh(&self, dead: HashSet<BootId>, live: HashMap<BootId, NodeId>, now: Duration) {
        let mut known = self.write();
        let refreshed_at = known.refreshed_at.replace(now);
        if let Some(last) = refreshed_at {
            // Those that were dead when this router started are nobody's news.
            let new: Vec<BootId> = dead.difference(&known.dead).copied().collect();
            known.unnamed.extend(new);
            if now.saturating_sub(last) > DEAD_KEPT / 2 {
                // Who died meanwhile may be forgotten: no lease is renewed that Redis does not know.
                let joined = std::mem::take(&mut known.joined);
                known.strangers.extend(joined.into_keys());
            }
        }
        known.joined.retain(|boot, _| !dead.contains(boot));
        known
            .strangers
            .retain(|boot| !dead.contains(boot) && !live.contains_key(boot));
        known.dead = dead;
        known.live = live;
    }

    /// Boots whose routes are to be swept up by this router.
    pub(super) fn to_sweep(&self) -> Vec<BootId> {
        self.read().unswept.iter().copied().collect()
    }

    pub(super) fn swept(&self, boot: BootId) {
        self.write().unswept.remove(&boot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: BootId = BootId(1);
    const TWO: BootId = BootId(2);

    fn node() -> NodeId {
        NodeId::new("gateway").unwrap()
    }

    /// What stands in Redis, `second` s after the start.
    fn refresh(roster: &Roster, dead: &[BootId], live: &[BootId], second: u64) {
        let live = live.iter().map(|boot| (*boot, node())).collect();
        roster.refresh(dead.iter().copied().collect(), live, Duration::from_secs(second));
    }

    fn missing(roster: &Roster) -> Vec<BootId> {
        roster.missing(&BTreeSet::new()).into_iter().collect()
    }

    #[test]
    fn a_boot_that_was_linked_here_is_missing_where_redis_knows_nothing_of_it() {
        let roster = Roster::default();
        roster.joined(ONE, node());
        assert_eq!(missing(&roster), [], "it joined a moment ago");
        refresh(&roster, &[], &[ONE], 1);
        assert_eq!(missing(&roster), []);
        refresh(&roster, &[], &[], 2);
        assert_eq!(missing(&roster), [ONE]);
        assert_eq!(roster.node_of_joined(ONE), Some(node()), "it may come back");
        refresh(&roster, &[], &[ONE], 3);
        assert_eq!(missing(&roster), []);
        refresh(&roster, &[ONE], &[], 4);
        assert_eq!(missing(&roster), [], "who is dead is not missed");
        assert_eq!(roster.take_unnamed(), [ONE]);
        refresh(&roster, &[], &[], 5);
        assert_eq!(missing(&roster), [], "nor when that is forgotten");
    }

    #[test]
    fn a_boot_of_a_route_is_missing_until_redis_says_whether_it_lives() {
        let roster = Roster::default();
        refresh(&roster, &[TWO], &[], 1);
        let split = roster.split(vec![ONE, TWO], |boot| *boot);
        assert_eq!(split, (vec![ONE], vec![TWO]));
        assert_eq!(missing(&roster), [ONE]);
        refresh(&roster, &[TWO], &[], 2);
        assert_eq!(missing(&roster), [ONE]);
        refresh(&roster, &[TWO], &[ONE], 3);
        assert_eq!(missing(&roster), []);
        refresh(&roster, &[TWO], &[], 4);
        assert_eq!(missing(&roster), [], "nobody has named it since");
        let awaited = BTreeSet::from([ONE, TWO]);
        assert_eq!(roster.missing(&awaited), [ONE].into());
    }

    #[test]
    fn who_was_linked_before_a_long_silence_is_not_renewed_and_missing() {
        let roster = Roster::default();
        refresh(&roster, &[], &[], 0);
        roster.joined(ONE, node());
        roster.joined(TWO, node());
        let silence_s = DEAD_KEPT.as_secs();
        refresh(&roster, &[], &[TWO], silence_s);
        assert_eq!(roster.node_of_joined(ONE), None);
        assert_eq!(missing(&roster), [ONE]);
    }
}
