//! Everything of a run: virtual time, the queue of what happens, and the faults.
//!
//! Events of the same moment happen in the order in which they were made, so a seed is a run. Faults happen until
//! [`CALM_AT`] (`fault.rs`); then everything settles and `check` looks at it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use corelane_gateway_core::Shard;
use corelane_gateway_core::event::{Input as ShardInput, LinkId, ShardMessage};
use corelane_protocol::id::{ConvId, GroupId, Lane, UserId};
use corelane_protocol::link::codec::LinkSecret;
use corelane_protocol::terminal::Terminal as Class;
use corelane_protocol::time::Now;
use corelane_router_core::append::Committed;
use corelane_router_core::event::Input;

use crate::bus::Partition;
use crate::claims::{Claimant, Kept};
use crate::gateway::Socket;
use crate::link::Link;
use crate::member::Step;
use crate::pause::Standing;
use crate::persist::Begun;
use crate::process::Process;
use crate::registry::{Memory, Registry, Session};
use crate::rng::Rng;
use crate::router::{Question, Router};
use crate::shape::{Faults, Shape};
use crate::store::Store;
use crate::terminal::Terminal;

/// Faults end here.
pub(crate) const CALM_AT: u64 = 5_000_000;
/// Everybody says something more, if records may have been lost.
const LAST_WORDS_AT: u64 = CALM_AT + 8_000_000;
/// Everybody asks for the state of all his conversations.
const LAST_LOOK_AT: u64 = CALM_AT + 25_000_000;
/// The store's clock runs so many times faster, so that buckets of the recent index pass: two a second.
const STORE_CLOCK_PACE: u64 = 600;
/// The run ends here.
const END_AT: u64 = CALM_AT + 30_000_000;
/// Partitions of a topic.
pub(crate) const PARTITIONS: u16 = 2;
/// Most events of a run: more means that something goes round in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    Wake(usize),
    /// A socket that a client opened reaches its shard.
    Accepted(usize),
    Inbox(usize, ShardMessage),
    /// Bytes of a client reach its shard.
    Bytes(usize, Vec<u8>),
    Fin(usize),
    /// A span has left a shard.
    Left(usize, Vec<u8>),
    SocketGone(usize),
    /// Bytes reach a client.
    Down(usize, Vec<u8>),
    Hangup(usize),
    /// A shard connects a link to an address.
    LinkUp(usize, LinkId, String),
    LinkSent(usize, LinkId),
    LinkIn(usize, Vec<u8>),
    LinkOut(usize, Vec<u8>),
    LinkLost(usize, LinkId),
    NewBoot(usize, u64),
    /// Who stood still goes on.
    GoOn(Standing),
    Reap(u32),
    /// A transaction that began with this.
    Apply(u32, Box<Begun>),
    Committed(u32, Lane, Committed),
    /// A row that no commit announced is found.
    Stray(u32, u64),
    /// A router looks for what became of its commits of unknown outcome.
    Settle(u32),
    Ask(u32, Question),
    Core(u32, Box<Input>),
    Claim(usize, UserId, Session),
    Unclaim(usize, UserId, Session),
    /// A session says that it holds its route.
    Owned(usize, UserId, Session),
    ClaimsBegin(usize),
    ClaimsDone(usize, u64),
    /// A gateway gives its boot up.
    Leave(usize),
    Request(usize, crate::request::Request),
    Bounced(u32, ConvId, u64, Vec<UserId>),
    /// A record with its partition and number reaches the bus; what waits to be taken is counted by the last.
    Append(u32, (u64, u16, u64), Arc<[u8]>, u64),
    TopicLost(u32, u64),
    /// A partition that stood still goes on.
    Flow(u64, u16),
    /// The membership of a router goes on.
    Member(u32, Step),
    /// A router finds that the registry forgot something.
    Noticed(u32),
    /// A router looks for rows of the dead.
    Sweep(u32),
    /// It publishes the rows of these.
    Adopt(u32, Vec<u64>),
    Crash(u32),
    /// A router that left in order ends.
    Stop(u32),
    /// A router, by its place, starts.
    Restart(usize),
    /// A gateway process starts anew.
    Reborn(usize),
    /// The registry as it is now is what it may come back with.
    Snapshot,
    Act(usize),
    Login(usize),
    Resend(usize, ConvId),
    /// A terminal asks again: syncs, or pulls a conversation.
    AskAgain(usize, usize, Option<ConvId>),
    Fault,
    Calm,
    LastOverflow,
    LastWords,
    /// A terminal asks for the state of all its conversations.
    Look(usize),
}

