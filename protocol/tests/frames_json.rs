//! JSON twins: what a client writes becomes the canonical frame it means or an error that answers it, and nothing that
//! is legal in one encoding is lost in the other.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test ends at the first surprise, and its numbers are small"
)]

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::json::{JsonInput, from_json, to_json, to_value};
use corelane_protocol::frame::{Frame, FrameError, FrameKind, body, encode, encode_error, flag, kind, read};
use corelane_protocol::limits;
use proptest::prelude::*;
use serde_json::{Value, json};

const CLIENT_MSG_ID: [u8; 16] = *b"\x01\x93\x5a\x2b\x3c\x4d\x7e\xf0\x81\x23\x45\x67\x89\xab\xcd\xef";

fn text_of(bytes: &[u8]) -> String {
    let mut json = Vec::new();
    to_json(bytes, &mut json).unwrap();
    String::from_utf8(json).unwrap()
}

fn frame_of(value: &Value) -> Vec<u8> {
    match from_json(&value.to_string()) {
        Ok(JsonInput::Frame(bytes)) => bytes,
        other => panic!("{value}: {other:?}"),
    }
}

fn refusal(value: &Value) -> (u32, FrameError) {
    from_json(&value.to_string()).expect_err("is refused")
}

/// A text message to bob; `null` takes a field away.
fn send_with(changes: Value) -> Value {
    let mut send = json!({
        "type": "send", "ref": 7, "target": {"user": "bob"}, "payload": "hi",
        "client_msg_id": "01935a2b-3c4d-7ef0-8123-456789abcdef",
    });
    let fields = send.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    send
}

#[test]
fn a_send_of_few_words_means_a_text_to_a_user() {
    let bytes = frame_of(&send_with(json!({"unknown": [1], "flags": null})));
    let frame = Frame::parse(&bytes).unwrap();
    let send = read::send(&frame).unwrap();
    assert_eq!((frame.reference, frame.flags), (7, 0));
    assert_eq!((send.kind, send.flags, send.ref_seq), (kind::TEXT, 0, 0));
    assert_eq!(
        (send.content_type, send.payload),
        (kind::content::TEXT, &b"hi"[..])
    );
    assert_eq!(send.client_msg_id.0, CLIENT_MSG_ID);
}

#[test]
fn names_and_numbers_of_kinds_mean_the_same() {
    let by = |kind: Value| frame_of(&send_with(json!({"kind": kind, "ref_seq": 3})));
    assert_eq!(by(json!("recall")), by(json!(0x100)));
    assert_eq!(by(json!("custom")), by(json!(9)));
    let send = |bytes: &[u8]| read::send(&Frame::parse(bytes).unwrap()).map(|send| send.kind);
    assert_eq!(send(&by(json!("call_started"))), Ok(0x200));
    assert!(
        send(&by(json!("void"))).is_err(),
        "read, and not for clients to send"
    );
    let compact = send_with(json!({"client_msg_id": "01935A2B3C4D7EF08123456789ABCDEF"}));
    assert_eq!(frame_of(&compact), frame_of(&send_with(json!({}))));
}

#[test]
fn payloads_are_text_json_or_base64() {
    let content = |changes| {
        let bytes = frame_of(&send_with(changes));
        let frame = Frame::parse(&bytes).unwrap();
        let send = read::send(&frame).unwrap();
        (send.content_type, send.payload.to_vec())
    };
    assert_eq!(
        content(json!({"payload": {"b": 1, "a": 2}})),
        (2, b"{\"a\":2,\"b\":1}".to_vec())
    );
    assert_eq!(
        content(json!({"payload": "x", "content_type": "json"})),
        (2, b"\"x\"".to_vec())
    );
    assert_eq!(
        content(json!({"payload": "AP8=", "content_type": "bytes"})),
        (0, vec![0, 255])
    );
    assert_eq!(
        content(json!({"payload": "AP8=", "content_type": 9})),
        (9, vec![0, 255])
    );
    let null = r#"{"type":"send","target":{"user":"bob"},"payload":null,"content_type":"json",
        "client_msg_id":"01935a2b3c4d7ef08123456789abcdef"}"#;
    assert!(matches!(from_json(null), Ok(JsonInput::Frame(_))));
}

#[test]
fn a_missing_or_wrong_field_is_named_and_the_reference_kept() {
    for (changes, field) in [
        (json!({"target": null}), "target"),
        (json!({"target": {"user": "bob", "conv": "g:team"}}), "target"),
        (json!({"target": {"conv": "u:3:bob:alice"}}), "conv"),
        (json!({"target": {"user": 7}}), "target"),
        (json!({"payload": null}), "payload"),
        (json!({"payload": "%", "content_type": "bytes"}), "payload"),
        (json!({"payload": 1, "content_type": "text"}), "payload"),
        (json!({"content_type": "html"}), "content_type"),
        (json!({"client_msg_id": null}), "client_msg_id"),
        (json!({"client_msg_id": "01935a2b"}), "client_msg_id"),
        (json!({"kind": "txt"}), "kind"),
        (json!({"kind": 65_536}), "kind"),
        (json!({"flags": -1}), "flags"),
        (json!({"ref_seq": 1.5}), "ref_seq"),
        (json!({"restart": 1}), "restart"),
        (json!({"type": null}), "type"),
        (json!({"type": 2}), "type"),
        (json!({"ext": {}}), "ext"),
        (json!({"ext": [{"type": 1}]}), "ext"),
        (json!({"ext": [{"type": 65_536, "value": ""}]}), "ext"),
    ] {
        match refusal(&send_with(changes.clone())) {
            (7, FrameError::Field { field: named, .. }) => assert_eq!(named, field, "{changes}"),
            other => panic!("{changes}: {other:?}"),
        }
    }
}

