//! Peers that are too many, that do not read, or that are gone without a word: each costs its own place only, and that
//! for a bounded time.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use corelane_protocol::ws::Opcode;
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::once::refusal;
use corelane_system_tests::peer::{RKYV, UPGRADE, close_code, close_of, masked, upgraded, vanish, welcome};
use corelane_system_tests::{Gateway, wait_for};

#[test]
fn too_many_connections_are_told_so_until_somebody_leaves() {
    let data = tempfile::tempdir().unwrap();
    let set = [
        "connection.count_max=4",
        "connection.handshake_ms=60000",
        "gateway.shards=1",
    ];
    let gateway = Gateway::start(data.path(), &set);
    let mut bystanders = Bystanders::arrive(&gateway);
    let held: Vec<TcpStream> = (0..2).map(|_| upgraded(&gateway, RKYV)).collect();
    for _ in 0..20 {
        assert_eq!(close_code(&mut upgraded(&gateway, RKYV)), 4505);
        bystanders.chat();
    }
    gateway.await_metric("corelane_gateway_accept_refused_total", 20);
    drop(held);
    bystanders.are_alone_and_well(&gateway);
    let mut late = Client::login(&gateway, "late");
    let reference = late.send(&to_user("nobody"), "room again");
    assert_eq!(late.answer(reference), Ok(1));
    drop(late);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn a_reader_that_never_reads_is_demoted_and_closed_and_its_senders_do_not_wait() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &["connection.drain_slow_ms=1000"]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let mut stuck = welcome(&gateway, "stuck");
    let mut alice = Client::login(&gateway, "alice");
    // More than its socket and its queue take; it reads nothing of it.
    let mut sent = 0;
    wait_for("a demotion", Duration::from_secs(20), || {
        let reference = alice.send_with(&to_user("stuck"), message_id(), &vec![b'x'; 60_000]);
        sent += 1;
        assert_eq!(
            alice.answer(reference),
            Ok(sent),
            "its sender is answered at once"
        );
        bystanders.chat();
        (gateway.metric("corelane_gateway_deliver_demotions_total") > 0).then_some(())
    });
    wait_for(
        "the end of the one that does not read",
        Duration::from_secs(10),
        || {
            bystanders.chat();
            (gateway.metric("corelane_gateway_heartbeat_slow_closed_total") == 1).then_some(())
        },
    );
    // It finds the reason behind what was already on its way to it.
    assert_eq!(close_of(&mut stuck).map(|(code, _)| code), Some(4002));
    drop(stuck);
    wait_for("its memory back", Duration::from_secs(5), || {
        (gateway.metric("corelane_gateway_queued_bytes") == 0).then_some(())
    });
    // Nothing was lost: who comes back finds all of it.
    let mut back = Client::login(&gateway, "stuck");
    let unread: u64 = back
        .sync()
        .iter()
        .map(|(_, _, head_n, read_n)| head_n - read_n)
        .sum();
    assert_eq!(unread, sent);
    drop((alice, back));
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn a_client_that_falls_silent_is_closed_within_the_heartbeat() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &["connection.heartbeat_ms=1500"]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let began = corelane_system_tests::now();
    let mut silent = welcome(&gateway, "silent");
    wait_for("the end of the silent one", Duration::from_secs(5), || {
        bystanders.chat();
        (gateway.metric("corelane_gateway_heartbeat_timeouts_total") == 1).then_some(())
    });
    let took = corelane_system_tests::now().saturating_duration_since(began);
    assert!(took >= Duration::from_millis(1500), "closed after {took:?}");
    assert_eq!(close_of(&mut silent).map(|(code, _)| code), Some(4004));
    // It neither answers the close frame nor closes: its place is free all the same.
    bystanders.are_alone_and_well(&gateway);
    drop(silent);
}

