//! What one terminal has seen of one conversation, judged frame by frame.
//!
//! The words are those of the promise, and they judge live `Message` frames: *doubled*, twice on a connection
//! without a fault; *redelivered*, twice across a reconnect or a fault; *reordered*, a smaller seq after a
//! larger one without a fault; *lost*, a live gap that no `PullRequired`, `Resync` or reconnect explains, even
//! if a pull repairs it later. Pages of sync and pull fill places but are never judged.
//!
//! Besides that a [`Digest`] is kept of what came first at every place, to be compared with the log's at the end.

use corelane_protocol::id::ClientMsgId;

use crate::ranges::Ranges;
use crate::rng::splitmix;

/// Which message stands at which place: two that hold the same are equal, in whatever order they were filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// Adds the message at a place. Every place once.
    pub fn add(&mut self, seq: u64, id: ClientMsgId) {
        let id = u128::from_be_bytes(id.0);
        #[expect(clippy::cast_possible_truncation, reason = "takes the halves apart")]
        let [high, low] = [(id >> 64) as u64, id as u64];
        let hash = [high, low]
            .into_iter()
            .fold(seq, |hash, part| splitmix(&mut (hash ^ part)));
        self.0 = self.0.wrapping_add(hash);
    }
}

/// A live `Message` frame, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Seen for the first time, in order.
    New,
    /// Seen for the first time after a larger one, at a time when that is allowed.
    Late,
    /// Seen before, and it may come again: a fault, a reconnect, or a pull lies between.
    Redelivered,
    /// Seen before on this connection, without a fault.
    Doubled,
    /// A smaller seq after a larger one, without a fault.
    Reordered,
}

/// How things stood when a frame came.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Changes with every fault that this connection knows of.
    pub epoch: u64,
    /// No fault in the last seconds.
    pub calm: bool,
}

/// What is wrong with a stream at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holes {
    /// Live gaps that nothing explains.
    pub lost: u64,
    /// Gaps that were explained, but not pulled yet.
    pub explained: u64,
}

/// One conversation at one terminal.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    had: Ranges,
    digest: Digest,
    last_live: u64,
    epoch: u64,
    pulled_upto: u64,
    excused_upto: u64,
}

impl Stream {
    /// A conversation whose first `base` places are of no concern.
    pub const fn starting_after(base: u64) -> Self {
        Self {
            had: Ranges::upto(base),
            digest: Digest(0),
            last_live: 0,
            epoch: 0,
            pulled_upto: 0,
            excused_upto: 0,
        }
    }

    /// Judges a live frame. `own`: this terminal's user sent it, so the ack may have told its place before.
    pub fn live(&mut self, seq: u64, id: ClientMsgId, moment: Moment, own: bool) -> Verdict {
        if moment.epoch != self.epoch {
            self.epoch = moment.epoch;
            self.last_live = 0;
        }
        let fresh = self.take(seq, id);
        let in_order = seq > self.last_live;
        self.last_live = self.last_live.max(seq);
        match (fresh, in_order) {
            (true, true) => Verdict::New,
            (true, false) if moment.calm => Verdict::Reordered,
            (true, false) => Verdict::Late,
            (false, true) => Verdict::Redelivered,
            (false, false) if own || !moment.calm || seq <= self.pulled_upto => Verdict::Redelivered,
            (false, false) => Verdict::Doubled,
        }
    }

    /// The place of a message that this terminal sent itself. False if it had that place already.
    pub fn acked(&mut self, seq: u64, id: ClientMsgId) -> bool {
        self.take(seq, id)
    }

    /// A message from a page. True if it was missing.
    pub fn pulled(&mut self, seq: u64, id: ClientMsgId) -> bool {
        self.pulled_upto = self.pulled_upto.max(seq);
        self.take(seq, id)
    }

    fn take(&mut self, seq: u64, id: ClientMsgId) -> bool {
        let fresh = self.had.insert(seq);
        if fresh {
            self.digest.add(seq, id);
        }
        fresh
    }

    /// Whether this is the log that ends at `head` and has this digest: no place more, and no other message anywhere.
    pub fn is_log(&self, head: u64, digest: Digest) -> bool {
        self.is_complete(head) && self.last() <= head && self.digest == digest
    }

    /// Everything up to `seq` may be missing for a reason that the terminal was told.
    pub fn excuse(&mut self, seq: u64) {
        self.excused_upto = self.excused_upto.max(seq);
    }

    /// Whether a gap at `seq` is explained.
    pub const fn is_excused(&self, seq: u64) -> bool {
        seq <= self.excused_upto
    }

    /// First place that is missing.
    pub const fn next_missing(&self) -> u64 {
        self.had.complete_upto() + 1
    }

    /// Whether everything up to `head` is here.
    pub const fn is_complete(&self, head: u64) -> bool {
        self.had.complete_upto() >= head
    }

    /// Highest place seen.
    pub fn last(&self) -> u64 {
        self.had.last()
    }

