//! While nobody can be looked up, messages are stored and acknowledged, and the router keeps little of them; when the
//! registry answers again all of them are published, each conversation in its order.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use corelane_protocol::bus;
use corelane_protocol::frame::body::Message;
use corelane_protocol::frame::{FrameKind, encode};
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};
use corelane_protocol::time::Now;
use corelane_router_core::RouterCore;
use corelane_router_core::append::{Append, Appended, Batch, Committed, MemberChange};
use corelane_router_core::event::{Input, LaneList, Origin, Output, Recovered, Route, Submission};

/// Commits of a lane that wait with their messages.
const WITH_MESSAGES: usize = 64;
/// Commits of a lane that wait without them.
const WITHOUT: usize = 8_192;
const APP: AppId = AppId(0);
const BOOT: u64 = 5;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn direct(other: &str) -> ConvId {
    ConvId::direct(&user("alice"), &user(other))
}

/// What the log has of a row.
type Row = (Lane, Vec<(ConvId, u64, Vec<u8>)>);

/// A store that commits at once, and a registry that is away until somebody says otherwise.
#[derive(Default)]
struct Ports {
    is_away: bool,
    /// Lookups are not even refused.
    is_silent: bool,
    /// Reads of rows that fail first.
    failing_reads: usize,
    payload_bytes: usize,
    heads: BTreeMap<ConvId, u64>,
    rows: BTreeMap<u64, Row>,
    last_row: u64,
    /// Answers that came at once.
    ready: VecDeque<Input>,
    /// Answers that take their time.
    later: VecDeque<Input>,
    acks: usize,
    published: BTreeMap<ConvId, Vec<u64>>,
    read_back: BTreeSet<u64>,
    sent: u32,
}

impl Ports {
    fn away() -> Self {
        Self {
            is_away: true,
            payload_bytes: 10,
            ..Self::default()
        }
    }

    fn start(&mut self) -> RouterCore {
        let mut core = RouterCore::new(77, 1, 8, 4);
        self.input(&mut core, Input::Lanes(LaneList::alone(1, 8)));
        core
    }

    fn send(&mut self, core: &mut RouterCore, conv: &ConvId) {
        self.sent += 1;
        let mut id = [0; 16];
        id[12..].copy_from_slice(&self.sent.to_be_bytes());
        let append = Append {
            app: APP,
            conv: conv.clone(),
            sender: user("alice"),
            client_msg_id: ClientMsgId(id),
            kind: 1,
            flags: 0,
            ref_seq: 0,
            content_type: 1,
            payload: vec![b'x'; self.payload_bytes],
            extensions: Vec::new(),
            origin_terminal: 1,
            origin_device: String::new(),
            members: MemberChange::default(),
            check_member: true,
            moves_read_mark: true,
        };
        let submission = Submission {
            origin: Origin::Api(u64::from(self.sent)),
            append,
            restart: true,
            deadline_ms: u64::MAX,
            stamp: 0,
        };
        self.input(core, Input::Submit(submission));
    }

    /// Hands an input over, and the answers that come at once.
    fn input(&mut self, core: &mut RouterCore, input: Input) {
        self.ready.push_back(input);
        while let Some(input) = self.ready.pop_front() {
            let mut outputs = Vec::new();
            core.handle(Now::default(), input, &mut outputs);
            for output in outputs {
                self.take(output);
            }
        }
    }

