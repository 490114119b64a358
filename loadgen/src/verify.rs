//! What one terminal has seen of one conversation, judged frame by frame.
//!
//! The words are those of the promise, and they judge live `Message` frames: *doubled*, twice on a connection
//! without a fault; *redelivered*, twice across a reconnect or a fault; *reordered*, a smaller seq after a
//! larger one without a fault; *lost*, a live gap that no `PullRequired`, `Resync` or reconnect explains, even
//! if a pull repairs it later. Pages of sync and pull fill places but are never judged.
//!
//! An explanation covers what it can explain and nothing else: `PullRequired` the places above the highest live
//! one up to its own; the sync behind a `Resync` or reconnect everything up to the heads it reports, but for gaps
//! that had stood open for [`GAP_AGE_NS`] (or longer, where faults are made on purpose) when the fault came.
//!
//! Besides, a [`Digest`] is kept of what came first at every place, to be compared with the log's at the end.

use corelane_protocol::id::ClientMsgId;

use crate::ranges::Ranges;
use crate::rng::splitmix;

/// A gap that has been open so long is not put down to a fault that comes then.
pub const GAP_AGE_NS: u64 = 3_000_000_000;
/// How many moments are remembered, with the highest place at each. They lie so far apart that the oldest is of that age.
const MARKS: usize = 4;

/// A live `Message` frame, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Seen for the first time, in order.
    New,
    /// Seen for the first time after a larger one, shortly after a fault.
    Late,
    /// Seen before, and it may come again: a fault lies between.
    Redelivered,
    /// Seen before on this connection, without a fault.
    Doubled,
    /// A smaller seq after a larger one, without a fault.
    Reordered,
    /// Came back to the connection that sent it, without a fault.
    Returned,
}

/// How things stood when a frame came.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Now.
    pub now_ns: u64,
    /// Changes with every fault of this connection.
    pub epoch: u64,
    /// No fault of this connection in the last seconds.
    pub calm: bool,
    /// How long a gap may have been open to be put down to a fault.
    pub gap_age_ns: u64,
}

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

/// Where a conversation's log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The last place.
    pub seq: u64,
    /// What stands up to there; `None` if it was not read.
    pub digest: Option<Digest>,
}

/// What is wrong with a stream at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holes {
    /// Live gaps that nothing explains.
    pub lost: u64,
    /// Those of them that a pull filled.
    pub repaired: u64,
    /// Places that are not here at all, explained or not.
    pub missing: u64,
}

/// One conversation at one terminal.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Places whose message is here, however it came.
    had: Ranges,
    digest: Digest,
    /// Places that need no explanation any more: they came live, were acked, or are explained.
    accounted: Ranges,
    /// Places that came live or were acked since the last fault.
    live: Ranges,
    epoch: u64,
    /// The highest place that came live, since the last fault and ever.
    live_last: u64,
    highest: u64,
    /// What `highest` was, newest first.
    marks: [(u64, u64); MARKS],
    /// Gaps up to here were open too long to be put down to the fault that is being explained.
    blamed_upto: u64,
}

impl Stream {
    /// A conversation whose first `base` places are of no concern.
    pub fn starting_after(base: u64) -> Self {
        Self {
            had: Ranges::upto(base),
            accounted: Ranges::upto(base),
            ..Self::default()
        }
    }

    /// Judges a live frame of somebody else. The flag says whether its message is seen for the first time at all.
    pub fn live(&mut self, seq: u64, id: ClientMsgId, moment: Moment) -> (Verdict, bool) {
        if moment.epoch != self.epoch {
            self.epoch = moment.epoch;
            self.live = Ranges::default();
            self.live_last = 0;
        }
        let is_again = !self.live.insert(seq);
        let is_known = self.had.contains(seq) && self.accounted.contains(seq);
        let is_in_order = seq > self.live_last;
        self.live_last = self.live_last.max(seq);
        self.rise(seq, moment);
        self.accounted.insert(seq);
        let is_first = self.take(seq, id);
        let verdict = match (is_again, is_known, is_in_order) {
            (true, ..) if moment.calm => Verdict::Doubled,
            (true, ..) | (_, true, _) => Verdict::Redelivered,
            (_, _, true) => Verdict::New,
            _ if moment.calm => Verdict::Reordered,
            _ => Verdict::Late,
        };
        (verdict, is_first)
    }

    /// A live frame of this terminal's own message, after a fault: its order is of no concern. True if it was missing.
    pub fn returned(&mut self, seq: u64, id: ClientMsgId) -> bool {
        self.accounted.insert(seq);
        self.take(seq, id)
    }