/// A shard and who it is.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) shard: Shard,
    pub(crate) process: usize,
    pub(crate) number: u16,
    pub(crate) dirty: bool,
    pub(crate) wake_at: u64,
    pub(crate) next_slot: u32,
    /// Slots whose sockets are gone, with their next generations.
    pub(crate) free_slots: Vec<(u32, u32)>,
    pub(crate) inbox_at: u64,
}

/// What a terminal was told is stored.
#[derive(Debug)]
pub(crate) struct Acked {
    pub(crate) conv: ConvId,
    pub(crate) terminal: usize,
    pub(crate) id: [u8; 16],
    pub(crate) seq: u64,
    pub(crate) payload: Vec<u8>,
}

/// The cluster.
pub(crate) struct World {
    pub(crate) now: u64,
    next_event: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) rng: Rng,
    pub(crate) shape: Shape,
    pub(crate) faults: Faults,
    pub(crate) calm: bool,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) processes: Vec<Process>,
    pub(crate) last_boot: u64,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) links: Vec<Link>,
    pub(crate) terminals: Vec<Terminal>,
    pub(crate) users: Vec<UserId>,
    pub(crate) group: ConvId,
    pub(crate) store: Store,
    pub(crate) routers: Vec<Router>,
    /// Conversations that routers which ended did not see whole, by the life that wrote them.
    pub(crate) dead_doubts: BTreeSet<(u32, ConvId)>,
    /// Kicks that ended with their router, and may have reached nobody.
    pub(crate) lost_kicks: Vec<Kept>,
    /// Sessions whose claims were refused.
    pub(crate) refused: BTreeSet<Claimant>,
    /// Sockets of sessions that had no route, and nothing but that to be told so by.
    pub(crate) unexplained: BTreeSet<usize>,
    /// Lives of all routers are counted together.
    pub(crate) last_life: u32,
    pub(crate) registry: Registry,
    /// What the registry may come back with.
    pub(crate) snapshot: Memory,
    pub(crate) topics: BTreeMap<(u64, u16), Partition>,
    pub(crate) last_append: u64,
    /// Nobody can be looked up before.
    pub(crate) lookups_from: u64,
    /// The next record finds no room: one that maybe nothing comes after.
    pub(crate) last_overflow: bool,
    /// When something was last published that its receivers may have, or that comes behind what followed it: from then on
    /// the connections that there are may get it so. It was looked up who gets it, so later ones do not.
    pub(crate) disturbed_at: u64,
    /// The same of what is sent again, or late, under its old number: that may only come behind what followed it.
    pub(crate) reordered_at: u64,
    pub(crate) next_api: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: crate::Counts,
    pub(crate) acked: Vec<Acked>,
    pub(crate) trace: bool,
}

