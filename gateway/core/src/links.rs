//! All links of a shard, one to every router that it knows.
//!
//! Owns at most [`LINKS_MAX`] of them, the list of routers (`routers.rs`), the choice of the home (`home.rs`) and what is
//! known of the lease. A link keeps its place while it lives, so that a place names it in windows and queues. When all
//! places are taken, a router that comes to be known waits until a link that leaves has left.
//!
//! A frame of a conversation goes to the router of its lane, whatever else is asked or told to the home. What stands on a
//! link, unanswered or waiting, is answered `retry` when it is lost; what is on the others goes on.

use std::time::Duration;

use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ConvId, Lane};
use corelane_protocol::limits::ROUTERS_MAX;
use corelane_protocol::link::codec::{LinkError, PeerInfo};
use corelane_protocol::link::record::Record;

use crate::event::LinkId;
use crate::lease::Lease;
use crate::link::Link;
use crate::routers::Routers;

/// Most links of a shard: to all routers of a list, and to as many that are not in it, or not any more.
pub(crate) const LINKS_MAX: usize = 2 * ROUTERS_MAX;

const _: () = assert!(LINKS_MAX < 1 << u8::BITS, "a place fits its number");

/// The place of a link among those of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkIndex(u8);

impl LinkIndex {
    #[cfg(test)]
    pub(crate) const fn new(place: u8) -> Self {
        Self(place)
    }

    pub(crate) fn get(self) -> usize {
        usize::from(self.0)
    }

    /// Its bit in a set of links.
    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// The links of a shard.
#[derive(Debug)]
pub(crate) struct Links {
    places: Vec<Option<Link>>,
    pub(crate) routers: Routers,
    /// The established link that everything but frames of conversations goes to.
    pub(crate) home: Option<LinkIndex>,
    /// What the router of the home says of itself; while there is none, that of the last one.
    pub(crate) home_router: Option<PeerInfo>,
    pub(crate) lease: Lease,
    seeds: Vec<String>,
    last_id: u32,
    /// The cluster that routers must belong to; 0 until one has said.
    pub(crate) cluster_id: u64,
    /// Lanes of the store, as all routers say that are linked; 0 until one was.
    lanes: u16,
    /// Why a router could not be talked to, the last time.
    pub(crate) error: Option<LinkError>,
}

impl Links {
    pub(crate) fn new(seeds: &[String], cluster_id: u64, now: Duration) -> Self {
        let mut links = Self {
            places: Vec::new(),
            routers: Routers::default(),
            home: None,
            home_router: None,
            lease: Lease::default(),
            seeds: seeds.iter().take(ROUTERS_MAX).cloned().collect(),
            last_id: 0,
            cluster_id,
            lanes: 0,
            error: None,
        };
        links.add_seeds(now);
        links
    }

    pub(crate) fn get(&self, at: LinkIndex) -> Option<&Link> {
        self.places.get(at.get())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: LinkIndex) -> Option<&mut Link> {
        self.places.get_mut(at.get())?.as_mut()
    }

    /// All places, those without a link included.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = LinkIndex> + use<> {
        (0..self.places.len() as u8).map(LinkIndex)
    }

    fn iter(&self) -> impl Iterator<Item = &Link> {
        self.places.iter().flatten()
    }

    /// The first link that `matches`.
    pub(crate) fn position(&self, matches: impl Fn(LinkIndex, &Link) -> bool) -> Option<LinkIndex> {
        let is_it = |at: &LinkIndex| self.get(*at).is_some_and(|link| matches(*at, link));
        self.indexes().find(is_it)
    }

    pub(crate) fn find(&self, id: LinkId) -> Option<LinkIndex> {
        self.position(|_, link| link.id == id)
    }

    /// The established link to a boot of a router.
    pub(crate) fn to_boot(&self, boot: u64) -> Option<LinkIndex> {
        self.position(|_, link| link.boot() == Some(boot))
    }

    pub(crate) fn is_established(&self, at: LinkIndex) -> bool {
        self.get(at).is_some_and(Link::is_established)
    }

    /// How many are established.
    pub(crate) fn established(&self) -> usize {
        self.iter().filter(|link| link.is_established()).count()
    }

    /// Whether no router can be reached: every link was tried in vain since the last was lost.
    pub(crate) fn are_all_lost(&self) -> bool {
        self.iter()
            .all(|link| !link.is_established() && link.has_failed())
    }

