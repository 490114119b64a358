//! What one terminal still has to fetch: a sync after a reconnect or `Resync`, and pulls of conversations.
//!
//! One sync at a time; at most eight pulls are out. A conversation that is asked for again while its pull is
//! out is pulled once more. Refusals that may be tried again wait 100 ms.

use std::collections::BTreeMap;

use crate::names::ConvKey;

const PULLS_OUT_MAX: usize = 8;
const PAUSE_NS: u64 = 100_000_000;

/// Why a conversation is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The terminal was told that something is missing.
    Told,
    /// Nobody said anything; the terminal found a gap at the end.
    Gap,
}

#[derive(Debug, Clone, Copy)]
struct Pull {
    reason: Reason,
    out: bool,
    again: bool,
}

/// A request to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A page of changed conversations, from the cursor on.
    Sync,
    /// A conversation, from the first missing place on.
    Pull(ConvKey, Reason),
}

/// What one terminal has to fetch.
#[derive(Debug, Default)]
pub struct CatchUp {
    sync_at_ns: Option<u64>,
    sync_out: bool,
    sync_again: bool,
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

    /// Asks for a pull.
    pub fn want_pull(&mut self, conv: ConvKey, reason: Reason) {
        let pull = self.pulls.entry(conv).or_insert(Pull {
            reason,
            out: false,
            again: false,
        });
        pull.again |= pull.out;
        if reason == Reason::Told {
            pull.reason = reason;
        }
    }

    /// The next request that may be made now.
    pub fn next(&mut self, now_ns: u64) -> Option<Request> {
        if now_ns < self.retry_at_ns {
            return None;
        }
        if self.sync_at_ns.is_some_and(|at| at <= now_ns) && !self.sync_out {
            self.sync_at_ns = None;
            self.sync_out = true;
            return Some(Request::Sync);
        }
        if self.out >= PULLS_OUT_MAX {
            return None;
        }
        let (conv, pull) = self.pulls.iter_mut().find(|(_, pull)| !pull.out)?;
        pull.out = true;
        self.out += 1;
        Some(Request::Pull(*conv, pull.reason))
    }

    /// A sync page came; `more` asks for the next one at once.
    pub fn sync_answered(&mut self, more: bool, now_ns: u64) {
        self.sync_out = false;
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
                if retryable {
                    self.want_sync(now_ns + PAUSE_NS);
                }
            }
            Request::Pull(conv, _) => {
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
        self.out = 0;
        for pull in self.pulls.values_mut() {
            pull.out = false;
        }
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
        catch_up.want_pull(conv, Reason::Gap);
        assert_eq!(catch_up.next(1), Some(Request::Pull(conv, Reason::Gap)));
        catch_up.want_pull(conv, Reason::Told);
        assert_eq!(catch_up.next(1), None);
        catch_up.pull_answered(conv, false);
        assert_eq!(catch_up.next(1), Some(Request::Pull(conv, Reason::Told)));
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
        catch_up.want_pull(ConvKey::group(2), Reason::Told);
        assert!(matches!(catch_up.next(u64::MAX), Some(Request::Pull(..))));
        catch_up.disconnected();
        assert!(matches!(catch_up.next(u64::MAX), Some(Request::Pull(..))));
    }
}
