//! The connections of a shard, by slot, and its sessions by user.
//!
//! Owns one [`Conn`] per slot, in pages that never move, and a chained hash index from (tenant, user) to slots
//! whose links stand in the sessions themselves: four bytes per session instead of a map entry. A connection is
//! found by its whole [`ConnId`]; one whose generation is not the slot's present one is not found, so a stale id
//! does nothing anywhere.
//!
//! An idle session costs the struct below, its names and its timer: see the assertion.

use std::net::IpAddr;

use corelane_protocol::hash::content_hash;
use corelane_protocol::id::ConnId;
use corelane_protocol::ws::{Decoder, Role};

use crate::outbound::Outbound;
use crate::places::Places;
use crate::planted::Bug;
use crate::transform::Transform;
use crate::wheel::Tick;
use crate::window::Window;

/// Slots of a page.
const PAGE_SLOTS: usize = 1024;
/// No slot, or no place in a list.
pub(crate) const NONE: u32 = u32::MAX;
/// Largest message before `Welcome`, and most bytes held before it.
pub(crate) const OPENING_BYTES_MAX: usize = 4096;

const _: () = assert!(size_of::<Conn>() <= 168, "what every idle connection costs");

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody uses the slot.
    Free,
    /// The PROXY header in front of the request head is coming in.
    Proxy,
    /// The request head is coming in.
    Head,
    /// 101 is on its way.
    Upgrading,
    /// `Hello` is awaited.
    Hello,
    /// The token is being checked.
    Verifying,
    /// The route is being claimed.
    Claiming,
    /// Logged in.
    Live,
    /// Echoes.
    Echo,
    /// A close frame (or a refusal) is on its way or was sent; the client's answer is awaited.
    Closing,
    /// The engine was told to close.
    Closed,
}

/// Yes-or-no facts about a connection.
pub(crate) mod flag {
    /// Speaks JSON.
    pub(crate) const JSON: u8 = 1;
    /// The engine was told not to read.
    pub(crate) const PAUSED: u8 = 2;
    /// Stands in the list of those that have something to flush.
    pub(crate) const LISTED: u8 = 4;
    /// Gets no payload until its next sync or pull.
    pub(crate) const DEMOTED: u8 = 8;
    /// Its claim was made again and not yet answered.
    pub(crate) const RECLAIMING: u8 = 16;
    /// A newer token is being checked.
    pub(crate) const VERIFYING: u8 = 32;
    /// To be closed as soon as everything is sent.
    pub(crate) const FINISH: u8 = 64;
    /// Stands in the list of those that can be read again.
    pub(crate) const UNBLOCKED: u8 = 128;
}

/// What a connection needs until it is logged in.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Who connected, if that is a proxy, which says itself whose the connection is.
    pub(crate) proxy: Option<IpAddr>,
    /// Token of the upgrade.
    pub(crate) token: String,
    /// Code to close with as soon as the upgrade is done.
    pub(crate) refuse_code: Option<u16>,
    /// Whether it asked for `/echo`.
    pub(crate) echo: bool,
    /// What `Hello` said.
    pub(crate) terminal: u8,
    /// What `Hello` said.
    pub(crate) device: String,
    /// `Hello`'s reference.
    pub(crate) reference: u32,
}

/// What few connections have at a time.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Bytes that were received and may not be used yet, from `held_at` on.
    pub(crate) held: Vec<u8>,
    pub(crate) held_at: usize,
    /// Messages that were not sent.
    pub(crate) missed: Places,
    /// Reference of the `RefreshToken` that is being checked.
    pub(crate) refresh_reference: u32,
    /// Frames over the rate limit in a row.
    pub(crate) over_rate: u32,
}

impl Rare {
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.len() - self.held_at
    }
}

/// Who is logged in.
#[derive(Debug)]
pub(crate) struct Session {
    /// User, then device.
    names: Box<str>,
    pub(crate) owner_seq: u64,
    pub(crate) app: u32,
    pub(crate) issued_at_s: u32,
    pub(crate) expires_at_s: u32,
    /// Slot of the next session in the same bucket.
    next: u32,
    /// Frames that may still come now, in hundredths.
    pub(crate) allowance: u32,
    pub(crate) allowance_at: Tick,
    /// Frames that need no answer in the second (modulo 256) that it says.
    pub(crate) asides: u8,
    pub(crate) asides_second: u8,
    user_bytes: u8,
    pub(crate) terminal: u8,
    indexed: bool,
}

impl Session {
    pub(crate) fn new(app: u32, user: &str, terminal: u8, device: &str) -> Self {
        Self {
            names: [user, device].concat().into(),
            owner_seq: 0,
            app,
            issued_at_s: 0,
            expires_at_s: u32::MAX,
            next: NONE,
            allowance: 0,
            allowance_at: 0,
            asides: 0,
            asides_second: 0,
            user_bytes: user.len() as u8,
            terminal,
            indexed: false,
        }
    }

    const fn nobody() -> Option<Self> {
        None
    }

