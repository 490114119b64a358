//! Peers that come, go and reset at every step: every socket is closed once, every slot is used again, and no completion
//! of an old user reaches a new one.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use corelane_net::{CloseReason, EngineConfig, Event};

use crate::bench::{Bench, reset, small};

/// What a peer does after connecting.
const STEPS: usize = 10;

/// Lets one client do its worst. Returns it if it stays for the server's next move.
fn misbehave(step: usize, bench: &mut Bench) -> Option<TcpStream> {
    let mut client = TcpStream::connect(bench.address).unwrap();
    match step {
        // Before it was accepted.
        0 => reset(client),
        1 => drop(client),
        2 => {
            client.write_all(b"and away").unwrap();
            reset(client);
        }
        3 => {
            client.write_all(b"and away").unwrap();
            drop(client);
        }
        // After.
        4 => {
            bench.turn(Duration::ZERO);
            reset(client);
        }
        5 => {
            bench.turn(Duration::ZERO);
            client.write_all(&vec![1; 20_000]).unwrap();
            bench.turn(Duration::ZERO);
            reset(client);
        }
        6 => {
            client.shutdown(Shutdown::Write).unwrap();
            return Some(client);
        }
        // Stays until the server has sent something large, and then resets or leaves.
        _ => {
            client.write_all(b"large").unwrap();
            return Some(client);
        }
    }
    None
}

fn close_what_peers_closed(bench: &mut Bench) {
    for (socket, seen) in &bench.seen {
        if seen.peer_closed && seen.closed.is_none() {
            bench.engine.close(*socket);
        }
    }
}

#[test]
fn slots_are_used_again_and_again_without_a_mix_up() {
    let config = EngineConfig {
        slots_per_ring: 32,
        rings_max: 2,
        receive_buffers: 16,
        ..small()
    };
    let mut bench = Bench::listening(config);
    let large = vec![9; 1_000_000];
    let mut staying = Vec::new();
    let rounds = 4000;
    for round in 0..rounds {
        let step = round % STEPS;
        if let Some(client) = misbehave(step, &mut bench) {
            staying.push((step, client));
        }
        for event in bench.turn(Duration::ZERO) {
            match event {
                Event::Received(socket, _) if bench.seen[&socket].received == b"large" => {
                    bench.send(socket, &large);
                }
                Event::PeerClosed(socket) if round % 3 == 0 => bench.engine.abort(socket),
                Event::PeerClosed(socket) => bench.engine.close(socket),
                _ => {}
            }
        }
        close_what_peers_closed(&mut bench);
        // Few stay at a time, so that the table never fills with them.
        while staying.len() > 8 {
            let (step, client) = staying.remove(0);
            match step {
                7 => reset(client),
                8 => drop(client),
                9 => {
                    let peer = client.local_addr().unwrap();
                    let mut found = None;
                    bench.until("accepted", |bench| {
                        close_what_peers_closed(bench);
                        found = bench
                            .accepted
                            .iter()
                            .rev()
                            .find(|s| bench.seen[s].peer == Some(peer))
                            .copied();
                        found.is_some()
                    });
                    bench.engine.abort(found.unwrap());
                }
                _ => {}
            }
        }
    }
    for (_, client) in staying {
        reset(client);
    }
    bench.until("all are gone", |bench| {
        close_what_peers_closed(bench);
        bench.engine.stats().sockets_open == 0
    });
    let stats = bench.engine.stats();
    assert_eq!(stats.accepted, stats.closed);
    assert!(
        stats.accepted + stats.accept_failures >= rounds as u64,
        "{stats:?}"
    );
    assert!(
        bench
            .accepted
            .iter()
            .all(|socket| bench.seen[socket].closed.is_some())
    );
    assert!(
        bench.accepted.iter().any(|socket| socket.generation() > 20),
        "slots were used again"
    );
    assert!(bench.accepted.iter().any(|socket| {
        matches!(
            bench.seen[socket].closed,
            Some(CloseReason::Broken(libc::ECONNRESET | libc::EPIPE))
        )
    }));
    bench.assert_sound();
}

#[test]
fn an_old_id_does_nothing() {
    let config = EngineConfig {
        slots_per_ring: 8,
        rings_max: 1,
        ..small()
    };
    let mut bench = Bench::listening(config);
    let (client, old) = bench.client();
    bench.engine.abort(old);
    bench.until("closed", |bench| bench.seen(old).closed.is_some());
    drop(client);
    let mut present = Vec::new();
    bench.until("its slot is used again", |bench| {
        let (client, socket) = bench.client();
        if socket.index() == old.index() {
            present.push((client, socket));
        } else {
            bench.engine.abort(socket);
        }
        !present.is_empty()
    });
    let (mut client, socket) = present.pop().unwrap();
    bench.send(old, b"for somebody else");
    bench.engine.pause_receive(old);
    bench.engine.close(old);
    bench.engine.abort(old);
    client.write_all(b"still here").unwrap();
    bench.until("received", |bench| bench.seen(socket).received == b"still here");
    assert_eq!(bench.seen(socket).closed, None);
    assert_eq!(crate::bench::read_now(&mut client), crate::bench::Read::Nothing);
}

/// Bytes of the engine's lists after `rounds` sockets came and went, by `round`, one at a time.
fn bytes_after(bench: &mut Bench, rounds: usize, round: impl Fn(&mut Bench)) -> u64 {
    for _ in 0..rounds {
        round(bench);
        bench.until("closed", |bench| bench.engine.stats().sockets_open == 0);
    }
    bench.engine.stats().user_bytes.in_flight
}

#[test]
fn lists_do_not_grow_with_the_sockets_that_came_and_went() {
    let config = EngineConfig {
        slots_per_ring: 16,
        rings_max: 1,
        receive_buffers: 1,
        ..small()
    };
    let mut bench = Bench::listening(config);
    // Lingers, and ends long before its two seconds are over.
    let lingers = |bench: &mut Bench| {
        let (client, socket) = bench.client();
        bench.engine.close(socket);
        drop(client);
    };
    let before = bytes_after(&mut bench, 100, lingers);
    let after = bytes_after(&mut bench, 1000, lingers);
    assert!(after <= before + 4096, "lingering: {before} bytes, then {after}");

    // Waits for a buffer that does not come back.
    bench.hoard = true;
    let (mut first, _) = bench.client();
    first.write_all(b"takes the buffer").unwrap();
    bench.until("no buffer is left", |bench| !bench.hoarded.is_empty());
    let starves = |bench: &mut Bench| {
        let (mut client, socket) = bench.client();
        let empty = bench.engine.stats().buffers_empty;
        client.write_all(b"waits").unwrap();
        bench.until("starved", |bench| bench.engine.stats().buffers_empty > empty);
        bench.engine.abort(socket);
        bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    };
    for _ in 0..100 {
        starves(&mut bench);
    }
    let before = bench.engine.stats().user_bytes.in_flight;
    for _ in 0..600 {
        starves(&mut bench);
    }
    let after = bench.engine.stats().user_bytes.in_flight;
    assert!(after <= before + 1024, "starved: {before} bytes, then {after}");
    bench.assert_sound();
}
