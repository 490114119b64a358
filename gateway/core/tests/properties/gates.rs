//! Gates: after a refusal that may be retried, nothing of that conversation passes before the restart.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::limits::GATES_MAX;
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, error, send_to};

#[test]
fn after_a_refused_send_later_ones_are_refused_until_the_restart() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.router_is_up = false;
    world.cut_link();
    world.say(alice, &send_to("bob", 1, false));
    world.say(alice, &send_to("bob", 2, false));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Unavailable), (2, ErrorCode::GateClosed)]);

    world.router_is_up = true;
    world.pass(std::time::Duration::from_secs(3));
    assert!(world.shard.is_linked());
    world.say(alice, &send_to("bob", 3, false));
    world.say(alice, &send_to("carol", 4, false));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(
        errors,
        [(3, ErrorCode::GateClosed)],
        "only the gate of its conversation is closed"
    );
    world.say(alice, &send_to("bob", 1, true));
    world.say(alice, &send_to("bob", 2, false));
    assert!(world.frames(alice).is_empty());
    let sent: Vec<u32> = world
        .got(RecordKind::ClientFrame)
        .iter()
        .map(|got| got.reference)
        .collect();
    assert_eq!(sent, [4, 1, 2]);
}

#[test]
fn a_target_by_user_and_by_conversation_share_a_gate() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.router_is_up = false;
    world.cut_link();
    world.say(alice, &send_to("bob", 1, false));
    let by_conv = {
        let conv = crate::harness::conv("alice", "bob");
        let mut id = [0; 16];
        (id[6], id[8]) = (0x70, 0x80);
        let send = corelane_protocol::frame::body::Send {
            target: corelane_protocol::frame::body::Target::Conv(conv.as_bytes().to_vec()),
            kind: 1,
            flags: 0,
            ref_seq: 0,
            client_msg_id: id,
            content_type: 1,
            payload: Vec::new(),
        };
        corelane_protocol::frame::encode(corelane_protocol::frame::FrameKind::Send, 2, &send)
    };
    world.say(alice, &by_conv);
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(1, ErrorCode::Unavailable), (2, ErrorCode::GateClosed)]);
}

#[test]
fn too_many_closed_gates_close_the_connection_with_4007() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.router_is_up = false;
    world.cut_link();
    for number in 0..GATES_MAX as u32 {
        world.say(alice, &send_to(&format!("user{number}"), number + 1, false));
    }
    assert_eq!(world.frames(alice).len(), GATES_MAX);
    world.say(alice, &send_to("one-more", 99, false));
    assert_eq!(world.close_code(alice), Some(4007));
}

#[test]
fn a_refusal_from_before_a_restart_does_not_close_the_gate_again() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    let refuse = |world: &mut World, reference, code| {
        let refusal = corelane_protocol::frame::encode_error(reference, code, "no");
        world.router_says(RecordKind::ServerFrame, alice, &refusal);
        world.turn();
    };
    for number in 1..=3 {
        world.say(alice, &send_to("bob", number, false));
    }
    refuse(&mut world, 1, ErrorCode::Overloaded);
    world.say(alice, &send_to("bob", 4, true));
    // These were on their way when the restart came.
    refuse(&mut world, 2, ErrorCode::GateClosed);
    refuse(&mut world, 3, ErrorCode::GateClosed);
    world.got.clear();
    world.say(alice, &send_to("bob", 5, false));
    assert_eq!(
        world.got(RecordKind::ClientFrame).len(),
        1,
        "the restart opened the gate"
    );
    refuse(&mut world, 4, ErrorCode::Overloaded);
    world.say(alice, &send_to("bob", 6, false));
    let last = world.frames(alice);
    assert_eq!(error(last.last().unwrap()), (6, ErrorCode::GateClosed));
}

#[test]
fn a_permanent_refusal_of_the_router_closes_no_gate() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &send_to("bob", 1, false));
    let refusal = corelane_protocol::frame::encode_error(1, ErrorCode::Forbidden, "no");
    world.router_says(RecordKind::ServerFrame, alice, &refusal);
    world.say(alice, &send_to("bob", 2, false));
    assert_eq!(world.got(RecordKind::ClientFrame).len(), 2);
}

#[test]
fn a_restart_opens_the_gate_of_its_own_conversation_only() {
    let mut world = World::new(config());
    let alice = world.login("alice");
    world.say(alice, &send_to("bob", 1, false));
    world.say(alice, &send_to("carol", 2, false));
    world.cut_link();
    world.pass(std::time::Duration::from_secs(3));
    world.frames(alice);
    world.got.clear();
    world.say(alice, &send_to("bob", 3, true));
    world.say(alice, &send_to("carol", 4, false));
    let errors: Vec<_> = world.frames(alice).iter().map(|frame| error(frame)).collect();
    assert_eq!(errors, [(4, ErrorCode::GateClosed)]);
    let sent: Vec<u32> = world
        .got(RecordKind::ClientFrame)
        .iter()
        .map(|got| got.reference)
        .collect();
    assert_eq!(sent, [3]);
}
