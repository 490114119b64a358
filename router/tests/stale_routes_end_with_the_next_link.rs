//! A session that ended while its shard had no link could not say so: its route ends when the next link has claimed all
//! others.

mod link_support;

use std::path::Path;

use corelane_protocol::link::record::RecordKind;
use corelane_router::RouterHandle;
use link_support::{Gateway, Http, router};

const BOOT: u64 = 11;

fn sessions(dir: &Path, router: &RouterHandle, user: &str) -> usize {
    let (status, sessions) = Http::of(dir, router).get(&format!("/v1/users/{user}/sessions"));
    assert_eq!(status, 200);
    sessions.as_array().map_or(0, Vec::len)
}

/// Says that all claims are made. They are carried out in order: the claim that is answered next comes after them.
fn claims_done(gateway: &mut Gateway) {
    gateway.push(RecordKind::ClaimsDone, 0, 0, "", &[]);
    gateway.login("somebody", 900);
}

#[test]
fn what_was_not_claimed_on_the_new_link_ends_when_all_has_been_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, BOOT);
    let mut other = Gateway::link(dir.path(), &router, 12);
    gateway.login("alice", 1);
    gateway.login("bob", 2);
    claims_done(&mut gateway);
    other.login("carol", 2);
    drop(gateway);

    let mut gateway = Gateway::link(dir.path(), &router, BOOT);
    gateway.login("alice", 1);
    assert_eq!(sessions(dir.path(), &router, "bob"), 1, "he may be claimed yet");
    claims_done(&mut gateway);
    assert_eq!(sessions(dir.path(), &router, "bob"), 0);
    assert_eq!(sessions(dir.path(), &router, "alice"), 1);
    assert_eq!(sessions(dir.path(), &router, "carol"), 1, "another gateway's");
}

#[test]
fn claims_before_the_end_of_the_walk_count_and_those_given_up_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, BOOT);
    // Logs in on this link and leaves it again, before the walk over the others has come to its end.
    let alice = gateway.login("alice", 1);
    gateway.login("bob", 2);
    let unclaim = corelane_protocol::link::body::Unclaim { owner_seq: 1 };
    let body = corelane_protocol::frame::archive(&unclaim);
    gateway.push(RecordKind::Unclaim, alice, 0, "alice", &body);
    claims_done(&mut gateway);
    assert_eq!(sessions(dir.path(), &router, "alice"), 0);
    assert_eq!(sessions(dir.path(), &router, "bob"), 1);
    // A second one on the same link says nothing new.
    gateway.login("carol", 3);
    claims_done(&mut gateway);
    assert_eq!(sessions(dir.path(), &router, "carol"), 1);
    assert_eq!(sessions(dir.path(), &router, "bob"), 1);
}

#[test]
fn what_an_older_link_still_asked_for_does_not_come_after_the_newer_ones_walk() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    for round in 0..20 {
        let mut older = Gateway::link(dir.path(), &router, BOOT + round);
        let claims = (1..=900_u64).map(|number| (format!("user{number}"), number));
        for (user, number) in claims {
            older.push_claim(&user, number << 8 | 1, number);
        }
        older.flush();
        // All these are over before the shard has its next link.
        let mut newer = Gateway::link(dir.path(), &router, BOOT + round);
        claims_done(&mut newer);
        let metrics = Http::of(dir.path(), &router).text("/metrics");
        let held = metrics
            .lines()
            .find_map(|line| line.strip_prefix("corelane_router_routes "));
        assert_eq!(held, Some("1"), "round {round}");
        drop(older);
    }
}
