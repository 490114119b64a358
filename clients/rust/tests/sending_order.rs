//! A conversation keeps the order in which its messages were given, whatever is refused or lost on the way.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use corelane_client::{ClientError, TargetId};
use corelane_protocol::frame::FrameKind;
use corelane_protocol::frame::error::ErrorCode;
use support::{Server, conv, seqs, user, within};

#[tokio::test]
async fn a_retryable_refusal_goes_back_to_the_oldest_with_the_restart_flag() {
    let server = Server::start().await;
    let (client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    let mut acks = Vec::new();
    for text in ["a", "b", "c"] {
        acks.push(client.send_text(TargetId::User(user("bob")), text).await.unwrap());
    }
    let a = peer.expect(FrameKind::Send).await;
    let b = peer.expect(FrameKind::Send).await;
    let c = peer.expect(FrameKind::Send).await;
    assert!(!a.restart && !b.restart && !c.restart);
    peer.ack(&a, 1).await;
    peer.refuse(&b, ErrorCode::Overloaded).await;
    peer.refuse(&c, ErrorCode::GateClosed).await;
    let b_again = peer.expect(FrameKind::Send).await;
    let c_again = peer.expect(FrameKind::Send).await;
    assert_eq!((b_again.payload(), b_again.restart), ("b".to_owned(), true));
    assert_eq!((c_again.payload(), c_again.restart), ("c".to_owned(), false));
    assert_eq!(b_again.client_msg_id(), b.client_msg_id());
    peer.ack(&b_again, 2).await;
    peer.ack(&c_again, 3).await;
    for (ack, seq) in acks.into_iter().zip(1..) {
        assert_eq!(within(ack).await.unwrap().seq, seq);
    }
    assert_eq!(seqs(&mut events, 3).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_permanent_refusal_takes_out_one_message_and_nothing_else() {
    let server = Server::start().await;
    let (client, _events, mut peer) = server.client(server.options(), vec![]).await;
    let refused = client.send_text(TargetId::Conv(conv()), "a").await.unwrap();
    let kept = client.send_text(TargetId::Conv(conv()), "b").await.unwrap();
    let a = peer.expect(FrameKind::Send).await;
    let b = peer.expect(FrameKind::Send).await;
    peer.refuse(&a, ErrorCode::NotMember).await;
    peer.ack(&b, 1).await;
    let error = within(refused).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Refused {
                code: Some(ErrorCode::NotMember),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(within(kept).await.unwrap().seq, 1);
}

#[tokio::test]
async fn a_lost_connection_sends_the_unacknowledged_again_and_only_those() {
    let server = Server::start().await;
    let (client, _events, mut peer) = server.client(server.options(), vec![]).await;
    let mut acks = Vec::new();
    for text in ["a", "b", "c"] {
        acks.push(client.send_text(TargetId::User(user("bob")), text).await.unwrap());
    }
    let a = peer.expect(FrameKind::Send).await;
    let b = peer.expect(FrameKind::Send).await;
    peer.expect(FrameKind::Send).await;
    peer.ack(&a, 1).await;
    assert_eq!(within(acks.remove(0)).await.unwrap().seq, 1);
    peer.cut();
    let mut peer = server.accept().await;
    peer.welcome().await;
    let mut sends = Vec::new();
    while sends.len() < 2 {
        let got = peer.next().await;
        if got.kind == FrameKind::Send {
            sends.push(got);
        }
    }
    assert_eq!((sends[0].payload(), sends[0].restart), ("b".to_owned(), true));
    assert_eq!((sends[1].payload(), sends[1].restart), ("c".to_owned(), false));
    assert_eq!(sends[0].client_msg_id(), b.client_msg_id());
}

#[tokio::test]
async fn no_more_than_the_window_is_unanswered() {
    let server = Server::start().await;
    let (client, _events, mut peer) = server.client(server.options(), vec![]).await;
    for n in 0..9 {
        client
            .send_text(TargetId::User(user("bob")), &n.to_string())
            .await
            .unwrap();
    }
    let mut sends = Vec::new();
    for _ in 0..8 {
        sends.push(peer.expect(FrameKind::Send).await);
    }
    // The ninth may come only after the first ack: what is asked after it is seen before it.
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.read(&conv(), 1).await }
    });
    peer.expect(FrameKind::Read).await;
    peer.ack(&sends[0], 1).await;
    assert_eq!(peer.expect(FrameKind::Send).await.payload(), "8");
    asking.abort();
}

#[tokio::test]
async fn a_full_outbox_refuses_and_keeps_what_it_has() {
    let server = Server::start().await;
    let mut options = server.options();
    options.outbox_slots = 2;
    let (client, _events, mut peer) = server.client(options, vec![]).await;
    let mut acks = Vec::new();
    for text in ["a", "b", "c"] {
        acks.push(client.send_text(TargetId::User(user("bob")), text).await.unwrap());
    }
    let error = within(acks.remove(2)).await.unwrap_err();
    assert!(matches!(error, ClientError::OutboxFull { slots: 2 }), "{error}");
    for (seq, ack) in (1..).zip(acks) {
        let send = peer.expect(FrameKind::Send).await;
        peer.ack(&send, seq).await;
        assert_eq!(within(ack).await.unwrap().seq, seq);
    }
}
