//! What clients and the backend ask a router: sends, syncs, pulls, read marks, changes of the group; and frames that are
//! published without being stored.

use corelane_protocol::bus;
use corelane_protocol::frame::body::{ConvSeq, PullPage, PullRequired, ReadUpTo, SyncPage};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::read::{self, Place, PullView};
use corelane_protocol::frame::{Frame, FrameKind, encode, encode_error, kind};
use corelane_protocol::hash::{lane_of, partition_of};
use corelane_protocol::id::{ClientMsgId, ConvId, UserId};
use corelane_protocol::link::record::RecordKind;
use corelane_router_core::Notice;
use corelane_router_core::append::{Append, Batch, MemberChange};
use corelane_router_core::event::{Input, Origin, Route, Submission};

use crate::link::Taken;
use crate::router::route;
use crate::store::{APP, Txn};
use crate::world::{Event, PARTITIONS, World};

/// What a client asks.
#[derive(Debug)]
pub(crate) struct Request {
    user: UserId,
    conn: u64,
    reference: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Sync(Vec<u8>),
    Pull(PullView),
    Read(Place),
}

impl World {
    pub(crate) fn client_frame(&mut self, at: usize, boot: u64, record: &Taken) {
        let user = UserId::new(&record.user).expect("a user");
        let parsed = Frame::parse(&record.body).expect("the gateway checked it");
        let (conn, reference) = (record.conn, record.reference);
        let what = match parsed.known_kind() {
            Some(FrameKind::Send) => return self.client_send(at, boot, record, user, &parsed),
            Some(FrameKind::Pull) => What::Pull(read::pull(&parsed).expect("checked")),
            Some(FrameKind::Read) => What::Read(read::read(&parsed).expect("checked")),
            _ => What::Sync(read::sync(&parsed).expect("checked").cursor.to_vec()),
        };
        let delay = self.delay();
        let request = Request {
            user,
            conn,
            reference,
            what,
        };
        self.after(delay, Event::Request(at, request));
    }

    fn client_send(&mut self, at: usize, boot: u64, record: &Taken, user: UserId, parsed: &Frame<'_>) {
        let view = read::send(parsed).expect("the gateway checked it");
        let append = Append {
            app: APP,
            conv: view.target.conv_for(&user).expect("the gateway checked it"),
            sender: user,
            client_msg_id: view.client_msg_id,
            kind: view.kind,
            flags: view.flags,
            ref_seq: view.ref_seq,
            content_type: view.content_type,
            payload: view.payload.to_vec(),
            extensions: Vec::new(),
            origin_terminal: record.terminal,
            origin_device: record.device.clone(),
            members: MemberChange::default(),
            check_member: true,
            moves_read_mark: true,
        };
        let now_ms = self.clock().mono.as_millis() as u64;
        let submission = Submission {
            origin: Origin::Client {
                boot,
                conn: record.conn,
                reference: record.reference,
            },
            append,
            restart: view.restart,
            deadline_ms: now_ms + u64::from(record.deadline_ms),
            stamp: 0,
        };
        self.core_input(self.links[at].life, Input::Submit(submission));
    }

    pub(crate) fn answer_request(&mut self, at: usize, request: &Request) {
        if !self.links[at].is_up {
            return;
        }
        let refused = || encode_error(request.reference, ErrorCode::NotMember, "not a member");
        let frame = match &request.what {
            What::Sync(cursor) => {
                let (cursor, conversations) = self.store.sync(&request.user, cursor, self.store_ms());
                let page = SyncPage {
                    cursor,
                    more: false,
                    conversations,
                };
                encode(FrameKind::SyncPage, request.reference, &page)
            }
            What::Pull(view) => self.pulled(request, view).unwrap_or_else(refused),
            What::Read(place) => self.read(at, request, place).unwrap_or_else(refused),
        };
        self.push(
            at,
            RecordKind::ServerFrame,
            2,
            request.conn,
            request.reference,
            &frame,
        );
    }

    fn pulled(&self, request: &Request, view: &PullView) -> Option<Vec<u8>> {
        let upto = self.store.readable_upto(&view.conv, &request.user)?;
        let Some(wanted) = self.store.range(&view.conv, view.from_seq, view.to_seq.min(upto)) else {
            let text = "a message is missing";
            return Some(encode_error(request.reference, ErrorCode::Rejected, text));
        };
        let limit = usize::from(view.limit);
        let page = PullPage {
            conv: view.conv.as_bytes().to_vec(),
            next_seq: wanted.get(limit).map_or(0, |(seq, _)| *seq),
            head_seq: upto,
            head_n: upto,
            floor_seq: 0,
            messages: wanted
                .into_iter()
                .take(limit)
                .map(|(_, entry)| entry.frame.clone())
                .collect(),
        };
        Some(encode(FrameKind::PullPage, request.reference, &page))
    }

