//! A message goes from one gateway through the store to the gateways of its receivers, once and in order.

mod link_support;

use corelane_protocol::bus::class;
use corelane_protocol::frame::body::{
    ArchivedMessage, ArchivedPullPage, ArchivedReadUpTo, ArchivedSyncPage, Typing,
};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameKind, encode};
use corelane_protocol::link::record::RecordKind;
use link_support::{
    Gateway, Http, pull_frame, read_frame, restart_frame, router, sync_frame, to_conv, to_user,
};
use serde_json::json;

#[test]
fn a_message_is_acknowledged_and_reaches_the_others_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut one = Gateway::link(dir.path(), &router, 11);
    let mut other = Gateway::link(dir.path(), &router, 12);
    let alice = one.login("alice", 1);
    let bob = other.login("bob", 2);
    one.send("alice", alice, 7, to_user("bob"), 1, "hello");
    assert_eq!(one.answer(7), Ok(1));
    let delivered = other.delivered();
    assert_eq!(delivered.conns, [bob]);
    assert_eq!(delivered.frames, [(1, 0, FrameKind::Message)]);
    assert_eq!((delivered.number, delivered.class), (1, class::STORED));
    assert!(
        !one.comes(RecordKind::BusBatch),
        "the sender has the acknowledgement and no other terminal"
    );
}

#[test]
fn many_messages_of_one_terminal_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    let bob = gateway.login("bob", 2);
    for number in 0..300 {
        let frame = restart_frame(number + 1, to_user("bob"), u64::from(number), "x");
        gateway.client_frame("alice", alice, number + 1, &frame);
        gateway.flush();
    }
    for number in 0..300 {
        assert_eq!(gateway.answer(number + 1), Ok(u64::from(number) + 1));
    }
    let (mut seqs, mut numbers) = (Vec::new(), Vec::new());
    while seqs.len() < 300 {
        let delivered = gateway.delivered();
        assert_eq!(delivered.conns, [alice, bob]);
        numbers.push(delivered.number);
        for (seq, except, _) in delivered.frames {
            assert_eq!(except, alice);
            seqs.push(seq);
        }
    }
    assert_eq!(seqs, (1..=300).collect::<Vec<u64>>());
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<u64>>());
}

#[test]
fn a_repeat_gets_the_first_answer_and_another_body_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    gateway.send("alice", alice, 1, to_user("bob"), 1, "one");
    gateway.send("alice", alice, 2, to_user("bob"), 1, "one");
    gateway.send("alice", alice, 3, to_user("bob"), 1, "another");
    gateway.send("alice", alice, 4, to_user("bob"), 2, "two");
    assert_eq!(gateway.answer(1), Ok(1));
    assert_eq!(gateway.answer(2), Ok(1));
    assert_eq!(gateway.answer(3), Err(ErrorCode::Conflict));
    assert_eq!(
        gateway.answer(4),
        Ok(2),
        "a conflict closes no gate and takes no place"
    );
}

#[test]
fn what_is_wrong_with_a_send_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    gateway.client_frame("alice", alice, 1, b"no frame");
    gateway.send("alice", alice, 2, to_conv("u:3:bob:carol"), 2, "x");
    gateway.send("alice", alice, 3, to_conv("g:nobody"), 3, "x");
    gateway.send("alice", alice, 4, to_conv("r:room"), 4, "x");
    gateway.send("alice", alice, 5, to_user("bob"), 5, &"x".repeat(65 * 1024));
    let answers: Vec<_> = (1..=5)
        .map(|reference| gateway.answer(reference).unwrap_err())
        .collect();
    let codes = [
        ErrorCode::Malformed,
        ErrorCode::NotMember,
        ErrorCode::UnknownGroup,
        ErrorCode::Unsupported,
        ErrorCode::TooLarge,
    ];
    assert_eq!(answers, codes);
}