    /// What is missing up to `head`.
    pub fn holes(&self, head: u64) -> Holes {
        let mut holes = Holes::default();
        for (first, last) in self.had.holes(head) {
            let explained = last.min(self.excused_upto).saturating_sub(first - 1);
            holes.explained += explained;
            holes.lost += last - first + 1 - explained;
        }
        holes
    }

    /// The places of [`Stream::holes`].
    pub fn hole_ranges(&self, head: u64) -> Vec<(u64, u64)> {
        self.had.holes(head).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Moment = Moment { epoch: 1, calm: true };

    fn id(seq: u64) -> ClientMsgId {
        ClientMsgId(u128::from(seq).to_be_bytes())
    }

    fn live(stream: &mut Stream, seq: u64, moment: Moment, own: bool) -> Verdict {
        stream.live(seq, id(seq), moment, own)
    }

    fn feed(stream: &mut Stream, seqs: &[u64]) -> Vec<Verdict> {
        seqs.iter().map(|seq| live(stream, *seq, CALM, false)).collect()
    }

    #[test]
    fn a_clean_stream_is_clean() {
        let mut stream = Stream::default();
        assert!(feed(&mut stream, &[1, 2, 3]).iter().all(|v| *v == Verdict::New));
        assert_eq!(stream.holes(3), Holes::default());
    }

    #[test]
    fn a_planted_loss_is_found_in_the_middle_and_at_the_end() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 3, 4]);
        assert_eq!(stream.holes(4).lost, 1);
        assert_eq!(stream.holes(6).lost, 3);
        assert_eq!(stream.hole_ranges(6), [(2, 2), (5, 6)]);
    }

    #[test]
    fn a_planted_double_is_found() {
        let mut stream = Stream::default();
        assert_eq!(feed(&mut stream, &[1, 2, 2]).pop(), Some(Verdict::Doubled));
        assert_eq!(feed(&mut stream, &[3, 1]).pop(), Some(Verdict::Doubled));
    }

    #[test]
    fn a_planted_swap_is_found() {
        let mut stream = Stream::default();
        assert_eq!(
            feed(&mut stream, &[1, 3, 2, 4]),
            [Verdict::New, Verdict::New, Verdict::Reordered, Verdict::New]
        );
        assert_eq!(stream.holes(4), Holes::default());
    }

    #[test]
    fn twice_across_a_fault_is_redelivered() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 2, 3]);
        let after = Moment { epoch: 2, calm: true };
        assert_eq!(live(&mut stream, 2, after, false), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 3, after, false), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 4, after, false), Verdict::New);
        assert_eq!(live(&mut stream, 4, after, false), Verdict::Doubled);
        assert_eq!(
            live(
                &mut stream,
                4,
                Moment {
                    epoch: 2,
                    calm: false
                },
                false
            ),
            Verdict::Redelivered
        );
    }

    #[test]
    fn an_explained_gap_is_no_loss_but_must_be_pulled() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 6]);
        stream.excuse(4);
        assert_eq!(
            stream.holes(6),
            Holes {
                lost: 1,
                explained: 3
            }
        );
        assert!(
            stream.pulled(2, id(2))
                && stream.pulled(3, id(3))
                && stream.pulled(4, id(4))
                && !stream.pulled(6, id(6))
        );
        assert_eq!(
            stream.holes(6),
            Holes {
                lost: 1,
                explained: 0
            }
        );
        assert!(!stream.is_complete(6));
    }

    #[test]
    fn own_messages_are_placed_by_their_acks() {
        let mut stream = Stream::default();
        feed(&mut stream, &[2]);
        assert!(stream.acked(1, id(1)));
        assert!(stream.is_complete(2));
        assert_eq!(live(&mut stream, 1, CALM, true), Verdict::Redelivered);
    }

    #[test]
    fn a_live_frame_behind_its_pull_is_no_double() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1]);
        stream.excuse(3);
        stream.pulled(2, id(2));
        stream.pulled(3, id(3));
        assert_eq!(live(&mut stream, 2, CALM, false), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 3, CALM, false), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 4, CALM, false), Verdict::New);
    }

    #[test]
    fn the_log_is_told_from_others_however_its_messages_came() {
        let mut log = Digest::default();
        (1..=4).for_each(|seq| log.add(seq, id(seq)));
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 4, 2]);
        assert!(!stream.is_log(4, log), "one is missing");
        stream.pulled(3, id(3));
        feed(&mut stream, &[2]);
        assert!(stream.is_log(4, log));
        assert!(stream.acked(5, id(5)));
        assert!(!stream.is_log(4, log), "the log does not have the last one");
        let mut swapped = Stream::default();
        for (seq, other) in [(1, 1), (2, 3), (3, 2), (4, 4)] {
            swapped.live(seq, id(other), CALM, false);
        }
        assert!(
            !swapped.is_log(4, log),
            "two messages stand in each other's place"
        );
    }
}