    /// Hands the next answer over that took its time. False: there is none.
    fn answer(&mut self, core: &mut RouterCore) -> bool {
        let Some(input) = self.later.pop_front() else {
            return false;
        };
        self.input(core, input);
        true
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Persist(batch) => self.commit(batch),
            Output::Answer(..) => self.acks += 1,
            Output::Locate(..) if self.is_silent => {}
            Output::Locate(ticket, ..) if self.is_away => self.later.push_back(Input::Failed(ticket)),
            Output::Locate(ticket, _, users) => {
                let route = |conn| vec![Route { boot: BOOT, conn }];
                let routes = (0..users.len() as u64).map(route).collect();
                self.later.push_back(Input::Located(ticket, routes));
            }
            Output::ReadRows(ticket, ..) if self.failing_reads > 0 => {
                self.failing_reads -= 1;
                self.later.push_back(Input::Failed(ticket));
            }
            Output::ReadRows(ticket, lane, rows) => {
                let read = rows.iter().map(|row| self.recovered(*row)).collect::<Vec<_>>();
                assert!(read.iter().flatten().all(|each| each.lane == lane));
                self.read_back.extend(rows);
                self.later.push_back(Input::Rows(ticket, read));
            }
            Output::Publish {
                boot,
                partition,
                number,
                record,
                ..
            } => {
                let (_, record) = bus::read(&record).unwrap();
                let conv = ConvId::parse(&record.conv).unwrap();
                let seqs = record.frames.iter().map(|each| each.seq.to_native());
                self.published.entry(conv).or_default().extend(seqs);
                assert!(self.rows.contains_key(&record.outbox.to_native()));
                self.ready.push_back(Input::Consumed {
                    boot,
                    partition,
                    number,
                    gaps: Vec::new(),
                });
            }
            Output::ClearOutbox(rows) => {
                for row in rows {
                    assert!(self.rows.remove(&row).is_some(), "row {row} is cleared once");
                }
            }
            Output::Drained(_) => {}
            other => panic!("nothing else is asked for: {other:?}"),
        }
    }

    fn commit(&mut self, batch: Batch) {
        self.last_row += 1;
        let (mut answers, mut named) = (Vec::new(), Vec::new());
        for append in batch.appends {
            let seq = self.heads.entry(append.conv.clone()).or_default();
            *seq += 1;
            let message = Message {
                conv: append.conv.as_bytes().to_vec(),
                seq: *seq,
                n: *seq,
                sender: append.sender.as_str().to_owned(),
                kind: append.kind,
                flags: append.flags,
                ref_seq: append.ref_seq,
                origin_terminal: append.origin_terminal,
                origin_device: append.origin_device,
                client_msg_id: append.client_msg_id.0,
                time_ms: 1,
                content_type: append.content_type,
                payload: append.payload,
            };
            let frame = encode(FrameKind::Message, 0, &message);
            named.push((append.conv, *seq, frame.clone()));
            answers.push(Appended::Stored {
                seq: *seq,
                n: *seq,
                time_ms: 1,
                frame,
                member_version: 0,
                repeated: false,
            });
        }
        let outbox = self.last_row;
        self.rows.insert(outbox, (batch.lane, named));
        self.ready
            .push_back(Input::Committed(batch.lane, Committed::Done { answers, outbox }));
    }

    /// What a row names, by conversation.
    fn recovered(&self, row: u64) -> Vec<Recovered> {
        let Some((lane, named)) = self.rows.get(&row) else {
            return Vec::new();
        };
        let mut convs: BTreeMap<&ConvId, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
        for (conv, seq, frame) in named {
            convs.entry(conv).or_default().push((*seq, frame.clone()));
        }
        let recovered = convs.into_iter().map(|(conv, frames)| Recovered {
            outbox: row,
            lane: *lane,
            app: APP,
            conv: conv.clone(),
            frames,
        });
        recovered.collect()
    }

    /// Everything was published once, in order, and nothing waits any more.
    fn assert_caught_up(&self, core: &RouterCore) {
        for (conv, head) in &self.heads {
            let published = self.published.get(conv).unwrap();
            assert_eq!(*published, (1..=*head).collect::<Vec<u64>>(), "{conv}");
        }
        assert!(self.rows.is_empty(), "{:?} wait", self.rows.keys());
        assert_eq!((core.rows_behind(), core.rows_held()), (0, 0));
    }
}

