//! Outgoing connections: made, refused, from a chosen address; an engine can talk to another.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use crate::bench::{Bench, LOOPBACK, PATIENCE, now, small};
use corelane_net::CloseReason;

#[test]
fn two_engines_talk() {
    let mut server = Bench::listening(small());
    let mut client = Bench::new(small());
    let sockets: Vec<_> = (0..100)
        .map(|_| client.engine.connect(server.address, None).unwrap())
        .collect();
    let deadline = now() + PATIENCE;
    let both = |server: &mut Bench, client: &mut Bench, done: &dyn Fn(&Bench, &Bench) -> bool| {
        while !done(server, client) {
            assert!(now() < deadline, "{:?} {:?}", server.engine, client.engine);
            server.turn(Duration::from_millis(1));
            client.turn(Duration::from_millis(1));
        }
    };
    both(&mut server, &mut client, &|server, client| {
        server.accepted.len() == 100 && sockets.iter().all(|socket| client.seen(*socket).connected)
    });
    for socket in &sockets {
        client.send(*socket, b"hello");
    }
    both(&mut server, &mut client, &|server, _| {
        server
            .accepted
            .iter()
            .all(|socket| server.seen(*socket).received == b"hello")
    });
    for socket in server.accepted.clone() {
        server.send(socket, b"welcome");
        server.engine.close(socket);
    }
    both(&mut server, &mut client, &|_, client| {
        sockets.iter().all(|socket| {
            let seen = client.seen(*socket);
            seen.received == b"welcome" && seen.peer_closed
        })
    });
    for socket in &sockets {
        client.engine.close(*socket);
    }
    both(&mut server, &mut client, &|server, client| {
        server.engine.stats().sockets_open == 0 && client.engine.stats().sockets_open == 0
    });
    server.assert_sound();
    client.assert_sound();
}

#[test]
fn a_refused_connection_is_closed_with_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut bench = Bench::new(small());
    let socket = bench.engine.connect(free, None).unwrap();
    bench.until("refused", |bench| bench.seen(socket).closed.is_some());
    let reason = bench.seen(socket).closed.unwrap();
    assert_eq!(reason, CloseReason::ConnectFailed(libc::ECONNREFUSED));
    assert!(reason.to_string().contains("refused"), "{reason}");
    assert_eq!(bench.engine.stats().sockets_open, 0);
}

#[test]
fn the_peer_sees_the_chosen_source_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let mut bench = Bench::new(small());
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 7, 9));
    let socket = bench.engine.connect(to, Some(from)).unwrap();
    bench.until("connected", |bench| bench.seen(socket).connected);
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), from);
}

#[test]
fn a_connection_can_be_given_up_while_it_is_made() {
    // A listener whose backlog is full does not answer.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&LOOPBACK.into()).unwrap();
    listener.listen(0).unwrap();
    let to = listener.local_addr().unwrap().as_socket().unwrap();
    let mut bench = Bench::new(small());
    let filling = bench.engine.connect(to, None).unwrap();
    bench.until("the backlog is full", |bench| bench.seen(filling).connected);
    let socket = bench.engine.connect(to, None).unwrap();
    bench.turn(Duration::ZERO);
    bench.engine.close(socket);
    bench.engine.close(socket);
    bench.until("closed", |bench| bench.seen(socket).closed.is_some());
    let seen = bench.seen(socket);
    assert_eq!(
        (seen.connected, seen.closed),
        (false, Some(CloseReason::Requested))
    );
    assert_eq!(bench.engine.stats().sockets_open, 1);
    bench.assert_sound();
}
