//! Which sessions of one user exclude each other: the login policy, and the only place that knows it.
//!
//! One session per (terminal class, device); of phones, tablets and desktops one per class; of browsers and bots one
//! per device. The newer login wins. Adapters keep the sessions, ask [`judge`], and carry out what it says.

use corelane_protocol::terminal::Terminal;

use super::Route;

/// Most sessions of one user at a time; one more login is refused with 4505.
pub const SESSIONS_PER_USER_MAX: usize = 32;

/// Close codes of refusals.
pub(super) mod code {
    /// The boot is dead.
    pub(in super::super) const POSITION_LOST: u16 = 4003;
    /// A newer login has the place.
    pub(in super::super) const REPLACED: u16 = 4501;
    /// The user has all the sessions he may have.
    pub(in super::super) const TOO_MANY: u16 = 4505;
}

/// A session, with what decides between it and another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) route: Route,
    pub(super) issued_at_s: u64,
    pub(super) again: bool,
}

/// What becomes of a session that is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is held already: a repeated claim.
    Held,
    /// Close it with this code.
    Refused(u16),
    /// It may be held once these are not any more.
    Granted(Vec<Session>),
}

/// Whether two sessions of one user cannot both be online.
pub fn conflicts(one: &Route, other: &Route) -> bool {
    one.terminal == other.terminal
        && match one.terminal {
            Terminal::Web | Terminal::Bot => one.device == other.device,
            Terminal::Ios | Terminal::Android | Terminal::Desktop | Terminal::Pad => true,
        }
}

/// Judges a claim against the sessions that its user holds (those of dead boots left out).
pub(super) fn judge(sessions: &[Session], wanted: &Session) -> Verdict {
    if sessions.iter().any(|held| held.route == wanted.route) {
        return Verdict::Held;
    }
    let give_way = sessions
        .iter()
        .filter(|held| in_the_way(&held.route, &wanted.route));
    let give_way: Vec<Session> = give_way.cloned().collect();
    if give_way.iter().any(|held| outranks(held, wanted)) {
        Verdict::Refused(code::REPLACED)
    } else if sessions.len() - give_way.len() >= SESSIONS_PER_USER_MAX {
        Verdict::Refused(code::TOO_MANY)
    } else {
        Verdict::Granted(give_way)
    }
}

/// Who of those that gave way must be told to close: not the connection itself, when it claims anew.
pub(super) fn kicks(gave_way: Vec<Session>, held: &Route) -> Vec<Route> {
    let routes = gave_way.into_iter().map(|session| session.route);
    routes
        .filter(|kick| kick.boot != held.boot || kick.conn != held.conn)
        .collect()
}

/// Whether a held route must go before the other can be held: by policy, or because it is the same connection.
fn in_the_way(held: &Route, wanted: &Route) -> bool {
    conflicts(held, wanted) || (held.boot == wanted.boot && held.conn == wanted.conn)
}

/// Whether a held session stays against a claim that conflicts with it.
fn outranks(held: &Session, claim: &Session) -> bool {
    if held.route.boot == claim.route.boot {
        // Claims of one boot are counted: a smaller number is a late one.
        return held.route.owner_seq > claim.route.owner_seq;
    }
    // A claim that is made again says nothing of when its session logged in. One made in the regular way logged
    // in after the registry lost its memory, so later; of two made again the newer token wins.
    claim.again && (!held.again || held.issued_at_s >= claim.issued_at_s)
}