impl World {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let faults = Faults::draw(shape, &mut rng);
        let user = |name: &str| UserId::new(name).expect("a short name");
        let users = vec![user("floater"), user("alice"), user("bob"), user("carol")];
        let group = ConvId::group(&GroupId::new("team").expect("a short name"));
        let terminals = [
            (0, Class::Web, "a"),
            (1, Class::Web, "a"),
            (1, Class::Desktop, "b"),
            (1, Class::Desktop, "c"),
            (2, Class::Web, "a"),
            (2, Class::Ios, "b"),
            (3, Class::Web, "a"),
        ];
        let terminals = terminals
            .iter()
            .enumerate()
            .map(|(index, (owner, class, device))| Terminal::new(index, *owner, *class, device, &mut rng))
            .collect();
        let mut world = Self {
            now: 0,
            next_event: 0,
            events: BTreeMap::new(),
            rng,
            shape,
            faults,
            calm: false,
            gateways: Vec::new(),
            processes: Vec::new(),
            last_boot: 100,
            sockets: Vec::new(),
            links: Vec::new(),
            terminals,
            users,
            group,
            store: Store::default(),
            routers: shape.routers().iter().map(|node| Router::new(node)).collect(),
            dead_doubts: BTreeSet::new(),
            lost_kicks: Vec::new(),
            refused: BTreeSet::new(),
            unexplained: BTreeSet::new(),
            last_life: 0,
            registry: Registry::default(),
            snapshot: Memory::default(),
            topics: BTreeMap::new(),
            last_append: 0,
            lookups_from: 0,
            last_overflow: false,
            disturbed_at: 0,
            reordered_at: 0,
            next_api: 1,
            violations: Vec::new(),
            counts: crate::Counts::default(),
            acked: Vec::new(),
            trace: std::env::var_os("CORELANE_SIM_TRACE").is_some(),
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.make_gateways();
        self.start_routers();
        self.make_group();
        for shard in 0..self.gateways.len() {
            self.wake_first(shard);
        }
        for terminal in 0..self.terminals.len() {
            let wait = self.rng.between(100_000, 400_000);
            self.after(wait, Event::Login(terminal));
            self.after(wait, Event::Act(terminal));
            self.after(LAST_LOOK_AT, Event::Look(terminal));
        }
        self.after(500_000, Event::Fault);
        if self.faults.registry_forgets {
            self.after(0, Event::Snapshot);
        }
        self.after(CALM_AT, Event::Calm);
        let wait = self.rng.between(0, 3_000_000);
        self.after(CALM_AT + wait, Event::LastOverflow);
        self.after(LAST_WORDS_AT, Event::LastWords);
    }

    pub(crate) fn clock(&self) -> Now {
        at(self.now)
    }

    /// The store's time, in ms since 1970.
    pub(crate) fn store_ms(&self) -> u64 {
        at(0).wall_ms + self.now / 1000 * STORE_CLOCK_PACE
    }

    pub(crate) fn after(&mut self, wait: u64, event: Event) {
        self.at_time(self.now + wait, event);
    }

    pub(crate) fn at_time(&mut self, time: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((time.max(self.now), self.next_event), event);
    }

    /// Takes back what was to happen.
    pub(crate) fn call_off(&mut self, is_over: impl Fn(&Self, &Event) -> bool) {
        let mut events = std::mem::take(&mut self.events);
        let world = &*self;
        events.retain(|_, event| !is_over(world, &*event));
        self.events = events;
    }

    /// A delay of the network or of a port: mostly short, sometimes long while there are faults.
    pub(crate) fn delay(&mut self) -> u64 {
        if !self.calm && self.rng.chance(self.shape.slow_per_mille()) {
            self.rng.between(20_000, 300_000)
        } else {
            self.rng.between(200, 4_000)
        }
    }

    /// One of the registry, on what a lease depends: far shorter than that.
    pub(crate) fn registry_delay(&mut self) -> u64 {
        self.rng.between(200, 15_000)
    }

    pub(crate) fn violation(&mut self, text: String) {
        if self.violations.len() < 20 {
            self.violations.push(format!("{:>9} us: {text}", self.now));
        }
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) {
        let mut count = 0;
        while let Some(((time, _), event)) = self.events.pop_first() {
            if time > END_AT || !self.violations.is_empty() {
                break;
            }
            count += 1;
            if count > EVENTS_MAX {
                self.violation("the run does not settle".to_owned());
                break;
            }
            self.now = time;
            if self.trace {
                eprintln!("{time:>9} {}", crate::trace::line(&event));
            }
            self.happen(event);
            self.end_turns();
        }
        self.counts.events = count;
    }

