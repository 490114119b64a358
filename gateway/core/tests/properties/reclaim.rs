//! A registry that forgot everything gets all sessions again.

use std::time::Duration;

use corelane_gateway_core::event::Input;
use corelane_protocol::frame::{self, FrameKind};
use corelane_protocol::link::body::ArchivedClaim;
use corelane_protocol::link::record::RecordKind;

use corelane_protocol::id::ConnId;

use crate::harness::{World, config, hello, kind, upgrade};

#[test]
fn a_new_incarnation_is_claimed_again_and_each_session_is_told_to_sync_after_its_claim() {
    let mut world = World::new(config());
    let conns: Vec<_> = (0..50)
        .map(|number| world.login(&format!("user{number}")))
        .collect();
    world.got.clear();
    (world.router_boot, world.incarnation) = (2, 2);
    world.claims_granted = false;
    world.cut_link();
    world.pass(Duration::from_secs(3));
    let claims = world.got(RecordKind::Claim);
    assert_eq!(claims.len(), 50);
    for conn in &conns {
        assert!(world.frames(*conn).is_empty(), "no sync before the route is held");
    }
    for claim in &claims {
        let body = frame::access::<ArchivedClaim>(&claim.body).unwrap();
        assert!(body.again);
        world.answer_claim(claim.conn, body.owner_seq.to_native(), 0);
    }
    world.turn();
    for conn in conns {
        let frames = world.frames(conn);
        assert_eq!(
            frames.iter().map(|frame| kind(frame)).collect::<Vec<_>>(),
            [FrameKind::Resync]
        );
    }
}

#[test]
fn a_new_link_to_the_same_registry_asks_for_the_route_and_nobody_syncs() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.got.clear();
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert!(world.shard.is_linked());
    let claims = world.got(RecordKind::Claim);
    assert_eq!(claims.len(), 1, "a kick may have been lost with the link");
    assert!(world.frames(alice).is_empty());
    let body = frame::access::<ArchivedClaim>(&claims[0].body).unwrap();
    assert!(body.again, "it kicks nobody who logged in later");
    world.cut_link();
    world.claims_granted = false;
    world.pass(Duration::from_secs(3));
    world.answer_claim(alice, body.owner_seq.to_native(), 4501);
    world.turn();
    assert_eq!(world.close_code(alice), Some(4501));
}

#[test]
fn many_sessions_are_claimed_a_part_per_turn() {
    let mut world = World::new(config());
    for number in 0..200 {
        world.login(&format!("user{number}"));
    }
    // One session far up the table: the walk takes several turns.
    let far = ConnId::new(0, 20_000, 1);
    world.accept_as(far, false);
    world.bytes(far, &upgrade("/ws", "corelane.rkyv.v1", ""));
    world.turn();
    world.say(far, &hello("far", "d"));
    world.frames(far);
    world.got.clear();
    world.incarnation = 2;
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.got(RecordKind::Claim).len(), 201);
    assert_eq!(kind(&world.frames(far)[0]), FrameKind::Resync);
}

#[test]
fn when_all_sessions_have_claimed_on_a_link_the_router_is_told_once() {
    let mut world = World::new(config());
    assert_eq!(
        world.got(RecordKind::ClaimsDone).len(),
        1,
        "nobody is here: there is nothing to claim"
    );
    let (alice, bob) = (world.login("alice"), world.login("bob"));
    let far = ConnId::new(0, 20_000, 1);
    world.accept_as(far, false);
    world.bytes(far, &upgrade("/ws", "corelane.rkyv.v1", ""));
    world.turn();
    world.say(far, &hello("far", "d"));
    assert!(world.got(RecordKind::ClaimsDone).is_empty(), "once per link");
    world.cut_link();
    // Ends while there is no link: nothing of it can be said.
    world.input(Input::PeerClosed(bob));
    world.turn();
    world.got.clear();
    world.pass(Duration::from_secs(3));
    let order: Vec<(RecordKind, ConnId)> = world
        .got
        .iter()
        .filter(|got| matches!(got.kind, RecordKind::Claim | RecordKind::ClaimsDone))
        .map(|got| (got.kind, got.conn))
        .collect();
    assert_eq!(
        order,
        [
            (RecordKind::Claim, alice),
            (RecordKind::Claim, far),
            (RecordKind::ClaimsDone, ConnId(0)),
        ]
    );
    assert!(world.got(RecordKind::Unclaim).is_empty());
}

#[test]
fn a_claim_made_again_that_was_lost_with_its_link_is_made_once_more() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.incarnation = 2;
    world.claims_granted = false;
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.got(RecordKind::Claim).len(), 2, "at login and again");
    world.claims_granted = true;
    world.cut_link();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.got(RecordKind::Claim).len(), 1);
    assert_eq!(kind(&world.frames(alice)[0]), FrameKind::Resync);
}

#[test]
fn a_router_with_another_secret_is_named_as_such() {
    let mut config = config();
    config.link_secret.key = b"another".to_vec();
    let mut world = World::new(config);
    assert!(!world.shard.is_linked());
    let error = world.shard.take_link_error().expect("an error");
    assert!(error.to_string().contains("link secret"), "{error}");
}
