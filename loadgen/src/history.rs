//! The last word of a run: the whole log, read back over HTTP, beside the ledger of sends.
//!
//! Every acked send must stand in the log once, at the seq that was acked, with the payload that was sent;
//! the log must be dense; nothing may stand twice; what was refused for good must not be there; one
//! sender's messages keep their order. Sends of unknown outcome may be there or not.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use corelane_protocol::id::ClientMsgId;
use serde::Serialize;
use serde_json::Value;

use crate::api::{Api, ApiError};
use crate::ledger::{Entry, Ledger, Outcome, id_text};
use crate::names::{ConvKey, Names};
use crate::payload::Stamp;
use crate::shared::Groups;
use crate::verify::{Digest, LogEnd};

/// What the comparison found. All but the first four must be 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Conversations read.
    pub conversations: u64,
    /// Messages in them.
    pub messages: u64,
    /// Acked sends found where they were acked.
    pub acked_found: u64,
    /// Sends of unknown outcome that are in the log.
    pub unknown_stored: u64,
    /// Acked sends that are not in the log.
    pub acked_missing: u64,
    /// Acked sends that stand at another seq.
    pub acked_elsewhere: u64,
    /// Seqs missing between the first and the last.
    pub holes: u64,
    /// Sends that stand in the log twice.
    pub doubled: u64,
    /// Sends refused for good that are in the log all the same.
    pub refused_stored: u64,
    /// Messages of our senders that nobody sent.
    pub phantom: u64,
    /// Messages whose payload is not what was sent.
    pub corrupt: u64,
    /// Messages of one sender that stand before an earlier one of his.
    pub misordered: u64,
    /// The first few, for people.
    pub examples: Vec<String>,
}

const EXAMPLES_MAX: usize = 10;

impl Findings {
    /// Number of things that must not be.
    pub const fn broken(&self) -> u64 {
        self.acked_missing
            + self.acked_elsewhere
            + self.holes
            + self.doubled
            + self.refused_stored
            + self.phantom
            + self.corrupt
            + self.misordered
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }

