//! A wait that gathers costs one wake-up for many events, and delays none that comes after a silence.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::bench::{Bench, PATIENCE, now, small};

const WINDOW: Duration = Duration::from_millis(300);

/// Gathering needs Linux 6.12; before, every event ends a wait.
fn kernel_gathers() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.trim().parse().unwrap_or(0_u32));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 12)
}

#[test]
fn what_happens_within_the_window_ends_the_wait_together() {
    let mut bench = Bench::listening(small());
    let mut clients: Vec<_> = (0..20).map(|_| bench.client()).collect();
    bench.engine.gather(WINDOW);
    for (client, _) in &mut clients {
        client.write_all(b"beat").unwrap();
    }
    let (started, mut turns) = (now(), 0);
    while clients
        .iter()
        .any(|(_, socket)| bench.seen(*socket).received.is_empty())
    {
        bench.turn(PATIENCE);
        turns += 1;
    }
    if kernel_gathers() {
        assert!(started.elapsed() >= WINDOW, "{:?}", started.elapsed());
        assert!(turns <= 3, "{turns} turns for {} events", clients.len());
    }
    bench.assert_sound();
}

#[test]
fn what_happens_after_a_silence_ends_the_wait_at_once() {
    let mut bench = Bench::listening(small());
    let (mut client, socket) = bench.client();
    bench.engine.gather(WINDOW);
    let (sender, sent_at) = channel();
    let (never, silence) = channel::<()>();
    let thread = std::thread::spawn(move || {
        // Nobody sends: this is the silence, longer than the window.
        let _ = silence.recv_timeout(3 * WINDOW);
        sender.send(now()).unwrap();
        client.write_all(b"hello").unwrap();
        client
    });
    // One wait; the engine itself may end it to look for quiet sockets, so it is begun again.
    while bench.seen(socket).received.is_empty() {
        bench.turn(PATIENCE);
    }
    let late = sent_at.recv().unwrap().elapsed();
    assert!(late < WINDOW, "heard {late:?} after it was sent");
    drop((never, thread.join().unwrap()));
}

#[test]
fn without_a_window_every_event_ends_a_wait() {
    let mut bench = Bench::listening(small());
    let (mut client, socket) = bench.client();
    bench.engine.gather(WINDOW);
    bench.engine.gather(Duration::ZERO);
    let started = now();
    for round in 1..=20 {
        client.write_all(b"x").unwrap();
        while bench.seen(socket).received.len() < round {
            bench.turn(PATIENCE);
        }
    }
    assert!(started.elapsed() < 5 * WINDOW, "{:?}", started.elapsed());
}
