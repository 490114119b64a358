//! A peer that does not read keeps its own send in flight and nobody else's.

use std::io::Write;
use std::time::Duration;

use crate::bench::{Bench, Read, read_now, small, unread};

#[test]
fn a_stuck_reader_does_not_delay_the_others() {
    let mut bench = Bench::listening(small());
    let (stuck_client, stuck) = bench.client();
    let (mut client, socket) = bench.client();
    bench.send(stuck, &vec![1; 32_000_000]);
    bench.until("the stuck one's window is full", |_| {
        unread(&stuck_client) > 10_000
    });
    for round in 0..200_usize {
        client.set_nonblocking(false).unwrap();
        client.write_all(b"ping").unwrap();
        bench.until("ping", |bench| {
            bench.seen(socket).received.len() == 4 * (round + 1)
        });
        bench.send(socket, b"pong");
        bench.until("sent", |bench| bench.seen(socket).sent_count == round + 1);
        bench.until(
            "pong",
            |_| matches!(read_now(&mut client), Read::Bytes(bytes) if bytes == b"pong"),
        );
    }
    assert_eq!(bench.seen(stuck).sent_count, 0);
    assert_eq!(bench.seen(stuck).closed, None);
    // An orderly close waits for the send; an abort does not.
    bench.engine.close(stuck);
    for _ in 0..20 {
        bench.turn(Duration::from_millis(1));
    }
    assert_eq!(bench.seen(stuck).closed, None);
    bench.engine.abort(stuck);
    bench.until("closed", |bench| bench.seen(stuck).closed.is_some());
    bench.assert_sound();
}
