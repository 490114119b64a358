//! A router and a gateway in processes of their own, with the registry in Redis and the bus on Kafka, both of
//! `ops/services`. Each test has keys and topics of its own there, and ports that outlive the processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use corelane_protocol::id::BootId;
use corelane_router::bus::Bus as _;
use corelane_router::bus::kafka::{KafkaBus, KafkaConfig};
use tokio::runtime::Runtime;

use crate::way::Way;
use crate::{Gateway, Ports, READY, Running, binary, wait_for};

/// Where everything is.
#[derive(Debug)]
pub struct Apart {
    redis: String,
    kafka: String,
    /// What keys and topics begin with.
    prefix: String,
    ports: Ports,
    data: PathBuf,
}

impl Apart {
    /// Finds the services, and a place for `data`.
    ///
    /// # Panics
    ///
    /// If they were not started; says how.
    pub fn find(data: &Path) -> Self {
        Self {
            redis: service("CORELANE_TEST_REDIS", "redis"),
            kafka: service("CORELANE_TEST_KAFKA", "kafka"),
            prefix: own_prefix(),
            ports: Ports::find(),
            data: data.to_owned(),
        }
    }

    /// As [`Self::find`], with a way to Redis that can be cut.
    ///
    /// # Panics
    ///
    /// If the services were not started; says how.
    pub fn find_behind_a_way(data: &Path) -> (Self, Way) {
        let mut apart = Self::find(data);
        let server = apart.redis.trim_start_matches("redis://").to_owned();
        let way = Way::to(server);
        apart.redis = format!("redis://{}", way.address);
        (apart, way)
    }

    /// Starts the router, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it is not in time.
    pub fn router(&self) -> Running {
        let http = format!("127.0.0.1:{}", self.ports.http);
        let mut command = Command::new(binary("corelane-router"));
        command
            .env("CORELANE__STORE__DATA_DIR", &self.data)
            .env("CORELANE__ROUTER__HTTP_LISTEN", &http)
            .env("CORELANE__ROUTER__LINK_LISTEN", self.link())
            .env("CORELANE__REGISTRY__URL", &self.redis)
            .env("CORELANE__REGISTRY__PREFIX", &self.prefix)
            .env("CORELANE__BUS__SERVERS", &self.kafka)
            .env("CORELANE__BUS__TOPIC_PREFIX", &self.prefix)
            .env("CORELANE__LOG__LEVEL", "warn");
        let router = Running::start(&mut command);
        wait_for("a router that is ready", READY, || {
            ureq::get(format!("http://{http}/readyz")).call().ok()
        });
        router
    }

    /// Starts the gateway, and waits until it is ready. Gives the base URL of its metrics, too.
    ///
    /// # Panics
    ///
    /// If it is not in time.
    pub fn gateway(&self) -> (Gateway, String) {
        let keys = [
            format!("gateway.listen=127.0.0.1:{}", self.ports.ws),
            format!("admin.listen=127.0.0.1:{}", self.ports.admin),
            "router.embedded=false".to_owned(),
            format!("router.seeds={}", self.link()),
            format!("bus.servers={}", self.kafka),
            format!("bus.topic_prefix={}", self.prefix),
        ];
        let mut command = Gateway::command(&self.data, &keys.each_ref().map(String::as_str));
        let http = format!("http://127.0.0.1:{}", self.ports.http);
        Gateway::beside(Running::start(&mut command), &self.data, &http)
    }

    /// Redis forgets its gateways and their leases, as one does that comes back without its last seconds.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn forget_gateways(&self) {
        let keys = ["gateways", "lease"].map(|kind| format!("{}{kind}:{{leases}}", self.prefix));
        let output = Command::new("redis-cli")
            .args(["-u", &self.redis, "DEL"])
            .args(keys)
            .output()
            .expect("redis-cli is there: ops/services up redis installs it");
        let answer = String::from_utf8_lossy(&output.stdout);
        assert_eq!(answer.trim(), "2", "both were there: {output:?}");
    }

    /// The topics of its gateways.
    ///
    /// # Panics
    ///
    /// If Kafka does not answer.
    pub fn topics(&self) -> Topics {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let config = KafkaConfig {
            servers: self.kafka.clone(),
            topic_prefix: self.prefix.clone(),
            ..KafkaConfig::default()
        };
        let bus = runtime
            .block_on(KafkaBus::connect(config))
            .unwrap_or_else(|error| panic!("this test needs Kafka (ops/services up kafka): {error}"));
        Topics { runtime, bus }
    }

    fn link(&self) -> String {
        format!("127.0.0.1:{}", self.ports.link)
    }
}

/// Where a service of `ops/services` is.
///
/// # Panics
///
/// If it was not started; says how.
pub(crate) fn service(key: &str, name: &str) -> String {
    std::env::var(key).unwrap_or_else(|_| {
        panic!("this test needs {name}, and {key} is not set: eval \"$(ops/services up {name})\"")
    })
}

/// What nobody else's keys and topics begin with.
pub(crate) fn own_prefix() -> String {
    let nanos = std::time::UNIX_EPOCH
        .elapsed()
        .expect("it is after 1970")
        .as_nanos();
    format!("system-{}-{nanos}", std::process::id())
}

/// The topics, as somebody else sees them who may do everything.
#[derive(Debug)]
pub struct Topics {
    runtime: Runtime,
    bus: KafkaBus,
}

impl Topics {
    /// Boots that have a topic.
    ///
    /// # Panics
    ///
    /// If Kafka does not answer.
    pub fn boots(&self) -> Vec<BootId> {
        self.runtime
            .block_on(self.bus.boots())
            .expect("topics are listed")
    }

    /// Deletes a topic.
    ///
    /// # Panics
    ///
    /// If Kafka does not.
    pub fn delete(&self, boot: BootId) {
        self.runtime
            .block_on(self.bus.delete(boot))
            .expect("a topic is deleted");
    }
}
