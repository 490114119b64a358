//! kill -9 in the middle of traffic: what was acknowledged is there, once, in order.

use std::collections::BTreeMap;

use corelane_protocol::frame::{Frame, FrameKind, body};
use corelane_system_tests::Gateway;
use corelane_system_tests::client::{Client, message_id, to_user};

const ROUNDS: usize = 3;

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
        let stored = gateway.history("u:5:alice:bob").expect("history is served");
        for (place, message) in stored.iter().enumerate() {
            assert_eq!(message.seq, place as u64 + 1, "round {round}: seq is dense");
        }
        let by_id: BTreeMap<String, u64> = stored.iter().map(|message| (message.id(), message.seq)).collect();
        assert_eq!(by_id.len(), stored.len(), "round {round}: none is there twice");
        for (id, seq) in &acked {
            assert_eq!(
                by_id.get(id),
                Some(seq),
                "round {round}: an acknowledged message is lost or moved"
            );
        }
    }
}
