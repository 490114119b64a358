//! Outbox rows that are read from the store: what dead routers left, what the store found out later than it answered, and
//! what the core let go of while receivers could not be looked up.
//!
//! Owns the room for rows that others left, were read and are not published: [`ADOPTED_MAX`]; the next one is read when
//! there is some. What is read goes to the driver, which waits for its turn like everything else. Publishing such a row
//! once more than needed is allowed; a row that the core still holds is left alone.
//!
//! What dead routers left is shared out as their lanes are: each row is for the router that serves its lane by the list
//! at the moment when rows are looked for. Where the list changes meanwhile, a row may be passed over by the one and by
//! the other; it stays in the store, and the sweep of whoever serves its lane then finds it.
//!
//! Of what is read back for the core, [`READS_BACK`] conversations are read at a time, whatever the number of lanes, so that
//! clients' reads go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::frame::Frame;
use corelane_protocol::frame::body::ArchivedMessage;
use corelane_protocol::id::{AppId, BootId, ConvId, Lane};
use corelane_router_core::event::Recovered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::driver::Event;
use crate::registry::Registry as _;
use crate::shared::Shared;
use crate::store::any::AnyStore;
use crate::store::{MessageStore as _, OutboxRow, StoreError};

/// Most rows that are read and not published. A row has at most a MiB of messages.
pub(crate) const ADOPTED_MAX: usize = 64;
/// Most messages that are read at a time.
const MESSAGES: u16 = 200;
/// A store that failed is asked again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// How often rows are looked for of the dead whom nobody saw go.
const SWEEP_PACE: Duration = Duration::from_mins(1);
/// What a router had on its way when it died has arrived after this time: its locks live 20 s.
const LATE: Duration = Duration::from_secs(30);

/// Conversations that are read back at a time.
pub(crate) const READS_BACK: usize = 32;

/// What a row still has to publish.
#[derive(Debug)]
pub(crate) struct Left {
    /// The row.
    pub(crate) row: u64,
    /// Its lane.
    pub(crate) lane: Lane,
    /// Its messages, by conversation.
    pub(crate) messages: Vec<Recovered>,
    /// Held until all of it is published.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// Reads the messages that a row names.
///
/// # Errors
///
/// The store's.
pub(crate) async fn left(store: &AnyStore, row: OutboxRow) -> Result<Left, StoreError> {
    let mut messages = Vec::new();
    for entry in row.entries {
        messages.extend(messages_of(store, (row.id, row.lane), entry).await?);
    }
    Ok(Left {
        row: row.id,
        lane: row.lane,
        messages,
        room: None,
    })
}

/// Reads what a row names of one conversation, from its first to its last place.
async fn messages_of(
    store: &AnyStore,
    (outbox, lane): (u64, Lane),
    (app, conv, first, last): (AppId, ConvId, u64, u64),
) -> Result<Option<Recovered>, StoreError> {
    let mut frames = Vec::new();
    let mut from = first;
    while from != 0 && from <= last {
        let pulled = match store.pull(app, conv.clone(), from, last, MESSAGES).await {
            // The rest of the row is as good as ever.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, row = outbox, "a part of an outbox row cannot be published");
                break;
            }
            pulled => pulled?,
        };
        from = pulled.next_seq;
        frames.extend(pulled.messages.into_iter().filter(|(_, frame)| has_sender(frame)));
    }
    let recovered = Recovered {
        outbox,
        lane,
        app,
        conv,
        frames,
    };
    Ok(Some(recovered).filter(|recovered| !recovered.frames.is_empty()))
}

/// Reads rows back that the core has let go of: per row, in the order asked, what it still has to publish. What is damaged
/// is left out, after an error in the log: it would be in the way of all that comes behind it. `reads` bounds the reads.
///
/// # Errors
///
/// The store's: ask again.
pub(crate) async fn read_back(
    store: Arc<AnyStore>,
    reads: Arc<Semaphore>,
    lane: Lane,
    rows: Vec<u64>,
) -> Result<Vec<Vec<Recovered>>, StoreError> {
    let mut tasks = JoinSet::new();
    for row in readable(&store, lane, &rows).await? {
        let OutboxRow { id, entries, .. } = row;
        for (place, entry) in entries.into_iter().enumerate() {
            let (store, reads) = (Arc::clone(&store), Arc::clone(&reads));
            tasks.spawn(async move {
                // Nobody closes it.
                let _turn = reads.acquire_owned().await;
                let messages = messages_of(&store, (id, lane), entry).await;
                (id, place, messages)
            });
        }
    }
    let mut found: BTreeMap<(u64, usize), Recovered> = BTreeMap::new();
    while let Some(read) = tasks.join_next().await {
        let (row, place, messages) = read.map_err(|error| StoreError::Failed(error.to_string()))?;
        found.extend(messages?.map(|messages| ((row, place), messages)));
    }
    let of_row = |row: &u64| {
        found
            .range((*row, 0)..=(*row, usize::MAX))
            .map(|(_, messages)| messages.clone())
    };
    Ok(rows.iter().map(|row| of_row(row).collect()).collect())
}

