//! What a shard counts: plain numbers, one per thing that can happen, named by stage.
//!
//! Owns nothing else. The shell copies them out now and then and gives them their Prometheus form. How the counters of the
//! stages agree with the number of messages stands in `router/src/metrics.rs`.

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $kind:ident $name:ident;)*) => {
        /// Counters and gauges of one shard.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct ShardMetrics { $($(#[doc = $doc])* pub $name: u64,)* }

        impl ShardMetrics {
            /// Every metric: name, whether it is a gauge, help text, value.
            pub fn rows(&self) -> impl Iterator<Item = (&'static str, bool, &'static str, u64)> {
                [$((stringify!($name), stringify!($kind).len() == 5, concat!($($doc),*), self.$name),)*].into_iter()
            }
        }
    };
}

metrics! {
    /// Connections in the table.
    gauge connections;
    /// Sessions that are logged in.
    gauge sessions;
    /// Bytes that belong to single connections: queued for them, or read of them and not used yet.
    gauge queued_bytes;
    /// Connections that are demoted.
    gauge demoted;
    /// Sends and requests that wait for credit of their link.
    gauge forward_waiting;
    /// Links that are established.
    gauge links;
    /// Sockets accepted.
    counter accept_connections;
    /// Sockets accepted only to be told that there is no room.
    counter accept_refused;
    /// PROXY headers that were taken.
    counter accept_proxy_headers;
    /// Sockets closed at once because they came from elsewhere than a listed proxy; of the other counters only
    /// `accept_connections` knows of them.
    counter accept_proxy_strangers;
    /// Connections of listed proxies closed because they did not begin with a PROXY header.
    counter accept_proxy_missing;
    /// Connections of listed proxies closed because their PROXY header was of version 1.
    counter accept_proxy_version_one;
    /// Connections of listed proxies closed because their PROXY header was longer than 536 bytes.
    counter accept_proxy_too_long;
    /// Connections of listed proxies closed because their PROXY header was malformed.
    counter accept_proxy_malformed;
    /// Connections of listed proxies closed because the checksum of their PROXY header did not hold.
    counter accept_proxy_damaged;
    /// Upgrades that were refused.
    counter handshake_rejected;
    /// Upgrades that were accepted.
    counter handshake_upgraded;
    /// Connections closed because the handshake took too long.
    counter handshake_timeouts;
    /// Frames of clients.
    counter decode_frames;
    /// Frames of clients that were malformed.
    counter decode_malformed;
    /// Connections that broke RFC 6455.
    counter decode_ws_errors;
    /// Bytes read from clients.
    counter decode_bytes;
    /// Messages sent back on `/echo`.
    counter echo_messages;
    /// Tokens that were refused.
    counter admit_refused_tokens;
    /// Frames over the rate limit.
    counter admit_rate_limited;
    /// Logins completed.
    counter admit_logins;
    /// Claims sent.
    counter session_claims;
    /// Sessions closed by the router.
    counter session_kicks;
    /// Routes that the router was asked to compare.
    counter session_checks;
    /// Sends written to a link.
    counter forward_messages;
    /// Other requests written to a link.
    counter forward_requests;
    /// Sends refused here because their gate was closed.
    counter forward_gate_closed;
    /// Sends and requests refused here for lack of a link.
    counter forward_unavailable;
    /// Those of them whose router was not linked while others were.
    counter forward_ownerless;
    /// Sends and requests refused here because they waited too long or too many waited.
    counter forward_overloaded;
    /// Sends and requests answered `retry` because their link was lost or silent.
    counter forward_retry;
    /// Answers of a router that nobody waited for any more.
    counter forward_late_answers;
    /// Links established.
    counter link_established;
    /// Links lost.
    counter link_lost;
    /// Links whose other end could not be talked to.
    counter link_errors;
    /// Renewals of the lease sent.
    counter lease_renewals;
    /// Boots taken in the place of one that was declared dead.
    counter lease_new_boots;
    /// Boots given up because their topic was gone or had lost records.
    counter lease_topics_lost;
    /// Bus records taken.
    counter consume_records;
    /// Messages taken from the bus, once each.
    counter consume_messages;
    /// Bus records seen before.
    counter consume_repeated;
    /// Bus records that could not be read.
    counter consume_malformed;
    /// Numbers that were missing when a later one came.
    counter consume_gaps;
    /// Records handed to other shards.
    counter consume_handed_over;
    /// Connections named by a record that were gone.
    counter consume_bounced;
    /// Frames queued to connections.
    counter deliver_frames;
    /// `Message` frames queued to connections.
    counter deliver_messages;
    /// `Message` frames not queued because their connection was demoted or not yet welcome.
    counter deliver_messages_missed;
    /// `Message` frames for connections that were gone.
    counter deliver_messages_gone;
    /// Payload frames dropped because their connection was demoted or not yet welcome.
    counter deliver_dropped;
    /// Transient frames dropped because the queue was half full.
    counter deliver_transient_dropped;
    /// Connections demoted.
    counter deliver_demotions;
    /// `PullRequired` frames sent.
    counter deliver_pull_required;
    /// `Resync` frames sent.
    counter deliver_resyncs;
    /// Sends handed to the engine.
    counter flush_sends;
    /// Bytes handed to the engine.
    counter flush_bytes;
    /// `Ping` frames of clients.
    counter heartbeat_pings;
    /// Connections closed for silence.
    counter heartbeat_timeouts;
    /// Connections closed because their token expired.
    counter heartbeat_token_expired;
    /// Connections aborted because they did not read.
    counter heartbeat_slow_closed;
    /// `GoAway` frames sent.
    counter drain_go_aways;
    /// Connections closed because they held most when all together held too much.
    counter memory_closed;
    /// Connections that ended.
    counter closed_connections;
}
