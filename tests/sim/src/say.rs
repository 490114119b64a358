//! What a terminal says: sends, go-back-N in each conversation, and what becomes of them.

use corelane_protocol::frame::body::{ArchivedErrorBody, ArchivedSendAck, Send, Target};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind, kind};
use corelane_protocol::id::ConvId;

use crate::terminal::{Asked, Pending, View};
use crate::world::{Acked, Event, World};
impl World {
    pub(crate) fn say(&mut self, at: usize, conv: ConvId) {
        let time = self.clock().wall_ms.to_be_bytes();
        let length = self.rng.between(8, 300) as usize;
        let wants_control = self.rng.chance(150);
        let terminal = &mut self.terminals[at];
        let seen = terminal.views.get(&conv).map_or(0, View::complete_upto);
        let (kind, ref_seq) = if wants_control && seen > 0 {
            (kind::REACTION, seen)
        } else {
            (kind::TEXT, 0)
        };
        terminal.last_index += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&time[2..]);
        (id[6], id[7], id[8]) = (0x70, terminal.index as u8, 0x80);
        id[12..].copy_from_slice(&terminal.last_index.to_be_bytes());
        let pending = Pending {
            id,
            kind,
            ref_seq,
            payload: vec![b'a' + (terminal.last_index % 26) as u8; length],
            reference: 0,
        };
        terminal
            .outgoing
            .entry(conv)
            .or_default()
            .queue
            .push_back(pending);
        self.counts.said += 1;
        self.pump(at);
    }

    /// Sends what the window allows.
    pub(crate) fn pump(&mut self, at: usize) {
        let terminal = &mut self.terminals[at];
        let Some(socket) = terminal.socket.filter(|_| terminal.is_live) else {
            return;
        };
        let mut frames = Vec::new();
        let all = terminal.outgoing.values().flat_map(|outgoing| &outgoing.queue);
        let mut free = terminal
            .window
            .saturating_sub(all.filter(|pending| pending.reference != 0).count());
        for (conv, outgoing) in &mut terminal.outgoing {
            if outgoing.has_failed {
                continue;
            }
            for pending in outgoing.queue.iter_mut().filter(|pending| pending.reference == 0) {
                if free == 0 {
                    break;
                }
                free -= 1;
                terminal.last_reference += 1;
                pending.reference = terminal.last_reference;
                terminal
                    .asked
                    .insert(pending.reference, Asked::Send(conv.clone()));
                let send = Send {
                    target: Target::Conv(conv.as_bytes().to_vec()),
                    kind: pending.kind,
                    flags: 0,
                    ref_seq: pending.ref_seq,
                    client_msg_id: pending.id,
                    content_type: 1,
                    payload: pending.payload.clone(),
                };
                let flags = if std::mem::take(&mut outgoing.restart) {
                    frame::flag::RESTART
                } else {
                    0
                };
                frames.push(frame::encode_with(
                    FrameKind::Send,
                    flags,
                    pending.reference,
                    &send,
                    &[],
                ));
            }
        }
        for frame in frames {
            self.up_frame(socket, &frame);
        }
    }

    /// Sends another message under the id of one that is acknowledged.
    pub(crate) fn forge(&mut self, at: usize, socket: usize) {
        let terminal = &mut self.terminals[at];
        let Some((conv, id)) = terminal.last_acked.clone().filter(|_| terminal.is_live) else {
            return;
        };
        let reference = terminal.ask(Asked::Forged);
        let send = Send {
            target: Target::Conv(conv.as_bytes().to_vec()),
            kind: kind::TEXT,
            flags: 0,
            ref_seq: 0,
            client_msg_id: id,
            content_type: 1,
            payload: b"another".to_vec(),
        };
        self.up_frame(socket, &frame::encode(FrameKind::Send, reference, &send));
    }

    /// After a refusal and a pause: from the oldest on.
    pub(crate) fn resend(&mut self, at: usize, conv: &ConvId) {
        if let Some(outgoing) = self.terminals[at].outgoing.get_mut(conv)
            && outgoing.has_failed
            && outgoing.queue.iter().all(|pending| pending.reference == 0)
        {
            (outgoing.has_failed, outgoing.restart) = (false, true);
            self.pump(at);
        }
    }

    pub(crate) fn sent_ack(&mut self, at: usize, socket: usize, frame: &Frame<'_>) {
        let conv = match self.terminals[at].asked.remove(&frame.reference) {
            Some(Asked::Send(conv)) => conv,
            Some(Asked::Forged) => {
                return self.violation(format!(
                    "terminal {at} got an ack for another message under a known id"
                ));
            }
            _ => return self.violation(format!("terminal {at} got an ack for ref {}", frame.reference)),
        };
        let seq = frame.access::<ArchivedSendAck>().expect("an ack").seq.to_native();
        let outgoing = self.terminals[at].outgoing.entry(conv.clone()).or_default();
        let place = outgoing
            .queue
            .iter()
            .position(|pending| pending.reference == frame.reference);
        let Some(pending) = place.and_then(|place| outgoing.queue.remove(place)) else {
            return;
        };
        self.counts.acked += 1;
        self.sockets[socket]
            .acks
            .entry(conv.clone())
            .or_default()
            .insert(seq);
        let view = self.terminals[at].views.entry(conv.clone()).or_default();
        view.seen
            .insert(seq, (pending.id, kind::is_countable(pending.kind, 0)));
        self.terminals[at].last_acked = Some((conv.clone(), pending.id));
        self.acked.push(Acked {
            conv: conv.clone(),
            terminal: at,
            id: pending.id,
            seq,
            payload: pending.payload,
        });
        self.pull(at, &conv, seq);
        self.answered(at, &conv);
        self.pump(at);
    }

    pub(crate) fn refused(&mut self, at: usize, socket: usize, frame: &Frame<'_>) {
        let code = frame
            .access::<ArchivedErrorBody>()
            .expect("an error")
            .code
            .to_native();
        let is_retryable = ErrorCode::from_number(code).is_none_or(ErrorCode::is_retryable);
        let wait = self.rng.between(2_000, 150_000);
        match self.terminals[at].asked.remove(&frame.reference) {
            Some(Asked::Sync) => self.after(wait, Event::AskAgain(at, socket, None)),
            Some(Asked::Look) => self.after(wait, Event::Look(at)),
            Some(Asked::Forged) if code == ErrorCode::Conflict as u16 => self.counts.conflicts += 1,
            Some(Asked::Pull(conv)) => {
                let view = self.terminals[at].views.entry(conv.clone()).or_default();
                view.is_pulling = false;
                if is_retryable {
                    self.after(wait, Event::AskAgain(at, socket, Some(conv)));
                } else {
                    view.target = 0;
                }
            }
            Some(Asked::Send(conv)) => {
                self.counts.refused += 1;
                let outgoing = self.terminals[at].outgoing.entry(conv.clone()).or_default();
                let place = outgoing
                    .queue
                    .iter()
                    .position(|pending| pending.reference == frame.reference);
                if let Some(pending) = place.and_then(|place| outgoing.queue.get_mut(place)) {
                    pending.reference = 0;
                }
                if is_retryable {
                    outgoing.has_failed = true;
                } else if let Some(place) = place {
                    outgoing.queue.remove(place);
                }
                self.answered(at, &conv);
                self.pump(at);
            }
            // The last: late, the gateway had given it up.
            Some(Asked::Forged | Asked::Read) | None => {}
        }
    }

    /// When the last unanswered send of a conversation that failed is answered, it starts again after a pause.
    pub(crate) fn answered(&mut self, at: usize, conv: &ConvId) {
        let outgoing = self.terminals[at].outgoing.entry(conv.clone()).or_default();
        if outgoing.has_failed && outgoing.queue.iter().all(|pending| pending.reference == 0) {
            let wait = self.rng.between(1_000, 100_000);
            self.after(wait, Event::Resend(at, conv.clone()));
        }
    }
}
