//! A message is for whoever was a member at its place, also when members change within a commit.

use corelane_protocol::id::{ConvId, GroupId};
use corelane_router_core::append::Member;

use crate::bench::{Bench, append, user};

fn stay(name: &str, join_seq: u64, leave_seq: u64) -> Member {
    Member {
        user: user(name),
        join_seq,
        leave_seq,
    }
}

#[test]
fn who_joins_or_leaves_within_a_commit_gets_what_is_said_while_he_is_there() {
    let mut bench = Bench::new();
    let team = ConvId::group(&GroupId::new("team").unwrap());
    let stays = vec![
        stay("alice", 1, 0),
        stay("bob", 3, 0),
        stay("carol", 1, 3),
        stay("dave", 2, 4),
        stay("erin", 6, 0),
    ];
    bench.groups.insert(team.clone(), stays);
    // The first takes the lane; the others wait and are one commit.
    bench.submit((1..=5).map(|number| append(1, &team, number)).collect());
    bench.commit();
    let got = |name: &str| {
        let key = (1, name.to_owned(), team.to_string());
        bench.got.get(&key).cloned().unwrap_or_default()
    };
    assert_eq!(got("alice"), [1, 2, 3, 4, 5]);
    assert_eq!(got("bob"), [3, 4, 5]);
    assert_eq!(
        got("carol"),
        [1, 2, 3],
        "the change that let her out is hers, too"
    );
    assert_eq!(got("dave"), [2, 3, 4]);
    assert!(got("erin").is_empty(), "she comes later");
}

#[test]
fn who_left_before_the_members_were_read_gets_what_was_said_before() {
    let mut bench = Bench::new();
    let team = ConvId::group(&GroupId::new("team").unwrap());
    // Read after a later commit let him out.
    bench
        .groups
        .insert(team.clone(), vec![stay("alice", 1, 0), stay("bob", 1, 7)]);
    bench.submit(vec![append(1, &team, 1)]);
    bench.commit();
    assert_eq!(bench.got[&(1, "bob".to_owned(), team.to_string())], [1]);
}
