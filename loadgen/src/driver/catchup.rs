//! What one terminal still has to fetch: a sync after a reconnect or `Resync`, and pulls of conversations.
//!
//! One sync at a time; at most eight pulls are out. The sync that is owed after a fault explains gaps, all its pages and
//! no other. A conversation that is asked for again while its pull is
//! out is pulled once more. Refusals that may be tried again wait 100 ms.

use std::collections::BTreeMap;

use crate::names::ConvKey;

const PULLS_OUT_MAX: usize = 8;
const PAUSE_NS: u64 = 100_000_000;

#[derive(Debug, Clone, Copy)]
struct Pull {
    out: bool,
    again: bool,
}

/// A request to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A page of changed conversations, from the cursor on.
    Sync,
    /// A conversation, from the first missing place on.
    Pull(ConvKey),
}

/// What one terminal has to fetch.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not states of one thing"
)]
pub struct CatchUp {
    sync_at_ns: Option<u64>,
    sync_out: bool,
    sync_again: bool,
    /// The next page goes on with what was begun.
    sync_continues: bool,
    /// A fault came, and the sync that explains it was not asked for yet.
    is_owed: bool,
    /// What is asked for explains a fault.
    explains: bool,
    pulls: BTreeMap<ConvKey, Pull>,
    out: usize,
    retry_at_ns: u64,
}

impl CatchUp {
    /// Asks for a sync at a moment.
    pub fn want_sync(&mut self, at_ns: u64) {
        if self.sync_out {
            self.sync_again = true;
        } else {
            self.sync_at_ns = Some(self.sync_at_ns.map_or(at_ns, |earlier| earlier.min(at_ns)));
        }
    }

    /// A fault came: the next sync that is begun explains it.
    pub fn owe(&mut self) {
        self.is_owed = true;
    }

    /// Whether a fault waits for its explanation.
    pub const fn is_unexplained(&self) -> bool {
        self.is_owed || self.explains
    }

    /// Whether the page that comes now explains gaps.
    pub const fn explains(&self) -> bool {
        self.explains
    }

    /// Asks for a pull.
    pub fn want_pull(&mut self, conv: ConvKey) {
        let pull = self.pulls.entry(conv).or_insert(Pull {
            out: false,
            again: false,
        });
        pull.again |= pull.out;
    }

    /// The next request that may be made now.
    pub fn next(&mut self, now_ns: u64) -> Option<Request> {
        if now_ns < self.retry_at_ns {
            return None;
        }
        if self.sync_at_ns.is_some_and(|at| at <= now_ns) && !self.sync_out {
            self.sync_at_ns = None;
            self.sync_out = true;
            if !self.sync_continues {
                self.explains = std::mem::take(&mut self.is_owed);
            }
            return Some(Request::Sync);
        }
        if self.out >= PULLS_OUT_MAX {
            return None;
        }
        let (conv, pull) = self.pulls.iter_mut().find(|(_, pull)| !pull.out)?;
        pull.out = true;
        self.out += 1;
        Some(Request::Pull(*conv))
    }

    /// A sync page came; `more` asks for the next one at once.
    pub fn sync_answered(&mut self, more: bool, now_ns: u64) {
        self.sync_out = false;
        self.sync_continues = more;
        self.explains &= more;
        if more || std::mem::take(&mut self.sync_again) {
            self.want_sync(now_ns);
        }
    }

    /// A pull page came; `more` asks for the next one at once.
    pub fn pull_answered(&mut self, conv: ConvKey, more: bool) {
        let Some(pull) = self.pulls.get_mut(&conv).filter(|pull| pull.out) else {
            return;
        };
        pull.out = false;
        self.out -= 1;
        if !more && !std::mem::take(&mut pull.again) {
            self.pulls.remove(&conv);
        }
    }

    /// A request was refused; it is made again after a pause if that can help.
    pub fn refused(&mut self, request: Request, retryable: bool, now_ns: u64) {
        match request {
            Request::Sync => {
                self.sync_out = false;
                self.begin_anew();
                if retryable {
                    self.want_sync(now_ns + PAUSE_NS);
                }
            }
            Request::Pull(conv) => {
                self.pull_answered(conv, retryable);
                if retryable {
                    self.retry_at_ns = now_ns + PAUSE_NS;
                }
            }
        }
    }

