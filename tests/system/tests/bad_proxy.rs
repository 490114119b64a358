//! Behind a balancer: what does not come from a listed source, or does not begin with a PROXY header of version 2, is
//! closed without an answer and counted; the address in the header is the one that is limited.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use corelane_protocol::proxy::SIGNATURE;
use corelane_system_tests::Gateway;
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::peer::{
    RKYV, UPGRADE, close_code, connect_from, proxy_header, upgraded, upgraded_over, welcome,
};

/// A gateway that takes connections from 127.0.0.1 only; those that keep the rules are a client's at 192.0.2.1.
fn start(data: &Path, set: &[&str]) -> Gateway {
    let sources = ["gateway.proxy_sources=127.0.0.1"];
    let mut gateway = Gateway::start(data, &[&sources, set].concat());
    gateway.preface = header("192.0.2.1");
    gateway
}

fn header(client: &str) -> Vec<u8> {
    let address = client.parse().expect("an address");
    proxy_header(SocketAddr::new(address, 50_000), &[])
}

fn request() -> Vec<u8> {
    format!("{UPGRADE}Sec-WebSocket-Protocol: {RKYV}\r\n\r\n").into_bytes()
}

/// A connection of the balancer that says nothing by itself.
fn balanced(gateway: &Gateway) -> TcpStream {
    connect_from(Ipv4Addr::LOCALHOST, gateway.ws)
}

/// The beginning of the answer.
fn status(stream: &mut TcpStream) -> String {
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("the gateway answers");
    String::from_utf8_lossy(&status).into_owned()
}

