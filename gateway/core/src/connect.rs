//! connect: links come and go.
//!
//! Owns nothing: links are in `links.rs`, who there is to link with in `routers.rs`. Each is connected, proved, given up
//! when it is silent, and connected again, without regard to the others. What a lost one carried is answered at once
//! (`window.rs`); if it was the home another one is from that moment on (`home.rs`).

use corelane_protocol::frame;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{
    ArchivedBusBatch, ArchivedClaimed, ArchivedKick, ArchivedRenewed, ArchivedRouterList,
};
use corelane_protocol::link::codec::{LinkCodec, LinkError, LinkEvent, LinkRole, PeerInfo};
use corelane_protocol::link::handshake::feature;
use corelane_protocol::link::record::{Record, RecordKind};

use crate::event::{LinkId, Output};
use crate::link::{ATTEMPT_MAX, CLOSE_MAX, State};
use crate::links::LinkIndex;
use crate::routers::Routers;
use crate::shard::Shard;

impl Shard {
    /// Connects what is to be connected, gives up on what is silent, and leaves what is not needed any more.
    pub(crate) fn tend_links(&mut self) {
        for at in self.links.indexes() {
            self.tend_link(at);
        }
        self.leave_unlisted();
    }

    fn tend_link(&mut self, at: LinkIndex) {
        let now = self.now.mono;
        let may_connect = !self.drain.is_over() && !self.links.lease.is_lost();
        let Some(link) = self.links.get(at) else {
            return;
        };
        let (id, unheard) = (link.id, now.saturating_sub(link.heard_at));
        match link.state {
            State::Down { retry_at } if retry_at <= now && may_connect => self.connect(at),
            State::Connecting { since } | State::Shaking { since } if since + ATTEMPT_MAX <= now => {
                self.close_link(at);
            }
            State::Closing { since } if since + CLOSE_MAX <= now => self.link_closed(id),
            State::Up if link.renew_at <= now && unheard >= self.config.link_silence => self.close_link(at),
            State::Up if link.renew_at <= now => {
                self.renew(at);
                self.settle_home();
            }
            _ => {}
        }
    }

    fn connect(&mut self, at: LinkIndex) {
        let id = self.links.next_id();
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        let address = link.next_address().to_owned();
        if address.is_empty() {
            return;
        }
        link.connecting(id, self.now.mono);
        self.outputs.push(Output::LinkConnect(id, address));
    }

    pub(crate) fn link_connected(&mut self, id: LinkId, nonce: [u8; 16]) {
        let info = PeerInfo {
            node: self.config.node.clone(),
            boot: self.config.boot,
            shard: self.number,
            shards: self.config.shards,
            cluster_id: self.links.cluster_id,
            partitions: self.config.bus_partitions,
            features: if self.bus_is_apart() {
                feature::BUS_APART
            } else {
                0
            },
            ..PeerInfo::default()
        };
        let secret = self.config.link_secret.clone();
        let found = self.links.find(id).and_then(|at| self.links.get_mut(at));
        if let Some(link) = found.filter(|link| matches!(link.state, State::Connecting { .. })) {
            let codec = LinkCodec::new(LinkRole::Gateway, info, secret, nonce);
            link.connected(codec, self.now.mono);
        }
    }

    pub(crate) fn link_received(&mut self, id: LinkId, bytes: &[u8]) {
        let now = self.now.mono;
        let Some(at) = self.links.find(id) else {
            return;
        };
        let open = self.links.get_mut(at).filter(|link| link.is_open());
        let Some(mut codec) = open.and_then(|link| {
            link.heard(now);
            link.take_codec()
        }) else {
            return;
        };
        let (mut established, mut list, mut is_refused) = (None, None, false);
        let fed = codec.feed(bytes, &mut |event| match event {
            LinkEvent::Established(router) => {
                is_refused = self.links.fault_of(router).is_some();
                established = Some(router.clone());
            }
            // What a router says that does not belong to this cluster means nothing.
            LinkEvent::Record(_) if is_refused => {}
            LinkEvent::Record(record) => self.take_record(at, &record, &mut list),
            LinkEvent::Room => {}
        });
        if let Some(link) = self.links.get_mut(at) {
            link.put_codec(codec);
        }
        if let Err(error) = fed {
            self.fail_link(at, error);
        } else if self.greet(at) {
            if let Some(router) = established {
                self.link_established(at, router);
            }
            if let Some(list) = list {
                self.take_list(list);
            }
        }
        if self.links.lease.is_lost() {
            self.boot_lost();
        }
        self.write_waiting();
    }

    pub(crate) fn link_sent(&mut self, id: LinkId) {
        let found = self.links.find(id).and_then(|at| self.links.get_mut(at));
        if let Some(link) = found {
            link.sent();
        }
    }

