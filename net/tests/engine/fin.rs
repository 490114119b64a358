//! Whoever closes, and in whatever state: the peer reads what was sent to it, then FIN, never a reset; the
//! user gets one `Closed`.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use corelane_net::{CloseReason, Socket};

use crate::bench::{Bench, Read, read_to_end, small, unread};

fn started() -> (Bench, TcpStream, Socket) {
    let mut bench = Bench::listening(small());
    let (client, socket) = bench.client();
    (bench, client, socket)
}

/// The client must read `expected` and FIN, and the socket must be closed on request.
fn assert_fin(mut bench: Bench, mut client: TcpStream, socket: Socket, expected: &[u8]) {
    let (bytes, end) = read_to_end(&mut bench, &mut client);
    assert_eq!(end, Read::Fin);
    assert!(bytes == expected, "{} bytes of {}", bytes.len(), expected.len());
    bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    assert_eq!(bench.seen(socket).closed, Some(CloseReason::Requested));
    assert_eq!(bench.engine.stats().sockets_open, 0);
    bench.assert_sound();
}

#[test]
fn closed_right_after_it_was_accepted() {
    let (mut bench, client, socket) = started();
    bench.engine.close(socket);
    bench.engine.close(socket);
    assert_fin(bench, client, socket, b"");
}

#[test]
fn closed_while_idle_in_its_poll() {
    let (mut bench, client, socket) = started();
    let later = crate::bench::now() + Duration::from_millis(3500);
    bench.until("quiet for long enough to be polled", |_| {
        crate::bench::now() > later
    });
    bench.engine.close(socket);
    assert_fin(bench, client, socket, b"");
}

#[test]
fn closed_while_active() {
    let (mut bench, mut client, socket) = started();
    for _ in 0..3 {
        client.write_all(&[1; 1000]).unwrap();
        bench.turn(Duration::from_millis(5));
    }
    bench.engine.close(socket);
    assert_fin(bench, client, socket, b"");
}

#[test]
fn closed_behind_a_send_in_flight() {
    let (mut bench, client, socket) = started();
    let large: Vec<u8> = (0..8_000_000_usize).map(|at| (at % 251) as u8).collect();
    bench.send(socket, &large);
    bench.turn(Duration::ZERO);
    assert_eq!(
        bench.seen(socket).sent_count,
        0,
        "it does not fit into the send buffer"
    );
    bench.engine.close(socket);
    assert_fin(bench, client, socket, &large);
}

#[test]
fn closed_while_paused_with_unread_bytes() {
    let (mut bench, mut client, socket) = started();
    bench.engine.pause_receive(socket);
    bench.turn(Duration::ZERO);
    client.write_all(&vec![1; 100_000]).unwrap();
    bench.turn(Duration::from_millis(5));
    bench.send(socket, b"bye");
    bench.engine.close(socket);
    assert_fin(bench, client, socket, b"bye");
}

#[test]
fn closed_after_the_peer_sent_fin() {
    let (mut bench, mut client, socket) = started();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    bench.until("FIN", |bench| bench.seen(socket).peer_closed);
    assert_eq!(bench.seen(socket).received, b"last");
    bench.send(socket, b"answer");
    bench.engine.close(socket);
    assert_fin(bench, client, socket, b"answer");
}

#[test]
fn closed_although_the_peer_goes_on_sending() {
    let (mut bench, mut client, socket) = started();
    bench.send(socket, b"stop");
    bench.engine.close(socket);
    for _ in 0..50 {
        client.write_all(&[1; 1000]).unwrap();
        bench.turn(Duration::from_millis(1));
    }
    assert_fin(bench, client, socket, b"stop");
}

#[test]
fn closed_although_the_peer_never_closes() {
    let (mut bench, mut client, socket) = started();
    bench.engine.close(socket);
    assert_eq!(read_to_end(&mut bench, &mut client).1, Read::Fin);
    assert_eq!(
        bench.seen(socket).closed,
        None,
        "FIN comes first, then the wait for the peer's"
    );
    bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    assert_fin(bench, client, socket, b"");
}

#[test]
fn aborted_while_idle() {
    let (mut bench, client, socket) = started();
    bench.engine.abort(socket);
    bench.engine.abort(socket);
    assert_fin(bench, client, socket, b"");
}

#[test]
fn aborted_with_unread_bytes() {
    let (mut bench, mut client, socket) = started();
    bench.engine.pause_receive(socket);
    bench.turn(Duration::ZERO);
    client.write_all(&vec![1; 100_000]).unwrap();
    bench.turn(Duration::from_millis(5));
    bench.engine.abort(socket);
    // A reset that followed FIN would be seen once the descriptor is freed.
    bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    // Linux tells a reset after FIN only here; elsewhere it destroys what was not read yet.
    assert!(
        client.take_error().unwrap().is_none(),
        "FIN was followed by a reset"
    );
    assert_fin(bench, client, socket, b"");
}

#[test]
fn aborted_while_a_close_waits_for_the_peer() {
    let (mut bench, client, socket) = started();
    bench.engine.close(socket);
    bench.turn(Duration::ZERO);
    bench.engine.abort(socket);
    bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    assert_fin(bench, client, socket, b"");
}

#[test]
fn aborted_with_a_send_in_flight() {
    let (mut bench, mut client, socket) = started();
    let large = vec![7; 32_000_000];
    bench.send(socket, &large);
    bench.until("the peer's window is full", |_| unread(&client) > 10_000);
    bench.engine.abort(socket);
    bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    let (bytes, end) = read_to_end(&mut bench, &mut client);
    assert_eq!(end, Read::Fin);
    assert!(bytes.len() < large.len(), "the rest was given up");
    assert_eq!(bench.seen(socket).sent_count, 0);
    bench.assert_sound();
}

#[test]
fn outgoing_sockets_close_the_same_way() {
    let mut server = Bench::listening(small());
    let mut client = Bench::new(small());
    let socket = client.engine.connect(server.address, None).unwrap();
    client.until("connected", |client| client.seen(socket).connected);
    server.until("accepted", |server| !server.accepted.is_empty());
    client.engine.close(socket);
    client.turn(Duration::ZERO);
    let peer = server.accepted[0];
    server.until("FIN", |server| {
        client.turn(Duration::ZERO);
        server.seen(peer).peer_closed
    });
    server.engine.close(peer);
    client.until("closed", |client| {
        server.turn(Duration::ZERO);
        client.seen(socket).closed.is_some()
    });
    server.until("closed", |server| server.seen(peer).closed.is_some());
}
