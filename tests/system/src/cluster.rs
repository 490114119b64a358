//! A cluster on the real services of `ops/services`: routers and gateways in processes of their own, with the registry in
//! Redis, the bus on Kafka and the messages in TiKV.
//!
//! Each has keys, topics and a part of the store of its own, so that several can share the services. Members have names,
//! data directories and ports that outlive their processes. Secrets are the same everywhere, as if they had been handed
//! out.
#![expect(
    clippy::indexing_slicing,
    reason = "tests name members that they have, of clusters that have routers"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use corelane_router::keys;

use crate::apart::{own_prefix, service};
use crate::client::{Client, to_user};
use crate::load::Load;
use crate::metrics::Metrics;
use crate::talk::{receive, send};
use crate::{Gateway, Running, binary, free_port, wait_for};

/// Lanes of the store: at least four times the routers of any test.
pub const LANES: u16 = 16;
/// How long all may take to know each other: a lease of somebody who was killed ends, and lanes are handed over.
const SETTLED: Duration = Duration::from_secs(40);
/// How long a gateway that is to go lets go of its clients.
const DRAIN_MS: u64 = 2_000;
/// Conversations of [`Cluster::talk_across`]: so many that each router serves some of them.
const PEERS: usize = 12;

/// Where a member is, whichever process that is.
#[derive(Debug)]
struct Seat {
    node: String,
    data: PathBuf,
    /// WebSocket of a gateway, HTTP of a router.
    outer: String,
    /// Metrics of a gateway, links of a router.
    inner: String,
}

/// A router of a cluster.
#[derive(Debug)]
pub struct RouterMember {
    /// The process.
    pub process: Running,
    /// Base URL of its HTTP API and metrics.
    pub http: String,
    seat: Seat,
}

/// A gateway of a cluster.
#[derive(Debug)]
pub struct GatewayMember {
    /// The gateway. Its HTTP API is that of one of the routers, another one for each gateway as long as there are enough.
    pub gateway: Gateway,
    /// Base URL of its metrics.
    pub admin: String,
    seat: Seat,
}

impl RouterMember {
    /// Its name.
    pub fn node(&self) -> &str {
        &self.seat.node
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.seat.data
    }

    /// Messages that this process stored.
    ///
    /// # Panics
    ///
    /// If it does not say.
    pub fn persisted(&self) -> u64 {
        let metrics = Metrics::of(&self.http).expect("a router that runs serves metrics");
        metrics.sum("corelane_stage_messages_total{stage=\"persist\"")
    }
}

impl GatewayMember {
    /// Its name.
    pub fn node(&self) -> &str {
        &self.seat.node
    }
}

/// The members, and where the services are.
#[derive(Debug)]
pub struct Cluster {
    redis: String,
    kafka: String,
    pd: String,
    prefix: String,
    folder: PathBuf,
    /// Routers, `router-1` first.
    pub routers: Vec<RouterMember>,
    /// Gateways, `gateway-1` first.
    pub gateways: Vec<GatewayMember>,
}

impl Cluster {
    /// Starts one with all that it keeps in `folder`, and waits until everybody knows everybody.
    ///
    /// # Panics
    ///
    /// If the services were not started (says how), or somebody is not ready in time.
    pub fn start(folder: &Path, routers: usize, gateways: usize) -> Self {
        let mut cluster = Self {
            redis: service("CORELANE_TEST_REDIS", "redis"),
            kafka: service("CORELANE_TEST_KAFKA", "kafka"),
            pd: service("CORELANE_TEST_PD", "tikv"),
            prefix: own_prefix(),
            folder: folder.to_owned(),
            routers: Vec::new(),
            gateways: Vec::new(),
        };
        let dir = cluster.keys();
        keys::ensure_dir(&dir).expect("a directory for keys");
        for name in [keys::TOKEN_KEY, keys::LINK_KEY, keys::ADMIN_KEY] {
            keys::ensure(&dir, name).expect("a key");
        }
        // All at once, and only then waited for.
        let launched: Vec<(Seat, Running)> = (1..=routers)
            .map(|number| cluster.launch_router(number))
            .collect();
        cluster.routers = launched
            .into_iter()
            .map(|(seat, process)| ready_router(seat, process))
            .collect();
        let launched: Vec<(Seat, Running)> = (1..=gateways)
            .map(|number| cluster.launch_gateway(number))
            .collect();
        for (seat, process) in launched {
            let member = cluster.ready_gateway(seat, process);
            cluster.gateways.push(member);
        }
        cluster.settle();
        cluster
    }

