//! Bugs that the simulation must find: `tests/sim/tests/planted.rs` plants each in turn.
//!
//! Without the feature `planted`, which nothing but that test turns on, [`Bug::is_planted`] is a constant `false`, so the
//! shipped code is what stands around it. A bug is named here and asked about at its place; naming one that no code
//! asks about is a warning, asking about one that is not named does not compile.

macro_rules! bugs {
    ($($(#[$what:meta])+ $bug:ident,)+) => {
        /// A bug, named for what goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$what])+ $bug,)+
        }

        /// All bugs that can be planted here.
        #[cfg(feature = "planted")]
        pub const PLANTABLE: &[&str] = &[$(stringify!($bug)),+];

        #[cfg(feature = "planted")]
        const BUGS: &[Bug] = &[$(Bug::$bug),+];
    };
}

bugs! {
    /// A boot that was declared dead is kept.
    DeadBootKept,
    /// A client is not told what was dropped.
    DropWithoutPullRequired,
    /// A record that comes before an earlier one ends the wait for that.
    GapIgnored,
    /// A closed gate lets sends pass.
    GatewayGateOpen,
    /// What is for an earlier user of a slot reaches the present one.
    GenerationIgnored,
    /// Records are reported consumed that other shards never get.
    HandOverForgotten,
    /// The sessions do not claim at a home that is another router than before.
    HomeMovedUnclaimed,
    /// A session that a newer login replaced stays.
    KickIgnored,
    /// A send that was answered `retry` is acknowledged after all.
    LateAckPassed,
    /// What the topic dropped is not told.
    LossIgnored,
    /// What the topic dropped is waited for.
    LossWaitedFor,
    /// What is unanswered when a link is lost is forgotten.
    LostNotAnswered,
    /// The gate of a conversation whose lane moved stays open.
    MovedGateOpen,
    /// A record that was taken before is delivered again.
    NumberNotChecked,
    /// Numbers that were taken under an earlier boot of the gateway count under the next.
    NumbersOutliveBoot,
    /// The offsets of an earlier router life are used in the next.
    OffsetsKept,
    /// What found no room in the inbox is not told.
    OverflowIgnored,
    /// What was consumed is reported to the home, whoever numbered it.
    ReportToHome,
    /// Numbers of one router are taken for those of another.
    RoutersNotToldApart,
    /// Routes are not compared with the registry.
    RoutesNotCompared,
    /// A session that was claimed again is not told to sync.
    ReclaimWithoutResync,
    /// A new link does not ask whether routes are still held.
    RouteNotClaimedAgain,
    /// The router is not told that all routes were claimed: those of sessions that ended meanwhile stay.
    StaleRouteKept,
    /// A session is welcome before its route is claimed.
    SyncBeforeClaim,
}

#[cfg(not(feature = "planted"))]
impl Bug {
    /// Whether the code is to have this bug: never.
    #[expect(clippy::unused_self, reason = "it is asked about as if it could be planted")]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }
}

#[cfg(feature = "planted")]
impl Bug {
    /// Whether the code is to have this bug on this thread.
    pub(crate) fn is_planted(self) -> bool {
        PLANTED.get() == Some(self)
    }
}

#[cfg(feature = "planted")]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants this one of [`PLANTABLE`] on this thread, in the place of any other; any other name plants none.
#[cfg(feature = "planted")]
pub fn plant(name: &str) {
    let at = PLANTABLE.iter().position(|known| *known == name);
    PLANTED.set(at.and_then(|at| BUGS.get(at).copied()));
}
