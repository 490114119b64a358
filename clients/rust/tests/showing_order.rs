//! Every message is handed out once and in order, whatever is doubled, late or missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use corelane_client::{Event, Source, TargetId};
use corelane_protocol::frame::{FrameKind, body, encode};
use support::{Server, conv, message, seqs, state, user, within};

#[tokio::test]
async fn a_gap_is_pulled_and_a_repeat_is_dropped() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    for seq in [1, 1, 4, 3, 4] {
        peer.say(message(seq)).await;
    }
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (2, 2));
    peer.pull_page(&pull, &[2], 0, 4).await;
    peer.say(message(2)).await;
    peer.say(message(5)).await;
    assert_eq!(seqs(&mut events, 5).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn unread_messages_come_at_login_page_by_page() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(5, 2)]).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (3, 5));
    peer.pull_page(&pull, &[3, 4], 5, 5).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (5, 5));
    peer.pull_page(&pull, &[5], 0, 5).await;
    assert_eq!(seqs(&mut events, 3).await, [3, 4, 5]);
}

#[tokio::test]
async fn what_was_missed_while_away_is_pulled_after_the_next_login() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(2, 2)]).await;
    peer.say(message(3)).await;
    assert_eq!(seqs(&mut events, 1).await, [3]);
    peer.cut();
    let mut peer = server.accept().await;
    peer.login(vec![state(6, 3)]).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (4, 6));
    peer.say(message(7)).await;
    peer.pull_page(&pull, &[4, 5, 6], 0, 7).await;
    assert_eq!(seqs(&mut events, 4).await, [4, 5, 6, 7]);
}

#[tokio::test]
async fn a_message_of_an_unknown_conversation_waits_for_the_sync() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    peer.say(message(8)).await;
    let sync = peer.expect(FrameKind::Sync).await;
    peer.sync_page(&sync, vec![state(8, 6)]).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (7, 7));
    peer.pull_page(&pull, &[7], 0, 8).await;
    assert_eq!(seqs(&mut events, 2).await, [7, 8]);
}

#[tokio::test]
async fn places_that_the_server_has_nothing_for_hold_up_nothing() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(1, 1)]).await;
    peer.say(message(4)).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (2, 3));
    peer.pull_page(&pull, &[3], 0, 4).await;
    assert_eq!(seqs(&mut events, 2).await, [3, 4]);
}

#[tokio::test]
async fn pull_required_pulls_and_asks_for_something_even_when_nothing_is_missing() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(3, 3)]).await;
    let required = |seq| {
        let upto = vec![body::ConvSeq {
            conv: conv().as_bytes().to_vec(),
            seq,
        }];
        encode(FrameKind::PullRequired, 0, &body::PullRequired { upto })
    };
    peer.say(required(5)).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (4, 5));
    peer.pull_page(&pull, &[4, 5], 0, 5).await;
    assert_eq!(seqs(&mut events, 2).await, [4, 5]);
    peer.say(required(2)).await;
    peer.expect(FrameKind::Sync).await;
}

#[tokio::test]
async fn own_messages_stand_at_their_place() {
    let server = Server::start().await;
    let (client, mut events, mut peer) = server.client(server.options(), vec![state(1, 1)]).await;
    let ack = client
        .send_text(TargetId::User(user("bob")), "mine")
        .await
        .unwrap();
    let send = peer.expect(FrameKind::Send).await;
    // The ack overtakes bob's message on its way here.
    peer.ack(&send, 3).await;
    within(ack).await.unwrap();
    peer.say(message(2)).await;
    let mut shown = Vec::new();
    while shown.len() < 2 {
        if let Event::Message(message, source) = within(events.next()).await.unwrap() {
            shown.push((message.seq(), source));
        }
    }
    assert_eq!(shown, [(2, Source::Live), (3, Source::Own)]);
}

#[tokio::test]
async fn a_user_who_takes_no_events_stops_the_reading_and_loses_nothing() {
    let server = Server::start().await;
    let mut options = server.options();
    options.event_slots = 4;
    let (client, mut events, mut peer) = server.client(options, vec![]).await;
    for seq in 1..=100 {
        peer.say(message(seq)).await;
    }
    // Commands are still taken.
    let _ack = client
        .send_text(TargetId::User(user("bob")), "hello")
        .await
        .unwrap();
    peer.expect(FrameKind::Send).await;
    assert_eq!(seqs(&mut events, 100).await, (1..=100).collect::<Vec<_>>());
}
