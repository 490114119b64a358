//! One link: the socket of a gateway shard, its codec, and the records on their way in both directions.
//!
//! Owns the socket, the [`LinkCodec`], what one read brought (at most [`READ_BYTES`]), and the records that wait to leave.
//! What comes in is taken apart here, so that the driver gets whole requests. While the queue of the driver or of the
//! link's sessions is full the link waits and reads nothing, so the gateway gets no new credit either, and its frames wait
//! there. One that sends beyond its credit is cut off.
//!
//! What goes out waits in a queue with a bound (`hub.rs`: when it is full the link is closed) until the gateway's credit
//! and the socket take it. Everything that is ready leaves in one write. A gateway that neither reads nor grants credit
//! costs only its own queue. What waits when the router stops has [`LAST_WORDS`] to leave: answers to what was stored, and
//! where the other routers are. A socket beyond [`LINKS_MAX`] is closed at once.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corelane_protocol::id::{BootId, NodeId};
use corelane_protocol::link::codec::{LinkCodec, LinkError, LinkEvent, LinkRole, PeerInfo};
use corelane_protocol::link::record::Record;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::bus::BusError;
use crate::driver::Event;
use crate::fetch::Fetches;
use crate::hub::{LinkHandle, LinkMailbox, Outgoing, Superseded};
use crate::intake::{FromLink, SessionRecord, take_record};
use crate::lease::{Life, give_up, renewed};
use crate::registry::{Gateway, Registry as _};
use crate::requests::Requests;
use crate::sessions::Sessions;
use crate::shared::Shared;

/// A peer that did not prove who it is within this time is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read from the socket at a time.
const READ_BYTES: usize = 256 * 1024;
/// Most links that are being proved or are up at a time.
const LINKS_MAX: u32 = 4096;
/// How long a link may take to write what waits when the router stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a link ended.
#[derive(Debug, Error)]
enum EndOfLink {
    #[error("closed by the gateway")]
    Closed,
    #[error("closed by this router")]
    Asked,
    #[error("no proof within {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    #[error(transparent)]
    Protocol(#[from] LinkError),
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the router is stopping")]
    Stopping,
}

/// Accepts links until the router stops, then waits until those that are up have ended.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(LINKS_MAX as usize));
    tokio::select! {
        () = accept(&listener, &permits, &shared) => {}
        () = shared.stop.cancelled() => {}
    }
    drop(listener);
    // Each link holds one until it ends.
    let _ = permits.acquire_many(LINKS_MAX).await;
}

/// Accepts for ever.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>, shared: &Arc<Shared>) {
    let mut next_id = 1;
    loop {
        let accepted = listener.accept().await;
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a link could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            tracing::warn!(%peer, limit = LINKS_MAX, "too many links: one was refused");
            continue;
        };
        let (id, shared) = (next_id, Arc::clone(shared));
        next_id += 1;
        tokio::spawn(async move {
            // Once per link: what the ports' adapters keep across an await is large.
            let end = Box::pin(Link::run(stream, id, &shared)).await;
            match end {
                EndOfLink::Closed | EndOfLink::Asked | EndOfLink::Stopping => {
                    tracing::info!(%peer, link = id, reason = %end, "link ended");
                }
                EndOfLink::Protocol(_)
                | EndOfLink::Refused(_)
                | EndOfLink::Timeout
                | EndOfLink::Socket(_) => {
                    tracing::warn!(%peer, link = id, reason = %end, "link ended");
                }
            }
            drop(permit);
        });
    }
}

struct Link<'a> {
    id: u64,
    shared: &'a Arc<Shared>,
    codec: LinkCodec,
    /// The registry's incarnation, as the gateway is told.
    told_incarnation: u64,
    handle: LinkHandle,
    /// Waits for credit.
    pending: VecDeque<Outgoing>,
    /// Waits for the socket, from `written` on.
    output: Vec<u8>,
    written: usize,
    up: Option<Up>,
}

/// What a link has once its gateway proved who it is.
struct Up {
    peer: PeerInfo,
    requests: Requests,
    sessions: Sessions,
    life: Life,
    fetches: Fetches,
}

