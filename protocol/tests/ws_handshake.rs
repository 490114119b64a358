//! Every upgrade that is not in order is refused with a status and one line that says why; none costs more
//! than its bound.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use corelane_protocol::ws::client::{RESPONSE_HEAD_BYTES_MAX, ResponseStatus, parse_response, request};
use corelane_protocol::ws::handshake::{
    HEAD_BYTES_MAX, HandshakeError, HeadStatus, parse_upgrade, reject, scan_head,
};

/// The sample of RFC 6455 section 1.2, with more offered than needed.
const GOOD: &str = "GET /chat?token=a%2Eb&x=%zz+1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: WebSocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: https://example.com\r\nSec-WebSocket-Protocol: chat, corelane.json.v1\r\n\
    Sec-WebSocket-Protocol: superchat\r\nAuthorization: bearer abc.def\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn answer_to(head: &str) -> Result<String, HandshakeError> {
    let mut out = Vec::new();
    parse_upgrade(head.as_bytes())?.accept(Some("corelane.json.v1"), &mut out);
    Ok(String::from_utf8(out).unwrap())
}

fn refusal(error: &HandshakeError) -> String {
    let mut out = Vec::new();
    reject(error, &mut out);
    String::from_utf8(out).unwrap()
}

/// The head is refused with this status, and the body is one line that holds these words.
fn refused(head: &[u8], status: u16, words: &str) {
    let error = scan_head(head).and_then(|found| match found {
        HeadStatus::Complete { head_bytes } => parse_upgrade(&head[..head_bytes]).map(|_| ()),
        HeadStatus::Partial => panic!("{} is waited for", String::from_utf8_lossy(head)),
    });
    let error = error.expect_err(words);
    let text = refusal(&error);
    assert!(
        text.starts_with(&format!("HTTP/1.1 {status} ")),
        "{words}: {text}"
    );
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nConnection: close"), "{head}");
    assert!(
        head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
        "{head}"
    );
    assert!(
        body.contains(words) && body.lines().count() == 1,
        "{words}: {body}"
    );
}

fn changed(from: &str, to: &str) -> Vec<u8> {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1).into_bytes()
}

#[test]
fn a_good_upgrade_is_taken_apart_and_accepted() {
    let upgrade = parse_upgrade(GOOD.as_bytes()).unwrap();
    assert_eq!(upgrade.path, "/chat");
    assert_eq!(upgrade.query.as_deref(), Some("token=a%2Eb&x=%zz+1"));
    assert_eq!(upgrade.query_value("token").as_deref(), Some("a.b"));
    assert_eq!(upgrade.query_value("x").as_deref(), Some("%zz 1"));
    assert_eq!(upgrade.query_value("y"), None);
    assert_eq!(upgrade.host.as_deref(), Some("server.example.com"));
    assert_eq!(upgrade.origin.as_deref(), Some("https://example.com"));
    assert_eq!(upgrade.subprotocols, ["chat", "corelane.json.v1", "superchat"]);
    assert_eq!(upgrade.bearer_token.as_deref(), Some("abc.def"));
    let shown = format!("{upgrade:?}");
    assert!(!shown.contains("abc.def") && !shown.contains("token"), "{shown}");

    let answer = answer_to(GOOD).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\r\nsec-websocket-protocol: corelane.json.v1\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(parse_upgrade(&changed("Origin: ", "X: a\tb\r\nOrigin:\t")).is_ok());
}

#[test]
fn a_subprotocol_that_was_not_offered_is_not_named() {
    let mut out = Vec::new();
    parse_upgrade(GOOD.as_bytes())
        .unwrap()
        .accept(Some("corelane.rkyv.v1"), &mut out);
    assert!(
        !String::from_utf8(out)
            .unwrap()
            .to_lowercase()
            .contains("sec-websocket-protocol")
    );
}

#[test]
fn a_head_is_found_wherever_reads_end_and_what_follows_is_left_alone() {
    let bytes = [GOOD.as_bytes(), b"\x81\x80not http\r\n\r\n"].concat();
    for have in 0..bytes.len() {
        let expected = if have < GOOD.len() {
            HeadStatus::Partial
        } else {
            HeadStatus::Complete {
                head_bytes: GOOD.len(),
            }
        };
        assert_eq!(scan_head(&bytes[..have]), Ok(expected), "{have} bytes");
    }
}

