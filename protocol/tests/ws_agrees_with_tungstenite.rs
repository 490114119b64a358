//! Our frames and heads mean to an independent implementation what they mean to us.

#[expect(dead_code, reason = "frames come from the other implementation here")]
mod ws_support;

use std::io::{self, Cursor, Read, Write};

use corelane_protocol::ws::client::{ResponseStatus, parse_response};
use corelane_protocol::ws::handshake::{HeadStatus, parse_upgrade, scan_head};
use corelane_protocol::ws::{
    CloseCode, Decoder, Opcode, Role, client_frame, close, close_frame, header, server_header, unmask,
};
use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::{self, WebSocketConfig};
use tungstenite::{Message, WebSocket};
use ws_support::{Owned, drain};

/// A socket in memory: what is to be read, and what was written.
struct Wire {
    incoming: Cursor<Vec<u8>>,
    outgoing: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.incoming.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn socket(role: protocol::Role, incoming: Vec<u8>) -> WebSocket<Wire> {
    let wire = Wire {
        incoming: Cursor::new(incoming),
        outgoing: Vec::new(),
    };
    WebSocket::from_raw_socket(wire, role, Some(WebSocketConfig::default()))
}

fn decoded(role: Role, bytes: &[u8]) -> Vec<Owned> {
    let mut items = Vec::new();
    drain(&mut Decoder::new(role, 1 << 20), bytes, &mut items);
    items
}

const SIZES: [usize; 9] = [0, 1, 125, 126, 127, 1000, 65_535, 65_536, 100_000];

#[test]
fn a_tungstenite_client_is_understood() {
    let mut client = socket(protocol::Role::Client, Vec::new());
    let mut expected = Vec::new();
    for bytes in SIZES {
        client.send(Message::binary(vec![3; bytes])).unwrap();
        client.send(Message::text("ü".repeat(bytes / 2))).unwrap();
        expected.push(Owned::Binary(vec![3; bytes]));
        expected.push(Owned::Text("ü".repeat(bytes / 2)));
    }
    client.send(Message::Ping(b"p".to_vec().into())).unwrap();
    client.close(None).unwrap();
    expected.extend([Owned::Ping(b"p".to_vec()), Owned::Close(None)]);
    assert!(decoded(Role::Server, &client.get_ref().outgoing) == expected);
}

#[test]
fn a_tungstenite_client_understands_our_server() {
    let mut bytes = Vec::new();
    for payload_bytes in SIZES {
        bytes.extend_from_slice(&server_header(Opcode::Binary, payload_bytes, true));
        bytes.resize(bytes.len() + payload_bytes, 5);
    }
    close_frame(
        CloseCode::Draining.number(),
        CloseCode::Draining.reason(),
        &mut bytes,
    );
    let mut client = socket(protocol::Role::Client, bytes);
    for payload_bytes in SIZES {
        assert!(client.read().unwrap() == Message::binary(vec![5; payload_bytes]));
    }
    let Message::Close(Some(frame)) = client.read().unwrap() else {
        panic!("no close frame");
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (4000, "gateway is draining")
    );
}

#[test]
fn a_tungstenite_server_understands_our_client() {
    let mut bytes = Vec::new();
    for payload_bytes in SIZES {
        client_frame(Opcode::Binary, &vec![5; payload_bytes], [7, 8, 9, 10], &mut bytes);
    }
    close::client_close(1000, "bye", [1, 0, 0, 1], &mut bytes);
    let mut server = socket(protocol::Role::Server, bytes);
    for payload_bytes in SIZES {
        assert!(server.read().unwrap() == Message::binary(vec![5; payload_bytes]));
    }
    assert!(matches!(server.read().unwrap(), Message::Close(Some(frame)) if *frame.reason == *"bye"));
}

#[test]
fn a_tungstenite_client_and_our_server_shake_hands() {
    let mut request = Vec::new();
    let wire = Wire {
        incoming: Cursor::new(Vec::new()),
        outgoing: Vec::new(),
    };
    let url = "ws://gateway.test:7070/ws?token=a.b";
    let Err(tungstenite::HandshakeError::Interrupted(mut half)) = tungstenite::client(url, wire) else {
        panic!("nothing answered");
    };
    request.append(&mut half.get_mut().get_mut().outgoing);
    let head_bytes = request.len();
    assert_eq!(scan_head(&request), Ok(HeadStatus::Complete { head_bytes }));
    let upgrade = parse_upgrade(&request).unwrap();
    assert_eq!(
        (&*upgrade.path, upgrade.query.as_deref()),
        ("/ws", Some("token=a.b"))
    );
    assert_eq!(upgrade.host.as_deref(), Some("gateway.test:7070"));
    let mut answer = Vec::new();
    upgrade.accept(None, &mut answer);
    half.get_mut().get_mut().incoming = Cursor::new(answer);
    assert!(half.handshake().is_ok());
}

#[test]
fn our_client_and_a_tungstenite_server_shake_hands() {
    let key = [42; 16];
    let mut request = Vec::new();
    corelane_protocol::ws::client::request("gateway.test", "/ws", None, &[], &key, &mut request);
    let wire = Wire {
        incoming: Cursor::new(request),
        outgoing: Vec::new(),
    };
    let server = tungstenite::accept(wire).map_err(|_| "refused").unwrap();
    let answer = &server.get_ref().outgoing;
    assert_eq!(
        parse_response(answer, &key),
        Ok(ResponseStatus::Accepted {
            head_bytes: answer.len(),
            subprotocol: None
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What tungstenite reads as a header we read the same, or refuse for a rule that it checks later.
    #[test]
    fn headers_are_read_alike(bytes in vec(any::<u8>(), 0..16)) {
        let masked = bytes.get(1).is_none_or(|second| second & 0x80 != 0);
        if let Ok(Some(ours)) = header::parse(&bytes, masked) {
            let (theirs, payload_bytes) = FrameHeader::parse(&mut Cursor::new(&bytes)).unwrap().unwrap();
            prop_assert_eq!(ours.payload_bytes, payload_bytes);
            prop_assert_eq!(ours.key, theirs.mask);
            prop_assert_eq!(ours.fin, theirs.is_final);
            prop_assert_eq!(ours.opcode as u8, u8::from(theirs.opcode));
        }
    }

    #[test]
    fn unmasking_is_the_bytewise_rule_of_the_rfc(
        payload in vec(any::<u8>(), 0..100),
        key: [u8; 4],
        cut in any::<prop::sample::Index>(),
    ) {
        let expected: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
        let mut whole = payload.clone();
        unmask(&mut whole, key);
        prop_assert_eq!(&whole, &expected);
        let cut = cut.index(payload.len() + 1);
        let mut parts = payload;
        let (front, back) = parts.split_at_mut(cut);
        unmask(front, key);
        unmask(back, header::rotate_key(key, cut as u64));
        prop_assert_eq!(parts, expected);
    }
}
