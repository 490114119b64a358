//! Whatever the order in which the ports answer: the records of a conversation are published by rising seq, a terminal's
//! acknowledgements come in the order of its sends, and a row of the outbox is cleared when all its records were
//! consumed or lost with their topic, not before.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "small numbers of a test, and helpers of it that fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use corelane_protocol::bus;
use corelane_protocol::frame::Frame;
use corelane_protocol::frame::body::ArchivedSendAck;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, Lane, UserId};
use corelane_protocol::time::Now;
use corelane_router_core::RouterCore;
use corelane_router_core::append::{Append, Appended, Batch, Committed, MemberChange};
use corelane_router_core::event::{Input, LaneList, Origin, Output, Route, Submission};

const BOOTS: u64 = 3;
const CONVERSATIONS: u64 = 12;

/// Splitmix64: enough to vary an order.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % bound
    }
}

fn user(number: u64) -> UserId {
    UserId::new(&format!("user-{number}")).unwrap()
}

fn submission(conversation: u64, reference: u32) -> Submission {
    let conv = ConvId::direct(&user(2 * conversation), &user(2 * conversation + 1));
    let mut id = [0; 16];
    id[12..].copy_from_slice(&reference.to_be_bytes());
    let append = Append {
        app: AppId(0),
        conv,
        sender: user(2 * conversation),
        client_msg_id: ClientMsgId(id),
        kind: 1,
        flags: 0,
        ref_seq: 0,
        content_type: 1,
        payload: vec![b'x'; 10],
        extensions: Vec::new(),
        origin_terminal: 1,
        origin_device: String::new(),
        members: MemberChange::default(),
        check_member: true,
        moves_read_mark: true,
    };
    let origin = Origin::Client {
        boot: 1,
        conn: 100 + conversation,
        reference,
    };
    Submission {
        origin,
        append,
        restart: false,
        deadline_ms: u64::MAX,
        stamp: 0,
    }
}

/// Ports that keep what they were asked until it is their turn.
#[derive(Default)]
struct Ports {
    heads: BTreeMap<Vec<u8>, u64>,
    rows: u64,
    waiting: Vec<Input>,
    lanes: BTreeSet<Lane>,
    published: BTreeMap<(u64, Vec<u8>), Vec<u64>>,
    numbers: BTreeMap<(u64, u16), u64>,
    /// Records of each row that are not consumed.
    held: BTreeMap<u64, BTreeSet<(u64, u16, u64)>>,
    cleared: BTreeSet<u64>,
    acks: BTreeMap<u64, Vec<u64>>,
}

