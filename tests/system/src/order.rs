//! The order of durability, read from a trace: a message is written to the journal, that file of it is synced, and only then
//! is the message acknowledged or delivered.
//!
//! ```text
//! pwrite64(journal, record with the message) returns < fdatasync(journal) returns 0 < write(link, SendAck) entered
//! ```
//!
//! A record is one write, so what was written in part is none. Every step of every message must be in the trace; one that is
//! not there is a violation like one that is out of order.

use std::collections::HashMap;

use corelane_protocol::frame::{Frame, FrameKind, body};
use corelane_protocol::link::record::{Record, RecordKind};

use crate::strace::Call;

/// The calls that the check needs to see: everything that writes or syncs. More are not wrong.
pub const CALLS: &str =
    "trace=write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sendto,sendmsg,sendmmsg";

/// What the names of the journal's files contain.
pub const JOURNAL: &str = "corelane.journal-";
/// What begins a marker; sixteen hexadecimal digits follow.
const MARKER: &[u8] = b"marker:";

/// The payload of message number `number`: can be found in a file and in a frame of the wire.
pub fn payload(number: u64) -> Vec<u8> {
    let mut payload = MARKER.to_vec();
    payload.extend(format!("{number:016x}").bytes());
    payload.resize(200, b'.');
    payload
}

/// A message that a client sent and saw acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its number, as in its payload.
    pub number: u64,
    /// Its conversation.
    pub conv: Vec<u8>,
    /// The place that the acknowledgement named.
    pub seq: u64,
}

/// What a trace shows.
#[derive(Debug, Default)]
pub struct Report {
    /// Commits that the messages were in.
    pub commits: usize,
    /// Most messages of one commit.
    pub messages_per_commit_max: usize,
    /// Everything that is missing or out of order.
    pub violations: Vec<String>,
}

/// Checks every message against the trace of the router that served the link at `link`.
pub fn check(calls: &[Call], link: &str, sent: &[Sent]) -> Report {
    let journal = Journal::read(calls);
    let wire = match Wire::read(calls, link) {
        Ok(wire) => wire,
        Err(problem) => {
            return Report {
                violations: vec![problem],
                ..Report::default()
            };
        }
    };
    let mut report = Report::default();
    let mut per_commit: HashMap<usize, usize> = HashMap::new();
    for message in sent {
        match journal.synced(message.number) {
            Ok((commit, synced)) => {
                *per_commit.entry(commit).or_default() += 1;
                report.violations.extend(wire.too_early(message, synced));
            }
            Err(problem) => report
                .violations
                .push(format!("message {}: {problem}", message.number)),
        }
    }
    report.commits = per_commit.len();
    report.messages_per_commit_max = per_commit.into_values().max().unwrap_or(0);
    report
}

/// The acknowledgements that left on links of the router at `link`: the line of each, by conversation and place.
///
/// # Errors
///
/// What was sent is not understood.
pub fn acked(calls: &[Call], link: &str) -> Result<HashMap<(Vec<u8>, u64), usize>, String> {
    Wire::read(calls, link).map(|wire| wire.acked)
}

/// The number of the message whose payload is in these bytes.
pub fn number(bytes: &[u8]) -> Option<u64> {
    markers(bytes).next()
}

/// What happened to the journal.
struct Journal<'a> {
    /// First write that held each message.
    written: HashMap<u64, &'a Call>,
    syncs: Vec<&'a Call>,
}

impl<'a> Journal<'a> {
    fn read(calls: &'a [Call]) -> Self {
        let mut journal = Self {
            written: HashMap::new(),
            syncs: Vec::new(),
        };
        for call in calls.iter().filter(|call| call.target.contains(JOURNAL)) {
            if matches!(call.name.as_str(), "fsync" | "fdatasync") {
                journal.syncs.push(call);
                continue;
            }
            for number in markers(&call.data) {
                journal.written.entry(number).or_insert(call);
            }
        }
        journal
    }

    /// The record of a message, by the line of its write, and the line on which the sync behind it returned.
    fn synced(&self, number: u64) -> Result<(usize, usize), String> {
        let record = self
            .written
            .get(&number)
            .ok_or("was never written to the journal")?;
        let whole = record.result.is_some() && record.result == i64::try_from(record.data.len()).ok();
        let returned = record.returned.filter(|_| whole);
        let returned = returned.ok_or("its record was not written whole")?;
        let sync = self
            .syncs
            .iter()
            .find(|sync| sync.entered > returned && sync.target == record.target)
            .ok_or("no sync follows its record")?;
        match (sync.returned, sync.result) {
            (Some(returned), Some(0)) => Ok((record.entered, returned)),
            (_, result) => Err(format!("the sync of its record came to {result:?}")),
        }
    }
}

