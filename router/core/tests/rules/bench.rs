//! A core and ports that answer at once, for tests of single rules.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_protocol::bus::{ArchivedBusRecord, ArchivedReceivers};
use corelane_protocol::frame::body::{ArchivedErrorBody, ArchivedSendAck};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::{self, Frame, FrameKind};
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, UserId};
use corelane_protocol::time::Now;
use corelane_router_core::RouterCore;
use corelane_router_core::append::{Append, Appended, Batch, Committed, Member, MemberChange};
use corelane_router_core::event::{Input, LaneList, LaneRole, Origin, Output, Route, Submission};

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A message, not from a terminal.
pub fn append(app: u32, conv: &ConvId, number: u32) -> Append {
    let mut id = [0; 16];
    id[12..].copy_from_slice(&number.to_be_bytes());
    Append {
        app: AppId(app),
        conv: conv.clone(),
        sender: user("sender"),
        client_msg_id: ClientMsgId(id),
        kind: 1,
        flags: 0,
        ref_seq: 0,
        content_type: 1,
        payload: Vec::new(),
        extensions: Vec::new(),
        origin_terminal: 0,
        origin_device: String::new(),
        members: MemberChange::default(),
        check_member: false,
        moves_read_mark: false,
    }
}

/// A core with one lane and one partition, and everybody online once at gateway boot 1.
pub struct Bench {
    pub core: RouterCore,
    step: u64,
    rows: u64,
    heads: BTreeMap<(AppId, ConvId), u64>,
    conns: BTreeMap<(AppId, UserId), u64>,
    /// By tenant, user and conversation: the places that were published to him.
    pub got: BTreeMap<(u32, String, String), Vec<u64>>,
    pub cleared: Vec<u64>,
    /// Users asked for in each lookup.
    pub located: Vec<usize>,
    /// Who is, and was, in each group.
    pub groups: BTreeMap<ConvId, Vec<Member>>,
    /// Batches that wait for [`Bench::commit`].
    pub batches: Vec<Batch>,
    pub answers: Vec<(Origin, Vec<u8>)>,
    /// Lookups wait for [`Bench::answer_lookups`].
    pub lookups_held: bool,
    /// The gateway reports nothing consumed.
    pub is_silent: bool,
    lookups: Vec<Input>,
    /// Versions of the router list that were said drained.
    pub drained: Vec<u64>,
    /// How often another look at the list was asked for.
    pub looks: usize,
}

impl Bench {
    /// A router that is alone, by a list of version 1.
    pub fn new() -> Self {
        let mut bench = Self::without_list();
        bench.list(1, LaneRole::Served);
        bench
    }

    pub fn without_list() -> Self {
        Self {
            core: RouterCore::new(77, 1, 1, 1),
            step: 0,
            rows: 0,
            heads: BTreeMap::new(),
            conns: BTreeMap::new(),
            got: BTreeMap::new(),
            cleared: Vec::new(),
            located: Vec::new(),
            groups: BTreeMap::new(),
            batches: Vec::new(),
            answers: Vec::new(),
            lookups_held: false,
            is_silent: false,
            lookups: Vec::new(),
            drained: Vec::new(),
            looks: 0,
        }
    }

    /// A list with this role for the one lane.
    pub fn list(&mut self, version: u64, role: LaneRole) {
        self.input(Input::Lanes(LaneList {
            roles: vec![role],
            ..LaneList::alone(version, 1)
        }));
    }

    pub fn now_ms(&self) -> u64 {
        self.step
    }

    /// A message from connection `conn` of gateway boot 1, its number also its reference.
    pub fn send(&mut self, conn: u64, append: Append, restart: bool, deadline_ms: u64) {
        let reference = u32::from_be_bytes(append.client_msg_id.0[12..].try_into().unwrap());
        let origin = Origin::Client {
            boot: 1,
            conn,
            reference,
        };
        self.input(Input::Submit(Submission {
            origin,
            append,
            restart,
            deadline_ms,
            stamp: 0,
        }));
    }

    /// What was answered since it was asked last: the place, or the refusal.
    pub fn outcomes(&mut self) -> Vec<Result<u64, ErrorCode>> {
        let outcome = |(_, bytes): (Origin, Vec<u8>)| {
            let frame = Frame::parse(&bytes).unwrap();
            if frame.known_kind() == Some(FrameKind::SendAck) {
                return Ok(frame.access::<ArchivedSendAck>().unwrap().seq.to_native());
            }
            let error = frame.access::<ArchivedErrorBody>().unwrap();
            Err(ErrorCode::from_number(error.code.to_native()).unwrap())
        };
        std::mem::take(&mut self.answers)
            .into_iter()
            .map(outcome)
            .collect()
    }

