//! session: a logged-in user on a terminal, and his route.
//!
//! A session is claimed at a router before `Welcome` is sent, so that whatever is stored from then on is either
//! delivered to it or found by its sync. The login policy lives in the registry: a refused claim or a kick names
//! the code to close with. When the registry forgot everything (its incarnation changed, or the boot was declared dead:
//! `lease.rs`) all sessions claim again, a bounded number per turn, and each is told to sync once its claim is answered.
//! On every other new home (`home.rs`) they ask whether their routes are still held, because a kick may have been lost with
//! the old one; and when all have asked the router is told, so that it drops the routes of those that ended in between.
//! Where routers share a registry, the home compares all routes once per [`CHECK_PASS`], a part of them per
//! [`CHECK_PACE`]: no lost kick leaves a session that gets nothing for longer.
//!
//! Owns the walks over all connections: `Resync` goes to [`WALK_SLOTS`] slots per turn, and at most [`CLAIMS_UNANSWERED`]
//! claims are on their way, so that frames on the link never stand behind those of all sessions.

use std::time::Duration;

use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::id::ConnId;
use corelane_protocol::limits::{
    CLIENT_FRAME_BYTES_MAX, CLIENT_JSON_BYTES_MAX, PAYLOAD_BYTES_MAX, SEND_WINDOW,
};
use corelane_protocol::link::body::{ArchivedClaimed, ArchivedKick, Claim, Owned, Unclaim};
use corelane_protocol::link::codec::PeerInfo;
use corelane_protocol::link::handshake::feature;
use corelane_protocol::link::record::{Record, RecordKind};
use corelane_protocol::ws::CloseCode;

use crate::encoding;
use crate::outbound::Lane;
use crate::planted::Bug;
use crate::shard::Shard;
use crate::table::{Session, Stage, flag};

/// Slots looked at per turn while something is done to all connections.
const WALK_SLOTS: u32 = 4096;
/// Claims that may be unanswered while all sessions claim: more would only stand before their frames on the link.
const CLAIMS_UNANSWERED: u32 = 512;
/// After this time sessions claim again whose claim the registry did not hear.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// Time between two rounds of `Resync` to everybody.
const RESYNC_PACE: Duration = Duration::from_secs(1);
/// Every route is compared about once in this time.
const CHECK_PASS: Duration = Duration::from_mins(1);
/// Time between two parts of that.
const CHECK_PACE: Duration = Duration::from_secs(1);
const CHECK_PARTS: u32 = (CHECK_PASS.as_millis() / CHECK_PACE.as_millis()) as u32;

/// Things that are being done to all connections, a part of them per turn.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    /// Slots below this have claimed at the present home.
    claim: Option<u32>,
    /// Claims that the home has not answered.
    unanswered: u32,
    /// When all live sessions claim once more, because the home could not ask the registry.
    claim_at: Option<Duration>,
    /// Whether live sessions claim again, too. Stays until a walk has come to its end.
    claims_again: bool,
    /// Slots below this were told to sync.
    resync: Option<u32>,
    /// When the next round of that may begin, and whether one is wanted.
    resync_at: Duration,
    resync_wanted: bool,
    /// Slots below this were compared in the present pass, and when it goes on.
    checked: u32,
    check_at: Duration,
}

impl Walks {
    pub(crate) const fn are_pending(&self) -> bool {
        (self.claim.is_some() && self.unanswered < CLAIMS_UNANSWERED) || self.resync.is_some()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let resync_at = self.resync_wanted.then_some(self.resync_at);
        [resync_at, self.claim_at].into_iter().flatten().min()
    }
}

impl Shard {
    /// Above every one of this gateway boot so far, also of its other shards: by the clock.
    pub(crate) fn next_owner_seq(&mut self) -> u64 {
        let by_clock = self.now.wall_ms << 20 | u64::from(self.number & 0x3ff);
        self.owner_seq = by_clock.max(self.owner_seq + 0x400);
        self.owner_seq
    }

    /// Asks for the route. Without a home it is asked for as soon as there is one.
    pub(crate) fn claim(&mut self, id: ConnId, again: bool) {
        let Some(session) = self.conns.get(id).and_then(|conn| conn.session.as_ref()) else {
            return;
        };
        if self.links.home.is_none() {
            return;
        }
        let claim = Claim {
            owner_seq: session.owner_seq,
            issued_at_s: u64::from(session.issued_at_s),
            again,
        };
        let body = frame::archive(&claim);
        self.links
            .push_home(&record_of(RecordKind::Claim, id, session, &body));
        self.walks.unanswered = self.walks.unanswered.saturating_add(1);
        self.metrics.session_claims += 1;
        if Bug::SyncBeforeClaim.is_planted()
            && self
                .conns
                .get(id)
                .is_some_and(|conn| conn.stage == Stage::Claiming)
        {
            self.welcome(id);
        }
    }

