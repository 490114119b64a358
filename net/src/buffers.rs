//! The receive buffers of one ring. The kernel takes one when bytes have arrived, not before, so their
//! number follows what is being received and not how many sockets there are.
//!
//! Each buffer is with the kernel (posted), with the user (held), or on its way in a completion. Only a
//! held one can be looked at or given back, so the kernel and the user never share one.
//!
//! When all are held the kernel answers `ENOBUFS`; bytes stay in their sockets.
#![expect(
    unsafe_code,
    reason = "the kernel writes receive buffers and reads their ring"
)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::region::Region;

/// Length of a buffer that the user does not hold.
const NOT_HELD: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Buffers {
    memory: Region,
    /// Entries the kernel reads: a power of two; the tail lies in the spare bytes of the first.
    entries: Region,
    /// Received bytes of each held buffer, else [`NOT_HELD`].
    held_bytes: Vec<u32>,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    /// Buffers that are neither posted nor held are on their way in a completion; those count as posted.
    held_count: u16,
}

impl Buffers {
    pub(crate) fn new(count: u16, buffer_bytes: u32) -> io::Result<Self> {
        let mut buffers = Self {
            memory: Region::map(count as usize * buffer_bytes as usize)?,
            entries: Region::map(count as usize * size_of::<BufRingEntry>())?,
            held_bytes: vec![NOT_HELD; count as usize],
            count,
            buffer_bytes,
            tail: 0,
            held_count: 0,
        };
        for buffer in 0..count {
            buffers.write_entry(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Address of the ring, for registering it.
    pub(crate) fn ring_address(&self) -> u64 {
        self.entries.start().as_ptr() as u64
    }

    pub(crate) const fn count(&self) -> u16 {
        self.count
    }

    /// Whether the kernel has any.
    pub(crate) const fn posted_count(&self) -> u16 {
        self.count - self.held_count
    }

    /// Notes that the kernel filled `buffer` with `bytes`.
    pub(crate) fn hold(&mut self, buffer: u16, bytes: u32) {
        let limit = self.buffer_bytes;
        if let Some(held) = self.held_bytes.get_mut(buffer as usize) {
            debug_assert_eq!(*held, NOT_HELD, "the kernel fills only what was posted");
            *held = bytes.min(limit);
            self.held_count += 1;
        }
    }

    /// The received bytes; empty if the buffer is not held.
    pub(crate) fn bytes_mut(&mut self, buffer: u16) -> &mut [u8] {
        let Some(&bytes) = self.held_bytes.get(buffer as usize) else {
            return &mut [];
        };
        if bytes == NOT_HELD {
            return &mut [];
        }
        // SAFETY: `buffer < count`, so the offset lies inside the mapping.
        let start = unsafe { self.start_of(buffer) };
        // SAFETY: `bytes` is at most the size of a buffer; the memory is initialised (mapped zeroed); the
        // buffer is held, so the kernel does not write to it, and `&mut self` keeps other slices away.
        unsafe { std::slice::from_raw_parts_mut(start, bytes as usize) }
    }

    /// Posts a held buffer again. Does nothing for one that is not held.
    pub(crate) fn recycle(&mut self, buffer: u16) {
        let Some(held) = self.held_bytes.get_mut(buffer as usize) else {
            return;
        };
        if *held == NOT_HELD {
            return;
        }
        *held = NOT_HELD;
        self.held_count -= 1;
        self.write_entry(buffer);
        self.publish();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes() + self.entries.bytes() + self.held_bytes.capacity() * size_of::<u32>()
    }

    /// # Safety
    ///
    /// `buffer` must be below `count`.
    unsafe fn start_of(&self, buffer: u16) -> *mut u8 {
        let offset = buffer as usize * self.buffer_bytes as usize;
        // SAFETY: the mapping has `count * buffer_bytes` bytes and `buffer < count` by contract.
        unsafe { self.memory.start().as_ptr().add(offset) }
    }

    /// Writes the entry behind the tail. `buffer` is below `count` in both callers.
    fn write_entry(&mut self, buffer: u16) {
        // SAFETY: `buffer < count`.
        let address = unsafe { self.start_of(buffer) } as u64;
        let position = (self.tail & (self.count - 1)) as usize;
        let first = self.entries.start_as::<BufRingEntry>();
        // SAFETY: `position < count`, and the mapping has `count` entries.
        let entry = unsafe { first.add(position) };
        // SAFETY: the entry lies in the mapping, page alignment is enough for it, and all zeros or what was
        // written before is a valid one. The kernel reads it only once the tail has passed it; at most
        // `count` buffers exist, so the tail never laps entries that are still posted.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel the tail.
    fn publish(&self) {
        let first = self.entries.start_as::<BufRingEntry>();
        // SAFETY: `first` is the address of the first entry of the ring, which is mapped.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is two aligned bytes inside the mapping that user and kernel share by atomic
        // access; `set_*` above never touch them.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_held_buffer_can_be_seen_and_given_back() {
        let mut buffers = Buffers::new(4, 64).unwrap();
        assert!(buffers.bytes_mut(2).is_empty());
        buffers.hold(2, 10);
        assert_eq!(buffers.bytes_mut(2).len(), 10);
        assert_eq!(buffers.posted_count(), 3);
        buffers.recycle(2);
        buffers.recycle(2);
        buffers.recycle(900);
        assert!(buffers.bytes_mut(2).is_empty());
        assert_eq!(buffers.posted_count(), 4);
    }
}