    /// Answers the lookups that were held, and holds no more.
    pub fn answer_lookups(&mut self) {
        self.lookups_held = false;
        for answer in std::mem::take(&mut self.lookups) {
            self.input(answer);
        }
    }

    /// Submits messages of a backend, all of which wait for a commit.
    pub fn submit(&mut self, appends: Vec<Append>) {
        for append in appends {
            self.input(Input::Submit(Submission {
                origin: Origin::Api(1),
                append,
                restart: true,
                deadline_ms: u64::MAX,
                stamp: 0,
            }));
        }
    }

    /// Commits what was handed over, batch by batch, until nothing waits.
    pub fn commit(&mut self) {
        while !self.batches.is_empty() {
            let batch = self.batches.remove(0);
            self.rows += 1;
            let answers = batch.appends.iter().map(|append| {
                let head = self.heads.entry((append.app, append.conv.clone())).or_default();
                *head += 1;
                Appended::Stored {
                    seq: *head,
                    n: *head,
                    time_ms: 1,
                    frame: vec![1; 20],
                    member_version: 0,
                    repeated: false,
                }
            });
            let answers = answers.collect();
            let outbox = self.rows;
            self.input(Input::Committed(batch.lane, Committed::Done { answers, outbox }));
        }
    }

    /// One input, and whatever follows from it.
    pub fn input(&mut self, input: Input) {
        let mut waiting = vec![input];
        let mut rounds = 0;
        while let Some(input) = waiting.pop() {
            rounds += 1;
            assert!(rounds < 10_000, "the core asks for ever");
            self.step += 1;
            let now = Now {
                mono: Duration::from_millis(self.step),
                wall_ms: self.step,
            };
            let mut outputs = Vec::new();
            self.core.handle(now, input, &mut outputs);
            for output in outputs {
                waiting.extend(self.output(output));
            }
        }
    }

    fn output(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Persist(batch) => self.batches.push(batch),
            Output::Answer(origin, frame) => self.answers.push((origin, frame)),
            Output::ClearOutbox(rows) => self.cleared.extend(rows),
            Output::Locate(ticket, app, users) => {
                self.located.push(users.len());
                let routes = users.iter().map(|user| {
                    let next = self.conns.len() as u64 + 1;
                    let conn = *self.conns.entry((app, user.clone())).or_insert(next);
                    vec![Route { boot: 1, conn }]
                });
                let located = Input::Located(ticket, routes.collect());
                if self.lookups_held {
                    self.lookups.push(located);
                } else {
                    return Some(located);
                }
            }
            Output::ReadRows(..) => panic!("no lane is behind: no lookup fails here"),
            Output::Drained(version) => self.drained.push(version),
            Output::LookAtRouters => self.looks += 1,
            Output::Publish {
                boot,
                partition,
                number,
                record,
                ..
            } => {
                self.published(&record);
                let gaps = Vec::new();
                let consumed = Input::Consumed {
                    boot,
                    partition,
                    number,
                    gaps,
                };
                return Some(consumed).filter(|_| !self.is_silent);
            }
            Output::LoadMembers(ticket, _, conv, since) => {
                let stays = self.groups.get(&conv).expect("a group of the test").clone();
                let asked = stays.into_iter();
                let asked = asked.filter(|stay| stay.leave_seq == 0 || stay.leave_seq >= since);
                return Some(Input::Members(ticket, 1, asked.collect()));
            }
        }
        None
    }

    fn published(&mut self, record: &[u8]) {
        let record = frame::access::<ArchivedBusRecord>(record).unwrap();
        let ArchivedReceivers::Conns(conns) = &record.receivers else {
            panic!("connections are named");
        };
        let conv = ConvId::parse(&record.conv).unwrap().to_string();
        for conn in conns.iter().map(|conn| conn.to_native()) {
            let owner = self.conns.iter().find(|(_, known)| **known == conn);
            let ((app, user), _) = owner.unwrap();
            let key = (app.0, user.as_str().to_owned(), conv.clone());
            let seqs = self.got.entry(key).or_default();
            seqs.extend(record.frames.iter().map(|frame| frame.seq.to_native()));
        }
    }
}