/// Waits for the end of a connection that must not be answered.
fn is_closed_without_a_word(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_proxy_header_may_be_cut_anywhere() {
    let data = tempfile::tempdir().unwrap();
    let gateway = start(data.path(), &[]);
    for client in ["192.0.2.7", "2001:db8::7"] {
        let header = header(client);
        let read = gateway.metric("corelane_gateway_decode_bytes_total");
        let taken = gateway.metric("corelane_gateway_accept_proxy_headers_total");
        let mut streams = Vec::new();
        for cut in 0..=header.len() {
            let mut stream = balanced(&gateway);
            let (before, behind) = header.split_at(cut);
            stream.write_all(before).unwrap();
            streams.push((stream, [behind, &request()].concat()));
        }
        // All first parts were read by themselves: the second ones come in another read.
        let sent = (0..=header.len() as u64).sum::<u64>();
        gateway.await_metric("corelane_gateway_decode_bytes_total", read + sent);
        for (stream, behind) in &mut streams {
            stream.write_all(behind).unwrap();
        }
        for (stream, _) in &mut streams {
            assert_eq!(status(stream), "HTTP/1.1 101");
        }
        let headers = streams.len() as u64;
        gateway.await_metric("corelane_gateway_accept_proxy_headers_total", taken + headers);
        // The next round begins with figures that stand still.
        let all = read + headers * (header.len() + request().len()) as u64;
        gateway.await_metric("corelane_gateway_decode_bytes_total", all);
    }
    Bystanders::arrive(&gateway).are_alone_and_well(&gateway);
}

#[test]
fn what_does_not_begin_with_a_proxy_header_is_closed_and_counted_by_reason() {
    let data = tempfile::tempdir().unwrap();
    let gateway = start(data.path(), &["connection.handshake_ms=1500"]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let fixed = |version_command: u8, protocol: u8, length: u16| {
        [
            &SIGNATURE[..],
            &[version_command, protocol],
            &length.to_be_bytes(),
        ]
        .concat()
    };
    let with = |tlvs: &[u8]| proxy_header(SocketAddr::from(([192, 0, 2, 7], 50_000)), tlvs);
    let cases = [
        ("missing", request()),
        ("missing", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
        (
            "version_one",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 7070\r\n".to_vec(),
        ),
        ("too_long", fixed(0x21, 0x11, 521)),
        ("too_long", fixed(0x20, 0x00, u16::MAX)),
        ("malformed", fixed(0x11, 0x11, 12)),
        ("malformed", fixed(0x22, 0x11, 12)),
        ("malformed", fixed(0x21, 0x41, 12)),
        ("malformed", fixed(0x21, 0x21, 12)),
        ("malformed", with(b"\x04\0\x09short")),
        ("malformed", with(b"\x03\0\x02\0\0")),
        ("damaged", with(b"\x03\0\x04\0\0\0\0")),
    ];
    let mut half = balanced(&gateway);
    half.write_all(&fixed(0x21, 0x11, 12)).unwrap();
    let mut silent = balanced(&gateway);
    let mut counts = BTreeMap::<_, u64>::new();
    for (reason, bytes) in cases {
        let mut stream = balanced(&gateway);
        stream.write_all(&[bytes.clone(), request()].concat()).unwrap();
        assert!(is_closed_without_a_word(&mut stream), "{bytes:02x?}");
        *counts.entry(reason).or_default() += 1;
        bystanders.chat();
    }
    for (reason, count) in counts {
        gateway.await_metric(&format!("corelane_gateway_accept_proxy_{reason}_total"), count);
    }
    // Nothing, or half a header, and then silence.
    assert!(is_closed_without_a_word(&mut half) && is_closed_without_a_word(&mut silent));
    gateway.await_metric("corelane_gateway_handshake_timeouts_total", 2);
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn a_source_that_is_not_listed_is_closed_whatever_it_says() {
    let data = tempfile::tempdir().unwrap();
    let gateway = start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    for (count, bytes) in (1..).zip([Vec::new(), request(), [header("192.0.2.7"), request()].concat()]) {
        let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 9), gateway.ws);
        // It may be gone already.
        let _ = stream.write_all(&bytes);
        assert!(is_closed_without_a_word(&mut stream));
        gateway.await_metric("corelane_gateway_accept_proxy_strangers_total", count);
        bystanders.chat();
    }
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn the_limit_per_address_counts_the_address_in_the_proxy_header() {
    let data = tempfile::tempdir().unwrap();
    let set = ["connection.per_ip_max=2", "gateway.shards=1"];
    let mut gateway = start(data.path(), &set);
    let mut bystanders = Bystanders::arrive(&gateway);
    let own = std::mem::take(&mut gateway.preface);
    for (count, same) in (1..).zip(["192.0.2.1", "::ffff:192.0.2.1"]) {
        gateway.preface = header(same);
        assert_eq!(close_code(&mut upgraded(&gateway, RKYV)), 4505, "{same}");
        gateway.await_metric("corelane_gateway_accept_refused_total", count);
    }
    let mut others = Vec::new();
    for (user, other) in [
        ("one", "192.0.2.2"),
        ("two", "2001:db8::1"),
        ("three", "2001:db8::2"),
    ] {
        gateway.preface = header(other);
        others.push(welcome(&gateway, user));
    }
    // What the balancer asks for itself counts as its own.
    for _ in 0..2 {
        let mut local = balanced(&gateway);
        local
            .write_all(&[&SIGNATURE[..], b"\x20\0\0\0"].concat())
            .unwrap();
        others.push(upgraded_over(local, RKYV));
    }
    gateway.await_metric("corelane_gateway_accept_refused_total", 2);
    drop(others);
    gateway.preface = own;
    bystanders.are_alone_and_well(&gateway);
}

#[test]
fn a_proxy_header_and_the_request_share_the_bound_of_the_handshake() {
    let data = tempfile::tempdir().unwrap();
    let gateway = start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let long = [&[4_u8, 1, 0xf4][..], &[0; 500]].concat();
    let header = proxy_header(SocketAddr::from(([192, 0, 2, 7], 50_000)), &long);
    let padding = 4096 - header.len() - request().len() - "X: \r\n".len();
    for (more, expected) in [(0, "HTTP/1.1 101"), (1, "HTTP/1.1 431")] {
        let padding = "x".repeat(padding + more);
        let request = format!("{UPGRADE}Sec-WebSocket-Protocol: {RKYV}\r\nX: {padding}\r\n\r\n");
        let mut stream = balanced(&gateway);
        stream
            .write_all(&[&header[..], request.as_bytes()].concat())
            .unwrap();
        assert_eq!(status(&mut stream), expected);
    }
    bystanders.are_alone_and_well(&gateway);
}
