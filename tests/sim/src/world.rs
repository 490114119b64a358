//! Everything of a run: virtual time, the queue of what happens, and the faults.
//!
//! Events of the same moment happen in the order in which they were made, so a seed is a run. Faults happen until
//! [`CALM_AT`]; then everything settles and `check` looks at it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use corelane_gateway_core::event::{Input as ShardInput, LinkId, ShardMessage};
use corelane_gateway_core::{Shard, ShardConfig};
use corelane_protocol::id::{ConvId, GroupId, Lane, UserId};
use corelane_protocol::link::codec::LinkSecret;
use corelane_protocol::terminal::Terminal as Class;
use corelane_protocol::time::Now;
use corelane_router_core::RouterCore;
use corelane_router_core::append::{Batch, Committed};
use corelane_router_core::event::Input;

use crate::gateway::Socket;
use crate::pause::{LEASE_US, Process};
use crate::ports::{Partition, Registry, Session};
use crate::rng::Rng;
use crate::router::{Link, Question};
use crate::store::Store;
use crate::terminal::Terminal;

/// Shards begin here, in microseconds.
const FIRST_WAKE_AT: u64 = 1_000;
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
/// Lanes of the store.
pub(crate) const LANES: u16 = 4;
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
    LinkUp(usize, LinkId),
    LinkSent(usize, LinkId),
    LinkIn(usize, Vec<u8>),
    LinkOut(usize, Vec<u8>),
    LinkLost(usize, LinkId),
    NewBoot(usize, u64),
    /// A process that stood still goes on.
    GoOn(usize),
    Reap(u32),
    /// A transaction, with the store's time at its begin.
    Apply(u32, Batch, u64),
    Committed(u32, Lane, Committed),
    Ask(u32, Question),
    Core(u32, Box<Input>),
    Claim(usize, UserId, Session),
    Unclaim(usize, UserId, Session),
    ClaimsDone(usize),
    Request(usize, crate::router::Request),
    Bounced(u32, ConvId, u64, Vec<UserId>),
    Append(u32, u64, u16, u64, Arc<[u8]>),
    TopicLost(u32, u64),
    Crash(u32),
    Restart,
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

/// Which faults a run has; some have none of a class, so that what holds without it is checked, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) bus: bool,
    pub(crate) bus_loses: bool,
    /// Records that a gateway's topic holds; one more and all of them are lost.
    pub(crate) topic_records_max: usize,
    pub(crate) store: bool,
    pub(crate) router: bool,
    pub(crate) links: bool,
    pub(crate) readers: bool,
    pub(crate) logins: bool,
    pub(crate) pauses: bool,
    /// Nobody can be looked up for a while, now and then.
    pub(crate) lookups: bool,
}

impl Faults {
    fn draw(rng: &mut Rng) -> Self {
        let bus = rng.chance(500);
        Self {
            bus,
            bus_loses: bus && rng.chance(500),
            // A bus that holds little loses what it declares lost and nothing else.
            topic_records_max: if !bus && rng.chance(600) {
                rng.between(4, 24) as usize
            } else {
                usize::MAX
            },
            store: rng.chance(600),
            router: rng.chance(500),
            links: rng.chance(600),
            readers: rng.chance(500),
            logins: rng.chance(700),
            pauses: rng.chance(400),
            lookups: rng.chance(400),
        }
    }
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
    // One life of the router.
    pub(crate) core: Option<RouterCore>,
    pub(crate) life: u32,
    pub(crate) registry: Registry,
    pub(crate) topics: BTreeMap<(u64, u16), Partition>,
    pub(crate) left_conns: BTreeMap<(u64, u64), UserId>,
    pub(crate) locate_from: u64,
    /// Nobody can be looked up before.
    pub(crate) lookups_from: u64,
    /// Records that each outbox row waits for.
    pub(crate) rows_wait: BTreeMap<u64, BTreeSet<(u64, u16, u64)>>,
    /// The next record finds no room: one that maybe nothing comes after.
    pub(crate) last_overflow: bool,
    // What disturbed order or doubled, last.
    pub(crate) restarted_at: u64,
    pub(crate) bus_disturbed_at: u64,
    pub(crate) next_api: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: crate::Counts,
    pub(crate) acked: Vec<Acked>,
    pub(crate) trace: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let faults = Faults::draw(&mut rng);
        let queue_bytes_max = if faults.readers { 2048 } else { 256 * 1024 };
        let mut gateways = Vec::new();
        let processes = vec![Process::new(101), Process::new(102)];
        for (process, number, shards) in [(0, 0, 1), (1, 0, 2), (1, 1, 2)] {
            let boot = processes[process].boot;
            let config = ShardConfig {
                node: format!("gateway-{boot}"),
                boot,
                shards,
                link_secret: secret(),
                routers: vec!["router".to_owned()],
                heartbeat: Duration::from_mins(3),
                queue_bytes_max,
                send_deadline: Duration::from_secs(1),
                resync_spread: Duration::from_millis(300),
                link_retry: Duration::from_millis(20),
                link_silence: Duration::from_secs(4),
                lease: Duration::from_micros(LEASE_US),
                ..ShardConfig::default()
            };
            let shard = Shard::new(config, number, at(0));
            gateways.push(Gateway {
                shard,
                process,
                number,
                dirty: false,
                wake_at: FIRST_WAKE_AT,
                next_slot: 0,
                free_slots: Vec::new(),
                inbox_at: 0,
            });
        }
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
            faults,
            calm: false,
            gateways,
            processes,
            last_boot: 102,
            sockets: Vec::new(),
            links: Vec::new(),
            terminals,
            users,
            group,
            store: Store::default(),
            core: None,
            life: 0,
            registry: Registry::default(),
            topics: BTreeMap::new(),
            left_conns: BTreeMap::new(),
            locate_from: 0,
            lookups_from: 0,
            rows_wait: BTreeMap::new(),
            last_overflow: false,
            restarted_at: 0,
            bus_disturbed_at: 0,
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
        self.start_router();
        let members = self.users.clone();
        self.change_group(members, Vec::new(), true);
        for shard in 0..self.gateways.len() {
            self.after(FIRST_WAKE_AT, Event::Wake(shard));
        }
        for terminal in 0..self.terminals.len() {
            let wait = self.rng.between(100_000, 400_000);
            self.after(wait, Event::Login(terminal));
            self.after(wait, Event::Act(terminal));
            self.after(LAST_LOOK_AT, Event::Look(terminal));
        }
        self.after(500_000, Event::Fault);
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

