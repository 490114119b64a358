//! Sessions: routes are claimed and given up in the order of a link's records, and those who must go are told.
//!
//! A kick goes over the link that the router has to the shard, or waits for one, and is said again on the next: the one it
//! went over may have been dead. With the router it is lost. Where routers share their registry each shard names all its
//! sessions within a minute, and those without a route are told to go: that is how a lost kick is made good, and nothing but
//! that may be found so.

use std::collections::BTreeSet;

use corelane_protocol::frame;
use corelane_protocol::id::{ConnId, UserId};
use corelane_protocol::link::body::{ArchivedClaim, ArchivedOwned, ArchivedUnclaim, Claimed, Kick};
use corelane_protocol::link::record::RecordKind;

use crate::lease::LEASE_US;
use crate::link::Taken;
use crate::planted::Bug;
use crate::registry::Session;
use crate::world::{Event, World};

/// Replaced by a newer login.
const REPLACED: u16 = 4501;
/// The registry does not know the boot.
const POSITION_LOST: u16 = 4003;
/// The registry is away: come again.
const OVERLOADED: u16 = 4007;
/// A shard claims again within this time of a claim that was not answered: after a second, which is not scaled.
const CLAIMS_SETTLE_US: u64 = 2_500_000;

/// Boot, connection and claim of a session.
pub(crate) type Claimant = (u64, u64, u64);

/// A kick that is said again on the next link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) boot: u64,
    conn: u64,
    owner_seq: u64,
    code: u16,
}

impl Kept {
    const fn new(session: &Session, code: u16) -> Self {
        Self {
            boot: session.boot,
            conn: session.conn,
            owner_seq: session.owner_seq,
            code,
        }
    }

    pub(crate) const fn claimant(&self) -> Claimant {
        (self.boot, self.conn, self.owner_seq)
    }
}

impl World {
    pub(crate) fn session(&mut self, at: usize, boot: u64, record: &Taken) {
        let delay = self.delay() * 3;
        let link = &mut self.links[at];
        link.session_at = (self.now + delay).max(link.session_at + 1);
        let when = link.session_at;
        match record.kind {
            RecordKind::ClaimsBegin => return self.at_time(when, Event::ClaimsBegin(at)),
            RecordKind::ClaimsDone => return self.at_time(when, Event::ClaimsDone(at, record.stamp)),
            RecordKind::Leave => return self.at_time(when, Event::Leave(at)),
            _ => {}
        }
        let user = UserId::new(&record.user).expect("a user");
        let mut session = Session {
            boot,
            conn: record.conn,
            terminal: record.terminal,
            device: record.device.clone(),
            owner_seq: 0,
            issued_at_s: 0,
            again: false,
        };
        match record.kind {
            RecordKind::Claim => {
                let body = frame::access::<ArchivedClaim>(&record.body).expect("a claim");
                session.owner_seq = body.owner_seq.to_native();
                session.issued_at_s = body.issued_at_s.to_native();
                session.again = body.again;
                self.at_time(when, Event::Claim(at, user, session));
            }
            RecordKind::Owned => {
                let body = frame::access::<ArchivedOwned>(&record.body).expect("a session");
                session.owner_seq = body.owner_seq.to_native();
                self.at_time(when, Event::Owned(at, user, session));
            }
            _ => {
                let body = frame::access::<ArchivedUnclaim>(&record.body).expect("an unclaim");
                session.owner_seq = body.owner_seq.to_native();
                self.at_time(when, Event::Unclaim(at, user, session));
            }
        }
    }

    /// A link that is lost meanwhile does not stop what its records asked for; the end of the router does.
    pub(crate) fn claim(&mut self, at: usize, user: &UserId, session: Session) {
        let Some(router) = self.router_at(at) else { return };
        let (boot, conn, owner_seq) = (session.boot, session.conn, session.owner_seq);
        let (refused_code, kicks) = if self.asks(router) {
            let claimed = session.clone();
            let was_held = self
                .registry
                .routes(user)
                .iter()
                .any(|held| held.is_route(&session));
            match self.registry.claim(user, session) {
                Ok(kicks) => {
                    if !was_held {
                        self.note_owed(user, &claimed);
                    }
                    (0, kicks)
                }
                Err(code) => {
                    self.refused.insert((boot, conn, owner_seq));
                    (code, Vec::new())
                }
            }
        } else {
            self.links[at].compare_from = self.now + CLAIMS_SETTLE_US;
            (OVERLOADED, Vec::new())
        };
        if refused_code == POSITION_LOST {
            // The registry does not know the boot, or not any more: nothing follows for its sessions.
            self.links[at].claimed = None;
        }
        // Who is live stays so while the registry is away, and claims again.
        if let Some(claimed) = &mut self.links[at].claimed
            && (refused_code == 0 || refused_code == OVERLOADED)
        {
            claimed.insert((conn, owner_seq));
        }
        for kick in kicks {
            self.counts.kicks += 1;
            self.kick(router, Kept::new(&kick, REPLACED));
        }
        let body = frame::archive(&Claimed {
            owner_seq,
            refused_code,
        });
        self.push(at, RecordKind::Claimed, 0, conn, 0, &body);
    }