impl<'a> Link<'a> {
    async fn run(stream: TcpStream, id: u64, shared: &'a Arc<Shared>) -> EndOfLink {
        let (nonce, (reader, mut writer)) =
            match Shared::nonce().and_then(|nonce| Ok((nonce, prepare(stream)?))) {
                Ok(ready) => ready,
                Err(error) => return EndOfLink::Socket(error),
            };
        let (handle, mut mailbox) = LinkHandle::new(id);
        let (info, secret) = (shared.peer_info(), shared.link_secret.clone());
        let told_incarnation = info.registry_incarnation;
        let codec = LinkCodec::new(LinkRole::Router, info, secret, nonce);
        let mut link = Self {
            id,
            shared,
            codec,
            told_incarnation,
            handle,
            pending: VecDeque::new(),
            output: Vec::new(),
            written: 0,
            up: None,
        };
        let end = match link.carry(reader, &mut writer, &mut mailbox).await {
            Ok(()) => EndOfLink::Closed,
            Err(end) => end,
        };
        if matches!(end, EndOfLink::Stopping) {
            let said = link.say_the_rest(&mut writer, &mut mailbox);
            // Whoever does not read in that time learns it from the other routers.
            let _ = tokio::time::timeout(LAST_WORDS, said).await;
        }
        if let Some(Up { peer, sessions, .. }) = link.up.take() {
            let PeerInfo {
                boot, shard: number, ..
            } = peer;
            // A newer link of the shard waits for this.
            sessions.finish().await;
            let last = shared.hub.remove(boot, number, id);
            let boot = format!("{boot:016x}");
            tracing::info!(
                boot,
                shard = number,
                link = id,
                last,
                "shard is not linked any more"
            );
        }
        end
    }

    async fn carry(
        &mut self,
        mut reader: OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
        mailbox: &mut LinkMailbox,
    ) -> Result<(), EndOfLink> {
        let mut input = Vec::with_capacity(READ_BYTES);
        let handshake = tokio::time::sleep(HANDSHAKE_TIMEOUT);
        tokio::pin!(handshake);
        loop {
            self.fill_output(mailbox);
            let unwritten = self.output.get(self.written..).unwrap_or_default();
            tokio::select! {
                read = reader.read_buf(&mut input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    if let Some(up) = &mut self.up {
                        up.life.heard().await;
                    }
                    self.take(&input).await?;
                    input.clear();
                }
                wrote = writer.write(unwritten), if !unwritten.is_empty() => {
                    self.written += wrote?;
                    if self.written >= self.output.len() {
                        self.output.clear();
                        self.written = 0;
                    }
                }
                Some(records) = mailbox.records.recv() => self.queue(records, mailbox),
                () = &mut handshake, if self.up.is_none() => return Err(EndOfLink::Timeout),
                () = mailbox.close.notified() => return Err(EndOfLink::Asked),
                () = self.shared.stop.cancelled() => return Err(EndOfLink::Stopping),
            }
        }
    }

    /// Writes what waits, as far as the gateway's credit goes.
    async fn say_the_rest(
        &mut self,
        writer: &mut OwnedWriteHalf,
        mailbox: &mut LinkMailbox,
    ) -> io::Result<()> {
        self.queue(Vec::new(), mailbox);
        // What is half written, and then the rest.
        for _ in 0..2 {
            self.fill_output(mailbox);
            let unwritten = self.output.get(self.written..).unwrap_or_default();
            writer.write_all(unwritten).await?;
            self.output.clear();
            self.written = 0;
        }
        writer.shutdown().await
    }

    /// Takes what else waits, so that all of it leaves in one write.
    fn queue(&mut self, records: Vec<Outgoing>, mailbox: &mut LinkMailbox) {
        self.pending.extend(records);
        while let Ok(more) = mailbox.records.try_recv() {
            self.pending.extend(more);
        }
    }

