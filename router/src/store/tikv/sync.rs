//! What changed for a user since a cursor, on TiKV: the same walk as in the embedded store, by ranges.
//!
//! The cursor is the embedded store's; where that has a conversation's number this has its tag, a hash. Conversations of
//! one tag are never parted by the end of a page.

use std::collections::HashMap;

use corelane_protocol::frame::body::ConvState;
use corelane_protocol::id::{AppId, UserId};
use corelane_protocol::limits::PAGE_BYTES;
use corelane_router_core::decide;

use super::super::sync::{Cursor, Part, STATE_BYTES};
use super::super::{StoreError, Synced};
use super::client::{Counted, Read, Rows as _};
use super::keys::{ConvKey, Keys, Table, tag};
use super::read::Trouble;
use super::rows::{HeadRow, MemberRow, MessageRow, Value};

/// Rows looked at together: last messages are read with them.
const STEP: usize = 32;

/// Who asks, and when.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) app: AppId,
    pub(super) user: &'a UserId,
    pub(super) epoch: u64,
    pub(super) open_bucket: u64,
}

/// One page.
pub(super) async fn sync(
    read: &mut Counted<'_, Read>,
    keys: &Keys,
    asked: &Asked<'_>,
    cursor: &[u8],
    limit: u16,
) -> Result<Synced, Trouble> {
    let mut cursor = Cursor::begin(cursor, asked.epoch, asked.open_bucket)?;
    let mut page = Page {
        keys,
        asked,
        conversations: Vec::new(),
        bytes: 0,
        limit: usize::from(limit.max(1)),
    };
    loop {
        if page.walk(read, &mut cursor).await? {
            return Ok(Synced {
                cursor: cursor.encode(),
                more: true,
                conversations: page.conversations,
                rows_read: read.rows,
            });
        }
        match cursor.part {
            Part::Recent => cursor.enter(Part::Changed),
            Part::Changed => cursor.enter(Part::Large),
            Part::Large | Part::Idle => break,
        }
    }
    Ok(Synced {
        cursor: cursor.end(decide::since_after(cursor.began)).encode(),
        more: false,
        conversations: page.conversations,
        rows_read: read.rows,
    })
}

/// A row of the walk: where it stands, and its conversation.
#[derive(Debug)]
struct Step {
    bucket: u64,
    tag: u64,
    conv: ConvKey,
}

/// A conversation as it is stored, and the user's row in it.
#[derive(Debug)]
struct State {
    conv: ConvKey,
    head: HeadRow,
    member: MemberRow,
}

