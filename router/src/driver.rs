//! The driver: the one task that owns the core, and the only file that calls it.
//!
//! Everything that happens is an input; inputs that are there at the same time are handled together, so that a burst
//! costs one wake-up and answers leave in one batch per link. A port that answers at once is taken at once; one that
//! takes its time is waited for by a task of its own, whose answer comes back as an input. The queue of inputs holds
//! [`QUEUE`] batches; who feeds it waits while it is full, so a link that sends too fast is not read for a while.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use corelane_protocol::id::{AppId, BootId, ConnId, Lane, UserId};
use corelane_router_core::RouterCore;
use corelane_router_core::append::{Append, Batch, Committed};
use corelane_router_core::event::{Input, Origin, Output, Submission};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::adopt::{self, ADOPTED_MAX, Left, READS_BACK};
use crate::bus::{Bus as _, BusError};
use crate::dead::DeadBoots;
use crate::hub::Outgoing;
use crate::lease::give_up;
use crate::membership::JoinError;
use crate::metrics::Stage;
use crate::registry::Registry as _;
use crate::requests::core_route;
use crate::shared::{Shared, StopReason};
use crate::start::StartError;
use crate::store::any::AnyStore;
use crate::store::{Members, MessageStore as _, StoreError};

/// Batches of inputs that wait.
pub(crate) const QUEUE: usize = 1024;
/// Batches handled in one go.
const BATCHES: usize = 256;
/// A port that failed is asked again after this time.
const AGAIN: Duration = Duration::from_millis(200);
/// After a start with rows in the outbox, gateways have this long to claim their sessions again before anybody is
/// looked for; else what an earlier life left would be published to nobody.
const RECLAIM: Duration = Duration::from_secs(3);
/// A backend's message waits at most this long for its commit, in ms.
const APPEND_DEADLINE_MS: u64 = 5_000;

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Inputs for the core.
    Inputs(Vec<Input>),
    /// A backend's message, and who waits for the answer frame.
    Append(Box<Append>, oneshot::Sender<Vec<u8>>),
    /// What an outbox row that nobody publishes still has to publish.
    Left(Left),
    /// Somebody asks for whom the core waits.
    Awaited(oneshot::Sender<BTreeSet<BootId>>),
}

/// Owns the core.
pub(crate) struct Driver {
    core: RouterCore,
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    outputs: Vec<Output>,
    /// Answers of ports that came at once.
    ready: VecDeque<Input>,
    /// Records for each link, until the end of the turn.
    records: BTreeMap<(u64, u16), Vec<Outgoing>>,
    backends: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    next_backend: u64,
    /// Stamps of sampled sends that are not answered.
    sampled: HashMap<(u64, u64, u32), u64>,
    /// Nobody is looked for before.
    locate_from: Duration,
    /// Boots of which nothing is stored any more.
    gone: DeadBoots,
    /// Rows that nobody published, until all of them is published here: each holds its room.
    adopted: Vec<(Lane, u64, OwnedSemaphorePermit)>,
    untaken: Untaken,
    /// Reads of what the core let go of.
    reads_back: Arc<Semaphore>,
}

/// Records that were handed to the bus since a version of the router list was drained: each holds `guard` until the bus
/// took it, and then `all_taken` ends.
struct Untaken {
    guard: mpsc::Sender<Infallible>,
    all_taken: mpsc::Receiver<Infallible>,
}

