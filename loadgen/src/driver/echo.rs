//! Replies of an echo server, matched with what was sent by their content.

use std::collections::VecDeque;

use crate::payload::Stamp;

/// A reply, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The one that was due next.
    InOrder,
    /// Earlier ones are still out.
    Early,
    /// A later one came before it.
    Reordered,
    /// It came before.
    Doubled,
    /// It belongs to another connection or run.
    Foreign,
}

/// One connection's messages that are out.
#[derive(Debug, Default)]
pub struct Matcher {
    /// Counters of messages that were not answered, in order.
    out: VecDeque<u64>,
    next: u64,
    answered_last: Option<u64>,
}

impl Matcher {
    /// The counter of the next message; it is out from now on.
    pub fn send(&mut self) -> u64 {
        let counter = self.next;
        self.next += 1;
        self.out.push_back(counter);
        counter
    }

    /// Judges a reply that carries `stamp` and came to connection `index` of run `run`.
    pub fn reply(&mut self, stamp: &Stamp, run: u64, index: u32) -> Reply {
        if stamp.run != run || stamp.sender != index || stamp.counter >= self.next {
            return Reply::Foreign;
        }
        let Ok(place) = self.out.binary_search(&stamp.counter) else {
            return Reply::Doubled;
        };
        self.out.remove(place);
        let is_late = self.answered_last.is_some_and(|last| stamp.counter < last);
        self.answered_last = self.answered_last.max(Some(stamp.counter));
        match (place, is_late) {
            (_, true) => Reply::Reordered,
            (0, false) => Reply::InOrder,
            _ => Reply::Early,
        }
    }

    /// Messages that are out.
    pub fn unanswered(&self) -> u64 {
        self.out.len() as u64
    }

    /// Forgets what is out, when the connection is gone.
    pub fn abandon(&mut self) -> u64 {
        let count = self.unanswered();
        self.out.clear();
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(sent: u64, counters: &[u64]) -> (Vec<Reply>, u64) {
        let mut matcher = Matcher::default();
        for _ in 0..sent {
            matcher.send();
        }
        let stamp = |counter| Stamp {
            run: 1,
            sender: 2,
            conv: 0,
            counter,
            due_ns: 0,
            sent_ns: 0,
        };
        let replies = counters
            .iter()
            .map(|counter| matcher.reply(&stamp(*counter), 1, 2))
            .collect();
        (replies, matcher.unanswered())
    }

    #[test]
    fn a_faithful_echo_is_clean() {
        assert_eq!(replies(3, &[0, 1, 2]), (vec![Reply::InOrder; 3], 0));
    }

    #[test]
    fn planted_faults_are_found() {
        assert_eq!(replies(3, &[0, 2]), (vec![Reply::InOrder, Reply::Early], 1));
        assert_eq!(
            replies(2, &[0, 0, 1]),
            (vec![Reply::InOrder, Reply::Doubled, Reply::InOrder], 0)
        );
        assert_eq!(replies(2, &[1, 0]), (vec![Reply::Early, Reply::Reordered], 0));
        assert_eq!(replies(1, &[7]), (vec![Reply::Foreign], 1));
    }
}
