//! What an earlier life stored and nobody reported consumed is published again, and only that.

mod link_support;

use corelane_protocol::frame::FrameKind;
use corelane_protocol::link::record::RecordKind;
use link_support::{Gateway, router, to_user};

#[test]
fn only_what_was_not_consumed_is_published_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &first, 11);
    let alice = gateway.login("alice", 1);
    gateway.login("bob", 2);
    gateway.send("alice", alice, 1, to_user("bob"), 1, "consumed");
    assert_eq!(gateway.answer(1), Ok(1));
    gateway.delivered();
    gateway.consumed(first.boot());
    gateway.send("alice", alice, 2, to_user("bob"), 2, "not consumed");
    assert_eq!(gateway.answer(2), Ok(2));
    gateway.delivered();
    drop(gateway);
    first.shutdown();

    let second = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &second, 12);
    gateway.login("alice", 1);
    let bob = gateway.login("bob", 2);
    let again = gateway.delivered();
    assert_eq!(again.frames, [(2, 0, FrameKind::Message)]);
    assert!(again.conns.contains(&bob));
    assert_eq!(again.router_boot, second.boot());
    assert!(!gateway.comes(RecordKind::BusBatch), "the first one was consumed");
    gateway.consumed(second.boot());
    drop(gateway);
    second.shutdown();

    let third = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &third, 13);
    gateway.login("bob", 2);
    assert!(!gateway.comes(RecordKind::BusBatch), "everything was consumed");
}