    /// A send stands in the log at `at`: is that what its sender was told?
    fn judge_outcome(&mut self, conv: &str, entry: &Entry, at: u64) {
        match entry.outcome {
            Outcome::Acked(seq) if seq == at => self.acked_found += 1,
            Outcome::Acked(seq) => {
                self.acked_elsewhere += 1;
                self.example(|| {
                    format!(
                        "{conv}: {} was acked at {seq}, stands at {}",
                        id_text(entry.id),
                        at
                    )
                });
            }
            Outcome::Refused(code) => {
                self.refused_stored += 1;
                self.example(|| {
                    format!(
                        "{conv}: {} was refused with code {code}, stands at {}",
                        id_text(entry.id),
                        at
                    )
                });
            }
            Outcome::Unknown => self.unknown_stored += 1,
            Outcome::Unsent => {
                self.phantom += 1;
                self.example(|| format!("{conv}: {} was never sent, stands at {}", id_text(entry.id), at));
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.conversations += other.conversations;
        self.messages += other.messages;
        self.acked_found += other.acked_found;
        self.unknown_stored += other.unknown_stored;
        self.acked_missing += other.acked_missing;
        self.acked_elsewhere += other.acked_elsewhere;
        self.holes += other.holes;
        self.doubled += other.doubled;
        self.refused_stored += other.refused_stored;
        self.phantom += other.phantom;
        self.corrupt += other.corrupt;
        self.misordered += other.misordered;
        for text in other.examples {
            self.example(|| text);
        }
    }
}

/// One message of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its place.
    pub seq: u64,
    /// Who sent it, if it is a user of this run.
    pub sender: Option<u32>,
    /// The sender's id for it.
    pub id: [u8; 16],
    /// What its payload carries; `None` if it is not ours or was changed.
    pub stamp: Option<Stamp>,
}

impl LogRow {
    /// Reads a message of the API; `None` if a field is missing.
    pub fn of_json(value: &Value, names: &Names) -> Option<Self> {
        let id: String = value
            .get("client_msg_id")?
            .as_str()?
            .chars()
            .filter(|c| *c != '-')
            .collect();
        let payload = value.get("payload")?.as_str().unwrap_or("");
        let payload = match value.get("content_type").and_then(Value::as_str) {
            Some("text") => payload.as_bytes().to_vec(),
            _ => base64::engine::general_purpose::STANDARD
                .decode(payload)
                .unwrap_or_default(),
        };
        Some(Self {
            seq: value.get("seq")?.as_u64()?,
            sender: names.user_index(value.get("sender")?.as_str()?),
            id: u128::from_str_radix(&id, 16).ok()?.to_be_bytes(),
            stamp: Stamp::read(&payload).ok(),
        })
    }
}

/// Compares the log of one conversation with the sends that went there.
pub fn compare(conv: &str, sends: &[&Entry], log: &[LogRow], floor: u64, run: u64) -> Findings {
    let mut findings = Findings {
        conversations: 1,
        messages: log.len() as u64,
        ..Findings::default()
    };
    let by_id: HashMap<(u32, [u8; 16]), &Entry> = sends
        .iter()
        .map(|entry| ((entry.sender, entry.id.0), *entry))
        .collect();
    let mut seen = HashSet::new();
    let mut last_counters: HashMap<u32, u64> = HashMap::new();
    let mut expected_seq = floor + 1;
    for row in log {
        if row.seq > expected_seq {
            findings.holes += row.seq - expected_seq;
            findings.example(|| format!("{conv}: the log goes from {} to {}", expected_seq - 1, row.seq));
        } else if row.seq < expected_seq {
            findings.doubled += 1;
            findings.example(|| format!("{conv}: seq {} stands twice in the log", row.seq));
        }
        expected_seq = expected_seq.max(row.seq + 1);
        let Some(sender) = row.sender else { continue };
        if !seen.insert((sender, row.id)) {
            findings.doubled += 1;
            findings.example(|| {
                format!(
                    "{conv}: message {:032x} stands twice, again at {}",
                    u128::from_be_bytes(row.id),
                    row.seq
                )
            });
            continue;
        }
        let Some(entry) = by_id.get(&(sender, row.id)) else {
            findings.phantom += 1;
            findings.example(|| format!("{conv}: nobody sent the message at {}", row.seq));
            continue;
        };
        findings.judge_outcome(conv, entry, row.seq);
        let intact = row.stamp.is_some_and(|stamp| {
            stamp.run == run
                && stamp.sender == sender
                && stamp.counter == entry.counter
                && stamp.conv == entry.conv.number()
        });
        if !intact {
            findings.corrupt += 1;
            findings.example(|| format!("{conv}: the payload at {} is not what was sent", row.seq));
        }
        let before = last_counters.insert(sender, entry.counter);
        if before.is_some_and(|before| before > entry.counter) {
            findings.misordered += 1;
            findings.example(|| {
                format!(
                    "{conv}: {} at {} stands behind a later send of its sender",
                    id_text(entry.id),
                    row.seq
                )
            });
        }
    }
    for entry in sends {
        if let Outcome::Acked(seq) = entry.outcome
            && !seen.contains(&(entry.sender, entry.id.0))
        {
            findings.acked_missing += 1;
            findings.example(|| {
                format!(
                    "{conv}: {} was acked at {seq} and is not in the log",
                    id_text(entry.id)
                )
            });
        }
    }
    findings
}

/// What reading everything back gave.
#[derive(Debug, Default)]
pub struct ReadBack {
    /// What the comparison found.
    pub findings: Findings,
    /// Where every conversation ends.
    pub heads: HashMap<ConvKey, LogEnd>,
}

const READERS: usize = 3;
const PAGE_LIMIT: u32 = 200;

/// What stands in a log behind its first `base` places; `None` if it has holes.
fn digest(log: &[LogRow], base: u64, head: u64) -> Option<Digest> {
    let mut digest = Digest::default();
    let mut seq = base;
    for row in log.iter().filter(|row| row.seq > base) {
        seq += 1;
        if row.seq != seq {
            return None;
        }
        digest.add(seq, ClientMsgId(row.id));
    }
    (seq == head.max(base)).then_some(digest)
}

/// Reads all conversations of `ledger` and of `groups` back and compares them.
///
/// # Errors
///
/// [`ApiError`]: the comparison could not be made.
///
/// # Panics
///
/// Only if a reader thread panicked.
pub fn read_back(
    api: &Api,
    names: Names,
    run: u64,
    ledger: &Ledger,
    groups: &Groups,
) -> Result<ReadBack, ApiError> {
    let mut sends: HashMap<ConvKey, Vec<&Entry>> = (0..groups.count())
        .map(|group| (ConvKey::group(group), Vec::new()))
        .collect();
    for entry in ledger.entries() {
        sends.entry(entry.conv).or_default().push(entry);
    }
    let convs: Vec<(ConvKey, Vec<&Entry>)> = sends.into_iter().collect();
    let next = AtomicUsize::new(0);
    let result = Mutex::new(ReadBack::default());
    let read = || -> Result<(), ApiError> {
        while let Some((key, sends)) = convs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let conv = names.conv_id(*key).to_string();
            let (log, head, floor) = read_conversation(api, names, &conv)?;
            let findings = compare(&conv, sends, &log, floor, run);
            let end = LogEnd {
                seq: head,
                digest: digest(&log, groups.base(*key), head),
            };
            let mut result = result.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            result.findings.merge(findings);
            result.heads.insert(*key, end);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    Ok(result
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn read_conversation(api: &Api, names: Names, conv: &str) -> Result<(Vec<LogRow>, u64, u64), ApiError> {
    let mut log = Vec::new();
    let mut from = 1;
    loop {
        let page = api.history(conv, from, PAGE_LIMIT)?;
        log.extend(
            page.messages
                .iter()
                .filter_map(|message| LogRow::of_json(message, &names)),
        );
        match page.next_seq {
            Some(next) if next > from => from = next,
            _ => {
                let head = page.head_seq.max(log.last().map_or(0, |row| row.seq));
                return Ok((log, head, page.floor_seq));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::message_id;
    use serde_json::json;

    const RUN: u64 = 99;

    fn sends(outcomes: &[Outcome]) -> Vec<Entry> {
        (0..)
            .zip(outcomes)
            .map(|(counter, outcome)| Entry {
                id: message_id(1, RUN, 3, counter),
                conv: ConvKey::direct(3, 4),
                sender: 3,
                counter,
                outcome: *outcome,
            })
            .collect()
    }

    fn row(entry: &Entry, seq: u64) -> LogRow {
        let stamp = Stamp {
            run: RUN,
            sender: entry.sender,
            conv: entry.conv.number(),
            counter: entry.counter,
            due_ns: 0,
            sent_ns: 0,
        };
        LogRow {
            seq,
            sender: Some(entry.sender),
            id: entry.id.0,
            stamp: Some(stamp),
        }
    }

    fn judge(sends: &[Entry], log: &[LogRow]) -> Findings {
        compare("c", &sends.iter().collect::<Vec<_>>(), log, 0, RUN)
    }

    #[test]
    fn a_log_that_agrees_has_no_findings() {
        let sends = sends(&[
            Outcome::Acked(1),
            Outcome::Unknown,
            Outcome::Acked(2),
            Outcome::Refused(4),
            Outcome::Unknown,
        ]);
        let findings = judge(&sends, &[row(&sends[0], 1), row(&sends[2], 2), row(&sends[4], 3)]);
        assert_eq!(
            (findings.broken(), findings.acked_found, findings.unknown_stored),
            (0, 2, 1),
            "{findings:?}"
        );
    }

    #[test]
    fn each_planted_fault_is_found() {
        use Outcome::{Acked, Refused, Unsent};
        let all = sends(&[Acked(1), Acked(2), Acked(3), Refused(4), Unsent]);
        let rows: Vec<LogRow> = (1..).zip(&all).map(|(seq, entry)| row(entry, seq)).collect();
        let three = &rows[..3];
        assert_eq!(judge(&all, three).broken(), 0);
        assert_eq!(judge(&all, &rows[..2]).acked_missing, 1);
        let hole = judge(&all, &[rows[0].clone(), rows[2].clone()]);
        assert_eq!((hole.holes, hole.acked_missing), (1, 1));
        let twice = [
            three,
            &[LogRow {
                seq: 4,
                ..rows[0].clone()
            }],
        ]
        .concat();
        assert_eq!(judge(&all, &twice).doubled, 1);
        let swapped = [
            LogRow {
                seq: 1,
                ..rows[1].clone()
            },
            LogRow {
                seq: 2,
                ..rows[0].clone()
            },
            rows[2].clone(),
        ];
        let found = judge(&all, &swapped);
        assert_eq!((found.acked_elsewhere, found.misordered), (2, 1));
        assert_eq!(judge(&all, &rows[..4]).refused_stored, 1);
        assert_eq!(judge(&all, &rows).phantom, 1);
        let mut changed = three.to_vec();
        changed[1].stamp = None;
        assert_eq!(judge(&all, &changed).corrupt, 1);
        let mut foreign = three.to_vec();
        foreign.push(LogRow {
            seq: 4,
            sender: Some(3),
            id: [7; 16],
            stamp: None,
        });
        assert_eq!(judge(&all, &foreign).phantom, 1);
    }

    #[test]
    fn rows_are_read_from_the_json_twin() {
        let names = Names::new(RUN);
        let stamp = Stamp {
            run: RUN,
            sender: 3,
            conv: 5,
            counter: 1,
            due_ns: 2,
            sent_ns: 3,
        };
        let mut payload = Vec::new();
        stamp.write(100, false, &mut payload);
        let message = json!({
            "seq": 7, "sender": names.user(3), "client_msg_id": "01890000-0000-7000-8000-000000000001",
            "content_type": "bytes", "payload": base64::engine::general_purpose::STANDARD.encode(&payload),
        });
        let row = LogRow::of_json(&message, &names).unwrap();
        assert_eq!((row.seq, row.sender, row.stamp), (7, Some(3), Some(stamp)));
        assert_eq!(row.id[15], 1);
        assert_eq!(LogRow::of_json(&json!({"seq": 1}), &names), None);
    }

    #[test]
    fn the_digest_of_a_log_is_that_of_a_terminal_that_has_it() {
        let sends = sends(&[Outcome::Acked(3), Outcome::Acked(4), Outcome::Acked(5)]);
        let rows: Vec<LogRow> = (3..).zip(&sends).map(|(seq, entry)| row(entry, seq)).collect();
        let mut expected = Digest::default();
        (3..)
            .zip(&sends)
            .for_each(|(seq, entry)| expected.add(seq, entry.id));
        assert_eq!(digest(&rows, 2, 5), Some(expected));
        assert_eq!(digest(&rows, 2, 6), None, "the last one was not read");
        assert_eq!(digest(&[rows[0].clone(), rows[2].clone()], 2, 5), None);
        assert_eq!(digest(&[], 2, 2), Some(Digest::default()));
    }
}