    /// Moves a read mark, and tells the user's other terminals.
    fn read(&mut self, at: usize, request: &Request, place: &Place) -> Option<Vec<u8>> {
        let ((seq, n), moved) = self.store.read(&place.conv, &request.user, place.seq)?;
        let body = ReadUpTo {
            conv: place.conv.as_bytes().to_vec(),
            whose: request.user.as_str().to_owned(),
            seq,
            n,
        };
        if moved {
            let boot = self.links[at].boot().unwrap_or(0);
            let mut routes: Vec<Route> = self.registry.routes(&request.user).iter().map(route).collect();
            routes.retain(|route| (route.boot, route.conn) != (boot, request.conn));
            let frame = encode(FrameKind::ReadUpTo, 0, &body);
            self.notify(
                self.links[at].life,
                place.conv.clone(),
                request.user.clone(),
                routes,
                frame,
            );
        }
        Some(encode(FrameKind::ReadUpTo, request.reference, &body))
    }

    pub(crate) fn bounced(&mut self, life: u32, conv: ConvId, seq: u64, mut users: Vec<UserId>) {
        users.dedup();
        let Some(sender) = users.first().cloned() else {
            return;
        };
        let sessions = users.iter().flat_map(|user| self.registry.routes(user));
        let routes: Vec<Route> = sessions.map(route).collect();
        let upto = vec![ConvSeq {
            conv: conv.as_bytes().to_vec(),
            seq,
        }];
        let frame = encode(FrameKind::PullRequired, 0, &PullRequired { upto });
        self.notify(life, conv, sender, routes, frame);
    }

    /// A frame that is not stored goes to these sessions.
    fn notify(&mut self, life: u32, conv: ConvId, sender: UserId, routes: Vec<Route>, frame: Vec<u8>) {
        if routes.is_empty() {
            return;
        }
        let notice = Notice {
            app: APP,
            conv,
            class: bus::class::CONTROL,
            priority: 0,
            expires_ms: 0,
            sender,
            routes,
            frame,
        };
        self.core_input(life, Input::Notice(notice));
    }

    /// A record of every router for every partition, so that a gateway without sessions, too, sees a number behind what
    /// was lost.
    pub(crate) fn call_all_partitions(&mut self) {
        let (class, priority) = (bus::class::TRANSIENT, 3);
        let sender = self.users[0].clone();
        for (boot, partition) in self.topics.keys().copied().collect::<Vec<_>>() {
            let is_there = |conv: &&ConvId| partition_of(APP, conv, PARTITIONS) == partition;
            let Some(conv) = self.store.convs.keys().find(is_there).cloned() else {
                continue;
            };
            for router in self.running() {
                let notice = Notice {
                    app: APP,
                    conv: conv.clone(),
                    class,
                    priority,
                    expires_ms: 0,
                    sender: sender.clone(),
                    routes: vec![Route { boot, conn: u64::MAX }],
                    frame: encode_error(0, ErrorCode::Retry, "nobody reads this"),
                };
                self.core_input(self.routers[router].life, Input::Notice(notice));
            }
        }
    }

    /// The group is there before anybody says anything.
    pub(crate) fn make_group(&mut self) {
        let members = self.users.clone();
        if !self.shape.is_cluster() {
            return self.change_group(members, Vec::new(), true);
        }
        let lane = lane_of(APP, &self.group, self.shape.lanes());
        let (_, append) = self.group_change(members, Vec::new(), true);
        let appends = vec![append];
        let txn = Txn {
            begun_ms: self.store_ms(),
            now: self.now,
            writer: 0,
        };
        self.store.commit(&Batch { lane, appends }, txn);
        self.store.outbox.clear();
    }

    /// A backend changes the group, by the router that serves it if there is one.
    pub(crate) fn change_group(&mut self, join: Vec<UserId>, leave: Vec<UserId>, create: bool) {
        let Some(life) = self.router_of_group() else {
            return;
        };
        let (number, append) = self.group_change(join, leave, create);
        let deadline_ms = self.clock().mono.as_millis() as u64 + 5_000;
        let origin = Origin::Api(number);
        let submission = Submission {
            origin,
            append,
            restart: true,
            deadline_ms,
            stamp: 0,
        };
        self.core_input(life, Input::Submit(submission));
    }

    fn router_of_group(&self) -> Option<u32> {
        let running = self.running();
        let lane = lane_of(APP, &self.group, self.shape.lanes());
        let serves = |at: &&usize| {
            let member = self.routers[**at].member.as_ref();
            member.is_none_or(|member| member.owns(lane))
        };
        let at = running.iter().find(serves).or(running.first())?;
        Some(self.routers[*at].life)
    }

    fn group_change(&mut self, join: Vec<UserId>, leave: Vec<UserId>, create: bool) -> (u64, Append) {
        let number = self.next_api;
        self.next_api += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.clock().wall_ms.to_be_bytes()[2..]);
        (id[6], id[8]) = (0x7f, 0x80);
        id[9..].copy_from_slice(&number.to_be_bytes()[1..]);
        let append = Append {
            app: APP,
            conv: self.group.clone(),
            sender: UserId::new("backend").expect("a short name"),
            client_msg_id: ClientMsgId(id),
            kind: kind::GROUP_CHANGE,
            flags: 0,
            ref_seq: 0,
            content_type: 1,
            payload: Vec::new(),
            extensions: Vec::new(),
            origin_terminal: 0,
            origin_device: String::new(),
            members: MemberChange { create, join, leave },
            check_member: false,
            moves_read_mark: false,
        };
        (number, append)
    }
}
