//! admit: who may come in, and how fast he may speak.
//!
//! Owns nothing between calls: what `Hello` said is in the connection's opening box, and what a session may still say
//! now in the session itself. When that is used up a frame is refused with `rate_limited` (which closes a send's gate),
//! and a client that goes on regardless is closed with 4006.
//!
//! `Hello` names terminal and device and may carry the token; the shell checks the token, this file checks that
//! the three agree, and that a newer token is for the same session. The rate limit is a token bucket per session, off by
//! default; frames that need no answer have a limit of their own ([`ASIDES_PER_S`]).

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameError, FrameKind, read};
use corelane_protocol::id::{ConnId, UserId};
use corelane_protocol::ws::CloseCode;

use crate::event::{Claims, Output, TokenVerdict};
use crate::shard::Shard;
use crate::table::{Session, Stage, flag};
use crate::wheel::TICK;

/// Frames refused in a row before the connection is closed.
const OVER_RATE_MAX: u32 = 1000;
/// Frames per second that need no answer (delivered marks, typing, steps of calls) which one connection may send:
/// no window bounds them, and a router has a bounded number of places for those of all.
const ASIDES_PER_S: u8 = 100;
/// Ticks of a second.
const TICKS_PER_S: u32 = (1000 / TICK.as_millis()) as u32;
/// Parts of a frame that the bucket counts in.
const PARTS: u32 = 100;

impl Shard {
    /// The first frame.
    pub(crate) fn take_hello(&mut self, id: ConnId, frame: &Frame<'_>) -> Result<(), FrameError> {
        let hello = read::hello(frame)?;
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        let Some(opening) = conn.opening.as_mut() else {
            return Ok(());
        };
        opening.terminal = hello.terminal as u8;
        hello.device.clone_into(&mut opening.device);
        opening.reference = frame.reference;
        let token = match hello.token {
            Some(token) => token.to_owned(),
            None => std::mem::take(&mut opening.token),
        };
        if token.is_empty() {
            self.close(id, CloseCode::AuthFailed as u16, "no token in upgrade or Hello");
            return Ok(());
        }
        conn.stage = Stage::Verifying;
        self.outputs.push(Output::Verify(id, token));
        Ok(())
    }

    /// A newer token. Answered by a `Pong` of the same reference once it was checked.
    pub(crate) fn refresh_token(&mut self, id: ConnId, frame: &Frame<'_>) -> Result<(), FrameError> {
        let token = read::refresh_token(frame)?.to_owned();
        if let Some(conn) = self.conns.get_mut(id) {
            conn.rare().refresh_reference = frame.reference;
            conn.set(flag::VERIFYING);
            self.outputs.push(Output::Verify(id, token));
        }
        Ok(())
    }

    /// The shell has checked a token.
    pub(crate) fn verified(&mut self, id: ConnId, verdict: Result<Claims, TokenVerdict>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match (conn.stage, verdict) {
            (Stage::Verifying, Ok(claims)) => self.admit(id, &claims),
            (Stage::Verifying, Err(TokenVerdict::Expired)) => {
                self.metrics.admit_refused_tokens += 1;
                self.close(id, CloseCode::TokenExpired as u16, "");
            }
            (Stage::Verifying, Err(TokenVerdict::Invalid(text))) => {
                self.metrics.admit_refused_tokens += 1;
                self.close(id, CloseCode::AuthFailed as u16, &text);
            }
            (Stage::Live, verdict) if conn.has(flag::VERIFYING) => self.refreshed(id, verdict),
            _ => {}
        }
    }

    fn admit(&mut self, id: ConnId, claims: &Claims) {
        let Some(opening) = self.conns.get_mut(id).and_then(|conn| conn.opening.as_mut()) else {
            return;
        };
        let device = std::mem::take(&mut opening.device);
        let terminal = opening.terminal;
        let bound = claims.device.clone().unwrap_or_else(|| device.clone());
        let is_other_device = !device.is_empty() && device != bound;
        if is_other_device
            || !is_for_terminal(claims, terminal)
            || bound.len() > corelane_protocol::id::ID_BYTES_MAX
        {
            self.metrics.admit_refused_tokens += 1;
            return self.close(
                id,
                CloseCode::AuthFailed as u16,
                "token is for another terminal or device",
            );
        }
        let mut session = Session::new(claims.app.0, claims.user.as_str(), terminal, &bound);
        session.issued_at_s = u32::try_from(claims.issued_at_s).unwrap_or(u32::MAX);
        session.expires_at_s = u32::try_from(claims.expires_at_s).unwrap_or(u32::MAX);
        session.allowance = self.burst();
        session.allowance_at = self.tick;
        session.owner_seq = self.next_owner_seq();
        if let Some(conn) = self.conns.get_mut(id) {
            conn.session = Some(session);
            conn.stage = Stage::Claiming;
        }
        self.claim(id, false);
    }

