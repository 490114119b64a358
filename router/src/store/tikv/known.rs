//! What a transaction read before it decides: heads, ids, stays, member lists.
//!
//! Everything that the batch names is read at once; what that points to (the messages of ids that are known, the members
//! of groups whose rows move) follows in a second step. A damaged row does not fail the transaction: it refuses what
//! depends on it.

use std::collections::{BTreeSet, HashMap};

use corelane_protocol::frame::kind;
use corelane_protocol::id::{ClientMsgId, UserId};
use corelane_router_core::append::{Append, Dedupe};
use corelane_router_core::decide::RECENT_BUCKET_MS;

use super::super::StoreError;
use super::client::Rows;
use super::fault::Fault;
use super::keys::{ConvKey, Keys};
use super::rows::{DedupeRow, DeliveredRow, ForgottenRow, HeadRow, MemberRow, MessageRow, Value};

/// A group with more members than this has no recent rows.
pub(super) const LARGE_GROUP_MEMBERS: u64 = 500;

/// The key of a dedupe row: conversation, sender, id.
pub(super) type Identity = (ConvKey, UserId, ClientMsgId);

/// What is known of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// Its message is there, with this frame.
    Counts(Dedupe, Vec<u8>),
    /// The row is there and its message is another's or missing: the row is replaced.
    Stale,
    /// Its message was cut by retention.
    Cut,
    /// Its message is damaged.
    Damaged(StoreError),
}

/// What is to be read.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) convs: BTreeSet<ConvKey>,
    pub(super) sent: BTreeSet<Identity>,
    pub(super) members: BTreeSet<(ConvKey, UserId)>,
    pub(super) messages: BTreeSet<(ConvKey, u64)>,
    /// Keys of delivered marks.
    pub(super) delivered: BTreeSet<Vec<u8>>,
    /// Members who join each group.
    joins: HashMap<ConvKey, u64>,
}

impl Wanted {
    /// What deciding about a message needs.
    pub(super) fn append(&mut self, append: &Append) {
        let conv = (append.app, append.conv.clone());
        self.convs.insert(conv.clone());
        self.sent
            .insert((conv.clone(), append.sender.clone(), append.client_msg_id));
        if append.moves_read_mark || (append.conv.is_group() && append.check_member) {
            self.members.insert((conv.clone(), append.sender.clone()));
        }
        if append.kind == kind::GROUP_CHANGE {
            for user in append.members.join.iter().chain(&append.members.leave) {
                self.members.insert((conv.clone(), user.clone()));
            }
            *self.joins.entry(conv).or_default() += append.members.join.len() as u64;
        }
    }

    fn keys(&self, keys: &Keys) -> Vec<Vec<u8>> {
        let mut wanted: Vec<Vec<u8>> = self.convs.iter().map(|conv| keys.head(conv)).collect();
        wanted.extend(
            self.sent
                .iter()
                .map(|(conv, sender, id)| keys.dedupe(conv, sender.as_str(), *id)),
        );
        wanted.extend(self.members.iter().map(|(conv, user)| keys.member(conv, user)));
        wanted.extend(self.messages.iter().map(|(conv, seq)| keys.message(conv, *seq)));
        wanted.extend(self.delivered.iter().cloned());
        wanted.extend(self.forgotten(keys));
        wanted
    }

    /// The row that says which ids are forgotten. All that is wanted is of one lane.
    fn forgotten(&self, keys: &Keys) -> Option<Vec<u8>> {
        let (conv, ..) = self.sent.first()?;
        Some(keys.forgotten(keys.lane(conv)))
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) heads: HashMap<ConvKey, Result<HeadRow, StoreError>>,
    pub(super) sent: HashMap<Identity, Sent>,
    pub(super) members: HashMap<(ConvKey, UserId), MemberRow>,
    /// Who is in a group; only of groups whose lists may change.
    pub(super) lists: HashMap<ConvKey, BTreeSet<UserId>>,
    pub(super) messages: HashMap<(ConvKey, u64), Result<MessageRow, StoreError>>,
    pub(super) delivered: HashMap<Vec<u8>, u64>,
    /// Ids up to this time may be forgotten.
    pub(super) forgotten_ms: u64,
}

