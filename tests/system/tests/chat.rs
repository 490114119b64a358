//! Two people, a group, and one who was offline: the whole path through the shipped gateway.

use corelane_system_tests::Gateway;
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::{Client, message_id, to_group, to_user};

const NOT_MEMBER: u16 = 8;
const UNKNOWN_GROUP: u16 = 7;
const CONFLICT: u16 = 5;

fn create_group(gateway: &Gateway, group: &str, members: &[&str]) {
    let body = serde_json::json!({"group": group, "members": members});
    let url = format!("{}/v1/groups", gateway.http);
    let key = format!("Bearer {}", gateway.admin_key());
    ureq::post(&url)
        .header("Authorization", &key)
        .send_json(&body)
        .expect("the group is created");
}

#[test]
fn a_message_reaches_the_other_and_the_senders_other_terminals() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    let mut phone = Client::login_at(
        &gateway,
        "alice",
        corelane_protocol::terminal::Terminal::Ios,
        "phone",
    );
    for number in 1..=5_u64 {
        let reference = alice.send(&to_user("bob"), &format!("hello {number}"));
        assert_eq!(alice.answer(reference), Ok(number));
    }
    for number in 1..=5_u64 {
        for receiver in [&mut bob, &mut phone] {
            let message = receiver.message();
            assert_eq!((message.seq, message.sender.as_str()), (number, "alice"));
            assert_eq!(message.payload, format!("hello {number}").as_bytes());
        }
    }
    assert!(
        alice.inbox.is_empty(),
        "the sending connection has the acknowledgement instead"
    );
}

#[test]
fn who_was_offline_finds_everything_unread_at_login() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    create_group(&gateway, "team", &["alice", "bob", "carol"]);
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    for _ in 0..3 {
        let reference = alice.send(&to_group("team"), "to all");
        alice.answer(reference).unwrap();
        assert_eq!(bob.message().payload, b"to all");
    }
    let reference = alice.send(&to_user("carol"), "to carol");
    alice.answer(reference).unwrap();
    let mut carol = Client::login(&gateway, "carol");
    let changed = carol.sync();
    let unread: u64 = changed.iter().map(|(_, _, head_n, read_n)| head_n - read_n).sum();
    assert_eq!((changed.len(), unread), (2, 4), "{changed:?}");
    let team: Vec<u8> = [&[2][..], b"team"].concat();
    let history = carol.pull(&team);
    assert_eq!(
        history.iter().map(|message| message.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}

#[test]
fn a_repeated_id_is_stored_once_and_another_body_is_a_conflict() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut alice = Client::login(&gateway, "alice");
    let id = message_id();
    for _ in 0..3 {
        let reference = alice.send_with(&to_user("bob"), id, b"once");
        assert_eq!(alice.answer(reference), Ok(1));
    }
    let reference = alice.send_with(&to_user("bob"), id, b"other");
    assert_eq!(alice.answer(reference).unwrap_err().0, CONFLICT);
    let reference = alice.send(&to_user("bob"), "next");
    assert_eq!(alice.answer(reference), Ok(2));
}

#[test]
fn groups_refuse_strangers_and_unknown_groups_are_named() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    create_group(&gateway, "team", &["alice"]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let mut mallory = Client::login(&gateway, "mallory");
    let reference = mallory.send(&to_group("team"), "let me in");
    let (code, text) = mallory.answer(reference).unwrap_err();
    assert_eq!(code, NOT_MEMBER);
    assert!(text.contains("team") && text.contains("mallory"), "{text}");
    let reference = mallory.send(&to_group("nowhere"), "anybody");
    assert_eq!(mallory.answer(reference).unwrap_err().0, UNKNOWN_GROUP);
    drop(mallory);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn a_newer_login_replaces_the_older_one() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut first = Client::login(&gateway, "alice");
    let mut second = Client::login(&gateway, "alice");
    assert_eq!(first.closed(), 4501);
    let mut bob = Client::login(&gateway, "bob");
    let reference = bob.send(&to_user("alice"), "still there?");
    bob.answer(reference).unwrap();
    assert_eq!(second.message().payload, b"still there?");
}

#[test]
fn a_signal_drains_and_tells_clients_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path(), &["gateway.drain_ms=500"]);
    let mut alice = Client::login(&gateway, "alice");
    gateway.process.terminate();
    assert_eq!(alice.closed(), 4000);
    assert_eq!(gateway.process.wait(std::time::Duration::from_secs(15)), Some(0));
}

#[test]
fn a_page_that_is_loaded_again_and_again_is_welcome_each_time() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    for round in 0..40 {
        let mut carol = Client::login_at(
            &gateway,
            "carol",
            corelane_protocol::terminal::Terminal::Web,
            "tab",
        );
        let reference = carol.send(&to_user("alice"), "hello");
        carol
            .answer(reference)
            .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        // The next login comes while this socket is only just closed by its peer.
        drop(carol);
    }
}