#[test]
fn a_scan_gives_the_same_verdict_wherever_reads_end() {
    let hostile: [&[u8]; 7] = [
        b"POST / HTTP/1.1\r\n\r\n",
        b"GETS / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
    ];
    for bytes in hostile {
        let whole = scan_head(bytes).unwrap_err();
        let first = (0..=bytes.len()).find_map(|have| scan_head(&bytes[..have]).err());
        assert_eq!(first, Some(whole), "{bytes:02x?}");
    }
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let long = changed(
        "Origin:",
        &format!("X: {}\r\nOrigin:", "y".repeat(HEAD_BYTES_MAX)),
    );
    refused(&long, 431, "exceeds 4096 bytes");
    refused(
        &[b"GET /", &[b'a'; HEAD_BYTES_MAX][..]].concat(),
        431,
        "exceeds 4096 bytes",
    );
    let many = changed("Origin:", &format!("{}Origin:", "a:\r\n".repeat(200)));
    refused(&many, 400, "header");
    assert_eq!(
        scan_head(&[b"GET /", &[b'a'; HEAD_BYTES_MAX - 6][..]].concat()),
        Ok(HeadStatus::Partial)
    );

    let padding = "y".repeat(HEAD_BYTES_MAX - GOOD.len() - "X: \r\n".len());
    let largest = changed("Origin:", &format!("X: {padding}\r\nOrigin:"));
    assert_eq!(largest.len(), HEAD_BYTES_MAX);
    assert!(parse_upgrade(&largest).is_ok());
    let larger = changed("Origin:", &format!("X: {padding}y\r\nOrigin:"));
    refused(&larger, 431, "exceeds 4096 bytes");
}

#[test]
fn requests_that_are_no_upgrade_are_told_what_is_spoken() {
    for (from, to) in [
        ("Upgrade: WebSocket\r\n", ""),
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Connection: keep-alive, Upgrade", "Connection: close"),
        ("Sec-WebSocket-Version: 13\r\n", ""),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
    ] {
        refused(&changed(from, to), 426, "Sec-WebSocket-Version: 13");
    }
    let error = parse_upgrade(&changed("Version: 13", "Version: 8")).unwrap_err();
    assert!(refusal(&error).contains("\r\nSec-WebSocket-Version: 13\r\n"));
}

#[test]
fn other_methods_and_other_protocols_are_refused() {
    for method in ["POST", "HEAD", "CONNECT", "GETS"] {
        refused(&changed("GET", method), 405, "allowed: GET");
    }
    assert!(refusal(&HandshakeError::Method).contains("\r\nAllow: GET\r\n"));
    refused(b"\x16\x03\x01\x02\x00\x01", 400, "does not begin with a method");
    refused(&changed("HTTP/1.1", "HTTP/1.0"), 400, "1.1");
    refused(&changed("HTTP/1.1", "HTTP/2.0"), 400, "malformed head");
}

#[test]
fn bodies_are_refused() {
    refused(&changed("Origin:", "Content-Length: 5\r\nOrigin:"), 400, "body");
    let twice = changed("Origin:", "Content-Length: 0\r\nContent-Length: 5\r\nOrigin:");
    refused(&twice, 400, "body");
    refused(
        &changed("Origin:", "Transfer-Encoding: chunked\r\nOrigin:"),
        400,
        "body",
    );
    assert!(parse_upgrade(&changed("Origin:", "Content-Length: 0\r\nOrigin:")).is_ok());
}

#[test]
fn malformed_heads_are_refused() {
    for (from, to, words) in [
        (
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZQ==",
            "Sec-WebSocket-Key",
        ),
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "",
            "Sec-WebSocket-Key",
        ),
        ("Host: server.example.com\r\n", "", "Host"),
        ("Host:", "Host: other\r\nHost:", "more than one host"),
        (
            "Origin:",
            "Origin: https://good\r\nOrigin:",
            "more than one origin",
        ),
        (
            "https://example.com",
            "https://exämple.com",
            "origin header is not ASCII",
        ),
        (
            "Authorization:",
            "Authorization: Bearer x\r\nAuthorization:",
            "more than one authorization",
        ),
        (
            "Sec-WebSocket-Key:",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==\r\nSec-WebSocket-Key:",
            "more than one",
        ),
        ("chat, corelane", "chät, corelane", "protocol header is not ASCII"),
        (
            "superchat",
            "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p",
            "more than 16 subprotocols",
        ),
        ("Origin:", "Origin :", "malformed head"),
        ("Origin:", " folded\r\nOrigin:", "malformed head"),
        ("\r\nOrigin", "\nOrigin", "without CR"),
        ("keep-alive", "keep\0alive", "control byte 0x00"),
        ("keep-alive", "keep\x7falive", "control byte 0x7f"),
        ("/chat?", "/ch at?", "malformed head"),
    ] {
        refused(&changed(from, to), 400, words);
    }
}

