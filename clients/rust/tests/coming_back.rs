//! Close codes and `GoAway` decide whether and when a client comes back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use corelane_client::{Client, ClientError, Event, Events, RawClient, RawItem, TargetId};
use corelane_protocol::frame::{Frame, FrameKind, body, encode};
use corelane_protocol::terminal::Terminal;
use support::{Server, conv, state, until_synced, user, within};

async fn ended(events: &mut Events) -> Event {
    loop {
        let event = within(events.next()).await.unwrap();
        if matches!(event, Event::Offline { .. } | Event::Closed { .. }) {
            return event;
        }
    }
}

#[tokio::test]
async fn codes_below_4500_and_lost_connections_come_back() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    for code in [4000, 4001, 4002, 4003, 4004, 4006, 4007, 4499, 1001, 1012] {
        peer.close(code).await;
        let Event::Offline { code: told, .. } = ended(&mut events).await else {
            panic!("{code} gave up")
        };
        assert_eq!(told, code);
        peer = server.accept().await;
        peer.login(vec![]).await;
        until_synced(&mut events).await;
    }
    peer.cut();
    assert!(matches!(
        ended(&mut events).await,
        Event::Offline { code: 1006, .. }
    ));
    server.accept().await.login(vec![]).await;
}

#[tokio::test]
async fn codes_from_4500_give_up_and_fail_what_waits() {
    for code in [4500, 4501, 4502, 4503, 4504, 4505, 4999] {
        let server = Server::start().await;
        let (client, mut events, mut peer) = server.client(server.options(), vec![]).await;
        let ack = client.send_text(TargetId::User(user("bob")), "a").await.unwrap();
        peer.expect(FrameKind::Send).await;
        peer.close(code).await;
        assert_eq!(
            ended(&mut events).await,
            Event::Closed {
                code,
                reason: "bye".to_owned()
            }
        );
        assert!(matches!(within(ack).await, Err(ClientError::Closed { code: told, .. }) if told == code));
        assert!(within(events.next()).await.is_none());
        assert!(client.send_text(TargetId::User(user("bob")), "b").await.is_err());
    }
}

#[tokio::test]
async fn a_first_login_that_is_refused_is_told_at_once() {
    let server = Server::start().await;
    let refuse = async {
        let mut peer = server.accept().await;
        peer.expect(FrameKind::Hello).await;
        peer.close(4500).await;
    };
    let (connected, ()) = tokio::join!(within(Client::connect(server.options())), refuse);
    assert!(matches!(connected, Err(ClientError::Closed { code: 4500, .. })));
}

#[tokio::test]
async fn a_token_that_expires_twice_is_given_up_and_a_newer_one_is_used() {
    let server = Server::start().await;
    let (client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    client.refresh_token("newer").await.unwrap();
    peer.expect(FrameKind::RefreshToken).await;
    peer.close(4005).await;
    assert!(matches!(
        ended(&mut events).await,
        Event::Offline { code: 4005, .. }
    ));
    let mut peer = server.accept().await;
    let hello = peer.expect(FrameKind::Hello).await;
    let frame = hello.frame();
    let hello = frame.access::<body::ArchivedHello>().unwrap();
    assert_eq!(
        (hello.token.as_str(), hello.terminal),
        ("newer", Terminal::Bot as u8)
    );
    peer.close(4005).await;
    assert!(matches!(
        ended(&mut events).await,
        Event::Closed { code: 4005, .. }
    ));
}

#[tokio::test]
async fn go_away_moves_the_client() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    peer.say(encode(
        FrameKind::GoAway,
        0,
        &body::GoAway {
            after_ms: 10,
            window_ms: 10,
        },
    ))
    .await;
    peer.closed().await;
    assert!(matches!(
        ended(&mut events).await,
        Event::Offline { code: 4000, .. }
    ));
    server.accept().await.login(vec![]).await;
    until_synced(&mut events).await;
}

#[tokio::test]
async fn without_auto_reconnect_the_first_close_is_the_end() {
    let server = Server::start().await;
    let mut options = server.options();
    options.auto_reconnect = false;
    let (_client, mut events, peer) = server.client(options, vec![]).await;
    peer.close(4000).await;
    assert!(matches!(
        ended(&mut events).await,
        Event::Closed { code: 4000, .. }
    ));
}

#[tokio::test]
async fn close_is_final_and_says_so_to_the_server() {
    let server = Server::start().await;
    let (client, mut events, mut peer) = server.client(server.options(), vec![]).await;
    let closing = async {
        client.close().await;
    };
    tokio::join!(within(closing), peer.closed());
    assert!(matches!(ended(&mut events).await, Event::Closed { code: 0, .. }));
}

#[tokio::test]
async fn requests_get_their_answers() {
    let server = Server::start().await;
    let (client, _events, mut peer) = server.client(server.options(), vec![]).await;
    let id = conv();
    let serve = async {
        let sync = peer.expect(FrameKind::Sync).await;
        peer.sync_page(&sync, vec![state(3, 3)]).await;
        let pull = peer.expect(FrameKind::Pull).await;
        peer.pull_page(&pull, &[1, 2], 3, 3).await;
        let read = peer.expect(FrameKind::Read).await;
        let mark = body::ReadUpTo {
            conv: conv().as_bytes().to_vec(),
            whose: "alice".to_owned(),
            seq: 2,
            n: 2,
        };
        peer.say(encode(FrameKind::ReadUpTo, read.reference, &mark)).await;
    };
    let ask = async {
        let states = client.sync_all().await.unwrap();
        let page = client.pull(&id, 1, u64::MAX, 2).await.unwrap();
        (states, page, client.read(&id, 2).await.unwrap())
    };
    let ((states, page, mark), ()) = tokio::join!(within(ask), serve);
    assert_eq!(states, [state(3, 3)]);
    assert_eq!((page.next_seq, page.messages.len()), (3, 2));
    assert_eq!(mark.seq, 2);
}

#[tokio::test]
async fn a_raw_client_carries_frames_and_tells_the_close_code() {
    let server = Server::start().await;
    let url = server.options().url;
    let serve = async {
        let mut peer = server.accept().await;
        peer.welcome().await;
        peer.close(4504).await;
    };
    let talk = async {
        let mut raw = RawClient::connect(&url, Some("token")).await.unwrap();
        let hello = body::Hello {
            token: String::new(),
            terminal: 6,
            device: String::new(),
            epoch: 0,
        };
        raw.send(encode(FrameKind::Hello, 9, &hello)).await.unwrap();
        let RawItem::Frame(welcome) = raw.next().await else {
            panic!("no frame")
        };
        assert_eq!(Frame::parse(&welcome).unwrap().reference, 9);
        assert_eq!(
            raw.next().await,
            RawItem::Closed {
                code: 4504,
                reason: "bye".to_owned()
            }
        );
    };
    tokio::join!(within(talk), serve);
}
