//! What an engine and a listener are made from.

use std::time::Duration;

use corelane_protocol::listener::ListenerKind;

use crate::error::EngineError;
use crate::token::INDEX_MAX;

/// Sizes of an engine. [`EngineConfig::default`] suits a gateway shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sockets per ring: the size of its table of direct descriptors. Default: 16,384, or the soft
    /// `RLIMIT_NOFILE` if that is lower (the kernel allows no larger table). Too small makes many rings,
    /// each with some 130 KiB of kernel memory. At least 4.
    pub slots_per_ring: u32,
    /// Most rings the engine makes, one after the other as they fill. `slots_per_ring * rings_max` bounds
    /// the sockets of the shard. Default 64.
    pub rings_max: u32,
    /// Receive buffers of the first ring, a power of two up to 32,768; later rings have an eighth of it.
    /// Default 1,024. Too few end receives early and arm them again (`buffers_empty` counts them).
    pub receive_buffers: u16,
    /// Bytes of one receive buffer. Default 4,096. Memory committed is this times the buffers.
    pub receive_buffer_bytes: u32,
    /// `SO_SNDBUF` of every socket, accepted or connected. Default 64 KiB (the kernel doubles it). It
    /// bounds the kernel memory a peer that does not read can own.
    pub send_buffer_bytes: u32,
    /// `TCP_USER_TIMEOUT` of connections that this engine makes: sent bytes that the peer does not acknowledge for so
    /// long, or whose window stays shut for so long, break the connection. Default none: the system's own 15 minutes.
    pub unacknowledged_max: Option<Duration>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            slots_per_ring: crate::sockopt::descriptor_limit().min(16_384),
            rings_max: 64,
            receive_buffers: 1024,
            receive_buffer_bytes: 4096,
            send_buffer_bytes: 64 * 1024,
            unacknowledged_max: None,
        }
    }
}

/// Accept entries a listener keeps armed, and sockets kept back from the whole for telling people that
/// there is no room, where the rings are large enough.
const RESERVE_SLOTS: u32 = 64;

impl EngineConfig {
    /// Receive buffers of the rings after the first.
    pub(crate) const fn later_receive_buffers(&self) -> u16 {
        let eighth = self.receive_buffers / 8;
        if eighth == 0 { 1 } else { eighth }
    }

    /// Accept entries per listener, which is also the number of sockets kept back.
    pub(crate) fn reserve_slots(&self) -> u32 {
        (self.slots_per_ring / 4).clamp(1, RESERVE_SLOTS)
    }

    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let wrong = |what: &'static str, value: u64, allowed: String| {
            Err(EngineError::Config { what, value, allowed })
        };
        let limit = crate::sockopt::descriptor_limit();
        if self.slots_per_ring < 4 || self.slots_per_ring > limit {
            let allowed = format!("4 to the soft RLIMIT_NOFILE, {limit}");
            return wrong("slots_per_ring", u64::from(self.slots_per_ring), allowed);
        }
        let slots = u64::from(self.slots_per_ring) * u64::from(self.rings_max);
        if self.rings_max == 0 || self.rings_max > 32_768 || slots > u64::from(INDEX_MAX) {
            let allowed = format!("1 to 32768 rings, at most {INDEX_MAX} sockets together");
            return wrong("rings_max", u64::from(self.rings_max), allowed);
        }
        if !self.receive_buffers.is_power_of_two() || self.receive_buffers > 32_768 {
            let allowed = "a power of two from 1 to 32768".to_owned();
            return wrong("receive_buffers", u64::from(self.receive_buffers), allowed);
        }
        if !(64..=1 << 20).contains(&self.receive_buffer_bytes) {
            let allowed = "64 to 1048576".to_owned();
            return wrong(
                "receive_buffer_bytes",
                u64::from(self.receive_buffer_bytes),
                allowed,
            );
        }
        if !(2048..=1 << 30).contains(&self.send_buffer_bytes) {
            let allowed = "2048 to 1073741824".to_owned();
            return wrong("send_buffer_bytes", u64::from(self.send_buffer_bytes), allowed);
        }
        Ok(())
    }
}

/// How to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections the kernel completes and keeps until they are accepted. The kernel caps it at
    /// `net.core.somaxconn`. Default 4,096.
    pub backlog: u32,
    /// `SO_REUSEPORT`: several listeners, one per shard, share the port and the kernel spreads new
    /// connections over them. Default false: a second listener is an error.
    pub reuse_port: bool,
    /// What its connections speak; told with each of them, otherwise nothing to the engine. Default plain.
    pub kind: ListenerKind,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: false,
            kind: ListenerKind::Plain,
        }
    }
}
