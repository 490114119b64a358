//! forward: a client's frame goes to its router.
//!
//! Owns nothing: what is unanswered is in the connection's window (`window.rs`), what finds no credit waits
//! (`waiting.rs`), the rest is in the link's batch. A frame is forwarded as the client sent it, canonical and checked.
//! Without a link, or with too many waiting, it is refused at once, and a send's gate closes.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameError, FrameKind, read};
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ConnId, Lane as StoreLane, UserId};
use corelane_protocol::link::record::RecordKind;

use crate::outbound::Lane;
use crate::session::record_of;
use crate::shard::Shard;
use crate::window::key_of;

/// One of so many sends carries a trace stamp.
const STAMP_PACE: u32 = 64;

/// A frame on its way.
pub(crate) struct Outgoing<'a> {
    pub(crate) reference: u32,
    /// Key of the conversation of a send.
    pub(crate) conv: Option<u64>,
    pub(crate) lane: StoreLane,
    /// Whether it is surely answered.
    pub(crate) is_awaited: bool,
    pub(crate) frame: &'a [u8],
}

impl Shard {
    /// A `Send`.
    pub(crate) fn forward_send(
        &mut self,
        id: ConnId,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), FrameError> {
        need_reference(frame)?;
        let send = read::send(frame)?;
        let Some((app, user)) = self.sender(id) else {
            return Ok(());
        };
        let conv = send.target.conv_for(&user)?;
        let key = key_of(&conv);
        if send.restart {
            self.open_gate(id, key);
        } else if self.is_gate_closed(id, key) {
            self.metrics.forward_gate_closed += 1;
            let text = "an earlier send of this conversation was refused";
            self.reply_error(id, frame.reference, ErrorCode::GateClosed, text);
            return Ok(());
        }
        let Some(lanes) = self.link.lanes() else {
            self.metrics.forward_unavailable += 1;
            self.refuse_send(
                id,
                frame.reference,
                key,
                ErrorCode::Unavailable,
                "no router can be reached",
            );
            return Ok(());
        };
        let outgoing = Outgoing {
            reference: frame.reference,
            conv: Some(key),
            lane: lane_of(app, &conv, lanes),
            is_awaited: true,
            frame: bytes,
        };
        self.forward(id, &outgoing);
        Ok(())
    }

    /// Any other frame that a router answers.
    pub(crate) fn forward_request(
        &mut self,
        id: ConnId,
        kind: FrameKind,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), FrameError> {
        let Some((app, user)) = self.sender(id) else {
            return Ok(());
        };
        // The others are not answered in every case, so they cannot stand in the window; they are paced instead.
        let is_awaited = matches!(
            kind,
            FrameKind::Sync | FrameKind::Pull | FrameKind::Read | FrameKind::PresenceQuery
        );
        let conv = match kind {
            FrameKind::Sync => {
                read::sync(frame)?;
                None
            }
            FrameKind::Pull => Some(read::pull(frame)?.conv),
            FrameKind::Read => Some(read::read(frame)?.conv),
            FrameKind::CallStep => Some(read::call(frame)?.target.conv_for(&user)?),
            FrameKind::TypingStep => Some(read::typing(frame)?.target.conv_for(&user)?),
            FrameKind::Delivered => {
                read::delivered(frame)?;
                None
            }
            _ => {
                read::presence_query(frame)?;
                None
            }
        };
        if is_awaited {
            need_reference(frame)?;
        }
        let Some(lanes) = self.link.lanes() else {
            self.metrics.forward_unavailable += 1;
            if frame.reference != 0 {
                self.reply_error(
                    id,
                    frame.reference,
                    ErrorCode::Unavailable,
                    "no router can be reached",
                );
            }
            return Ok(());
        };
        if matches!(kind, FrameKind::Sync | FrameKind::Pull) {
            self.turn_live(id);
        }
        let outgoing = Outgoing {
            reference: frame.reference,
            conv: None,
            lane: conv.map_or(StoreLane(0), |conv| lane_of(app, &conv, lanes)),
            is_awaited,
            frame: bytes,
        };
        self.forward(id, &outgoing);
        Ok(())
    }

    fn sender(&self, id: ConnId) -> Option<(AppId, UserId)> {
        let session = self.conns.get(id)?.session.as_ref()?;
        Some((AppId(session.app), UserId::new(session.user()).ok()?))
    }

    fn forward(&mut self, id: ConnId, outgoing: &Outgoing<'_>) {
        let ticket = self.waiting.next_ticket();
        let waits = self.waiting.len() > 0 || !self.link.has_room_for(outgoing.frame.len(), self.now.mono);
        if !waits {
            self.write(id, outgoing, self.config.send_deadline);
        } else if !self
            .waiting
            .push(id, ticket, self.now.mono + self.config.send_deadline, outgoing)
        {
            return self.refuse_overloaded(id, outgoing);
        }
        if outgoing.is_awaited || waits {
            self.await_answer(id, ticket, outgoing, waits);
        }
    }

    fn refuse_overloaded(&mut self, id: ConnId, outgoing: &Outgoing<'_>) {
        self.metrics.forward_overloaded += 1;
        let text = "too many frames wait for the router";
        match outgoing.conv {
            Some(key) => self.refuse_send(id, outgoing.reference, key, ErrorCode::Overloaded, text),
            None if outgoing.reference != 0 => {
                self.reply_error(id, outgoing.reference, ErrorCode::Overloaded, text);
            }
            None => {}
        }
    }

    /// Writes a frame into the link's batch. There is credit for it.
    pub(crate) fn write(&mut self, id: ConnId, outgoing: &Outgoing<'_>, left: Duration) {
        let Some(session) = self.conns.get(id).and_then(|conn| conn.session.as_ref()) else {
            return;
        };
        let is_send = outgoing.conv.is_some();
        let sends = self.metrics.forward_messages as u32;
        let mut record = record_of(RecordKind::ClientFrame, id, session, outgoing.frame);
        record.lane = outgoing.lane.0;
        record.priority = Lane::Messages as u8;
        record.reference = outgoing.reference;
        record.deadline_ms = (left.as_millis() as u32).max(1);
        if is_send && sends.is_multiple_of(STAMP_PACE) {
            record.stamp = self.now.wall_ms * 1000;
        }
        let is_written = self.link.write(&record);
        debug_assert!(is_written, "room was asked for");
        self.metrics.forward_messages += u64::from(is_send);
        self.metrics.forward_requests += u64::from(!is_send);
    }
}

fn need_reference(frame: &Frame<'_>) -> Result<(), FrameError> {
    if frame.reference == 0 {
        return Err(FrameError::Field {
            field: "ref",
            problem: "is 0, but this frame is answered".to_owned(),
        });
    }
    Ok(())
}