/// What left on links.
struct Wire {
    /// First acknowledgement of each place: line on which the write with its first byte was entered.
    acked: HashMap<(Vec<u8>, u64), usize>,
    /// First write with the payload of each message.
    delivered: HashMap<u64, usize>,
}

impl Wire {
    fn read(calls: &[Call], link: &str) -> Result<Self, String> {
        let local = format!("TCP:[{link}->");
        let mut streams: HashMap<&str, Stream> = HashMap::new();
        for call in calls.iter().filter(|call| call.target.starts_with(&local)) {
            let taken = match call.result {
                Some(result) => usize::try_from(result).unwrap_or(0),
                // It did not return: all of it may have left.
                None => call.data.len(),
            };
            let bytes = call.data.get(..taken).ok_or("more was sent than was given")?;
            streams.entry(&call.target).or_default().push(bytes, call.entered);
        }
        if streams.is_empty() {
            return Err(format!("nothing was sent on a link from {link}"));
        }
        let mut wire = Self {
            acked: HashMap::new(),
            delivered: HashMap::new(),
        };
        for stream in streams.values() {
            stream.read(&mut wire)?;
        }
        Ok(wire)
    }

    fn too_early(&self, message: &Sent, synced: usize) -> Vec<String> {
        let mut violations = Vec::new();
        let number = message.number;
        match self.acked.get(&(message.conv.clone(), message.seq)) {
            None => violations.push(format!("message {number}: no acknowledgement left on a link")),
            Some(acked) if *acked <= synced => violations.push(format!(
                "message {number}: acknowledged on line {acked}, its sync returned on line {synced}"
            )),
            Some(_) => {}
        }
        if let Some(delivered) = self.delivered.get(&number).filter(|line| **line <= synced) {
            violations.push(format!(
                "message {number}: delivered on line {delivered}, its sync returned on line {synced}"
            ));
        }
        violations
    }
}

/// The bytes of one connection, and which call sent them.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// Where the bytes of a call begin, and its line.
    calls: Vec<(usize, usize)>,
}

impl Stream {
    fn push(&mut self, bytes: &[u8], entered: usize) {
        self.calls.push((self.bytes.len(), entered));
        self.bytes.extend_from_slice(bytes);
    }

    fn line_of(&self, at: usize) -> usize {
        let calls = self.calls.iter().take_while(|(start, _)| *start <= at);
        calls.last().map_or(0, |(_, entered)| *entered)
    }

    fn read(&self, wire: &mut Wire) -> Result<(), String> {
        let mut at = 0;
        for batch in 0.. {
            let Some(length) = self.bytes.get(at..at + 4) else {
                break;
            };
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            at += 4;
            // The last batch may have been cut by the end of the process.
            let Some(payload) = self.bytes.get(at..at + length) else {
                break;
            };
            // First the hello, then the proof, then records.
            if batch >= 2 {
                self.read_records(at, payload, wire)?;
            }
            at += length;
        }
        for (found, number) in positions(&self.bytes) {
            let line = self.line_of(found);
            let first = wire.delivered.entry(number).or_insert(line);
            *first = line.min(*first);
        }
        Ok(())
    }

    fn read_records(&self, start: usize, payload: &[u8], wire: &mut Wire) -> Result<(), String> {
        let mut rest = payload;
        while !rest.is_empty() {
            let at = start + payload.len() - rest.len();
            let (record, after) = Record::split(rest).map_err(|error| format!("a link record: {error}"))?;
            rest = after;
            if record.known_kind() != Some(RecordKind::ServerFrame) {
                continue;
            }
            let frame = Frame::parse(record.body).map_err(|error| format!("a server frame: {error}"))?;
            if frame.known_kind() == Some(FrameKind::SendAck) {
                let ack = frame
                    .access::<body::ArchivedSendAck>()
                    .map_err(|error| format!("an acknowledgement: {error}"))?;
                let line = self.line_of(at);
                let first = wire
                    .acked
                    .entry((ack.conv.to_vec(), ack.seq.to_native()))
                    .or_insert(line);
                *first = line.min(*first);
            }
        }
        Ok(())
    }
}

