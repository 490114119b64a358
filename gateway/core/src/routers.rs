//! The routers of the cluster, as one of them last told: which link leads to whom, and who serves which lane.
//!
//! Owns the list, of at most [`ROUTERS_MAX`] routers; one that names more, or one of them twice, is not taken. A list of a
//! higher version replaces it: routers that are new in it are linked, and a link whose router is in it no more is left
//! once nothing on it is unanswered and nothing was reported on it for [`REPORTS_AWAITED`], or when it is lost.
//!
//! Seeds are linked while there is no list, and again while none of its routers can be reached. Then any list is taken,
//! whatever its version; and when a router is reached that the list does not name, the list is of another time and
//! forgotten. So a cluster whose list began anew, or none of whose routers is where it was, is found again.
//!
//! Two links never lead to one boot of a router: who the other end claims to be is known before this end has proved
//! anything, so a router that has a link of this shard sees no second one.

use std::time::Duration;

use corelane_protocol::hash::router_of;
use corelane_protocol::id::{Lane, NodeId};
use corelane_protocol::limits::ROUTERS_MAX;
use corelane_protocol::link::body::ArchivedRouterList;
use corelane_protocol::link::codec::LinkError;

use crate::link::Link;
use crate::links::{LINKS_MAX, LinkIndex};
use crate::shard::Shard;

/// A router that is not listed any more still waits for reports on its records: so long after the last of them.
const REPORTS_AWAITED: Duration = Duration::from_secs(5);

const _: () = assert!(ROUTERS_MAX < 1 << u8::BITS, "a place in the list fits its number");
const _: () = assert!(LINKS_MAX <= u64::BITS as usize, "every link has a bit");

/// One router of the list.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    pub(crate) node: String,
    pub(crate) boot: u64,
    /// Where it listens; empty if it does not say.
    pub(crate) address: String,
    /// The link that leads to it, established or not.
    pub(crate) link: Option<LinkIndex>,
}

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Routers {
    version: u64,
    /// Any other list is better, whatever its version.
    is_doubted: bool,
    members: Vec<Router>,
    /// By lane, the place of its router in `members`.
    owners: Vec<u8>,
    /// Links that lead to routers of the list, a bit for each: asked for every link in every turn.
    listed: u64,
}

impl Routers {
    /// A list as a router tells it; `None` if it cannot be one.
    pub(crate) fn read(list: &ArchivedRouterList) -> Option<Self> {
        if list.routers.is_empty() || list.routers.len() > ROUTERS_MAX {
            return None;
        }
        let mut read = Self {
            version: list.version.to_native(),
            ..Self::default()
        };
        for router in list.routers.iter() {
            let node = router.node.as_str();
            if NodeId::new(node).is_err() || read.named(node).is_some() {
                return None;
            }
            read.members.push(Router {
                node: node.to_owned(),
                boot: router.boot.to_native(),
                address: router.address.as_str().to_owned(),
                link: None,
            });
        }
        Some(read)
    }

    /// Whether there is no list.
    pub(crate) const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn named(&self, node: &str) -> Option<&Router> {
        self.members.iter().find(|router| router.node == node)
    }

    pub(crate) fn names_boot(&self, boot: u64) -> bool {
        self.members.iter().any(|router| router.boot == boot)
    }

    /// The router that a link leads to.
    pub(crate) fn of_link(&self, at: LinkIndex) -> Option<&Router> {
        self.members.iter().find(|router| router.link == Some(at))
    }

    /// Whether a link leads to a router of the list.
    pub(crate) const fn is_listed(&self, at: LinkIndex) -> bool {
        self.listed & at.bit() != 0
    }

    /// The link to the router of a lane, established or not.
    pub(crate) fn owner_of(&self, lane: Lane) -> Option<LinkIndex> {
        let owner = self.owners.get(usize::from(lane.0))?;
        self.members.get(usize::from(*owner))?.link
    }

    /// Computes who serves which of so many lanes.
    pub(crate) fn share_lanes(&mut self, lanes: u16) {
        let nodes = || self.members.iter().map(|router| router.node.as_str());
        let owner = |lane| router_of(Lane(lane), nodes()).map(|owner| owner as u8);
        self.owners = (0..lanes).filter_map(owner).collect();
    }

    fn assign(&mut self, node: &str, at: LinkIndex) {
        self.unassign(at);
        if let Some(router) = self.members.iter_mut().find(|router| router.node == node) {
            self.listed |= at.bit();
            if let Some(before) = router.link.replace(at) {
                self.listed &= !before.bit();
            }
        }
    }

