//! Rings fill one after the other; when all are full, nobody is accepted and then dropped untold.

use std::net::TcpStream;
use std::time::Duration;

use corelane_net::{EngineConfig, EngineError, Event};

use crate::bench::{Bench, PATIENCE, Read, now, read_now, small};

/// 2 rings of 16 slots, 4 of all kept back.
const ROOM: usize = 28;

fn tiny() -> EngineConfig {
    EngineConfig {
        slots_per_ring: 16,
        rings_max: 2,
        ..small()
    }
}

#[test]
fn the_next_ring_is_used_before_the_first_is_full() {
    let mut bench = Bench::listening(tiny());
    let clients: Vec<_> = (0..ROOM).map(|_| bench.client()).collect();
    assert_eq!(bench.engine.stats().rings, 2);
    let mut indices: Vec<_> = clients.iter().map(|(_, socket)| socket.index()).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), ROOM, "no two sockets share an index");
    assert!(indices.iter().all(|index| *index < 32), "indices are dense");
    for (client, socket) in &clients {
        let seen = bench.seen(*socket);
        assert_eq!(seen.peer, Some(client.local_addr().unwrap()));
        assert!(!seen.reserve);
    }
}

/// Greets who is let in, tells the others that there is no room, and closes those.
fn serve(bench: &mut Bench) {
    for event in bench.turn(Duration::from_millis(1)) {
        if let Event::Accepted { socket, reserve, .. } = event {
            bench.send(socket, if reserve { b"full" } else { b"room" });
            if reserve {
                bench.engine.close(socket);
            }
        }
    }
}

#[test]
fn with_all_rings_full_everybody_else_is_told() {
    let mut bench = Bench::listening(tiny());
    let mut clients: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(bench.address).unwrap())
        .collect();
    let mut told: Vec<Vec<u8>> = vec![Vec::new(); clients.len()];
    let deadline = now() + PATIENCE;
    while told.iter().any(|told| told.len() < 4) {
        assert!(now() < deadline, "{:?}", bench.engine.stats());
        serve(&mut bench);
        for (client, told) in clients.iter_mut().zip(&mut told) {
            match read_now(client) {
                Read::Bytes(bytes) => told.extend(bytes),
                Read::Nothing => {}
                Read::Fin => assert_eq!(told, b"full", "dropped untold"),
                Read::Reset => panic!("dropped by reset"),
            }
        }
        // Who was refused goes away, which makes room for the next in the backlog.
        for (client, _) in clients.iter().zip(&told).filter(|(_, told)| *told == b"full") {
            let _ = client.shutdown(std::net::Shutdown::Write);
        }
    }
    assert_eq!(told.iter().filter(|told| *told == b"room").count(), ROOM);
    assert_eq!(bench.engine.stats().accepted_reserve, 200 - ROOM as u64);
    bench.assert_sound();
}

#[test]
fn room_that_comes_back_is_given_again() {
    let mut bench = Bench::listening(tiny());
    let mut clients: Vec<_> = (0..ROOM).map(|_| bench.client()).collect();
    let (_refused, socket) = bench.client();
    assert!(bench.seen(socket).reserve);
    for _ in 0..10 {
        bench.engine.abort(clients.pop().unwrap().1);
    }
    bench.engine.abort(socket);
    bench.until("eleven are gone", |bench| bench.engine.stats().closed == 11);
    for _ in 0..10 {
        let (_client, socket) = bench.client();
        assert!(!bench.seen(socket).reserve);
        assert!(socket.index() < 32);
    }
    bench.assert_sound();
}

#[test]
fn an_outgoing_connection_never_takes_the_reserve() {
    let mut bench = Bench::listening(tiny());
    let to = bench.address;
    let mut made = 0;
    let error = loop {
        match bench.engine.connect(to, None) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        bench.turn(Duration::ZERO);
    };
    assert!(
        matches!(error, EngineError::Full { slots } if slots == ROOM as u64),
        "{error}"
    );
    assert!(
        made >= ROOM / 2,
        "each takes a second slot of the same engine at most: {made}"
    );
}
