//! Nothing live comes before the welcome, and nothing is silently missing after it.

use corelane_protocol::frame::FrameKind;
use corelane_protocol::frame::{self, body};
use corelane_protocol::link::body::ArchivedClaim;
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, hello, kind, pull_required, record, reference};

#[test]
fn a_message_that_comes_before_the_welcome_is_told_after_it() {
    let mut world = World::new(config());
    world.claims_granted = false;
    let bob = world.open("corelane.rkyv.v1");
    world.say(bob, &hello("bob", "d"));
    let ab = conv("alice", "bob");
    world.publish(&record(1, &ab, 7..=7, 10, &[bob]));
    world.turn();
    assert!(world.frames(bob).is_empty());
    assert!(
        world.got(RecordKind::Bounce).is_empty(),
        "the connection is there"
    );
    let claims = world.got(RecordKind::Claim);
    let owner_seq = frame::access::<ArchivedClaim>(&claims[0].body)
        .unwrap()
        .owner_seq
        .to_native();
    world.answer_claim(bob, owner_seq, 0);
    world.publish(&record(2, &ab, 8..=8, 10, &[bob]));
    world.turn();
    let frames = world.frames(bob);
    let kinds: Vec<FrameKind> = frames.iter().map(|frame| kind(frame)).collect();
    assert_eq!(
        kinds,
        [FrameKind::Welcome, FrameKind::PullRequired, FrameKind::Message]
    );
    assert_eq!(pull_required(&frames[1]), [(ab.as_bytes().to_vec(), 7)]);
    assert_eq!(reference(&frames[0]), 1, "the welcome answers the hello");
    let welcome = frame::Frame::parse(&frames[0]).unwrap();
    let welcome = welcome.access::<body::ArchivedWelcome>().unwrap();
    assert_eq!(
        (
            welcome.user.as_str(),
            welcome.epoch.to_native(),
            welcome.window.to_native()
        ),
        ("bob", 9, 64)
    );
}

#[test]
fn without_a_router_a_login_waits_for_one() {
    let mut world = World::new(config());
    world.router_is_up = false;
    world.cut_link();
    let bob = world.open("corelane.rkyv.v1");
    world.say(bob, &hello("bob", "d"));
    assert!(world.seen(bob).is_empty());
    world.router_is_up = true;
    world.pass(std::time::Duration::from_secs(3));
    assert_eq!(kind(&world.frames(bob)[0]), FrameKind::Welcome);
}

#[test]
fn owner_numbers_rise_with_every_claim() {
    let mut world = World::new(config());
    let mut last = 0;
    for number in 0..100 {
        world.login(&format!("user{number}"));
        let claims = world.got(RecordKind::Claim);
        let owner_seq = frame::access::<ArchivedClaim>(&claims[0].body)
            .unwrap()
            .owner_seq
            .to_native();
        assert!(owner_seq > last);
        last = owner_seq;
    }
}
