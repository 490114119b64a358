//! flush: at the end of a turn, everything for one socket leaves in one send.
//!
//! Owns the pool of empty backlogs; when it has [`BACKLOGS_POOLED`] the next one is freed. Never two sends of a connection
//! at a time: while one is in flight the rest waits in the queue, whose bounds `deliver.rs` keeps, and leaves with the
//! next send, at most [`SEND_BYTES`] at a time.

use corelane_protocol::arena::Span;
use corelane_protocol::id::ConnId;

use crate::event::Output;
use crate::outbound::{Backlog, BacklogPool, SEND_BYTES, Sending};
use crate::shard::Shard;
use crate::table::{Conn, Stage, flag};
use crate::transform::Transform;

/// Empty backlogs kept for their next use; each keeps up to 80 KiB.
const BACKLOGS_POOLED: usize = 256;

impl Shard {
    /// Hands everything that was queued in this turn to the engine.
    pub(crate) fn flush(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        for id in listed.drain(..) {
            if let Some(conn) = self.conns.get_mut(id) {
                if !conn.out.is_in_flight() {
                    self.tell_missed(id);
                }
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.clear(flag::LISTED);
                }
                self.flush_one(id);
            }
        }
        debug_assert!(self.listed.is_empty(), "flushing lists nobody again");
        self.listed = listed;
        self.arenas.frames.turn_ended();
        self.arenas.texts.turn_ended();
        self.arenas.own.turn_ended();
    }

    fn flush_one(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.stage == Stage::Closed || conn.out.is_in_flight() {
            return;
        }
        self.scratch.clear();
        let sending = std::mem::replace(&mut conn.out.sending, Sending::Idle);
        let mut is_own = std::mem::take(&mut conn.out.is_own);
        let span = match (sending, conn.out.backlog.as_mut()) {
            (Sending::Ready(span), None) => Some(span),
            (Sending::Ready(span), Some(backlog)) => {
                span.copy_to(&mut self.scratch);
                backlog.take(&mut self.scratch, SEND_BYTES);
                // Few bytes of several kinds: one send of a copy beats two sends.
                if self.scratch.len() == span.len() {
                    Some(span)
                } else {
                    is_own = true;
                    Some(self.arenas.own.push(&[&self.scratch]))
                }
            }
            (_, Some(backlog)) => {
                backlog.take(&mut self.scratch, SEND_BYTES);
                is_own = true;
                Some(Span::copied_from(&self.scratch)).filter(|span| !span.is_empty())
            }
            (_, None) => None,
        };
        if let Some(backlog) = conn.out.backlog.take_if(|backlog| backlog.len() == 0) {
            recycle(&mut self.backlogs, backlog);
        }
        if let Some(span) = span {
            // It leaves as it is.
            let Transform::Plain = conn.transform;
            let bytes = span.len() as u32;
            conn.out.sending = Sending::InFlight {
                bytes,
                owned_bytes: if is_own { bytes } else { 0 },
                since: self.tick,
            };
            self.metrics.flush_sends += 1;
            self.metrics.flush_bytes += span.len() as u64;
            self.outputs.push(Output::Send(id, span));
        }
        if conn.has(flag::FINISH) && conn.out.backlog.is_none() {
            conn.stage = Stage::Closed;
            self.outputs.push(Output::Close(id));
        }
        // The usual case owns nothing: a span that others share.
        if is_own || conn.weight > 0 {
            self.weigh(id);
        }
    }

    /// The span in flight has left.
    pub(crate) fn sent(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if !conn.out.is_in_flight() {
            debug_assert!(false, "{id:?} was sent although nothing was in flight");
            return;
        }
        conn.out.sending = Sending::Idle;
        if conn.out.backlog.is_none() {
            conn.out.asked_bytes = 0;
        }
        let missed = conn.rare.as_ref().is_some_and(|rare| !rare.missed.is_empty());
        let (listed, owns) = (
            conn.out.backlog.is_some() || missed || conn.has(flag::FINISH),
            conn.weight > 0,
        );
        if listed {
            self.list(id);
        }
        if owns {
            self.weigh(id);
        }
        match self.conns.get(id).map(|conn| conn.stage) {
            Some(Stage::Upgrading) => self.upgraded(id),
            Some(_) => self.unblock(id),
            None => {}
        }
    }

    /// Drops all payload that waits for a connection; the places of its messages are noted as missed.
    pub(crate) fn drop_payload(&mut self, id: ConnId) {
        self.drop_queued(id, |conn, backlog| backlog.drop_payload(&mut conn.rare().missed));
    }

    /// Drops the pages that wait for a connection that closes.
    pub(crate) fn drop_pages(&mut self, id: ConnId) {
        self.drop_queued(id, |_, backlog| backlog.drop_pages());
    }

    fn drop_queued(&mut self, id: ConnId, drop: impl FnOnce(&mut Conn, &mut Backlog)) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Some(mut backlog) = conn.out.backlog.take() else {
            return;
        };
        drop(conn, &mut backlog);
        if backlog.len() == 0 {
            recycle(&mut self.backlogs, backlog);
        } else {
            conn.out.backlog = Some(backlog);
        }
        self.weigh(id);
    }
}

pub(crate) fn recycle(pool: &mut BacklogPool, mut backlog: Box<Backlog>) {
    if pool.len() < BACKLOGS_POOLED {
        backlog.recycle();
        pool.push(backlog);
    }
}