    pub(crate) fn user(&self) -> &str {
        self.names.get(..usize::from(self.user_bytes)).unwrap_or("")
    }

    pub(crate) fn device(&self) -> &str {
        self.names.get(usize::from(self.user_bytes)..).unwrap_or("")
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    generation: u32,
    pub(crate) stage: Stage,
    pub(crate) flags: u8,
    /// Coarse time of the last bytes that came. That a send has left is no sign of life: the kernel took it.
    pub(crate) last_seen: Tick,
    /// When the stage must be over; meaningful before `Live` and while closing.
    pub(crate) stage_due: Tick,
    /// Bytes it owned when it was last weighed, and its place in the list of those that own any.
    pub(crate) weight: u32,
    pub(crate) holder: u32,
    /// What stands between its socket and its codec.
    pub(crate) transform: Transform,
    pub(crate) decoder: Decoder,
    pub(crate) out: Outbound,
    pub(crate) opening: Option<Box<Opening>>,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) window: Option<Box<Window>>,
    pub(crate) session: Option<Session>,
}

const fn empty_conn() -> Conn {
    Conn {
        generation: 0,
        stage: Stage::Free,
        flags: 0,
        last_seen: 0,
        stage_due: 0,
        weight: 0,
        holder: NONE,
        transform: Transform::Plain,
        decoder: Decoder::new(Role::Server, OPENING_BYTES_MAX as u32),
        out: Outbound::EMPTY,
        opening: None,
        rare: None,
        window: None,
        session: Session::nobody(),
    }
}

impl Conn {
    fn is_generation_of(&self, id: ConnId) -> bool {
        self.generation == id.generation() || Bug::GenerationIgnored.is_planted()
    }

    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) const fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    /// Clears `flag`; returns whether it was set.
    pub(crate) const fn clear(&mut self, flag: u8) -> bool {
        let was = self.has(flag);
        self.flags &= !flag;
        was
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.held_bytes())
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Frees the box once nothing in it is needed.
    pub(crate) fn trim(&mut self) {
        let idle = |rare: &Rare| rare.held_bytes() == 0 && rare.missed.is_empty() && rare.over_rate == 0;
        if !self.has(flag::VERIFYING | flag::DEMOTED) && self.rare.as_deref().is_some_and(idle) {
            self.rare = None;
        }
    }
}

/// All connections of a shard.
#[derive(Debug)]
pub(crate) struct Table {
    shard: u16,
    pages: Vec<Vec<Conn>>,
    /// Slots that were ever used lie below this.
    top: u32,
    count: usize,
    buckets: Vec<u32>,
    sessions: usize,
}

impl Table {
    pub(crate) fn new(shard: u16) -> Self {
        Self {
            shard,
            pages: Vec::new(),
            top: 0,
            count: 0,
            buckets: vec![NONE; 64],
            sessions: 0,
        }
    }

    /// Takes the slot of `id` for it. Returns false if the slot is in use or the id is not of this shard.
    pub(crate) fn insert(&mut self, id: ConnId) -> bool {
        if id.shard() != self.shard {
            return false;
        }
        let page = id.slot() as usize / PAGE_SLOTS;
        while self.pages.len() <= page {
            self.pages.push(Vec::new());
        }
        let Some(conns) = self.pages.get_mut(page) else {
            return false;
        };
        if conns.is_empty() {
            conns.reserve_exact(PAGE_SLOTS);
            conns.extend(std::iter::repeat_with(empty_conn).take(PAGE_SLOTS));
        }
        let Some(conn) = conns.get_mut(id.slot() as usize % PAGE_SLOTS) else {
            return false;
        };
        if conn.stage != Stage::Free {
            return false;
        }
        *conn = empty_conn();
        conn.generation = id.generation();
        conn.stage = Stage::Head;
        self.top = self.top.max(id.slot() + 1);
        self.count += 1;
        true
    }

