//! Two people who chat while somebody else misbehaves: the proof that nobody else is harmed and nothing is left over.
//!
//! What is left over shows in three places: the gauges of the gateway (connections, sessions, queued bytes), the
//! sockets and rings of its engines, and the descriptors of its process.

use std::time::Duration;

use crate::client::{Client, Received, to_user};
use crate::{Gateway, wait_for};

/// A round trip of bystanders may take this long, whatever others do.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a start that finds messages which may not have been delivered, sessions have 3 s to come back before anything
/// is delivered.
const PATIENCE_FIRST: Duration = Duration::from_secs(6);
/// How long the gateway may take to let go of peers that are gone: it waits 5 s for their close frame and 2 s for
/// their FIN.
const LET_GO: Duration = Duration::from_secs(15);

/// The two.
#[derive(Debug)]
pub struct Bystanders {
    one: Client,
    other: Client,
    /// Place of the last thing said, 0 if nothing was.
    last: u64,
    before: Held,
}

/// What a gateway holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    connections: u64,
    sessions: u64,
    queued_bytes: u64,
    /// Sockets beside those of the links, one per shard.
    sockets: u64,
    rings: u64,
    descriptors: usize,
}

impl Bystanders {
    /// They log in, and what the gateway holds with them alone is noted.
    pub fn arrive(gateway: &Gateway) -> Self {
        let mut bystanders = Self {
            one: Client::login(gateway, "bystander-1"),
            other: Client::login(gateway, "bystander-2"),
            last: 0,
            before: Held::by(gateway),
        };
        bystanders.before = wait_for("a quiet gateway", LET_GO, || {
            bystanders.chat_within(PATIENCE_FIRST);
            let held = Held::by(gateway);
            let alone = (held.connections, held.sessions, held.sockets) == (2, 2, 2);
            (alone && held.queued_bytes == 0).then_some(held)
        });
        bystanders
    }

    /// One more ring may be there at the end: an engine that was full made it, and keeps it. It is one descriptor.
    pub fn allow_one_more_ring(&mut self) {
        self.before.rings += 1;
        self.before.descriptors += 1;
    }

    /// Each says something to the other: acknowledged, and received in its place.
    ///
    /// # Panics
    ///
    /// If that fails or takes longer than 2 s.
    pub fn chat(&mut self) {
        self.chat_within(PATIENCE);
    }

    fn chat_within(&mut self, patience: Duration) {
        let began = crate::now();
        let (one, other) = (&mut self.one, &mut self.other);
        say(one, other, "bystander-2", &mut self.last);
        say(other, one, "bystander-1", &mut self.last);
        let took = crate::now().saturating_duration_since(began);
        assert!(took < patience, "the bystanders waited {took:?}");
    }

    /// They still chat, the process stands, and nothing is left of anybody else.
    ///
    /// # Panics
    ///
    /// If not, within 15 s.
    pub fn are_alone_and_well(&mut self, gateway: &Gateway) {
        let mut seen = None;
        let before = self.before;
        let deadline = crate::now() + LET_GO;
        loop {
            // Chatting keeps them alive where the heartbeat is short.
            self.chat();
            let held = Held::by(gateway);
            if held.is_at_most(&before) {
                return;
            }
            assert!(
                crate::now() < deadline,
                "left over: {held:?}, was {before:?} (a moment ago {seen:?})"
            );
            seen = Some(held);
        }
    }
}

/// `from` says something to `to`, whose name is given; `last` is the place of what was said before.
fn say(from: &mut Client, to: &mut Client, name: &str, last: &mut u64) {
    let text = format!("after {last}");
    let reference = from.send(&to_user(name), &text);
    let acked = from.answer(reference).expect("bystanders are served");
    assert!(*last == 0 || acked == *last + 1, "{acked} came after {last}");
    *last = acked;
    let Received { seq, payload, .. } = to.message();
    assert_eq!((seq, payload), (acked, text.into_bytes()));
}

impl Held {
    fn by(gateway: &Gateway) -> Self {
        let text = gateway.get("/metrics").expect("metrics are served");
        let sum = |name: &str| crate::http::sum(&text, name);
        let shards = text.matches("corelane_gateway_connections{").count() as u64;
        Self {
            connections: sum("corelane_gateway_connections"),
            sessions: sum("corelane_gateway_sessions"),
            queued_bytes: sum("corelane_gateway_queued_bytes"),
            sockets: sum("corelane_net_sockets").saturating_sub(shards),
            rings: sum("corelane_net_rings"),
            descriptors: gateway.process.descriptors(),
        }
    }

    /// Less memory and fewer descriptors than before are no leak.
    fn is_at_most(&self, before: &Self) -> bool {
        self.connections == before.connections
            && self.sessions == before.sessions
            && self.queued_bytes <= before.queued_bytes
            && self.sockets == before.sockets
            && self.rings <= before.rings
            && self.descriptors <= before.descriptors
    }
}
