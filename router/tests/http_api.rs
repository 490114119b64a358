//! The HTTP API: backends send and read, bad input is answered with a reason, the demo mints tokens.

mod link_support;

use std::io::{Read as _, Write as _};

use link_support::{Gateway, Http, router};
use serde_json::json;

#[test]
fn a_backend_sends_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let http = Http::of(dir.path(), &router);
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let bob = gateway.login("bob", 1);
    let message = json!({"from": "alice", "target": {"user": "bob"}, "kind": "text", "payload": "hello"});
    let (status, stored) = http.post("/v1/messages", &message);
    assert_eq!(status, 200, "{stored}");
    assert_eq!(
        (&stored["conv"], &stored["seq"]),
        (&json!("u:5:alice:bob"), &json!(1))
    );
    assert_eq!(gateway.delivered().conns, [bob]);
    let (status, history) = http.get("/v1/conversations/u%3A5%3Aalice%3Abob/messages?from=1&limit=10");
    assert_eq!(status, 200, "{history}");
    assert_eq!(history["head_seq"], 1);
    assert_eq!(history["messages"][0]["sender"], "alice");
    assert_eq!(history["messages"][0]["seq"], 1);
    assert_eq!(
        http.get("/v1/conversations/u:5:alice:bob/messages?app=3").1["messages"],
        json!([])
    );
}

#[test]
fn bad_input_is_answered_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let http = Http::of(dir.path(), &router);
    let is = |(status, answer): (u16, serde_json::Value), expected: u16, code: &str| {
        assert_eq!(status, expected, "{answer}");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(
            answer["error"]["text"]
                .as_str()
                .is_some_and(|text| text.len() > 3),
            "{answer}"
        );
    };
    is(http.post_text("/v1/messages", "{"), 400, "malformed");
    is(
        http.post("/v1/messages", &json!({"from": "alice"})),
        400,
        "malformed",
    );
    is(
        http.post("/v1/messages", &json!({"from": "", "target": {"user": "bob"}})),
        400,
        "malformed",
    );
    let to_nobody = json!({"from": "alice", "target": {"conv": "g:nobody"}, "kind": "text", "payload": "x"});
    is(http.post("/v1/messages", &to_nobody), 404, "unknown_group");
    let of_others =
        json!({"from": "alice", "target": {"conv": "u:3:bob:eve"}, "kind": "text", "payload": "x"});
    is(http.post("/v1/messages", &of_others), 403, "not_member");
    is(http.get("/v1/conversations/nonsense/messages"), 400, "malformed");
    is(
        http.get("/v1/conversations/g:x/messages?from=0"),
        400,
        "malformed",
    );
    is(
        http.get("/v1/conversations/g:x/messages?limit=999"),
        400,
        "malformed",
    );
    is(
        http.get("/v1/conversations/g:x/messages?from=x"),
        400,
        "malformed",
    );
    is(http.get("/v1/groups/none"), 404, "unknown_group");
    is(
        http.post("/v1/groups", &json!({"group": "g", "members": []})),
        400,
        "malformed",
    );
    let group = json!({"group": "g", "members": ["a"]});
    assert_eq!(http.post("/v1/groups", &group).0, 200);
    is(http.post("/v1/groups", &group), 409, "conflict");
    is(http.post("/v1/groups/g/members", &json!({})), 400, "malformed");
    is(http.get("/v1/nothing"), 404, "not_found");
    is(http.delete("/v1/groups"), 405, "method_not_allowed");
    let long = "x".repeat(2 * 1024 * 1024);
    is(
        http.post("/v1/messages", &json!({"from": "alice", "long": long})),
        413,
        "too_large",
    );
}

#[test]
fn without_the_admin_key_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    for key in ["", "0000", &"0".repeat(64)] {
        let http = Http::of(dir.path(), &router).with_key(key);
        assert_eq!(http.get("/v1/users/alice/conversations").0, 401);
        assert_eq!(
            http.post("/v1/groups", &json!({"group": "g", "members": ["a"]}))
                .0,
            401
        );
    }
}

#[test]
fn the_demo_mints_tokens_and_serves_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let http = Http::of(dir.path(), &router);
    assert_eq!(http.text("/"), "<p>hello</p>");
    assert_eq!(http.get("/v1/demo/config").1["ws_url"], "ws://127.0.0.1:1/ws");
    let (status, minted) = http.post("/v1/demo/token", &json!({"user": "alice"}));
    assert_eq!(status, 200);
    let token = minted["token"].as_str().unwrap();
    let alice = Http::of(dir.path(), &router).with_key(token);
    let group = json!({"group": "team", "members": ["bob"]});
    assert_eq!(alice.post("/v1/demo/groups", &group).0, 200);
    assert_eq!(http.get("/v1/groups/team").1["members"], json!(["alice", "bob"]));
    assert_eq!(
        Http::of(dir.path(), &router)
            .with_key("x")
            .post("/v1/demo/groups", &group)
            .0,
        401
    );
    assert_eq!(
        alice.get("/v1/groups/team").0,
        401,
        "a user's token is no admin key"
    );
}

#[test]
fn the_demo_answers_at_loopback_names_only() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let status = |request: &str, host: &str| {
        let mut stream = std::net::TcpStream::connect(router.http_addr()).unwrap();
        let body = r#"{"user": "alice"}"#;
        let length = body.len();
        let head = format!(
            "{request}\r\n{host}content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let mint = "POST /v1/demo/token HTTP/1.1";
    for host in [
        "localhost",
        "LocalHost:7080",
        "127.0.0.1",
        "127.0.0.1:7080",
        "127.9.9.9:1",
        "[::1]",
        "[::1]:7080",
    ] {
        assert_eq!(status(mint, &format!("host: {host}\r\n")), "200", "{host}");
    }
    // A page of somebody else whose name was pointed at this machine asks under that name.
    for host in [
        "evil.example",
        "evil.example:7080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "10.0.0.1",
        "[::2]",
        "",
        ":",
    ] {
        assert_eq!(status(mint, &format!("host: {host}\r\n")), "403", "{host}");
    }
    assert_eq!(status("POST /v1/demo/token HTTP/1.0", ""), "403", "no host");
    assert_eq!(
        status("GET /v1/demo/config HTTP/1.1", "host: evil.example\r\n"),
        "403"
    );
    assert_eq!(
        status("GET /healthz HTTP/1.1", "host: router.internal\r\n"),
        "200"
    );
}

#[test]
fn the_page_cannot_be_framed() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let answer = ureq::get(format!("http://{}/", router.http_addr()))
        .call()
        .unwrap();
    let policy = answer.headers().get("content-security-policy").unwrap();
    assert_eq!(policy, "frame-ancestors 'none'");
}

#[test]
fn metrics_count_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let http = Http::of(dir.path(), &router);
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    gateway.login("bob", 1);
    for _ in 0..5 {
        let message = json!({"from": "alice", "target": {"user": "bob"}, "kind": "text", "payload": "x"});
        assert_eq!(http.post("/v1/messages", &message).0, 200);
        gateway.delivered();
    }
    let text = http.text("/metrics");
    for stage in ["persist", "locate", "publish"] {
        let line = format!("corelane_stage_messages_total{{stage=\"{stage}\"}} 5\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert_eq!(http.get("/healthz").0, 200);
    let ready = http.get("/readyz").1;
    for (key, value) in [
        ("ready", json!(true)),
        ("store", json!("ok")),
        ("registry", json!("ok")),
        ("bus", json!("ok")),
    ] {
        assert_eq!(ready[key], value, "{ready}");
    }
}
