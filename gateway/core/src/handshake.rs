//! handshake: from the first byte of a request to an open WebSocket.
//!
//! Owns nothing: the bytes of a head that is coming in are held in the connection's own box, at most
//! [`OPENING_BYTES_MAX`] with the PROXY header in front of it; a longer one is answered 431. What follows the head is
//! held as well, up to as much again (then 4504), and not looked at before 101 was written. A request that cannot
//! become a WebSocket gets an HTTP answer and is closed; one that is not there in time is closed without.

use corelane_protocol::id::ConnId;
use corelane_protocol::ws::handshake::{
    HandshakeError, HeadStatus, Upgrade, parse_upgrade, reject, scan_head_within,
};

use crate::encoding;
use crate::outbound::Lane;
use crate::shard::Shard;
use crate::table::{OPENING_BYTES_MAX, Stage, flag};

/// Where clients connect.
const PATH: &str = "/ws";
/// Where messages come back.
const ECHO_PATH: &str = "/echo";
/// Native clients: canonical frames.
const SUBPROTOCOL_RKYV: &str = "corelane.rkyv.v1";
/// Browsers: JSON texts.
const SUBPROTOCOL_JSON: &str = "corelane.json.v1";

/// What an upgrade was found to ask for.
struct Admission {
    subprotocol: Option<&'static str>,
    echo: bool,
}

impl Shard {
    /// Bytes of a request head, or behind it.
    pub(crate) fn take_head(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let rare = conn.rare();
        rare.held.extend_from_slice(bytes);
        let unread = rare.held.get(rare.held_at..).unwrap_or_default();
        match scan_head_within(unread, OPENING_BYTES_MAX.saturating_sub(rare.held_at)) {
            Ok(HeadStatus::Partial) => {}
            Ok(HeadStatus::Complete { head_bytes }) => {
                let mut held = std::mem::take(&mut rare.held);
                let head_at = std::mem::take(&mut rare.held_at);
                let rest = held.split_off(head_at + head_bytes);
                match self.upgrade(id, held.get(head_at..).unwrap_or_default()) {
                    Ok(()) => self.hold(id, &rest),
                    Err(error) => self.reject(id, &error),
                }
            }
            Err(error) => self.reject(id, &error),
        }
    }

    fn upgrade(&mut self, id: ConnId, head: &[u8]) -> Result<(), HandshakeError> {
        let upgrade = parse_upgrade(head)?;
        let admission = self.admission(&upgrade)?;
        let mut answer = std::mem::take(&mut self.scratch);
        answer.clear();
        upgrade.accept(admission.subprotocol, &mut answer);
        let mut refuse_code = None;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.stage = Stage::Upgrading;
            if admission.subprotocol == Some(SUBPROTOCOL_JSON) {
                conn.set(flag::JSON);
            }
            if let Some(opening) = conn.opening.as_mut() {
                opening.echo = admission.echo;
                opening.token = upgrade
                    .bearer_token
                    .clone()
                    .or_else(|| upgrade.query_value("token"))
                    .unwrap_or_default();
                refuse_code = opening.refuse_code;
            }
        }
        self.metrics.handshake_upgraded += 1;
        self.queue_own(id, Lane::Control, &[&answer]);
        self.scratch = answer;
        if let Some(code) = refuse_code {
            self.close(id, code, "");
        }
        Ok(())
    }

    fn admission(&self, upgrade: &Upgrade) -> Result<Admission, HandshakeError> {
        if let Some(origin) = &upgrade.origin
            && !self.config.origins.is_empty()
            && !self
                .config
                .origins
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        {
            return Err(HandshakeError::Origin);
        }
        match upgrade.path.as_str() {
            PATH => {
                let spoken = upgrade
                    .subprotocols
                    .iter()
                    .find_map(|offered| match offered.as_str() {
                        SUBPROTOCOL_RKYV => Some(SUBPROTOCOL_RKYV),
                        SUBPROTOCOL_JSON => Some(SUBPROTOCOL_JSON),
                        _ => None,
                    });
                let subprotocol =
                    spoken.ok_or(HandshakeError::Subprotocol("corelane.rkyv.v1, corelane.json.v1"))?;
                Ok(Admission {
                    subprotocol: Some(subprotocol),
                    echo: false,
                })
            }
            ECHO_PATH if self.config.echo => Ok(Admission {
                subprotocol: None,
                echo: true,
            }),
            _ => Err(HandshakeError::Path(if self.config.echo {
                "/ws, /echo"
            } else {
                "/ws"
            })),
        }
    }

    fn reject(&mut self, id: ConnId, error: &HandshakeError) {
        self.metrics.handshake_rejected += 1;
        let mut answer = std::mem::take(&mut self.scratch);
        answer.clear();
        reject(error, &mut answer);
        self.queue_own(id, Lane::Control, &[&answer]);
        self.scratch = answer;
        self.finish(id);
    }

    /// 101 was written: what the client sends from here on is WebSocket.
    pub(crate) fn upgraded(&mut self, id: ConnId) {
        let echo_bytes_max = self.config.echo_bytes_max;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let echo = conn.opening.as_ref().is_some_and(|opening| opening.echo);
        if echo {
            conn.stage = Stage::Echo;
            conn.opening = None;
            conn.decoder = encoding::decoder(echo_bytes_max);
        } else {
            conn.stage = Stage::Hello;
            conn.decoder = encoding::decoder(OPENING_BYTES_MAX as u32);
        }
        if echo {
            self.arm_heartbeat(id);
        }
        self.unblock(id);
    }
}
