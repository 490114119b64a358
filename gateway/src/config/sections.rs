//! The keys of the configuration.
#![expect(
    clippy::doc_markdown,
    rustdoc::bare_urls,
    reason = "the docs are also the words of the default file, which is no Markdown"
)]

use corelane_gateway_core::Network;
use corelane_router::bus::kafka::SaslMechanism;

use super::section::{Secret, section};

section! {
    /// What this gateway is and where it listens.
    GatewaySection = "gateway" {
        /// Name of this gateway in the cluster; another gateway must not have it.
        node: String = "gateway-1".to_owned();
        /// Address for WebSocket connections.
        listen: String = "127.0.0.1:7070".to_owned();
        /// Shards, each pinned to a CPU of its own. 0: one per CPU that this process may use (affinity mask and
        /// cgroup quota).
        shards: u64 = 0, in 0..=1024;
        /// Allow WebSocket echo on the path /echo, for load tests and conformance tests.
        echo: bool = false;
        /// Largest message on /echo, in bytes. Twice that much may be held for one echoing connection.
        echo_bytes_max: u64 = 16_777_216, in 1_024..=67_108_864;
        /// Cluster that routers must belong to, 16 hex digits as a router prints it at its start. Empty: that of the first
        /// router reached.
        cluster_id: String = String::new();
        /// Origins that browsers may come from, as in "https://chat.example". Empty: any.
        origins: Vec<String> = Vec::new();
        /// TCP balancers in front of this gateway, as addresses or networks: "10.0.0.4", "10.1.0.0/16", "fd00::/8".
        /// Connections are then taken from these only, and each must begin with a header of PROXY protocol version 2
        /// that names the client (HAProxy: send-proxy-v2). Whoever is listed can name any address. Empty: connections
        /// are taken from anybody, and no header is expected.
        proxy_sources: Vec<Network> = Vec::new();
        /// On SIGTERM, GoAway goes to all connections spread over this time, then they are closed.
        /// Too small: everybody reconnects at once. Too large: the orchestrator kills first.
        drain_ms: u64 = 5_000, in 0..=600_000;
        /// While nothing but heartbeats happens, a shard wakes up at most once in this time, in us (Linux 6.12 and later).
        /// Too small: idle connections cost more CPU. Too large: the first message after a silence waits that long.
        gather_us: u64 = 4_000, in 0..=20_000;
    }
}

section! {
    /// What one connection may cost.
    ConnectionSection = "connection" {
        /// Most connections per shard. Each costs about 4 KiB of kernel memory and below 640 B here.
        count_max: u64 = 1_000_000, in 1..=16_000_000;
        /// Most connections of one peer address per shard; the next ones are told 4505. 0: no limit. Counting costs about
        /// 60 B per connection. Too small: people behind one address lock each other out. Behind a balancer all
        /// connections have its address, unless it is listed in gateway.proxy_sources.
        per_ip_max: u64 = 0, in 0..=16_000_000;
        /// A client that is silent for longer is closed with 4004. Clients ping at half of it.
        heartbeat_ms: u64 = 60_000, in 1_000..=3_600_000;
        /// The handshake, Hello included, must be done within this time.
        handshake_ms: u64 = 8_000, in 100..=60_000;
        /// Most bytes queued for one connection. Past it the connection is demoted: payload is dropped and it is told
        /// to pull. Too small: short stalls demote. Too large: one stuck reader owns this much.
        queue_bytes_max: u64 = 262_144, in 16_384..=67_108_864;
        /// Most bytes that all connections of a shard may own together: queued for them, or read of them and not used
        /// yet. Past it whoever holds most is demoted, or closed with 4007. Too small: many slow readers at a time
        /// are. Too large: memory for them.
        queue_total_bytes_max: u64 = 67_108_864, in 1_048_576..=17_179_869_184;
        /// A demoted connection that does not drain within this time is closed with 4002.
        drain_slow_ms: u64 = 30_000, in 100..=600_000;
        /// Frames per second one client may send on average; more are refused with rate_limited. 0: no limit.
        frames_per_s: u64 = 0, in 0..=1_000_000;
    }
}