impl Ports {
    fn commit(&mut self, batch: Batch) {
        assert!(
            self.lanes.insert(batch.lane),
            "one batch of a lane is with the store at a time"
        );
        self.rows += 1;
        let answers = batch.appends.iter().map(|append| {
            let seq = self.heads.entry(append.conv.as_bytes().to_vec()).or_default();
            *seq += 1;
            Appended::Stored {
                seq: *seq,
                n: *seq,
                time_ms: 1,
                frame: vec![1; 20],
                member_version: 0,
                repeated: false,
            }
        });
        let (answers, outbox) = (answers.collect(), self.rows);
        self.waiting
            .push(Input::Committed(batch.lane, Committed::Done { answers, outbox }));
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Persist(batch) => self.commit(batch),
            Output::Answer(Origin::Client { conn, .. }, bytes) => {
                let frame = Frame::parse(&bytes).unwrap();
                let ack = frame.access::<ArchivedSendAck>().unwrap();
                self.acks.entry(conn).or_default().push(ack.seq.to_native());
            }
            Output::Locate(ticket, _, users) => {
                // Everybody is online once at each gateway.
                let routes = |number: usize| {
                    (1..=BOOTS).map(move |boot| Route {
                        boot,
                        conn: 1000 + number as u64,
                    })
                };
                let routes = (0..users.len()).map(|number| routes(number).collect()).collect();
                self.waiting.push(Input::Located(ticket, routes));
            }
            Output::Publish {
                boot,
                partition,
                number,
                record,
                ..
            } => {
                let (header, record) = bus::read(&record).unwrap();
                let last = self.numbers.entry((boot, partition)).or_default();
                assert_eq!(number, *last + 1, "records are numbered without a gap");
                *last = number;
                assert_eq!(header.number, number);
                let seqs = self.published.entry((boot, record.conv.to_vec())).or_default();
                seqs.extend(record.frames.iter().map(|each| each.seq.to_native()));
                let row = record.outbox.to_native();
                assert!(!self.cleared.contains(&row));
                self.held
                    .entry(row)
                    .or_default()
                    .insert((boot, partition, number));
                self.waiting.push(Input::Consumed {
                    boot,
                    partition,
                    number,
                    gaps: Vec::new(),
                });
            }
            Output::ClearOutbox(rows) => {
                for row in rows {
                    assert!(
                        self.held.get(&row).is_some_and(BTreeSet::is_empty),
                        "row {row} still waits"
                    );
                    assert!(self.cleared.insert(row), "row {row} is cleared once");
                }
            }
            other => panic!("nothing else is asked for: {other:?}"),
        }
    }

    fn before(&mut self, input: &Input) {
        match input {
            Input::Committed(lane, _) => assert!(self.lanes.remove(lane)),
            Input::Consumed {
                boot,
                partition,
                number,
                ..
            } => {
                let consumed = |(b, p, n): &(u64, u16, u64)| b == boot && p == partition && n <= number;
                self.held
                    .values_mut()
                    .for_each(|held| held.retain(|each| !consumed(each)));
            }
            Input::TopicLost(boot) => {
                self.held
                    .values_mut()
                    .for_each(|held| held.retain(|(b, ..)| b != boot));
                // What is gone is not reported; what comes behind it is.
                let is_lost = |input: &Input| matches!(input, Input::Consumed { boot: b, .. } if b == boot);
                self.waiting.retain(|input| !is_lost(input));
            }
            _ => {}
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut core = RouterCore::new(77, 1, 8, 4);
    let alone = Input::Lanes(LaneList::alone(1, 8));
    core.handle(Now::default(), alone, &mut Vec::new());
    let mut ports = Ports::default();
    let (mut sent, mut step) = (0, 0);
    while sent < 400 || !ports.waiting.is_empty() {
        step += 1;
        let now = Now {
            mono: Duration::from_millis(step),
            wall_ms: step,
        };
        let is_send = sent < 400 && (ports.waiting.is_empty() || random.below(3) > 0);
        let input = if random.below(60) == 0 {
            Input::TopicLost(1 + random.below(BOOTS as usize) as u64)
        } else if is_send {
            sent += 1;
            Input::Submit(submission(random.below(CONVERSATIONS as usize) as u64, sent))
        } else {
            let at = random.below(ports.waiting.len());
            ports.waiting.swap_remove(at)
        };
        ports.before(&input);
        let mut outputs = Vec::new();
        core.handle(now, input, &mut outputs);
        for output in outputs {
            ports.take(output);
        }
    }
    let rising = |seqs: &Vec<u64>| *seqs == (1..=seqs.len() as u64).collect::<Vec<u64>>();
    for (place, seqs) in &ports.published {
        assert!(rising(seqs), "seed {seed}: {place:?} was published as {seqs:?}");
    }
    for (conn, seqs) in &ports.acks {
        assert!(rising(seqs), "seed {seed}: {conn} was answered {seqs:?}");
    }
    assert_eq!(
        ports.acks.values().map(Vec::len).sum::<usize>(),
        400,
        "seed {seed}"
    );
    let published: usize = ports.published.values().map(Vec::len).sum();
    assert_eq!(published, 400 * BOOTS as usize, "seed {seed}");
    assert_eq!(
        ports.cleared.len() as u64,
        ports.rows,
        "seed {seed}: every row is cleared in the end"
    );
}

#[test]
fn records_leave_in_order_and_rows_wait_for_consumption() {
    for seed in 0..60 {
        run(seed);
    }
}