    fn refreshed(&mut self, id: ConnId, verdict: Result<Claims, TokenVerdict>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.clear(flag::VERIFYING);
        let reference = conn.rare.as_ref().map_or(0, |rare| rare.refresh_reference);
        conn.trim();
        let refusal = match (verdict, conn.session.as_mut()) {
            (Ok(claims), Some(session)) if is_of(&claims, session) => {
                session.expires_at_s = u32::try_from(claims.expires_at_s).unwrap_or(u32::MAX);
                None
            }
            (Ok(_), _) => Some("token is for another user, terminal or device".to_owned()),
            (Err(TokenVerdict::Expired), _) => Some("token has expired".to_owned()),
            (Err(TokenVerdict::Invalid(text)), _) => Some(text),
        };
        match refusal {
            None => self.reply_pong(id, reference, 0),
            Some(text) => {
                self.metrics.admit_refused_tokens += 1;
                self.reply_error(id, reference, ErrorCode::Forbidden, &text);
            }
        }
        self.unblock(id);
    }

    /// Two seconds' worth of frames.
    fn burst(&self) -> u32 {
        self.config.frames_per_s.saturating_mul(2 * PARTS)
    }

    /// Whether one more frame is within the rate limit.
    pub(crate) fn is_within_rate(&mut self, id: ConnId) -> bool {
        let frames_per_s = self.config.frames_per_s;
        if frames_per_s == 0 {
            return true;
        }
        let (burst, tick) = (self.burst(), self.tick);
        let Some(conn) = self.conns.get_mut(id) else {
            return true;
        };
        let Some(session) = conn.session.as_mut() else {
            return true;
        };
        let per_tick = frames_per_s.saturating_mul(PARTS / 10);
        let earned = per_tick.saturating_mul(tick.saturating_sub(session.allowance_at));
        session.allowance_at = tick;
        session.allowance = session.allowance.saturating_add(earned).min(burst);
        let is_within = session.allowance >= PARTS;
        if is_within {
            session.allowance -= PARTS;
            if let Some(rare) = conn.rare.as_mut() {
                rare.over_rate = 0;
            }
        }
        is_within
    }

    /// Whether one more frame that needs no answer is within [`ASIDES_PER_S`].
    pub(crate) fn is_within_asides(&mut self, id: ConnId) -> bool {
        let second = (self.tick / TICKS_PER_S) as u8;
        let Some(conn) = self.conns.get_mut(id) else {
            return true;
        };
        let Some(session) = conn.session.as_mut() else {
            return true;
        };
        if std::mem::replace(&mut session.asides_second, second) != second {
            session.asides = 0;
        }
        let is_within = session.asides < ASIDES_PER_S;
        if is_within {
            session.asides += 1;
            if let Some(rare) = conn.rare.as_mut() {
                rare.over_rate = 0;
            }
        }
        is_within
    }

    pub(crate) fn refuse_for_rate(&mut self, id: ConnId, kind: FrameKind, frame: &Frame<'_>) {
        self.metrics.admit_rate_limited += 1;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.rare().over_rate += 1;
        if conn.rare().over_rate > OVER_RATE_MAX {
            return self.close(id, CloseCode::RateLimited as u16, "");
        }
        let user = conn
            .session
            .as_ref()
            .and_then(|session| UserId::new(session.user()).ok());
        let text = "more frames per second than allowed";
        let aimed_at = read::send(frame)
            .ok()
            .zip(user)
            .and_then(|(send, user)| send.target.conv_for(&user).ok());
        match aimed_at {
            Some(aimed_at) if kind == FrameKind::Send => {
                self.refuse_send(
                    id,
                    frame.reference,
                    crate::window::key_of(&aimed_at),
                    ErrorCode::RateLimited,
                    text,
                );
            }
            _ => self.reply_error(id, frame.reference, ErrorCode::RateLimited, text),
        }
    }
}

fn is_for_terminal(claims: &Claims, terminal: u8) -> bool {
    claims.terminal.is_none_or(|bound| bound as u8 == terminal)
}

/// Whether a newer token may take the place of the one that `session` was admitted with.
fn is_of(claims: &Claims, session: &Session) -> bool {
    let is_for_device = claims
        .device
        .as_ref()
        .is_none_or(|bound| bound == session.device());
    claims.app.0 == session.app
        && claims.user.as_str() == session.user()
        && is_for_device
        && is_for_terminal(claims, session.terminal)
}
