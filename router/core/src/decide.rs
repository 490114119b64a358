//! Stage persist, the rules: what the log takes, refuses, or knows already.
//!
//! Pure: the store reads [`Facts`] inside its transaction, asks [`decide`], and writes exactly what it answers. So every
//! adapter keeps the same promise: seq dense from 1, exactly once per (conversation, sender, id), another body with
//! a known id refused.
//!
//! Owns nothing. When something is full: a group takes no members beyond `GROUP_MEMBERS_MAX`, and a conversation no
//! messages beyond `SEQ_MAX`; both are refused for good.

use corelane_protocol::frame::body::Message;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::read::{HashedSend, send_hash};
use corelane_protocol::frame::{FrameKind, encode_with, kind};
use corelane_protocol::id::ConvKind;
use corelane_protocol::limits::{GROUP_MEMBERS_MAX, SEQ_MAX};

use crate::append::{Append, Appended, Facts, Head};
use crate::planted::Bug;

/// Ids older than this are refused: the store may have forgotten what it knew of them. In ms.
pub const DEDUPE_RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;
/// Length of a bucket of the recent index, in ms.
pub const RECENT_BUCKET_MS: u64 = 5 * 60 * 1000;
/// Buckets that a sync cursor lags behind the one in which its sync began. A transaction that is longer on its way than
/// one of them is seen by no sync.
const CURSOR_LAG_BUCKETS: u64 = 2;

/// What to do with one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Write it.
    Store(Row),
    /// It is stored already: answer as then.
    Repeat(Appended),
    /// Do not store it.
    Refuse(ErrorCode, String),
}

/// What to write for a message that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The conversation's head with this message.
    pub head: Head,
    /// Its place.
    pub seq: u64,
    /// Countable messages up to it.
    pub n: u64,
    /// Store time, ms since 1970.
    pub time_ms: u64,
    /// Hash of what it says.
    pub hash: u64,
    /// The `Message` frame.
    pub frame: Vec<u8>,
    /// Bucket that the members' recent rows stand in before this message, if they must be moved to the head's.
    pub move_recent_from: Option<u64>,
}

/// Hash of what a message says, for telling a repeat from a conflict.
pub fn content_hash(append: &Append) -> u64 {
    let view = HashedSend {
        kind: append.kind,
        flags: append.flags,
        ref_seq: append.ref_seq,
        content_type: append.content_type,
        payload: &append.payload,
        extensions: &append.extensions,
    };
    send_hash(&append.conv, &view)
}

/// The lowest bucket that must be looked at by the sync after one that began in bucket `began`: what was on its way then
/// stands in none below it.
pub fn since_after(began: u64) -> u64 {
    let lag = if Bug::CursorWithoutLag.is_planted() {
        0
    } else {
        CURSOR_LAG_BUCKETS
    };
    began.saturating_sub(lag)
}

/// Oldest id that is taken, in ms since 1970: what is known of older ones may be forgotten.
///
/// Counts from the earlier of the store's clock, which never goes back, and the machine's: a clock that once ran ahead and
/// was mended would else make every id of today too old. What was forgotten meanwhile (ids up to `forgotten_ms`) stays
/// refused.
pub fn oldest_id_ms(store_ms: u64, wall_ms: u64, forgotten_ms: u64) -> u64 {
    store_ms
        .min(wall_ms)
        .saturating_sub(DEDUPE_RETENTION_MS)
        .max(forgotten_ms.saturating_add(u64::from(forgotten_ms > 0)))
}

/// Decides about one message. `now_ms` is the store's clock, `oldest_id_ms` comes from [`oldest_id_ms`].
pub fn decide(append: &Append, facts: &Facts, now_ms: u64, oldest_id_ms: u64) -> Decision {
    let hash = content_hash(append);
    if let Some(known) = facts.dedupe.as_ref().filter(|_| !Bug::DedupeSkipped.is_planted()) {
        if known.hash != hash && !Bug::ConflictAnswered.is_planted() {
            let text = format!(
                "this id was used for another message, seq {} of {}",
                known.seq, append.conv
            );
            return Decision::Refuse(ErrorCode::Conflict, text);
        }
        return Decision::Repeat(Appended::Stored {
            seq: known.seq,
            n: known.n,
            time_ms: known.time_ms,
            frame: Vec::new(),
            member_version: facts.head.map_or(0, |head| head.conv_version),
            repeated: true,
        });
    }
    match refusal(append, facts, oldest_id_ms) {
        Some((code, text)) => Decision::Refuse(code, text),
        None => Decision::Store(row(append, facts, now_ms, hash)),
    }
}

