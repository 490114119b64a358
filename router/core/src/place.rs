//! A router's place in the list of routers: which lanes follow from it, and how long it may be believed.
//!
//! `router/src/membership.rs` asks the registry and tells the rest of the router. Owns the list as it was looked at last,
//! as long as the registry gives it. By the way lanes are placed (`protocol/src/hash.rs`) a router that stays in the list
//! gains a lane only from one that is not in it any more, which left when it had drained, or is dead by its lease: such a
//! lane is free at once. One that joins takes lanes from those that stay, so it holds all of its lanes until every other
//! router has drained the list that it joined by.
//!
//! **Not in the list.** Its lease ran out, and others went on without it: it serves nothing before it has joined again.
//! **Not in a list that was forgotten.** The registry came back without it: then nobody has any lane that he had not, and
//! all go on while they join again, for three tenths of a lease at most. **No answer.** While the registry is away nobody
//! can take anything over, and the list stands; but a router that was paused for a lease does not know that before it has
//! looked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::hash::router_of;
use corelane_protocol::id::{BootId, Lane, NodeId};

use crate::event::{LaneList, LaneRole};
use crate::planted::Bug;

/// A router process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterEntry {
    /// As its operator named it. No two routers of a list have the same name.
    pub node: NodeId,
    /// This start of it.
    pub boot: BootId,
    /// Where gateways reach its link server, as host:port. Empty: where they found it. No control characters.
    pub address: String,
    /// Where other routers reach its HTTP API, as host:port. No control characters.
    pub http: String,
    /// The cluster that its store belongs to; 0: it does not say.
    pub cluster: u64,
}

/// The routers there are, as of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouterSet {
    /// Another, higher one whenever a router comes or goes.
    pub version: u64,
    /// Sorted by their nodes.
    pub routers: Vec<RouterEntry>,
    /// Up to which version each router (by boot) has published all it had in lanes that it lost; 0 until it said so.
    pub drained: BTreeMap<BootId, u64>,
}

impl RouterSet {
    /// The router that serves a lane.
    pub fn owner(&self, lane: Lane) -> Option<&RouterEntry> {
        let nodes = self.routers.iter().map(|router| router.node.as_str());
        router_of(lane, nodes).and_then(|index| self.routers.get(index))
    }

    /// Whether a router is in the list.
    pub fn has(&self, boot: BootId) -> bool {
        self.routers.iter().any(|router| router.boot == boot)
    }
}

/// What a look at the list found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The list is a newer one than before, to be told to gateways.
    pub is_newer: bool,
    /// This router must join, and look again.
    pub must_join: bool,
}

/// The place of one router.
#[derive(Debug)]
pub struct Place {
    own: BootId,
    /// How long a router is believed to live; `None` where nobody else can be in the list.
    lease: Option<Duration>,
    list: Arc<RouterSet>,
    /// Which lanes the list gives to this router.
    owned: Vec<bool>,
    /// The version that the others must have drained.
    joined_at: u64,
    is_listed: bool,
    /// They have.
    is_free: bool,
    /// Of the registry in which it is listed.
    incarnation: u64,
    believed_until: Duration,
    /// Since when the registry has not answered to one who may have been paused.
    doubted_at: Option<Duration>,
    /// The others may not all be back in a forgotten list before.
    settles_until: Option<Duration>,
}

impl Place {
    /// Of a router that has not joined. `lease` is that of routers in the registry; `None` for a registry that nobody
    /// shares.
    pub fn new(own: BootId, lanes: u16, lease: Option<Duration>) -> Self {
        Self {
            own,
            lease,
            list: Arc::default(),
            owned: vec![false; usize::from(lanes)],
            joined_at: 0,
            is_listed: false,
            is_free: false,
            incarnation: 0,
            believed_until: Duration::ZERO,
            doubted_at: None,
            settles_until: None,
        }
    }

    /// The list that it goes by.
    pub const fn list(&self) -> &Arc<RouterSet> {
        &self.list
    }

