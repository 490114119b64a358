//! What waits for a lane, and how much of it one transaction takes.
//!
//! Owns the lane's queue: one batch at a time by the port's contract, requests that each have a caller, delivered marks,
//! bounded by the store, and outbox rows to clear, bounded by what is published. A batch goes at once, with all that waits
//! beside it; clearing and delivered marks alone wait [`LAZY`] for one. While a commit is in doubt, an empty turn comes
//! when it is time to look at it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corelane_protocol::id::Lane;
use corelane_router_core::append::{Batch, Committed};
use tokio::sync::{mpsc, oneshot};
use tokio::time::error::Elapsed;

use super::super::{DeliveredMark, ReadMark, StoreError};
use super::doubt::Doubts;
use super::job::ReadRequest;
use super::keys::ConvKey;
use super::lane::Writer;
use super::shared::Shared;

/// How long lazy changes wait for a commit to join.
const LAZY: Duration = Duration::from_millis(50);
/// Lazy changes of one transaction.
const LAZY_MAX: usize = 256;
/// Requests of one transaction.
const REQUESTS_MAX: usize = 256;

/// Something for a lane to write.
#[derive(Debug)]
pub(super) enum Order {
    /// A batch.
    Batch(Batch, oneshot::Sender<Committed>),
    /// A read mark.
    Read(ReadRequest, oneshot::Sender<Result<ReadMark, StoreError>>),
    /// Conversations to mend if another wrote them last.
    Mend(Vec<ConvKey>, oneshot::Sender<Result<(), StoreError>>),
    /// What a terminal has.
    Delivered(DeliveredMark),
    /// An outbox row to forget.
    Clear(u64),
}

/// Conversations whose heads are to be mended, and who waits for it.
type Mend = (Vec<ConvKey>, oneshot::Sender<Result<(), StoreError>>);

/// What one transaction takes.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) batch: Option<(Batch, oneshot::Sender<Committed>)>,
    pub(super) reads: Vec<(ReadRequest, oneshot::Sender<Result<ReadMark, StoreError>>)>,
    pub(super) mends: Vec<Mend>,
    pub(super) delivered: Vec<DeliveredMark>,
    pub(super) clears: Vec<u64>,
}

impl Turn {
    fn is_lazy(&self) -> bool {
        self.batch.is_none() && self.reads.is_empty() && self.mends.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.is_lazy() && self.delivered.is_empty() && self.clears.is_empty()
    }

    fn has_room(&self) -> bool {
        self.delivered.len() + self.clears.len() < LAZY_MAX
            && self.reads.len() + self.mends.len() < REQUESTS_MAX
    }
}

/// The queue of a lane.
pub(super) struct Queue {
    shared: Arc<Shared>,
    lane: Lane,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Taken, but for the next transaction.
    next: Option<Order>,
}

impl Queue {
    pub(super) fn new(shared: Arc<Shared>, lane: Lane, orders: mpsc::UnboundedReceiver<Order>) -> Self {
        Self {
            shared,
            lane,
            orders,
            next: None,
        }
    }

    fn writer(&self, doubts: Doubts) -> Writer {
        Writer::new(Arc::clone(&self.shared), self.lane, doubts)
    }

    /// Runs until the store is dropped and everything that was handed over is written.
    pub(super) async fn run(mut self) {
        let mut writer = self.writer(Doubts::default());
        loop {
            let (turn, is_open) = self.gather(writer.doubts.due()).await;
            if !turn.is_empty() || is_open {
                // A task of its own: a panic in the client makes the outcome of this turn unknown, and no more.
                let task = tokio::spawn(async move {
                    writer.transact(turn).await;
                    writer
                });
                writer = task.await.unwrap_or_else(|error| {
                    tracing::error!(%error, lane = self.lane.0, "the client panicked in a commit");
                    self.writer(Doubts::lost(self.shared.clock.now().mono))
                });
            }
            if !is_open {
                return;
            }
        }
    }

    /// Waits for something to write, or until `due`, and takes what goes into one transaction. False: the store is being
    /// dropped.
    async fn gather(&mut self, due: Option<Duration>) -> (Turn, bool) {
        let mut turn = Turn::default();
        let first = match self.next.take() {
            Some(order) => Some(order),
            None => match self.within(due, self.shared.clock.now().mono).await {
                Ok(order) => order,
                Err(_) => return (turn, true),
            },
        };
        let Some(first) = first else {
            return (turn, false);
        };
        self.take(first, &mut turn);
        let until = self.shared.clock.now().mono + LAZY;
        loop {
            while turn.has_room() && self.next.is_none() {
                match self.orders.try_recv() {
                    Ok(order) => self.take(order, &mut turn),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return (turn, false),
                }
            }
            if !turn.is_lazy() || !turn.has_room() || self.next.is_some() {
                return (turn, true);
            }
            match self.within(Some(until), self.shared.clock.now().mono).await {
                Ok(Some(order)) => self.take(order, &mut turn),
                Ok(None) => return (turn, false),
                Err(_) => return (turn, true),
            }
        }
    }

    /// The next order, if it comes in time.
    async fn within(&mut self, until: Option<Duration>, now: Duration) -> Result<Option<Order>, Elapsed> {
        match until {
            None => Ok(self.orders.recv().await),
            Some(until) => tokio::time::timeout(until.saturating_sub(now), self.orders.recv()).await,
        }
    }

    fn take(&mut self, order: Order, turn: &mut Turn) {
        match order {
            Order::Batch(..) if turn.batch.is_some() => self.next = Some(order),
            Order::Batch(batch, done) => turn.batch = Some((batch, done)),
            Order::Read(request, done) => turn.reads.push((request, done)),
            Order::Mend(convs, done) => turn.mends.push((convs, done)),
            Order::Delivered(mark) => {
                self.shared.marks_waiting.fetch_sub(1, Ordering::Relaxed);
                turn.delivered.push(mark);
            }
            Order::Clear(row) => turn.clears.push(row),
        }
    }
}
