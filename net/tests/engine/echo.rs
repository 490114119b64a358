//! Every byte comes back, in order, on every one of many sockets.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use crate::bench::{Bench, PATIENCE, Read, now, read_now, small};
use corelane_net::{Event, Socket};
use corelane_protocol::arena::{Arena, Span};

/// Sends back what it receives: one send in flight per socket, the rest queued.
#[derive(Default)]
struct Echo {
    arena: Arena,
    queued: HashMap<Socket, VecDeque<Span>>,
}

impl Echo {
    fn turn(&mut self, bench: &mut Bench) {
        for event in bench.turn(Duration::from_millis(5)) {
            match event {
                Event::Received(socket, _) => self.answer(bench, socket),
                Event::Sent(socket) => {
                    let queue = self.queued.get_mut(&socket).unwrap();
                    queue.pop_front();
                    if let Some(span) = queue.front() {
                        bench.engine.send(socket, span.clone());
                    }
                }
                Event::PeerClosed(socket) => bench.engine.close(socket),
                _ => {}
            }
        }
        self.arena.turn_ended();
    }

    fn answer(&mut self, bench: &mut Bench, socket: Socket) {
        let received = std::mem::take(&mut bench.seen.get_mut(&socket).unwrap().received);
        if received.is_empty() {
            return;
        }
        let span = self.arena.push(&[&received]);
        let queue = self.queued.entry(socket).or_default();
        queue.push_back(span.clone());
        if queue.len() == 1 {
            bench.engine.send(socket, span);
        }
    }
}

#[test]
fn many_sockets_get_back_what_they_sent() {
    let mut bench = Bench::listening(small());
    let mut echo = Echo::default();
    let mut clients: Vec<_> = (0..200).map(|_| bench.client().0).collect();
    assert!(
        bench.engine.stats().rings >= 3,
        "200 sockets need several rings of 64"
    );
    let mut expected: Vec<Vec<u8>> = vec![Vec::new(); clients.len()];
    let mut got: Vec<Vec<u8>> = vec![Vec::new(); clients.len()];
    for round in 0..20_usize {
        for (number, client) in clients.iter_mut().enumerate() {
            let len = 1 + (number * 37 + round * 1009) % 9000;
            let bytes: Vec<u8> = (0..len)
                .map(|at| ((at * 7 + number + round) % 251) as u8)
                .collect();
            client.set_nonblocking(false).unwrap();
            client.write_all(&bytes).unwrap();
            expected[number].extend(bytes);
        }
        let deadline = now() + PATIENCE;
        while got
            .iter()
            .zip(&expected)
            .any(|(got, expected)| got.len() < expected.len())
        {
            assert!(now() < deadline, "round {round}: {:?}", bench.engine.stats());
            echo.turn(&mut bench);
            for (client, got) in clients.iter_mut().zip(&mut got) {
                if let Read::Bytes(bytes) = read_now(client) {
                    got.extend(bytes);
                }
            }
        }
        assert!(got == expected);
    }
    drop(clients);
    let deadline = now() + PATIENCE;
    while bench.engine.stats().sockets_open > 0 {
        assert!(now() < deadline, "{:?}", bench.engine.stats());
        echo.turn(&mut bench);
    }
    bench.assert_sound();
}