    /// What is in the log when a route is claimed for the first time is what the sync after it must tell of. (A claim
    /// that was made again may come when the session is welcome already.)
    fn note_owed(&mut self, user: &UserId, session: &Session) {
        if session.again {
            return;
        }
        if let Some(socket) = self.socket_at(session.boot, ConnId(session.conn)) {
            self.sockets[socket].owed = self.store.places(user);
        }
    }

    fn kick(&mut self, router: usize, kick: Kept) {
        if !Bug::KickNotKept.is_planted() {
            self.routers[router].kicks.push(kick);
        }
        let life = self.routers[router].life;
        if let Some(link) = self.link_to(life, kick.boot, ConnId(kick.conn).shard()) {
            self.say_kick(link, kick);
        }
    }

    /// A session says that it holds its route: whoever does not must go.
    pub(crate) fn compare(&mut self, at: usize, user: &UserId, session: &Session) {
        let Some(router) = self.router_at(at) else { return };
        if self.now < self.links[at].compare_from || !self.asks(router) {
            return;
        }
        let held = self.registry.routes(user);
        if held.iter().any(|held| held.is_route(session)) {
            return;
        }
        let code = if held.iter().any(|held| held.conflicts(session)) {
            REPLACED
        } else {
            POSITION_LOST
        };
        // No route of a boot that is dead is found, and none at all in a registry that forgot: then all claim again anyway.
        let lives = self.registry.renew(session.boot, self.now + LEASE_US);
        if !lives || self.registry.incarnation != self.links[at].incarnation {
            return;
        }
        let kick = Kept::new(session, code);
        if !self.is_explained(kick.claimant()) {
            // It may be over by now. If its client hears of this kick, it was not.
            self.unexplained
                .extend(self.socket_at(session.boot, ConnId(session.conn)));
        }
        self.counts.unrouted += 1;
        self.kick(router, kick);
    }

    /// Whether a session that has no route is to be told so anyway. A router keeps a kick of it, or was lost with one; or
    /// its claim was refused, and the answer is on its way.
    fn is_explained(&self, session: Claimant) -> bool {
        let kept = self.routers.iter().flat_map(|router| &router.kicks);
        let mut kicks = kept.chain(&self.lost_kicks);
        kicks.any(|kick| kick.claimant() == session) || self.refused.contains(&session)
    }

    /// A terminal is told to go.
    pub(crate) fn told_to_go(&mut self, terminal: usize, socket: usize, code: u16) {
        if matches!(code, REPLACED | POSITION_LOST) && self.unexplained.contains(&socket) {
            self.violation(format!(
                "terminal {terminal} had no route, and only the pass over all routes found it ({code})"
            ));
        }
    }

    fn say_kick(&mut self, link: usize, kick: Kept) {
        let body = frame::archive(&Kick {
            code: kick.code,
            owner_seq: kick.owner_seq,
        });
        self.push(link, RecordKind::Kick, 0, kick.conn, 0, &body);
    }

    /// A new link of a shard gets its kicks.
    pub(crate) fn send_kicks(&mut self, router: usize, link: usize, boot: u64, shard: u16) {
        let kept = self.routers[router].kicks.iter();
        let is_meant = |kick: &&Kept| kick.boot == boot && ConnId(kick.conn).shard() == shard;
        let kicks: Vec<Kept> = kept.filter(is_meant).copied().collect();
        for kick in kicks {
            self.say_kick(link, kick);
        }
    }

    pub(crate) fn unclaim(&mut self, at: usize, user: UserId, session: &Session) {
        let Some(router) = self.router_at(at) else { return };
        if let Some(claimed) = &mut self.links[at].claimed {
            claimed.remove(&(session.conn, session.owner_seq));
        }
        if self.asks(router) {
            self.registry.unclaim(&user, session);
        }
        let left = &mut self.routers[router].left_conns;
        left.insert((session.boot, session.conn), user);
    }

    /// What follows was claimed at another router before, or is claimed again.
    pub(crate) fn claims_begin(&mut self, at: usize) {
        self.links[at].claimed = Some(BTreeSet::new());
    }

    /// Routes up to a claim that were not claimed on this link are of sessions that ended without a word.
    pub(crate) fn claims_done(&mut self, at: usize, up_to: u64) {
        let claimed = self.links[at].claimed.take();
        let (Some(claimed), Some(router)) = (claimed, self.router_at(at)) else {
            return;
        };
        let Some(peer) = self.links[at].peer.as_ref() else {
            return;
        };
        let (boot, shard) = (peer.boot, peer.shard);
        let up_to = if Bug::OtherHomeDropped.is_planted() {
            u64::MAX
        } else {
            up_to
        };
        if !self.asks(router) {
            return;
        }
        for (user, conn) in self.registry.keep_only(boot, shard, up_to, &claimed) {
            self.routers[router].left_conns.insert((boot, conn), user);
        }
    }
}
