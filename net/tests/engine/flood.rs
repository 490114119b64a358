//! More happens at once than the queues of a ring hold: nothing is lost, it takes more rounds.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use corelane_net::{EngineConfig, Event};

use crate::bench::{Bench, PATIENCE, now};

/// More than the 8,192 completions and the 1,024 submissions that fit.
const SOCKETS: usize = 10_000;

#[test]
fn everybody_speaks_and_leaves_at_once() {
    let mut server = Bench::listening(EngineConfig::default());
    let mut client = Bench::new(EngineConfig::default());
    let from = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)));
    let deadline = now() + PATIENCE;
    let mut sockets = Vec::new();
    while server.accepted.len() < SOCKETS {
        assert!(now() < deadline, "{:?}", server.engine.stats());
        while sockets.len() < SOCKETS && sockets.len() < server.accepted.len() + 500 {
            sockets.push(client.engine.connect(server.address, from).unwrap());
        }
        client.turn(Duration::ZERO);
        server.turn(Duration::ZERO);
    }
    // All at once, in one turn of the client; the server looks only afterwards.
    client.until("connected", |client| {
        client.engine.stats().connected == SOCKETS as u64
    });
    for socket in &sockets {
        client.send(*socket, b"now");
    }
    client.until("sent", |client| {
        sockets.iter().all(|socket| client.seen(*socket).sent_count == 1)
    });
    server.until("everybody was heard", |server| {
        server
            .accepted
            .iter()
            .all(|socket| server.seen(*socket).received == b"now")
    });
    for socket in &sockets {
        client.engine.close(*socket);
    }
    while server.engine.stats().closed < SOCKETS as u64 || client.engine.stats().closed < SOCKETS as u64 {
        assert!(
            now() < deadline,
            "{:?} {:?}",
            server.engine.stats(),
            client.engine.stats()
        );
        client.turn(Duration::ZERO);
        for event in server.turn(Duration::from_millis(1)) {
            if let Event::PeerClosed(socket) = event {
                server.engine.close(socket);
            }
        }
    }
    assert!(
        server
            .accepted
            .iter()
            .all(|socket| server.seen(*socket).closed.is_some())
    );
    server.assert_sound();
    client.assert_sound();
}
