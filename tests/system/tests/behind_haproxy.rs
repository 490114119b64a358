//! `HAProxy` in front, with the very configuration that is shipped (`ops/haproxy/haproxy.cfg`): it hands on clients'
//! addresses, spreads connections, and lets a gateway go that drains.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use corelane_protocol::frame::FrameKind;
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::metrics::Metrics;
use corelane_system_tests::peer::{RKYV, close_code, connect_from, upgraded_over};
use corelane_system_tests::router::Router;
use corelane_system_tests::{Gateway, Running, binary, free_port, wait_for};

const PATIENCE: Duration = Duration::from_secs(10);
/// Names of the gateways, here and in the configuration of the balancer.
const NAMES: [&str; 2] = ["gateway-1", "gateway-2"];

/// A gateway behind the balancer.
struct Behind {
    gateway: Gateway,
    /// Base URL of its own figures and readiness.
    admin: String,
}

impl Behind {
    /// Starts one that takes one connection per client's address.
    fn start(router: &Router, name: &str) -> Self {
        let (node, seeds) = (
            format!("gateway.node={name}"),
            format!("router.seeds={}", router.link),
        );
        let set = [
            "router.embedded=false",
            "admin.listen=127.0.0.1:0",
            "gateway.proxy_sources=127.0.0.1",
            "gateway.shards=1",
            "gateway.drain_ms=8000",
            "connection.per_ip_max=1",
            &node,
            &seeds,
        ];
        let process = Running::start(&mut Gateway::command(&router.data, &set));
        let (gateway, admin) = Gateway::beside(process, &router.data, &router.http);
        Self { gateway, admin }
    }

    /// As the balancer's configuration names it.
    fn server(&self) -> String {
        let admin: SocketAddr = self
            .admin
            .trim_start_matches("http://")
            .parse()
            .expect("an address");
        format!("{} port {}", self.gateway.ws, admin.port())
    }

    fn await_sessions(&self, count: u64) {
        wait_for("the sessions of a gateway", PATIENCE, || {
            (self.sessions() == Some(count)).then_some(())
        });
    }

    fn sessions(&self) -> Option<u64> {
        Some(Metrics::of(&self.admin)?.sum("corelane_gateway_sessions"))
    }
}

/// The balancer.
struct Balancer {
    /// Kept, so that it runs as long as this lives.
    _process: Running,
    listen: SocketAddr,
    admin: PathBuf,
}

impl Balancer {
    /// Starts it in front of these gateways and waits until it has found all of them ready.
    fn start(dir: &Path, gateways: &[Behind; 2]) -> Self {
        let program = program();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let admin = dir.join("haproxy.sock");
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, configuration(listen, &admin, gateways)).expect("the directory is ours");
        let check = Command::new(program).args(["-c", "-f"]).arg(&file).output();
        let check = check.expect("it ran before");
        assert!(
            check.status.success(),
            "haproxy refuses its configuration: {}",
            String::from_utf8_lossy(&check.stderr)
        );
        // -db: stays in the foreground.
        let process = Running::start(Command::new(program).args(["-db", "-f"]).arg(&file));
        let balancer = Self {
            _process: process,
            listen,
            admin,
        };
        for name in NAMES {
            balancer.await_server(name, "UP", "L7OK");
        }
        balancer
    }

    /// A connection of a client at this address.
    fn connect(&self, client: u8) -> TcpStream {
        connect_from(Ipv4Addr::new(127, 0, 0, client), self.listen)
    }

    /// Waits until a gateway is up or down, and its last check came to this end.
    fn await_server(&self, name: &str, status: &str, check: &str) {
        wait_for(&format!("{name} {status} by {check}"), PATIENCE, || {
            let table = self.table()?;
            let is_there = field(&table, name, "status")?.starts_with(status);
            // While the next check runs the last one is marked.
            let last = field(&table, name, "check_status")?.trim_start_matches("* ");
            (is_there && last == check).then_some(())
        });
    }

    /// What it knows of its servers: lines of values by commas, below a line of names.
    fn table(&self) -> Option<String> {
        let mut socket = UnixStream::connect(&self.admin).ok()?;
        socket.write_all(b"show stat\n").ok()?;
        let mut table = String::new();
        socket.read_to_string(&mut table).ok()?;
        Some(table)
    }
}