    pub(crate) fn happen(&mut self, event: Event) {
        let Some(event) = self.hold(event) else { return };
        match event {
            Event::Wake(shard) => self.wake(shard),
            Event::Accepted(socket) => self.accepted(socket),
            Event::Inbox(shard, message) => self.inbox(shard, message),
            Event::Bytes(socket, bytes) => self.bytes(socket, bytes),
            Event::Fin(socket) => self.fin(socket),
            Event::Left(socket, bytes) => self.left(socket, bytes),
            Event::SocketGone(socket) => self.socket_gone(socket),
            Event::Down(socket, bytes) => self.down(socket, bytes),
            Event::Hangup(socket) => self.hangup(socket),
            Event::LinkUp(shard, id, address) => self.link_up(shard, id, &address),
            Event::LinkSent(shard, id) => self.link_sent(shard, id),
            Event::LinkIn(link, bytes) => self.link_in(link, &bytes),
            Event::LinkOut(link, bytes) => self.link_out(link, &bytes),
            Event::LinkLost(shard, id) => self.link_lost(shard, id),
            Event::NewBoot(shard, boot) => self.shard_input(shard, ShardInput::NewBoot(boot)),
            Event::GoOn(standing) => self.go_on(standing),
            Event::Act(terminal) => self.act(terminal),
            Event::Login(terminal) => self.login(terminal),
            Event::Resend(terminal, conv) => self.resend(terminal, &conv),
            Event::AskAgain(terminal, socket, conv) => self.ask_again(terminal, socket, conv),
            Event::Fault => self.fault(),
            Event::Calm => self.calm_down(),
            Event::LastOverflow => self.last_overflow = true,
            Event::LastWords => self.last_words(),
            Event::Look(terminal) => self.look(terminal),
            Event::Reborn(process) => self.reborn(process),
            other => self.happen_to_router(other),
        }
    }

    fn happen_to_router(&mut self, event: Event) {
        match event {
            Event::Reap(life) => self.reap(life),
            Event::Apply(life, begun) => self.apply(life, &begun),
            Event::Committed(life, lane, committed) => {
                self.core_input(life, Input::Committed(lane, committed));
            }
            Event::Stray(life, row) => self.stray(life, row),
            Event::Settle(life) => self.settle(life),
            Event::Ask(life, question) => self.ask(life, question),
            Event::Core(life, input) => self.core_input(life, *input),
            Event::Claim(link, user, session) => self.claim(link, &user, session),
            Event::Unclaim(link, user, session) => self.unclaim(link, user, &session),
            Event::Owned(link, user, session) => self.compare(link, &user, &session),
            Event::ClaimsBegin(link) => self.claims_begin(link),
            Event::ClaimsDone(link, up_to) => self.claims_done(link, up_to),
            Event::Leave(link) => self.gateway_left(link),
            Event::Request(link, request) => self.answer_request(link, &request),
            Event::Bounced(life, conv, seq, users) => self.bounced(life, conv, seq, users),
            Event::Append(life, to, record, token) => self.append(life, to, record, token),
            Event::TopicLost(life, boot) => self.topic_lost(life, boot),
            Event::Flow(boot, partition) => self.flow(boot, partition),
            Event::Member(life, step) => self.member(life, step),
            Event::Noticed(life) => self.noticed(life),
            Event::Sweep(life) => self.sweep(life),
            Event::Adopt(life, dead) => self.adopt(life, &dead),
            Event::Crash(life) => self.crash(life),
            Event::Stop(life) => self.stop(life),
            Event::Restart(router) => self.start_router(router),
            Event::Snapshot => self.take_snapshot(),
            other => unreachable!("{other:?} happens to no router"),
        }
    }

    fn calm_down(&mut self) {
        // What a router stored last and did not publish nobody mentions again.
        if self.faults.router && self.rng.chance(400) {
            let router = self.rng.below(self.routers.len() as u64) as usize;
            self.crash_router(router);
        }
        self.calm = true;
        for terminal in 0..self.terminals.len() {
            self.after(50_000, Event::Login(terminal));
        }
        self.see_to_a_router();
    }

    fn last_words(&mut self) {
        if !self.faults.bus_loses {
            return;
        }
        for terminal in 0..self.terminals.len() {
            let owner = self.terminals[terminal].owner;
            let user = self.users[owner].clone();
            for conv in self.store.conversations(&user) {
                if !(conv.is_group() && owner == 0) {
                    self.say(terminal, conv);
                }
            }
        }
        self.call_all_partitions();
    }
}

/// The time of the cores.
pub(crate) fn at(us: u64) -> Now {
    Now {
        mono: Duration::from_secs(100) + Duration::from_micros(us),
        wall_ms: 1_700_000_000_000 + us / 1000,
    }
}

/// What both ends of a link know.
pub(crate) fn secret() -> LinkSecret {
    LinkSecret {
        key_id: 1,
        key: b"secret of the simulation".to_vec(),
    }
}
