//! The engine: the rings of a shard, and the turn that drives them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::event::Event;
use crate::id::Socket;
use crate::listener::Listener;
use crate::ring::Completion;
use crate::slab::Slab;
use crate::slots::Life;
use crate::stats::EngineStats;
use crate::table::{Moment, Table};
use crate::token::Op;
use crate::waker::{Bell, Waker};

/// Events after which a turn ends although the kernel has more: the user's work must not starve.
const EVENTS_MAX: usize = 4096;
/// Enters without waiting per turn and ring; each runs about 20 deferred items.
const ROUNDS_MAX: u32 = 256;
/// How often quiet sockets are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);
/// When a ring that could not be made is tried again.
const RING_PAUSE: Duration = Duration::from_millis(100);
/// How long a drop waits for the kernel to let go of memory. It always did within one turn.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// The sockets of one shard. Single-threaded; use it from the thread that made it. See the [crate] for how
/// it is driven.
///
/// Dropping it cancels everything and waits until the kernel has let go of all memory; peers see FIN.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) tables: Vec<Table>,
    pub(crate) listeners: Slab<Listener>,
    /// Sockets that were given nothing to send.
    pub(crate) sent_empty: Vec<Socket>,
    pub(crate) accept_failures: u64,
    ring_failures: u64,
    ring_retry_at: Option<Duration>,
    bell: Arc<Bell>,
    bell_watched: bool,
    clock: Clock,
    moment: Moment,
    sweep_at: Duration,
    /// See [`Engine::gather`].
    gather: Duration,
    scratch: Vec<Completion>,
    /// A ring belongs to one thread (`SINGLE_ISSUER`).
    not_send: PhantomData<*mut ()>,
}