    /// A delay of the network or of a port: mostly short, sometimes long while there are faults.
    pub(crate) fn delay(&mut self) -> u64 {
        if !self.calm && self.rng.chance(30) {
            self.rng.between(20_000, 300_000)
        } else {
            self.rng.between(200, 4_000)
        }
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
            Event::LinkUp(shard, id) => self.link_up(shard, id),
            Event::LinkSent(shard, id) => self.link_sent(shard, id),
            Event::LinkIn(link, bytes) => self.link_in(link, &bytes),
            Event::LinkOut(link, bytes) => self.link_out(link, &bytes),
            Event::LinkLost(shard, id) => self.link_lost(shard, id),
            Event::NewBoot(shard, boot) => self.shard_input(shard, ShardInput::NewBoot(boot)),
            Event::GoOn(process) => self.go_on(process),
            Event::Reap(life) => self.reap(life),
            Event::Apply(life, batch, begun_ms) => self.apply(life, &batch, begun_ms),
            Event::Committed(life, lane, committed) => {
                self.core_input(life, Input::Committed(lane, committed));
            }
            Event::Ask(life, question) => self.ask(life, question),
            Event::Core(life, input) => self.core_input(life, *input),
            Event::Claim(link, user, session) => self.claim(link, &user, session),
            Event::Unclaim(link, user, session) => self.unclaim(link, user, &session),
            Event::ClaimsDone(link) => self.claims_done(link),
            Event::Request(link, request) => self.answer_request(link, &request),
            Event::Bounced(life, conv, seq, users) => self.bounced(life, conv, seq, users),
            Event::Append(life, boot, partition, number, record) => {
                self.append(life, boot, partition, number, record);
            }
            Event::TopicLost(life, boot) => self.topic_lost(life, boot),
            Event::Crash(life) if life == self.life => self.crash_router(),
            Event::Crash(_) => {}
            Event::Restart => self.start_router(),
            Event::Act(terminal) => self.act(terminal),
            Event::Login(terminal) => self.login(terminal),
            Event::Resend(terminal, conv) => self.resend(terminal, &conv),
            Event::AskAgain(terminal, socket, conv) => self.ask_again(terminal, socket, conv),
            Event::Fault => self.fault(),
            Event::Calm => self.calm_down(),
            Event::LastOverflow => self.last_overflow = true,
            Event::LastWords => self.last_words(),
            Event::Look(terminal) => self.look(terminal),
        }
    }

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let wait = self.rng.between(50_000, 400_000);
        self.after(wait, Event::Fault);
        match self.rng.below(10) {
            0..4 if self.faults.links && !self.links.is_empty() => {
                let link = self.rng.below(self.links.len() as u64) as usize;
                self.cut(link);
            }
            4..7 => {
                let floater = self.users.first().cloned().into_iter().collect();
                if self.store.members(&self.group, u64::MAX).1.len() == self.users.len() {
                    self.change_group(Vec::new(), floater, false);
                } else {
                    self.change_group(floater, Vec::new(), false);
                }
            }
            7 if self.faults.router => self.crash_router(),
            8.. if self.faults.pauses => self.stand_still(),
            _ => {}
        }
    }

    fn calm_down(&mut self) {
        self.calm = true;
        for terminal in 0..self.terminals.len() {
            self.after(50_000, Event::Login(terminal));
        }
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