    pub(crate) fn link_closed(&mut self, id: LinkId) {
        let (first, shard, now) = (self.config.link_retry, self.number, self.now.mono);
        let Some(at) = self.links.find(id) else {
            return;
        };
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        if matches!(link.state, State::Down { .. }) {
            return;
        }
        let next = link.retry_at(first, shard, now);
        self.lose_link(at, next);
        self.seek();
    }

    /// Closes all links; they are connected again after the shortest pause.
    pub(crate) fn leave_links(&mut self) {
        // An attempt that is under way will not say a boot that is lost, but may one that is new.
        let leaves_attempts = self.links.lease.is_lost();
        // The home last, or each of the others would be it for a moment.
        let home = self.links.home;
        let others = self.links.indexes().filter(|at| Some(*at) != home);
        for at in others.chain(home) {
            let Some(link) = self.links.get_mut(at) else {
                continue;
            };
            link.hurry();
            let is_attempt = matches!(link.state, State::Connecting { .. });
            if link.is_open() || (is_attempt && leaves_attempts) {
                self.close_link(at);
            }
        }
    }

    /// The other end cannot be talked to.
    pub(crate) fn fail_link(&mut self, at: LinkIndex, error: LinkError) {
        self.links.error = Some(error);
        self.metrics.link_errors += 1;
        self.close_link(at);
    }

    /// Closes a link; it is connected again after a pause.
    pub(crate) fn close_link(&mut self, at: LinkIndex) {
        self.hang_up(at);
        self.lose_link(at, State::Closing { since: self.now.mono });
    }

    /// Closes a link for good.
    pub(crate) fn remove_link(&mut self, at: LinkIndex) {
        self.hang_up(at);
        self.lose_link(at, State::Closing { since: self.now.mono });
        self.links.free(at);
    }

    /// Has the socket of a link closed, if it has one.
    pub(crate) fn hang_up(&mut self, at: LinkIndex) {
        if let Some(link) = self.links.get(at)
            && !matches!(link.state, State::Down { .. } | State::Closing { .. })
        {
            self.outputs.push(Output::LinkClose(link.id));
        }
    }

    /// What was on a link is lost with it.
    fn lose_link(&mut self, at: LinkIndex, next: State) {
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        let was_established = link.is_established();
        link.lose(next);
        if !was_established {
            return;
        }
        self.metrics.link_lost += 1;
        if self.links.established() == 0 {
            // Whoever is reached next knows better than what was heard before.
            self.links.routers.doubt();
        }
        self.retry_all(at);
        self.settle_home();
    }

    fn link_established(&mut self, at: LinkIndex, router: PeerInfo) {
        if let Some(fault) = self.links.fault_of(&router) {
            return self.fail_link(at, fault);
        }
        let (is_first, now) = (self.links.established() == 0, self.now.mono);
        let (node, boot) = (router.node.clone(), router.boot);
        self.links.learn(&router);
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        self.metrics.link_established += 1;
        link.established(router, now);
        self.renew(at);
        self.enlist(at, &node, is_first);
        self.consumer.report_again(boot, now);
        self.settle_home();
    }

    fn take_record(&mut self, at: LinkIndex, record: &Record<'_>, list: &mut Option<Routers>) {
        let id = ConnId(record.conn);
        match record.known_kind() {
            Some(RecordKind::ServerFrame) => self.answered(at, id, record.body),
            // Offsets are those of the home's bus: what another one still had on its way means nothing.
            Some(RecordKind::BusBatch) if self.links.home == Some(at) => {
                if let Ok(batch) = frame::access::<ArchivedBusBatch>(record.body) {
                    self.take_batch(batch);
                }
            }
            // What a former home still answers may be of a registry that has forgotten it since.
            Some(RecordKind::Claimed) if self.links.home == Some(at) => {
                if let Ok(claimed) = frame::access::<ArchivedClaimed>(record.body) {
                    self.claimed(id, claimed);
                }
            }
            Some(RecordKind::Kick) => {
                if let Ok(kick) = frame::access::<ArchivedKick>(record.body) {
                    self.kicked(id, kick);
                }
            }
            Some(RecordKind::RouterList) => {
                let read = frame::access::<ArchivedRouterList>(record.body).ok();
                if let Some(read) = read.and_then(Routers::read) {
                    // Taken when all of these bytes are: it may be this link that goes.
                    *list = Some(read);
                }
            }
            Some(RecordKind::Renewed) => {
                if let Ok(renewed) = frame::access::<ArchivedRenewed>(record.body) {
                    self.renewed(record.reference, renewed);
                }
            }
            _ => {}
        }
    }

    /// Hands what was gathered for the routers to the engine.
    pub(crate) fn flush_links(&mut self) {
        for at in self.links.indexes() {
            let Some(link) = self.links.get_mut(at) else {
                continue;
            };
            if let Some(span) = link.flush(&mut self.scratch) {
                self.outputs.push(Output::LinkSend(link.id, span));
            }
        }
    }
}