#[test]
fn a_group_message_goes_once_to_each_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let http = Http::of(dir.path(), &router);
    let members = json!({"group": "team", "members": ["alice", "bob", "carol", "dave"]});
    assert_eq!(http.post("/v1/groups", &members).0, 200);
    let mut one = Gateway::link(dir.path(), &router, 11);
    let mut other = Gateway::link(dir.path(), &router, 12);
    let alice = one.login("alice", 1);
    let bob = one.login("bob", 2);
    let carol = other.login("carol", 1);
    one.send("alice", alice, 1, to_conv("g:team"), 1, "hi all");
    assert_eq!(one.answer(1), Ok(2), "the first message is the group's creation");
    let here = one.delivered();
    assert_eq!(
        (here.conns, here.frames),
        (vec![alice, bob], vec![(2, alice, FrameKind::Message)])
    );
    let there = other.delivered();
    assert_eq!(
        (there.conns, there.frames),
        (vec![carol], vec![(2, 0, FrameKind::Message)])
    );
    other.send("eve", 99, 5, to_conv("g:team"), 2, "let me in");
    assert_eq!(other.answer(5), Err(ErrorCode::NotMember));
    let change = json!({"add": ["eve"], "remove": ["bob"]});
    assert_eq!(http.post("/v1/groups/team/members", &change).0, 200);
    one.send("alice", alice, 2, to_conv("g:team"), 3, "bob is gone");
    assert_eq!(one.answer(2), Ok(4));
    let change = one.delivered();
    assert_eq!(change.frames, [(3, 0, FrameKind::Message)]);
    assert!(
        !one.comes(RecordKind::BusBatch),
        "alice has the acknowledgement, bob is no member any more"
    );
    let (_, group) = http.get("/v1/groups/team");
    assert_eq!(group["members"], json!(["alice", "carol", "dave", "eve"]));
    assert_eq!(group["version"], 3);
}

#[test]
fn who_was_offline_finds_everything_unread() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    for number in 1..=3 {
        gateway.send("alice", alice, number, to_user("bob"), u64::from(number), "x");
        assert_eq!(gateway.answer(number), Ok(u64::from(number)));
    }
    let http = Http::of(dir.path(), &router);
    let (status, list) = http.get("/v1/users/bob/conversations");
    assert_eq!(status, 200);
    assert_eq!(list[0]["conv"], "u:5:alice:bob");
    assert_eq!(list[0]["unread"], 3);
    let bob = gateway.login("bob", 2);
    gateway.client_frame("bob", bob, 10, &sync_frame(10));
    gateway.client_frame("bob", bob, 11, &pull_frame(11, "u:5:alice:bob"));
    gateway.client_frame("bob", bob, 12, &pull_frame(12, "g:secret"));
    gateway.flush();
    let mut found = [false; 3];
    while found != [true; 3] {
        let answer = gateway.take(RecordKind::ServerFrame);
        assert_eq!(answer.conn, bob);
        let frame = Frame::parse(&answer.body).unwrap();
        match answer.reference {
            10 => {
                let page = frame.access::<ArchivedSyncPage>().unwrap();
                assert_eq!(page.conversations.len(), 1);
                assert_eq!(page.conversations[0].head_n.to_native(), 3);
                found[0] = true;
            }
            11 => {
                let page = frame.access::<ArchivedPullPage>().unwrap();
                assert_eq!((page.messages.len(), page.head_seq.to_native()), (3, 3));
                found[1] = true;
            }
            _ => {
                assert_eq!(link_support::outcome(&answer.body), Err(ErrorCode::NotMember));
                found[2] = true;
            }
        }
    }
}