    /// Frees the slot of `id`.
    pub(crate) fn remove(&mut self, id: ConnId) {
        self.unindex(id);
        if let Some(conn) = self.get_mut(id) {
            *conn = empty_conn();
            self.count -= 1;
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        self.at(id.slot())
            .filter(|conn| conn.is_generation_of(id) && id.shard() == self.shard)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let shard = self.shard;
        self.at_mut(id.slot())
            .filter(|conn| conn.is_generation_of(id) && id.shard() == shard)
    }

    /// The id of whoever uses `slot`.
    pub(crate) fn id_at(&self, slot: u32) -> Option<ConnId> {
        self.at(slot)
            .map(|conn| ConnId::new(self.shard, slot, conn.generation))
    }

    /// Slots that were ever used lie below this.
    pub(crate) const fn slots(&self) -> u32 {
        self.top
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn sessions(&self) -> usize {
        self.sessions
    }

    fn at(&self, slot: u32) -> Option<&Conn> {
        self.pages
            .get(slot as usize / PAGE_SLOTS)?
            .get(slot as usize % PAGE_SLOTS)
            .filter(|conn| conn.stage != Stage::Free)
    }

    fn at_mut(&mut self, slot: u32) -> Option<&mut Conn> {
        self.pages
            .get_mut(slot as usize / PAGE_SLOTS)?
            .get_mut(slot as usize % PAGE_SLOTS)
            .filter(|conn| conn.stage != Stage::Free)
    }

    /// Makes the session of `id` findable by its user.
    pub(crate) fn index(&mut self, id: ConnId) {
        if self.sessions >= self.buckets.len() {
            self.grow();
        }
        let Some(bucket) = self.session(id.slot()).map(|session| self.bucket_of(session)) else {
            return;
        };
        let head = self.buckets.get(bucket).copied().unwrap_or(NONE);
        let Some(session) = self.get_mut(id).and_then(|conn| conn.session.as_mut()) else {
            return;
        };
        if session.indexed {
            return;
        }
        session.indexed = true;
        session.next = head;
        if let Some(slot) = self.buckets.get_mut(bucket) {
            *slot = id.slot();
        }
        self.sessions += 1;
    }

    /// Takes the session of `id` out of the index.
    pub(crate) fn unindex(&mut self, id: ConnId) {
        let Some(session) = self
            .get(id)
            .and_then(|conn| conn.session.as_ref())
            .filter(|session| session.indexed)
        else {
            return;
        };
        let (bucket, after) = (self.bucket_of(session), session.next);
        let mut at = self.buckets.get(bucket).copied().unwrap_or(NONE);
        if at == id.slot() {
            if let Some(head) = self.buckets.get_mut(bucket) {
                *head = after;
            }
        } else {
            while let Some(session) = self.session_mut(at) {
                if session.next == id.slot() {
                    session.next = after;
                    break;
                }
                at = session.next;
            }
        }
        if let Some(session) = self.session_mut(id.slot()) {
            session.indexed = false;
            session.next = NONE;
        }
        self.sessions -= 1;
    }

    /// Appends the connections of all sessions of a user to `into`.
    pub(crate) fn of_user(&self, app: u32, user: &str, into: &mut Vec<ConnId>) {
        let mut at = self
            .buckets
            .get(bucket_in(app, user, self.buckets.len()))
            .copied()
            .unwrap_or(NONE);
        while let Some(session) = self.session(at) {
            if session.app == app && session.user() == user {
                into.extend(self.id_at(at));
            }
            at = session.next;
        }
    }

    fn session(&self, slot: u32) -> Option<&Session> {
        self.at(slot)?.session.as_ref()
    }

    fn session_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.at_mut(slot)?.session.as_mut()
    }

    fn bucket_of(&self, session: &Session) -> usize {
        bucket_in(session.app, session.user(), self.buckets.len())
    }

    fn grow(&mut self) {
        let len = self.buckets.len() * 2;
        let heads = std::mem::replace(&mut self.buckets, vec![NONE; len]);
        for head in heads {
            let mut at = head;
            while let Some(session) = self.session(at) {
                let (slot, after) = (at, session.next);
                let bucket = self.bucket_of(session);
                if let Some(head) = self.buckets.get_mut(bucket) {
                    let next = std::mem::replace(head, slot);
                    if let Some(session) = self.session_mut(slot) {
                        session.next = next;
                    }
                }
                at = after;
            }
        }
    }
}

fn bucket_in(app: u32, user: &str, buckets: usize) -> usize {
    let hash = content_hash(user.as_bytes()) ^ u64::from(app).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash % buckets.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged_in(table: &mut Table, slot: u32, user: &str) -> ConnId {
        let id = ConnId::new(3, slot, slot + 7);
        assert!(table.insert(id));
        table.get_mut(id).unwrap().session = Some(Session::new(0, user, 1, "phone"));
        table.index(id);
        id
    }

    #[test]
    fn sessions_are_found_by_user_through_growth_and_removal() {
        let mut table = Table::new(3);
        let ids: Vec<ConnId> = (0..3000)
            .map(|slot| logged_in(&mut table, slot, &format!("user{}", slot % 1000)))
            .collect();
        let mut found = Vec::new();
        table.of_user(0, "user7", &mut found);
        found.sort_unstable();
        assert_eq!(found, [ids[7], ids[1007], ids[2007]]);
        table.remove(ids[1007]);
        table.remove(ids[7]);
        found.clear();
        table.of_user(0, "user7", &mut found);
        assert_eq!(found, [ids[2007]]);
        found.clear();
        table.of_user(1, "user7", &mut found);
        assert!(found.is_empty());
        assert_eq!(table.sessions(), 2998);
    }

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut table = Table::new(3);
        let old = logged_in(&mut table, 5, "a");
        table.remove(old);
        let new = ConnId::new(3, 5, 99);
        assert!(table.insert(new) && !table.insert(new));
        assert!(table.get(old).is_none() && table.get_mut(old).is_none());
        assert!(table.get(ConnId::new(4, 5, 99)).is_none());
        table.remove(old);
        assert!(table.get(new).is_some());
    }
}
