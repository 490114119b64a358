//! Which messages a connection has not been sent: the highest place per conversation.
//!
//! Owns at most [`PLACES_MAX`] conversations. When there are more it forgets them all and remembers only that
//! there were too many: the client is then told to sync instead of being told what to pull.

use corelane_protocol::frame::{self, FrameKind, body};
use corelane_protocol::limits::PLACES_MAX;

/// Highest place per conversation.
#[derive(Debug, Default)]
pub(crate) struct Places {
    items: Vec<(Box<[u8]>, u64)>,
    overflowed: bool,
}

impl Places {
    /// Notes that `seq` of `conv` was not sent.
    pub(crate) fn note(&mut self, conv: &[u8], seq: u64) {
        if self.overflowed {
            return;
        }
        if let Some((_, highest)) = self.items.iter_mut().find(|(known, _)| **known == *conv) {
            *highest = seq.max(*highest);
        } else if self.items.len() < PLACES_MAX {
            self.items.push((conv.into(), seq));
        } else {
            self.overflow();
        }
    }

    /// Something was not sent, and nobody knows what.
    pub(crate) fn overflow(&mut self) {
        self.items = Vec::new();
        self.overflowed = true;
    }

    /// Takes over all of `other`.
    pub(crate) fn absorb(&mut self, other: &mut Self) {
        if std::mem::take(&mut other.overflowed) {
            self.overflow();
        }
        for (conv, seq) in other.items.drain(..) {
            self.note(&conv, seq);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && !self.overflowed
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.overflowed = false;
    }

    /// Empties this into the frame that tells the client; the flag says whether it is a `Resync`.
    pub(crate) fn take_frame(&mut self, spread_ms: u32) -> Option<(Vec<u8>, bool)> {
        if std::mem::take(&mut self.overflowed) {
            return Some((
                frame::encode(FrameKind::Resync, 0, &body::Resync { spread_ms }),
                true,
            ));
        }
        if self.items.is_empty() {
            return None;
        }
        let upto = self.items.drain(..).map(|(conv, seq)| body::ConvSeq {
            conv: conv.into(),
            seq,
        });
        let pull = body::PullRequired { upto: upto.collect() };
        Some((frame::encode(FrameKind::PullRequired, 0, &pull), false))
    }
}