impl Untaken {
    fn new() -> Self {
        let (guard, all_taken) = mpsc::channel(1);
        Self { guard, all_taken }
    }
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, events: mpsc::Receiver<Event>) -> Self {
        let info = shared.store.info();
        Self {
            core: RouterCore::new(shared.boot, info.epoch, info.lanes, shared.partitions),
            shared,
            events,
            outputs: Vec::new(),
            ready: VecDeque::new(),
            records: BTreeMap::new(),
            backends: HashMap::new(),
            next_backend: 1,
            sampled: HashMap::new(),
            locate_from: Duration::ZERO,
            gone: DeadBoots::default(),
            adopted: Vec::new(),
            untaken: Untaken::new(),
            reads_back: Arc::new(Semaphore::new(READS_BACK)),
        }
    }

    /// Publishes again what earlier lives, and routers that are dead, left in the outbox. Before anything else. Says how
    /// many rows there were. Of a store that others share, this is only the beginning, and only where no other router
    /// lives: the sweep (`adopt.rs`) finds the rest.
    ///
    /// # Errors
    ///
    /// [`StartError`]: the router cannot keep its promise on this store, or nobody knows who lives; do not start.
    pub(crate) async fn recover(&mut self) -> Result<u64, StartError> {
        let store = Arc::clone(&self.shared.store);
        // In this order: who comes between the two has left nothing that was read.
        let mut dead = store.writers().await?;
        let living = Box::pin(self.shared.registry.routers()).await;
        let living = living.map_err(JoinError::Registry)?.routers;
        dead.retain(|writer| living.iter().all(|router| router.boot.0 != *writer));
        let is_shared = matches!(*store, AnyStore::Tikv(_));
        if is_shared && !living.is_empty() {
            dead.clear();
        }
        let lanes: Vec<Lane> = (0..store.info().lanes).map(Lane).collect();
        let (mut after, mut count) = (0, 0);
        while !dead.is_empty() && (!is_shared || count < ADOPTED_MAX) {
            let rows = store.outbox(dead.clone(), lanes.clone(), after).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            // All that were named: none of them is named again.
            for row in rows {
                count += 1;
                let left = adopt::left(&store, row).await?;
                self.left(left);
            }
        }
        if count > 0 {
            self.locate_from(self.shared.clock.now().mono + RECLAIM);
        }
        self.carry_out();
        Ok(count as u64)
    }

    /// Nobody is looked for before.
    pub(crate) const fn locate_from(&mut self, from: Duration) {
        self.locate_from = from;
    }

    /// All of a row is in the core before the first of it can be published and clear the row.
    fn left(&mut self, left: Left) {
        if self.core.holds(left.row) {
            return;
        }
        if left.messages.is_empty() {
            self.shared.store.clear_outbox(vec![left.row]);
        } else {
            self.adopted
                .extend(left.room.map(|room| (left.lane, left.row, room)));
        }
        for recovered in left.messages {
            self.input(Input::Recovered(recovered));
        }
    }

    /// Runs until the router stops.
    pub(crate) async fn run(mut self) {
        let mut events = Vec::with_capacity(BATCHES);
        loop {
            let received = tokio::select! {
                received = self.events.recv_many(&mut events, BATCHES) => received,
                () = self.shared.stop.cancelled() => return,
            };
            if received == 0 {
                return;
            }
            for event in events.drain(..) {
                match event {
                    Event::Inputs(inputs) => {
                        for input in inputs {
                            self.input(input);
                        }
                    }
                    Event::Append(append, answer) => self.append(*append, answer),
                    Event::Left(left) => self.left(left),
                    Event::Awaited(answer) => {
                        let boots = self.core.boots_awaited();
                        // Who asked may be gone: the router is stopping.
                        let _ = answer.send(boots.into_iter().map(BootId).collect());
                    }
                }
            }
            self.carry_out();
        }
    }

    fn input(&mut self, input: Input) {
        match &input {
            // The gates of a boot are forgotten with it, so nothing of it may come behind that: not even what was on its
            // way. Its gateway answers when the link ends.
            Input::Submit(Submission {
                origin: Origin::Client { boot, .. },
                ..
            }) if self.gone.has(*boot) => return,
            Input::GatewayGone(boot) => self.gone.add(*boot),
            Input::Submit(Submission {
                origin:
                    Origin::Client {
                        boot,
                        conn,
                        reference,
                    },
                stamp,
                ..
            }) if *stamp != 0 => {
                self.shared
                    .metrics
                    .reached(Stage::Admit, self.shared.clock.wall_us(), *stamp);
                self.sampled.insert((*boot, *conn, *reference), *stamp);
            }
            Input::Consumed {
                boot,
                partition,
                number,
                ..
            } => {
                self.shared.bus.consumed(BootId(*boot), *partition, *number);
            }
            Input::Committed(_, Committed::Unknown(why)) => self.unknown(why),
            _ => {}
        }
        self.core
            .handle(self.shared.clock.now(), input, &mut self.outputs);
    }

    fn append(&mut self, append: Append, answer: oneshot::Sender<Vec<u8>>) {
        let number = self.next_backend;
        self.next_backend += 1;
        self.backends.insert(number, answer);
        let now_ms = u64::try_from(self.shared.clock.now().mono.as_millis()).unwrap_or(u64::MAX);
        self.input(Input::Submit(Submission {
            origin: Origin::Api(number),
            append,
            restart: true,
            deadline_ms: now_ms + APPEND_DEADLINE_MS,
            stamp: 0,
        }));
    }

    fn unknown(&self, why: &str) {
        tracing::error!(
            why,
            "the outcome of a commit is not known; its senders are told to try again"
        );
        if let Some(reason) = self.shared.store.poisoned() {
            self.shared
                .stop
                .give(StopReason::Failed(format!("the store failed for good: {reason}")));
        }
    }

    /// Does what the core asked for, and hands it what ports answered at once, until both are silent.
    fn carry_out(&mut self) {
        loop {
            let outputs = std::mem::take(&mut self.outputs);
            if outputs.is_empty() && self.ready.is_empty() {
                break;
            }
            for output in outputs {
                self.output(output);
            }
            while let Some(input) = self.ready.pop_front() {
                self.input(input);
            }
        }
        for ((boot, shard), records) in std::mem::take(&mut self.records) {
            if let Some(link) = self.shared.hub.link(boot, shard) {
                link.send(records);
            }
        }
        let core = &self.core;
        self.adopted
            .retain(|(lane, row, _)| core.is_publishing(*lane, *row));
        self.shared.metrics.set_core(
            *self.core.metrics(),
            self.core.in_flight(),
            self.core.rows_behind(),
        );
        self.shared.cluster.count_rows(self.core.rows_held());
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Answer(
                Origin::Client {
                    boot,
                    conn,
                    reference,
                },
                frame,
            ) => {
                if let Some(stamp) = self.sampled.remove(&(boot, conn, reference)) {
                    self.shared
                        .metrics
                        .reached(Stage::Persist, self.shared.clock.wall_us(), stamp);
                }
                let records = self.records.entry((boot, ConnId(conn).shard())).or_default();
                records.push(Outgoing::frame(conn, reference, 0, frame));
            }
            Output::Answer(Origin::Api(number), frame) => {
                if let Some(answer) = self.backends.remove(&number) {
                    // A caller that went away does not need it.
                    let _ = answer.send(frame);
                }
            }
            Output::Persist(batch) => self.persist(batch),
            Output::ClearOutbox(rows) => self.shared.store.clear_outbox(rows),
            Output::LoadMembers(ticket, app, conv, since) => {
                let store = Arc::clone(&self.shared.store);
                self.ask(ticket, async move {
                    let members = match store.members(app, conv, since).await {
                        // It stays damaged, and its lane must go on. Nobody is told live; they see the gap, or sync.
                        Err(error @ StoreError::Damaged { .. }) => {
                            tracing::error!(%error, "the members of a group cannot be read");
                            Members::default()
                        }
                        members => members.map_err(|error| error.to_string())?,
                    };
                    Ok(Input::Members(ticket, members.version, members.stays))
                });
            }
            Output::Locate(ticket, app, users) => self.locate(ticket, app, users),
            Output::ReadRows(ticket, lane, rows) => self.read_rows(ticket, lane, rows),
            Output::Publish {
                boot,
                partition,
                number,
                record,
                stamp,
            } => {
                if stamp != 0 {
                    self.shared
                        .metrics
                        .reached(Stage::Publish, self.shared.clock.wall_us(), stamp);
                }
                self.publish(BootId(boot), partition, number, record);
            }
            Output::Drained(version) => self.drained(version),
            Output::LookAtRouters => self.shared.cluster.look(),
        }
    }

    /// Says that a version is drained when the bus has taken all that was published before.
    fn drained(&mut self, version: u64) {
        let later = Untaken::new();
        // A later version is not drained before this one.
        let later_waits = later.guard.clone();
        let Untaken { guard, mut all_taken } = std::mem::replace(&mut self.untaken, later);
        drop(guard);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let _ = all_taken.recv().await;
            shared.cluster.drained(version);
            drop(later_waits);
        });
    }

    fn persist(&mut self, batch: Batch) {
        let shared = Arc::clone(&self.shared);
        self.start(async move {
            let lane = batch.lane;
            let begun = shared.clock.now().mono;
            let committed = shared.store.commit(batch).await;
            shared
                .metrics
                .committed(shared.clock.now().mono.saturating_sub(begun));
            Some(Input::Committed(lane, committed))
        });
    }

    fn locate(&mut self, ticket: u64, app: AppId, users: Vec<UserId>) {
        let shared = Arc::clone(&self.shared);
        let hold = self.locate_from.saturating_sub(shared.clock.now().mono);
        self.ask(ticket, async move {
            if !hold.is_zero() {
                tokio::time::sleep(hold).await;
            }
            let found = shared
                .registry
                .lookup(app, users)
                .await
                .map_err(|error| error.to_string())?;
            let routes = found
                .iter()
                .map(|routes| routes.iter().map(core_route).collect())
                .collect();
            Ok(Input::Located(ticket, routes))
        });
    }

    fn read_rows(&mut self, ticket: u64, lane: Lane, rows: Vec<u64>) {
        let (store, reads) = (Arc::clone(&self.shared.store), Arc::clone(&self.reads_back));
        self.ask(ticket, async move {
            let read = adopt::read_back(store, reads, lane, rows).await;
            let read = read.map_err(|error| error.to_string())?;
            Ok(Input::Rows(ticket, read))
        });
    }

    fn publish(&mut self, boot: BootId, partition: u16, number: u64, record: Arc<[u8]>) {
        let shared = Arc::clone(&self.shared);
        let untaken = self.untaken.guard.clone();
        self.start(async move {
            let _untaken = untaken;
            let error = loop {
                let published = shared.bus.publish(boot, partition, number, Arc::clone(&record));
                match published.await {
                    Ok(_) => return None,
                    Err(error @ BusError::Unavailable(_)) => {
                        tracing::debug!(%error, "a record is published again");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => break error,
                }
            };
            match error {
                BusError::NoTopic(_) if !shared.bus.is_apart() => Some(Input::GatewayGone(boot.0)),
                error if !shared.bus.is_apart() => {
                    tracing::warn!(%error, "what waited for a gateway is lost; its sessions sync again");
                    Some(Input::TopicLost(boot.0))
                }
                error => {
                    give_up(&shared, boot, &error).await;
                    Some(Input::GatewayGone(boot.0))
                }
            }
        });
    }

    /// Asks a port; its failure is told to the core after a while, so that it asks again.
    fn ask(&mut self, ticket: u64, question: impl Future<Output = Result<Input, String>> + Send + 'static) {
        self.start(async move {
            match question.await {
                Ok(input) => Some(input),
                Err(error) => {
                    tracing::warn!(error, "a port did not answer; it is asked again");
                    tokio::time::sleep(AGAIN).await;
                    Some(Input::Failed(ticket))
                }
            }
        });
    }

    /// Polls once here; what is not ready then goes on in a task of its own.
    fn start(&mut self, work: impl Future<Output = Option<Input>> + Send + 'static) {
        let mut work: Pin<Box<dyn Future<Output = Option<Input>> + Send>> = Box::pin(work);
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(input) => self.ready.extend(input),
            Poll::Pending => {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    if let Some(input) = work.await {
                        shared.input(input).await;
                    }
                });
            }
        }
    }
}
