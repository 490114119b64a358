//! home: the one router that a shard tells and asks everything but frames of conversations.
//!
//! Claims and their end, syncs, presence and the memory bus are the home's. Rendezvous hashing over the routers that are
//! linked chooses it, so that shards spread over routers. While sessions are here a home that works stays it, whatever
//! else is linked: a move costs a claim per session. It moves when its link is lost, when the list does not name its router
//! any more, or when its router says nothing for the time of a lease although another one speaks; then all sessions claim
//! again (`session.rs`), and whatever of the old one was not answered is asked of the new one. When all fell silent at the
//! same time none of them is to blame, and the home stays: who was asked last does not speak for that.
//!
//! Owns nothing: who is home stands in `links.rs`.

use std::time::Duration;

use corelane_protocol::hash::home_of;
use corelane_protocol::limits::RENEWALS_PER_LEASE;
use corelane_protocol::link::record::{Record, RecordKind};

use crate::link::Link;
use crate::links::LinkIndex;
use crate::planted::Bug;
use crate::shard::Shard;

const _: () = assert!(
    RENEWALS_PER_LEASE > 2,
    "of two routers that fell silent together the one asked later is known to be silent before the other one is left"
);

impl Shard {
    /// Sees to it that there is a home if there can be one.
    pub(crate) fn settle_home(&mut self) {
        let present = self.links.home.filter(|at| self.links.is_established(*at));
        let keeps = present.filter(|at| self.is_good_home(*at, self.config.lease));
        if keeps.is_some() && self.conns.sessions() > 0 {
            return;
        }
        let any = || self.links.position(|_, link| link.is_established());
        let home = self.best_home().or(present).or_else(any);
        if home == self.links.home {
            return;
        }
        self.links.home = home;
        if let Some(at) = home {
            self.moved_home(at);
        }
    }

    /// Whether a router can be the home: it is linked, belongs to the cluster, and was not asked in vain for `time`.
    fn is_good_home(&self, at: LinkIndex, time: Duration) -> bool {
        let speaks = |link: &Link| link.is_established() && !link.is_silent(time, self.now.mono);
        let routers = &self.links.routers;
        (routers.is_empty() || routers.is_listed(at)) && self.links.get(at).is_some_and(speaks)
    }

    fn best_home(&self) -> Option<LinkIndex> {
        // Routers are asked within a third of a lease of each other: who is silent since the same moment is not among them.
        let time = self.config.lease / 2;
        let good: Vec<LinkIndex> = self
            .links
            .indexes()
            .filter(|at| self.is_good_home(*at, time))
            .collect();
        let router = |at: &LinkIndex| self.links.get(*at).and_then(Link::router);
        let nodes = good
            .iter()
            .map(|at| router(at).map_or("", |router| router.node.as_str()));
        good.get(home_of(&self.config.node, self.number, nodes)?).copied()
    }

    /// Another link is home: everything that the old one was asked is asked again.
    fn moved_home(&mut self, at: LinkIndex) {
        let now = self.now.mono;
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        link.renew_at = now;
        let router = link.router().cloned();
        let before = self.links.home_router.take();
        let (is_other_boot, has_forgotten) = match (&before, &router) {
            // Routers share their registry, so another number is another registry, whoever says it.
            (Some(before), Some(router)) => (
                before.boot != router.boot,
                before.registry_incarnation != router.registry_incarnation,
            ),
            _ => (false, false),
        };
        self.links.home_router = router;
        self.links.push_home(&Record {
            kind: RecordKind::ClaimsBegin as u8,
            ..Record::default()
        });
        if !(is_other_boot && Bug::HomeMovedUnclaimed.is_planted()) {
            self.claim_all(has_forgotten);
        }
        self.fetch_all(is_other_boot);
    }
}
