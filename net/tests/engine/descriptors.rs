//! A socket costs no process descriptor: a process may hold more sockets than `RLIMIT_NOFILE`.

use std::process::Command;
use std::time::Duration;

use corelane_net::EngineConfig;

use crate::bench::{Bench, PATIENCE, now};

const CHILD: &str = "CORELANE_NET_TEST_FEW_DESCRIPTORS";
const LIMIT: u32 = 256;
const CONNECTIONS: usize = 1000;

#[test]
fn a_process_holds_more_sockets_than_descriptors() {
    if std::env::var_os(CHILD).is_some() {
        few_descriptors();
        return;
    }
    // The limit is the process's, so the test runs in one of its own.
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "descriptors::a_process_holds_more_sockets_than_descriptors",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn few_descriptors() {
    let limit = libc::rlimit {
        rlim_cur: u64::from(LIMIT),
        rlim_max: u64::from(LIMIT),
    };
    #[expect(unsafe_code, reason = "no safe wrapper lowers a limit")]
    // SAFETY: `limit` is a live `rlimit`.
    let answer = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(answer, 0);
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