#[test]
fn clients_that_vanish_without_a_word_lose_their_places_in_every_stage() {
    let data = tempfile::tempdir().unwrap();
    let set = [
        "connection.heartbeat_ms=1500",
        "connection.handshake_ms=1500",
        "connection.queue_bytes_max=65536",
        "connection.drain_slow_ms=1000",
    ];
    let gateway = Gateway::start(data.path(), &set);
    let mut bystanders = Bystanders::arrive(&gateway);
    let connected = gateway.connect();
    let mut half_asked = gateway.connect();
    half_asked.write_all(&UPGRADE.as_bytes()[..40]).unwrap();
    let asked = upgraded(&gateway, RKYV);
    let idle = welcome(&gateway, "idle");
    let busy = welcome(&gateway, "busy");
    let closing = welcome(&gateway, "closing");
    let gone = [&connected, &half_asked, &asked, &idle, &busy, &closing];
    for stream in gone {
        vanish(stream);
    }
    // One says goodbye as it goes: the answer finds nobody.
    let goodbye = masked(Opcode::Close, &1000_u16.to_be_bytes());
    (&closing).write_all(&goodbye).unwrap();
    // One is written to: what is sent fills its socket, then its queue.
    let mut alice = Client::login(&gateway, "alice");
    for sent in 1..=20 {
        let reference = alice.send_with(&to_user("busy"), message_id(), &vec![b'x'; 60_000]);
        assert_eq!(alice.answer(reference), Ok(sent));
        bystanders.chat();
    }
    drop(alice);
    bystanders.are_alone_and_well(&gateway);
    let mut back = Client::login(&gateway, "busy");
    let unread: u64 = back
        .sync()
        .iter()
        .map(|(_, _, head_n, read_n)| head_n - read_n)
        .sum();
    assert_eq!(unread, 20, "what it missed is in the log");
    drop(back);
    bystanders.are_alone_and_well(&gateway);
    for stream in gone {
        stream.set_nonblocking(true).unwrap();
        let error = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "this end was told nothing: it really had vanished"
        );
    }
}

/// Sets the soft limit of open descriptors of a process.
fn set_descriptor_limit(pid: u32, soft: usize) {
    let output = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
        .output()
        .expect("prlimit (util-linux) runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Served,
    ToldThatThereIsNoRoom,
}

/// Connects, upgrades and pings.
fn fate(gateway: &Gateway) -> (Fate, TcpStream) {
    let mut stream = upgraded(gateway, RKYV);
    stream.write_all(&masked(Opcode::Ping, b"served?")).unwrap();
    let mut header = [0; 2];
    stream
        .read_exact(&mut header)
        .expect("whoever is upgraded is answered");
    let fate = match header[0] {
        0x8a => Fate::Served,
        0x88 => {
            let mut code = [0; 2];
            stream.read_exact(&mut code).unwrap();
            assert_eq!(u16::from_be_bytes(code), 4505);
            Fate::ToldThatThereIsNoRoom
        }
        other => panic!("answered with {other:#x}"),
    };
    (fate, stream)
}

#[test]
fn at_the_descriptor_limit_everybody_is_served_or_told() {
    const SLOTS: usize = 1000;
    const PEERS: usize = 1200;
    let data = tempfile::tempdir().unwrap();
    set_descriptor_limit(std::process::id(), PEERS + 500);
    // A ring has as many places as the soft limit at the start; then the limit sinks to what the process has open, and
    // there is no descriptor for another ring, or for anything else.
    let plain = Gateway::command(
        data.path(),
        &["gateway.shards=1", "connection.handshake_ms=60000"],
    );
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={SLOTS}:"))
        .arg(plain.get_program())
        .args(plain.get_args());
    let gateway = Gateway::from(corelane_system_tests::Running::start(&mut command), data.path());
    let mut bystanders = Bystanders::arrive(&gateway);
    let open = gateway.process.descriptors();
    set_descriptor_limit(gateway.process.pid(), open);
    let mut held = Vec::new();
    let (mut served, mut told) = (0, 0);
    for number in 0..PEERS {
        let (fate, stream) = fate(&gateway);
        match fate {
            Fate::Served => {
                served += 1;
                held.push(stream);
            }
            Fate::ToldThatThereIsNoRoom => told += 1,
        }
        if number % 100 == 0 {
            bystanders.chat();
        }
    }
    println!("{served} served, {told} told 4505, {open} descriptors");
    assert!(
        served > SLOTS * 8 / 10 && served < SLOTS,
        "one ring is full: {served} served"
    );
    assert_eq!(served + told, PEERS);
    // HTTP needs a descriptor of the process: it waits, and the chat goes on.
    let mut waiting = TcpStream::connect(gateway.http.trim_start_matches("http://")).unwrap();
    waiting
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    bystanders.chat();
    set_descriptor_limit(gateway.process.pid(), 4096);
    let mut answer = String::new();
    waiting.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // With descriptors again there is another ring, and room.
    let late = wait_for("room for one more", Duration::from_secs(5), || {
        let (fate, stream) = fate(&gateway);
        bystanders.chat();
        (fate == Fate::Served).then_some(stream)
    });
    drop((held, late, waiting));
    bystanders.allow_one_more_ring();
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn a_limit_that_is_too_low_is_refused_before_anything_opens() {
    let data = tempfile::tempdir().unwrap();
    let plain = Gateway::command(data.path(), &[]);
    let mut command = Command::new("prlimit");
    command
        .arg("--nofile=64:")
        .arg(plain.get_program())
        .args(plain.get_args());
    let text = refusal("to do with 64 descriptors", &mut command);
    assert!(
        text.contains("open files") && text.contains("ulimit -n 1000"),
        "{text}"
    );
}
