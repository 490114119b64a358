//! Tokens that do not hold: told apart, at the login and later.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use corelane_protocol::frame::{self, FrameKind, body};
use corelane_system_tests::bystanders::Bystanders;
use corelane_system_tests::client::Client;
use corelane_system_tests::peer::hello;
use corelane_system_tests::{Gateway, wait_for};

/// A token with these claims, signed with `secret`.
fn signed(secret: &[u8], claims: &serde_json::Value) -> String {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_secret(secret)).unwrap()
}

/// The key of the gateway.
fn secret(gateway: &Gateway) -> Vec<u8> {
    let text = std::fs::read_to_string(gateway.data.join("token.key")).unwrap();
    let digits = text.trim().as_bytes();
    digits
        .chunks(2)
        .map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap())
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "a token says when it expires")]
fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn tokens_that_do_not_hold_are_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let secret = secret(&gateway);
    let later = unix_s() + 3600;
    let good = serde_json::json!({"app": 0, "sub": "mallory", "iat": 1, "exp": later});
    let unsigned = signed(&secret, &good);
    let (unsigned, _) = unsigned.rsplit_once('.').unwrap();
    let cases = [
        ("no token", 4500, String::new()),
        ("no JWT", 4500, "not.a.token".to_owned()),
        ("too long", 4504, "x".repeat(3000)),
        (
            "another key",
            4500,
            signed(b"another key of 32 bytes or so...", &good),
        ),
        ("no signature", 4500, format!("{unsigned}.")),
        (
            "no user",
            4500,
            signed(&secret, &serde_json::json!({"app": 0, "exp": later})),
        ),
        (
            "a user id that is none",
            4500,
            signed(&secret, &serde_json::json!({"sub": "\u{0}", "exp": later})),
        ),
        (
            "no expiry",
            4500,
            signed(&secret, &serde_json::json!({"sub": "mallory"})),
        ),
        (
            "expired",
            4005,
            signed(
                &secret,
                &serde_json::json!({"sub": "mallory", "exp": 1_000_000_000}),
            ),
        ),
    ];
    for (name, code, token) in cases {
        let mut client = Client::connect(&gateway, "mallory");
        client.write(&hello(&token));
        assert_eq!(client.closed(), code, "{name}");
    }
    // The same claims with the right key: it was the token each time, not the user.
    let mut client = Client::connect(&gateway, "mallory");
    client.write(&hello(&signed(&secret, &good)));
    client.read_kind(FrameKind::Welcome);
    drop(client);
    bystanders.are_alone_and_well(&gateway);
}

/// How long a token is good beyond its expiry, in s.
const LEEWAY_S: u64 = 30;

#[test]
fn a_token_that_expires_ends_its_connection_unless_it_is_refreshed() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    let mut bystanders = Bystanders::arrive(&gateway);
    let secret = secret(&gateway);
    // Clocks differ: a token is good for half a minute more than it says, and so is its session.
    let soon = unix_s() + 2;
    let claims =
        |user: &str, ends: u64| signed(&secret, &serde_json::json!({"sub": user, "exp": ends - LEEWAY_S}));
    let mut expiring = Client::connect(&gateway, "expiring");
    expiring.write(&hello(&claims("expiring", soon)));
    expiring.read_kind(FrameKind::Welcome);
    let mut refreshed = Client::connect(&gateway, "refreshed");
    refreshed.write(&hello(&claims("refreshed", soon)));
    refreshed.read_kind(FrameKind::Welcome);
    let token = claims("refreshed", soon + 3600);
    refreshed.write(&frame::encode(
        FrameKind::RefreshToken,
        7,
        &body::RefreshToken { token },
    ));
    refreshed.read_kind(FrameKind::Pong);
    assert_eq!(expiring.closed(), 4005);
    wait_for(
        "the moment at which the first token has expired",
        Duration::from_secs(5),
        || {
            bystanders.chat();
            (unix_s() > soon).then_some(())
        },
    );
    refreshed.write(&frame::encode(FrameKind::Ping, 8, &body::Ping { time_ms: 1 }));
    refreshed.read_kind(FrameKind::Pong);
    drop((expiring, refreshed));
    bystanders.are_alone_and_well(&gateway);
}
