//! Bugs of shells and adapters, which are modelled here: each breaks a rule of theirs that the promise rests on.
//!
//! Those of the cores stand in the cores (`planted.rs` of each). Without the feature `planted` none can be planted.

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
    /// A gateway that comes back has the boot that it died with.
    BootReused,
    /// What a dedupe row says is answered although its message is not there.
    DedupeWithoutRow,
    /// A boot that the registry forgot is waited for until its router ends.
    ForgottenAwaited,
    /// A head of another writer, or of a commit that was never seen whole, is built on as it is.
    HeadsBelieved,
    /// A kick that finds no link is dropped.
    KickNotKept,
    /// What mending found is not published.
    MendedUnpublished,
    /// Who was offline once counts as offline.
    OfflineCached,
    /// A commit counts as made because the store's client says so.
    OkBelieved,
    /// A route is dropped because it was not claimed on a link, though it was claimed on a later one.
    OtherHomeDropped,
    /// The next connection has the id of the last one of its slot.
    SlotReusedEarly,
    /// What became of a commit of unknown outcome is not looked for.
    UnknownForgotten,
}

#[cfg(not(feature = "planted"))]
impl Bug {
    /// Whether the model is to have this bug: never.
    #[expect(clippy::unused_self, reason = "it is asked about as if it could be planted")]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }
}

#[cfg(feature = "planted")]
impl Bug {
    /// Whether the model is to have this bug on this thread.
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