#[test]
fn a_joiner_pulls_from_his_join_and_a_leaver_up_to_his_leave() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let http = Http::of(dir.path(), &router);
    let team = json!({"group": "team", "members": ["alice", "bob"]});
    assert_eq!(http.post("/v1/groups", &team).0, 200);
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    let mut say = |number: u32| {
        let text = format!("{number}");
        gateway.send(
            "alice",
            alice,
            number,
            to_conv("g:team"),
            u64::from(number),
            &text,
        );
        gateway.answer(number).unwrap()
    };
    assert_eq!((say(1), say(2)), (2, 3));
    let change = json!({"add": ["carol"], "remove": ["bob"]});
    assert_eq!(http.post("/v1/groups/team/members", &change).0, 200);
    assert_eq!(say(3), 5);
    let mut pull = |user: &str, slot: u32| {
        let conn = gateway.login(user, slot);
        gateway.client_frame(user, conn, 40 + slot, &pull_frame(40 + slot, "g:team"));
        gateway.flush();
        let answer = gateway.answered(40 + slot);
        let frame = Frame::parse(&answer).unwrap();
        let page = frame.access::<ArchivedPullPage>().unwrap();
        let seq = |frame: &[u8]| {
            let frame = Frame::parse(frame).unwrap();
            frame.access::<ArchivedMessage>().unwrap().seq.to_native()
        };
        let seqs: Vec<u64> = page.messages.iter().map(|frame| seq(frame)).collect();
        let (head, n) = (page.head_seq.to_native(), page.head_n.to_native());
        (
            seqs,
            page.floor_seq.to_native(),
            (head, n),
            page.next_seq.to_native(),
        )
    };
    assert_eq!(pull("carol", 2), (vec![4, 5], 3, (5, 3), 0));
    assert_eq!(pull("bob", 3), (vec![1, 2, 3], 0, (3, 2), 0));
    assert_eq!(pull("alice", 4), (vec![1, 2, 3, 4, 5], 0, (5, 3), 0));
    let (_, history) = http.get("/v1/conversations/g:team/messages");
    assert_eq!(history["messages"].as_array().unwrap().len(), 5);
}

#[test]
fn a_read_mark_is_told_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    gateway.send("alice", alice, 1, to_user("bob"), 1, "x");
    assert_eq!(gateway.answer(1), Ok(1));
    let bob = gateway.login("bob", 2);
    gateway.client_frame("bob", bob, 2, &read_frame(2, "u:5:alice:bob", 1));
    gateway.flush();
    let answer = gateway.take(RecordKind::ServerFrame);
    let frame = Frame::parse(&answer.body).unwrap();
    let mark = frame.access::<ArchivedReadUpTo>().unwrap();
    assert_eq!((mark.seq.to_native(), mark.whose.as_str()), (1, "bob"));
    let mut told = gateway.delivered();
    if told.class == class::STORED {
        told = gateway.delivered();
    }
    assert_eq!((told.class, told.conns), (class::CONTROL, vec![alice]));
    gateway.client_frame("bob", bob, 3, &read_frame(3, "u:5:alice:bob", 9));
    gateway.flush();
    assert_eq!(gateway.answer(3), Err(ErrorCode::Ahead));
    let (_, list) = Http::of(dir.path(), &router).get("/v1/users/bob/conversations");
    assert_eq!(list[0]["unread"], 0);
}

#[test]
fn typing_goes_to_the_other_and_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let alice = gateway.login("alice", 1);
    let bob = gateway.login("bob", 2);
    let body = Typing {
        target: to_user("bob"),
        from: String::new(),
        on: true,
    };
    gateway.client_frame("alice", alice, 1, &encode(FrameKind::TypingStep, 1, &body));
    gateway.flush();
    let told = gateway.delivered();
    assert_eq!((told.class, told.conns), (class::TRANSIENT, vec![bob]));
    assert_eq!(told.frames, [(0, 0, FrameKind::Typing)]);
    let (_, history) = Http::of(dir.path(), &router).get("/v1/conversations/u:5:alice:bob/messages");
    assert_eq!(history["messages"], json!([]));
}

#[test]
fn a_newer_login_replaces_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut one = Gateway::link(dir.path(), &router, 11);
    let mut other = Gateway::link(dir.path(), &router, 12);
    let first = one.login("alice", 1);
    other.login("alice", 1);
    assert_eq!(one.take(RecordKind::Kick).conn, first);
    let http = Http::of(dir.path(), &router);
    let (_, sessions) = http.get("/v1/users/alice/sessions");
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    assert_eq!(http.delete("/v1/users/alice/sessions").1, json!({"kicked": 1}));
    other.take(RecordKind::Kick);
}