impl Engine {
    /// An engine with its first ring.
    ///
    /// # Errors
    ///
    /// What this machine does not allow, with its fix (print it and exit), or a value of `config` that is
    /// out of range.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        config.check()?;
        let first = Table::new(&config, 0, config.receive_buffers, None)?;
        let bell = Bell::new().map_err(|source| EngineError::Limit {
            step: "making an eventfd",
            source,
        })?;
        Ok(Self {
            config,
            tables: vec![first],
            listeners: Slab::new(),
            sent_empty: Vec::new(),
            accept_failures: 0,
            ring_failures: 0,
            ring_retry_at: None,
            bell,
            bell_watched: false,
            clock: Clock::start(),
            moment: Moment::at(Duration::ZERO),
            sweep_at: Duration::ZERO,
            gather: Duration::ZERO,
            scratch: Vec::new(),
            not_send: PhantomData,
        })
    }

    /// Wakes this engine from any thread.
    pub fn waker(&self) -> Waker {
        self.bell.waker()
    }

    /// Lets the waits from now on gather what happens within `window` of their beginning, so that many small things
    /// cost one wake-up: an engine is woken at most once per window, or when 32 things wait. What happens later in a
    /// wait ends it at once, so a lone event after some silence is not delayed. Zero (the beginning): every event ends
    /// a wait. Without effect on kernels before 6.12.
    pub fn gather(&mut self, window: Duration) {
        self.gather = window;
    }

    /// Counters and sizes.
    pub fn stats(&self) -> EngineStats {
        let mut sum = EngineStats {
            rings: u32::try_from(self.tables.len()).unwrap_or(u32::MAX),
            sockets_open: self.open_count(),
            accept_failures: self.accept_failures,
            ring_failures: self.ring_failures,
            ..EngineStats::default()
        };
        for table in &self.tables {
            let counts = &table.counts;
            sum.enters += table.ring.enters;
            sum.completions += counts.completions;
            sum.accepted += counts.accepted;
            sum.accepted_reserve += counts.accepted_reserve;
            sum.connected += counts.connected;
            sum.connect_failures += counts.connect_failures;
            sum.closed += counts.closed;
            sum.buffers_empty += counts.buffers_empty;
            sum.stale_completions += counts.stale_completions;
            let bytes = table.user_bytes();
            sum.user_bytes.slots += bytes.slots;
            sum.user_bytes.receive_buffers += bytes.receive_buffers;
            sum.user_bytes.in_flight += bytes.in_flight;
        }
        sum.user_bytes.in_flight += (self.scratch.capacity() * size_of::<Completion>()) as u64;
        sum
    }

    /// One turn: hands over what was asked for, waits until something happens (at most `wait`; zero does not
    /// block), and appends what happened to `events`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Enter`] if the ring is broken. End the process.
    pub fn turn(&mut self, wait: Duration, events: &mut Vec<Event>) -> Result<(), EngineError> {
        let told = events.len();
        let mut now = self.clock.now();
        let deadline = now.saturating_add(wait);
        loop {
            self.moment = Moment::at(now);
            self.prepare(events);
            let sleeps = events.len() == told && now < deadline;
            self.submit(sleeps)?;
            self.reap(events);
            if sleeps && events.len() == told {
                self.sleep(now, deadline)?;
                // What is noted from here on, deadlines included, counts from after the sleep.
                self.moment = Moment::at(self.clock.now());
                self.reap(events);
            }
            self.run_deferred(told, events)?;
            if events.len() > told {
                return Ok(());
            }
            now = self.clock.now();
            if now >= deadline {
                return Ok(());
            }
        }
    }

    /// Queues what time and freed room ask for.
    fn prepare(&mut self, events: &mut Vec<Event>) {
        let moment = self.moment;
        if !self.bell_watched
            && let Some(first) = self.tables.first_mut()
        {
            self.bell_watched = true;
            first.ring.watch_bell(self.bell.descriptor());
        }
        for socket in std::mem::take(&mut self.sent_empty) {
            if self.open_slot(socket).is_some() {
                events.push(Event::Sent(socket));
            }
        }
        self.make_room_ahead(moment);
        self.arm_accepts(moment, events);
        let sweep = moment.now >= self.sweep_at;
        if sweep {
            self.sweep_at = moment.now + SWEEP_INTERVAL;
        }
        for table in &mut self.tables {
            table.feed_starved();
            table.end_lingering(moment);
            if sweep {
                table.sweep(moment);
            }
        }
    }

    /// Enters every ring that has something to hand over, the first one only if nobody will sleep in it.
    fn submit(&mut self, sleeps: bool) -> Result<(), EngineError> {
        for table in self.tables.iter_mut().skip(usize::from(sleeps)) {
            if table.ring.has_work() {
                table.ring.enter()?;
            }
        }
        Ok(())
    }

    /// Waits in the first ring until any ring or a waker has something to say, or a deadline of the engine
    /// or the caller passes.
    fn sleep(&mut self, now: Duration, deadline: Duration) -> Result<(), EngineError> {
        let until = self.next_deadline().map_or(deadline, |own| own.min(deadline));
        for table in self.tables.iter_mut().skip(1) {
            table.ring.listen_bell();
        }
        // The bell must be seen switched on before the rings are seen quiet, here and by the kernel.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let mut quiet = true;
        for table in self.tables.iter_mut().skip(1) {
            quiet &= !table.ring.has_news();
        }
        if quiet
            && let Some(left) = until.checked_sub(now)
            && let Some(first) = self.tables.first_mut()
        {
            first.ring.enter_and_wait(left, self.gather)?;
        }
        for table in self.tables.iter_mut().skip(1) {
            table.ring.silence_bell();
        }
        Ok(())
    }

    /// When the engine itself has something to do although nothing completes.
    fn next_deadline(&self) -> Option<Duration> {
        let lingering = self
            .tables
            .iter()
            .filter_map(|table| Some(table.lingering.front()?.0));
        let receiving = self.tables.iter().any(|table| !table.receiving.is_empty());
        // A second late is soon enough for sending a quiet socket back to its poll.
        let sweep = receiving.then(|| self.moment.now + Duration::from_millis(500));
        lingering.chain(sweep).chain(self.accepts_resume_at()).min()
    }

    /// Enters, without waiting, every ring with deferred work, until there is none or there is enough to
    /// tell.
    fn run_deferred(&mut self, told: usize, events: &mut Vec<Event>) -> Result<(), EngineError> {
        for _ in 0..ROUNDS_MAX {
            let mut entered = false;
            for table in &mut self.tables {
                if table.ring.has_deferred() {
                    table.ring.enter()?;
                    entered = true;
                }
            }
            // What this turn queued itself is handed over now if there is nothing to tell yet (it may
            // complete at once), else by the next turn, together with what the user answers.
            if events.len() == told {
                for table in &mut self.tables {
                    if table.ring.has_work() {
                        table.ring.enter()?;
                        entered = true;
                    }
                }
            }
            if !entered {
                return Ok(());
            }
            self.reap(events);
            if events.len() - told >= EVENTS_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads every completion that is there.
    fn reap(&mut self, events: &mut Vec<Event>) {
        let moment = self.moment;
        let mut scratch = std::mem::take(&mut self.scratch);
        for number in 0..self.tables.len() {
            let Some(table) = self.tables.get_mut(number) else {
                continue;
            };
            table.ring.completions(&mut scratch);
            table.counts.completions += scratch.len() as u64;
            for completion in scratch.drain(..) {
                self.on_completion(number, &completion, moment, events);
            }
        }
        self.scratch = scratch;
        if self.bell.take_rung() {
            events.push(Event::Woken);
        }
    }

    fn on_completion(
        &mut self,
        number: usize,
        completion: &Completion,
        moment: Moment,
        events: &mut Vec<Event>,
    ) {
        let Some(token) = completion.token else {
            debug_assert!(false, "every submission has a token");
            return;
        };
        match token.op {
            Op::Accept => self.on_accept(number, token, completion, moment, events),
            Op::Bell => self.bell_watched &= completion.more,
            Op::CancelAll => {}
            _ => {
                if let Some(table) = self.tables.get_mut(number) {
                    table.on_completion(token, completion, moment, events);
                }
            }
        }
    }

    /// The time of the present turn.
    pub(crate) const fn moment(&self) -> Moment {
        self.moment
    }

    /// The table and slot of a socket, unless it was closed.
    pub(crate) fn find(&mut self, socket: Socket) -> Option<(&mut Table, u32)> {
        let number = socket.slot_index() / self.config.slots_per_ring;
        let table = self.tables.get_mut(number as usize)?;
        let (slot, _) = table.find(socket)?;
        Some((table, slot))
    }

    /// The same, only while it is connected and nobody closed it.
    pub(crate) fn open_slot(&mut self, socket: Socket) -> Option<(&mut Table, u32)> {
        let (table, slot) = self.find(socket)?;
        let open = table.slots.get(slot)?.life == Life::Open;
        open.then_some((table, slot))
    }

    /// Sockets that are connected, connecting or closing.
    pub(crate) fn open_count(&self) -> u32 {
        self.tables.iter().map(|table| table.open_count).sum()
    }

    /// Sockets there may be before the reserve is used.
    pub(crate) fn capacity(&self) -> u32 {
        let rings = if self.ring_retry_at.is_some() {
            u32::try_from(self.tables.len()).unwrap_or(u32::MAX)
        } else {
            self.config.rings_max
        };
        (rings * self.config.slots_per_ring).saturating_sub(self.config.reserve_slots())
    }

    pub(crate) fn full(&self) -> EngineError {
        EngineError::Full {
            slots: u64::from(self.capacity()),
        }
    }

    /// The table for an outgoing connection, which never takes the reserve.
    pub(crate) fn table_for_connect(&mut self, moment: Moment) -> Result<usize, EngineError> {
        if self.open_count() >= self.capacity() {
            return Err(self.full());
        }
        self.table_with_room(moment).ok_or_else(|| self.full())
    }

    /// The lowest table with a free slot; a new one if all are used and another is allowed.
    pub(crate) fn table_with_room(&mut self, moment: Moment) -> Option<usize> {
        let number = self.tables.iter().position(|table| table.slots.free_count() > 0);
        number.or_else(|| self.add_table(moment))
    }

    /// Makes the next ring while there is still some room in the others, so that a ring that cannot be made
    /// is known before the armed accepts, which are the reserve then, are used up.
    fn make_room_ahead(&mut self, moment: Moment) {
        let free_count: u32 = self.tables.iter().map(|table| table.slots.free_count()).sum();
        // One reserve is about to be armed and may be used up within this turn; the next must stay one.
        if free_count < 2 * self.config.reserve_slots() && self.listeners.keys_end() > 0 {
            self.add_table(moment);
        }
    }

    /// Makes another ring if that is allowed; after a failure not before a pause.
    fn add_table(&mut self, moment: Moment) -> Option<usize> {
        let number = u16::try_from(self.tables.len()).ok()?;
        let rests = self.ring_retry_at.is_some_and(|at| at > moment.now);
        if u32::from(number) >= self.config.rings_max || rests {
            return None;
        }
        let buffers = self.config.later_receive_buffers();
        let bell = self.bell.descriptor();
        let Ok(table) = Table::new(&self.config, number, buffers, Some(bell)) else {
            self.ring_failures += 1;
            self.ring_retry_at = Some(moment.now + RING_PAUSE);
            return None;
        };
        self.ring_retry_at = None;
        self.tables.push(table);
        Some(usize::from(number))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for mut table in self.tables.drain(..) {
            if !table.ring.drain(DRAIN_PATIENCE) {
                // Better to lose the memory than to let the kernel write to what somebody else uses.
                std::mem::forget(table);
            }
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("rings", &self.tables.len())
            .field("sockets_open", &self.open_count())
            .finish_non_exhaustive()
    }
}