    /// The connection is gone; what was out must be asked for again.
    pub fn disconnected(&mut self) {
        self.sync_out = false;
        self.sync_again = false;
        self.begin_anew();
        self.out = 0;
        for pull in self.pulls.values_mut() {
            pull.out = false;
        }
    }

    /// A sync came to nothing; the next one explains what it would have.
    fn begin_anew(&mut self) {
        self.sync_continues = false;
        self.is_owed |= std::mem::take(&mut self.explains);
    }

    /// When there will be something to do that waits for time only.
    pub fn wake_at_ns(&self) -> Option<u64> {
        let pull_waits = self.out < PULLS_OUT_MAX && self.pulls.values().any(|pull| !pull.out);
        let sync = self
            .sync_at_ns
            .filter(|_| !self.sync_out)
            .map(|at| at.max(self.retry_at_ns));
        let pull = pull_waits.then_some(self.retry_at_ns);
        sync.into_iter().chain(pull).min()
    }

    /// Whether nothing is left to fetch.
    pub fn is_idle(&self) -> bool {
        !self.sync_out && self.sync_at_ns.is_none() && self.pulls.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_asked_for_twice_is_made_twice_but_not_at_once() {
        let conv = ConvKey::group(1);
        let mut catch_up = CatchUp::default();
        catch_up.want_pull(conv);
        assert_eq!(catch_up.next(1), Some(Request::Pull(conv)));
        catch_up.want_pull(conv);
        assert_eq!(catch_up.next(1), None);
        catch_up.pull_answered(conv, false);
        assert_eq!(catch_up.next(1), Some(Request::Pull(conv)));
        catch_up.pull_answered(conv, false);
        assert!(catch_up.is_idle());
    }

    #[test]
    fn refusals_wait_and_a_lost_connection_asks_again() {
        let mut catch_up = CatchUp::default();
        catch_up.want_sync(5);
        assert_eq!((catch_up.next(4), catch_up.wake_at_ns()), (None, Some(5)));
        assert_eq!(catch_up.next(5), Some(Request::Sync));
        catch_up.refused(Request::Sync, true, 5);
        assert_eq!(catch_up.next(5), None);
        assert_eq!(catch_up.next(5 + PAUSE_NS), Some(Request::Sync));
        catch_up.sync_answered(true, 9 + PAUSE_NS);
        assert_eq!(catch_up.next(9 + PAUSE_NS), Some(Request::Sync));
        catch_up.disconnected();
        catch_up.want_pull(ConvKey::group(2));
        assert!(matches!(catch_up.next(u64::MAX), Some(Request::Pull(..))));
        catch_up.disconnected();
        assert!(matches!(catch_up.next(u64::MAX), Some(Request::Pull(..))));
    }

    #[test]
    fn only_the_sync_that_was_begun_after_a_fault_explains_it_with_all_its_pages() {
        let mut catch_up = CatchUp::default();
        catch_up.want_sync(1);
        catch_up.next(1);
        // The fault comes while the sync of the login is out.
        catch_up.owe();
        catch_up.want_sync(1);
        assert!(!catch_up.explains() && catch_up.is_unexplained());
        catch_up.sync_answered(true, 1);
        catch_up.next(1);
        assert!(!catch_up.explains(), "the second page of the first sync");
        catch_up.sync_answered(false, 1);
        // That sync asked again for itself by now, and is lost with its connection.
        assert_eq!(catch_up.next(1), Some(Request::Sync));
        assert!(catch_up.explains());
        catch_up.disconnected();
        assert!(!catch_up.explains() && catch_up.is_unexplained());
        catch_up.want_sync(2);
        catch_up.next(2);
        assert!(catch_up.explains());
        catch_up.sync_answered(true, 2);
        catch_up.next(2);
        assert!(catch_up.explains());
        catch_up.sync_answered(false, 2);
        assert!(!catch_up.is_unexplained());
        catch_up.want_sync(3);
        catch_up.next(3);
        assert!(!catch_up.explains());
    }
}