    /// The link leads to no router of the list any more.
    pub(crate) fn unassign(&mut self, at: LinkIndex) {
        self.listed &= !at.bit();
        for router in self.members.iter_mut().filter(|router| router.link == Some(at)) {
            router.link = None;
        }
    }

    /// No router of it can be reached.
    pub(crate) const fn doubt(&mut self) {
        self.is_doubted = true;
    }
}

impl Shard {
    /// A router told who there is.
    pub(crate) fn take_list(&mut self, list: Routers) {
        let known = &self.links.routers;
        let is_newer = list.version > known.version;
        if !is_newer && !known.is_doubted {
            return;
        }
        let before = std::mem::replace(&mut self.links.routers, list);
        let mut restarted = Vec::new();
        for router in self.links.routers.members.clone() {
            let known = before.named(&router.node);
            let linked = known.and_then(|known| known.link);
            let Some(at) = linked.or_else(|| self.link_towards(&router)) else {
                continue;
            };
            self.links.routers.assign(&router.node, at);
            if let Some(link) = self.links.get_mut(at) {
                link.readdress(&router.address);
                // What it leads to is an earlier life of the router.
                let is_over =
                    known.is_some_and(|known| known.boot != router.boot && link.boot() == Some(known.boot));
                restarted.extend((is_over && is_newer).then_some(at));
            }
        }
        self.links.share_lanes();
        self.stay_for_reports();
        for at in restarted {
            self.close_link(at);
        }
        self.link_listed();
        self.settle_home();
    }

    /// A link that leads to a router, or will, and to none that was looked at before it.
    fn link_towards(&self, router: &Router) -> Option<LinkIndex> {
        let is_free = |at| !self.links.routers.is_listed(at);
        let leads_there = |at, link: &Link| {
            let peer = link.claimed().or(link.router());
            peer.is_some_and(|peer| peer.node == router.node) && is_free(at)
        };
        let may_lead_there = |at, link: &Link| {
            let has_answered = link.claimed().or(link.router()).is_some();
            !has_answered && !router.address.is_empty() && link.leads_to(&router.address) && is_free(at)
        };
        let leads = self.links.position(leads_there);
        leads.or_else(|| self.links.position(may_lead_there))
    }

    /// Makes links to the routers of the list that have none.
    fn link_listed(&mut self) {
        let now = self.now.mono;
        for router in self.links.routers.members.clone() {
            if router.link.is_none() && !router.address.is_empty() {
                let Some(at) = self.links.add(Link::new(router.address, now)) else {
                    return;
                };
                self.links.routers.assign(&router.node, at);
            }
        }
    }

    /// Looks at who the other end of a link claims to be, once per connection and before this end has proved anything.
    /// False if the link is given up.
    pub(crate) fn greet(&mut self, at: LinkIndex) -> bool {
        let Some(link) = self.links.get_mut(at) else {
            return false;
        };
        let Some(claimed) = link.claimed().filter(|_| !link.is_greeted) else {
            return true;
        };
        let (node, boot) = (claimed.node.clone(), claimed.boot);
        link.is_greeted = true;
        let first = self.links.position(|other, link| {
            let is_same = link.claimed().is_some_and(|claimed| claimed.boot == boot);
            other != at && link.is_open() && is_same
        });
        let listed = self.links.routers.of_link(at);
        let wanted = listed.map(|listed| listed.node.clone());
        let is_other = wanted.as_ref().is_some_and(|wanted| *wanted != node) && !node.is_empty();
        match (first, wanted) {
            // Its address leads to a router that has a link: maybe it leads where it should the next time.
            (Some(_), Some(_)) if is_other => self.close_link(at),
            (Some(first), Some(wanted)) => self.give_way(at, first, &wanted),
            (Some(_), None) => self.drop_double(at),
            // While nothing else is reached, whoever answers is welcome.
            (None, Some(wanted)) if is_other && self.links.home.is_some() => {
                let (theirs, ours) = (node, wanted);
                self.fail_link(at, LinkError::Node { theirs, ours });
            }
            (None, _) => return true,
        }
        false
    }

    /// A listed link leads where another one did first: that one takes its place in the list.
    fn give_way(&mut self, at: LinkIndex, first: LinkIndex, node: &str) {
        if self.links.routers.is_listed(first) {
            return self.close_link(at);
        }
        self.enlist_as(first, node);
        self.remove_link(at);
    }