    /// Gives a link a place; `None` if there is none left.
    pub(crate) fn add(&mut self, link: Link) -> Option<LinkIndex> {
        let free = self.places.iter().position(Option::is_none);
        let place = free.unwrap_or(self.places.len());
        if place >= LINKS_MAX {
            return None;
        }
        if place == self.places.len() {
            self.places.push(None);
        }
        *self.places.get_mut(place)? = Some(link);
        Some(LinkIndex(place as u8))
    }

    /// Frees the place of a link that is lost.
    pub(crate) fn free(&mut self, at: LinkIndex) {
        self.routers.unassign(at);
        if let Some(place) = self.places.get_mut(at.get()) {
            *place = None;
        }
    }

    /// Links to the seeds, if they are not there.
    pub(crate) fn add_seeds(&mut self, now: Duration) {
        for seed in self.seeds.clone() {
            if !self.iter().any(|link| link.leads_to(&seed)) {
                self.add(Link::new(seed, now));
            }
        }
    }

    /// Whether one of the seeds leads where the link does.
    pub(crate) fn is_seed(&self, link: &Link) -> bool {
        self.seeds.iter().any(|seed| link.leads_to(seed))
    }

    /// The lane of a conversation; `None` before a router was linked.
    pub(crate) fn lane_of(&self, app: AppId, conv: &ConvId) -> Option<Lane> {
        (self.lanes > 0).then(|| lane_of(app, conv, self.lanes))
    }

    /// Has all lanes shared out among the routers of the list.
    pub(crate) fn share_lanes(&mut self) {
        self.routers.share_lanes(self.lanes);
    }

    /// The established link to the router of a lane. Without a list the home serves all of them.
    pub(crate) fn owner_of(&self, lane: Lane) -> Option<LinkIndex> {
        let owner = if self.routers.is_empty() {
            self.home
        } else {
            self.routers.owner_of(lane)
        };
        owner.filter(|at| self.is_established(*at))
    }

    /// Epoch of the log, as last heard.
    pub(crate) fn epoch(&self) -> u64 {
        self.home_router.as_ref().map_or(0, |router| router.epoch)
    }

    /// Partitions of this gateway's topic.
    pub(crate) fn partitions(&self) -> u16 {
        self.home_router.as_ref().map_or(0, |router| router.partitions)
    }

    /// Whether everything has left for the home, if there is one.
    pub(crate) fn is_home_quiet(&self) -> bool {
        let home = self.home.and_then(|home| self.get(home));
        home.is_none_or(Link::is_quiet)
    }

    /// Queues a control record for the home, if there is one.
    pub(crate) fn push_home(&mut self, record: &Record<'_>) {
        if let Some(home) = self.home {
            self.push(home, record);
        }
    }

    /// Queues a control record for one router.
    pub(crate) fn push(&mut self, at: LinkIndex, record: &Record<'_>) {
        if let Some(link) = self.get_mut(at) {
            link.push(record);
        }
    }

    /// Queues a control record for all routers that are linked.
    pub(crate) fn push_all(&mut self, record: &Record<'_>) {
        for link in self.places.iter_mut().flatten() {
            link.push(record);
        }
    }

    /// Whether a frame of `bytes` may be written: there is credit for it, and the lease stands.
    pub(crate) fn has_room_for(&self, at: LinkIndex, bytes: usize, now: Duration) -> bool {
        self.get(at).is_some_and(|link| link.has_room_for(bytes)) && self.lease.stands(now)
    }

    /// Writes a record that needs credit.
    pub(crate) fn write(&mut self, at: LinkIndex, record: &Record<'_>) -> bool {
        self.get_mut(at).is_some_and(|link| link.write(record))
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let may_connect = !self.lease.is_lost();
        self.iter()
            .filter_map(|link| link.next_deadline(may_connect))
            .min()
    }

    pub(crate) const fn next_id(&mut self) -> LinkId {
        self.last_id = self.last_id.wrapping_add(1);
        LinkId(self.last_id)
    }

    /// What is wrong with a router that proved who it is.
    pub(crate) fn fault_of(&self, router: &PeerInfo) -> Option<LinkError> {
        let (theirs, ours) = (router.cluster_id, self.cluster_id);
        if theirs != 0 && ours != 0 && theirs != ours {
            return Some(LinkError::Cluster { theirs, ours });
        }
        let (theirs, ours) = (router.lanes, self.lanes);
        (theirs != ours && self.established() > 0).then_some(LinkError::Lanes { theirs, ours })
    }

    /// Learns from one router what all have in common.
    pub(crate) fn learn(&mut self, router: &PeerInfo) {
        if self.cluster_id == 0 {
            self.cluster_id = router.cluster_id;
        }
        if self.lanes != router.lanes {
            self.lanes = router.lanes;
            self.share_lanes();
        }
    }
}
