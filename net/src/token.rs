//! What a submission says about itself, given back by the kernel with each of its completions.
//!
//! ```text
//!   63    60 59             32 31              0
//!   [ op:4 ][ slot index: 28 ][ generation: 32 ]
//! ```

/// Largest slot index.
pub(crate) const INDEX_MAX: u32 = (1 << 28) - 1;

/// The operations of the engine. One of each kind but `Cancel` can be in flight per slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// Waits for a peer; owns the slot the connection will have.
    Accept = 1,
    /// Makes an outgoing connection.
    Connect,
    /// Waits, without a buffer, until something can be received.
    Poll,
    /// Receives once.
    ReceiveOnce,
    /// Receives until it is cancelled, fails or finds no buffer.
    ReceiveMany,
    /// Sends a span.
    Send,
    /// Cancels another operation of the slot.
    Cancel,
    /// Sends FIN.
    Shutdown,
    /// Throws away what is in the receive queue.
    Discard,
    /// Frees the direct descriptor.
    Close,
    /// Waits for the eventfd of the waker and of the other rings.
    Bell,
    /// Cancels everything, when the engine is dropped.
    CancelAll,
}

impl Op {
    const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            1 => Self::Accept,
            2 => Self::Connect,
            3 => Self::Poll,
            4 => Self::ReceiveOnce,
            5 => Self::ReceiveMany,
            6 => Self::Send,
            7 => Self::Cancel,
            8 => Self::Shutdown,
            9 => Self::Discard,
            10 => Self::Close,
            11 => Self::Bell,
            12 => Self::CancelAll,
            _ => return None,
        })
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) op: Op,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Token {
    /// For operations that belong to no slot.
    pub(crate) const fn of(op: Op) -> Self {
        Self {
            op,
            index: 0,
            generation: 0,
        }
    }

    pub(crate) const fn pack(self) -> u64 {
        (self.op as u64) << 60 | (self.index as u64) << 32 | self.generation as u64
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is cut out of its bits"
    )]
    pub(crate) const fn unpack(bits: u64) -> Option<Self> {
        match Op::from_bits(bits >> 60) {
            Some(op) => Some(Self {
                op,
                index: (bits >> 32) as u32 & INDEX_MAX,
                generation: bits as u32,
            }),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        for op in (0..16).filter_map(Op::from_bits) {
            let token = Token {
                op,
                index: INDEX_MAX - 5,
                generation: u32::MAX,
            };
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
    }
}
