//! How users are spread over several targets: user `u` of `n` targets starts at target `u % n`.
//!
//! Neighbours are at different targets, so pairs and rings cross from one to another, and the members of a group, whose
//! numbers follow each other, are spread evenly. Who reconnects goes on to the next target, as behind a load balancer.

use crate::rng::Rng;

/// The target of a user's first connection.
pub const fn first_target(user: u32, targets: u32) -> u32 {
    user % targets
}

/// Where a connection goes after one to `target` ended.
pub const fn next_target(target: u32, targets: u32) -> u32 {
    (target + 1) % targets
}

/// Any other user of `users`; one that starts at another target if there are several.
pub fn random_peer(me: u32, users: u32, targets: u32, rng: &mut Rng) -> u32 {
    if targets < 2 {
        let peer = rng.below_u32(users - 1);
        return peer + u32::from(peer >= me);
    }
    let mine = me % targets;
    let at_mine = (users - mine).div_ceil(targets);
    // Users elsewhere, in order: each row of `targets` has one less.
    let drawn = rng.below_u32(users - at_mine);
    let (row, place) = (drawn / (targets - 1), drawn % (targets - 1));
    row * targets + place + u32::from(place >= mine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn peers_are_all_users_elsewhere_and_nobody_else() {
        let mut rng = Rng::new(1, 2);
        for (users, targets) in [(2, 1), (9, 1), (2, 2), (9, 2), (10, 3), (11, 3), (12, 3), (7, 5)] {
            for me in 0..users {
                let drawn: BTreeSet<u32> = (0..2_000)
                    .map(|_| random_peer(me, users, targets, &mut rng))
                    .collect();
                let may = |peer: &u32| {
                    let (mine, other) = (first_target(me, targets), first_target(*peer, targets));
                    *peer != me && (targets == 1 || mine != other)
                };
                let expected: BTreeSet<u32> = (0..users).filter(may).collect();
                assert_eq!(drawn, expected, "{me} of {users} at {targets}");
            }
        }
    }

    #[test]
    fn whoever_moves_on_comes_to_every_target() {
        assert_eq!(
            (next_target(0, 1), next_target(0, 3), next_target(2, 3)),
            (0, 1, 0)
        );
    }
}
