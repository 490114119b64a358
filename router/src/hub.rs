//! Which links there are, and the way to each.
//!
//! Owns the list of links by (gateway boot, shard) and, for each, the count of bytes that wait to be written. A link
//! whose gateway does not read is closed at [`LINK_QUEUE_BYTES_MAX`]: the gateway connects again, and what it missed is
//! pulled or sent again by number. So one slow gateway costs the others nothing. Kicks for shards without a link wait
//! for one (`kicks.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corelane_protocol::id::ConnId;
use corelane_protocol::link::record::{RECORD_HEADER_BYTES, RecordKind};
use tokio::sync::{Notify, mpsc};

use crate::kicks::Kicks;

/// Most bytes that wait for one link.
pub(crate) const LINK_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A record for a gateway shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) kind: RecordKind,
    pub(crate) priority: u8,
    /// 0 for none.
    pub(crate) conn: u64,
    pub(crate) reference: u32,
    pub(crate) body: Vec<u8>,
}

impl Outgoing {
    /// A frame for a connection.
    pub(crate) fn frame(conn: u64, reference: u32, priority: u8, body: Vec<u8>) -> Self {
        Self {
            kind: RecordKind::ServerFrame,
            priority,
            conn,
            reference,
            body,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body.len()
    }
}

/// The way to one link.
#[derive(Debug, Clone)]
pub(crate) struct LinkHandle {
    /// Counts links up; a new connection is a new number.
    pub(crate) id: u64,
    records: mpsc::UnboundedSender<Vec<Outgoing>>,
    waiting_bytes: Arc<AtomicUsize>,
    close: Arc<Notify>,
}

/// The link's own end of a [`LinkHandle`].
pub(crate) struct LinkMailbox {
    pub(crate) records: mpsc::UnboundedReceiver<Vec<Outgoing>>,
    pub(crate) waiting_bytes: Arc<AtomicUsize>,
    pub(crate) close: Arc<Notify>,
}

impl LinkHandle {
    pub(crate) fn new(id: u64) -> (Self, LinkMailbox) {
        let (sender, records) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let close = Arc::new(Notify::new());
        let handle = Self {
            id,
            records: sender,
            waiting_bytes: Arc::clone(&waiting_bytes),
            close: Arc::clone(&close),
        };
        (
            handle,
            LinkMailbox {
                records,
                waiting_bytes,
                close,
            },
        )
    }

    /// Queues records. When too much waits already they are dropped and the link is closed.
    pub(crate) fn send(&self, records: Vec<Outgoing>) {
        let bytes: usize = records.iter().map(Outgoing::bytes).sum();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > LINK_QUEUE_BYTES_MAX {
            self.close.notify_one();
            return;
        }
        // A link that ended a moment ago has no receiver; its gateway learns from the end of the link.
        let _ = self.records.send(records);
    }

    /// Ends when the link is over, and all that its session task was asked for is done.
    pub(crate) async fn ended(&self) {
        self.records.closed().await;
    }

    /// Asks the link to end.
    pub(crate) fn close(&self) {
        self.close.notify_one();
    }
}

/// The shard has a newer link already: this one was given up before its proof was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superseded;

/// Links by boot and shard.
type Links = BTreeMap<(u64, u16), LinkHandle>;

/// All links that are up, and kicks for shards that have none.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    links: Mutex<Links>,
    /// Locked while `links` is: a kick is either sent to a link or there when the link comes.
    kicks: Mutex<Kicks>,
}

impl Hub {
    /// Adds a link, which gets the kicks that are kept for its shard; an older one of the same shard is closed and given
    /// back.
    ///
    /// # Errors
    ///
    /// [`Superseded`]: end the link.
    pub(crate) fn add(
        &self,
        now: Duration,
        boot: u64,
        shard: u16,
        link: LinkHandle,
    ) -> Result<Option<LinkHandle>, Superseded> {
        let mut links = self.lock();
        if links
            .get(&(boot, shard))
            .is_some_and(|present| present.id > link.id)
        {
            return Err(Superseded);
        }
        let kicks = self.kicks().sent_again(now, (boot, shard));
        if !kicks.is_empty() {
            link.send(kicks);
        }
        let older = links.insert((boot, shard), link);
        if let Some(older) = &older {
            older.close();
        }
        Ok(older)
    }

    /// Removes a link, unless a newer one took its place. True if the gateway has no link left.
    pub(crate) fn remove(&self, boot: u64, shard: u16, id: u64) -> bool {
        let mut links = self.lock();
        if links.get(&(boot, shard)).is_some_and(|link| link.id == id) {
            links.remove(&(boot, shard));
        }
        Self::of_gateway(&links, boot).next().is_none()
    }

