//! A socket costs no process descriptor: a process may hold more sockets than `RLIMIT_NOFILE`.

use std::process::Command;
use std::time::Duration;

use corelane_net::{EngineConfig, Event};

use crate::bench::{Bench, PATIENCE, now, small};

const CHILD: &str = "CORELANE_NET_TEST_FEW_DESCRIPTORS";
const LIMIT: u32 = 256;
const CONNECTIONS: usize = 1000;

/// Runs the test `name` in a process of its own, because limits are the process's. Returns whether this
/// is that process.
fn in_own_process(name: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("descriptors::{name}"), "--nocapture"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

/// Sets the soft limit of descriptors.
fn limit_descriptors(soft: u32) {
    let limit = libc::rlimit {
        rlim_cur: u64::from(soft),
        rlim_max: u64::from(LIMIT),
    };
    #[expect(unsafe_code, reason = "no safe wrapper sets a limit")]
    // SAFETY: `limit` is a live `rlimit`.
    let answer = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(answer, 0);
}

#[test]
fn a_ring_that_cannot_be_made_turns_the_last_room_into_the_reserve() {
    if !in_own_process("a_ring_that_cannot_be_made_turns_the_last_room_into_the_reserve") {
        return;
    }
    limit_descriptors(LIMIT);
    let ring = |slots_per_ring| EngineConfig {
        slots_per_ring,
        ..small()
    };
    let mut server = Bench::listening(ring(64));
    let mut client = Bench::new(ring(LIMIT));
    // Below the 64 direct descriptors that the next ring would have.
    limit_descriptors(60);
    let sockets: Vec<_> = (0..100)
        .map(|_| client.engine.connect(server.address, None).unwrap())
        .collect();
    // With 16 kept back, 48 are let in and the others told.
    drive(&mut server, &mut client, |_, client| {
        sockets
            .iter()
            .all(|socket| client.seen(*socket).received.len() == 4)
    });
    let told = |client: &Bench, what: &[u8]| {
        sockets
            .iter()
            .filter(|socket| client.seen(**socket).received == what)
            .count()
    };
    assert_eq!((told(&client, b"room"), told(&client, b"full")), (48, 52));
    assert!(server.engine.stats().ring_failures > 0);
    // The limit is raised again: there is room.
    limit_descriptors(LIMIT);
    drive(&mut server, &mut client, |server, _| {
        server.engine.stats().rings == 2
    });
    let late = client.engine.connect(server.address, None).unwrap();
    drive(&mut server, &mut client, |_, client| {
        client.seen(late).received == b"room"
    });
}

/// Turns both until `done`; the server greets or refuses, the client closes what the server closed.
fn drive(server: &mut Bench, client: &mut Bench, done: impl Fn(&Bench, &Bench) -> bool) {
    let deadline = now() + PATIENCE;
    while !done(server, client) {
        assert!(
            now() < deadline,
            "{:?} {:?}",
            server.engine.stats(),
            client.engine.stats()
        );
        for event in server.turn(Duration::from_millis(1)) {
            if let Event::Accepted { socket, reserve, .. } = event {
                server.send(socket, if reserve { b"full" } else { b"room" });
                if reserve {
                    server.engine.close(socket);
                }
            }
        }
        for event in client.turn(Duration::from_millis(1)) {
            if let Event::PeerClosed(socket) = event {
                assert_eq!(client.seen(socket).received, b"full", "dropped untold");
                client.engine.close(socket);
            }
        }
    }
}

#[test]
fn a_process_holds_more_sockets_than_descriptors() {
    if !in_own_process("a_process_holds_more_sockets_than_descriptors") {
        return;
    }
    limit_descriptors(LIMIT);
    let config = EngineConfig {
        receive_buffers: 64,
        ..EngineConfig::default()
    };
    assert_eq!(config.slots_per_ring, LIMIT);
    let mut server = Bench::listening(config);
    let mut client = Bench::new(config);
    let deadline = now() + PATIENCE;
    let mut sockets = Vec::new();
    while server.accepted.len() < CONNECTIONS || !sockets.iter().all(|s| client.seen(*s).connected) {
        assert!(
            now() < deadline,
            "{:?} {:?}",
            server.engine.stats(),
            client.engine.stats()
        );
        for _ in 0..100.min(CONNECTIONS - sockets.len()) {
            sockets.push(client.engine.connect(server.address, None).unwrap());
        }
        client.turn(Duration::ZERO);
        server.turn(Duration::ZERO);
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 50, "{open} descriptors are open");
    for socket in &sockets {
        client.send(*socket, b"hello");
    }
    while !server
        .accepted
        .iter()
        .all(|socket| server.seen(*socket).received == b"hello")
    {
        assert!(
            now() < deadline,
            "{:?} {:?}",
            server.engine.stats(),
            client.engine.stats()
        );
        client.turn(Duration::ZERO);
        server.turn(Duration::ZERO);
    }
    for socket in server.accepted.clone() {
        assert!(!server.seen(socket).reserve);
    }
}