    /// Moves records into the codec as far as the gateway's credit goes, and bytes out of it.
    fn fill_output(&mut self, mailbox: &LinkMailbox) {
        let mut moved = 0;
        while let Some(outgoing) = self.pending.front() {
            let record = Record {
                kind: outgoing.kind as u8,
                priority: outgoing.priority,
                conn: outgoing.conn,
                reference: outgoing.reference,
                body: &outgoing.body,
                ..Record::default()
            };
            if self.codec.push(&record).is_err() {
                break;
            }
            moved += outgoing.bytes();
            self.pending.pop_front();
        }
        if moved > 0 {
            mailbox.waiting_bytes.fetch_sub(moved, Ordering::Relaxed);
        }
        if self.output.is_empty() && self.codec.has_output() {
            self.codec.output(&mut self.output);
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), EndOfLink> {
        let mut taken = Vec::new();
        let mut peer = None;
        let (clock, own_boot) = (&self.shared.clock, self.shared.boot);
        let mut boot = self.up.as_ref().map(|up| up.peer.boot);
        self.codec.feed(bytes, &mut |event| match event {
            LinkEvent::Established(info) => {
                boot = Some(info.boot);
                peer = Some(info.clone());
            }
            LinkEvent::Record(record) => {
                if let Some(boot) = boot {
                    take_record(boot, own_boot, clock, &record, &mut taken);
                }
            }
            LinkEvent::Room => {}
        })?;
        if let Some(peer) = peer {
            self.establish(peer).await?;
        }
        self.dispatch(taken).await
    }

    async fn establish(&mut self, peer: PeerInfo) -> Result<(), EndOfLink> {
        let (boot, shard) = (BootId(peer.boot), peer.shard);
        let node = NodeId::new(&peer.node).map_err(|error| EndOfLink::Refused(error.to_string()))?;
        tracing::info!(%node, boot = format!("{:016x}", boot.0), shard, link = self.id, "shard is linked");
        let refused = |error: &dyn std::fmt::Display| EndOfLink::Refused(error.to_string());
        let gateway = Gateway {
            node: node.clone(),
            boot,
        };
        let joined = self.shared.registry.join(gateway).await;
        let alive = joined.map_err(|error| refused(&error))? && has_topic(self.shared, boot).await?;
        if !alive {
            // Its boot was declared dead: it must take a new one before it claims anything.
            self.handle.send(vec![renewed(false, 0)]);
        }
        let now = self.shared.clock.now().mono;
        let older = self
            .shared
            .hub
            .add(now, boot.0, shard, self.handle.clone())
            .map_err(|Superseded| EndOfLink::Asked)?;
        // It is among the links now: of a newer list it is told as all of them are.
        self.handle.send(vec![self.shared.cluster.list_record()]);
        let common = || Arc::clone(self.shared);
        self.up = Some(Up {
            requests: Requests::start(boot.0, common(), self.handle.clone()),
            sessions: Sessions::start(node, (boot.0, shard), common(), self.handle.clone(), older),
            life: Life::new(boot, common(), self.handle.clone()),
            fetches: Fetches::new(boot.0, common(), self.handle.clone()),
            peer,
        });
        // When the registry forgot something all links are closed; this one was not among them yet.
        if self.told_incarnation != self.shared.registry.incarnation() {
            self.handle.close();
        }
        Ok(())
    }

    async fn dispatch(&mut self, taken: Vec<FromLink>) -> Result<(), EndOfLink> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let mut submissions = Vec::new();
        let mut refused = Vec::new();
        let mut leaves = false;
        for each in &taken {
            if let FromLink::Renew(reference) = each {
                up.life.renew(*reference).await;
            }
        }
        for each in taken {
            match each {
                FromLink::ToDriver(input) => submissions.push(input),
                FromLink::Refused(record) => refused.push(record),
                FromLink::Request(request) => up.requests.take(request),
                FromLink::Bounce(bounce) => up.requests.bounced(bounce),
                FromLink::Session(SessionRecord::Leave) => leaves = true,
                FromLink::Session(session) => up.life.while_unread(up.sessions.take(session)).await,
                FromLink::Renew(_) => {}
                FromLink::Fetch(fetch) => up.fetches.take(fetch),
            }
        }
        if !refused.is_empty() {
            self.handle.send(refused);
        }
        if !submissions.is_empty() {
            let handed_over = self.shared.driver.send(Event::Inputs(submissions));
            up.life
                .while_unread(handed_over)
                .await
                .map_err(|_| EndOfLink::Stopping)?;
        }
        if leaves {
            // Behind the frames that came before it: the gates that they may have closed are forgotten with the boot.
            let left = up.sessions.take(SessionRecord::Leave);
            up.life.while_unread(left).await;
        }
        Ok(())
    }
}

/// Whether a gateway has its topic; a boot without one is declared dead.
async fn has_topic(shared: &Shared, boot: BootId) -> Result<bool, EndOfLink> {
    match shared.bus.gateway_linked(boot, shared.partitions).await {
        Ok(()) => Ok(true),
        Err(error @ BusError::NoTopic(_)) => {
            let advice = "bus.servers and bus.topic_prefix must be the same at routers and gateways";
            tracing::error!(%error, advice, "a gateway linked that has no topic");
            give_up(shared, boot, &error).await;
            Ok(false)
        }
        Err(error) => Err(EndOfLink::Refused(error.to_string())),
    }
}

/// Sets what every link socket has: no delay, and an end when the other machine is silent for 10 s.
fn prepare(stream: TcpStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(4))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream.into_split())
}
