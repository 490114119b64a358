//! Stages locate and publish: a commit's messages go, in order, to the gateways where their receivers are.
//!
//! Owns, per lane, the commits that are not published, first in first out: a conversation's messages are published in
//! their order even if lookups answer out of order. One record per gateway and conversation carries all messages of
//! the commit that have the same receivers. A ticket that a port fails is asked again; until then the lane waits. At 64
//! commits it stops committing, or, while a port fails, goes on and lets go of their messages (`behind.rs`), so nothing is
//! lost and nothing grows. Owns, too, the members of groups as last read, [`MEMBERS_CACHED_MAX`] of them; when there are
//! more all are forgotten and read again. What went to the bus is in `outbox.rs`: when the bus's bound for a gateway is
//! reached, all that waits for it is lost to it and its sessions sync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelane_protocol::bus::{BusFrame, BusRecord, FrameReceivers, Receivers, class};
use corelane_protocol::frame;
use corelane_protocol::hash;
use corelane_protocol::id::{AppId, ConvId, Lane, UserId};

use crate::append::Member;
use crate::core::{Members, RouterCore};
use crate::event::{Output, Recovered, Route};
use crate::planted::Bug;

/// Most members of all groups that are remembered.
const MEMBERS_CACHED_MAX: usize = 1_000_000;

/// A message that was stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) app: AppId,
    pub(crate) conv: ConvId,
    pub(crate) seq: u64,
    pub(crate) sender: UserId,
    pub(crate) frame: Vec<u8>,
    pub(crate) member_version: u64,
    /// The connection that has the acknowledgement instead.
    pub(crate) except: Option<(u64, u64)>,
    pub(crate) stamp: u64,
}

/// A commit on its way to the gateways.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) outbox: u64,
    /// Of its frames.
    pub(crate) bytes: usize,
    /// By conversation, in order.
    convs: BTreeMap<(AppId, ConvId), Vec<Stored>>,
    /// What is asked of a port now.
    asked: Option<Asked>,
}

#[derive(Debug, Clone)]
enum Asked {
    /// From this place on.
    Members(AppId, ConvId, u64),
    /// Users of one tenant, sorted.
    Routes(AppId, Vec<UserId>),
}

impl Publication {
    pub(crate) fn new(outbox: u64, stored: Vec<Stored>) -> Self {
        let bytes = stored.iter().map(|each| each.frame.len()).sum();
        let mut convs: BTreeMap<(AppId, ConvId), Vec<Stored>> = BTreeMap::new();
        for each in stored {
            convs.entry((each.app, each.conv.clone())).or_default().push(each);
        }
        Self {
            outbox,
            bytes,
            convs,
            asked: None,
        }
    }
}

impl RouterCore {
    pub(crate) fn enqueue_publication(
        &mut self,
        lane: Lane,
        publication: Publication,
        outputs: &mut Vec<Output>,
    ) {
        let Some(publication) = self.let_go(lane, publication) else {
            return;
        };
        let outbox = publication.outbox;
        self.outbox.hold(outbox);
        let publications = &mut self.lanes.entry(lane).or_default().publications;
        publications.push_back(publication);
        if Bug::OrderByLookup.is_planted() {
            publications.swap(usize::from(publications.len() > 1), publications.len() - 1);
        }
        if Bug::OutboxClearedOnCommit.is_planted() {
            outputs.push(Output::ClearOutbox(vec![outbox]));
        }
        self.go_on_publishing(lane, outputs);
    }

    pub(crate) fn recovered(&mut self, recovered: Recovered, outputs: &mut Vec<Output>) {
        let (outbox, lane) = (recovered.outbox, recovered.lane);
        let stored = stored_of(recovered);
        if stored.is_empty() || Bug::RecoveredDropped.is_planted() {
            outputs.push(Output::ClearOutbox(vec![outbox]));
            return;
        }
        self.metrics.recovered += stored.len() as u64;
        self.enqueue_publication(lane, Publication::new(outbox, stored), outputs);
    }

    /// Asks for what the first publication of a lane still needs.
    pub(crate) fn go_on_publishing(&mut self, lane: Lane, outputs: &mut Vec<Output>) {
        let Some(publication) = self.lanes.get(&lane).and_then(|state| state.publications.front()) else {
            return;
        };
        if publication.asked.is_some() {
            return;
        }
        let stale = publication.convs.iter().find(|((app, conv), stored)| {
            let needed = stored.last().map_or(0, |last| last.member_version);
            conv.is_group()
                && self
                    .members
                    .get(&(*app, conv.clone()))
                    .is_none_or(|members| members.version < needed && !Bug::MembersNotReloaded.is_planted())
        });
        let asked = match stale {
            Some(((app, conv), stored)) => {
                let first = stored.first().map_or(0, |first| first.seq);
                Asked::Members(*app, conv.clone(), first)
            }
            None => self.routes_to_ask(publication),
        };
        let ticket = self.ticket(lane);
        match &asked {
            Asked::Members(app, conv, since) => {
                outputs.push(Output::LoadMembers(ticket, *app, conv.clone(), *since));
            }
            Asked::Routes(app, users) => outputs.push(Output::Locate(ticket, *app, users.clone())),
        }
        if let Some(publication) = self
            .lanes
            .get_mut(&lane)
            .and_then(|state| state.publications.front_mut())
        {
            publication.asked = Some(asked);
        }
    }

