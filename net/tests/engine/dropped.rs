//! An engine dropped in the middle of everything lets go of all memory first, and peers see their end.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use corelane_net::Event;
use corelane_protocol::arena::Arena;

use crate::bench::{Bench, PATIENCE, Read, now, read_now, small, unread};

#[test]
fn dropped_with_everything_in_flight() {
    let mut bench = Bench::listening(small());
    let mut clients: Vec<_> = (0..100).map(|_| bench.client()).collect();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut arena = Arena::new();
    for (number, (client, socket)) in clients.iter_mut().enumerate() {
        match number % 5 {
            0 => bench.engine.send(*socket, arena.push(&[&vec![1; 16_000_000]])),
            1 => client.write_all(&vec![1; 50_000]).unwrap(),
            2 => bench.engine.close(*socket),
            3 => bench.engine.pause_receive(*socket),
            _ => drop(bench.engine.connect(elsewhere.local_addr().unwrap(), None)),
        }
    }
    let mut events: Vec<Event> = Vec::new();
    bench.engine.turn(Duration::ZERO, &mut events).unwrap();
    let first = &clients[0].0;
    bench.until("a send is stuck", |_| unread(first) > 10_000);
    // Queued but not handed over.
    for (_, socket) in clients.iter().skip(4).step_by(5) {
        bench.send(*socket, b"never mind");
    }
    let started = now();
    drop(bench);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "the kernel let go in time"
    );
    let deadline = now() + PATIENCE;
    for (client, _) in &mut clients {
        while !matches!(read_now(client), Read::Fin | Read::Reset) {
            assert!(now() < deadline, "a peer was left hanging");
        }
    }
}

#[test]
fn dropped_before_its_first_turn() {
    let mut bench = Bench::listening(small());
    let to = bench.address;
    bench.engine.connect(to, None).unwrap();
    drop(bench);
}