    /// A router answered a claim.
    pub(crate) fn claimed(&mut self, id: ConnId, claimed: &ArchivedClaimed) {
        let refused_code = claimed.refused_code.to_native();
        self.walks.unanswered = self.walks.unanswered.saturating_sub(1);
        if refused_code == CloseCode::PositionLost as u16 {
            // It speaks of the boot, not of the session: that one claims again under the next boot.
            return self.links.lease.lose();
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let is_present = conn
            .session
            .as_ref()
            .is_some_and(|session| session.owner_seq == claimed.owner_seq.to_native());
        if !is_present {
            return;
        }
        if refused_code == CloseCode::Overloaded as u16 && conn.stage == Stage::Live {
            // The registry is away: nobody has taken the route, and whoever is live stays so.
            self.walks.claim_at.get_or_insert(self.now.mono + CLAIM_AGAIN);
            return;
        }
        if refused_code != 0 {
            self.metrics.session_kicks += 1;
            return self.close(id, refused_code, "");
        }
        match conn.stage {
            Stage::Claiming => self.welcome(id),
            Stage::Live if conn.has(flag::RECLAIMING) => {
                conn.clear(flag::RECLAIMING);
                if !Bug::ReclaimWithoutResync.is_planted() {
                    self.send_resync(id);
                }
            }
            _ => {}
        }
    }

    fn welcome(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.stage = Stage::Live;
        let reference = conn.opening.take().map_or(0, |opening| opening.reference);
        let bytes_max = if conn.has(flag::JSON) {
            CLIENT_JSON_BYTES_MAX
        } else {
            CLIENT_FRAME_BYTES_MAX
        };
        conn.decoder = encoding::decoder(bytes_max as u32);
        let welcome = body::Welcome {
            session: id.0,
            user: conn
                .session
                .as_ref()
                .map_or_else(String::new, |session| session.user().to_owned()),
            epoch: self.links.epoch(),
            window: SEND_WINDOW,
            payload_bytes_max: PAYLOAD_BYTES_MAX as u32,
            heartbeat_ms: self.config.heartbeat.as_millis() as u32,
            server_time_ms: self.now.wall_ms,
        };
        self.conns.index(id);
        self.metrics.admit_logins += 1;
        self.reply(
            id,
            Lane::Control,
            &frame::encode(FrameKind::Welcome, reference, &welcome),
        );
        // What came for the route before this moment was not sent: it is told now.
        self.tell_missed(id);
        self.arm_heartbeat(id);
        self.unblock(id);
    }

    /// A router ends a session.
    pub(crate) fn kicked(&mut self, id: ConnId, kick: &ArchivedKick) {
        let wanted = kick.owner_seq.to_native();
        let session = self.conns.get(id).and_then(|conn| conn.session.as_ref());
        let is_meant = session.is_some_and(|session| wanted == 0 || session.owner_seq == wanted);
        if is_meant && !Bug::KickIgnored.is_planted() {
            self.metrics.session_kicks += 1;
            self.close(id, kick.code.to_native(), "");
        }
    }

    /// Gives up the route, the window and everything else of a session; the connection may live on to be closed.
    pub(crate) fn end_session(&mut self, id: ConnId) {
        self.close_window(id);
        self.conns.unindex(id);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        self.metrics.demoted -= u64::from(conn.clear(flag::DEMOTED));
        let Some(session) = conn.session.take() else {
            return;
        };
        let unclaim = Unclaim {
            owner_seq: session.owner_seq,
        };
        let body = frame::archive(&unclaim);
        self.links
            .push_home(&record_of(RecordKind::Unclaim, id, &session, &body));
        // Any of them may have closed a gate of it.
        self.links
            .push_all(&record_of(RecordKind::ConnClosed, id, &session, &[]));
    }

    /// There is a home: claims that wait are made; after the registry forgot everything, all are made again.
    pub(crate) fn claim_all(&mut self, again: bool) {
        self.walks.claims_again |= again;
        self.walks.claim = Some(0);
        self.walks.claim_at = None;
        self.walks.unanswered = 0;
    }

    /// All connections may have missed something. Rounds begin [`RESYNC_PACE`] apart, so that a gateway that keeps
    /// losing records does not make all its clients sync all the time.
    pub(crate) fn resync_all(&mut self) {
        self.walks.resync_wanted = true;
    }

    /// Goes on with what is being done to all connections.
    pub(crate) fn walk(&mut self) {
        let slots = self.conns.slots();
        if self.walks.claim.is_none() && self.walks.claim_at.is_some_and(|at| at <= self.now.mono) {
            self.walks.claim_at = None;
            self.walks.claim = Some(0);
        }
        let may_claim = self.links.home.is_some() && self.walks.unanswered < CLAIMS_UNANSWERED;
        if let Some(from) = self.walks.claim.filter(|_| may_claim) {
            let until = from.saturating_add(CLAIMS_UNANSWERED - self.walks.unanswered);
            for id in (from..until.min(slots))
                .filter_map(|slot| self.conns.id_at(slot))
                .collect::<Vec<_>>()
            {
                self.claim_in_walk(id);
            }
            self.walks.claim = (until < slots).then_some(until);
            if self.walks.claim.is_none() {
                self.walks.claims_again = false;
                self.claims_done();
            }
        }
        if self.walks.resync_wanted && self.walks.resync.is_none() && self.walks.resync_at <= self.now.mono {
            self.walks.resync_wanted = false;
            self.walks.resync_at = self.now.mono + RESYNC_PACE;
            self.walks.resync = Some(0);
        }
        if let Some(from) = self.walks.resync {
            let until = from.saturating_add(WALK_SLOTS);
            for id in (from..until.min(slots))
                .filter_map(|slot| self.conns.id_at(slot))
                .collect::<Vec<_>>()
            {
                self.send_resync(id);
            }
            self.walks.resync = (until < slots).then_some(until);
        }
        if self.links.home.is_none() {
            // It begins anew with the next home.
            self.walks.claim = None;
        }
        self.check_routes();
    }

    /// Whoever has a session here has claimed at this home.
    fn claims_done(&mut self) {
        if !Bug::StaleRouteKept.is_planted() {
            self.links.push_home(&Record {
                kind: RecordKind::ClaimsDone as u8,
                // Sessions above it came later; by the time this is carried out they may be another router's.
                stamp: self.owner_seq,
                ..Record::default()
            });
        }
    }

    fn claim_in_walk(&mut self, id: ConnId) {
        let again = self.walks.claims_again;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match conn.stage {
            Stage::Claiming => self.claim(id, false),
            // Every new home is asked whether the route is still held: a kick may have been lost with the old one. Who
            // has to find out what he missed, too, is told to sync by the answer.
            Stage::Live if Bug::RouteNotClaimedAgain.is_planted() => {}
            Stage::Live => {
                if again {
                    conn.set(flag::RECLAIMING);
                }
                self.claim(id, true);
            }
            _ => {}
        }
    }

    /// When the next part of the routes is to be compared.
    pub(crate) fn next_check(&self) -> Option<Duration> {
        self.may_check().then_some(self.walks.check_at)
    }

    /// Whether the home compares routes, and none is being claimed at it anew, or is to be.
    fn may_check(&self) -> bool {
        let compares = |router: &PeerInfo| router.features & feature::OWNED != 0;
        self.links.home.is_some()
            && self.links.home_router.as_ref().is_some_and(compares)
            && self.walks.claim.is_none()
            && self.walks.claim_at.is_none()
            && self.conns.sessions() > 0
            && !Bug::RoutesNotCompared.is_planted()
    }

    fn check_routes(&mut self) {
        if !self.may_check() || self.walks.check_at > self.now.mono {
            return;
        }
        self.walks.check_at = self.now.mono + CHECK_PACE;
        let slots = self.conns.slots();
        let from = if self.walks.checked < slots {
            self.walks.checked
        } else {
            0
        };
        let until = from.saturating_add(slots.div_ceil(CHECK_PARTS)).min(slots);
        self.walks.checked = until;
        for id in (from..until).filter_map(|slot| self.conns.id_at(slot)) {
            let conn = self.conns.get(id).filter(|conn| conn.stage == Stage::Live);
            let Some(session) = conn.and_then(|conn| conn.session.as_ref()) else {
                continue;
            };
            let owned = Owned {
                owner_seq: session.owner_seq,
            };
            let body = frame::archive(&owned);
            self.links
                .push_home(&record_of(RecordKind::Owned, id, session, &body));
            self.metrics.session_checks += 1;
        }
    }

    fn send_resync(&mut self, id: ConnId) {
        let stage = self.conns.get(id).map(|conn| conn.stage);
        if stage == Some(Stage::Live) {
            let resync = body::Resync {
                spread_ms: self.config.resync_spread.as_millis() as u32,
            };
            self.metrics.deliver_resyncs += 1;
            self.reply(id, Lane::Control, &frame::encode(FrameKind::Resync, 0, &resync));
        }
    }
}

/// A record about a session.
pub(crate) fn record_of<'a>(
    kind: RecordKind,
    id: ConnId,
    session: &'a Session,
    body: &'a [u8],
) -> Record<'a> {
    Record {
        kind: kind as u8,
        app: session.app,
        user: session.user(),
        terminal: session.terminal,
        device: session.device(),
        conn: id.0,
        body,
        ..Record::default()
    }
}
