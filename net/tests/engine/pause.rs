//! A paused socket is not read, loses nothing, and goes on where it was.

use std::io::Write;
use std::time::Duration;

use crate::bench::{Bench, small};

#[test]
fn a_paused_socket_is_not_read() {
    let mut bench = Bench::listening(small());
    let (mut client, socket) = bench.client();
    client.write_all(b"one").unwrap();
    bench.until("one", |bench| bench.seen(socket).received == b"one");
    bench.engine.pause_receive(socket);
    bench.turn(Duration::from_millis(5));
    client.write_all(b"two").unwrap();
    for _ in 0..20 {
        bench.turn(Duration::from_millis(1));
    }
    assert_eq!(bench.seen(socket).received, b"one");
    bench.engine.resume_receive(socket);
    bench.until("two", |bench| bench.seen(socket).received == b"onetwo");
    bench.assert_sound();
}

#[test]
fn bytes_survive_pauses_at_any_moment() {
    let mut bench = Bench::listening(small());
    let (mut client, socket) = bench.client();
    let expected: Vec<u8> = (0..4_000_000_usize).map(|at| (at % 249) as u8).collect();
    let bytes = expected.clone();
    let thread = std::thread::spawn(move || client.write_all(&bytes).map(|()| client));
    let mut turns = 0_u32;
    bench.until("everything", |bench| {
        turns += 1;
        match turns % 7 {
            0 => bench.engine.pause_receive(socket),
            1 => bench.engine.resume_receive(socket),
            2 => {
                bench.engine.pause_receive(socket);
                bench.engine.resume_receive(socket);
            }
            3 => {
                bench.engine.pause_receive(socket);
                bench.turn(Duration::ZERO);
                bench.engine.resume_receive(socket);
                bench.engine.pause_receive(socket);
                bench.engine.resume_receive(socket);
            }
            _ => {}
        }
        bench.seen(socket).received.len() == expected.len()
    });
    assert!(bench.seen(socket).received == expected);
    thread.join().unwrap().unwrap();
    bench.assert_sound();
}

#[test]
fn a_paused_socket_that_was_polled_is_not_read() {
    let mut bench = Bench::listening(small());
    let (mut client, socket) = bench.client();
    let later = crate::bench::now() + Duration::from_millis(3500);
    bench.until("quiet", |_| crate::bench::now() > later);
    bench.engine.pause_receive(socket);
    client.write_all(b"late").unwrap();
    for _ in 0..20 {
        bench.turn(Duration::from_millis(1));
    }
    assert!(bench.seen(socket).received.is_empty());
    bench.engine.resume_receive(socket);
    bench.until("late", |bench| bench.seen(socket).received == b"late");
}