    /// Whether this router is in the list, as far as it knows.
    pub const fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Whether there are other routers.
    pub fn has_others(&self) -> bool {
        self.list.routers.iter().any(|router| router.boot != self.own)
    }

    /// Whether the list is to be looked at often, because something is waited for.
    pub const fn waits(&self) -> bool {
        self.settles_until.is_some() || (self.is_listed && !self.is_free)
    }

    /// It is in the list, since this version or an earlier one, as it asked at `asked_at`.
    pub fn joined(&mut self, version: u64, asked_at: Duration, incarnation: u64) {
        if !self.is_free {
            self.joined_at = version;
        }
        self.is_listed = true;
        self.incarnation = incarnation;
        self.renewed(asked_at);
    }

    /// Its lease was renewed, as it asked at `asked_at`.
    pub fn renewed(&mut self, asked_at: Duration) {
        self.believed_until = self.lease.map_or(Duration::MAX, |lease| asked_at + lease);
        self.doubted_at = None;
    }

    /// The list was read, from a registry of this incarnation.
    pub fn looked(&mut self, now: Duration, list: RouterSet, incarnation: u64) -> Look {
        let is_forgotten = incarnation != self.incarnation;
        let is_there = self.is_listed && list.has(self.own);
        if is_there {
            // The list outlived what was forgotten: a later lapse is a lapse.
            self.incarnation = incarnation;
        }
        if !is_there && self.is_listed && is_forgotten {
            self.settles_until = Some(now + self.settle());
            return Look {
                is_newer: false,
                must_join: true,
            };
        }
        if !is_there {
            self.is_listed = false;
            self.is_free = false;
            self.settles_until = None;
            return Look {
                is_newer: self.adopt(list),
                must_join: true,
            };
        }
        if let Some(until) = self.settles_until {
            let are_back = self.list.routers.iter().all(|router| list.has(router.boot));
            if now < until && !are_back {
                return Look {
                    is_newer: false,
                    must_join: false,
                };
            }
            self.settles_until = None;
        }
        Look {
            is_newer: self.adopt(list),
            must_join: false,
        }
    }

    /// The registry did not answer.
    pub fn not_answered(&mut self, now: Duration) {
        let Some(lease) = self.lease else { return };
        if now > self.believed_until {
            let doubted_at = *self.doubted_at.get_or_insert(now);
            if now.saturating_sub(doubted_at) < lease {
                return;
            }
        }
        self.doubted_at = None;
        self.believed_until = self.believed_until.max(now + lease);
    }

    /// What the core is to do with each lane.
    pub fn lane_list(&self) -> LaneList {
        let role = |is_owned: &bool| match (*is_owned && self.is_listed, self.is_free) {
            (false, _) => LaneRole::Foreign,
            (true, false) => LaneRole::Held,
            (true, true) => LaneRole::Served,
        };
        LaneList {
            version: self.list.version,
            roles: self.owned.iter().map(role).collect(),
            until: self.believed_until,
            lapsed: !self.is_listed,
        }
    }

    /// Where the registry forgot the routers all are in the list again within a few looks of theirs.
    fn settle(&self) -> Duration {
        self.lease.map_or(Duration::ZERO, |lease| lease * 3 / 10)
    }

    /// Goes by a list, unless it is older than the one that is known: then the registry forgot its end, and whoever is
    /// missing joins again. True: it is a newer one.
    fn adopt(&mut self, list: RouterSet) -> bool {
        if list.version < self.list.version {
            return false;
        }
        let is_newer = list.version > self.list.version;
        self.list = Arc::new(list);
        if is_newer {
            for (lane, is_owned) in (0..).zip(&mut self.owned) {
                let owner = self.list.owner(Lane(lane));
                *is_owned = owner.is_some_and(|owner| owner.boot == self.own);
            }
        }
        self.is_free |= self.is_listed && self.others_have_drained();
        is_newer
    }