#[test]
fn what_was_stored_while_nobody_could_be_looked_up_is_published_in_order() {
    let (mut ports, convs) = (Ports::away(), [direct("bob"), direct("carol"), direct("dave")]);
    let mut core = ports.start();
    for round in 0..1_000 {
        ports.send(&mut core, &convs[round % convs.len()]);
        ports.answer(&mut core);
    }
    assert_eq!(ports.acks, 1_000, "everything is stored and acknowledged");
    assert!(ports.published.is_empty(), "nobody is taken for offline");
    assert!(core.rows_behind() >= 1_000 - convs.len() * WITH_MESSAGES);
    // What is sent while the lanes catch up stays behind what was sent before; ports fail in between.
    ports.is_away = false;
    ports.failing_reads = 3;
    for round in 0..600 {
        ports.is_away = (200..300).contains(&round);
        ports.answer(&mut core);
        if round % 3 == 0 {
            ports.send(&mut core, &convs[round % 2]);
        }
    }
    while ports.answer(&mut core) {}
    assert!(!ports.read_back.is_empty() && core.metrics().read_back > 0);
    assert_eq!(ports.acks, 1_200);
    ports.assert_caught_up(&core);
}

#[test]
fn messages_are_let_go_of_by_their_bytes_too() {
    let mut ports = Ports {
        payload_bytes: 60_000,
        ..Ports::away()
    };
    let mut core = ports.start();
    for _ in 0..50 {
        ports.send(&mut core, &direct("bob"));
        ports.answer(&mut core);
    }
    let kept = 50 - core.rows_behind();
    assert!(kept * 60_000 < 2 * 1024 * 1024, "{kept} commits are kept");
    ports.is_away = false;
    while ports.answer(&mut core) {}
    ports.assert_caught_up(&core);
}

#[test]
fn a_registry_that_only_takes_its_time_slows_senders_down() {
    let mut ports = Ports {
        is_silent: true,
        ..Ports::away()
    };
    let mut core = ports.start();
    for _ in 0..100 {
        ports.send(&mut core, &direct("bob"));
    }
    assert_eq!((ports.acks, core.rows_behind()), (WITH_MESSAGES, 0));
    assert_eq!(core.in_flight(), 100 - WITH_MESSAGES);
}

#[test]
fn a_lane_whose_rows_are_too_many_commits_no_more() {
    let (mut ports, conv) = (Ports::away(), direct("bob"));
    let mut core = ports.start();
    let room = WITH_MESSAGES + WITHOUT;
    for _ in 0..room + 10 {
        ports.send(&mut core, &conv);
        ports.answer(&mut core);
    }
    assert_eq!((ports.acks, core.rows_behind()), (room, WITHOUT));
    assert_eq!(core.in_flight(), 10);
    ports.is_away = false;
    while ports.answer(&mut core) {}
    assert_eq!(ports.acks, room + 10);
    ports.assert_caught_up(&core);
}

#[test]
fn a_router_that_ends_while_it_is_behind_has_lost_nothing() {
    let (mut ports, conv) = (Ports::away(), direct("bob"));
    let mut core = ports.start();
    for _ in 0..500 {
        ports.send(&mut core, &conv);
        ports.answer(&mut core);
    }
    assert_eq!(ports.rows.len(), 500, "every row is in the store");
    ports.later.clear();
    ports.is_away = false;
    let mut core = ports.start();
    let left: Vec<u64> = ports.rows.keys().copied().collect();
    for recovered in left
        .iter()
        .flat_map(|row| ports.recovered(*row))
        .collect::<Vec<_>>()
    {
        ports.input(&mut core, Input::Recovered(recovered));
    }
    assert_eq!(
        core.rows_behind(),
        500 - WITH_MESSAGES,
        "what is left is not held in memory"
    );
    while ports.answer(&mut core) {}
    ports.assert_caught_up(&core);
}