    /// The place of a message that this terminal sent itself.
    pub fn acked(&mut self, seq: u64, id: ClientMsgId) {
        self.live.insert(seq);
        self.accounted.insert(seq);
        self.take(seq, id);
    }

    /// A message from a page. True if it was missing.
    pub fn pulled(&mut self, seq: u64, id: ClientMsgId, own: bool) -> bool {
        if own {
            // It does not come live to who sent it; its ack is what was lost.
            self.accounted.insert(seq);
        }
        self.take(seq, id)
    }

    fn take(&mut self, seq: u64, id: ClientMsgId) -> bool {
        let is_first = self.had.insert(seq);
        if is_first {
            self.digest.add(seq, id);
        }
        is_first
    }

    fn rise(&mut self, seq: u64, moment: Moment) {
        self.highest = self.highest.max(seq);
        let apart_ns = moment.gap_age_ns.div_ceil(MARKS as u64 - 1);
        if moment.now_ns >= self.marks[0].0 + apart_ns {
            self.marks.rotate_right(1);
            self.marks[0] = (moment.now_ns, self.highest);
        }
    }

    /// A fault comes. Gaps that have been open for long are not its doing.
    pub fn blame(&mut self, now_ns: u64, gap_age_ns: u64) {
        let old = self.marks.iter().find(|(at, _)| at + gap_age_ns <= now_ns);
        self.blamed_upto = self.blamed_upto.max(old.map_or(0, |(_, highest)| *highest));
    }

    /// The terminal was told to pull up to `seq`: what lies above the highest live place was not sent to it.
    pub fn told(&mut self, seq: u64) {
        self.accounted.insert_range(self.highest + 1, seq);
    }

    /// The sync behind a fault says that the conversation ends at `head`.
    pub fn explained(&mut self, head: u64) {
        self.accounted.insert_range(self.blamed_upto + 1, head);
    }

    /// First place that is missing.
    pub const fn next_missing(&self) -> u64 {
        self.had.complete_upto() + 1
    }

    /// Whether everything up to `head` is here.
    pub const fn has_all(&self, head: u64) -> bool {
        self.had.complete_upto() >= head
    }

    /// Whether everything up to `head` is here, and nothing of it lacks an explanation.
    pub const fn is_complete(&self, head: u64) -> bool {
        self.has_all(head) && self.accounted.complete_upto() >= head
    }

    /// What is wrong up to `head`.
    pub fn holes(&self, head: u64) -> Holes {
        let lost = self.accounted.holes_count(head);
        Holes {
            lost,
            repaired: lost - self.accounted.common_holes_count(&self.had, head),
            missing: self.had.holes_count(head),
        }
    }

    /// The last place and what stands up to there; `None` while something before it is missing.
    pub fn end(&self) -> Option<(u64, Digest)> {
        let upto = self.had.complete_upto();
        (upto == self.had.last()).then_some((upto, self.digest))
    }

