//! A disk that is full or fails, under the shipped gateway: nothing that was acknowledged is lost, and nothing is
//! acknowledged that could be.
//!
//! The errors come from strace, which has a call of the program return them instead of being made. Counts are per
//! thread, and the thread that writes is the store's.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{Frame, FrameKind, body};
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::once::refusal;
use corelane_system_tests::order::{self, Sent};
use corelane_system_tests::{Gateway, Running, strace, wait_for};

/// The conversation of the tests, as the API names it.
const CONV: &str = "u:5:alice:bob";

/// A gateway whose system calls fail as `inject` says; its trace is in `dir`.
fn failing(dir: &Path, options: &[&str]) -> Gateway {
    let data = dir.join("data");
    let command = Gateway::command(&data, &[]);
    let mut traced = strace::traced(&command, &dir.join("trace"), options);
    Gateway::from(Running::start(&mut traced), &data)
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

/// Every acknowledged message is in the log at the place that was named, once, and the log has no hole.
fn assert_all_there(gateway: &Gateway, acked: &BTreeMap<String, u64>) {
    let stored = gateway.history(CONV).unwrap();
    for (place, message) in stored.iter().enumerate() {
        assert_eq!(message.seq, place as u64 + 1, "seq is dense");
    }
    let by_id: BTreeMap<String, u64> = stored.iter().map(|message| (message.id(), message.seq)).collect();
    assert_eq!(by_id.len(), stored.len(), "none is there twice");
    for (id, seq) in acked {
        assert_eq!(by_id.get(id), Some(seq), "an acknowledged message is lost");
    }
}

#[test]
fn while_the_disk_is_full_sends_are_refused_and_then_go_on() {
    const WRITES_REFUSED: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let first = 300;
    let inject = format!(
        "inject=pwrite64:error=ENOSPC:when={first}..{}",
        first + WRITES_REFUSED - 1
    );
    let gateway = failing(dir.path(), &["-e", order::CALLS, "-e", &inject]);
    let mut alice = Client::login(&gateway, "alice");
    let mut bob = Client::login(&gateway, "bob");
    let (mut acked, mut refused, mut after) = (BTreeMap::new(), 0, 0);
    while after < 50 {
        let id = message_id();
        let mut reference = alice.send_with(&to_user("bob"), id, b"payload");
        let seq = loop {
            match alice.answer(reference) {
                Ok(seq) => break seq,
                Err((code, text)) => {
                    assert_eq!(code, ErrorCode::Unavailable as u16, "{text}");
                    assert!(text.contains("disk is full"), "{text}");
                    refused += 1;
                    assert!(refused <= WRITES_REFUSED, "a refusal without a full disk");
                    // Who is refused may read all the same.
                    assert_all_there(&gateway, &acked);
                    reference = alice.send_again(&to_user("bob"), id, b"payload");
                }
            }
        };
        assert_eq!(seq, acked.len() as u64 + 1);
        acked.insert(hex(id), seq);
        assert_eq!(
            bob.message().seq,
            seq,
            "what is stored is delivered, and nothing else"
        );
        after += u64::from(refused > 0);
    }
    println!("{} acknowledged, {refused} refused in between", acked.len());
    assert!(refused > 0);
    assert_all_there(&gateway, &acked);
    drop((alice, bob));
    let mut bystanders = Bystanders::arrive(&gateway);
    bystanders.are_alone_and_well(&gateway);
    // And so it is after a restart.
    drop(gateway);
    let gateway = Gateway::start(&dir.path().join("data"), &[]);
    assert_all_there(&gateway, &acked);
}

#[test]
fn a_start_without_room_names_the_store_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let index = data.join("corelane.db-shm");
    let inject = "inject=pwrite64:error=ENOSPC";
    let options = ["-e", order::CALLS, "-P", index.to_str().unwrap(), "-e", inject];
    let command = Gateway::command(&data, &[]);
    let mut traced = strace::traced(&command, &dir.path().join("trace"), &options);
    let text = refusal("to write to a full disk", &mut traced);
    assert!(
        text.contains("corelane.db") && text.contains("the disk is full"),
        "{text}"
    );
}

/// Sends payloads of at least so many bytes with a full window until the gateway is gone; gives what was acknowledged, by
/// message number.
fn send_until_the_end(gateway: &Gateway, bytes: usize) -> Vec<(Sent, String)> {
    let mut alice = Client::login(gateway, "alice");
    let mut waiting: BTreeMap<u32, (u64, String)> = BTreeMap::new();
    let mut acked = Vec::new();
    let mut number = 0;
    loop {
        while waiting.len() < 16 {
            number += 1;
            let id = message_id();
            let mut payload = order::payload(number);
            payload.resize(payload.len().max(bytes), b'.');
            let Some(reference) = alice.try_send_with(&to_user("bob"), id, &payload) else {
                break;
            };
            waiting.insert(reference, (number, hex(id)));
        }
        let Ok(bytes) = alice.read() else {
            return acked;
        };
        let frame = Frame::parse(&bytes).unwrap();
        match frame.known_kind() {
            Some(FrameKind::SendAck) => {
                let ack = frame.access::<body::ArchivedSendAck>().unwrap();
                let (number, id) = waiting.remove(&frame.reference).unwrap();
                let (conv, seq) = (ack.conv.to_vec(), ack.seq.to_native());
                acked.push((Sent { number, conv, seq }, id));
            }
            Some(FrameKind::Error) => {
                let error = frame.access::<body::ArchivedErrorBody>().unwrap();
                let code = ErrorCode::from_number(error.code.to_native()).unwrap();
                assert!(code.is_retryable(), "{}", error.text.as_str());
                waiting.remove(&frame.reference);
            }
            _ => {}
        }
    }
}