#[test]
fn a_text_that_is_no_object_has_no_reference() {
    for text in [
        "",
        "7",
        "[]",
        "null",
        "{",
        "{\"ref\":7}{}",
        "{\"ref\":7,}",
        "{\"type\":\"ping\",\"ref\":4294967296}",
        "{\"type\":\"ping\",\"ref\":-1}",
        "{\"type\":\"ping\",\"ref\":\"1\"}",
    ] {
        assert!(
            matches!(from_json(text), Err((0, FrameError::Field { .. }))),
            "{text}"
        );
    }
}

#[test]
fn an_unknown_type_is_skipped_unless_it_must_be_understood() {
    let dance = json!({"type": "dance", "ref": 9});
    assert_eq!(
        from_json(&dance.to_string()),
        Ok(JsonInput::Skipped { reference: 9 })
    );
    let long = "dance".repeat(1000);
    let (reference, error) = refusal(&json!({"type": long, "ref": 9, "must_understand": true}));
    assert_eq!((reference, error.code()), (9, ErrorCode::UnknownKind));
    assert!(error.to_string().len() < 200, "{error}");
    for server_only in ["welcome", "message", "error", "pong"] {
        let value = json!({"type": server_only, "ref": 9});
        assert_eq!(
            from_json(&value.to_string()),
            Ok(JsonInput::Skipped { reference: 9 })
        );
    }
}

#[test]
fn limits_count_the_canonical_payload() {
    let longest = "\u{7f}".repeat(limits::PAYLOAD_BYTES_MAX);
    frame_of(&send_with(json!({"payload": longest})));
    let (reference, error) = refusal(&send_with(json!({"payload": longest + "x"})));
    assert_eq!((reference, error.code()), (7, ErrorCode::TooLarge));
    assert_eq!(error.to_string(), "payload has 65537 bytes, allowed are 65536");
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(limits::CLIENT_JSON_BYTES_MAX));
    assert_eq!(from_json(&text).unwrap_err().1.code(), ErrorCode::TooLarge);
    let token = "x".repeat(limits::CLIENT_FRAME_BYTES_MAX);
    let (_, error) = refusal(&json!({"type": "refresh_token", "token": token}));
    assert_eq!(error.code(), ErrorCode::TooLarge);
}

#[test]
fn too_many_extensions_are_an_error_like_in_binary() {
    let ext = |count, value: &str| {
        let each = json!({"type": 1, "value": value});
        send_with(json!({"ext": vec![each; count]}))
    };
    frame_of(&ext(limits::EXTENSIONS_MAX, ""));
    assert!(matches!(
        refusal(&ext(limits::EXTENSIONS_MAX + 1, "")),
        (7, FrameError::Extensions { .. })
    ));
    let long = "AAAA".repeat(limits::EXTENSION_BYTES_MAX / 3);
    assert!(matches!(
        refusal(&ext(1, &long)),
        (7, FrameError::Extensions { .. })
    ));
}

#[test]
fn deep_json_is_an_error_and_not_the_end_of_the_stack() {
    let text = "[".repeat(limits::CLIENT_JSON_BYTES_MAX);
    assert!(from_json(&text).is_err());
    let text = "{\"a\":".repeat(20_000);
    assert!(from_json(&text).is_err());
}

#[test]
fn a_payload_that_is_not_what_its_type_says_travels_as_base64() {
    let payload = |content_type, payload: &[u8]| {
        let body = body::Send {
            target: body::Target::User("bob".to_owned()),
            kind: kind::TEXT,
            flags: 0,
            ref_seq: 0,
            client_msg_id: CLIENT_MSG_ID,
            content_type,
            payload: payload.to_vec(),
        };
        let value = to_value(&encode(FrameKind::Send, 0, &body)).unwrap();
        (value["content_type"].clone(), value["payload"].clone())
    };
    assert_eq!(payload(1, b"\xff"), (json!("bytes"), json!("/w==")));
    assert_eq!(payload(2, b"{"), (json!("bytes"), json!("ew==")));
    assert_eq!(payload(2, b"{\"a\":1}"), (json!("json"), json!({"a": 1})));
    assert_eq!(payload(9, b"x"), (json!(9), json!("eA==")));
}

#[test]
fn a_text_that_fails_leaves_the_output_alone() {
    let mut out = b"before".to_vec();
    assert!(to_json(b"no frame", &mut out).is_err());
    assert_eq!(out, b"before");
}