    /// What its keys in Redis, its topics and its part of the store begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The command of a router of this cluster, on any ports, with its data in `data`.
    pub fn router_command(&self, node: &str, data: &Path) -> Command {
        let mut command = Command::new(binary("corelane-router"));
        command
            .env("CORELANE__ROUTER__NODE", node)
            .env("CORELANE__ROUTER__LINK_LISTEN", "127.0.0.1:0")
            .env("CORELANE__ROUTER__HTTP_LISTEN", "127.0.0.1:0")
            .env("CORELANE__STORE__DATA_DIR", data)
            .env("CORELANE__STORE__LANES", LANES.to_string())
            .env("CORELANE__STORE__PD", &self.pd)
            .env("CORELANE__STORE__PREFIX", &self.prefix)
            .env("CORELANE__REGISTRY__URL", &self.redis)
            .env("CORELANE__REGISTRY__PREFIX", &self.prefix)
            .env("CORELANE__BUS__SERVERS", &self.kafka)
            .env("CORELANE__BUS__TOPIC_PREFIX", &self.prefix)
            .env("CORELANE__LOG__LEVEL", "warn");
        command
    }

    /// A data directory for a member of this name, with the keys of all.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn data(&self, node: &str) -> PathBuf {
        let data = self.folder.join(node);
        keys::ensure_dir(&data).expect("a data directory");
        for name in [keys::TOKEN_KEY, keys::LINK_KEY, keys::ADMIN_KEY] {
            // Their mode is copied, too.
            std::fs::copy(self.keys().join(name), data.join(name)).expect("a copy of a key");
        }
        data
    }

    /// One router more, once it serves its lanes.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn add_router(&mut self) {
        let (seat, process) = self.launch_router(self.routers.len() + 1);
        self.routers.push(ready_router(seat, process));
        self.settle();
    }

    /// One gateway more, once it is linked to all routers.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn add_gateway(&mut self) {
        let (seat, process) = self.launch_gateway(self.gateways.len() + 1);
        let member = self.ready_gateway(seat, process);
        self.gateways.push(member);
        self.settle();
    }

    /// Starts a router again whose process is gone, and waits until it serves its lanes.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn restart_router(&mut self, at: usize) {
        let process = self.start_router(&self.routers[at].seat);
        self.routers[at].process = process;
        self.routers[at].process.line("ready ");
        self.settle();
    }

    /// Starts a gateway again whose process is gone, and waits until it is linked to all routers.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn restart_gateway(&mut self, at: usize) {
        let process = self.start_gateway(&self.gateways[at].seat);
        self.gateways[at].gateway.process = process;
        self.gateways[at].gateway.process.line("ready ");
        self.settle();
    }

    /// Starts a load of direct messages over these gateways.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn load(&self, gateways: &[usize], arguments: &[&str]) -> Load {
        let urls: Vec<&str> = gateways
            .iter()
            .map(|at| self.gateways[*at].gateway.ws_url.as_str())
            .collect();
        let apis: Vec<&str> = self.routers.iter().map(|router| router.http.as_str()).collect();
        Load::start_across(&urls, &apis, &self.keys(), arguments)
    }

    /// Waits until each router has all others in its list and serves its lanes, and each shard of each gateway is linked to
    /// each router.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn settle(&self) {
        wait_for("a cluster in which all know each other", SETTLED, || {
            let routers = self.routers.iter().all(|router| self.serves(router));
            let gateways = self.gateways.iter().all(|member| self.is_linked(member));
            (routers && gateways).then_some(())
        });
    }

    fn serves(&self, router: &RouterMember) -> bool {
        let Some(metrics) = Metrics::of(&router.http) else {
            return false;
        };
        metrics.sum("corelane_router_list_routers") == self.routers.len() as u64
            && metrics.sum("corelane_router_lanes") > 0
            && metrics.sum("corelane_router_lanes_held") == 0
    }

    fn is_linked(&self, member: &GatewayMember) -> bool {
        let Some(metrics) = Metrics::of(&member.admin) else {
            return false;
        };
        let links = metrics.rows("corelane_gateway_links");
        !links.is_empty() && links.iter().all(|links| *links == self.routers.len() as u64)
    }

    /// A user of the first gateway and one of the second talk, in so many conversations that each router serves some of
    /// them. `about` is in the names of the users, and must be new. Gives the conversations.
    ///
    /// # Panics
    ///
    /// If something does not arrive, or in another place than it should.
    pub fn talk_across(&self, about: &str) -> Vec<String> {
        let (here, there) = (&self.gateways[0].gateway, &self.gateways[1].gateway);
        let me = format!("{about}-me");
        let mut mine = Client::login(here, &me);
        let talk = |number: usize| {
            let peer = format!("{about}-peer-{number}");
            let mut theirs = Client::login(there, &peer);
            let (to, back) = (format!("to {peer}"), format!("back from {peer}"));
            let seq = send(&mut mine, &to_user(&peer), &to);
            assert_eq!((seq, receive(&mut theirs, &to).seq), (1, 1));
            let seq = send(&mut theirs, &to_user(&me), &back);
            assert_eq!((seq, receive(&mut mine, &back).seq), (2, 2));
            format!("u:{}:{me}:{peer}", me.len())
        };
        (1..=PEERS).map(talk).collect()
    }

    /// What the HTTP API of each gateway's router says of a conversation, and how many messages that are.
    ///
    /// # Panics
    ///
    /// If it does not say.
    pub fn histories(&self, conv: &str) -> Vec<(String, usize)> {
        let history = |member: &GatewayMember| {
            let path = format!("/v1/conversations/{conv}/messages?limit=200");
            let text = member.gateway.get(&path).expect("a page of history");
            let page: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let count = page["messages"].as_array().map_or(0, Vec::len);
            (text, count)
        };
        self.gateways.iter().map(history).collect()
    }

    /// Where the secrets of all are.
    fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    fn seat(&self, node: String) -> Seat {
        let address = || format!("127.0.0.1:{}", free_port());
        Seat {
            data: self.data(&node),
            node,
            outer: address(),
            inner: address(),
        }
    }

    fn launch_router(&self, number: usize) -> (Seat, Running) {
        let seat = self.seat(format!("router-{number}"));
        let process = self.start_router(&seat);
        (seat, process)
    }

    fn start_router(&self, seat: &Seat) -> Running {
        let mut command = self.router_command(&seat.node, &seat.data);
        command
            .env("CORELANE__ROUTER__HTTP_LISTEN", &seat.outer)
            .env("CORELANE__ROUTER__LINK_LISTEN", &seat.inner)
            .env("CORELANE__ROUTER__ADVERTISE", &seat.inner);
        Running::start(&mut command)
    }

    fn launch_gateway(&self, number: usize) -> (Seat, Running) {
        let seat = self.seat(format!("gateway-{number}"));
        let process = self.start_gateway(&seat);
        (seat, process)
    }

    fn start_gateway(&self, seat: &Seat) -> Running {
        let links = self.routers.iter().map(|router| router.seat.inner.as_str());
        let keys = [
            format!("gateway.node={}", seat.node),
            format!("gateway.listen={}", seat.outer),
            format!("gateway.drain_ms={DRAIN_MS}"),
            format!("admin.listen={}", seat.inner),
            "router.embedded=false".to_owned(),
            format!("router.seeds={}", links.collect::<Vec<_>>().join(",")),
            format!("bus.servers={}", self.kafka),
            format!("bus.topic_prefix={}", self.prefix),
        ];
        let mut command = Gateway::command(&seat.data, &keys.each_ref().map(String::as_str));
        Running::start(&mut command)
    }

    fn ready_gateway(&self, seat: Seat, process: Running) -> GatewayMember {
        let router = &self.routers[self.gateways.len() % self.routers.len()];
        let (gateway, admin) = Gateway::beside(process, &seat.data, &router.http);
        GatewayMember { gateway, admin, seat }
    }
}

fn ready_router(seat: Seat, mut process: Running) -> RouterMember {
    process.line("ready ");
    RouterMember {
        process,
        http: format!("http://{}", seat.outer),
        seat,
    }
}
