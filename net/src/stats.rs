//! What the engine counts.

/// Counters since the engine was made, and its present size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Rings made so far.
    pub rings: u32,
    /// Sockets that are connected, connecting or closing.
    pub sockets_open: u32,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Completions read.
    pub completions: u64,
    /// Connections accepted, those from the reserve included.
    pub accepted: u64,
    /// Connections accepted from the reserve.
    pub accepted_reserve: u64,
    /// Accepts that failed (the listener goes on; after a lack of resources with a pause).
    pub accept_failures: u64,
    /// Outgoing connections made.
    pub connected: u64,
    /// Outgoing connections that failed.
    pub connect_failures: u64,
    /// Sockets closed.
    pub closed: u64,
    /// Receives that ended because no buffer was free. They go on when buffers come back.
    pub buffers_empty: u64,
    /// Rings that could not be made when they were needed.
    pub ring_failures: u64,
    /// Completions that belonged to no live operation. Anything but 0 is a bug of the engine.
    pub stale_completions: u64,
    /// User memory by owner.
    pub user_bytes: UserBytes,
}

/// User memory of the engine, by owner. What the kernel keeps for sockets and rings is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserBytes {
    /// Tables of slots, for all slots of all rings.
    pub slots: u64,
    /// Receive buffers and their rings (mapped; pages count once touched).
    pub receive_buffers: u64,
    /// Lists and tables of what is in flight, without the bytes of the spans.
    pub in_flight: u64,
}

impl UserBytes {
    /// All together.
    pub const fn total(&self) -> u64 {
        self.slots + self.receive_buffers + self.in_flight
    }
}