/// Those of the rows that are there and can be read.
async fn readable(store: &AnyStore, lane: Lane, rows: &[u64]) -> Result<Vec<OutboxRow>, StoreError> {
    let found = store.outbox_rows(lane, rows.to_vec()).await;
    let Err(StoreError::Damaged { .. }) = found else {
        return found;
    };
    // One by one, to find out which.
    let mut readable = Vec::new();
    for row in rows {
        match store.outbox_rows(lane, vec![*row]).await {
            Ok(found) => readable.extend(found),
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, row, "what an outbox row names cannot be published");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(readable)
}

/// A void record has none, and is for nobody.
fn has_sender(frame: &[u8]) -> bool {
    let Ok(frame) = Frame::parse(frame) else {
        return false;
    };
    frame
        .access::<ArchivedMessage>()
        .is_ok_and(|message| !message.sender.is_empty())
}

/// Publishes what the store finds out by itself, until the router stops.
pub(crate) async fn strays(shared: Arc<Shared>) {
    loop {
        let row = tokio::select! {
            row = shared.store.stray() => row,
            () = shared.stop.cancelled() => return,
        };
        if !publish(&shared, row).await {
            return;
        }
    }
}

/// Publishes what routers left that are dead, now and once more when all has arrived that they had on its way. Call it
/// with boots that are known to be dead: what a living router wrote would be published twice.
pub(crate) async fn adopt(shared: Arc<Shared>, mut dead: Vec<u64>) {
    for wait in [Duration::ZERO, LATE] {
        tokio::time::sleep(wait).await;
        // Who is in the list again publishes his own.
        let list = shared.cluster.list();
        dead.retain(|boot| !list.has(BootId(*boot)));
        while let Err(error) = adopt_once(&shared, &dead).await {
            tracing::warn!(%error, "what a dead router left cannot be read; tried again");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Publishes what the dead left whom nobody saw go, now and then again, until the router stops: a predecessor whose lease
/// still stood when this router looked, or who came and died between two looks.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    loop {
        if let Err(error) = Box::pin(sweep_once(&shared)).await {
            tracing::warn!(%error, "what dead routers left cannot be looked for; tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_PACE) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn sweep_once(shared: &Arc<Shared>) -> Result<(), StoreError> {
    // In this order: who comes between the two has left nothing that was read.
    let mut dead = shared.store.writers().await?;
    let Ok(listed) = shared.registry.routers().await else {
        return Ok(());
    };
    // Where the registry forgot the list, the known one still names who is coming back.
    let known = shared.cluster.list();
    dead.retain(|boot| *boot != shared.boot && !listed.has(BootId(*boot)) && !known.has(BootId(*boot)));
    if dead.is_empty() {
        return Ok(());
    }
    adopt_once(shared, &dead).await
}

async fn adopt_once(shared: &Arc<Shared>, dead: &[u64]) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let lanes = own_lanes(shared);
        if lanes.is_empty() {
            return Ok(());
        }
        let rows = shared.store.outbox(dead.to_vec(), lanes, after).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.id;
        for row in rows {
            let writer = format!("{:016x}", row.writer);
            tracing::info!(
                writer,
                lane = row.lane.0,
                "an outbox row of a dead router is published"
            );
            if !publish(shared, row).await {
                return Ok(());
            }
        }
    }
}

/// The lanes that no other router serves by the present list.
fn own_lanes(shared: &Shared) -> Vec<Lane> {
    let lanes = (0..shared.store.info().lanes).map(Lane);
    lanes
        .filter(|lane| shared.cluster.elsewhere(*lane).is_none())
        .collect()
}

/// Hands a row to the driver, when there is room for it. False: the router is stopping.
async fn publish(shared: &Arc<Shared>, row: OutboxRow) -> bool {
    let Ok(room) = Arc::clone(&shared.adopting).acquire_owned().await else {
        return false;
    };
    loop {
        match left(&shared.store, row.clone()).await {
            Ok(mut left) => {
                left.room = Some(room);
                return shared.driver.send(Event::Left(left)).await.is_ok();
            }
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, row = row.id, "what an outbox row names cannot be published");
                return true;
            }
            Err(error) => {
                tracing::warn!(%error, row = row.id, "what an outbox row names cannot be read; tried again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