    /// The link to a shard.
    pub(crate) fn link(&self, boot: u64, shard: u16) -> Option<LinkHandle> {
        self.lock().get(&(boot, shard)).cloned()
    }

    /// Sends a kick to the shard that owns its connection, or keeps it until the shard has a link.
    pub(crate) fn kick(&self, now: Duration, boot: u64, kick: Outgoing) {
        let shard = (boot, ConnId(kick.conn).shard());
        let links = self.lock();
        let link = links.get(&shard);
        if let Some(link) = link {
            link.send(vec![kick.clone()]);
        }
        self.kicks().keep(now, shard, kick, link.is_some());
    }

    /// A gateway's boot is gone: nobody is to be told anything there.
    pub(crate) fn forget_kicks(&self, boot: u64) {
        self.kicks().forget(boot);
    }

    /// Kicks that wait for a link, and those that were dropped because too many did.
    pub(crate) fn kick_counts(&self) -> (usize, u64) {
        let kicks = self.kicks();
        (kicks.waiting(), kicks.dropped())
    }

    /// Sends a record to every shard of a gateway that has a link.
    pub(crate) fn send_all(&self, boot: u64, record: &Outgoing) {
        for link in Self::of_gateway(&self.lock(), boot) {
            link.send(vec![record.clone()]);
        }
    }

    /// Sends a record over every link.
    pub(crate) fn broadcast(&self, record: &Outgoing) {
        for link in self.lock().values() {
            link.send(vec![record.clone()]);
        }
    }

    /// How many links there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Closes all links.
    pub(crate) fn close_all(&self) {
        for link in self.lock().values() {
            link.close();
        }
    }

    fn of_gateway(links: &Links, boot: u64) -> impl Iterator<Item = &LinkHandle> {
        links.range((boot, 0)..=(boot, u16::MAX)).map(|(_, link)| link)
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kicks(&self) -> MutexGuard<'_, Kicks> {
        self.kicks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn record(bytes: usize) -> Outgoing {
        Outgoing::frame(ConnId::new(3, 1, 1).0, 7, 0, vec![0; bytes])
    }

    #[test]
    fn a_newer_link_of_the_same_shard_takes_over() {
        let hub = Hub::default();
        let (older, mut older_box) = LinkHandle::new(1);
        let (newer, mut newer_box) = LinkHandle::new(2);
        assert!(hub.add(NOW, 9, 3, older.clone()).unwrap().is_none());
        let replaced = hub.add(NOW, 9, 3, newer).unwrap();
        assert_eq!(replaced.map(|older| older.id), Some(1));
        assert_eq!(
            hub.add(NOW, 9, 3, older).err(),
            Some(Superseded),
            "what comes late does not take its place back"
        );
        hub.send_all(9, &record(10));
        assert!(older_box.records.try_recv().is_err());
        assert_eq!(newer_box.records.try_recv().unwrap(), [record(10)]);
        assert!(
            !hub.remove(9, 3, 1),
            "the end of the older one does not remove the newer one"
        );
        assert!(hub.remove(9, 3, 2));
    }

    #[test]
    fn a_kick_reaches_the_shard_by_the_link_that_it_has_or_will_have() {
        let hub = Hub::default();
        let (other, mut other_box) = LinkHandle::new(1);
        hub.add(NOW, 9, 4, other).unwrap();
        hub.kick(NOW, 9, record(1));
        assert_eq!(hub.kick_counts(), (1, 0));
        assert!(other_box.records.try_recv().is_err(), "another shard's");
        let (link, mut mailbox) = LinkHandle::new(2);
        hub.add(NOW, 9, 3, link).unwrap();
        assert_eq!(mailbox.records.try_recv().unwrap(), [record(1)]);
        assert_eq!(hub.kick_counts(), (0, 0));
        hub.kick(NOW, 9, record(2));
        assert_eq!(mailbox.records.try_recv().unwrap(), [record(2)]);
        hub.remove(9, 3, 2);
        hub.kick(NOW, 9, record(3));
        hub.forget_kicks(9);
        assert_eq!(hub.kick_counts(), (0, 0));
    }

    #[tokio::test]
    async fn a_link_that_is_not_read_is_closed_at_its_bound() {
        let (link, mut mailbox) = LinkHandle::new(1);
        let mut queued = 0;
        for _ in 0..65 {
            link.send(vec![record(1024 * 1024)]);
            queued += usize::from(mailbox.records.try_recv().is_ok());
        }
        assert_eq!(queued, 63);
        mailbox.close.notified().await;
    }
}
