//! What a shard is told before it starts: names, addresses, and every bound that an operator may move.
//!
//! Owns no rule. The bounds of the wire are in [`corelane_protocol::limits`]; those that nobody needs to move
//! are constants beside the code they bound.

use std::time::Duration;

use corelane_protocol::limits::{LEASE, RENEWALS_PER_LEASE};
use corelane_protocol::link::codec::LinkSecret;
use corelane_protocol::listener::ListenerKind;

use crate::network::Network;

/// How long a router may say nothing, unless told otherwise.
const LINK_SILENCE: Duration = Duration::from_secs(30);

const _: () = assert!(
    LEASE.as_millis() / RENEWALS_PER_LEASE as u128 * 2 < LINK_SILENCE.as_millis(),
    "a living router has had two renewals to answer before its silence counts"
);

/// Configuration of one shard.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Name of the gateway.
    pub node: String,
    /// Boot of the gateway process, drawn at random; the same in all its shards. The first one: see
    /// [`crate::event::Input::NewBoot`].
    pub boot: u64,
    /// Number of shards of the gateway.
    pub shards: u16,
    /// Cluster that the routers must belong to; 0: that of the first one reached.
    pub cluster_id: u64,
    /// Shared secret of the link.
    pub link_secret: LinkSecret,
    /// Link addresses of routers to begin with, at most [`corelane_protocol::limits::ROUTERS_MAX`]. All are linked, until
    /// one of them tells which routers there are.
    pub routers: Vec<String>,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Largest message on `/echo`, in bytes. Twice that much may be held for one echoing connection.
    pub echo_bytes_max: u32,
    /// Origins that browsers may come from; empty: any.
    pub origins: Vec<String>,
    /// Balancers: connections are taken from these only, and each begins with a PROXY header. Empty: from anybody, and
    /// without one.
    pub proxy_sources: Vec<Network>,
    /// Most connections; the next ones are told 4505.
    pub connections_max: u32,
    /// Most connections of one client's address; 0: no limit. Counting them costs about 60 bytes per connection.
    pub connections_per_ip_max: u32,
    /// A client that is silent for longer is closed with 4004. Clients ping at half of it; the server never
    /// does, because that would wake every idle connection for nothing.
    pub heartbeat: Duration,
    /// The handshake, `Hello` and the claim included, must be done within this time.
    pub handshake: Duration,
    /// How long a closing handshake may take before the socket is closed without it.
    pub close: Duration,
    /// Most bytes queued for one connection before it is demoted. Pages that it asked for count apart.
    pub queue_bytes_max: u32,
    /// Most bytes that all connections of this shard may own together: queued for them, or read of them and not used
    /// yet. Past it whoever holds most pays (`memory.rs`).
    pub queue_total_bytes_max: u64,
    /// A demoted connection whose send does not complete within this time is closed with 4002.
    pub slow: Duration,
    /// Frames per second one client may send on average, with a burst of twice that; 0: no limit.
    pub frames_per_s: u32,
    /// A send that is not written to a link within this time is refused with `overloaded`; one that is not
    /// answered within twice this time, with `retry`.
    pub send_deadline: Duration,
    /// Over which time clients spread their syncs after a `Resync`.
    pub resync_spread: Duration,
    /// `GoAway` is spread over this time; then connections are closed.
    pub drain: Duration,
    /// First pause before a lost link is connected again; doubles, with jitter, up to 2 s.
    pub link_retry: Duration,
    /// A link that is silent for longer is given up. Below twice the pace of renewals a living router is taken for a
    /// silent one.
    pub link_silence: Duration,
    /// How long the registry keeps this gateway without a sign of life; never longer than the registry's own
    /// [`LEASE`]. It is renewed [`RENEWALS_PER_LEASE`] times in this time.
    pub lease: Duration,
    /// Partitions of the topics that this gateway makes and its shell reads, on a bus that stands apart from the
    /// routers; these must have as many. 0: the bus is the router's, and read over the link.
    pub bus_partitions: u16,
}

impl ShardConfig {
    /// What the listener of its connections speaks.
    pub const fn listener_kind(&self) -> ListenerKind {
        if self.proxy_sources.is_empty() {
            ListenerKind::Plain
        } else {
            ListenerKind::Proxy
        }
    }
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            node: "gateway-1".to_owned(),
            boot: 1,
            shards: 1,
            cluster_id: 0,
            link_secret: LinkSecret {
                key_id: 1,
                key: Vec::new(),
            },
            routers: Vec::new(),
            echo: false,
            echo_bytes_max: 16 * 1024 * 1024,
            origins: Vec::new(),
            proxy_sources: Vec::new(),
            connections_max: 1_000_000,
            connections_per_ip_max: 0,
            heartbeat: Duration::from_mins(1),
            handshake: Duration::from_secs(8),
            close: Duration::from_secs(5),
            queue_bytes_max: 256 * 1024,
            queue_total_bytes_max: 64 * 1024 * 1024,
            slow: Duration::from_secs(30),
            frames_per_s: 0,
            send_deadline: Duration::from_secs(5),
            resync_spread: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            link_retry: Duration::from_millis(100),
            link_silence: LINK_SILENCE,
            lease: LEASE,
            bus_partitions: 0,
        }
    }
}
