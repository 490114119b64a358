//! The hashes that place data: conversation to lane, conversation to bus partition, lane to router.
//!
//! The first two are XXH3-64 (seed 0 and seed 1) over `app (u32 LE) ++ conversation bytes`. Stored data depends on
//! them, and gateways and routers must agree on the third, so they are pinned by tests and never change.

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

/// Which of `nodes` serves `lane`: the index of the router with the highest score, of equal ones that with the smallest
/// id. `None` without nodes. In whatever order they come: a router that joins or leaves moves only its own lanes.
///
/// A score is XXH3-64 (seed 3) over `node id ++ lane (u16 LE)`.
pub fn router_of<'a>(lane: Lane, nodes: impl Iterator<Item = &'a str>) -> Option<usize> {
    highest(nodes, &lane.0.to_le_bytes(), 3)
}

/// Which of `nodes` shard `shard` of `gateway` turns to first, by the same rule with seed 4 and the key
/// `0 ++ gateway ++ shard (u16 LE)`. Only gateways ask.
pub fn home_of<'a>(gateway: &str, shard: u16, nodes: impl Iterator<Item = &'a str>) -> Option<usize> {
    let key = [&[0], gateway.as_bytes(), &shard.to_le_bytes()].concat();
    highest(nodes, &key, 4)
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

/// Rendezvous hashing: the index of the node whose id and `key` have the highest hash.
fn highest<'a>(nodes: impl Iterator<Item = &'a str>, key: &[u8], seed: u64) -> Option<usize> {
    let mut bytes = Vec::new();
    let scored = nodes.enumerate().map(|(index, node)| {
        bytes.clear();
        bytes.extend_from_slice(node.as_bytes());
        bytes.extend_from_slice(key);
        (xxh3_64_with_seed(&bytes, seed), Reverse(node), Reverse(index))
    });
    scored.max().map(|(_, _, Reverse(index))| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 3] = ["router-1", "router-2", "router-3"];

    fn owners(nodes: &[&str], lanes: u16) -> Vec<usize> {
        let owner = |lane| router_of(Lane(lane), nodes.iter().copied());
        (0..lanes).filter_map(owner).collect()
    }

    #[test]
    fn the_routers_of_lanes_are_what_they_were() {
        assert_eq!(
            xxh3_64_with_seed(b"router-1\x05\x00", 3),
            0x8090_d9ed_ad38_5553,
            "node id, then the lane"
        );
        assert_eq!(
            owners(&NODES, 16),
            [0, 1, 0, 1, 1, 0, 2, 1, 2, 0, 1, 0, 2, 1, 0, 2]
        );
        let homes = |gateway| (0..4).filter_map(move |shard| home_of(gateway, shard, NODES.into_iter()));
        assert_eq!(homes("gateway-1").collect::<Vec<_>>(), [1, 1, 1, 0]);
        assert_eq!(homes("gateway-2").collect::<Vec<_>>(), [2, 0, 0, 0]);
    }

    #[test]
    fn a_router_that_leaves_moves_only_its_own_lanes_and_order_does_not_matter() {
        let (all, two) = (owners(&NODES, 128), owners(&NODES[..2], 128));
        for (before, after) in all.iter().zip(&two) {
            assert!(
                before == after || *before == 2,
                "a lane of {before} went to {after}"
            );
        }
        for node in 0..3 {
            let count = all.iter().filter(|owner| **owner == node).count();
            assert!((30..60).contains(&count), "{count} of 128 lanes at node {node}");
        }
        let turned = owners(&["router-3", "router-2", "router-1"], 128);
        assert!(all.iter().zip(&turned).all(|(one, other)| one + other == 2));
        assert_eq!(router_of(Lane(0), std::iter::empty()), None);
        assert_eq!(router_of(Lane(0), ["same", "same"].into_iter()), Some(0));
    }
}
