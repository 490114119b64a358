//! JSON clients get the same frames as native ones.

use corelane_protocol::frame::{Frame, FrameKind};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, record, seq_of};

#[test]
fn one_record_reaches_both_kinds_of_clients_in_order() {
    let mut world = World::new(config());
    let (native, browser) = (world.login("bob"), world.login_json("bob"));
    world.publish(&record(1, &conv("alice", "bob"), 1..=3, 5, &[native, browser]));
    world.publish(&record(2, &conv("alice", "bob"), 4..=4, 5, &[browser, native]));
    world.turn();
    let seqs: Vec<u64> = world.frames(native).iter().map(|frame| seq_of(frame)).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    let texts = world.texts(browser);
    assert_eq!(texts.len(), 4);
    for (text, seq) in texts.iter().zip(1..) {
        assert!(
            text.contains(r#""type":"message""#) && text.contains(&format!(r#""seq":{seq}"#)),
            "{text}"
        );
    }
}

#[test]
fn a_json_send_reaches_the_router_as_a_canonical_frame() {
    let mut world = World::new(config());
    let alice = world.login_json("alice");
    world.say_text(
        alice,
        r#"{"type":"send","ref":7,"target":{"user":"bob"},"client_msg_id":"018f0000-0000-7000-8000-000000000001","kind":"text","payload":"hi"}"#,
    );
    let sent = world.got(RecordKind::ClientFrame);
    assert_eq!(sent.len(), 1, "{:?}", world.seen(alice));
    let frame = Frame::parse(&sent[0].body).unwrap();
    assert_eq!((frame.known_kind(), frame.reference), (Some(FrameKind::Send), 7));
    world.ack(alice, 7, 1);
    let texts = world.texts(alice);
    assert!(
        texts[0].contains("send_ack") && texts[0].contains(r#""ref":7"#),
        "{texts:?}"
    );
}

#[test]
fn wrong_json_is_answered_with_its_ref_and_unknown_types_are_skipped() {
    let mut world = World::new(config());
    let alice = world.login_json("alice");
    world.say_text(alice, r#"{"type":"send","ref":3}"#);
    world.say_text(alice, r#"{"type":"whatever","ref":4}"#);
    world.say_text(alice, "[]");
    world.say_text(alice, r#"{"type":"ping","ref":5,"time_ms":1}"#);
    let texts = world.texts(alice);
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].contains("malformed") && texts[0].contains(r#""ref":3"#));
    assert!(texts[1].contains("malformed"));
    assert!(texts[2].contains("pong"));
}
