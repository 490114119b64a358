//! A boot that its gateway gave up is declared dead at once, and nothing of it is stored from then on: the gates that
//! were closed to its clients are forgotten with it.

mod link_support;

use corelane_protocol::frame;
use corelane_protocol::link::body::ArchivedRenewed;
use corelane_protocol::link::record::RecordKind;
use link_support::{Gateway, router, to_user};

#[test]
fn whoever_leaves_is_told_that_the_boot_is_dead_and_what_comes_behind_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    gateway.send("alice", alice, 1, to_user("bob"), 1, "before");
    assert_eq!(gateway.answer(1), Ok(1));
    gateway.push(RecordKind::Leave, 0, 0, "", &[]);
    gateway.flush();
    let told = gateway.take(RecordKind::Renewed);
    let renewed = frame::access::<ArchivedRenewed>(&told.body).unwrap();
    assert_eq!((renewed.alive, told.reference), (false, 0), "nobody asked");
    gateway.send("alice", alice, 2, to_user("bob"), 2, "behind it");
    let mut next = Gateway::link(dir.path(), &router, 12);
    let alice = next.login("alice", 1);
    next.send("alice", alice, 3, to_user("bob"), 3, "after");
    assert_eq!(next.answer(3), Ok(2));
    next.send("alice", alice, 4, to_user("bob"), 2, "behind it");
    assert_eq!(next.answer(4), Ok(3), "it was not stored before");
}
