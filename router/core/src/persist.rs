//! Stage persist, the answers: what the store committed is acknowledged and handed on to be published.
//!
//! Owns nothing beyond the lane: its one batch that is being committed, of at most `COMMIT_BYTES_MAX`. What comes
//! meanwhile waits in the lane's queue (`admit.rs`), which refuses when it is full; when too many commits wait to be
//! published the lane commits no more (`behind.rs`). An acknowledgement is made only from a commit that the store calls
//! durable. When the outcome is unknown every message of the batch is answered `retry` and its gate closed; the sender
//! finds out by sending the same id again.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{FrameKind, body::SendAck, encode};
use corelane_protocol::id::{ConvId, Lane};

use crate::append::{Appended, Committed};
use crate::core::RouterCore;
use crate::event::{Origin, Output, Submission};
use crate::planted::Bug;
use crate::publish::{Publication, Stored};

impl RouterCore {
    pub(crate) fn committed(&mut self, lane: Lane, outcome: Committed, outputs: &mut Vec<Output>) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        let submissions = std::mem::take(&mut state.committing);
        let (answers, outbox) = match outcome {
            Committed::Done { answers, outbox } if answers.len() == submissions.len() => (answers, outbox),
            Committed::Done { .. } => {
                debug_assert!(false, "a store answers every message of its batch");
                (Vec::new(), 0)
            }
            Committed::Unknown(_) => (Vec::new(), 0),
        };
        if answers.is_empty() && !submissions.is_empty() {
            self.metrics.unknown += 1;
            if Bug::AckBeforeCommit.is_planted() {
                let acks = submissions.iter();
                outputs.extend(acks.map(|sent| ack(sent.origin, &sent.append.conv, (1, 1), 0)));
                return self.start_commit(lane, outputs);
            }
            let text = "the store did not answer; send again with the same id";
            let refused = submissions.into_iter();
            let refused = refused.map(|submission| (submission, ErrorCode::Retry, text.to_owned()));
            self.refuse_placed(lane, refused.collect(), outputs);
            return self.start_commit(lane, outputs);
        }
        let mut stored = Vec::new();
        let mut refused = Vec::new();
        for (submission, answer) in submissions.into_iter().zip(answers) {
            let append = submission.append;
            match answer {
                Appended::Stored {
                    seq,
                    n,
                    time_ms,
                    frame,
                    member_version,
                    repeated,
                } => {
                    outputs.push(ack(submission.origin, &append.conv, (seq, n), time_ms));
                    if repeated {
                        self.metrics.repeated += 1;
                        continue;
                    }
                    self.metrics.persisted += 1;
                    let except = match submission.origin {
                        Origin::Client { boot, conn, .. } => Some((boot, conn)),
                        Origin::Api(_) => None,
                    };
                    stored.push(Stored {
                        app: append.app,
                        conv: append.conv,
                        seq,
                        sender: append.sender,
                        frame,
                        member_version,
                        except,
                        stamp: submission.stamp,
                    });
                }
                Appended::Refused(code, text) if code.is_retryable() => {
                    refused.push((Submission { append, ..submission }, code, text));
                }
                Appended::Refused(code, text) => self.refuse(submission.origin, code, &text, outputs),
            }
        }
        self.refuse_placed(lane, refused, outputs);
        if !stored.is_empty() {
            self.metrics.commits += 1;
            self.enqueue_publication(lane, Publication::new(outbox, stored), outputs);
        } else if outbox != 0 {
            outputs.push(Output::ClearOutbox(vec![outbox]));
        }
        self.start_commit(lane, outputs);
    }
}

fn ack(origin: Origin, conv: &ConvId, (seq, n): (u64, u64), time_ms: u64) -> Output {
    let ack = SendAck {
        conv: conv.as_bytes().to_vec(),
        seq,
        n,
        time_ms,
    };
    Output::Answer(origin, encode(FrameKind::SendAck, origin.reference(), &ack))
}