    /// A seed leads where another link does.
    fn drop_double(&mut self, at: LinkIndex) {
        if !self.links.routers.is_empty() {
            return self.remove_link(at);
        }
        self.hang_up(at);
        let now = self.now.mono;
        if let Some(link) = self.links.get_mut(at) {
            link.park(now);
        }
    }

    fn enlist_as(&mut self, at: LinkIndex, node: &str) {
        self.links.routers.assign(node, at);
        let address = self
            .links
            .routers
            .named(node)
            .map(|router| router.address.clone());
        if let (Some(link), Some(address)) = (self.links.get_mut(at), address) {
            link.readdress(&address);
        }
    }

    /// A link was established with the router `node`: it gets its place in the list.
    pub(crate) fn enlist(&mut self, at: LinkIndex, node: &str, is_first: bool) {
        let other = match self.links.routers.named(node) {
            Some(router) if router.link == Some(at) => return,
            Some(router) => router.link,
            None if self.links.routers.is_empty() => return,
            None if is_first => return self.forget_list(),
            None => {
                self.links.routers.unassign(at);
                return self.link_listed();
            }
        };
        self.enlist_as(at, node);
        if let Some(other) = other {
            self.remove_link(other);
        }
        self.link_listed();
    }

    /// The list is of another time.
    fn forget_list(&mut self) {
        self.links.routers = Routers::default();
        for at in self.links.indexes() {
            let is_needed = |link: &Link| link.is_established() || self.links.is_seed(link);
            if self.links.get(at).is_some_and(|link| !is_needed(link)) {
                self.remove_link(at);
            }
        }
        self.seek();
    }

    /// Sees to it that the seeds are tried: while there is no list, and while none of its routers can be reached.
    pub(crate) fn seek(&mut self) {
        if self.links.routers.is_empty() || self.links.are_all_lost() {
            self.links.add_seeds(self.now.mono);
        }
    }

    /// Leaves the links that the list does not name, as soon as nothing stands on them and their routers wait for nothing.
    pub(crate) fn leave_unlisted(&mut self) {
        if !self
            .links
            .home
            .is_some_and(|home| self.links.routers.is_listed(home))
        {
            return;
        }
        for at in self.links.indexes() {
            if self.links.routers.is_listed(at) {
                continue;
            }
            let now = self.now.mono;
            let is_used = self.windows.unanswered_on(at) > 0;
            let may_go = |link: &Link| {
                !link.is_established() || (!is_used && link.stays_until <= now && link.is_quiet())
            };
            if self.links.get(at).is_some_and(may_go) {
                self.remove_link(at);
                self.link_listed();
            }
        }
    }

    /// Links that the list does not name stay for what is to be reported.
    fn stay_for_reports(&mut self) {
        for at in self.links.indexes() {
            if !self.links.routers.is_listed(at) {
                self.note_report(at);
            }
        }
    }

    /// Something is reported to the router of a link, or will be.
    pub(crate) fn note_report(&mut self, at: LinkIndex) {
        let until = self.now.mono + REPORTS_AWAITED;
        if let Some(link) = self.links.get_mut(at) {
            link.stays_until = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_link_is_listed_is_known_without_a_look_at_the_list() {
        let router = |node: &str| Router {
            node: node.to_owned(),
            boot: 1,
            address: String::new(),
            link: None,
        };
        let mut routers = Routers {
            members: vec![router("a"), router("b")],
            ..Routers::default()
        };
        let at = |place| LinkIndex::new(place);
        let last = LINKS_MAX as u8 - 1;
        let all = [at(0), at(1), at(2), at(last)];
        let check = |routers: &Routers, listed: &[LinkIndex]| {
            for link in all {
                assert_eq!(routers.is_listed(link), listed.contains(&link), "{link:?}");
                assert_eq!(
                    routers.of_link(link).is_some(),
                    listed.contains(&link),
                    "{link:?}"
                );
            }
        };
        routers.assign("a", at(0));
        routers.assign("b", at(last));
        check(&routers, &[at(0), at(last)]);
        routers.assign("a", at(1));
        check(&routers, &[at(1), at(last)]);
        routers.assign("b", at(1));
        check(&routers, &[at(1)]);
        routers.assign("who is not in it", at(1));
        check(&routers, &[]);
        routers.assign("a", at(2));
        routers.unassign(at(2));
        check(&routers, &[]);
    }
}