section! {
    /// Where the routers are.
    RouterSection = "router" {
        /// Run a router inside this process, on its own threads, over the same link.
        embedded: bool = true;
        /// Link addresses of routers outside this process, host:port, at most 32. All are linked, until one of them tells
        /// which routers there are; name more than one, so that one may be down. Only with embedded = false.
        seeds: Vec<String> = Vec::new();
        /// File with the shared secret of the link, 64 hex characters. Empty: link.key in the data directory.
        link_key_file: String = String::new();
        /// A send that cannot be written to a link within this time is refused with overloaded; one that is not answered
        /// within twice this time, with retry. Too small: a short stall of the router refuses. Too large: people wait.
        send_deadline_ms: u64 = 5_000, in 100..=60_000;
        /// First pause before a lost link is connected again; doubles, with jitter, up to 2 s.
        link_retry_ms: u64 = 100, in 10..=2_000;
        /// A link that is silent for longer is given up. Too small: a living router is taken for a dead one, because it
        /// says something every 4 s at least.
        link_silence_ms: u64 = 30_000, in 7_000..=600_000;
        /// Where the embedded router listens for links.
        link_listen: String = "127.0.0.1:7090".to_owned();
        /// Where the embedded router serves HTTP: API, demo page, metrics.
        http_listen: String = "127.0.0.1:7080".to_owned();
    }
}

section! {
    /// The way of deliveries, where it stands apart from the routers. Needs routers with the same in their own section, and
    /// the registry in Redis.
    BusSection = "bus" {
        /// Brokers of Kafka, as host:port,host:port. Empty: deliveries come over the link to the router.
        servers: String = String::new();
        /// What names of topics begin with; the same at all routers and gateways. Systems that share one Kafka need
        /// different ones.
        topic_prefix: String = "deliver".to_owned();
        /// Partitions of this gateway's topic, as many as router.partitions of the routers. More spread consumption over more
        /// shards.
        partitions: u64 = 4, in 1..=64;
        /// Replicas of the topic. 0: as the brokers' default.replication.factor says. With 1 a broker that is down takes its
        /// partitions with it.
        replicas: u64 = 0, in 0..=32;
        /// How long a record is kept, in s. A gateway that is further behind takes a new topic, and all its sessions sync.
        /// Too large costs disk only.
        retention_secs: u64 = 600, in 60..=86_400;
        /// Bytes that a partition may hold on each replica; beyond, as with retention_secs.
        retention_bytes: u64 = 268_435_456, in 67_108_864..=1_099_511_627_776;
        /// User. Empty: none. Users and TLS need a program that was built with --features kafka-tls.
        user: String = String::new();
        /// Password. Better given in the environment, as CORELANE__BUS__PASSWORD.
        password: Secret = Secret::default();
        /// How the password is proven; PLAIN over TLS only.
        mechanism: String = SaslMechanism::default().name().to_owned(), one of SaslMechanism::NAMES;
        /// Whether the brokers' port speaks TLS.
        tls: bool = false;
        /// File of the certificates (PEM) of the authorities that are trusted. Empty: those of the system.
        tls_ca: String = String::new();
        /// File of the certificate (PEM) that is shown to brokers that ask for one. Empty: none.
        tls_certificate: String = String::new();
        /// File of its key (PEM).
        tls_key: String = String::new();
    }
}

section! {
    /// Where data is kept.
    StoreSection = "store" {
        /// Directory of keys and, with the embedded router, of the message store.
        data_dir: String = "data".to_owned();
        /// What an acknowledgement means with the embedded store. full: it survives a power cut. os: it survives the
        /// death of the process, not of the machine; after an unclean start clients sync from the beginning.
        durability: String = "full".to_owned(), one of ["full", "os"];
    }
}

section! {
    /// Metrics and health.
    AdminSection = "admin" {
        /// Address of /metrics, /healthz and /readyz. Empty: with the embedded router they are served at
        /// router.http_listen, without it at 127.0.0.1:7071.
        listen: String = String::new();
    }
}

section! {
    /// Demo users, for a first look.
    DemoSection = "demo" {
        /// Print links with tokens for demo users and let anybody on the HTTP address mint tokens. Works only while
        /// router.http_listen is a loopback address.
        enabled: bool = true;
        /// The demo users.
        users: Vec<String> = vec!["alice".to_owned(), "bob".to_owned(), "carol".to_owned()];
    }
}

section! {
    /// Logs.
    LogSection = "log" {
        /// Least severity that is logged.
        level: String = "info".to_owned(), one of ["error", "warn", "info", "debug", "trace"];
        /// json for machines, text for people.
        format: String = "text".to_owned(), one of ["json", "text"];
    }
}
