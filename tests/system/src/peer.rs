//! A peer that keeps no rules: a plain socket, and the few bytes that get it as far as a test needs.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use corelane_protocol::frame::{self, Frame, FrameKind, body};
use corelane_protocol::proxy::SIGNATURE;
use corelane_protocol::ws::{Decoder, Item, Opcode, Role, client_frame};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::Gateway;

/// The request of an upgrade, but for its subprotocol and the empty line.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// The subprotocol that most tests speak.
pub const RKYV: &str = "corelane.rkyv.v1";
/// The subprotocol of texts.
pub const JSON: &str = "corelane.json.v1";

/// Everything that comes until the server closes; what a reset cut off is left out.
pub fn drain(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// What the server answers to a request before it closes.
///
/// # Panics
///
/// If it takes no bytes at all.
pub fn answer_to(gateway: &Gateway, request: &[u8]) -> String {
    let mut stream = gateway.connect();
    stream.write_all(request).expect("the gateway reads");
    String::from_utf8_lossy(&drain(&mut stream)).into_owned()
}

/// A connection that was upgraded.
///
/// # Panics
///
/// If it was not.
pub fn upgraded(gateway: &Gateway, subprotocol: &str) -> TcpStream {
    upgraded_over(gateway.connect(), subprotocol)
}

/// The same, of a connection that stands.
///
/// # Panics
///
/// If it was not.
pub fn upgraded_over(mut stream: TcpStream, subprotocol: &str) -> TcpStream {
    let request = format!("{UPGRADE}Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the gateway answers");
        head.extend(byte);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream
}

/// A connection from this address of our own, with a timeout on reads.
///
/// # Panics
///
/// If it cannot be connected.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((source, 0)).into())
        .expect("all of 127.0.0.0/8 is ours");
    socket.connect(&to.into()).expect("somebody listens");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("TCP");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout can be set");
    stream
}

/// What a proxy puts in front of the connection of a client at `source`: a header of PROXY protocol version 2, with `tlvs`
/// behind its addresses.
///
/// # Panics
///
/// If it were longer than 64 KiB.
pub fn proxy_header(source: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let (protocol, addresses) = match source.ip() {
        IpAddr::V4(address) => (0x11, address.octets().repeat(2)),
        IpAddr::V6(address) => (0x21, address.octets().repeat(2)),
    };
    let port = source.port().to_be_bytes();
    let length = u16::try_from(addresses.len() + 2 * port.len() + tlvs.len()).expect("below 64 KiB");
    let fixed = [0x21, protocol];
    [
        &SIGNATURE[..],
        &fixed,
        &length.to_be_bytes(),
        &addresses,
        &port,
        &port,
        tlvs,
    ]
    .concat()
}

/// A whole masked frame.
pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(opcode, payload, [1, 2, 3, 4], &mut bytes);
    bytes
}

/// The `Hello` of a user at a terminal of its own class.
pub fn hello(token: &str) -> Vec<u8> {
    let hello = body::Hello {
        token: token.to_owned(),
        terminal: 4,
        device: String::new(),
        epoch: 0,
    };
    frame::encode(FrameKind::Hello, 1, &hello)
}

/// A connection on which `user` is welcome.
///
/// # Panics
///
/// If he is not.
pub fn welcome(gateway: &Gateway, user: &str) -> TcpStream {
    let token = gateway.token(user);
    let mut stream = upgraded(gateway, RKYV);
    stream
        .write_all(&masked(Opcode::Binary, &hello(&token)))
        .expect("the gateway reads");
    let mut header = [0; 2];
    stream.read_exact(&mut header).expect("the gateway answers Hello");
    assert!(
        header[0] == 0x82 && header[1] < 126,
        "no short binary frame: {header:?}"
    );
    let mut welcome = vec![0; usize::from(header[1])];
    stream
        .read_exact(&mut welcome)
        .expect("the gateway answers Hello");
    let frame = Frame::parse(&welcome).expect("servers send frames");
    assert_eq!(frame.known_kind(), Some(FrameKind::Welcome), "{user} is welcome");
    stream
}

/// Code and reason of the close frame that ends the stream, skipping what comes before it; `None` if the server ended
/// it without one.
///
/// # Panics
///
/// If the server breaks RFC 6455, or says nothing for 10 s.
pub fn close_of(stream: &mut TcpStream) -> Option<(u16, String)> {
    let mut decoder = Decoder::new(Role::Client, u32::MAX);
    let mut buffer = vec![0; 4096];
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("waiting for a close frame: {error}"),
        };
        let mut items = decoder.feed(buffer.get_mut(..read).unwrap_or_default());
        while let Some(item) = items.next() {
            match item.expect("servers keep to RFC 6455") {
                Item::Close(Some((code, reason))) => return Some((code, reason.to_owned())),
                Item::Close(None) => return Some((1005, String::new())),
                _ => {}
            }
        }
    }
}

/// The code of the close frame that ends the stream.
///
/// # Panics
///
/// If there is none.
pub fn close_code(stream: &mut TcpStream) -> u16 {
    close_of(stream).expect("a close frame").0
}

/// From here on this end is gone without a word: the kernel throws away what comes for it and acknowledges nothing, as
/// when a cable is cut or a phone leaves its cell.
///
/// # Panics
///
/// If the socket takes no filter.
pub fn vanish(stream: &TcpStream) {
    // One instruction of classic BPF: return 0, keep nothing (BPF_RET | BPF_K).
    let keep_nothing = [SockFilter::new(0x06, 0, 0, 0)];
    SockRef::from(stream)
        .attach_filter(&keep_nothing)
        .expect("a socket takes a filter");
}