#[test]
fn an_error_frame_says_whether_to_try_again() {
    let bytes = encode_error(2, ErrorCode::Overloaded, "the lane is full; try again later");
    let expected = json!({
        "type": "error", "ref": 2, "code": "overloaded", "retryable": true,
        "text": "the lane is full; try again later",
    });
    assert_eq!(to_value(&bytes).unwrap(), expected);
}

fn id() -> impl Strategy<Value = String> {
    "[^\\x00-\\x1f\\x7f-\\x9f]{1,16}".prop_filter("ids have at most 64 bytes", |id| id.len() <= 64)
}

fn some_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Content type and payload that is what its type says.
fn content() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        ".{0,40}".prop_map(|text| (kind::content::TEXT, text.into_bytes())),
        some_json().prop_map(|value| (kind::content::JSON, value.to_string().into_bytes())),
        (
            prop_oneof![Just(0_u8), 3..=255_u8],
            prop::collection::vec(any::<u8>(), 0..40)
        ),
    ]
}

proptest! {
    #[test]
    fn a_send_says_the_same_in_both_encodings(
        user in id(),
        numbers in (any::<u16>(), any::<u16>(), 0..=limits::SEQ_MAX, any::<u32>()),
        client_msg_id in any::<[u8; 16]>(),
        (content_type, payload) in content(),
        restart in any::<bool>(),
        extension in prop::option::of((any::<u16>(), prop::collection::vec(any::<u8>(), 0..20))),
    ) {
        let (kind, flags, ref_seq, reference) = numbers;
        let send = body::Send {
            target: body::Target::User(user), kind, flags, ref_seq, client_msg_id, content_type, payload,
        };
        let mut extensions = Vec::new();
        if let Some((number, value)) = &extension {
            let extension = corelane_protocol::frame::Extension { number: *number, value };
            corelane_protocol::frame::push_extension(&mut extensions, extension);
        }
        let header = if restart { flag::RESTART } else { 0 };
        let bytes =
            corelane_protocol::frame::encode_with(FrameKind::Send, header, reference, &send, &extensions);
        prop_assert_eq!(from_json(&text_of(&bytes)), Ok(JsonInput::Frame(bytes)));
    }

    #[test]
    fn other_client_frames_say_the_same_in_both_encodings(
        group in id(),
        seqs in (any::<u64>(), any::<u64>(), any::<u16>(), any::<u32>()),
        call_id in any::<[u8; 16]>(),
        body in some_json().prop_filter("null is no body", |value| !value.is_null()),
        cursor in prop::collection::vec(any::<u8>(), 0..64),
        on in any::<bool>(),
    ) {
        let (from_seq, to_seq, limit, reference) = seqs;
        let group = corelane_protocol::id::GroupId::new(&group).unwrap();
        let conv = corelane_protocol::id::ConvId::group(&group).as_bytes().to_vec();
        let target = body::Target::Conv(conv.clone());
        let upto = body::ConvSeq { conv: conv.clone(), seq: from_seq };
        let call = body::Call {
            target: target.clone(), from: String::new(), call_id, step: limit as u8,
            body: body.to_string().into_bytes(),
        };
        for bytes in [
            encode(FrameKind::Read, reference, &body::Read { upto: upto.clone() }),
            encode(FrameKind::Delivered, reference, &body::Delivered { upto: vec![upto; 3] }),
            encode(FrameKind::Sync, reference, &body::Sync { cursor, limit }),
            encode(FrameKind::Pull, reference, &body::Pull { conv, from_seq, to_seq, limit }),
            encode(FrameKind::CallStep, reference, &call),
            encode(FrameKind::TypingStep, reference, &body::Typing { target, from: String::new(), on }),
            encode(FrameKind::Ping, reference, &body::Ping { time_ms: to_seq }),
        ] {
            prop_assert_eq!(from_json(&text_of(&bytes)), Ok(JsonInput::Frame(bytes)));
        }
    }

    #[test]
    fn objects_of_anybody_become_a_frame_or_an_error(
        name in prop::sample::select(vec![
            "hello", "send", "read", "delivered", "sync", "pull", "call", "typing", "presence_query", "join_room",
            "leave_room", "refresh_token", "ping", "other",
        ]),
        fields in prop::collection::btree_map(
            prop::sample::select(vec![
                "ref", "target", "kind", "flags", "ref_seq", "client_msg_id", "call_id", "content_type", "payload",
                "conv", "seq", "upto", "cursor", "limit", "from_seq", "to_seq", "step", "body", "on", "users", "room",
                "token", "terminal", "device", "epoch", "time_ms", "ext", "restart", "must_understand",
            ]),
            some_json(),
            0..8,
        ),
    ) {
        let mut object: serde_json::Map<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        object.insert("type".to_owned(), name.into());
        if let Ok(JsonInput::Frame(bytes)) = from_json(&Value::Object(object).to_string()) {
            let again = from_json(&text_of(&bytes));
            prop_assert!(Frame::parse(&bytes).is_ok() && again.is_ok());
        }
    }

    #[test]
    fn texts_of_anybody_never_panic(text in ".{0,200}") {
        let _ = from_json(&text);
    }
}
