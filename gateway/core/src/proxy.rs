//! accept: behind a TCP balancer a connection begins with a PROXY header, which says whose it is.
//!
//! Owns the last refusal, for the log. Only listed sources are believed: a connection from elsewhere is closed before
//! it gets a slot, and one that does not begin with a header is closed without an answer; both are counted, by reason.
//! The address in the header is the one that counts where connections per address are limited.
//!
//! The header stays in the connection's box in front of the request head: both together have `OPENING_BYTES_MAX` and
//! one deadline. With the head it is gone, so that it costs nothing later. When it is longer than `HEADER_BYTES_MAX` the
//! connection is closed like any other that does not begin with one; when too little room is left for the head behind it
//! that is answered 431 (`handshake.rs`); when the deadline passes it is closed.

use std::net::{IpAddr, SocketAddr};

use corelane_protocol::id::ConnId;
use corelane_protocol::proxy::{self, ProxyError};
use thiserror::Error;

use crate::event::Output;
use crate::shard::Shard;
use crate::table::Stage;

/// Who was refused, and why: for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyRefusal {
    /// It is not on the list.
    #[error("{source_address} is not listed in gateway.proxy_sources")]
    Stranger {
        /// Where the connection came from.
        source_address: IpAddr,
    },
    /// It is on the list, and its connection began with something else.
    #[error("{source_address}, which is listed in gateway.proxy_sources: {error}")]
    Header {
        /// Where the connection came from.
        source_address: IpAddr,
        /// What it began with.
        error: ProxyError,
    },
}

impl Shard {
    /// Whether connections from `address` may say whose they are.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        let sources = &self.config.proxy_sources;
        sources.iter().any(|network| network.contains(address))
    }

    /// Closes at once what did not come through a proxy.
    pub(crate) fn refuse_stranger(&mut self, id: ConnId, source_address: IpAddr) {
        self.metrics.accept_proxy_strangers += 1;
        self.proxy_refusal = Some(ProxyRefusal::Stranger { source_address });
        self.outputs.push(Output::Abort(id));
    }

    /// Bytes of a header, or behind it.
    pub(crate) fn take_proxy_header(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let rare = conn.rare();
        rare.held.extend_from_slice(bytes);
        match proxy::parse(&rare.held) {
            Ok(None) => {}
            Ok(Some(header)) => {
                rare.held_at = header.header_bytes;
                conn.stage = Stage::Head;
                self.metrics.accept_proxy_headers += 1;
                self.name_client(id, header.source);
                self.take_head(id, &[]);
            }
            Err(error) => self.refuse_header(id, error),
        }
    }

    /// The connection is the one of this client; without one it stays the proxy's own.
    fn name_client(&mut self, id: ConnId, client: Option<SocketAddr>) {
        let Some(opening) = self.conns.get(id).and_then(|conn| conn.opening.as_ref()) else {
            return;
        };
        let named = client.map(|client| client.ip()).or(opening.proxy);
        let (Some(address), None) = (named, opening.refuse_code) else {
            return;
        };
        let refuse_code = self.count_address(id, address.to_canonical());
        self.metrics.accept_refused += u64::from(refuse_code.is_some());
        if let Some(opening) = self.conns.get_mut(id).and_then(|conn| conn.opening.as_mut()) {
            opening.refuse_code = refuse_code;
        }
    }

    fn refuse_header(&mut self, id: ConnId, error: ProxyError) {
        let metrics = &mut self.metrics;
        let counter = match error {
            ProxyError::NoSignature => &mut metrics.accept_proxy_missing,
            ProxyError::VersionOne => &mut metrics.accept_proxy_version_one,
            ProxyError::TooLong { .. } => &mut metrics.accept_proxy_too_long,
            ProxyError::Checksum { .. } => &mut metrics.accept_proxy_damaged,
            _ => &mut metrics.accept_proxy_malformed,
        };
        *counter += 1;
        let opening = self.conns.get(id).and_then(|conn| conn.opening.as_ref());
        if let Some(source_address) = opening.and_then(|opening| opening.proxy) {
            self.proxy_refusal = Some(ProxyRefusal::Header {
                source_address,
                error,
            });
        }
        self.finish(id);
    }
}