/// One value of the balancer's table.
fn field<'a>(table: &'a str, server: &str, name: &str) -> Option<&'a str> {
    let mut lines = table.lines();
    let names = lines.next()?.trim_start_matches("# ");
    let at = names.split(',').position(|each| each == name)?;
    let server = format!("gateways,{server},");
    let line = lines.find(|line| line.starts_with(&server))?;
    line.split(',').nth(at)
}

/// The program, wherever Debian puts it.
fn program() -> &'static str {
    let runs = |program: &&str| {
        let output = Command::new(program).arg("-v").output();
        output.is_ok_and(|output| output.status.success())
    };
    let known = ["haproxy", "/usr/sbin/haproxy"];
    known.into_iter().find(runs).unwrap_or_else(|| {
        panic!("haproxy is missing: install Debian's package haproxy, as `./ops/test system` does")
    })
}

/// The shipped configuration with the addresses of this test.
fn configuration(listen: SocketAddr, admin: &Path, gateways: &[Behind; 2]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/haproxy/haproxy.cfg");
    let mut text = std::fs::read_to_string(&file).expect("the configuration is shipped");
    let [first, second] = gateways;
    for (shipped, here) in [
        ("    bind :7070\n", format!("    bind {listen}\n")),
        (
            "server gateway-1 10.0.0.11:7070 port 7071",
            format!("server gateway-1 {}", first.server()),
        ),
        (
            "server gateway-2 10.0.0.12:7070 port 7071",
            format!("server gateway-2 {}", second.server()),
        ),
        (
            "stats socket /run/haproxy/admin.sock",
            format!("stats socket {}", admin.display()),
        ),
        // The test may run as anybody, with few descriptors.
        ("    user haproxy\n", String::new()),
        ("    group haproxy\n", String::new()),
        ("maxconn 100000", "maxconn 1000".to_owned()),
    ] {
        assert_eq!(
            text.matches(shipped).count(),
            1,
            "{shipped:?} in {}",
            file.display()
        );
        text = text.replace(shipped, &here);
    }
    text
}

/// Each says something, and the other one gets it.
fn chat(alice: &mut Client, bob: &mut Client, text: &str) {
    let said = alice.send(&to_user("bob"), text);
    alice.answer(said).expect("it is stored");
    assert_eq!(bob.message().payload, text.as_bytes());
    let said = bob.send(&to_user("alice"), text);
    bob.answer(said).expect("it is stored");
    assert_eq!(alice.message().payload, text.as_bytes());
}

#[test]
fn two_users_chat_through_haproxy_and_a_gateway_that_drains_leaves_its_pool() {
    let data = tempfile::tempdir().unwrap();
    let command = &mut Router::command(&binary("corelane-router"), data.path());
    let router = Router::start(command, data.path());
    let mut gateways = NAMES.map(|name| Behind::start(&router, name));
    let balancer = Balancer::start(data.path(), &gateways);
    let keys = &gateways[0].gateway;
    let login = |client: u8, user: &str| Client::login_over(balancer.connect(client), keys, user);
    // The second one goes where the first one is not.
    let mut alice = login(2, "alice");
    let first = wait_for("the gateway that has alice", PATIENCE, || {
        let sessions = |behind: &Behind| behind.sessions() == Some(1);
        gateways.iter().position(sessions)
    });
    let other = 1 - first;
    let mut bob = login(3, "bob");
    gateways[other].await_sessions(1);
    chat(&mut alice, &mut bob, "through two gateways");

    // It is out of the pool by its answer to the check, while it is still there for those it has.
    gateways[first].gateway.process.terminate();
    balancer.await_server(NAMES[first], "DOWN", "L7STS");
    balancer.await_server(NAMES[other], "UP", "L7OK");
    alice.read_kind(FrameKind::GoAway);
    assert_eq!(alice.closed(), 4000);
    drop(alice);
    let mut alice = login(2, "alice");
    gateways[other].await_sessions(2);
    chat(&mut alice, &mut bob, "through one");

    // Two clients of one balancer are two addresses to the gateway, and it allows one connection of each.
    assert_eq!(close_code(&mut upgraded_over(balancer.connect(2), RKYV)), 4505);
    let carol = login(4, "carol");
    gateways[other].await_sessions(3);
    drop(carol);
    let ended = gateways[first].gateway.process.wait(Duration::from_secs(30));
    assert_eq!(ended, Some(0));
}
