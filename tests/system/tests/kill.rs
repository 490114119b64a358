//! kill -9: what was acknowledged is there, once, in order, and the next life may begin at once.
#![expect(clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;

use corelane_protocol::frame::{Frame, FrameKind, body};
use corelane_system_tests::client::{Client, message_id, to_user};
use corelane_system_tests::{Gateway, Ports};

const ROUNDS: usize = 3;

fn history(gateway: &Gateway, conv: &str) -> Vec<(u64, String)> {
    let key = format!("Bearer {}", gateway.admin_key());
    let mut messages = Vec::new();
    let mut from = 1;
    while from != 0 {
        let url = format!(
            "{}/v1/conversations/{conv}/messages?from={from}&limit=200",
            gateway.http
        );
        let mut response = ureq::get(&url)
            .header("Authorization", &key)
            .call()
            .expect("history is served");
        let page: serde_json::Value = response.body_mut().read_json().expect("JSON");
        for message in page["messages"].as_array().expect("a list") {
            let id = message["client_msg_id"].as_str().expect("an id").replace('-', "");
            messages.push((message["seq"].as_u64().expect("a number"), id));
        }
        from = page["next_seq"].as_u64().expect("a number");
    }
    messages
}

#[test]
fn everything_acknowledged_survives_kill_nine() {
    let data = tempfile::tempdir().unwrap();
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut gateway = Gateway::start(data.path(), &[]);
        let mut alice = Client::login(&gateway, "alice");
        let mut ids: BTreeMap<u32, String> = BTreeMap::new();
        let mut answered = 0;
        // Forty are on their way at any time; the process dies with the window full.
        while answered < 300 {
            while ids.len() < 40 {
                let id = message_id();
                let reference = alice.send_with(&to_user("bob"), id, b"payload");
                ids.insert(reference, format!("{:032x}", u128::from_be_bytes(id)));
            }
            let bytes = alice.read().expect("the gateway runs");
            let frame = Frame::parse(&bytes).expect("a frame");
            if frame.known_kind() == Some(FrameKind::SendAck) {
                let seq = frame
                    .access::<body::ArchivedSendAck>()
                    .expect("an ack")
                    .seq
                    .to_native();
                acked.insert(ids.remove(&frame.reference).expect("it was sent"), seq);
                answered += 1;
            }
        }
        gateway.process.kill();
        // What was acknowledged but not read by the dead connection counts as well.
        while let Ok(bytes) = alice.read() {
            let frame = Frame::parse(&bytes).expect("a frame");
            if frame.known_kind() == Some(FrameKind::SendAck) {
                let seq = frame
                    .access::<body::ArchivedSendAck>()
                    .expect("an ack")
                    .seq
                    .to_native();
                acked.insert(ids.remove(&frame.reference).expect("it was sent"), seq);
            }
        }
        let gateway = Gateway::start(data.path(), &[]);
        let stored = history(&gateway, "u:5:alice:bob");
        for (place, (seq, _)) in stored.iter().enumerate() {
            assert_eq!(*seq, place as u64 + 1, "round {round}: seq is dense");
        }
        let by_id: BTreeMap<&str, u64> = stored.iter().map(|(seq, id)| (id.as_str(), *seq)).collect();
        assert_eq!(by_id.len(), stored.len(), "round {round}: none is there twice");
        for (id, seq) in &acked {
            assert_eq!(
                by_id.get(id.as_str()),
                Some(seq),
                "round {round}: an acknowledged message is lost or moved"
            );
        }
    }
}

#[test]
fn a_killed_gateway_is_started_again_at_once_on_its_ports() {
    let data = tempfile::tempdir().unwrap();
    let ports = Ports::find();
    for _ in 0..5 {
        let mut gateway = Gateway::start_on(data.path(), &ports);
        let _client = Client::login(&gateway, "alice");
        gateway.process.kill();
    }
}
