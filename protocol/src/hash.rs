//! The hashes that place things: conversation to lane, conversation to bus partition, lane to router.
//!
//! The first two are XXH3-64 (seed 0 and seed 1) over `app (u32 LE) ++ conversation bytes`. Stored data depends on
//! them, and all nodes must agree on the third, so they are pinned by tests and never change.

use std::cmp::Reverse;

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

/// Which of the routers serves a lane: the index of its node in `nodes`, in whatever order they come; `None` if there is
/// none. Rendezvous hashing: XXH3-64 with seed 4 over the node's bytes followed by the lane (u16 LE), the highest score
/// serves it, of equal ones the smaller node. So a router that joins or leaves moves only its own lanes.
pub fn router_of<'a>(lane: Lane, nodes: impl Iterator<Item = &'a str>) -> Option<usize> {
    let score = |node: &str| xxh3_64_with_seed(&[node.as_bytes(), &lane.0.to_le_bytes()].concat(), 4);
    nodes
        .enumerate()
        .map(|(index, node)| (score(node), Reverse(node), index))
        .max()
        .map(|(_, _, index)| index)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn routers_of(nodes: &[&str]) -> Vec<usize> {
        let router = |lane| router_of(Lane(lane), nodes.iter().copied()).unwrap();
        (0..16).map(router).collect()
    }

    #[test]
    fn lanes_are_served_where_they_always_were() {
        let three = routers_of(&["router-1", "router-2", "router-3"]);
        assert_eq!(three, [1, 1, 2, 2, 0, 1, 1, 2, 0, 2, 0, 0, 0, 1, 2, 1]);
        let two = routers_of(&["router-1", "router-2"]);
        assert_eq!(two, [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(router_of(Lane(0), std::iter::empty()), None);
    }

    #[test]
    fn the_order_of_the_routers_says_nothing() {
        let three = routers_of(&["router-1", "router-2", "router-3"]);
        let turned = routers_of(&["router-3", "router-1", "router-2"]);
        let renamed: Vec<usize> = turned.iter().map(|index| [2, 0, 1][*index]).collect();
        assert_eq!(renamed, three);
    }
}