    fn others_have_drained(&self) -> bool {
        let has_drained = |boot: &BootId| {
            let version = self.list.drained.get(boot);
            version.is_some_and(|version| *version >= self.joined_at) || Bug::DrainNotAwaited.is_planted()
        };
        let mut others = self.list.routers.iter().filter(|router| router.boot != self.own);
        others.all(|router| has_drained(&router.boot))
    }
}

#[cfg(test)]
mod tests {
    use corelane_protocol::limits::LEASE;

    use super::*;

    const LANES: u16 = 64;
    const OWN: u64 = 1;
    const INCARNATION: u64 = 5;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Routers by their boots, each with the version that it has drained.
    fn list(version: u64, routers: &[(u64, u64)]) -> RouterSet {
        let entry = |(boot, _): &(u64, u64)| RouterEntry {
            node: NodeId::new(&format!("router-{boot}")).unwrap(),
            boot: BootId(*boot),
            address: String::new(),
            http: String::new(),
            cluster: 5,
        };
        let drained = routers.iter().map(|(boot, drained)| (BootId(*boot), *drained));
        RouterSet {
            version,
            routers: routers.iter().map(entry).collect(),
            drained: drained.collect(),
        }
    }

    fn joined(version: u64, routers: &[(u64, u64)]) -> Place {
        let mut place = Place::new(BootId(OWN), LANES, Some(LEASE));
        place.joined(version, at(1), INCARNATION);
        let look = place.looked(at(1), list(version, routers), INCARNATION);
        assert!(look.is_newer && !look.must_join);
        place
    }

    /// How many lanes are served, and how many are held.
    fn lanes(place: &Place) -> (usize, usize) {
        let count = |role| {
            let list = place.lane_list();
            list.roles.iter().filter(|each| **each == role).count()
        };
        (count(LaneRole::Served), count(LaneRole::Held))
    }

    #[test]
    fn a_lone_router_serves_all_lanes_at_once() {
        let place = joined(7, &[(OWN, 0)]);
        assert_eq!(lanes(&place), (64, 0));
        assert!(!place.has_others() && !place.waits());
    }

    #[test]
    fn who_joins_holds_his_lanes_until_all_others_have_drained_that_list() {
        let mut place = joined(7, &[(OWN, 7), (2, 6), (3, 7)]);
        let (served, held) = lanes(&place);
        assert!(served == 0 && held > 0 && place.waits());
        place.looked(at(2), list(8, &[(OWN, 7), (2, 6), (3, 8), (4, 8)]), INCARNATION);
        assert_eq!(lanes(&place).0, 0);
        // It has drained the list that counts; a later one moves nothing of this router's.
        place.looked(at(3), list(8, &[(OWN, 7), (2, 7), (3, 8), (4, 8)]), INCARNATION);
        let (served, held) = lanes(&place);
        assert!(served > 0 && held == 0 && !place.waits());
    }

    #[test]
    fn who_is_waited_for_and_is_dead_is_not_waited_for() {
        let mut place = joined(7, &[(OWN, 0), (2, 0)]);
        place.looked(at(12), list(8, &[(OWN, 7)]), INCARNATION);
        assert_eq!(lanes(&place), (64, 0));
    }

    #[test]
    fn who_stays_serves_at_once_what_another_one_left() {
        let mut place = joined(7, &[(OWN, 0), (2, 7), (3, 7)]);
        let (before, _) = lanes(&place);
        place.looked(at(2), list(8, &[(OWN, 7), (3, 0)]), INCARNATION);
        let (after, held) = lanes(&place);
        assert!(after > before && held == 0);
    }

