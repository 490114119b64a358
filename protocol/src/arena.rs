//! Memory that many outgoing frames share until the last socket has sent its part.
//!
//! A shard writes each frame once, side by side with the others of the same turn, and hands every
//! receiver a [`Span`] of the same bytes. A span keeps its chunk alive, so the kernel may still read
//! it after the arena has moved on. Spans that touch merge ([`Span::join`]), so what a turn wants to
//! send to one socket is usually one span and leaves in one send.
//!
//! Owns: one chunk that is being filled. When it is full the arena starts another; the old one lives as
//! long as a span of it. One frame larger than a chunk gets a chunk of its own.
//!
//! Bytes of a span never change once it was handed out: the arena only writes behind the last one.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

/// Bytes of a chunk that many frames share. A reader that is stuck pins at most one such chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Where frames are written once and sent many times.
#[derive(Debug)]
pub struct Arena {
    chunk: Rc<[Cell<u8>]>,
    used_bytes: usize,
}

impl Arena {
    /// An arena with one empty chunk of [`CHUNK_BYTES`].
    pub fn new() -> Self {
        Self {
            chunk: chunk_of(CHUNK_BYTES),
            used_bytes: 0,
        }
    }

    /// Copies `parts`, one behind the other, to the end of the arena and returns the span they fill.
    ///
    /// # Panics
    ///
    /// If `parts` together exceed `u32::MAX` bytes; frames are bounded far below.
    pub fn push(&mut self, parts: &[&[u8]]) -> Span {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(u32::try_from(len).is_ok(), "a span counts its bytes in 32 bits");
        if len > CHUNK_BYTES {
            let chunk = chunk_of(len);
            copy_parts(&chunk, 0, parts);
            return Span {
                chunk,
                start: 0,
                len: len as u32,
            };
        }
        if self.used_bytes + len > self.chunk.len() {
            self.next_chunk();
        }
        copy_parts(&self.chunk, self.used_bytes, parts);
        let span = Span {
            chunk: Rc::clone(&self.chunk),
            start: self.used_bytes as u32,
            len: len as u32,
        };
        self.used_bytes += len;
        span
    }

    /// Starts to fill memory from its beginning: the same chunk again if no span of it is left.
    fn next_chunk(&mut self) {
        if Rc::get_mut(&mut self.chunk).is_none() {
            self.chunk = chunk_of(CHUNK_BYTES);
        }
        self.used_bytes = 0;
    }

    /// Call once a turn, after its sends were handed over: memory that nobody sends from any more is
    /// filled again from its beginning, which keeps it in the cache.
    pub fn turn_ended(&mut self) {
        if Rc::get_mut(&mut self.chunk).is_some() {
            self.used_bytes = 0;
        }
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

/// Immutable bytes that live as long as somebody sends them. Cloning shares, it copies nothing.
#[derive(Clone)]
pub struct Span {
    chunk: Rc<[Cell<u8>]>,
    start: u32,
    len: u32,
}

impl Span {
    /// A span of its own memory.
    ///
    /// # Panics
    ///
    /// If `bytes` exceed `u32::MAX`.
    pub fn copied_from(bytes: &[u8]) -> Self {
        assert!(
            u32::try_from(bytes.len()).is_ok(),
            "a span counts its bytes in 32 bits"
        );
        let chunk = chunk_of(bytes.len());
        copy_parts(&chunk, 0, &[bytes]);
        Self {
            chunk,
            start: 0,
            len: bytes.len() as u32,
        }
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Grows this span by `next` if `next` lies directly behind it in the same chunk; else returns false
    /// and changes nothing.
    pub fn join(&mut self, next: &Self) -> bool {
        let touches = Rc::ptr_eq(&self.chunk, &next.chunk) && self.start + self.len == next.start;
        if touches {
            self.len += next.len;
        }
        touches
    }

    /// Drops the first `count` bytes, after a short write. Drops all if it has fewer.
    pub fn advance(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.len);
        self.start += count;
        self.len -= count;
    }

    /// The bytes as cells. For the I/O engine, which hands their address to the kernel and keeps the span
    /// until the kernel is done.
    pub fn cells(&self) -> &[Cell<u8>] {
        self.chunk
            .get(self.start as usize..(self.start + self.len) as usize)
            .unwrap_or(&[])
    }

    /// Appends the bytes to `into`.
    pub fn copy_to(&self, into: &mut Vec<u8>) {
        into.extend(self.cells().iter().map(Cell::get));
    }

    /// The bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.copy_to(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({} bytes)", self.len)
    }
}

fn chunk_of(len: usize) -> Rc<[Cell<u8>]> {
    std::iter::repeat_n(0_u8, len).map(Cell::new).collect()
}

/// Copies into `chunk` from `at`. The caller has checked that it fits.
fn copy_parts(chunk: &[Cell<u8>], mut at: usize, parts: &[&[u8]]) {
    for part in parts {
        for (cell, byte) in chunk.iter().skip(at).zip(part.iter()) {
            cell.set(*byte);
        }
        at += part.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_one_turn_join_and_keep_their_bytes() {
        let mut arena = Arena::new();
        let mut first = arena.push(&[b"ab", b"c"]);
        let second = arena.push(&[b"de"]);
        assert!(first.join(&second));
        assert_eq!(first.to_vec(), b"abcde");
        assert!(!first.join(&Span::copied_from(b"x")));
    }

    #[test]
    fn bytes_in_flight_outlive_their_chunk() {
        let mut arena = Arena::new();
        let held = arena.push(&[b"held"]);
        for _ in 0..3 * CHUNK_BYTES / 1000 {
            arena.push(&[&[7_u8; 1000]]);
            arena.turn_ended();
        }
        assert_eq!(held.to_vec(), b"held");
    }

    #[test]
    fn a_short_write_leaves_the_rest() {
        let mut span = Span::copied_from(b"abcdef");
        span.advance(4);
        assert_eq!(span.to_vec(), b"ef");
        span.advance(100);
        assert!(span.is_empty());
    }
}
