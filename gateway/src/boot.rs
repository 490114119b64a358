//! The boot of this gateway process: one for all its shards, and another one whenever it was declared dead.
//!
//! Owns a number. It stands beside the inboxes, not in them, so that no full inbox can drop a change: each shard compares
//! it with what it knows once a turn. Where the gateway has topics of its own (`bus.rs`) the next boot is put here only
//! when its topic is there.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The present boot.
#[derive(Debug)]
pub struct ProcessBoot {
    current: AtomicU64,
}

impl ProcessBoot {
    /// A boot drawn at random.
    ///
    /// # Errors
    ///
    /// The kernel gives no random bytes: do not start.
    pub fn draw() -> io::Result<Self> {
        Ok(Self {
            current: AtomicU64::new(Self::draw_next()?),
        })
    }

    /// A boot that may be put in the place of the present one.
    ///
    /// # Errors
    ///
    /// The kernel gives no random bytes.
    pub fn draw_next() -> io::Result<u64> {
        random()
    }

    /// The boot that all shards are to have.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Puts another boot, drawn at random, in the place of `lost`. False: another shard has done so already.
    ///
    /// # Errors
    ///
    /// The kernel gives no random bytes; `lost` stays.
    pub fn replace(&self, lost: u64) -> io::Result<bool> {
        Ok(self.put(lost, Self::draw_next()?))
    }

    /// Puts `next` in the place of `lost`. False: another one is there already.
    pub fn put(&self, lost: u64, next: u64) -> bool {
        self.current
            .compare_exchange(lost, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Never 0, which means "no boot" on links.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_lose_the_same_boot_make_one_new_one() {
        let boot = ProcessBoot::draw().unwrap();
        let lost = boot.current();
        let replaced = std::thread::scope(|scope| {
            let shards: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| boot.replace(lost).unwrap()))
                .collect();
            shards
                .into_iter()
                .map(|shard| u32::from(shard.join().unwrap()))
                .sum::<u32>()
        });
        assert_eq!(replaced, 1);
        let next = boot.current();
        assert_ne!(next, lost);
        assert!(!boot.replace(lost).unwrap(), "a late report changes nothing");
        assert_eq!(boot.current(), next);
    }
}