    /// The users of the first tenant in the publication; a commit of several tenants takes a round per tenant.
    fn routes_to_ask(&self, publication: &Publication) -> Asked {
        let app = publication.convs.keys().next().map_or(AppId(0), |(app, _)| *app);
        let mut users = BTreeSet::new();
        for ((each, conv), stored) in &publication.convs {
            if let (Some(first), Some(last)) = (stored.first(), stored.last())
                && *each == app
            {
                users.extend(self.receivers(app, conv, first.seq, last.seq));
            }
        }
        Asked::Routes(app, users.into_iter().collect())
    }

    /// Whom at least one of the messages from `first` to `last` is for: members change with a message.
    fn receivers(&self, app: AppId, conv: &ConvId, first: u64, last: u64) -> Vec<UserId> {
        if let Some((small, large)) = conv.direct_users() {
            return if Bug::OneSideLocated.is_planted() {
                vec![large]
            } else {
                vec![small, large]
            };
        }
        let told = self
            .stays(app, conv)
            .iter()
            .filter(|stay| stay.is_told(first, last));
        told.map(|stay| stay.user.clone()).collect()
    }

    fn stays(&self, app: AppId, conv: &ConvId) -> &[Member] {
        let members = self.members.get(&(app, conv.clone()));
        members.map_or(&[], |members| &members.stays)
    }

    /// Places from which on a conversation has other receivers than before.
    fn changes(&self, app: AppId, conv: &ConvId, stored: &[Stored]) -> BTreeSet<u64> {
        let (Some(first), Some(last)) = (stored.first(), stored.last()) else {
            return BTreeSet::new();
        };
        let stays = self.stays(app, conv).iter();
        stays
            .flat_map(|stay| [stay.join_seq, stay.leave_seq + 1])
            .filter(|place| (first.seq + 1..=last.seq).contains(place) && !Bug::ChangeHasNoPlace.is_planted())
            .collect()
    }

    pub(crate) fn members_loaded(
        &mut self,
        ticket: u64,
        version: u64,
        stays: Vec<Member>,
        outputs: &mut Vec<Output>,
    ) {
        let Some(lane) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(publication) = self.answered(lane) else {
            return;
        };
        let Some(Asked::Members(app, conv, _)) = publication.asked.take() else {
            return;
        };
        // What was read is at least as new as the commit: no need to ask a second time.
        for stored in publication
            .convs
            .get_mut(&(app, conv.clone()))
            .into_iter()
            .flatten()
        {
            stored.member_version = stored.member_version.min(version);
        }
        self.members_cached += stays.len() + 1;
        if self.members_cached > MEMBERS_CACHED_MAX {
            self.members.clear();
            self.members_cached = stays.len() + 1;
        }
        let before = self.members.insert((app, conv), Members { version, stays });
        self.members_cached -= before.map_or(0, |before| before.stays.len() + 1);
        self.go_on_publishing(lane, outputs);
    }

    /// The port failed: the same is asked again under a new ticket.
    pub(crate) fn ask_again(&mut self, ticket: u64, outputs: &mut Vec<Output>) {
        let Some(lane) = self.tickets.remove(&ticket) else {
            return;
        };
        if self.read_back_again(lane, ticket, outputs) {
            return;
        }
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        state.behind.set_failing(true);
        let front = state.publications.front_mut();
        if let Some(publication) = front.filter(|_| !Bug::FailureIsFinal.is_planted()) {
            publication.asked = None;
        }
        self.go_on_publishing(lane, outputs);
        // Before the failure a lane that was full waited for the port.
        self.start_commit(lane, outputs);
    }

    /// A port answered for the first publication of a lane.
    fn answered(&mut self, lane: Lane) -> Option<&mut Publication> {
        let state = self.lanes.get_mut(&lane)?;
        state.behind.set_failing(false);
        state.publications.front_mut()
    }

