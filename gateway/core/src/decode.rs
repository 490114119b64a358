//! decode: bytes of a client become items, items become frames, frames find their stage.
//!
//! Owns nothing between calls: what a read left unfinished is in the connection's decoder, what may not be used
//! yet is held in its box. A connection that may not go on (its window is full, it does not read its answers, its
//! token is being checked) is *blocked*: nothing more of it is decoded, the engine is told not to read, and what
//! was already read is held, at most [`HELD_BYTES_MAX`]; beyond that it is closed with 4006. Before its login a
//! connection has [`OPENING_BYTES_MAX`] for either direction; beyond that it is closed with 4504.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{
    Frame, FrameError, FrameKind, HEADER_BYTES, body, extension, flag as frame_flag,
};
use corelane_protocol::id::ConnId;
use corelane_protocol::ws::{CloseCode, Item, Opcode, server_header};

use crate::encoding;
use crate::event::Output;
use crate::outbound::Lane;
use crate::shard::Shard;
use crate::table::{OPENING_BYTES_MAX, Rare, Stage, flag};
use crate::transform::Transform;

/// Most bytes held of a blocked connection: what the engine may have read before it heard of the pause.
pub(crate) const HELD_BYTES_MAX: usize = 1024 * 1024;
/// A client that has so many bytes of answers waiting is not read.
pub(crate) const CONTROL_BYTES_MAX: usize = 64 * 1024;

impl Shard {
    /// Bytes arrived.
    pub(crate) fn receive(&mut self, id: ConnId, bytes: &mut [u8]) {
        let tick = self.tick;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.last_seen = tick;
        // What was read is what the codec sees.
        let Transform::Plain = conn.transform;
        self.metrics.decode_bytes += bytes.len() as u64;
        let (stage, holds) = (conn.stage, conn.held_bytes() > 0);
        match stage {
            Stage::Proxy => self.take_proxy_header(id, bytes),
            Stage::Head => self.take_head(id, bytes),
            Stage::Free | Stage::Closed => {}
            _ if holds || self.is_blocked(id) => self.hold(id, bytes),
            _ => {
                let left = self.decode(id, bytes);
                let start = bytes.len() - left;
                self.hold(id, bytes.get(start..).unwrap_or(&[]));
            }
        }
        self.weigh(id);
    }

    /// Keeps bytes that may not be used yet, and has the engine read no more.
    pub(crate) fn hold(&mut self, id: ConnId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let limit = match conn.stage {
            Stage::Live | Stage::Echo => HELD_BYTES_MAX,
            Stage::Closing | Stage::Closed => return,
            _ => OPENING_BYTES_MAX,
        };
        let rare = conn.rare();
        if rare.held_bytes() + bytes.len() > limit {
            *rare = Rare::default();
            let code = if limit == HELD_BYTES_MAX {
                CloseCode::RateLimited
            } else {
                CloseCode::Malformed
            };
            return self.close(id, code as u16, "more bytes than may be sent ahead");
        }
        rare.held.drain(..rare.held_at);
        rare.held_at = 0;
        rare.held.extend_from_slice(bytes);
        if !conn.has(flag::PAUSED) {
            conn.set(flag::PAUSED);
            self.outputs.push(Output::PauseReceive(id));
        }
    }

    /// The connection may be able to go on: look at it at the end of this input.
    pub(crate) fn unblock(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.has(flag::UNBLOCKED)
            && (conn.held_bytes() > 0 || conn.has(flag::PAUSED))
        {
            conn.set(flag::UNBLOCKED);
            self.unblocked.push(id);
        }
    }

