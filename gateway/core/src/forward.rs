//! forward: a client's frame goes to its router.
//!
//! A frame of a conversation goes to the router of its lane (`links.rs`), any other to the home. Owns nothing: what is
//! unanswered is in the connection's window (`window.rs`), what finds no credit waits (`waiting.rs`), the rest is in the
//! link's batch. A frame is forwarded as the client sent it, canonical and checked. Without a link to its router, or with
//! too many waiting, it is refused at once, and a send's gate closes; frames for other routers go on.
//!
//! Sends of one conversation are never unanswered on two links: when its lane has moved, what is unanswered of it is
//! answered `retry`, in order, before the next one is looked at.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameError, FrameKind, read};
use corelane_protocol::id::{AppId, ConnId, ConvId, Lane as StoreLane, UserId};
use corelane_protocol::link::record::RecordKind;

use crate::links::LinkIndex;
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
    /// The link that it goes on.
    pub(crate) link: LinkIndex,
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
        let way = self.way_of(app, Some(&conv));
        if let Some((_, link)) = way {
            self.leave_other_link(id, key, link);
        }
        if send.restart {
            self.open_gate(id, key);
        } else if self.is_gate_closed(id, key) {
            self.metrics.forward_gate_closed += 1;
            let text = "an earlier send of this conversation was refused";
            self.reply_error(id, frame.reference, ErrorCode::GateClosed, text);
            return Ok(());
        }
        let Some((lane, link)) = way else {
            let text = self.lack_of_way();
            self.refuse_send(id, frame.reference, key, ErrorCode::Unavailable, text);
            return Ok(());
        };
        let outgoing = Outgoing {
            reference: frame.reference,
            conv: Some(key),
            lane,
            link,
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
        let Some((lane, link)) = self.way_of(app, conv.as_ref()) else {
            let text = self.lack_of_way();
            if frame.reference != 0 {
                self.reply_error(id, frame.reference, ErrorCode::Unavailable, text);
            }
            return Ok(());
        };
        if matches!(kind, FrameKind::Sync | FrameKind::Pull) {
            self.turn_live(id);
        }
        let outgoing = Outgoing {
            reference: frame.reference,
            conv: None,
            lane,
            link,
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

    /// The lane of a frame, and the link to whoever serves it; `None` while there is none.
    fn way_of(&self, app: AppId, conv: Option<&ConvId>) -> Option<(StoreLane, LinkIndex)> {
        let Some(conv) = conv else {
            return Some((StoreLane(0), self.links.home?));
        };
        let lane = self.links.lane_of(app, conv)?;
        Some((lane, self.links.owner_of(lane)?))
    }

    /// Counts a frame that has no way; gives what its sender is told.
    fn lack_of_way(&mut self) -> &'static str {
        self.metrics.forward_unavailable += 1;
        if self.links.home.is_none() {
            return "no router can be reached";
        }
        self.metrics.forward_ownerless += 1;
        "the router of this conversation cannot be reached"
    }

    fn forward(&mut self, id: ConnId, outgoing: &Outgoing<'_>) {
        let ticket = self.waiting.next_ticket();
        let (bytes, link) = (outgoing.frame.len(), outgoing.link);
        let waits = self.waiting.is_any_for(link) || !self.links.has_room_for(link, bytes, self.now.mono);
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
        let is_written = self.links.write(outgoing.link, &record);
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