    pub(crate) fn located(&mut self, ticket: u64, routes: &[Vec<Route>], outputs: &mut Vec<Output>) {
        let Some(lane) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(publication) = self.answered(lane) else {
            return;
        };
        let Some(Asked::Routes(app, users)) = publication.asked.take() else {
            return;
        };
        let by_user: BTreeMap<&UserId, &Vec<Route>> = users.iter().zip(routes).collect();
        let outbox = publication.outbox;
        let (located, rest) = std::mem::take(&mut publication.convs)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|((tenant, _), _)| *tenant == app);
        publication.convs = rest;
        for ((app, conv), stored) in located {
            self.metrics.located += stored.len() as u64;
            // Where somebody joins or leaves a new record begins: what stands on the other side is not for him.
            let changes = self.changes(app, &conv, &stored);
            for stored in stored.chunk_by(|one, next| changes.range(one.seq + 1..=next.seq).next().is_none())
            {
                self.publish_conversation(app, &conv, stored, &by_user, outbox, outputs);
            }
            self.metrics.published += stored.len() as u64;
        }
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        if state
            .publications
            .front()
            .is_some_and(|publication| publication.convs.is_empty())
        {
            state.publications.pop_front();
            self.row_published(outbox, outputs);
            self.read_back(lane, outputs);
            self.start_commit(lane, outputs);
        }
        self.go_on_publishing(lane, outputs);
    }

    /// All of a row is published: it waits for the gateways only.
    pub(crate) fn row_published(&mut self, outbox: u64, outputs: &mut Vec<Output>) {
        if self.outbox.release(outbox) {
            self.metrics.cleared += 1;
            outputs.push(Output::ClearOutbox(vec![outbox]));
        }
    }

    /// Publishes messages that are all for the same users.
    fn publish_conversation(
        &mut self,
        app: AppId,
        conv: &ConvId,
        stored: &[Stored],
        routes: &BTreeMap<&UserId, &Vec<Route>>,
        outbox: u64,
        outputs: &mut Vec<Output>,
    ) {
        let (Some(first), Some(last)) = (stored.first(), stored.last()) else {
            return;
        };
        let mut by_boot: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for route in self
            .receivers(app, conv, first.seq, last.seq)
            .iter()
            .filter(|user| **user != first.sender || !Bug::SenderNotLocated.is_planted())
            .filter_map(|user| routes.get(user))
            .flat_map(|routes| routes.iter())
        {
            by_boot.entry(route.boot).or_default().insert(route.conn);
        }
        let partition = hash::partition_of(app, conv, self.partitions);
        for (boot, conns) in by_boot {
            let except = |each: &Stored| {
                each.except
                    .filter(|(owner, _)| *owner == boot)
                    .map(|(_, conn)| conn)
            };
            let is_for_sender = |each: &Stored| except(each).is_some_and(|sender| conns.contains(&sender));
            if conns.len() == 1 && stored.iter().all(is_for_sender) {
                continue;
            }
            let number = self.outbox.next_number(boot, partition);
            self.metrics.records += 1;
            self.metrics.record_messages += stored.len() as u64;
            let named = stored
                .iter()
                .map(|each| conns.len() - usize::from(is_for_sender(each)));
            self.metrics.record_deliveries += named.sum::<usize>() as u64;
            let record = BusRecord {
                class: class::STORED,
                priority: 2,
                app: app.0,
                conv: conv.as_bytes().to_vec(),
                first_seq: first.seq,
                last_seq: last.seq,
                member_version: last.member_version,
                epoch: self.epoch,
                router_boot: self.boot,
                number,
                outbox,
                expires_ms: 0,
                published_us: self.now.wall_ms * 1000,
                receivers: Receivers::Conns(conns.into_iter().collect()),
                frames: stored
                    .iter()
                    .map(|each| BusFrame {
                        seq: each.seq,
                        receivers: except(each).map_or(FrameReceivers::All, FrameReceivers::AllBut),
                        sender: each.sender.as_str().to_owned(),
                        stamp: each.stamp,
                        frame: each.frame.clone(),
                    })
                    .collect(),
            };
            let record: Arc<[u8]> = Arc::from(record.encode());
            self.outbox
                .sent(boot, partition, number, outbox, Arc::clone(&record));
            let stamp = stored
                .iter()
                .map(|each| each.stamp)
                .find(|stamp| *stamp != 0)
                .unwrap_or(0);
            outputs.push(Output::Publish {
                boot,
                partition,
                number,
                record,
                stamp,
            });
        }
    }
}

/// The messages of a row in one conversation.
pub(crate) fn stored_of(recovered: Recovered) -> Vec<Stored> {
    let Recovered {
        app, conv, frames, ..
    } = recovered;
    let stored = frames.into_iter().filter_map(|(seq, bytes)| {
        let sender = {
            let parsed = frame::Frame::parse(&bytes).ok()?;
            let message = parsed.access::<frame::body::ArchivedMessage>().ok()?;
            UserId::new(&message.sender).ok()?
        };
        let conv = conv.clone();
        // Unknown, so newer than whatever is remembered: the members are read again.
        let member_version = u64::MAX;
        Some(Stored {
            app,
            conv,
            seq,
            sender,
            frame: bytes,
            member_version,
            except: None,
            stamp: 0,
        })
    });
    stored.collect()
}
