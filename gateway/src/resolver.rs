//! Names of routers become addresses beside the shard: a lookup may take many seconds, and a shard waits for nobody.
//!
//! Owns at most `LOOKUPS_MAX` lookups at a time, each on a thread of its own that wakes the shard when it is done. One
//! more is refused: its link is tried again later. Each result is used once, so that a name that moves is followed; of
//! several addresses of a name each attempt takes the next.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use corelane_gateway_core::event::LinkId;
use corelane_net::Waker;

/// Most lookups at a time: one slow name server must not cost a thread per router.
const LOOKUPS_MAX: usize = 8;
/// Names whose next address is remembered. When there are more, all begin anew.
const NAMES_MAX: usize = 256;

type Lookup = dyn Fn(&str) -> Vec<SocketAddr> + Send + Sync;

/// The lookups of one shard.
pub struct Resolver {
    lookup: Arc<Lookup>,
    waker: Waker,
    sender: Sender<(u64, Vec<SocketAddr>)>,
    results: Receiver<(u64, Vec<SocketAddr>)>,
    pending: Vec<Pending>,
    last_number: u64,
    /// Which of several addresses of a name is next.
    turns: HashMap<String, usize>,
    /// Which of them is the first.
    first_turn: usize,
}

/// A name that is being looked up, and who wants it.
#[derive(Debug)]
struct Pending {
    number: u64,
    name: String,
    wanted: Option<LinkId>,
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
            pending: Vec::new(),
            last_number: 0,
            turns: HashMap::new(),
            first_turn: turn,
        }
    }

    /// Begins to look up `name` for `link`. False if it cannot: too many names are being looked up.
    pub fn begin(&mut self, link: LinkId, name: &str) -> bool {
        let is_left = |pending: &&mut Pending| pending.name == name && pending.wanted.is_none();
        if let Some(left) = self.pending.iter_mut().find(is_left) {
            left.wanted = Some(link);
            return true;
        }
        if self.pending.len() >= LOOKUPS_MAX {
            return false;
        }
        self.last_number += 1;
        let number = self.last_number;
        let (lookup, sender, waker) = (Arc::clone(&self.lookup), self.sender.clone(), self.waker.clone());
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        let owned = name.to_owned();
        let started = thread.spawn(move || {
            let _ = sender.send((number, lookup(&owned)));
            waker.wake();
        });
        if started.is_ok() {
            self.pending.push(Pending {
                number,
                name: name.to_owned(),
                wanted: Some(link),
            });
        }
        started.is_ok()
    }

    /// `link` does not want its result any more. Returns whether it waited for one.
    pub fn abandon(&mut self, link: LinkId) -> bool {
        let waits = |pending: &&mut Pending| pending.wanted == Some(link);
        let waiting = self.pending.iter_mut().find(waits);
        waiting.is_some_and(|pending| pending.wanted.take().is_some())
    }

    /// The result of a lookup that is done and wanted: for whom, and an address if the name has any. To be called until
    /// there is none.
    pub fn take(&mut self) -> Option<(LinkId, Option<SocketAddr>)> {
        while !self.pending.is_empty() {
            let (number, found) = self.results.try_recv().ok()?;
            let at = self.pending.iter().position(|pending| pending.number == number)?;
            let Pending { name, wanted, .. } = self.pending.swap_remove(at);
            let address = self.next_address(&name, &found);
            if address.is_none() {
                tracing::warn!(name, "router has no address");
            }
            if let Some(link) = wanted {
                return Some((link, address));
            }
        }
        None
    }

    fn next_address(&mut self, name: &str, found: &[SocketAddr]) -> Option<SocketAddr> {
        if self.turns.len() >= NAMES_MAX && !self.turns.contains_key(name) {
            self.turns.clear();
        }
        let turn = self.turns.entry(name.to_owned()).or_insert(self.first_turn);
        let address = found.get(*turn % found.len().max(1)).copied();
        *turn = turn.wrapping_add(1);
        address
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
    use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use corelane_net::{Engine, EngineConfig, Event};

    use super::*;

    /// What names are found to be, once told.
    #[derive(Default)]
    struct Answers {
        told: Mutex<Vec<(&'static str, Vec<SocketAddr>)>>,
        changed: Condvar,
    }

    impl Answers {
        fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, Vec<SocketAddr>)>> {
            self.told.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Ends one lookup of `name`.
        fn tell(&self, name: &'static str, addresses: &[SocketAddr]) {
            self.lock().push((name, addresses.to_vec()));
            self.changed.notify_all();
        }

        fn look_up(&self, name: &str) -> Vec<SocketAddr> {
            let mut told = self.lock();
            loop {
                if let Some(at) = told.iter().position(|(of, _)| *of == name) {
                    return told.remove(at).1;
                }
                told = self.changed.wait(told).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A resolver whose lookups end when told, with the addresses told.
    fn resolver() -> (Engine, Resolver, Arc<Answers>) {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let answers: Arc<Answers> = Arc::default();
        let asked = Arc::clone(&answers);
        let resolver = Resolver::with_lookup(engine.waker(), 0, move |name| asked.look_up(name));
        (engine, resolver, answers)
    }

    /// What the shard finds when it is woken.
    fn woken(engine: &mut Engine, resolver: &mut Resolver) -> Option<(LinkId, Option<SocketAddr>)> {
        let mut events = Vec::new();
        engine.turn(Duration::from_secs(10), &mut events).unwrap();
        assert_eq!(events, [Event::Woken]);
        resolver.take()
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7090))
    }

    #[test]
    fn a_slow_lookup_is_not_waited_for_and_wakes_the_shard() {
        let (mut engine, mut resolver, answers) = resolver();
        assert!(resolver.begin(LinkId(1), "router:7090"));
        assert_eq!(resolver.take(), None);
        answers.tell("router:7090", &[address(1)]);
        let found = Some((LinkId(1), Some(address(1))));
        assert_eq!(woken(&mut engine, &mut resolver), found);
    }

    #[test]
    fn a_slow_name_does_not_hold_up_another() {
        let (mut engine, mut resolver, answers) = resolver();
        assert!(resolver.begin(LinkId(1), "slow:7090") && resolver.begin(LinkId(2), "quick:7090"));
        answers.tell("quick:7090", &[address(2)]);
        let quick = Some((LinkId(2), Some(address(2))));
        assert_eq!(woken(&mut engine, &mut resolver), quick);
        answers.tell("slow:7090", &[address(1)]);
        let slow = Some((LinkId(1), Some(address(1))));
        assert_eq!(woken(&mut engine, &mut resolver), slow);
    }

    #[test]
    fn one_lookup_too_many_is_refused_until_another_is_done() {
        let (mut engine, mut resolver, answers) = resolver();
        for link in (0..).take(LOOKUPS_MAX) {
            assert!(
                resolver.begin(LinkId(link), "router:7090"),
                "two links may want one name"
            );
        }
        assert!(!resolver.begin(LinkId(99), "other:7090"));
        answers.tell("router:7090", &[address(1)]);
        assert!(woken(&mut engine, &mut resolver).is_some());
        assert!(resolver.begin(LinkId(99), "other:7090"));
        // The threads end when all is told.
        for _ in 1..LOOKUPS_MAX {
            answers.tell("router:7090", &[]);
        }
        answers.tell("other:7090", &[]);
    }

    #[test]
    fn attempts_take_the_addresses_of_their_name_in_turn() {
        let (mut engine, mut resolver, answers) = resolver();
        let mut look_up = |attempt, name: &'static str, addresses: &[SocketAddr]| {
            assert!(resolver.begin(LinkId(attempt), name));
            answers.tell(name, addresses);
            let (link, found) = woken(&mut engine, &mut resolver).unwrap();
            assert_eq!(link, LinkId(attempt));
            found
        };
        for attempt in 0..4 {
            let expected = address(1 + attempt % 2);
            let found = look_up(u32::from(attempt), "router:7090", &[address(1), address(2)]);
            assert_eq!(found, Some(expected));
            // Whatever else is looked up in between.
            let other = look_up(10 + u32::from(attempt), "other:7090", &[address(9)]);
            assert_eq!(other, Some(address(9)));
        }
    }

    #[test]
    fn an_attempt_that_was_given_up_gets_no_result_and_the_next_one_gets_it() {
        let (mut engine, mut resolver, answers) = resolver();
        assert!(resolver.begin(LinkId(1), "router:7090"));
        assert!(resolver.abandon(LinkId(1)) && !resolver.abandon(LinkId(1)));
        assert!(resolver.begin(LinkId(2), "router:7090"));
        answers.tell("router:7090", &[]);
        assert_eq!(woken(&mut engine, &mut resolver), Some((LinkId(2), None)));
        assert!(resolver.begin(LinkId(3), "router:7090"));
        assert!(resolver.abandon(LinkId(3)));
        answers.tell("router:7090", &[]);
        assert_eq!(woken(&mut engine, &mut resolver), None);
    }
}
