//! With hardly any receive buffers nothing is lost; it only takes more turns.

use std::io::Write;

use corelane_net::EngineConfig;

use crate::bench::{Bench, small};

#[test]
fn bytes_wait_in_their_sockets_while_all_buffers_are_out() {
    let config = EngineConfig {
        receive_buffers: 2,
        receive_buffer_bytes: 64,
        ..small()
    };
    let mut bench = Bench::listening(config);
    let mut clients: Vec<_> = (0..40).map(|_| bench.client()).collect();
    bench.hoard = true;
    let expected: Vec<Vec<u8>> = (0..clients.len())
        .map(|number| (0..1000 + number).map(|at| ((at + number) % 251) as u8).collect())
        .collect();
    for ((client, _), bytes) in clients.iter_mut().zip(&expected) {
        client.write_all(bytes).unwrap();
    }
    bench.until("no buffer is left", |bench| {
        bench.engine.stats().buffers_empty >= 38
    });
    let sockets: Vec<_> = clients.iter().map(|(_, socket)| *socket).collect();
    let mut turns = 0;
    bench.until("everything was received", |bench| {
        turns += 1;
        // Buffers come back late, and every second turn only.
        if turns % 2 == 0 {
            for buffer in std::mem::take(&mut bench.hoarded) {
                bench.engine.recycle(buffer);
                assert!(
                    bench.engine.received(buffer).is_empty(),
                    "a buffer given back is not seen"
                );
                bench.engine.recycle(buffer);
            }
        }
        sockets
            .iter()
            .zip(&expected)
            .all(|(socket, bytes)| bench.seen(*socket).received.len() == bytes.len())
    });
    for (socket, bytes) in sockets.iter().zip(&expected) {
        assert!(bench.seen(*socket).received == *bytes);
    }
    bench.assert_sound();
}

#[test]
fn a_lack_of_buffers_does_not_spin() {
    let config = EngineConfig {
        receive_buffers: 1,
        ..small()
    };
    let mut bench = Bench::listening(config);
    let (mut client, _) = bench.client();
    bench.hoard = true;
    for _ in 0..2 {
        client.write_all(&[1; 10_000]).unwrap();
        bench.turn(std::time::Duration::from_millis(20));
    }
    bench.until("no buffer is left", |bench| {
        bench.engine.stats().buffers_empty > 0
    });
    let before = bench.engine.stats();
    for _ in 0..10 {
        bench.turn(std::time::Duration::from_millis(5));
    }
    let after = bench.engine.stats();
    assert_eq!(after.buffers_empty, before.buffers_empty);
    assert!(after.enters - before.enters <= 30, "{before:?} {after:?}");
}