/// The gateway ends by itself, and its last word is the reason.
fn assert_ends(gateway: &mut Gateway, reason: &str) {
    let code = gateway.process.wait(Duration::from_secs(20));
    assert_eq!(code, Some(1), "a failure is no clean end");
    let log = gateway.process.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("the store failed for good") && last.contains(reason),
        "{log}"
    );
}

/// A gateway on the same data, on a disk that works again, has all that was acknowledged.
fn assert_kept(dir: &Path, acked: Vec<(Sent, String)>) {
    assert!(!acked.is_empty());
    let gateway = Gateway::start(&dir.join("data"), &[]);
    let by_id = acked.into_iter().map(|(sent, id)| (id, sent.seq)).collect();
    assert_all_there(&gateway, &by_id);
    Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
}

/// One call of the thread that writes fails: the gateway ends, and what it acknowledged was synced before.
fn a_failing_disk(inject: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = failing(dir.path(), &["-e", order::CALLS, "-e", inject]);
    let acked = send_until_the_end(&gateway, 0);
    assert_ends(&mut gateway, "the disk failed");
    let lines = strace::lines(&dir.path().join("trace"), gateway.process.pid());
    let calls = strace::parse(&lines).unwrap();
    let failed = lines.lines().position(|line| line.ends_with("(INJECTED)"));
    let failed = failed.expect("an error was injected");
    let sent: Vec<Sent> = acked.iter().map(|(sent, _)| sent.clone()).collect();
    let link = gateway.link.clone().unwrap();
    assert_eq!(order::check(&calls, &link, &sent).violations, [""; 0]);
    let mut later = calls.iter().filter(|call| call.entered > failed);
    let touched =
        later.find(|call| call.target.contains("corelane.db") || call.target.contains(order::JOURNAL));
    assert_eq!(touched, None, "after the first failure the store is left alone");
    drop(gateway);
    assert_kept(dir.path(), acked);
}

#[test]
fn a_sync_that_fails_ends_the_gateway_and_nothing_unsynced_was_acknowledged() {
    a_failing_disk("inject=fsync,fdatasync:error=EIO:when=30");
}

#[test]
fn a_write_that_fails_ends_the_gateway_and_nothing_unwritten_was_acknowledged() {
    a_failing_disk("inject=pwrite64:error=EIO:when=301");
}

/// Bytes of a message, so that the 16,000 pages of a checkpoint are soon in the log.
const LARGE: usize = 60_000;

/// A gateway of which only calls on the database file fail, and that after it was made. The start makes a few of them, too, on
/// a thread of its own: it moves what it noted itself.
fn failing_checkpoints(dir: &Path, inject: &str) -> Gateway {
    let data = dir.join("data");
    let mut gateway = Gateway::start(&data, &["gateway.drain_ms=100"]);
    gateway.process.terminate();
    assert_eq!(gateway.process.wait(Duration::from_secs(15)), Some(0));
    let database = data.join("corelane.db");
    let database = database.to_str().unwrap();
    failing(dir, &["-e", order::CALLS, "-P", database, "-e", inject])
}

#[test]
fn a_checkpoint_that_fails_ends_the_gateway_and_loses_nothing() {
    for inject in [
        "inject=pwrite64:error=EIO:when=100",
        "inject=fsync,fdatasync:error=EIO:when=2",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut gateway = failing_checkpoints(dir.path(), inject);
        let acked = send_until_the_end(&gateway, LARGE);
        assert_ends(&mut gateway, "checkpoint");
        drop(gateway);
        assert_kept(dir.path(), acked);
    }
}

#[test]
fn a_checkpoint_without_room_is_made_later() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = failing_checkpoints(dir.path(), "inject=pwrite64:error=ENOSPC:when=100..102");
    let mut alice = Client::login(&gateway, "alice");
    let mut acked = BTreeMap::new();
    let trace = dir.path().join("trace");
    let mut injected = 0;
    wait_for(
        "a checkpoint behind those that failed",
        Duration::from_mins(1),
        || {
            for _ in 0..20 {
                let id = message_id();
                let reference = alice.send_with(&to_user("bob"), id, &vec![b'.'; LARGE]);
                let seq = alice.answer(reference).expect("a checkpoint refuses nobody");
                acked.insert(hex(id), seq);
            }
            let text = std::fs::read_to_string(&trace).unwrap();
            injected = text.matches("(INJECTED)").count();
            let (_, after) = text.rsplit_once("(INJECTED)")?;
            // A step that could move nothing syncs, too.
            let moved = after.find("pwrite64(")?;
            let synced = after[moved..]
                .lines()
                .any(|line| line.contains("sync") && line.ends_with("= 0"));
            (injected >= 3 && synced).then_some(())
        },
    );
    println!("{} acknowledged, {injected} writes refused", acked.len());
    assert_all_there(&gateway, &acked);
    drop((alice, gateway));
    let gateway = Gateway::start(&dir.path().join("data"), &[]);
    assert_all_there(&gateway, &acked);
    Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
}
