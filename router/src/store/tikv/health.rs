//! When the connection is made anew: after failures in a row, counted by who was asked.
//!
//! PD and the TiKV servers count apart. Every transaction begins at PD, which answers while a server is frozen or its
//! connection dead: that is no sign of life of theirs. Calls of a connection that was given up meanwhile count neither way:
//! all lanes wait at a time, and what they give up one after the other is not the new one's fault.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Failures in a row after which the connection is made anew.
const FAILURES_MAX: u32 = 4;

/// Who a call asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Placement and time.
    Pd,
    /// The servers that hold the rows, even if PD is asked on the way.
    Tikv,
}

/// How the calls of a connection go.
#[derive(Debug, Default)]
pub(super) struct Health {
    pd: AtomicU32,
    tikv: AtomicU32,
    rebuilt: AtomicU64,
}

impl Health {
    /// Times that the connection was made anew; names the one there is.
    pub(super) fn rebuilt(&self) -> u64 {
        self.rebuilt.load(Ordering::Relaxed)
    }

    /// A call of `connection` was answered.
    pub(super) fn answered(&self, asked: Asked, connection: u64) {
        if self.rebuilt() == connection {
            self.failures(asked).store(0, Ordering::Relaxed);
        }
    }

    /// A call of `connection` failed. True: whoever made it gives the connection up.
    pub(super) fn failed(&self, asked: Asked, connection: u64) -> bool {
        if self.rebuilt() != connection {
            return false;
        }
        let failures = self.failures(asked).fetch_add(1, Ordering::Relaxed) + 1;
        let (old, new) = (Ordering::Relaxed, Ordering::Relaxed);
        let gives_up = failures >= FAILURES_MAX
            && self
                .rebuilt
                .compare_exchange(connection, connection + 1, old, new)
                .is_ok();
        if gives_up {
            self.pd.store(0, Ordering::Relaxed);
            self.tikv.store(0, Ordering::Relaxed);
        }
        gives_up
    }

    fn failures(&self, asked: Asked) -> &AtomicU32 {
        match asked {
            Asked::Pd => &self.pd,
            Asked::Tikv => &self.tikv,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_server_is_noticed_although_pd_answers_in_between() {
        let health = Health::default();
        for _ in 1..FAILURES_MAX {
            assert!(!health.failed(Asked::Tikv, 0));
            health.answered(Asked::Pd, 0);
        }
        assert!(health.failed(Asked::Tikv, 0));
        assert_eq!(health.rebuilt(), 1);
    }

    #[test]
    fn an_answer_of_who_failed_begins_the_count_anew() {
        let health = Health::default();
        for _ in 0..3 {
            for _ in 1..FAILURES_MAX {
                assert!(!health.failed(Asked::Tikv, 0) && !health.failed(Asked::Pd, 0));
            }
            health.answered(Asked::Tikv, 0);
            health.answered(Asked::Pd, 0);
        }
        assert_eq!(health.rebuilt(), 0);
    }

    #[test]
    fn late_calls_of_a_connection_that_was_given_up_say_nothing_of_the_new_one() {
        let health = Health::default();
        let given_up = (0..3 * FAILURES_MAX).filter(|_| health.failed(Asked::Tikv, 0));
        assert_eq!((given_up.count(), health.rebuilt()), (1, 1));
        for _ in 1..FAILURES_MAX {
            assert!(!health.failed(Asked::Tikv, 1));
            health.answered(Asked::Tikv, 0);
        }
        assert!(health.failed(Asked::Tikv, 1));
    }
}