    /// Whether what is here is certainly not what the log holds. What came after the log was read cannot be told.
    pub fn differs_from(&self, log: LogEnd) -> bool {
        match (self.end(), log.digest) {
            (Some((seq, own)), Some(digest)) => seq == log.seq && own != digest,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Moment = Moment {
        now_ns: 1,
        epoch: 1,
        calm: true,
        gap_age_ns: GAP_AGE_NS,
    };

    fn id(seq: u64) -> ClientMsgId {
        ClientMsgId(u128::from(seq).to_be_bytes())
    }

    fn live(stream: &mut Stream, seq: u64, moment: Moment) -> Verdict {
        stream.live(seq, id(seq), moment).0
    }

    fn feed(stream: &mut Stream, seqs: &[u64]) -> Vec<Verdict> {
        seqs.iter().map(|seq| live(stream, *seq, CALM)).collect()
    }

    fn lost(stream: &Stream, head: u64) -> u64 {
        stream.holes(head).lost
    }

    #[test]
    fn a_clean_stream_is_clean() {
        let mut stream = Stream::default();
        assert!(feed(&mut stream, &[1, 2, 3]).iter().all(|v| *v == Verdict::New));
        assert_eq!(stream.holes(3), Holes::default());
    }

    #[test]
    fn a_planted_loss_is_found_in_the_middle_and_at_the_end_though_pulls_fill_it() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 3, 4]);
        assert_eq!((lost(&stream, 4), lost(&stream, 6)), (1, 3));
        stream.pulled(2, id(2), false);
        stream.pulled(5, id(5), false);
        let expected = Holes {
            lost: 3,
            repaired: 2,
            missing: 1,
        };
        assert_eq!(stream.holes(6), expected);
        assert!(stream.has_all(5) && !stream.is_complete(5));
    }

    #[test]
    fn a_planted_double_is_found_though_a_pull_lies_between() {
        let mut stream = Stream::default();
        assert_eq!(feed(&mut stream, &[1, 2, 2]).pop(), Some(Verdict::Doubled));
        assert_eq!(feed(&mut stream, &[3, 1]).pop(), Some(Verdict::Doubled));
        stream.told(5);
        assert!((4..=6).all(|seq| stream.pulled(seq, id(seq), false)));
        assert_eq!(feed(&mut stream, &[3]), [Verdict::Doubled]);
        assert_eq!(
            feed(&mut stream, &[6, 7, 6]),
            [Verdict::New, Verdict::New, Verdict::Doubled]
        );
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
    fn twice_across_a_fault_is_redelivered_and_order_begins_anew() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 2, 3]);
        let after = Moment { epoch: 2, ..CALM };
        assert_eq!(live(&mut stream, 2, after), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 3, after), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 5, after), Verdict::New);
        assert_eq!(live(&mut stream, 5, after), Verdict::Doubled);
        let shortly_after = Moment { calm: false, ..after };
        assert_eq!(live(&mut stream, 5, shortly_after), Verdict::Redelivered);
        assert_eq!(live(&mut stream, 4, shortly_after), Verdict::Late);
    }

    #[test]
    fn being_told_to_pull_explains_what_lies_above_the_highest_live_place_and_nothing_else() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 3]);
        stream.told(6);
        feed(&mut stream, &[8]);
        assert_eq!(lost(&stream, 8), 2, "2 came before, 7 after");
        let missing = stream.holes(8).missing;
        assert_eq!(missing, 5);
        assert!(stream.pulled(4, id(4), false) && !stream.pulled(8, id(8), false));
    }

    #[test]
    fn a_fault_explains_gaps_up_to_the_head_of_its_sync_but_no_old_ones() {
        let second = 1_000_000_000;
        let at = |seconds: u64| Moment {
            now_ns: seconds * second,
            ..CALM
        };
        let mut stream = Stream::default();
        for (seconds, seq) in [(10, 1), (11, 3), (12, 4), (16, 6), (17, 7)] {
            live(&mut stream, seq, at(seconds));
        }
        stream.blame(18 * second, GAP_AGE_NS);
        live(&mut stream, 9, at(19));
        stream.explained(9);
        live(&mut stream, 12, at(20));
        assert_eq!(lost(&stream, 12), 3, "2 was open for 7 s; 10 and 11 came after");
    }

    #[test]
    fn own_messages_are_placed_by_their_acks() {
        let mut stream = Stream::default();
        feed(&mut stream, &[2]);
        stream.acked(1, id(1));
        assert!(stream.is_complete(2));
        assert_eq!(
            live(&mut stream, 1, CALM),
            Verdict::Doubled,
            "another's, at that place"
        );
        // Their acks may be lost with a connection; then pages and frames bring them.
        assert!(stream.pulled(3, id(3), true) && stream.returned(4, id(4)));
        assert!(stream.is_complete(4));
    }

    #[test]
    fn a_live_frame_behind_its_page_is_as_it_should_be() {
        let mut stream = Stream::default();
        feed(&mut stream, &[1]);
        stream.told(2);
        assert!((2..=4).all(|seq| stream.pulled(seq, id(seq), false)));
        assert_eq!(stream.live(3, id(3), CALM), (Verdict::New, false));
        assert_eq!(stream.live(5, id(5), CALM), (Verdict::New, true));
        assert_eq!(lost(&stream, 5), 1, "4 never came live, and nobody said why");
    }

    #[test]
    fn the_log_is_told_from_others_however_its_messages_came() {
        let mut log = Digest::default();
        (1..=4).for_each(|seq| log.add(seq, id(seq)));
        let mut stream = Stream::default();
        feed(&mut stream, &[1, 4, 2]);
        assert_eq!(stream.end(), None, "one is missing");
        stream.pulled(3, id(3), false);
        feed(&mut stream, &[2]);
        assert_eq!(stream.end(), Some((4, log)));
        let mut swapped = Stream::default();
        for (seq, other) in [(1, 1), (2, 3), (3, 2), (4, 4)] {
            swapped.live(seq, id(other), CALM);
        }
        assert_ne!(swapped.end(), Some((4, log)), "two stand in each other's place");
        let end = |seq| LogEnd {
            seq,
            digest: Some(log),
        };
        assert!(swapped.differs_from(end(4)) && !stream.differs_from(end(4)));
        assert!(!swapped.differs_from(end(3)), "it has more than was read");
    }
}
