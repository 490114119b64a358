//! Behind a balancer: a header from a listed source says whose a connection is, and nothing else is let through.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use corelane_gateway_core::event::Input;
use corelane_gateway_core::{ProxyRefusal, ShardConfig};
use corelane_protocol::id::ConnId;
use corelane_protocol::proxy::{ProxyError, SIGNATURE};

use crate::harness::{World, config, hello, proxy_header, upgrade};

const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4));
/// Header of a health check of the balancer's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn proxied() -> ShardConfig {
    ShardConfig {
        proxy_sources: vec!["10.0.0.0/24".parse().unwrap()],
        ..config()
    }
}

fn client(text: &str) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), 50_000)
}

fn request() -> Vec<u8> {
    upgrade("/ws", "corelane.rkyv.v1", "")
}

/// A connection through the balancer whose upgrade was answered.
fn open(world: &mut World, header: &[u8]) -> ConnId {
    let id = world.accept_proxied(BALANCER);
    world.bytes(id, &[header, &request()].concat());
    world.turn();
    let answer = &world.client(id).answer;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer:?}");
    id
}

fn status(world: &mut World, id: ConnId) -> Option<String> {
    world.client(id).answer.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn a_header_is_taken_wherever_reads_end() {
    let mut world = World::new(proxied());
    for source in ["192.0.2.7", "2001:db8::7"] {
        let header = proxy_header(client(source), b"\x04\0\x03abc");
        let stream = [&header[..], &request()].concat();
        for cut in 0..=stream.len() {
            let id = world.accept_proxied(BALANCER);
            let (before, behind) = stream.split_at(cut);
            for part in [before, behind] {
                world.bytes(id, part);
                world.turn();
            }
            assert_eq!(status(&mut world, id).as_deref(), Some("101"), "cut at {cut}");
            world.input(Input::PeerClosed(id));
            world.turn();
        }
        let id = world.accept_proxied(BALANCER);
        for byte in stream {
            world.bytes(id, &[byte]);
        }
        world.turn();
        world.say(id, &hello("alice", "d"));
        assert_eq!(world.frames(id).len(), 1, "welcome");
        world.input(Input::PeerClosed(id));
        world.turn();
    }
    let metrics = world.shard.metrics();
    assert_eq!(metrics.accept_proxy_headers, metrics.accept_connections);
    assert_eq!(metrics.connections, 0);
}

#[test]
fn a_source_that_is_not_listed_gets_no_slot_whatever_it_says() {
    let mut world = World::new(proxied());
    let stranger = Ipv4Addr::new(10, 0, 1, 4).into();
    let id = world.accept_proxied(stranger);
    world.bytes(id, &[proxy_header(client("192.0.2.7"), &[]), request()].concat());
    assert!(world.client(id).aborted);
    world.turn();
    assert!(world.client(id).closed && world.client(id).answer.is_empty());
    let metrics = world.shard.metrics();
    assert_eq!((metrics.accept_proxy_strangers, metrics.connections), (1, 0));
    assert_eq!(
        world.shard.take_proxy_refusal(),
        Some(ProxyRefusal::Stranger {
            source_address: stranger
        })
    );
    assert_eq!(world.shard.take_proxy_refusal(), None, "it is told once");
    // The same one, as a socket for both families sees it.
    let mapped = Ipv4Addr::new(10, 0, 0, 4).to_ipv6_mapped().into();
    let id = world.accept_proxied(mapped);
    world.bytes(id, &[LOCAL, &request()].concat());
    world.turn();
    assert_eq!(status(&mut world, id).as_deref(), Some("101"));
}

#[test]
fn what_does_not_begin_with_a_header_is_closed_without_a_word_and_counted_by_reason() {
    let mut world = World::new(proxied());
    let good = proxy_header(client("192.0.2.7"), &[]);
    let changed = |at: usize, to: u8| {
        let mut header = good.clone();
        header[at] = to;
        header
    };
    let damaged = proxy_header(client("192.0.2.7"), b"\x03\0\x04\0\0\0\0");
    let cases = [
        request(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 7070\r\n".to_vec(),
        changed(14, 3),
        changed(12, 0x11),
        changed(13, 0x13),
        changed(15, 11),
        damaged,
    ];
    for bytes in cases {
        let id = world.accept_proxied(BALANCER);
        world.bytes(id, &[bytes, request()].concat());
        world.turn();
        let client = world.client(id);
        assert!(client.closed && !client.aborted && client.answer.is_empty());
    }
    let metrics = world.shard.metrics();
    let counted = [
        metrics.accept_proxy_missing,
        metrics.accept_proxy_version_one,
        metrics.accept_proxy_too_long,
        metrics.accept_proxy_malformed,
        metrics.accept_proxy_damaged,
        metrics.closed_connections,
        metrics.connections,
    ];
    assert_eq!(counted, [1, 1, 1, 3, 1, 7, 0]);
    let Some(ProxyRefusal::Header {
        source_address,
        error,
    }) = world.shard.take_proxy_refusal()
    else {
        panic!("the last refusal is kept for the log");
    };
    assert_eq!(source_address, BALANCER);
    assert!(matches!(error, ProxyError::Checksum { .. }), "{error}");
}

#[test]
fn the_address_in_the_header_is_the_one_that_is_limited() {
    let mut config = proxied();
    config.connections_per_ip_max = 2;
    let mut world = World::new(config);
    let header = |source| proxy_header(client(source), &[]);
    let first = open(&mut world, &header("192.0.2.7"));
    open(&mut world, &header("192.0.2.7"));
    let mut refused = Vec::new();
    for same in ["192.0.2.7", "::ffff:192.0.2.7"] {
        let id = open(&mut world, &header(same));
        assert_eq!(world.close_code(id), Some(4505), "{same}");
        refused.push(id);
    }
    // Others come through the same balancer, and so does what is its own.
    for other in [header("192.0.2.8"), header("2001:db8::7"), LOCAL.to_vec()] {
        let id = open(&mut world, &other);
        assert_eq!(world.close_code(id), None);
    }
    let local = open(&mut world, LOCAL);
    assert_eq!(world.close_code(local), None);
    let local = open(&mut world, LOCAL);
    assert_eq!(
        world.close_code(local),
        Some(4505),
        "its own connections count as its own"
    );
    assert_eq!(world.shard.metrics().accept_refused, 3);
    // Who goes makes room for the next one of his address.
    for gone in refused.into_iter().chain([first]) {
        world.input(Input::PeerClosed(gone));
    }
    world.turn();
    let id = open(&mut world, &header("192.0.2.7"));
    assert_eq!(world.close_code(id), None);
}

#[test]
fn header_and_request_have_one_bound_together() {
    let mut world = World::new(proxied());
    let header = proxy_header(client("192.0.2.7"), &[&[4_u8, 1, 0xf4][..], &[0; 500]].concat());
    let padded = |bytes: usize| {
        let bare = upgrade("/ws", "corelane.rkyv.v1", "X: \r\n").len();
        upgrade(
            "/ws",
            "corelane.rkyv.v1",
            &format!("X: {}\r\n", "x".repeat(bytes - bare)),
        )
    };
    let room = 4096 - header.len();
    for (bytes, expected) in [(room, "101"), (room + 1, "431")] {
        for read_bytes in [1, 700, 5000] {
            let id = world.accept_proxied(BALANCER);
            let stream = [&header[..], &padded(bytes)].concat();
            for part in stream.chunks(read_bytes) {
                if world.client(id).closed {
                    break;
                }
                world.bytes(id, part);
                world.turn();
            }
            assert_eq!(
                status(&mut world, id).as_deref(),
                Some(expected),
                "{bytes} by {read_bytes}"
            );
        }
    }
}

#[test]
fn header_and_request_have_one_deadline_together() {
    let mut world = World::new(proxied());
    let header = proxy_header(client("192.0.2.7"), &[]);
    let silent = world.accept_proxied(BALANCER);
    let slow = world.accept_proxied(BALANCER);
    world.bytes(slow, &SIGNATURE);
    world.pass(Duration::from_secs(5));
    world.bytes(slow, &header[SIGNATURE.len()..]);
    assert!(!world.client(silent).closed && !world.client(slow).closed);
    world.pass(Duration::from_secs(4));
    assert!(world.client(silent).closed && world.client(slow).closed);
    assert_eq!(world.shard.metrics().handshake_timeouts, 2);
    assert_eq!(world.shard.metrics().connections, 0);
}

#[test]
fn while_there_is_no_room_who_comes_through_a_proxy_is_told_so_as_well() {
    let mut config = proxied();
    config.connections_max = 1;
    let mut world = World::new(config);
    let header = proxy_header(client("192.0.2.7"), &[]);
    open(&mut world, &header);
    let second = open(&mut world, &header);
    assert_eq!(world.close_code(second), Some(4505));
    let half = world.accept_proxied(BALANCER);
    world.bytes(half, &header[..20]);
    world.input(Input::Drain);
    world.pass(Duration::from_secs(15));
    assert!(world.client(half).closed && world.drained);
}
