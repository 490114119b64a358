//! Any thread wakes the engine; many wakes cost one.

use std::io::Write;
use std::time::Duration;

use corelane_net::EngineConfig;

use crate::bench::{Bench, PATIENCE, now, small};

#[test]
fn a_wake_from_another_thread_ends_the_wait() {
    let mut bench = Bench::new(small());
    bench.turn(Duration::ZERO);
    let started = now();
    for round in 1..=100 {
        let waker = bench.engine.waker();
        let thread = std::thread::spawn(move || waker.wake());
        while bench.woken_count < round {
            bench.turn(PATIENCE);
        }
        thread.join().unwrap();
        assert_eq!(bench.woken_count, round);
    }
    assert!(started.elapsed() < PATIENCE / 2, "no wait took its whole time");
}

#[test]
fn many_wakes_before_a_turn_are_told_once() {
    let mut bench = Bench::new(small());
    let waker = bench.engine.waker();
    bench.turn(Duration::ZERO);
    for _ in 0..1000 {
        waker.wake();
    }
    for _ in 0..5 {
        bench.turn(Duration::from_millis(1));
    }
    assert_eq!(bench.woken_count, 1);
}

#[test]
fn no_wake_is_lost_between_two_threads() {
    let mut bench = Bench::new(small());
    let waker = bench.engine.waker();
    let (sender, inbox) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        for number in 0..20_000 {
            sender.send(number).unwrap();
            waker.wake();
        }
    });
    let mut received = 0;
    let deadline = now() + PATIENCE;
    while received < 20_000 {
        assert!(now() < deadline);
        let before = bench.woken_count;
        bench.turn(PATIENCE);
        if bench.woken_count > before {
            received += inbox.try_iter().count();
        }
    }
    thread.join().unwrap();
}

#[test]
fn bytes_for_a_later_ring_end_the_wait_in_the_first() {
    let config = EngineConfig {
        slots_per_ring: 8,
        ..small()
    };
    let mut bench = Bench::listening(config);
    let mut clients: Vec<_> = (0..30).map(|_| bench.client()).collect();
    let (mut client, socket) = clients.pop().unwrap();
    assert!(socket.index() >= 8, "not in the first ring");
    let started = now();
    for round in 1..=100 {
        let thread = std::thread::spawn(move || {
            client.write_all(b"ping").unwrap();
            client
        });
        while bench.seen(socket).received.len() < 4 * round {
            bench.turn(PATIENCE);
        }
        client = thread.join().unwrap();
    }
    // The engine looks by itself every half second while sockets are active.
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_waker_outlives_its_engine() {
    let bench = Bench::new(small());
    let waker = bench.engine.waker();
    drop(bench);
    waker.wake();
}

#[test]
fn a_turn_without_anything_ends_after_its_wait() {
    let mut bench = Bench::listening(small());
    let _client = bench.client();
    let started = now();
    let events = bench.turn(Duration::from_millis(60));
    assert!(events.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(60));
}