fn refusal(append: &Append, facts: &Facts, oldest_id_ms: u64) -> Option<(ErrorCode, String)> {
    if append.client_msg_id.time_ms() < oldest_id_ms {
        let days = DEDUPE_RETENTION_MS / (24 * 3600 * 1000);
        return Some((
            ErrorCode::StaleId,
            format!("the id was made more than {days} days ago; send with a new one"),
        ));
    }
    let head = facts.head.unwrap_or_default();
    if let ConvKind::Group(group) = append.conv.kind() {
        let exists = facts.head.is_some();
        if append.members.create && exists {
            return Some((ErrorCode::Conflict, format!("group {group} exists already")));
        }
        if !append.members.create && !exists {
            return Some((ErrorCode::UnknownGroup, format!("there is no group {group}")));
        }
        let members = usize::try_from(facts.member_count).unwrap_or(usize::MAX);
        if !append.members.join.is_empty()
            && members.saturating_add(append.members.join.len()) > GROUP_MEMBERS_MAX
        {
            let text = format!(
                "{} members and {members} there already are too many, allowed are {GROUP_MEMBERS_MAX}",
                append.members.join.len()
            );
            return Some((ErrorCode::TooLarge, text));
        }
        if append.check_member && !facts.sender_is_member {
            return Some((
                ErrorCode::NotMember,
                format!("{} is not a member of group {group}", append.sender),
            ));
        }
    }
    if append.ref_seq > head.seq {
        let text = format!("ref_seq is {}, the last message has {}", append.ref_seq, head.seq);
        return Some((ErrorCode::Ahead, text));
    }
    if head.seq >= SEQ_MAX {
        return Some((ErrorCode::Rejected, "the conversation is full".to_owned()));
    }
    None
}

fn row(append: &Append, facts: &Facts, now_ms: u64, hash: u64) -> Row {
    let before = facts.head.unwrap_or_default();
    let seq = before.seq + 1;
    let counts = kind::is_countable(append.kind, append.flags) || Bug::ControlCounted.is_planted();
    let n = before.n + u64::from(counts);
    let bucket = now_ms / RECENT_BUCKET_MS;
    let changes_members = append.kind == kind::GROUP_CHANGE;
    let head = Head {
        seq,
        n,
        floor_seq: before.floor_seq,
        conv_version: if changes_members { seq } else { before.conv_version },
        recent_bucket: bucket.max(before.recent_bucket),
    };
    let message = Message {
        conv: append.conv.as_bytes().to_vec(),
        seq,
        n,
        sender: append.sender.as_str().to_owned(),
        kind: append.kind,
        flags: append.flags,
        ref_seq: append.ref_seq,
        origin_terminal: append.origin_terminal,
        origin_device: append.origin_device.clone(),
        client_msg_id: append.client_msg_id.0,
        time_ms: now_ms,
        content_type: append.content_type,
        payload: append.payload.clone(),
    };
    let is_later = head.recent_bucket != before.recent_bucket && !Bug::RecentNotMoved.is_planted();
    let moves = facts.head.is_none() || is_later;
    Row {
        head,
        seq,
        n,
        time_ms: now_ms,
        hash,
        frame: encode_with(FrameKind::Message, 0, 0, &message, &append.extensions),
        move_recent_from: moves.then_some(before.recent_bucket),
    }
}

#[cfg(test)]
mod tests {
    use corelane_protocol::id::{AppId, ClientMsgId, ConvId, GroupId, UserId};

    use super::*;
    use crate::append::{Dedupe, MemberChange};

    const NOW_MS: u64 = 1_800_000_000_000;

