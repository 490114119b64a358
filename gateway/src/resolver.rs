//! Names of routers become addresses beside the shard: a lookup may take many seconds, and a shard waits for nobody.
//!
//! Owns at most one lookup at a time, on a thread of its own that wakes the shard when it is done. A second name while
//! one is looked up is refused: the link is tried again later. Each result is used once, so that a name that moves is
//! followed; of several addresses each attempt takes the next.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use corelane_gateway_core::event::LinkId;
use corelane_net::Waker;

type Lookup = dyn Fn(&str) -> Vec<SocketAddr> + Send + Sync;

/// The lookups of one shard.
pub struct Resolver {
    lookup: Arc<Lookup>,
    waker: Waker,
    sender: Sender<Vec<SocketAddr>>,
    results: Receiver<Vec<SocketAddr>>,
    /// The name that is being looked up, and who wants it.
    pending: Option<(String, Option<LinkId>)>,
    /// Which of several addresses is next.
    turn: usize,
}

impl Resolver {
    /// Asks the system; `waker` wakes the shard. `turn` spreads shards over the addresses of one name.
    pub fn new(waker: Waker, turn: usize) -> Self {
        Self::with_lookup(waker, turn, |name| {
            name.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
        })
    }

    fn with_lookup(
        waker: Waker,
        turn: usize,
        lookup: impl Fn(&str) -> Vec<SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        let (sender, results) = channel();
        Self {
            lookup: Arc::new(lookup),
            waker,
            sender,
            results,
            pending: None,
            turn,
        }
    }

    /// Begins to look up `name` for `link`. False if it cannot: another name is being looked up.
    pub fn begin(&mut self, link: LinkId, name: &str) -> bool {
        if let Some((pending, wanted)) = &mut self.pending {
            let is_same = pending == name;
            if is_same {
                *wanted = Some(link);
            }
            return is_same;
        }
        let (lookup, sender, waker) = (Arc::clone(&self.lookup), self.sender.clone(), self.waker.clone());
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        let owned = name.to_owned();
        let started = thread.spawn(move || {
            let _ = sender.send(lookup(&owned));
            waker.wake();
        });
        if started.is_ok() {
            self.pending = Some((name.to_owned(), Some(link)));
        }
        started.is_ok()
    }

    /// `link` does not want its result any more. Returns whether it waited for one.
    pub fn abandon(&mut self, link: LinkId) -> bool {
        match &mut self.pending {
            Some((_, wanted)) if *wanted == Some(link) => wanted.take().is_some(),
            _ => false,
        }
    }

    /// The result of a lookup that is done: for whom, and an address if the name has any.
    pub fn take(&mut self) -> Option<(LinkId, Option<SocketAddr>)> {
        self.pending.as_ref()?;
        let found = self.results.try_recv().ok()?;
        let (name, wanted) = self.pending.take()?;
        let address = found.get(self.turn % found.len().max(1)).copied();
        self.turn = self.turn.wrapping_add(1);
        if address.is_none() {
            tracing::warn!(name, "router has no address");
        }
        Some((wanted?, address))
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use corelane_net::{Engine, EngineConfig, Event};

    use super::*;

    /// A resolver whose lookups end when told, with the addresses told.
    fn resolver() -> (Engine, Resolver, Sender<Vec<SocketAddr>>) {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let (told, answers) = channel();
        let answers = Mutex::new(answers);
        let lookup = move |_: &str| {
            let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.recv().unwrap()
        };
        let resolver = Resolver::with_lookup(engine.waker(), 0, lookup);
        (engine, resolver, told)
    }

    /// What the shard finds when it is woken.
    fn woken(engine: &mut Engine, resolver: &mut Resolver) -> Option<(LinkId, Option<SocketAddr>)> {
        let mut events = Vec::new();
        engine.turn(Duration::from_secs(10), &mut events).unwrap();
        assert_eq!(events, [Event::Woken]);
        resolver.take()
    }

    #[test]
    fn a_slow_lookup_is_not_waited_for_and_wakes_the_shard() {
        let (mut engine, mut resolver, told) = resolver();
        let one = SocketAddr::from(([10, 0, 0, 1], 7090));
        assert!(resolver.begin(LinkId(1), "router:7090"));
        assert_eq!(resolver.take(), None);
        assert!(!resolver.begin(LinkId(2), "other:7090"), "one at a time");
        told.send(vec![one]).unwrap();
        assert_eq!(woken(&mut engine, &mut resolver), Some((LinkId(1), Some(one))));
    }

    #[test]
    fn attempts_take_the_addresses_in_turn() {
        let (mut engine, mut resolver, told) = resolver();
        let addresses = [1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], 7090)));
        for attempt in 0..4 {
            assert!(resolver.begin(LinkId(attempt), "router:7090"));
            told.send(addresses.to_vec()).unwrap();
            let expected = addresses[attempt as usize % 2];
            assert_eq!(
                woken(&mut engine, &mut resolver),
                Some((LinkId(attempt), Some(expected)))
            );
        }
    }

    #[test]
    fn an_attempt_that_was_given_up_gets_no_result_and_the_next_one_gets_it() {
        let (mut engine, mut resolver, told) = resolver();
        assert!(resolver.begin(LinkId(1), "router:7090"));
        assert!(resolver.abandon(LinkId(1)) && !resolver.abandon(LinkId(1)));
        assert!(resolver.begin(LinkId(2), "router:7090"));
        told.send(Vec::new()).unwrap();
        assert_eq!(woken(&mut engine, &mut resolver), Some((LinkId(2), None)));
        assert!(resolver.begin(LinkId(3), "router:7090"));
        assert!(resolver.abandon(LinkId(3)));
        told.send(Vec::new()).unwrap();
        assert_eq!(woken(&mut engine, &mut resolver), None);
    }
}
