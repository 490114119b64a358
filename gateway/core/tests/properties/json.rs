//! JSON clients get the same frames as native ones.

use corelane_protocol::frame::{self, Frame, FrameKind, body};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{World, config, conv, message, record, seq_of};

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

#[test]
fn pages_count_as_long_as_their_text_is() {
    let mut world = World::new(config());
    let browser = world.login_json("bob");
    world.client(browser).stuck = true;
    let ab = conv("alice", "bob");
    // A control character takes six bytes in JSON.
    let mut last = message(&ab, 1, 60_000);
    for byte in last.iter_mut().filter(|byte| **byte == b'x') {
        *byte = 1;
    }
    for reference in 1..=3 {
        world.say_text(
            browser,
            &format!(r#"{{"type":"sync","ref":{reference},"limit":50}}"#),
        );
        let page = body::SyncPage {
            cursor: Vec::new(),
            more: false,
            conversations: vec![body::ConvState {
                conv: ab.as_bytes().to_vec(),
                head_seq: 1,
                head_n: 1,
                floor_seq: 0,
                conv_version: 0,
                read_seq: 0,
                read_n: 0,
                last: last.clone(),
            }],
        };
        let page = frame::encode(FrameKind::SyncPage, reference, &page);
        world.router_says(RecordKind::ServerFrame, browser, &page);
        world.turn();
    }
    world.client(browser).stuck = false;
    world.turn();
    let texts = world.texts(browser);
    let (pages, errors): (Vec<_>, Vec<_>) = texts
        .iter()
        .partition(|text| text.contains(r#""type":"sync_page""#));
    assert!(pages[0].len() > 256 * 1024, "{}", pages[0].len());
    assert_eq!((pages.len(), errors.len()), (1, 2));
    assert!(
        errors.iter().all(|text| text.contains("overloaded")),
        "{errors:?}"
    );
}
