//! Listening: the address in errors, sharing a port, and stopping without leaving anybody behind.

use std::net::TcpStream;
use std::time::Duration;

use corelane_net::{EngineConfig, EngineError, Event, ListenOptions};
use corelane_protocol::listener::ListenerKind;

use crate::bench::{Bench, LOOPBACK, PATIENCE, small};

#[test]
fn a_port_in_use_is_named() {
    let mut bench = Bench::listening(small());
    let address = bench.address;
    let error = bench
        .engine
        .listen(address, ListenOptions::default())
        .unwrap_err();
    assert!(matches!(error, EngineError::AddressInUse { address: named } if named == address));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_connection_is_told_with_its_listener_what_that_speaks_and_its_peer() {
    let mut bench = Bench::new(small());
    let mut expected = Vec::new();
    let mut told = Vec::new();
    let mut clients = Vec::new();
    for kind in [ListenerKind::Plain, ListenerKind::Tls, ListenerKind::Proxy] {
        let options = ListenOptions {
            kind,
            ..ListenOptions::default()
        };
        let (listener, address) = bench.engine.listen(LOOPBACK, options).unwrap();
        let client = TcpStream::connect(address).unwrap();
        expected.push((listener, kind, client.local_addr().unwrap()));
        clients.push(client);
        while told.len() < expected.len() {
            for event in bench.turn(PATIENCE) {
                if let Event::Accepted {
                    listener, kind, peer, ..
                } = event
                {
                    told.push((listener, kind, peer));
                }
            }
        }
    }
    assert_eq!(told, expected);
}

#[test]
fn shards_share_a_port() {
    let options = ListenOptions {
        reuse_port: true,
        ..ListenOptions::default()
    };
    let mut first = Bench::new(small());
    let mut second = Bench::new(small());
    let (_, address) = first.engine.listen(LOOPBACK, options).unwrap();
    second.engine.listen(address, options).unwrap();
    let clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    first.until("all accepted by one of them", |first| {
        second.turn(Duration::ZERO);
        first.accepted.len() + second.accepted.len() == clients.len()
    });
    assert!(!first.accepted.is_empty() && !second.accepted.is_empty());
}

#[test]
fn after_stopping_the_backlog_is_served_and_the_port_is_free() {
    let config = EngineConfig {
        slots_per_ring: 16,
        ..small()
    };
    let mut bench = Bench::listening(config);
    let (_, early) = bench.client();
    // More than are armed, not yet accepted.
    let clients: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(bench.address).unwrap())
        .collect();
    bench.engine.stop_listening(bench.listener.unwrap());
    bench.engine.stop_listening(bench.listener.unwrap());
    bench.until("everybody in the backlog", |bench| {
        bench.accepted.len() == 1 + clients.len()
    });
    bench.until("refused", |bench| TcpStream::connect(bench.address).is_err());
    let again = bench.engine.listen(bench.address, ListenOptions::default());
    assert!(again.is_ok(), "the port is free: {again:?}");
    assert_eq!(bench.seen(early).closed, None, "connections stay");
    bench.assert_sound();
}

#[test]
fn a_wrong_configuration_is_named() {
    let wrong = [
        (
            EngineConfig {
                slots_per_ring: 2,
                ..small()
            },
            "slots_per_ring",
        ),
        (
            EngineConfig {
                slots_per_ring: u32::MAX,
                ..small()
            },
            "slots_per_ring",
        ),
        (
            EngineConfig {
                rings_max: 0,
                ..small()
            },
            "rings_max",
        ),
        (
            EngineConfig {
                receive_buffers: 100,
                ..small()
            },
            "receive_buffers",
        ),
        (
            EngineConfig {
                receive_buffer_bytes: 1,
                ..small()
            },
            "receive_buffer_bytes",
        ),
        (
            EngineConfig {
                send_buffer_bytes: 1,
                ..small()
            },
            "send_buffer_bytes",
        ),
    ];
    for (config, what) in wrong {
        let error = corelane_net::Engine::new(config).unwrap_err();
        assert!(matches!(error, EngineError::Config { .. }));
        assert!(error.to_string().contains(what), "{error}");
    }
}
