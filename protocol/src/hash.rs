//! The two hashes that place data: conversation to lane, conversation to bus partition.
//!
//! Both are XXH3-64 (seed 0 and seed 1) over `app (u32 LE) ++ conversation bytes`. Stored data depends on
//! them, so they are pinned by tests and never change.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{AppId, ConvId, Lane, UserId};

/// The lane of a conversation. `lanes` is the store's lane count, a power of two.
///
/// # Panics
///
/// If `lanes` is no power of two; it is checked when the store is opened.
pub fn lane_of(app: AppId, conv: &ConvId, lanes: u16) -> Lane {
    assert!(lanes.is_power_of_two(), "the lane count is a power of two");
    Lane((place(app, conv.as_bytes(), 0) % u64::from(lanes)) as u16)
}

/// The bus partition of a conversation, of `partitions` (at least 1).
pub fn partition_of(app: AppId, conv: &ConvId, partitions: u16) -> u16 {
    (place(app, conv.as_bytes(), 1) % u64::from(partitions.max(1))) as u16
}

/// Slot group of a user in the registry, below 1,024.
pub fn registry_slot_of(app: AppId, user: &UserId) -> u16 {
    (place(app, user.as_str().as_bytes(), 0) % 1024) as u16
}

/// Content hash: XXH3-64, seed 2. Compares bodies of repeated sends; not a defence against forgery.
pub fn content_hash(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, 2)
}

fn place(app: AppId, bytes: &[u8], seed: u64) -> u64 {
    let mut key = Vec::with_capacity(4 + bytes.len());
    key.extend(app.0.to_le_bytes());
    key.extend(bytes);
    xxh3_64_with_seed(&key, seed)
}
