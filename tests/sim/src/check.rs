//! The promise, looked at when everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use corelane_protocol::id::{ConnId, ConvId};

use crate::terminal::origin_of;
use crate::world::World;

impl World {
    /// Adds what is broken to the violations.
    pub(crate) fn check(&mut self) {
        let mut broken = Vec::new();
        self.check_log(&mut broken);
        self.check_acks(&mut broken);
        self.check_terminals(&mut broken);
        self.check_gaps(&mut broken);
        self.check_routes(&mut broken);
        self.check_topics(&mut broken);
        let left: Vec<u64> = self.store.outbox.keys().copied().collect();
        if !left.is_empty() {
            broken.push(format!("outbox rows are left: {left:?}"));
        }
        self.check_unread(&mut broken);
        for text in broken {
            self.violation(text);
        }
    }

    /// A bus that gives up what was consumed holds nothing.
    fn check_topics(&self, broken: &mut Vec<String>) {
        if self.shape.is_cluster() {
            return;
        }
        for ((boot, partition), topic) in &self.topics {
            let numbers: Vec<u64> = topic.records.iter().map(|(number, _)| *number).collect();
            if !numbers.is_empty() {
                broken.push(format!(
                    "partition {partition} of {boot} still holds {} records, the first is {}",
                    numbers.len(),
                    numbers[0]
                ));
            }
        }
    }

    /// Once each, and every terminal's in the order in which it said them.
    fn check_log(&self, broken: &mut Vec<String>) {
        for (id, conv) in &self.store.convs {
            let mut known = BTreeSet::new();
            let mut last: BTreeMap<u8, u32> = BTreeMap::new();
            let is_dense = conv.log.keys().copied().eq(1..=conv.head.seq);
            if !is_dense {
                broken.push(format!(
                    "{id}: the head says {}, there are {}, the last at {}",
                    conv.head.seq,
                    conv.log.len(),
                    conv.end()
                ));
            }
            for (seq, entry) in &conv.log {
                let Some(sender) = &entry.sender else { continue };
                if !known.insert((sender, entry.id)) {
                    broken.push(format!("{id} {seq}: the message is in the log a second time"));
                }
                let (terminal, index) = origin_of(entry.id.0);
                let before = last.insert(terminal, index).unwrap_or(0);
                if sender.as_str() != "backend" && before >= index {
                    broken.push(format!(
                        "{id} {seq}: terminal {terminal} said {index} before {before}"
                    ));
                }
            }
        }
    }

    fn check_acks(&self, broken: &mut Vec<String>) {
        for acked in &self.acked {
            let (conv, terminal, seq) = (&acked.conv, acked.terminal, acked.seq);
            let conv_of = self.store.convs.get(conv);
            match conv_of.and_then(|conv| conv.log.get(&seq)) {
                Some(entry) if entry.id.0 != acked.id => broken.push(format!(
                    "{conv} {seq} was acknowledged to {terminal} and is another message"
                )),
                Some(entry) if entry.payload != acked.payload => broken.push(format!(
                    "{conv} {seq} was acknowledged to {terminal} and says something else"
                )),
                Some(_) => {}
                None => broken.push(format!(
                    "{conv} {seq} was acknowledged to {terminal} and is not in the log"
                )),
            }
        }
    }

    /// Who is online has everything and has said everything.
    fn check_terminals(&mut self, broken: &mut Vec<String>) {
        for at in 0..self.terminals.len() {
            let user = self.user_of(at);
            let terminal = &self.terminals[at];
            if !terminal.is_live {
                if !terminal.is_replaced && !terminal.has_left {
                    broken.push(format!("{user} ({at}) could not log in"));
                }
                continue;
            }
            self.counts.online += 1;
            for (conv, outgoing) in &terminal.outgoing {
                if outgoing.len() > 0 {
                    broken.push(format!(
                        "{user} ({at}) could not say {} things in {conv}",
                        outgoing.len()
                    ));
                }
            }
            for (id, conv) in self
                .store
                .convs
                .iter()
                .filter(|(id, _)| self.store.is_member(id, &user))
            {
                let complete = terminal
                    .views
                    .get(id)
                    .map_or(0, crate::terminal::View::complete_upto);
                if complete < conv.last_said() {
                    let seqs = self.missing(at, id, conv.last_said());
                    broken.push(format!(
                        "{user} ({at}) misses {seqs:?} of {id}: {}",
                        terminal.state(id)
                    ));
                }
                let seen = terminal.views.get(id).map_or(0, |view| view.seen.len());
                if seen as u64 > conv.head.seq {
                    broken.push(format!(
                        "{user} ({at}) has {seen} messages of {id}, there are {}",
                        conv.head.seq
                    ));
                }
            }
        }
    }