    #[test]
    fn who_is_not_in_the_list_serves_nothing_and_waits_for_the_others_when_he_is_again() {
        let mut place = joined(7, &[(OWN, 0), (2, 7)]);
        let look = place.looked(at(40), list(8, &[(2, 8)]), INCARNATION);
        assert!(look.is_newer && look.must_join);
        assert_eq!(lanes(&place), (0, 0));
        assert!(place.lane_list().lapsed);
        place.joined(9, at(40), INCARNATION);
        place.looked(at(40), list(9, &[(OWN, 0), (2, 8)]), INCARNATION);
        let (served, held) = lanes(&place);
        assert!(served == 0 && held > 0);
        place.looked(at(41), list(9, &[(OWN, 9), (2, 9)]), INCARNATION);
        assert_eq!(lanes(&place), (held, 0));
    }

    #[test]
    fn a_list_that_was_forgotten_moves_nothing_while_it_is_made_again() {
        let mut place = joined(7, &[(OWN, 0), (2, 7), (3, 7)]);
        let before = lanes(&place);
        let look = place.looked(at(20), list(0, &[]), INCARNATION + 1);
        assert!(look.must_join && !look.is_newer);
        assert_eq!(lanes(&place), before);
        place.joined(100, at(20), INCARNATION + 1);
        let alone = place.looked(at(20), list(100, &[(OWN, 0)]), INCARNATION + 1);
        assert!(!alone.is_newer && !alone.must_join);
        assert_eq!(lanes(&place), before, "the others come");
        let all = place.looked(at(21), list(102, &[(OWN, 0), (2, 0), (3, 0)]), INCARNATION + 1);
        assert!(all.is_newer);
        assert_eq!(lanes(&place), before);
        // One that does not come back is dead.
        place.looked(at(30), list(0, &[]), INCARNATION + 2);
        place.joined(200, at(30), INCARNATION + 2);
        place.looked(at(32), list(201, &[(OWN, 0), (2, 0)]), INCARNATION + 2);
        assert_eq!(lanes(&place), before);
        place.looked(at(33), list(201, &[(OWN, 0), (2, 0)]), INCARNATION + 2);
        assert!(lanes(&place).0 > before.0);
    }

    #[test]
    fn a_lapse_after_the_list_outlived_another_incarnation_is_a_lapse() {
        let mut place = joined(7, &[(OWN, 0), (2, 7)]);
        place.looked(at(2), list(7, &[(OWN, 0), (2, 7)]), INCARNATION + 1);
        let look = place.looked(at(40), list(8, &[(2, 8)]), INCARNATION + 1);
        assert!(look.must_join && look.is_newer);
        assert_eq!(lanes(&place), (0, 0));
    }

    #[test]
    fn an_older_list_is_not_gone_by() {
        let mut place = joined(7, &[(OWN, 0), (2, 7)]);
        let before = lanes(&place);
        let look = place.looked(at(2), list(6, &[(OWN, 0)]), INCARNATION);
        assert!(!look.is_newer && !look.must_join);
        assert_eq!(lanes(&place), before);
    }

    #[test]
    fn a_registry_that_is_away_takes_no_lane_but_a_pause_may_have() {
        let mut place = joined(7, &[(OWN, 0), (2, 7)]);
        for second in 2..60 {
            place.not_answered(at(second));
            assert!(place.lane_list().until > at(second + 5));
        }
        // Paused, and the registry does not answer: perhaps it did to others.
        place.not_answered(at(90));
        assert!(place.lane_list().until < at(90));
        place.not_answered(at(99));
        assert!(place.lane_list().until < at(90));
        place.not_answered(at(100));
        assert!(
            place.lane_list().until > at(100),
            "it is away for longer than a lease"
        );
        place.renewed(at(101));
        assert_eq!(place.lane_list().until, at(101) + LEASE);
    }

    #[test]
    fn a_registry_that_nobody_shares_is_believed_for_ever() {
        let mut place = Place::new(BootId(OWN), LANES, None);
        place.joined(1, at(1), INCARNATION);
        place.looked(at(1), list(1, &[(OWN, 0)]), INCARNATION);
        assert_eq!(place.lane_list(), LaneList::alone(1, LANES));
    }
}
