//! The slots of one ring: sixteen bytes for each direct descriptor, used or not.
//!
//! A slot is used again only when nothing of it is in flight, and then under the next generation.

/// How far the life of a slot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Life {
    /// In the free list; `aux` is the next free slot.
    Free,
    /// An accept is armed for it; `aux` is its entry.
    Accepting,
    /// A connect is in flight; `aux` is its address.
    Connecting,
    /// Connected.
    Open,
    /// To be closed once the send in flight is done.
    Flushing,
    /// FIN is on its way; what still arrives is thrown away until the peer sends its own.
    Lingering,
    /// Everything in flight was cancelled; waits for the last completion.
    Ending,
    /// The direct descriptor is being freed.
    Closing,
}

/// Which receive operation is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Armed {
    Nothing,
    Poll,
    Once,
    Many,
}

/// Small facts about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u16);

impl Flags {
    /// The user does not want to receive.
    pub(crate) const PAUSED: Self = Self(1);
    /// FIN was received.
    pub(crate) const PEER_CLOSED: Self = Self(1 << 1);
    /// The armed receive was told to end.
    pub(crate) const RECEIVE_CANCELLED: Self = Self(1 << 2);
    /// Waits for a receive buffer.
    pub(crate) const STARVED: Self = Self(1 << 3);
    /// In the list of sockets that receive with buffers.
    pub(crate) const LISTED: Self = Self(1 << 4);
    /// The receive queue is to be emptied before the close: unread bytes would turn FIN into a reset.
    pub(crate) const DISCARD: Self = Self(1 << 5);
    /// `errno` is the reason of the close.
    pub(crate) const BROKEN: Self = Self(1 << 6);
    /// `errno` is the reason why connecting failed.
    pub(crate) const CONNECT_FAILED: Self = Self(1 << 7);
    /// A send is in flight; `aux` is its span.
    pub(crate) const SENDING: Self = Self(1 << 8);
    /// In the line of sockets that wait for a buffer.
    pub(crate) const QUEUED: Self = Self(1 << 9);
    /// Stay with the slot when it is freed: the lists drop it by themselves when they meet it, and until then it must not
    /// be entered again.
    const OF_SLOT: Self = Self(Self::LISTED.0 | Self::QUEUED.0);

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) const fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    /// By `life`: next free slot, accept entry, address, span.
    pub(crate) aux: u32,
    pub(crate) flags: Flags,
    pub(crate) errno: u16,
    /// Coarse time of the last bytes received, for choosing between poll and receive.
    pub(crate) heard_tick: u8,
    pub(crate) life: Life,
    pub(crate) armed: Armed,
    /// Submissions whose last completion has not come.
    pub(crate) in_flight: u8,
}

const _: () = assert!(size_of::<Slot>() == 16, "a slot is one quarter of a cache line");

const NO_SLOT: u32 = u32::MAX;

/// All slots of a ring. Allocated at once when the ring is made; never grows.
#[derive(Debug)]
pub(crate) struct Slots {
    all: Vec<Slot>,
    /// First slot of the free list, or `NO_SLOT`.
    free_first: u32,
    free_count: u32,
}

impl Slots {
    pub(crate) fn new(count: u32) -> Self {
        let all = (0..count)
            .map(|slot| Slot {
                generation: 0,
                aux: if slot + 1 == count { NO_SLOT } else { slot + 1 },
                flags: Flags::default(),
                errno: 0,
                heard_tick: 0,
                life: Life::Free,
                armed: Armed::Nothing,
                in_flight: 0,
            })
            .collect();
        Self {
            all,
            free_first: if count == 0 { NO_SLOT } else { 0 },
            free_count: count,
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Slot> {
        self.all.get(slot as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.all.get_mut(slot as usize)
    }

    #[expect(clippy::cast_possible_truncation, reason = "made from a 32-bit count")]
    pub(crate) fn count(&self) -> u32 {
        self.all.len() as u32
    }

    pub(crate) const fn free_count(&self) -> u32 {
        self.free_count
    }

    /// Takes the slot that was freed last, with `life`; `None` if all are used.
    pub(crate) fn take(&mut self, life: Life) -> Option<(u32, &mut Slot)> {
        let number = self.free_first;
        let slot = self.all.get_mut(number as usize)?;
        debug_assert_eq!(slot.life, Life::Free, "only free slots are in the free list");
        debug_assert_eq!(slot.in_flight, 0, "nothing of a free slot is in flight");
        self.free_first = slot.aux;
        self.free_count -= 1;
        slot.life = life;
        Some((number, slot))
    }

    /// Gives a slot back; its id is not valid any more.
    pub(crate) fn give_back(&mut self, number: u32) {
        let free_first = self.free_first;
        let Some(slot) = self.all.get_mut(number as usize) else {
            return;
        };
        debug_assert_eq!(
            slot.in_flight, 0,
            "a slot is freed when nothing of it is in flight"
        );
        slot.generation = slot.generation.wrapping_add(1);
        slot.flags = Flags(slot.flags.0 & Flags::OF_SLOT.0);
        slot.errno = 0;
        slot.life = Life::Free;
        slot.armed = Armed::Nothing;
        slot.aux = free_first;
        self.free_first = number;
        self.free_count += 1;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_given_once_and_comes_back_under_a_new_generation() {
        let mut slots = Slots::new(3);
        let taken: Vec<u32> = (0..3).map(|_| slots.take(Life::Open).unwrap().0).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert!(slots.take(Life::Open).is_none());
        slots.give_back(1);
        assert_eq!(slots.free_count(), 1);
        let (number, slot) = slots.take(Life::Open).unwrap();
        assert_eq!((number, slot.generation), (1, 1));
    }
}