    /// Uses what was held of connections that may go on.
    pub(crate) fn read_unblocked(&mut self) {
        while let Some(id) = self.unblocked.pop() {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.clear(flag::UNBLOCKED);
                self.read_held(id);
                self.weigh(id);
            }
        }
    }

    fn read_held(&mut self, id: ConnId) {
        if self.is_blocked(id) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.held_bytes() > 0 {
            let rare = conn.rare();
            let (mut held, at) = (std::mem::take(&mut rare.held), std::mem::take(&mut rare.held_at));
            let left = self.decode(id, held.get_mut(at..).unwrap_or(&mut []));
            let Some(conn) = self.conns.get_mut(id) else {
                return;
            };
            if left > 0
                && matches!(
                    conn.stage,
                    Stage::Live | Stage::Echo | Stage::Verifying | Stage::Claiming
                )
            {
                let rare = conn.rare();
                rare.held_at = held.len() - left;
                rare.held = held;
                return;
            }
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.trim();
        if conn.stage != Stage::Closed && conn.clear(flag::PAUSED) {
            self.outputs.push(Output::ResumeReceive(id));
        }
    }

    /// Whether nothing more of this connection may be decoded now.
    pub(crate) fn is_blocked(&self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(id) else {
            return true;
        };
        let queue_bytes_max = self.config.queue_bytes_max as usize;
        match conn.stage {
            Stage::Live => {
                conn.has(flag::VERIFYING)
                    || conn.window.as_ref().is_some_and(|window| window.is_full())
                    || conn.out.unasked_bytes() > queue_bytes_max
                    || conn
                        .out
                        .backlog
                        .as_ref()
                        .is_some_and(|backlog| backlog.control_bytes() > CONTROL_BYTES_MAX)
            }
            Stage::Echo => conn.out.queued_bytes() > queue_bytes_max,
            Stage::Hello => conn.out.queued_bytes() > OPENING_BYTES_MAX,
            Stage::Closing => false,
            Stage::Free
            | Stage::Proxy
            | Stage::Head
            | Stage::Upgrading
            | Stage::Verifying
            | Stage::Claiming
            | Stage::Closed => true,
        }
    }

    /// Decodes until the bytes are used up or the connection is blocked; returns how many were not used.
    fn decode(&mut self, id: ConnId, bytes: &mut [u8]) -> usize {
        let Some(conn) = self.conns.get_mut(id) else {
            return 0;
        };
        let mut decoder = std::mem::replace(&mut conn.decoder, encoding::decoder(0));
        let mut items = decoder.feed(bytes);
        let mut left = 0;
        let mut error = None;
        while let Some(item) = items.next() {
            match item {
                Ok(item) => self.take_item(id, item),
                Err(ws_error) => error = Some(ws_error),
            }
            if self.is_blocked(id) {
                left = items.unread_bytes();
                break;
            }
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.decoder = decoder;
        }
        if let Some(error) = error {
            self.fail(id, error.close_code(), &error.to_string());
            return 0;
        }
        left
    }

    fn take_item(&mut self, id: ConnId, item: Item<'_>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let is_json = conn.has(flag::JSON);
        match (conn.stage, item) {
            (_, Item::Close(said)) => self.client_closes(id, said.map(|(code, _)| code)),
            (Stage::Closing, _) | (_, Item::Pong(_)) => {}
            (_, Item::Ping(payload)) => {
                self.queue_own(
                    id,
                    Lane::Control,
                    &[&server_header(Opcode::Pong, payload.len(), true), payload],
                );
            }
            (Stage::Echo, Item::Text(text)) => self.echo(id, Opcode::Text, text.as_bytes()),
            (Stage::Echo, Item::Binary(bytes)) => self.echo(id, Opcode::Binary, bytes),
            (Stage::Hello | Stage::Live, Item::Binary(bytes)) if !is_json => self.take_frame(id, bytes),
            (Stage::Hello | Stage::Live, Item::Text(text)) if is_json => self.take_text(id, text),
            _ => self.close(id, CloseCode::Malformed as u16, "text for JSON, binary for rkyv"),
        }
    }

    fn echo(&mut self, id: ConnId, opcode: Opcode, payload: &[u8]) {
        self.metrics.echo_messages += 1;
        self.queue_own(
            id,
            Lane::Messages,
            &[&server_header(opcode, payload.len(), true), payload],
        );
    }

    /// A JSON text: answered as a frame is, once it has become one.
    fn take_text(&mut self, id: ConnId, text: &str) {
        match encoding::from_json(text) {
            Ok(Some(frame)) => self.take_frame(id, &frame),
            Ok(None) => self.metrics.decode_frames += 1,
            Err((reference, error)) => {
                self.metrics.decode_frames += 1;
                self.refuse_frame(id, Some(reference), &error);
            }
        }
    }

    /// One canonical frame of a client.
    fn take_frame(&mut self, id: ConnId, bytes: &[u8]) {
        self.metrics.decode_frames += 1;
        let frame = match Frame::parse(bytes) {
            Ok(frame) => frame,
            Err(error) => {
                let reference = bytes
                    .get(HEADER_BYTES - 4..HEADER_BYTES)
                    .and_then(|reference| reference.try_into().ok())
                    .map(u32::from_le_bytes);
                return self.refuse_frame(id, reference, &error);
            }
        };
        let critical = frame
            .extensions()
            .find(|known| known.number & extension::CRITICAL != 0);
        if let Some(critical) = critical {
            let error = FrameError::CriticalExtension {
                number: critical.number,
            };
            return self.refuse_frame(id, Some(frame.reference), &error);
        }
        let stage = self.conns.get(id).map(|conn| conn.stage);
        let taken = match (stage, frame.known_kind()) {
            (Some(Stage::Hello), Some(FrameKind::Hello)) => self.take_hello(id, &frame),
            (Some(Stage::Hello), _) => {
                return self.close(id, CloseCode::Malformed as u16, "the first frame must be Hello");
            }
            (_, None) if frame.flags & frame_flag::MUST_UNDERSTAND == 0 => Ok(()),
            (_, None) => Err(FrameError::Kind { number: frame.kind }),
            (_, Some(kind)) => self.take_known(id, kind, &frame, bytes),
        };
        if let Err(error) = taken {
            self.refuse_frame(id, Some(frame.reference), &error);
        }
    }

    fn take_known(
        &mut self,
        id: ConnId,
        kind: FrameKind,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), FrameError> {
        if !self.is_within_rate(id) {
            self.refuse_for_rate(id, kind, frame);
            return Ok(());
        }
        let is_aside = matches!(
            kind,
            FrameKind::Delivered | FrameKind::CallStep | FrameKind::TypingStep
        );
        if is_aside && !self.is_within_asides(id) {
            self.refuse_for_rate(id, kind, frame);
            return Ok(());
        }
        match kind {
            FrameKind::Send => self.forward_send(id, frame, bytes),
            FrameKind::Sync
            | FrameKind::Pull
            | FrameKind::Read
            | FrameKind::Delivered
            | FrameKind::CallStep
            | FrameKind::TypingStep
            | FrameKind::PresenceQuery => self.forward_request(id, kind, frame, bytes),
            FrameKind::Ping => {
                self.metrics.heartbeat_pings += 1;
                let ping = frame.access::<body::ArchivedPing>()?;
                self.reply_pong(id, frame.reference, ping.time_ms.to_native());
                Ok(())
            }
            FrameKind::RefreshToken => self.refresh_token(id, frame),
            FrameKind::JoinRoom | FrameKind::LeaveRoom => {
                frame.access::<body::ArchivedRoom>()?;
                self.reply_error(
                    id,
                    frame.reference,
                    ErrorCode::Unsupported,
                    "rooms are not served here",
                );
                Ok(())
            }
            FrameKind::Hello => Err(FrameError::Field {
                field: "hello",
                problem: "came a second time".to_owned(),
            }),
            _ => Err(FrameError::Kind { number: frame.kind }),
        }
    }

    /// Answers a frame that is none, or closes if not even its header can be answered.
    fn refuse_frame(&mut self, id: ConnId, reference: Option<u32>, error: &FrameError) {
        self.metrics.decode_malformed += 1;
        let opening = self.conns.get(id).is_none_or(|conn| conn.stage != Stage::Live);
        match (reference, error) {
            (_, FrameError::Version { .. }) => {
                self.close(id, CloseCode::ProtocolVersion as u16, &error.to_string());
            }
            (Some(reference), _) if !opening => {
                self.reply_error(id, reference, error.code(), &error.to_string());
            }
            _ => self.close(id, CloseCode::Malformed as u16, &error.to_string()),
        }
    }
}
