//! A real Kafka to test with: that of `ops/services up kafka`, or a broker of the test's own that it may kill.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper of tests, of which each file uses a part; it fails by panicking"
)]

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use corelane_router::bus::Bus as _;
use corelane_router::bus::kafka::{KafkaBus, KafkaConfig};
use corelane_router::clock::Clock;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// Longest that a broker may take until it answers.
const READY_MAX: Duration = Duration::from_mins(1);

/// A setting that `ops/services up kafka` prints.
pub(crate) fn service(key: &str) -> String {
    std::env::var(key).unwrap_or_else(|_| {
        panic!("this test needs Kafka and {key} is not set: eval \"$(ops/services up kafka)\"")
    })
}

/// Where the Kafka of the services is; it answers.
pub(crate) fn address() -> String {
    let address = service("CORELANE_TEST_KAFKA");
    if let Err(error) = TcpStream::connect(&address) {
        panic!("this test needs Kafka and {address} does not answer ({error}): ops/services up kafka");
    }
    address
}

/// A configuration with topics of its own, so that tests run side by side.
pub(crate) fn config(servers: String) -> KafkaConfig {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    KafkaConfig {
        servers,
        topic_prefix: format!("test-{}-{nanos}-{number}", std::process::id()),
        ..KafkaConfig::default()
    }
}

pub(crate) async fn connect(config: &KafkaConfig) -> KafkaBus {
    KafkaBus::connect(config.clone())
        .await
        .unwrap_or_else(|error| panic!("this test needs Kafka (ops/services up kafka): {error}"))
}

/// Deletes all topics of a configuration.
pub(crate) async fn delete_topics(config: &KafkaConfig) {
    let bus = connect(config).await;
    for boot in bus.boots().await.unwrap() {
        bus.delete(boot).await.unwrap();
    }
}

/// A broker of the test's own. It is killed when dropped.
pub(crate) struct Broker {
    dir: tempfile::TempDir,
    ports: [u16; 2],
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker with these settings beside the usual ones, and waits until it answers.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let mut broker = Self {
            dir: tempfile::tempdir().unwrap(),
            ports: [free_port(), free_port()],
            child: None,
        };
        broker.set(settings);
        let formatted = broker
            .java()
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t"])
            .args(["CorelaneTestCluster001", "-c"])
            .arg(broker.properties())
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{formatted:?}");
        broker.run();
        broker
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Kills it, as a machine that loses its process does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it again on what it had written, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = self.java();
        command
            .arg("kafka.Kafka")
            .arg(self.properties())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        self.child = Some(command.spawn().unwrap());
        self.await_answer();
    }

    /// Settings beside the usual ones from the next start on.
    pub(crate) fn set(&self, settings: &[(&str, &str)]) {
        std::fs::write(self.properties(), self.settings(settings)).unwrap();
    }

    fn await_answer(&mut self) {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "100")
            .create()
            .unwrap();
        let clock = Clock::start();
        loop {
            let answer = client.fetch_metadata(None, Duration::from_millis(500));
            if answer.is_ok_and(|metadata| !metadata.brokers().is_empty()) {
                return;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            if ended.is_some() || clock.now().mono > READY_MAX {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
                panic!("a broker of the test's own did not come up ({ended:?}):\n{log}");
            }
        }
    }

    fn properties(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    fn java(&self) -> Command {
        let lib = service("CORELANE_TEST_KAFKA_LIB");
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg("-cp")
            .arg(format!("{lib}/*"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn settings(&self, more: &[(&str, &str)]) -> String {
        let [port, controller] = self.ports;
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             log.cleaner.dedupe.buffer.size=2097152\n\
             broker.session.timeout.ms=1000\n\
             broker.heartbeat.interval.ms=200\n",
            self.dir.path().join("data").display()
        );
        for (key, value) in more {
            // The last line of a key counts.
            writeln!(text, "{key}={value}").unwrap();
        }
        text
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A port that nobody listens on, below the range from which the system takes ports: a client that tries again and
/// again to reach a broker that is down could else get connected to itself, and take its port.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 3000).unwrap();
    for _ in 0..3000 {
        let port = 4000 + (begin + NEXT.fetch_add(1, Ordering::SeqCst)) % 3000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from 4000 to 6999");
}