    /// The registry holds the routes of the sessions that the shards have, and no other. Where there are several routers it
    /// may hold more: of a session that ended while its shard changed its home, or while the registry was away. What goes
    /// there bounces, so nobody misses anything; a route of a boot that is no more is never held.
    fn check_routes(&self, broken: &mut Vec<String>) {
        let held = self.registry.all();
        for (at, terminal) in self.terminals.iter().enumerate().filter(|(_, each)| each.is_live) {
            let Some(socket) = terminal.socket.and_then(|socket| self.sockets.get(socket)) else {
                continue;
            };
            let (user, boot) = (self.user_of(at), self.boot_of(socket.shard));
            if !held.contains(&(user.clone(), boot, socket.conn.0)) {
                broken.push(format!("{user} ({at}) is online and has no route"));
            }
        }
        for (shard, gateway) in self.gateways.iter().enumerate() {
            let sessions = gateway.shard.metrics().sessions;
            let boot = self.boot_of(shard);
            let is_here = |conn: u64| ConnId(conn).shard() == gateway.number;
            let routes = held
                .iter()
                .filter(|(_, owner, conn)| *owner == boot && is_here(*conn));
            let count = routes.count() as u64;
            let may_be_stale = self.shape.is_cluster()
                && (self.counts.cuts > 0 || self.counts.registry_aways > 0 || self.counts.pauses > 0);
            if count < sessions || (count > sessions && !may_be_stale) {
                broken.push(format!(
                    "shard {shard} has {sessions} sessions, the registry has {count} routes to it"
                ));
            }
        }
        let boots: BTreeSet<u64> = (0..self.gateways.len())
            .map(|shard| self.boot_of(shard))
            .collect();
        for (user, boot, _) in held.iter().filter(|(_, boot, _)| !boots.contains(boot)) {
            broken.push(format!(
                "{user} has a route to {boot}, which is no gateway's boot"
            ));
        }
    }

    fn missing(&self, at: usize, id: &ConvId, head: u64) -> Vec<u64> {
        let view = self.terminals[at].views.get(id);
        (1..=head)
            .filter(|seq| view.is_none_or(|view| !view.seen.contains_key(seq)))
            .collect()
    }

    /// Who is online counts the same unread messages as the platform: countable ones above his read mark.
    fn check_unread(&self, broken: &mut Vec<String>) {
        for (at, terminal) in self.terminals.iter().enumerate().filter(|(_, each)| each.is_live) {
            let user = self.user_of(at);
            let Some(looked) = &terminal.looked else {
                broken.push(format!("{user} ({at}) got no answer to his last sync"));
                continue;
            };
            let mine = self.store.conversations(&user);
            for id in mine.iter().filter(|id| self.store.is_member(id, &user)) {
                let Some(state) = looked.get(id) else {
                    broken.push(format!("the sync of {user} ({at}) does not tell of {id}"));
                    continue;
                };
                let counted = terminal
                    .views
                    .get(id)
                    .map_or(0, |view| view.count_above(state.read_seq));
                let (n, read_n) = (state.head_n, state.read_n);
                if n.checked_sub(read_n) != Some(counted) {
                    broken.push(format!(
                        "{user} ({at}) counts {counted} unread of {id}, the platform {n} less {read_n}"
                    ));
                }
                let marked = terminal.marks.get(id).copied().unwrap_or(0);
                if state.read_seq < marked {
                    broken.push(format!(
                        "{user} ({at}) read {id} up to {marked}, the platform says {}",
                        state.read_seq
                    ));
                }
            }
        }
    }

    /// What a connection was not sent, unless it was told: whatever is lost on the way is sent again, so no fault excuses it.
    fn check_gaps(&self, broken: &mut Vec<String>) {
        for (at, terminal) in self.terminals.iter().enumerate() {
            let Some(socket) = terminal.socket.and_then(|socket| self.sockets.get(socket)) else {
                continue;
            };
            let user = self.user_of(at);
            for (conv, seqs) in &socket.live {
                let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else {
                    continue;
                };
                let (acks, log) = (socket.acks.get(conv), &self.store.convs[conv].log);
                let upto = |told: &BTreeMap<ConvId, u64>| told.get(conv).copied().unwrap_or(0);
                let told = upto(&socket.known).max(upto(&socket.told));
                let is_missing = |seq: &u64| {
                    let is_there = seqs.contains(seq) || acks.is_some_and(|acks| acks.contains(seq));
                    !is_there
                        && self.store.must_see(conv, &user, *seq)
                        && log.get(seq).is_some_and(|entry| {
                            entry.sender.is_some() && entry.stored_at >= socket.resync_at
                        })
                };
                let gaps: Vec<u64> = (told.saturating_add(1).max(*first)..=*last)
                    .filter(is_missing)
                    .collect();
                if !gaps.is_empty() {
                    broken.push(format!(
                        "terminal {at} was not sent {gaps:?} of {conv} and not told"
                    ));
                }
            }
        }
    }
}