impl Known {
    /// Reads what is wanted. `now_ms` says which groups' rows move.
    ///
    /// # Errors
    ///
    /// The connection's: nothing is known.
    pub(super) async fn load<R: Rows>(
        rows: &mut R,
        keys: &Keys,
        wanted: &Wanted,
        now_ms: u64,
    ) -> Result<Self, Fault> {
        let found: HashMap<Vec<u8>, Vec<u8>> = rows.many(wanted.keys(keys)).await?.into_iter().collect();
        let mut known = Self::default();
        known.take_heads(keys, wanted, &found);
        known.take_marks(keys, wanted, &found);
        known.take_forgotten(wanted.forgotten(keys), &found);
        known.load_sent(rows, keys, wanted, &found).await?;
        known.load_lists(rows, keys, wanted, now_ms).await?;
        Ok(known)
    }

    /// The head of a conversation; `None` if nothing was ever stored in it.
    pub(super) fn head(&self, conv: &ConvKey) -> Result<Option<HeadRow>, StoreError> {
        self.heads.get(conv).cloned().transpose()
    }

    fn take_heads(&mut self, keys: &Keys, wanted: &Wanted, found: &HashMap<Vec<u8>, Vec<u8>>) {
        for conv in &wanted.convs {
            let key = keys.head(conv);
            if let Some(value) = found.get(&key) {
                self.heads.insert(conv.clone(), HeadRow::decode(&key, value));
            }
        }
        for (conv, user) in &wanted.members {
            let key = keys.member(conv, user);
            let Some(value) = found.get(&key) else { continue };
            match MemberRow::decode(&key, value) {
                Ok(row) => {
                    self.members.insert((conv.clone(), user.clone()), row);
                }
                Err(damage) => {
                    self.heads.insert(conv.clone(), Err(damage));
                }
            }
        }
    }

    fn take_marks(&mut self, keys: &Keys, wanted: &Wanted, found: &HashMap<Vec<u8>, Vec<u8>>) {
        for (conv, seq) in &wanted.messages {
            let key = keys.message(conv, *seq);
            if let Some(value) = found.get(&key) {
                self.messages
                    .insert((conv.clone(), *seq), MessageRow::decode(&key, value));
            }
        }
        for key in &wanted.delivered {
            // A damaged mark is written anew.
            if let Some(DeliveredRow(seq)) = found
                .get(key)
                .and_then(|value| DeliveredRow::decode(key, value).ok())
            {
                self.delivered.insert(key.clone(), seq);
            }
        }
    }

    fn take_forgotten(&mut self, key: Option<Vec<u8>>, found: &HashMap<Vec<u8>, Vec<u8>>) {
        let Some(key) = key else { return };
        match found.get(&key).map(|value| ForgottenRow::decode(&key, value)) {
            Some(Ok(ForgottenRow(time_ms))) => self.forgotten_ms = time_ms,
            // The clock of the store decides alone, as where nothing was forgotten yet.
            Some(Err(error)) => tracing::error!(%error, "which ids are forgotten cannot be read"),
            None => {}
        }
    }

    /// Conversations whose heads do not know all their messages: ids name places above them.
    pub(super) fn torn(&self) -> impl Iterator<Item = &ConvKey> {
        self.sent.iter().filter_map(|((conv, ..), sent)| {
            let head_seq = match self.heads.get(conv) {
                None => 0,
                Some(Ok(head)) => head.head.seq,
                Some(Err(_)) => return None,
            };
            matches!(sent, Sent::Counts(dedupe, _) if dedupe.seq > head_seq).then_some(conv)
        })
    }

