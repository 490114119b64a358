//! A session that must go at a gateway that has no link to this router is told when there is one.

mod link_support;

use corelane_protocol::frame;
use corelane_protocol::link::body::ArchivedKick;
use corelane_protocol::link::record::RecordKind;
use link_support::{Gateway, Http, router};

#[test]
fn a_kick_reaches_the_next_link_of_its_shard() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let conn = gateway.login("alice", 1);
    drop(gateway);
    let mut other = Gateway::link(dir.path(), &router, 12);
    // Logged in, and so the other one's route is gone, whether the router knows of the end of its link or not.
    other.login("alice", 2);
    assert!(!other.comes(RecordKind::Kick));

    let mut again = Gateway::link(dir.path(), &router, 11);
    let kick = again.take(RecordKind::Kick);
    assert_eq!(kick.conn, conn);
    let kick = frame::access::<ArchivedKick>(&kick.body).unwrap();
    assert_eq!((kick.code.to_native(), kick.owner_seq.to_native()), (4501, 1));
    let metrics = Http::of(dir.path(), &router).text("/metrics");
    assert!(metrics.contains("\ncorelane_router_kicks_kept 0\n"), "{metrics}");
}
