//! A router and a gateway with the registry in Redis and the bus on Kafka go on when either process is killed, and when
//! the gateway's topic is deleted under it.

use std::time::Duration;

use corelane_protocol::frame::FrameKind;
use corelane_protocol::id::BootId;
use corelane_system_tests::apart::{Apart, Topics};
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::talk::{receive, send};
use corelane_system_tests::{metric, wait_for};

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(40);

fn talk(alice: &mut Client, bob: &mut Client, about: &str) {
    let (to, back) = (format!("to {about}"), format!("back {about}"));
    let seq = send(alice, &to_user("bob"), &to);
    assert_eq!(receive(bob, &to).seq, seq);
    let next = send(bob, &to_user("alice"), &back);
    assert_eq!(receive(alice, &back).seq, next);
    assert_eq!(next, seq + 1);
}

/// The one boot that has a topic and is not among those known.
fn new_boot(topics: &Topics, known: &[BootId]) -> BootId {
    wait_for("a topic of a new boot", LIMIT, || {
        topics.boots().into_iter().find(|boot| !known.contains(boot))
    })
}

#[test]
#[ignore = "needs ops/services up redis kafka"]
fn two_users_talk_while_processes_are_killed_and_the_topic_is_deleted() {
    let data = tempfile::tempdir().unwrap();
    let apart = Apart::find(data.path());
    let topics = apart.topics();
    let mut router = apart.router();
    let (mut gateway, _) = apart.gateway();
    let first = new_boot(&topics, &[]);
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    talk(&mut alice, &mut bob, "at first");

    gateway.process.kill();
    let (gateway, admin) = apart.gateway();
    let second = new_boot(&topics, &[first]);
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    talk(&mut alice, &mut bob, "after the gateway");

    router.kill();
    let _router = apart.router();
    talk(&mut alice, &mut bob, "after the router");
    let new_boots = || metric(&admin, "corelane_gateway_lease_new_boots_total");
    assert_eq!(new_boots(), 0, "offsets outlive routers");
    assert!(metric(&admin, "corelane_gateway_kafka_read_total") > 0);

    topics.delete(second);
    wait_for("a new boot", LIMIT, || (new_boots() > 0).then_some(()));
    for client in [&mut alice, &mut bob] {
        client.read_kind(FrameKind::Resync);
    }
    let third = new_boot(&topics, &[first, second]);
    talk(&mut alice, &mut bob, "after the topic");
    send(&mut alice, &to_user("bob"), "the last one");
    let last = receive(&mut bob, "the last one");
    let log: Vec<u64> = bob.pull(&last.conv).iter().map(|message| message.seq).collect();
    assert_eq!(log, (1..=9).collect::<Vec<_>>(), "each once, in order");
    for boot in [first, third] {
        topics.delete(boot);
    }
}