    /// A repeat is answered only if its message is there, so the messages are read too.
    async fn load_sent<R: Rows>(
        &mut self,
        rows: &mut R,
        keys: &Keys,
        wanted: &Wanted,
        found: &HashMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), Fault> {
        let mut hits = Vec::new();
        for identity in &wanted.sent {
            let (conv, sender, id) = identity;
            let key = keys.dedupe(conv, sender.as_str(), *id);
            let Some(value) = found.get(&key) else { continue };
            match DedupeRow::decode(&key, value) {
                Ok(row) => hits.push((identity, row)),
                Err(damage) => {
                    self.sent.insert(identity.clone(), Sent::Damaged(damage));
                }
            }
        }
        let places = hits.iter().map(|((conv, ..), row)| keys.message(conv, row.seq));
        let messages: HashMap<Vec<u8>, Vec<u8>> = rows.many(places.collect()).await?.into_iter().collect();
        for (identity, row) in hits {
            let key = keys.message(&identity.0, row.seq);
            let floor_seq = match self.heads.get(&identity.0) {
                Some(Ok(head)) => head.head.floor_seq,
                _ => 0,
            };
            let sent = match messages.get(&key).map(|value| MessageRow::decode(&key, value)) {
                None if row.seq <= floor_seq => Sent::Cut,
                None => Sent::Stale,
                Some(Err(damage)) => Sent::Damaged(damage),
                Some(Ok(message)) => counted(identity, row, message),
            };
            self.sent.insert(identity.clone(), sent);
        }
        Ok(())
    }

    async fn load_lists<R: Rows>(
        &mut self,
        rows: &mut R,
        keys: &Keys,
        wanted: &Wanted,
        now_ms: u64,
    ) -> Result<(), Fault> {
        for conv in &wanted.convs {
            if !conv.1.is_group() {
                continue;
            }
            let joins = wanted.joins.get(conv).copied();
            match self.heads.get(conv) {
                None => {
                    self.lists.insert(conv.clone(), BTreeSet::new());
                }
                Some(Ok(head))
                    if !head.large
                        && (now_ms / RECENT_BUCKET_MS > head.head.recent_bucket
                            || joins.is_some_and(|joins| head.members + joins > LARGE_GROUP_MEMBERS)) =>
                {
                    match present(rows, keys, conv).await? {
                        Ok(list) => {
                            self.lists
                                .insert(conv.clone(), list.into_iter().map(|(user, _)| user).collect());
                        }
                        Err(damage) => {
                            self.heads.insert(conv.clone(), Err(damage));
                        }
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn counted((_, sender, id): &Identity, row: DedupeRow, message: MessageRow) -> Sent {
    if message.sender != sender.as_str() || message.client_id != id.0 {
        return Sent::Stale;
    }
    let dedupe = Dedupe {
        seq: row.seq,
        n: message.n,
        time_ms: message.time_ms,
        hash: message.hash,
    };
    Sent::Counts(dedupe, message.frame)
}

/// Who is in a group now.
///
/// # Errors
///
/// Outside the connection's, inside [`StoreError::Damaged`].
pub(super) async fn present<R: Rows>(
    rows: &mut R,
    keys: &Keys,
    conv: &ConvKey,
) -> Result<Result<Vec<(UserId, MemberRow)>, StoreError>, Fault> {
    let mut list = stays(rows, keys, conv).await?;
    if let Ok(list) = &mut list {
        list.retain(|(_, row)| row.is_present());
    }
    Ok(list)
}

/// Everybody who is or was in a group.
///
/// # Errors
///
/// Outside the connection's, inside [`StoreError::Damaged`].
pub(super) async fn stays<R: Rows>(
    rows: &mut R,
    keys: &Keys,
    conv: &ConvKey,
) -> Result<Result<Vec<(UserId, MemberRow)>, StoreError>, Fault> {
    let found = rows.all(keys.members(conv)).await?;
    let rows = found.into_iter().map(|(key, value)| {
        let user = keys.user_of(conv, &key).ok_or_else(|| StoreError::Damaged {
            what: format!("member list of {}", conv.1),
            problem: "a key in it names no user".to_owned(),
        })?;
        Ok((user, MemberRow::decode(&key, &value)?))
    });
    Ok(rows.collect())
}
