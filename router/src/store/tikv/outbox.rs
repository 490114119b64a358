//! What dead routers left in the outbox.
//!
//! A router's rows are its own as long as it lives. Of one that is dead they are listed here, lane by lane, so that another
//! publishes them; before that the conversations that they name are mended, because a commit in pieces may have left its
//! row and not its messages. A row that the shell was told of once is not listed again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use corelane_protocol::id::Lane;

use super::super::{OutboxRow, StoreError};
use super::client::{Read, Rows, SCAN_ROWS};
use super::keys::{ConvKey, Keys};
use super::read::Trouble;
use super::rows::{HeadRow, Outbox, Value};
use super::shared::{Shared, Tries};

/// Rows of one answer.
const OUTBOX_ROWS: usize = 256;

/// Attempts something until it answers or the time for it is over.
macro_rules! trying {
    ($shared:expr, $work:expr) => {{
        let mut tries = Tries::new($shared.clock, $shared.limits.adopt);
        loop {
            match $work.await {
                Ok(answer) => break answer,
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Fault(fault)) => tries.wait(&fault).await?,
            }
        }
    }};
}

/// Other routers that have rows.
///
/// # Errors
///
/// [`StoreError::Damaged`], or that TiKV did not answer in time.
pub(super) async fn writers(shared: Arc<Shared>) -> Result<Vec<u64>, StoreError> {
    let mut writers = trying!(shared, find_writers(&shared));
    writers.remove(&shared.boot);
    Ok(writers.into_iter().collect())
}

async fn find_writers(shared: &Shared) -> Result<BTreeSet<u64>, Trouble> {
    let mut read = shared.kv.snapshot().await?;
    let mut writers = BTreeSet::new();
    for lane in (0..shared.keys.lanes()).map(Lane) {
        let mut after = 0;
        loop {
            let page = page(&mut read, &shared.keys, lane, after).await?;
            writers.extend(page.rows.iter().map(|row| row.writer));
            match page.last {
                Some(last) => after = last,
                None => break,
            }
        }
    }
    Ok(writers)
}

/// Rows of the routers `of` behind `after`, the oldest of these lanes, cut down to what is in the log.
///
/// # Errors
///
/// [`StoreError::Damaged`], or that TiKV did not answer in time.
pub(super) async fn find(
    shared: &Arc<Shared>,
    of: &[u64],
    lanes: &[Lane],
    after: u64,
) -> Result<Vec<OutboxRow>, StoreError> {
    Ok(trying!(shared, rows(shared, of, lanes, after)))
}

async fn rows(shared: &Shared, of: &[u64], lanes: &[Lane], after: u64) -> Result<Vec<OutboxRow>, Trouble> {
    let mut read = shared.kv.snapshot().await?;
    let mut found = Vec::new();
    for lane in lanes.iter().copied() {
        let (mut after, before) = (after, found.len());
        loop {
            let page = page(&mut read, &shared.keys, lane, after).await?;
            let is_wanted = |row: &OutboxRow| of.contains(&row.writer) && !shared.is_told(row.id);
            found.extend(page.rows.into_iter().filter(is_wanted));
            match page.last {
                // More of one lane are not among the oldest of all.
                Some(last) if found.len() - before < OUTBOX_ROWS => after = last,
                _ => break,
            }
        }
    }
    found.sort_by_key(|row| row.id);
    found.truncate(OUTBOX_ROWS);
    Ok(found)
}

/// Some rows of a lane.
struct Page {
    rows: Vec<OutboxRow>,
    /// Behind which the next ones are; `None` if there are none.
    last: Option<u64>,
}