/// The messages whose payload begins in these bytes, and where.
fn positions(bytes: &[u8]) -> impl Iterator<Item = (usize, u64)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(from..)?;
            let at = from + rest.windows(MARKER.len()).position(|window| window == MARKER)?;
            from = at + MARKER.len();
            let digits = bytes.get(from..from + 16)?;
            let number = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u64::from_str_radix(digits, 16).ok());
            if let Some(number) = number {
                return Some((at, number));
            }
        }
    })
}

fn markers(bytes: &[u8]) -> impl Iterator<Item = u64> {
    positions(bytes).map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use corelane_protocol::frame;

    use super::*;
    use crate::strace;

    const LINK: &str = "127.0.0.1:7090";

    /// Bytes as strace shows them.
    fn shown(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::new(), |text, byte| text + &format!("\\{byte:03o}"))
    }

    fn write(bytes: &[u8]) -> String {
        format!(
            "1 pwrite64(9</d/corelane.journal-0>, \"{}\", {n}, 0) = {n}",
            shown(bytes),
            n = bytes.len()
        )
    }

    fn send(bytes: &[u8]) -> String {
        let text = shown(bytes);
        format!(
            "2 sendto(5<TCP:[{LINK}->127.0.0.1:9]>, \"{text}\", 9, 0, NULL, 0) = {}",
            bytes.len()
        )
    }

    fn batch(payload: &[u8]) -> Vec<u8> {
        [&u32::try_from(payload.len()).unwrap().to_le_bytes(), payload].concat()
    }

    fn ack() -> Vec<u8> {
        let ack = body::SendAck {
            conv: b"c".to_vec(),
            seq: 1,
            n: 1,
            time_ms: 0,
        };
        record(
            RecordKind::ServerFrame,
            &frame::encode(FrameKind::SendAck, 3, &ack),
        )
    }

    fn record(kind: RecordKind, body: &[u8]) -> Vec<u8> {
        let record = Record {
            kind: kind as u8,
            body,
            ..Record::default()
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        batch(&bytes)
    }

    /// The lines of one message in order: handshake, record, sync, acknowledgement.
    fn lines() -> Vec<String> {
        vec![
            send(&[batch(b"hello"), batch(b"proof")].concat()),
            write(&[0; 500]),
            write(&[&vec![0; 100][..], &payload(7)].concat()),
            "1 fdatasync(9</d/corelane.journal-0>) = 0".to_owned(),
            send(&ack()),
        ]
    }

    fn violations(lines: &[String]) -> Vec<String> {
        let calls = strace::parse(&lines.join("\n")).unwrap();
        let sent = Sent {
            number: 7,
            conv: b"c".to_vec(),
            seq: 1,
        };
        check(&calls, LINK, &[sent]).violations
    }

    #[test]
    fn what_is_in_order_is_no_violation() {
        assert_eq!(violations(&lines()), [""; 0]);
    }

    #[test]
    fn whatever_is_missing_or_out_of_order_is_one() {
        type Change = fn(&mut Vec<String>);
        let changed = |change: Change| {
            let mut lines = lines();
            change(&mut lines);
            violations(&lines)
        };
        let cases: [(&str, Change); 9] = [
            ("was never written", |lines| drop(lines.remove(2))),
            ("was not written whole", |lines| {
                lines[2] = lines[2].replace("= 300", "= 299");
            }),
            ("no sync follows", |lines| lines.swap(2, 3)),
            ("no sync follows", |lines| drop(lines.remove(3))),
            ("no sync follows", |lines| {
                lines[3] = lines[3].replace("journal-0", "journal-1");
            }),
            ("came to Some(-1)", |lines| {
                lines[3] = "1 fdatasync(9</d/corelane.journal-0>) = -1 EIO (Input/output error)".to_owned();
            }),
            ("no acknowledgement", |lines| drop(lines.remove(4))),
            ("acknowledged on line 3", |lines| lines.swap(3, 4)),
            ("delivered on line 1", |lines| {
                lines.insert(1, send(&record(RecordKind::BusBatch, &payload(7))));
            }),
        ];
        for (problem, change) in cases {
            let found = changed(change);
            assert!(
                found.iter().any(|each| each.contains(problem)),
                "{problem}: {found:?}"
            );
        }
    }

    #[test]
    fn an_ack_that_left_while_the_sync_was_under_way_is_a_violation() {
        let mut lines = lines();
        let ack = lines.pop().unwrap();
        lines[3] = "1 fdatasync(9</d/corelane.journal-0> <unfinished ...>".to_owned();
        lines.push(ack);
        lines.push("1 <... fdatasync resumed>) = 0".to_owned());
        assert_eq!(violations(&lines).len(), 1);
    }
}
