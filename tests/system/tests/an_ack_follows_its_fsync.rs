//! Acknowledged means stored: every acknowledgement that leaves a router was preceded by the sync of its message.
//!
//! The programs run under strace while pairs of people chat, one message at a time and with a full window; then every
//! message is looked for in the trace (`order.rs`). Two controls show that the check can fail: a store with durability
//! `os`, which has no journal, and a router with a planted bug, which answers before it syncs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_protocol::frame::{Frame, FrameKind, body};
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::order::{self, Report, Sent};
use corelane_system_tests::router::{Router, planted_router};
use corelane_system_tests::{Gateway, Running, binary, strace};

/// Pairs that chat at the same time.
const PAIRS: usize = 6;
/// Messages of a pair that wait for the answer to the one before.
const ALONE: usize = 24;
/// Messages of a pair that are sent at once.
const AT_ONCE: usize = 24;
const MESSAGES: usize = PAIRS * (ALONE + AT_ONCE);

/// Takes answers until `count` sends are acknowledged; gives reference, conversation and place of each.
fn acks(client: &mut Client, count: usize) -> Vec<(u32, Vec<u8>, u64)> {
    let mut acks = Vec::new();
    while acks.len() < count {
        let bytes = client.read().expect("the gateway runs");
        let frame = Frame::parse(&bytes).unwrap();
        match frame.known_kind() {
            Some(FrameKind::SendAck) => {
                let ack = frame.access::<body::ArchivedSendAck>().unwrap();
                acks.push((frame.reference, ack.conv.to_vec(), ack.seq.to_native()));
            }
            Some(FrameKind::Error) => {
                let error = frame.access::<body::ArchivedErrorBody>().unwrap();
                panic!("a send was refused: {}", error.text.as_str());
            }
            _ => {}
        }
    }
    acks
}

/// One of a pair writes to the other, who is online.
fn write(mut writer: Client, reader: &str, _online: Client, numbers: &AtomicU64) -> Vec<Sent> {
    let target = to_user(reader);
    let mut sent = Vec::new();
    for count in std::iter::repeat_n(1, ALONE).chain([AT_ONCE]) {
        let mut references = Vec::new();
        for _ in 0..count {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            let reference = writer.send_with(&target, message_id(), &order::payload(number));
            references.push((reference, number));
        }
        for (reference, conv, seq) in acks(&mut writer, count) {
            let (_, number) = *references.iter().find(|(sent, _)| *sent == reference).unwrap();
            sent.push(Sent { number, conv, seq });
        }
    }
    sent
}

/// All pairs at once.
fn chat(gateway: &Gateway) -> Vec<Sent> {
    let numbers = AtomicU64::new(1);
    let names = (0..PAIRS).map(|pair| (format!("writer-{pair}"), format!("reader-{pair}")));
    let pairs: Vec<_> = names
        .map(|(writer, reader)| {
            let (writer, online) = (Client::login(gateway, &writer), Client::login(gateway, &reader));
            (writer, reader, online)
        })
        .collect();
    let sent: Vec<Sent> = std::thread::scope(|scope| {
        let pairs: Vec<_> = pairs
            .into_iter()
            .map(|(writer, reader, online)| {
                let numbers = &numbers;
                scope.spawn(move || write(writer, &reader, online, numbers))
            })
            .collect();
        pairs.into_iter().flat_map(|pair| pair.join().unwrap()).collect()
    });
    assert_eq!(sent.len(), MESSAGES);
    sent
}

/// Ends the program with SIGTERM and checks its trace.
fn check(mut process: Running, trace: &Path, link: &str, sent: &[Sent]) -> Report {
    process.terminate();
    assert_eq!(process.wait(std::time::Duration::from_secs(30)), Some(0));
    let lines = strace::lines(trace, process.pid());
    let calls = strace::parse(&lines).unwrap();
    order::check(&calls, link, sent)
}

/// The gateway as it is shipped, with everything in one process.
fn embedded(more: &[&str]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let (data, trace) = (dir.path().join("data"), dir.path().join("trace"));
    let keys: Vec<&str> = ["gateway.drain_ms=100"].iter().chain(more).copied().collect();
    let command = Gateway::command(&data, &keys);
    let process = Running::start(&mut strace::traced(&command, &trace, &["-e", order::CALLS]));
    let gateway = Gateway::from(process, &data);
    let sent = chat(&gateway);
    let link = gateway.link.clone().unwrap();
    check(gateway.process, &trace, &link, &sent)
}

/// A router in a process of its own, this binary.
fn apart(router: &Path) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let (data, trace) = (dir.path().join("data"), dir.path().join("trace"));
    let command = Router::command(router, &data);
    let mut traced = strace::traced(&command, &trace, &["-e", order::CALLS]);
    let router = Router::start(&mut traced, &data);
    let gateway = router.gateway(&[]);
    let sent = chat(&gateway);
    check(router.process, &trace, &router.link, &sent)
}

#[test]
fn every_ack_of_the_shipped_gateway_follows_its_fsync() {
    let report = embedded(&[]);
    assert_eq!(report.violations, [""; 0]);
    assert!(
        report.messages_per_commit_max > 1,
        "windows were full, so some messages shared a commit"
    );
}

#[test]
fn every_ack_of_a_router_of_its_own_follows_its_fsync() {
    assert_eq!(apart(&binary("corelane-router")).violations, [""; 0]);
}

#[test]
fn the_check_finds_a_store_that_does_not_sync() {
    let report = embedded(&["store.durability=os"]);
    assert!(
        report.violations.len() >= MESSAGES,
        "every message is a violation"
    );
}

#[test]
fn the_check_finds_a_router_that_answers_before_the_sync() {
    let report = apart(&planted_router());
    assert!(
        report.violations.len() > MESSAGES / 2,
        "the planted bug shows: {} violations",
        report.violations.len()
    );
}