/// Rows of a lane behind `after`.
async fn page(read: &mut Read, keys: &Keys, lane: Lane, after: u64) -> Result<Page, Trouble> {
    let found = read.scan(keys.outbox_behind(lane, after), SCAN_ROWS).await?;
    let is_last = found.len() < SCAN_ROWS as usize;
    let last = found.last().and_then(|(key, _)| keys.outbox_of(lane, key));
    // One that cannot be read stays, and holds up no other one and no start.
    let row = |(key, value): (Vec<u8>, Vec<u8>)| {
        let id = keys.outbox_of(lane, &key);
        let decoded = Outbox::decode(&key, &value);
        let damage = match (id, decoded) {
            (Some(id), Ok(row)) => return Some(row.named(id, lane)),
            (None, _) => "its key names no row".to_owned(),
            (_, Err(damage)) => damage.to_string(),
        };
        tracing::error!(damage, key = %key.escape_ascii(), "an outbox row cannot be read");
        None
    };
    Ok(Page {
        rows: found.into_iter().filter_map(row).collect(),
        last: if is_last { None } else { last },
    })
}

/// Those of these rows of a lane that are there, cut down to what is in the log.
///
/// # Errors
///
/// [`StoreError::Damaged`], or that TiKV did not answer in time.
pub(super) async fn named_by(
    shared: &Arc<Shared>,
    lane: Lane,
    ids: &[u64],
) -> Result<Vec<OutboxRow>, StoreError> {
    Ok(trying!(shared, by_id(shared, lane, ids)))
}

async fn by_id(shared: &Shared, lane: Lane, ids: &[u64]) -> Result<Vec<OutboxRow>, Trouble> {
    let mut read = shared.kv.snapshot().await?;
    let wanted = ids.iter().map(|id| shared.keys.outbox(lane, *id)).collect();
    let found: HashMap<Vec<u8>, Vec<u8>> = read.many(wanted).await?.into_iter().collect();
    let mut rows = Vec::new();
    for id in ids {
        let key = shared.keys.outbox(lane, *id);
        if let Some(value) = found.get(&key) {
            rows.push(Outbox::decode(&key, value)?.named(*id, lane));
        }
    }
    in_log(shared, rows).await
}

/// Conversations that rows name, by lane.
pub(super) fn named(rows: &[OutboxRow]) -> BTreeMap<Lane, BTreeSet<ConvKey>> {
    let mut convs: BTreeMap<Lane, BTreeSet<ConvKey>> = BTreeMap::new();
    for row in rows {
        let named = row.entries.iter().map(|(app, conv, ..)| (*app, conv.clone()));
        convs.entry(row.lane).or_default().extend(named);
    }
    convs
}

/// Cuts rows down to what is in the log, until TiKV answers.
///
/// # Errors
///
/// [`StoreError::Damaged`], or that TiKV did not answer in time.
pub(super) async fn cut(shared: &Arc<Shared>, rows: &[OutboxRow]) -> Result<Vec<OutboxRow>, StoreError> {
    Ok(trying!(shared, in_log(shared, rows.to_vec())))
}

/// Cuts rows down to what is in the log: a commit in pieces may have left its row and no message.
pub(super) async fn in_log(shared: &Shared, mut rows: Vec<OutboxRow>) -> Result<Vec<OutboxRow>, Trouble> {
    let mut read = shared.kv.snapshot().await?;
    let convs: BTreeSet<ConvKey> = named(&rows).into_values().flatten().collect();
    let wanted = convs.iter().map(|conv| shared.keys.head(conv)).collect();
    let found: HashMap<Vec<u8>, Vec<u8>> = read.many(wanted).await?.into_iter().collect();
    let mut heads = HashMap::new();
    for conv in convs {
        let key = shared.keys.head(&conv);
        if let Some(value) = found.get(&key) {
            heads.insert(conv, HeadRow::decode(&key, value)?.head.seq);
        }
    }
    for row in &mut rows {
        row.entries.retain_mut(|(app, conv, first, last)| {
            let head = heads.get(&(*app, conv.clone())).copied().unwrap_or(0);
            *last = (*last).min(head);
            first <= last
        });
    }
    Ok(rows)
}
