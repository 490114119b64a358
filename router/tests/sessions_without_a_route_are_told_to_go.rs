//! A shard names its sessions: whoever does not hold his route any more is told to go, however he lost it.

mod link_support;

use corelane_protocol::frame;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{ArchivedKick, Owned};
use corelane_protocol::link::record::RecordKind;
use link_support::{Gateway, router};

fn owned(gateway: &mut Gateway, user: &str, conn: u64, owner_seq: u64) {
    let body = frame::archive(&Owned { owner_seq });
    gateway.push(RecordKind::Owned, conn, 0, user, &body);
}

/// The next kick: whose, with which code, about which claim.
fn kick(gateway: &mut Gateway) -> (u64, u16, u64) {
    let kick = gateway.take(RecordKind::Kick);
    let body = frame::access::<ArchivedKick>(&kick.body).expect("a kick");
    (kick.conn, body.code.to_native(), body.owner_seq.to_native())
}

#[test]
fn who_holds_his_route_stays_and_who_lost_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let (alice, bob) = (gateway.login("alice", 1), gateway.login("bob", 2));
    let mut other = Gateway::link(dir.path(), &router, 12);
    // Alice has logged in elsewhere; what she is told here is as good as lost.
    other.login("alice", 1);
    assert_eq!(kick(&mut gateway), (alice, 4501, 1));

    let nobody = ConnId::new(0, 3, 1).0;
    owned(&mut gateway, "bob", bob, 2);
    owned(&mut gateway, "alice", alice, 1);
    owned(&mut gateway, "carol", nobody, 7);
    owned(&mut gateway, "bob", bob, 1);
    gateway.flush();
    assert_eq!(
        kick(&mut gateway),
        (alice, 4501, 1),
        "another login has the place"
    );
    assert_eq!(kick(&mut gateway), (nobody, 4003, 7), "nobody has it: come again");
    assert_eq!(
        kick(&mut gateway),
        (bob, 4501, 1),
        "a claim that a later one replaced"
    );
    assert!(
        !gateway.comes(RecordKind::Kick),
        "who holds his route is left alone"
    );
}
