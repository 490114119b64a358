//! A row that the server cannot serve costs that message and no other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use corelane_client::{Event, Events};
use corelane_protocol::frame::FrameKind;
use corelane_protocol::frame::error::ErrorCode;
use support::{Peer, Server, message, state, within};

const HEAD: u64 = 300;

/// Answers pulls as the router does until the head was asked for: a read that meets a damaged row is refused as a whole.
/// Returns how many there were.
async fn serve(peer: &mut Peer, damaged: &[u64]) -> usize {
    let mut pulls = 0;
    loop {
        let pull = peer.expect(FrameKind::Pull).await;
        pulls += 1;
        let (from, to) = pull.range();
        let last = to.min(from + u64::from(pull.limit()) - 1);
        let seqs: Vec<u64> = (from..=last).collect();
        let meets = seqs.iter().any(|seq| damaged.contains(seq));
        if meets {
            peer.refuse(&pull, ErrorCode::Rejected).await;
        } else {
            peer.pull_page(&pull, &seqs, if last < to { last + 1 } else { 0 }, HEAD)
                .await;
        }
        if last == HEAD && (!meets || seqs.len() == 1) {
            return pulls;
        }
    }
}

/// All places up to and with `last`, and how many errors came before it.
async fn shown(events: &mut Events, last: u64) -> (Vec<u64>, usize) {
    let (mut seqs, mut errors) = (Vec::new(), 0);
    loop {
        match within(events.next()).await.unwrap() {
            Event::Message(message, _) => {
                seqs.push(message.seq());
                if message.seq() == last {
                    return (seqs, errors);
                }
            }
            Event::Error { .. } => errors += 1,
            _ => {}
        }
    }
}

#[tokio::test]
async fn all_but_the_damaged_rows_of_a_gap_are_shown() {
    for damaged in [&[7][..], &[1], &[HEAD], &[2, 3, 4], &[1, 150, 151, 299]] {
        let server = Server::start().await;
        let (_client, mut events, mut peer) = server.client(server.options(), vec![state(HEAD, 0)]).await;
        let pulls = serve(&mut peer, damaged).await;
        assert!(pulls <= 3 + 20 * damaged.len(), "{pulls} pulls for {damaged:?}");
        peer.say(message(HEAD + 1)).await;
        let (seqs, errors) = shown(&mut events, HEAD + 1).await;
        let expected: Vec<u64> = (1..=HEAD + 1).filter(|seq| !damaged.contains(seq)).collect();
        assert_eq!((seqs, errors), (expected, damaged.len()));
    }
}

#[tokio::test]
async fn a_table_that_is_damaged_from_end_to_end_is_not_asked_for_eight_times_as_often() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(HEAD, 0)]).await;
    let all: Vec<u64> = (1..=HEAD).collect();
    let pulls = serve(&mut peer, &all).await;
    assert!(pulls < 320, "{pulls} pulls");
    peer.say(message(HEAD + 1)).await;
    assert_eq!(shown(&mut events, HEAD + 1).await, (vec![HEAD + 1], all.len()));
}

#[tokio::test]
async fn a_refusal_of_the_whole_conversation_skips_it_at_once() {
    let server = Server::start().await;
    let (_client, mut events, mut peer) = server.client(server.options(), vec![state(9, 0)]).await;
    let pull = peer.expect(FrameKind::Pull).await;
    peer.refuse(&pull, ErrorCode::NotMember).await;
    peer.say(message(10)).await;
    assert_eq!(shown(&mut events, 10).await, (vec![10], 1));
}