    fn append(conv: ConvId) -> Append {
        let mut id = [7; 16];
        id[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
        Append {
            app: AppId(0),
            conv,
            sender: UserId::new("alice").unwrap(),
            client_msg_id: ClientMsgId(id),
            kind: kind::TEXT,
            flags: 0,
            ref_seq: 0,
            content_type: 1,
            payload: b"hello".to_vec(),
            extensions: Vec::new(),
            origin_terminal: 1,
            origin_device: String::new(),
            members: MemberChange::default(),
            check_member: true,
            moves_read_mark: true,
        }
    }

    fn decide_at(append: &Append, facts: &Facts, now_ms: u64) -> Decision {
        decide(append, facts, now_ms, oldest_id_ms(now_ms, now_ms, 0))
    }

    fn direct() -> ConvId {
        ConvId::direct(&UserId::new("alice").unwrap(), &UserId::new("bob").unwrap())
    }

    #[test]
    fn seq_is_dense_and_control_does_not_count() {
        let head = Head {
            seq: 4,
            n: 3,
            ..Head::default()
        };
        let facts = Facts {
            head: Some(head),
            ..Facts::default()
        };
        let Decision::Store(row) = decide_at(&append(direct()), &facts, NOW_MS) else {
            panic!()
        };
        assert_eq!((row.seq, row.n), (5, 4));
        let recall = Append {
            kind: kind::RECALL,
            ref_seq: 2,
            ..append(direct())
        };
        let Decision::Store(row) = decide_at(&recall, &facts, NOW_MS) else {
            panic!()
        };
        assert_eq!((row.seq, row.n), (5, 3));
    }

    #[test]
    fn a_repeat_gets_the_first_answer_and_another_body_a_conflict() {
        let first = append(direct());
        let known = Dedupe {
            seq: 3,
            n: 2,
            time_ms: 9,
            hash: content_hash(&first),
        };
        let facts = Facts {
            dedupe: Some(known),
            ..Facts::default()
        };
        assert!(matches!(
            decide_at(&first, &facts, NOW_MS),
            Decision::Repeat(Appended::Stored {
                seq: 3,
                n: 2,
                time_ms: 9,
                repeated: true,
                ..
            })
        ));
        let other = Append {
            payload: b"other".to_vec(),
            ..first
        };
        assert!(matches!(
            decide_at(&other, &facts, NOW_MS),
            Decision::Refuse(ErrorCode::Conflict, _)
        ));
    }

    #[test]
    fn groups_are_for_members() {
        let group = ConvId::group(&GroupId::new("team").unwrap());
        let facts = Facts::default();
        let refused = |append: &Append, facts: &Facts| match decide_at(append, facts, NOW_MS) {
            Decision::Refuse(code, _) => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&append(group.clone()), &facts), ErrorCode::UnknownGroup);
        let facts = Facts {
            head: Some(Head::default()),
            ..facts
        };
        assert_eq!(refused(&append(group), &facts), ErrorCode::NotMember);
    }

    #[test]
    fn a_group_is_made_once_changes_its_version_and_has_a_bound() {
        let group = ConvId::group(&GroupId::new("team").unwrap());
        let change = Append {
            kind: kind::GROUP_CHANGE,
            members: MemberChange {
                create: true,
                join: vec![UserId::new("bob").unwrap()],
                leave: Vec::new(),
            },
            check_member: false,
            ..append(group)
        };
        let Decision::Store(row) = decide_at(&change, &Facts::default(), NOW_MS) else {
            panic!()
        };
        assert_eq!((row.seq, row.n, row.head.conv_version), (1, 0, 1));
        let facts = Facts {
            head: Some(row.head),
            member_count: GROUP_MEMBERS_MAX as u64,
            ..Facts::default()
        };
        let code = |append: &Append| match decide_at(append, &facts, NOW_MS) {
            Decision::Refuse(code, _) => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&change), ErrorCode::Conflict);
        let mut more = change.clone();
        more.members.create = false;
        assert_eq!(code(&more), ErrorCode::TooLarge);
        more.members.join.clear();
        assert!(
            matches!(decide_at(&more, &facts, NOW_MS), Decision::Store(_)),
            "leaving is allowed"
        );
    }

    #[test]
    fn recent_rows_move_with_the_first_message_of_a_bucket() {
        let bucket = NOW_MS / RECENT_BUCKET_MS;
        let moved = |before: u64| {
            let head = Head {
                seq: 4,
                recent_bucket: before,
                ..Head::default()
            };
            let facts = Facts {
                head: Some(head),
                ..Facts::default()
            };
            let Decision::Store(row) = decide_at(&append(direct()), &facts, NOW_MS) else {
                panic!()
            };
            (row.move_recent_from, row.head.recent_bucket)
        };
        assert_eq!(moved(bucket - 3), (Some(bucket - 3), bucket));
        assert_eq!(moved(bucket), (None, bucket));
        assert_eq!(moved(bucket + 1), (None, bucket + 1), "a bucket never goes back");
    }

    #[test]
    fn an_id_older_than_the_memory_is_refused() {
        let old = append(direct());
        let later = NOW_MS + DEDUPE_RETENTION_MS + 1;
        assert!(matches!(
            decide_at(&old, &Facts::default(), later),
            Decision::Refuse(ErrorCode::StaleId, _)
        ));
    }

    #[test]
    fn a_clock_that_ran_ahead_does_not_make_the_ids_of_today_too_old() {
        let month = 30 * 24 * 3600 * 1000;
        let store_ms = NOW_MS + month;
        let fresh = append(direct());
        let decided = |forgotten_ms| {
            let oldest = oldest_id_ms(store_ms, NOW_MS, forgotten_ms);
            decide(&fresh, &Facts::default(), store_ms, oldest)
        };
        assert!(matches!(decided(0), Decision::Store(_)));
        assert!(matches!(decided(NOW_MS - 1), Decision::Store(_)));
        // Its row may have been forgotten while the clock was ahead: taken again it could be there twice.
        assert!(matches!(decided(NOW_MS), Decision::Refuse(ErrorCode::StaleId, _)));
    }
}
