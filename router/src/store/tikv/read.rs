//! What is read of one conversation: its messages, its members.

use corelane_protocol::id::UserId;
use corelane_protocol::limits::PAGE_BYTES;
use corelane_router_core::append::{Head, Member};

use super::super::{Members, Pulled, Readable, StoreError};
use super::client::{Read, Rows};
use super::fault::Fault;
use super::keys::{ConvKey, Keys};
use super::known::stays;
use super::rows::{HeadRow, MemberRow, MessageRow, Value};

/// Messages of the first read of a page; later ones are as many as fit by the size of those before.
const PULL_FIRST: u64 = 32;

/// Why something could not be read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection's: try again.
    Fault(Fault),
    /// An answer.
    Store(StoreError),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The head of a conversation.
async fn head(read: &mut Read, keys: &Keys, conv: &ConvKey) -> Result<Option<HeadRow>, Trouble> {
    let key = keys.head(conv);
    let found = read.many(vec![key.clone()]).await?;
    let head = found.first().map(|(_, value)| HeadRow::decode(&key, value));
    Ok(head.transpose()?)
}

/// Messages of a range, as far as one page goes.
pub(super) async fn pull(
    read: &mut Read,
    keys: &Keys,
    conv: &ConvKey,
    (from, to): (u64, u64),
    limit: u16,
) -> Result<Pulled, Trouble> {
    let head = head(read, keys, conv).await?;
    let head = head.map_or_else(Head::default, |row| row.head);
    if from > head.seq + 1 {
        return Err(StoreError::Ahead.into());
    }
    let mut pulled = Pulled {
        messages: Vec::new(),
        next_seq: 0,
        head,
    };
    let (from, to) = (from.max(head.floor_seq + 1), to.min(head.seq));
    if from > to {
        return Ok(pulled);
    }
    let limit = u64::from(limit.max(1));
    let (mut bytes, mut stored, mut expected, mut step) = (0, 0, from, PULL_FIRST);
    'page: while expected <= to && (pulled.messages.len() as u64) < limit && bytes < PAGE_BYTES {
        let left = limit - pulled.messages.len() as u64;
        let end = to.min(expected + step.min(left) - 1);
        let range = (keys.message(conv, expected), keys.message(conv, end + 1));
        let found = read
            .scan(range, u32::try_from(end - expected + 1).unwrap_or(u32::MAX))
            .await?;
        for (key, value) in found {
            if keys.seq_of(conv, &key) != Some(expected) {
                break;
            }
            let message = MessageRow::decode(&key, &value)?;
            if bytes > 0 && bytes + message.frame.len() > PAGE_BYTES {
                break 'page;
            }
            bytes += message.frame.len();
            stored += value.len();
            pulled.messages.push((expected, message.frame));
            expected += 1;
        }
        if expected <= end {
            return Err(missing(conv, expected).into());
        }
        // A change of members is longer than its frame.
        let mean = stored / pulled.messages.len().max(1) + 1;
        step = (PAGE_BYTES.saturating_sub(bytes) / mean) as u64 + 1;
    }
    pulled.next_seq = if expected <= to { expected } else { 0 };
    Ok(pulled)
}

fn missing(conv: &ConvKey, seq: u64) -> StoreError {
    StoreError::Damaged {
        what: format!("message seq {seq} of {}", conv.1),
        problem: "is missing".to_owned(),
    }
}

/// Members of a group, and who left it at `since` or later; of a direct conversation its users, with version 0.
pub(super) async fn members(
    read: &mut Read,
    keys: &Keys,
    conv: &ConvKey,
    since: u64,
) -> Result<Members, Trouble> {
    if let Some((small, large)) = conv.1.direct_users() {
        let users = if small == large {
            vec![small]
        } else {
            vec![small, large]
        };
        let stays = users.into_iter().map(|user| Member {
            user,
            join_seq: 1,
            leave_seq: 0,
        });
        return Ok(Members {
            version: 0,
            stays: stays.collect(),
        });
    }
    let Some(head) = head(read, keys, conv).await? else {
        return Ok(Members::default());
    };
    let stays = stays(read, keys, conv).await??;
    let mut stays: Vec<Member> = stays
        .into_iter()
        .filter(|(_, row)| row.join_seq > 0 && (row.leave_seq == 0 || row.leave_seq >= since))
        .map(|(user, row)| Member {
            user,
            join_seq: row.join_seq,
            leave_seq: row.leave_seq,
        })
        .collect();
    // Keys stand by length first.
    stays.sort_by(|one, other| one.user.cmp(&other.user));
    Ok(Members {
        version: head.head.conv_version,
        stays,
    })
}

/// What a user may read: from his join on, and what lies below his leave for who is no member any more.
pub(super) async fn readable(
    read: &mut Read,
    keys: &Keys,
    conv: &ConvKey,
    user: &UserId,
) -> Result<Option<Readable>, Trouble> {
    let mut readable = Readable {
        first: 1,
        last: u64::MAX,
        last_n: 0,
    };
    if let Some((small, large)) = conv.1.direct_users() {
        return Ok((small == *user || large == *user).then_some(readable));
    }
    let key = keys.member(conv, user);
    let found = read.many(vec![key.clone()]).await?;
    let Some((_, value)) = found.first() else {
        return Ok(None);
    };
    let row = MemberRow::decode(&key, value)?;
    if row.join_seq == 0 {
        return Ok(None);
    }
    readable.first = row.join_seq;
    if row.leave_seq > 0 {
        readable.last = row.leave_seq - 1;
        let key = keys.message(conv, readable.last);
        let found = read.many(vec![key.clone()]).await?;
        if let Some((_, value)) = found.first() {
            readable.last_n = MessageRow::decode(&key, value)?.n;
        }
    }
    Ok(Some(readable))
}
