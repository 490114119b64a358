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
    /// A send whose commit has an unknown outcome is acknowledged.
    AckBeforeCommit,
    /// What is committed while its lane is behind is published before what was let go of.
    BehindOvertaken,
    /// Who joins or leaves gets what stands on the other side of it in the same commit.
    ChangeHasNoPlace,
    /// Another message under a known id gets the first one's answer.
    ConflictAnswered,
    /// Control messages count as unread.
    ControlCounted,
    /// A sync cursor does not lag: what was on its way when the sync began stands below it.
    CursorWithoutLag,
    /// The row of an earlier send with the same id is not looked at.
    DedupeSkipped,
    /// A router that joined serves its lanes before those who had them have drained.
    DrainNotAwaited,
    /// A list is said to be drained while commits of lost lanes are still to be published.
    DrainedTooEarly,
    /// What a port failed to answer is not asked again.
    FailureIsFinal,
    /// A reported gap is not sent again.
    GapNotResent,
    /// A retryable refusal leaves its gate open.
    GateNotClosed,
    /// Records that a dead gateway did not consume are waited for.
    GoneGatewayAwaited,
    /// What arrives for a lane that is held is stored.
    HeldLaneServed,
    /// What waits in the lane behind a refused send is stored.
    LaneOvertakes,
    /// Members that are remembered are taken for the present ones.
    MembersNotReloaded,
    /// Every other number is given to no record.
    NumberSkipped,
    /// The smaller user of a direct conversation is not looked for.
    OneSideLocated,
    /// A commit is published before an earlier one of its lane.
    OrderByLookup,
    /// An outbox row is cleared before its records are published.
    OutboxClearedOnCommit,
    /// An outbox row does not wait for its records to be consumed.
    OutboxClearedOnPublish,
    /// Only the first message of a conversation moves its recent rows.
    RecentNotMoved,
    /// What a dead router left in the outbox is cleared, and not published.
    RecoveredDropped,
    /// The sender's other terminals are not sent his messages.
    SenderNotLocated,
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
