//! Names of things in an engine. Each is meaningless in any other engine.

/// One connection. Never valid again after its [`Event::Closed`](crate::Event::Closed): the slot's next user has another
/// generation, and every call with an old id does nothing.
#[derive(Debug, Copy, Clone, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct Socket(u64);

impl Socket {
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    /// Position in the engine's table: small and dense (the lowest rings fill first), for side tables. Two
    /// sockets that are alive at once never share it.
    pub const fn index(self) -> usize {
        self.slot_index() as usize
    }

    /// How often the slot had been used before.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is the index")]
    pub(crate) const fn slot_index(self) -> u32 {
        self.0 as u32
    }
}

/// One listening address.
#[derive(Debug, Copy, Clone, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) u32);

/// One receive buffer that was handed out with [`Event::Received`](crate::Event::Received), until
/// [`Engine::recycle`](crate::Engine::recycle).
#[derive(Debug, Copy, Clone, Eq, PartialEq, Hash)]
pub struct BufferId {
    pub(crate) ring: u16,
    pub(crate) buffer: u16,
}
