//! A conversation whose log went back, because a backup was restored, is pulled anew; one that only seems to is not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use corelane_client::{Client, Event, Events};
use corelane_protocol::frame::FrameKind;
use corelane_protocol::frame::error::ErrorCode;
use support::{Peer, Server, conv, message, seqs, state, within};

/// A client that was shown everything up to 5, at its next login.
async fn shown_up_to_5(server: &Server) -> (Client, Events, Peer) {
    let (client, mut events, mut peer) = server.client(server.options(), vec![state(2, 2)]).await;
    for seq in 3..=5 {
        peer.say(message(seq)).await;
    }
    assert_eq!(seqs(&mut events, 3).await, [3, 4, 5]);
    peer.cut();
    let mut peer = server.accept().await;
    peer.welcome().await;
    (client, events, peer)
}

/// The next message or reset; other events are passed over.
async fn told(events: &mut Events) -> Result<u64, Option<corelane_protocol::id::ConvId>> {
    loop {
        match within(events.next()).await.unwrap() {
            Event::Message(message, _) => return Ok(message.seq()),
            Event::Reset(conv) => return Err(conv),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_shown_is_begun_anew() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = shown_up_to_5(&server).await;
    let sync = peer.expect(FrameKind::Sync).await;
    peer.sync_page(&sync, vec![state(3, 2)]).await;
    let doubt = peer.expect(FrameKind::Pull).await;
    assert_eq!(doubt.range(), (6, 6));
    peer.refuse(&doubt, ErrorCode::Ahead).await;
    // Others may have gone back, too, and changed before the cursor: everything is asked again.
    let sync = peer.expect(FrameKind::Sync).await;
    assert_eq!(sync.cursor(), b"");
    peer.sync_page(&sync, vec![state(3, 2)]).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (3, 3));
    peer.pull_page(&pull, &[3], 0, 3).await;
    peer.say(message(4)).await;
    assert_eq!(told(&mut events).await, Err(Some(conv())));
    assert_eq!(told(&mut events).await, Ok(3));
    assert_eq!(told(&mut events).await, Ok(4));
}

#[tokio::test]
async fn a_message_that_overtakes_the_page_of_a_sync_resets_nothing() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = shown_up_to_5(&server).await;
    let sync = peer.expect(FrameKind::Sync).await;
    peer.say(message(6)).await;
    peer.sync_page(&sync, vec![state(5, 2)]).await;
    let doubt = peer.expect(FrameKind::Pull).await;
    assert_eq!(doubt.range(), (7, 7));
    // A message that answers the doubt is shown.
    peer.pull_page(&doubt, &[7], 0, 7).await;
    peer.say(message(8)).await;
    for seq in 6..=8 {
        assert_eq!(told(&mut events).await, Ok(seq));
    }
}

#[tokio::test]
async fn a_doubt_that_is_confirmed_between_two_pages_asks_from_the_beginning_after_them() {
    let server = Server::start().await;
    let (_client, _events, mut peer) = shown_up_to_5(&server).await;
    let sync = peer.expect(FrameKind::Sync).await;
    peer.sync_page_of(&sync, vec![state(3, 2)], true).await;
    let doubt = peer.expect(FrameKind::Pull).await;
    let second = peer.expect(FrameKind::Sync).await;
    peer.refuse(&doubt, ErrorCode::Ahead).await;
    peer.sync_page(&second, vec![]).await;
    assert_eq!(peer.expect(FrameKind::Sync).await.cursor(), b"");
}

#[tokio::test]
async fn a_gap_that_a_lost_connection_left_is_pulled_although_the_next_sync_does_not_tell_of_it() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(4, 2)]).await;
    peer.expect(FrameKind::Pull).await;
    peer.cut();
    let mut peer = server.accept().await;
    peer.login(vec![]).await;
    let pull = peer.expect(FrameKind::Pull).await;
    assert_eq!(pull.range(), (3, 4));
    peer.pull_page(&pull, &[3, 4], 0, 4).await;
    assert_eq!(seqs(&mut events, 2).await, [3, 4]);
}
