//! Sockets that fall silent and speak again are heard each time, however long the silence.

use std::io::Write;
use std::time::Duration;

use corelane_net::CloseReason;

use crate::bench::{Bench, now, reset, small};

#[test]
fn a_socket_is_heard_before_and_after_every_silence() {
    let mut bench = Bench::listening(small());
    let mut clients: Vec<_> = (0..30).map(|_| bench.client()).collect();
    let mut expected = Vec::new();
    for (round, silence_ms) in [0, 2600, 10, 1900, 3000].into_iter().enumerate() {
        let later = now() + Duration::from_millis(silence_ms);
        bench.until("silence", |_| now() >= later);
        // More than one buffer, so that a single receive is not enough.
        let bytes = vec![round as u8; 9000];
        for (client, _) in &mut clients {
            client.write_all(&bytes).unwrap();
        }
        expected.extend(bytes);
        bench.until("heard", |bench| {
            clients
                .iter()
                .all(|(_, socket)| bench.seen(*socket).received.len() == expected.len())
        });
    }
    // All are polled again; a reset and a FIN are noticed there too.
    let later = now() + Duration::from_millis(3500);
    bench.until("silence", |_| now() >= later);
    let (client, first) = clients.remove(0);
    reset(client);
    bench.until("reset", |bench| bench.seen(first).closed.is_some());
    assert!(matches!(
        bench.seen(first).closed,
        Some(CloseReason::Broken(libc::ECONNRESET))
    ));
    let (client, second) = clients.remove(0);
    drop(client);
    bench.until("FIN", |bench| bench.seen(second).peer_closed);
    assert!(
        clients
            .iter()
            .all(|(_, socket)| bench.seen(*socket).received == expected)
    );
    bench.assert_sound();
}