#[test]
fn refusals_of_the_gateway_have_their_status() {
    for (error, status) in [
        (HandshakeError::Path("/ws"), "404 Not Found"),
        (HandshakeError::Origin, "403 Forbidden"),
        (HandshakeError::Subprotocol("corelane.json.v1"), "400 Bad Request"),
    ] {
        assert!(refusal(&error).starts_with(&format!("HTTP/1.1 {status}\r\n")));
    }
}

const KEY: [u8; 16] = *b"the sample nonce";

fn accepted() -> String {
    let mut head = Vec::new();
    let extra = [("Authorization".to_owned(), "Bearer t".to_owned())];
    request("h:1", "/p?q", Some("corelane.json.v1"), &extra, &KEY, &mut head);
    let upgrade = parse_upgrade(&head).unwrap();
    assert_eq!(upgrade.bearer_token.as_deref(), Some("t"));
    assert_eq!((&*upgrade.path, upgrade.query.as_deref()), ("/p", Some("q")));
    answer_to(&String::from_utf8(head).unwrap()).unwrap()
}

#[test]
fn our_client_and_server_agree_wherever_reads_end() {
    let answer = accepted();
    let bytes = [answer.as_bytes(), b"\x81\x01x"].concat();
    for have in 0..bytes.len() {
        let expected = if have < answer.len() {
            ResponseStatus::Partial
        } else {
            ResponseStatus::Accepted {
                head_bytes: answer.len(),
                subprotocol: Some("corelane.json.v1".to_owned()),
            }
        };
        assert_eq!(parse_response(&bytes[..have], &KEY), Ok(expected), "{have} bytes");
    }
}

#[test]
fn a_client_believes_only_a_full_answer() {
    let answer = accepted();
    assert!(
        parse_response(answer.as_bytes(), &[0; 16]).is_err(),
        "the answer to another key"
    );
    let lower = answer.to_lowercase();
    for line in ["upgrade: websocket\r\n", "connection: upgrade\r\n"] {
        let at = lower.find(line).unwrap();
        let without = [&answer[..at], &answer[at + line.len()..]].concat();
        assert!(
            matches!(
                parse_response(without.as_bytes(), &KEY),
                Err(HandshakeError::Malformed(_))
            ),
            "{line}"
        );
    }
    let extended = answer.replacen(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        1,
    );
    assert!(matches!(
        parse_response(extended.as_bytes(), &KEY),
        Err(HandshakeError::Malformed(_))
    ));
    for hostile in [&b"SSH-2.0"[..], b"HTTP/1.1 abc\r\n\r\n", b"HTTP/2 200\r\n\r\n"] {
        assert!(parse_response(hostile, &KEY).is_err(), "{hostile:02x?}");
    }
    let endless = [b"HTTP/1.1 101 ", &[b'a'; RESPONSE_HEAD_BYTES_MAX][..]].concat();
    let limit = RESPONSE_HEAD_BYTES_MAX;
    assert_eq!(
        parse_response(&endless, &KEY),
        Err(HandshakeError::TooLarge { limit })
    );
}

#[test]
fn a_client_learns_why_it_was_refused() {
    let refused = |bytes: &[u8]| match parse_response(bytes, &KEY) {
        Err(HandshakeError::Refused { status, reason }) => (status, reason),
        other => panic!("{other:?}"),
    };
    let ours = refusal(&HandshakeError::Origin);
    let words = "origin is not on the allow-list of this gateway".to_owned();
    assert_eq!(refused(ours.as_bytes()), (403, words));
    assert_eq!(
        refused(b"HTTP/1.1 502 Oops\r\n\r\n"),
        (502, "Bad Gateway".to_owned())
    );
    assert_eq!(
        refused(b"HTTP/1.1 200 OK\r\n\r\n\x1b[2Jhi\nthere"),
        (200, "[2Jhi".to_owned())
    );
}
