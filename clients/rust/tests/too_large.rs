//! A message that is too large harms nobody but itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use corelane_client::{ClientError, Event, TargetId};
use corelane_protocol::frame::FrameKind;
use support::{PAYLOAD_BYTES_MAX, Server, user, within};

#[tokio::test]
async fn a_payload_above_the_limit_is_refused_with_its_size_and_the_limit() {
    let server = Server::start().await;
    let (client, _events, mut peer) = server.client(server.options(), vec![]).await;
    let bob = || TargetId::User(user("bob"));
    let large = "x".repeat(PAYLOAD_BYTES_MAX + 1);
    let refused = client.send_text(bob(), &large).await.unwrap();
    let largest = client.send_text(bob(), &large[1..]).await.unwrap();
    let error = within(refused).await.unwrap_err();
    let ClientError::TooLarge { bytes, bytes_max } = error else {
        panic!("{error}")
    };
    assert_eq!((bytes, bytes_max), (PAYLOAD_BYTES_MAX + 1, PAYLOAD_BYTES_MAX));
    assert!(!error.is_retryable());
    let send = peer.expect(FrameKind::Send).await;
    assert_eq!(send.payload().len(), PAYLOAD_BYTES_MAX);
    peer.ack(&send, 1).await;
    within(largest).await.unwrap();
}

#[tokio::test]
async fn a_frame_that_the_gateway_hangs_up_on_is_not_sent_for_ever() {
    let server = Server::start().await;
    let (client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    let bob = || TargetId::User(user("bob"));
    let small = client.send_text(bob(), "small").await.unwrap();
    let large = client.send_text(bob(), &"x".repeat(1000)).await.unwrap();
    let other = client
        .send_text(TargetId::User(user("carol")), "other")
        .await
        .unwrap();
    for _ in 0..3 {
        peer.expect(FrameKind::Send).await;
    }
    peer.close(1009).await;
    let error = within(large).await.unwrap_err();
    assert!(matches!(error, ClientError::HungUp { bytes: 1000 }), "{error}");
    let offline = loop {
        let event = within(events.next()).await.unwrap();
        if let Event::Offline { code, .. } = event {
            break code;
        }
    };
    assert_eq!(offline, 1009);
    let mut peer = server.accept().await;
    peer.login(vec![]).await;
    let mut payloads = Vec::new();
    for seq in 1..=2 {
        let send = peer.expect(FrameKind::Send).await;
        assert!(send.restart);
        payloads.push(send.payload());
        peer.ack(&send, seq).await;
    }
    payloads.sort();
    assert_eq!(payloads, ["other", "small"]);
    within(small).await.unwrap();
    within(other).await.unwrap();
}