struct Page<'a> {
    keys: &'a Keys,
    asked: &'a Asked<'a>,
    conversations: Vec<ConvState>,
    bytes: usize,
    limit: usize,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.conversations.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// Goes on through a part; true if the page is full before it ends.
    async fn walk(&mut self, read: &mut Counted<'_, Read>, cursor: &mut Cursor) -> Result<bool, Trouble> {
        loop {
            let (steps, is_last) = self.steps(read, cursor).await?;
            let states = self.states(read, &steps).await?;
            let wanted: Vec<Option<State>> = states
                .into_iter()
                .map(|state| state.filter(|state| is_wanted(state, &*cursor)))
                .collect();
            let lasts = self.last_messages(read, &wanted).await?;
            for ((step, state), last) in steps.into_iter().zip(wanted).zip(lasts) {
                let is_apart = (step.bucket, step.tag) != (cursor.bucket, cursor.conv);
                if self.is_full() && is_apart {
                    return Ok(true);
                }
                (cursor.bucket, cursor.conv) = (step.bucket, step.tag);
                if let Some(state) = state {
                    self.add(state, last);
                }
            }
            if is_last {
                return Ok(false);
            }
        }
    }

    /// The next rows behind the cursor, and whether they are the last. Rows of one place stay together.
    async fn steps(
        &self,
        read: &mut Counted<'_, Read>,
        cursor: &Cursor,
    ) -> Result<(Vec<Step>, bool), Trouble> {
        let (app, user) = (self.asked.app, self.asked.user);
        let table = match cursor.part {
            Part::Recent => Table::Recent,
            Part::Changed => Table::Changed,
            Part::Large | Part::Idle => Table::Large,
        };
        let range = if table == Table::Large {
            self.keys.large_above(app, user, cursor.conv)
        } else {
            let below = (cursor.bucket, cursor.conv);
            self.keys.listed_below(table, (app, user), cursor.since, below)
        };
        // One more than there is room for: who goes on must know that something follows.
        let room = self.limit.saturating_sub(self.conversations.len());
        let mut limit = u32::try_from((room + 1).clamp(2, STEP)).unwrap_or(2);
        loop {
            let found = read.scan(range.clone(), limit).await?;
            let is_last = found.len() < limit as usize;
            let mut steps = found
                .iter()
                .map(|(key, _)| self.step(table, key))
                .collect::<Result<Vec<Step>, StoreError>>()?;
            if is_last {
                return Ok((steps, true));
            }
            // The last place may go on behind the limit.
            let end = steps.last().map(|step| (step.bucket, step.tag));
            let whole = steps
                .iter()
                .filter(|step| Some((step.bucket, step.tag)) != end)
                .count();
            if whole > 0 {
                steps.truncate(whole);
                return Ok((steps, false));
            }
            limit = limit.saturating_mul(2);
        }
    }

    fn step(&self, table: Table, key: &[u8]) -> Result<Step, StoreError> {
        let damaged = || StoreError::Damaged {
            what: format!("list row {}", key.escape_ascii()),
            problem: "its key names no conversation".to_owned(),
        };
        let conv = self.keys.conv_of(key).ok_or_else(damaged)?;
        let (bucket, tag) = if table == Table::Large {
            (0, tag(&conv))
        } else {
            self.keys
                .place_of(table, self.asked.app, self.asked.user, key)
                .ok_or_else(damaged)?
        };
        Ok(Step { bucket, tag, conv })
    }

    async fn states(
        &self,
        read: &mut Counted<'_, Read>,
        steps: &[Step],
    ) -> Result<Vec<Option<State>>, Trouble> {
        let user = self.asked.user;
        let mut wanted: Vec<Vec<u8>> = Vec::with_capacity(2 * steps.len());
        for step in steps {
            wanted.push(self.keys.head(&step.conv));
            wanted.push(self.keys.member(&step.conv, user));
        }
        let found: HashMap<_, _> = read.many(wanted).await?.into_iter().collect();
        let state = |step: &Step| {
            let key = self.keys.head(&step.conv);
            // A row of a commit that is in pieces: its conversation has no head yet.
            let Some(head) = found.get(&key) else {
                return Ok(None);
            };
            let head = HeadRow::decode(&key, head)?;
            let key = self.keys.member(&step.conv, user);
            let member = found.get(&key).map(|value| MemberRow::decode(&key, value));
            let member = member.transpose()?.unwrap_or_default();
            // The same of a change of members: the group is not his, or not yet.
            if step.conv.1.is_group() && member.join_seq == 0 {
                return Ok(None);
            }
            let conv = step.conv.clone();
            Ok(Some(State { conv, head, member }))
        };
        Ok(steps.iter().map(state).collect::<Result<_, StoreError>>()?)
    }

    /// The last message of each conversation that its user may see.
    async fn last_messages(
        &self,
        read: &mut Counted<'_, Read>,
        states: &[Option<State>],
    ) -> Result<Vec<Option<MessageRow>>, Trouble> {
        let wanted = states.iter().flatten().map(|state| self.last_key(state));
        let found: HashMap<_, _> = read.many(wanted.collect()).await?.into_iter().collect();
        let last = |state: &Option<State>| {
            let state = state.as_ref()?;
            let key = self.last_key(state);
            match found.get(&key).map(|value| MessageRow::decode(&key, value)) {
                Some(Ok(message)) => Some(message),
                // One damaged message does not keep a user from all his others: pulling it says what is wrong.
                Some(Err(error)) => {
                    tracing::error!(%error, "a conversation is listed without its last message");
                    None
                }
                None if top(state) > state.head.head.floor_seq => {
                    let (conv, seq) = (&state.conv.1, top(state));
                    tracing::error!(%conv, seq, "the last message is missing; it is listed without");
                    None
                }
                None => None,
            }
        };
        Ok(states.iter().map(last).collect())
    }

    fn last_key(&self, state: &State) -> Vec<u8> {
        self.keys.message(&state.conv, top(state))
    }

    fn add(&mut self, state: State, last: Option<MessageRow>) {
        let head = state.head.head;
        let member = &state.member;
        let top = top(&state);
        // What was said before he came is not his: it is cut as by retention.
        let floor_seq = head.floor_seq.max(member.join_seq.saturating_sub(1));
        let without = if member.leave_seq > 0 {
            member.read_n
        } else {
            head.n
        };
        let (n, mut last) = last.map_or((without, Vec::new()), |message| (message.n, message.frame));
        if top <= floor_seq {
            last.clear();
        }
        self.bytes += STATE_BYTES + last.len();
        self.conversations.push(ConvState {
            conv: state.conv.1.as_bytes().to_vec(),
            head_seq: top,
            head_n: n,
            floor_seq,
            conv_version: head.conv_version,
            read_seq: member.read_seq,
            read_n: member.read_n,
            last,
        });
    }
}

/// Who left sees the group as it was before his leave.
fn top(state: &State) -> u64 {
    match state.member.leave_seq {
        0 => state.head.head.seq,
        leave_seq => leave_seq - 1,
    }
}

fn is_wanted(state: &State, cursor: &Cursor) -> bool {
    let bucket = state.head.head.recent_bucket;
    match cursor.part {
        Part::Recent => true,
        // Who is in a conversation that moved since finds it among the recent ones.
        Part::Changed => state.member.leave_seq > 0 || state.head.large || bucket < cursor.since,
        Part::Large | Part::Idle => bucket >= cursor.since,
    }
}
