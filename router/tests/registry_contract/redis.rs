//! What the registry in Redis promises beyond the contract: on bad days of Redis, and beside other routers.
//!
//! Tests that make Redis fail start a `redis-server` of their own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::terminal::Terminal;
use corelane_router::clock::Clock;
use corelane_router::registry::redis::{RedisConfig, RedisRegistry};
use corelane_router::registry::{ClaimOutcome, Registry, RegistryError};
use fred::clients::Client;
use fred::interfaces::{ClientLike as _, KeysInterface as _, LuaInterface as _};
use fred::types::{ClusterHash, CustomCommand};

use super::support::{
    APP, ONE, TWO, address, claim, client, connect, gateway, held, listed, prefix, refused, router, routes,
    user,
};

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A `redis-server` of a test's own; killed with it.
struct Server {
    dir: tempfile::TempDir,
    port: u16,
    options: Vec<String>,
    process: Child,
}

impl Server {
    async fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let process = Self::spawn(&dir, port, &options);
        let server = Self {
            dir,
            port,
            options,
            process,
        };
        server.listens().await;
        server
    }

    fn spawn(dir: &tempfile::TempDir, port: u16, options: &[String]) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(dir.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error} (ops/services up redis installs it)"))
    }

    async fn listens(&self) {
        let listens = async || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        eventually("the server listens", listens).await;
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(&self.dir, self.port, &self.options);
        self.listens().await;
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.process.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    fn config(&self) -> RedisConfig {
        RedisConfig {
            url: format!("redis://127.0.0.1:{}", self.port),
            grace: Duration::ZERO,
            ..RedisConfig::default()
        }
    }

    async fn beside(&self) -> Client {
        client(&self.config().url).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in {PATIENCE:?}: {what}");
}

async fn command(client: &Client, words: &[&str]) -> Result<String, fred::error::Error> {
    let (name, arguments) = words.split_first().unwrap();
    let custom = CustomCommand::new((*name).to_owned(), ClusterHash::FirstKey, false);
    let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    client
        .custom::<Option<String>, String>(custom, arguments)
        .await
        .map(Option::unwrap_or_default)
}

async fn refusal(config: &RedisConfig) -> String {
    let clock = Clock::start();
    let connected = RedisRegistry::connect(config, move || clock.now().mono).await;
    connected.map(|_| ()).unwrap_err().to_string()
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn what_is_wrong_at_the_start_is_named_with_its_remedy() {
    let single = address("CORELANE_TEST_REDIS");
    let config = |url: &str| RedisConfig {
        url: url.to_owned(),
        prefix: prefix(),
        ..RedisConfig::default()
    };
    let text = refusal(&config("redis://127.0.0.1:1")).await;
    assert!(
        text.contains("127.0.0.1:1") && text.contains("check the address"),
        "{text}"
    );
    let text = refusal(&config(&single.replace("redis://", "redis-cluster://"))).await;
    assert!(
        text.contains("no cluster") && text.contains("use redis://"),
        "{text}"
    );
    let cluster = address("CORELANE_TEST_REDIS_CLUSTER");
    let node = cluster.split('?').next().unwrap();
    let text = refusal(&config(&node.replace("redis-cluster://", "redis://"))).await;
    assert!(
        text.contains("node of a cluster") && text.contains("redis-cluster://"),
        "{text}"
    );

    let evicts = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let text = refusal(&evicts.config()).await;
    assert!(
        text.contains("allkeys-lru") && text.contains("noeviction"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_wrong_password_and_a_missing_permission_are_named() {
    let server = Server::start(&[]).await;
    let admin = server.beside().await;
    let user = |rules: &'static str| {
        let admin = &admin;
        async move {
            let words: Vec<&str> = ["ACL", "SETUSER", "corelane", "reset", "on", ">secret"]
                .into_iter()
                .chain(rules.split(' '))
                .collect();
            command(admin, &words).await.unwrap();
        }
    };
    let config = |password: &str| RedisConfig {
        user: "corelane".to_owned(),
        password: password.to_owned(),
        prefix: "c.".to_owned(),
        ..server.config()
    };
    user("~c.* +@read +@write +@connection +info").await;
    let text = refusal(&config("wrong")).await;
    assert!(
        text.contains("\"corelane\"") && text.contains("check user and password"),
        "{text}"
    );
    let text = refusal(&config("secret")).await;
    assert!(
        text.contains("evalsha") && text.contains("ACL SETUSER corelane ~c.*"),
        "{text}"
    );
    user("~c.* +@read +@write +@scripting +@connection +info +time +cluster").await;
    let registry = connect(&config("secret")).await;
    assert!(registry.join(gateway(ONE)).await.unwrap());
    held(&registry, &claim(ONE, 1, Terminal::Web, "x")).await;
    assert!(registry.reap().await.unwrap().is_empty());
    registry.leave(ONE).await.unwrap();
    command(&admin, &["CONFIG", "SET", "requirepass", "other"])
        .await
        .unwrap();
    let text = refusal(&server.config()).await;
    assert!(
        text.contains("\"default\"") && text.contains("check user and password"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn tls_needs_a_trusted_authority_and_the_right_name() {
    let config = RedisConfig {
        url: address("CORELANE_TEST_REDIS_TLS"),
        tls_ca: PathBuf::from(address("CORELANE_TEST_REDIS_CA")),
        tls_name: "redis.corelane.test".to_owned(),
        prefix: prefix(),
        ..RedisConfig::default()
    };
    let registry = connect(&config).await;
    assert!(registry.join(gateway(ONE)).await.unwrap());
    let other_name = RedisConfig {
        tls_name: "another.corelane.test".to_owned(),
        ..config.clone()
    };
    let text = refusal(&other_name).await;
    assert!(
        text.contains("TLS failed") && text.contains("the configured name"),
        "{text}"
    );
    let not_trusted = RedisConfig {
        tls_ca: PathBuf::from("/nowhere/ca.pem"),
        ..config.clone()
    };
    let text = refusal(&not_trusted).await;
    assert!(text.contains("/nowhere/ca.pem"), "{text}");
    let plain = RedisConfig {
        url: address("CORELANE_TEST_REDIS").replace("redis://", "rediss://"),
        ..config
    };
    // A port without TLS waits for more of what it takes for a command.
    let text = refusal(&plain).await;
    assert!(text.contains("speaks TLS"), "{text}");
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn an_emptied_registry_is_never_believed_before_it_has_a_new_incarnation() {
    let mut server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    let before = registry.incarnation();
    registry.join(gateway(ONE)).await.unwrap();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &first).await;
    server.kill();
    eventually("it counts as away", async || {
        registry.lookup(APP, vec![user("alice")]).await.is_err()
    })
    .await;
    assert!(matches!(
        registry.claim(first.clone()).await,
        Err(RegistryError::Unavailable(_))
    ));
    server.start_again().await;
    eventually("it is back", async || {
        let found = registry.lookup(APP, vec![user("alice")]).await;
        let Ok(found) = found else { return false };
        assert_eq!(found, [vec![]]);
        assert_ne!(
            registry.incarnation(),
            before,
            "nobody is offline because Redis is empty"
        );
        true
    })
    .await;
    registry.forgot(before).await;
    assert!(
        registry.renew(ONE).await.unwrap(),
        "a gateway that is linked does not die of it"
    );
    held(&registry, &first).await;
    assert_eq!(routes(&registry).await, [first.route]);
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_restart_with_all_of_its_memory_changes_nothing() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let registry = connect(&server.config()).await;
    let before = registry.incarnation();
    registry.join(gateway(ONE)).await.unwrap();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &first).await;
    server.kill();
    server.start_again().await;
    eventually("it is back", async || {
        registry
            .lookup(APP, vec![user("alice")])
            .await
            .is_ok_and(|found| {
                assert_eq!(found, [vec![first.route.clone()]]);
                true
            })
    })
    .await;
    assert_eq!(registry.incarnation(), before);
    assert!(registry.renew(ONE).await.unwrap());
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_lease_that_ran_out_while_it_was_away_is_renewed_and_a_dead_boot_stays_dead() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let config = RedisConfig {
        lease: Duration::from_millis(200),
        grace: Duration::from_secs(5),
        ..server.config()
    };
    let registry = connect(&config).await;
    let before = registry.incarnation();
    registry.join(gateway(ONE)).await.unwrap();
    registry.join(gateway(TWO)).await.unwrap();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &first).await;
    registry.leave(TWO).await.unwrap();
    server.kill();
    eventually("it counts as away", async || registry.renew(ONE).await.is_err()).await;
    assert_eq!(
        registry.renew(TWO).await,
        Ok(false),
        "this router knows by itself"
    );
    let clock = Clock::start();
    eventually("the lease has run out", async || {
        clock.now().mono > 2 * config.lease
    })
    .await;
    server.start_again().await;
    eventually("its leases are looked at", async || {
        registry.reap().await.is_ok_and(|dead| {
            assert!(dead.is_empty(), "nobody dies in the time of grace");
            true
        })
    })
    .await;
    assert_eq!(registry.renew(ONE).await, Ok(true));
    assert_eq!(routes(&registry).await, [first.route]);
    assert_eq!(registry.incarnation(), before, "nobody claims again");
    assert_eq!(registry.renew(TWO).await, Ok(false));
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_registry_that_forgot_its_last_claims_is_noticed() {
    let mut server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    registry.join(gateway(ONE)).await.unwrap();
    held(&registry, &claim(ONE, 1, Terminal::Web, "x")).await;
    let before = registry.incarnation();
    command(&server.beside().await, &["SAVE"]).await.unwrap();
    held(&registry, &claim(ONE, 2, Terminal::Web, "y")).await;
    server.kill();
    server.start_again().await;
    tokio::time::timeout(PATIENCE, registry.forgot(before))
        .await
        .unwrap();
    eventually("it is there", async || registry.renew(ONE).await == Ok(true)).await;
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn of_boots_that_it_forgot_those_are_dead_that_do_not_come_back() {
    let mut server = Server::start(&[]).await;
    let config = RedisConfig {
        lease: Duration::from_secs(1),
        ..server.config()
    };
    let registry = connect(&config).await;
    let before = registry.incarnation();
    command(&server.beside().await, &["SAVE"]).await.unwrap();
    for boot in [ONE, TWO] {
        assert!(registry.join(gateway(boot)).await.unwrap());
    }
    server.kill();
    server.start_again().await;
    eventually("it is there, and knows no gateway", async || {
        registry.live_gateways().await.is_ok_and(|live| live.is_empty())
    })
    .await;
    eventually("the one that is not renewed is dead", async || {
        let lives = registry.renew(TWO).await == Ok(true);
        assert!(lives, "a lapse that nobody used costs nothing");
        registry.expect_renewals(BTreeSet::new()).await.unwrap();
        let dead = registry.reap().await.unwrap();
        assert!(dead.is_empty() || dead == [ONE], "{dead:?}");
        !dead.is_empty()
    })
    .await;
    assert!(!registry.join(gateway(ONE)).await.unwrap());
    assert_eq!(registry.live_gateways().await.unwrap(), [gateway(TWO)]);
    assert_eq!(registry.incarnation(), before, "nothing else was forgotten");
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn routes_of_a_boot_that_it_forgot_end_with_a_lease() {
    let config = RedisConfig {
        url: address("CORELANE_TEST_REDIS"),
        prefix: prefix(),
        lease: Duration::from_millis(300),
        grace: Duration::ZERO,
        ..RedisConfig::default()
    };
    let (here, there) = (connect(&config).await, connect(&config).await);
    assert!(there.join(gateway(ONE)).await.unwrap());
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&there, &first).await;
    drop(there);
    // In a cluster its shard may lose its end alone: the routes are in others.
    let beside = client(&config.url).await;
    for kind in ["gateways", "lease"] {
        let key = format!("{}{kind}:{{leases}}", config.prefix);
        command(&beside, &["DEL", &key]).await.unwrap();
    }
    assert_eq!(routes(&here).await, [first.route]);
    eventually("it is declared dead", async || {
        here.expect_renewals(BTreeSet::new()).await.unwrap();
        here.reap().await.unwrap() == [ONE]
    })
    .await;
    assert!(routes(&here).await.is_empty());
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_claim_that_finds_its_group_forgotten_is_not_made() {
    let server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    registry.join(gateway(ONE)).await.unwrap();
    held(&registry, &claim(ONE, 1, Terminal::Web, "x")).await;
    let before = registry.incarnation();
    // The connection stands all the time: only the counters can tell.
    let forget =
        "for _, key in ipairs(redis.call('KEYS', 'claims:*')) do redis.call('DEL', key) end return 1";
    let _: i64 = server.beside().await.eval(forget, (), ()).await.unwrap();
    let made = registry.claim(claim(ONE, 2, Terminal::Web, "y")).await;
    assert!(matches!(made, Err(RegistryError::Unavailable(_))), "{made:?}");
    tokio::time::timeout(PATIENCE, registry.forgot(before))
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_server_that_stood_still_costs_nobody_his_lease() {
    let server = Server::start(&[]).await;
    let config = RedisConfig {
        lease: Duration::from_millis(500),
        grace: Duration::from_secs(2),
        ..server.config()
    };
    let registry = Arc::new(connect(&config).await);
    let before = registry.incarnation();
    registry.join(gateway(ONE)).await.unwrap();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&*registry, &first).await;
    // Asked all the time, before, while and after it stands still: also by commands that wait in its socket.
    let reaper = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move {
            loop {
                if let Ok(dead) = registry.reap().await
                    && !dead.is_empty()
                {
                    return dead;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let asked = Arc::clone(&registry);
    server.signal("-STOP");
    eventually("it counts as away", async || asked.renew(ONE).await.is_err()).await;
    server.signal("-CONT");
    eventually("the lease is renewed", async || {
        asked.renew(ONE).await == Ok(true)
    })
    .await;
    assert_eq!(routes(&*registry).await, [first.route]);
    assert_eq!(registry.incarnation(), before, "nothing was forgotten");
    assert!(!reaper.is_finished(), "nobody died");
    // Who does not renew dies, once the time of grace is over.
    let dead = tokio::time::timeout(PATIENCE, reaper).await.unwrap().unwrap();
    assert_eq!(dead, [ONE]);
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn a_claim_whose_answer_was_lost_is_made_again_without_harm() {
    let server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    registry.join(gateway(ONE)).await.unwrap();
    let before = registry.incarnation();
    held(&registry, &claim(ONE, 1, Terminal::Web, "x")).await;
    let beside = server.beside().await;
    command(&beside, &["CLIENT", "PAUSE", "2500", "WRITE"])
        .await
        .unwrap();
    let late = claim(ONE, 2, Terminal::Web, "x");
    let made = registry.claim(late.clone()).await;
    assert!(matches!(made, Err(RegistryError::Unavailable(_))), "{made:?}");
    eventually("it is made again", async || {
        registry.claim(late.clone()).await.is_ok()
    })
    .await;
    assert_eq!(routes(&registry).await, [late.route]);
    held(&registry, &claim(ONE, 3, Terminal::Web, "y")).await;
    assert_eq!(registry.incarnation(), before, "nothing was forgotten");
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn scripts_that_the_server_lost_are_given_to_it_again() {
    let server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    let beside = server.beside().await;
    registry.join(gateway(ONE)).await.unwrap();
    for number in 1..4 {
        command(&beside, &["SCRIPT", "FLUSH"]).await.unwrap();
        held(&registry, &claim(ONE, number, Terminal::Web, "x")).await;
        command(&beside, &["SCRIPT", "FLUSH"]).await.unwrap();
        assert!(registry.renew(ONE).await.unwrap());
    }
    command(&beside, &["SCRIPT", "FLUSH"]).await.unwrap();
    assert_eq!(
        registry
            .keep_only(ONE, 0, u64::MAX, [].into())
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn two_routers_share_what_one_was_told() {
    let config = RedisConfig {
        url: address("CORELANE_TEST_REDIS"),
        prefix: prefix(),
        lease: Duration::from_millis(300),
        grace: Duration::ZERO,
        ..RedisConfig::default()
    };
    let (here, there) = (connect(&config).await, connect(&config).await);
    assert_eq!(here.incarnation(), there.incarnation());
    assert!(here.join(gateway(ONE)).await.unwrap());
    let first = claim(ONE, 1, Terminal::Web, "x");
    assert!(
        held(&there, &first).await.is_empty(),
        "a boot that joined elsewhere"
    );
    assert_eq!(routes(&here).await, [first.route]);
    eventually("one of them declares it dead", async || {
        !here.reap().await.unwrap().is_empty()
    })
    .await;
    eventually("the other one is told, and leaves it out", async || {
        there.reap().await.unwrap() == [ONE]
    })
    .await;
    assert!(routes(&there).await.is_empty());
    assert!(there.reap().await.unwrap().is_empty(), "once");
    assert!(!there.join(gateway(ONE)).await.unwrap());
    assert_eq!(refused(&there, &claim(ONE, 2, Terminal::Web, "x")).await, 4003);
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn two_routers_see_one_list() {
    let config = RedisConfig {
        url: address("CORELANE_TEST_REDIS_CLUSTER"),
        prefix: prefix(),
        lease: Duration::from_secs(1),
        grace: Duration::ZERO,
        ..RedisConfig::default()
    };
    let (here, there) = (connect(&config).await, connect(&config).await);
    let first = listed(&here, &router("one", 1), 0).await;
    let second = listed(&there, &router("two", 2), 0).await;
    let list = here.routers().await.unwrap();
    assert_eq!((list.version, list.routers.len()), (second, 2));
    assert!(second > first);
    there.set_drained(TWO, second).await.unwrap();
    assert_eq!(here.routers().await.unwrap().drained[&TWO], second);
    eventually("the one that does not renew is taken out", async || {
        assert!(here.renew_router(ONE).await.unwrap());
        here.routers().await.unwrap().routers == [router("one", 1)]
    })
    .await;
    assert_eq!(there.routers().await.unwrap(), here.routers().await.unwrap());
    assert!(!there.renew_router(TWO).await.unwrap());
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn an_emptied_registry_never_says_that_there_are_no_routers() {
    let server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    let first = listed(&registry, &router("one", 1), 0).await;
    let before = registry.incarnation();
    // The connection stands all the time.
    command(&server.beside().await, &["FLUSHALL", "SYNC"])
        .await
        .unwrap();
    eventually("it is missed", async || {
        let Ok(list) = registry.routers().await else {
            return false;
        };
        assert!(list.routers.is_empty() && registry.incarnation() != before);
        true
    })
    .await;
    assert!(listed(&registry, &router("one", 1), first).await > first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ops/services up redis"]
async fn of_two_logins_at_two_routers_at_once_exactly_one_stays() {
    let config = RedisConfig {
        url: address("CORELANE_TEST_REDIS_CLUSTER"),
        prefix: prefix(),
        ..RedisConfig::default()
    };
    let (here, there) = (connect(&config).await, connect(&config).await);
    here.join(gateway(ONE)).await.unwrap();
    there.join(gateway(TWO)).await.unwrap();
    for number in 1..500 {
        let (one, two) = (
            claim(ONE, number, Terminal::Ios, "a"),
            claim(TWO, number, Terminal::Ios, "b"),
        );
        let (one_made, two_made) = tokio::join!(here.claim(one.clone()), there.claim(two.clone()));
        let mut told = Vec::new();
        for made in [one_made.unwrap(), two_made.unwrap()] {
            match made {
                ClaimOutcome::Held { kicks } => told.extend(kicks),
                ClaimOutcome::Refused { code } => panic!("refused with {code}"),
            }
        }
        let stays = routes(&here).await;
        assert_eq!(stays.len(), 1);
        let goes = if stays[0] == one.route {
            two.route
        } else {
            one.route
        };
        assert!(told.contains(&goes), "who went was told");
    }
}

#[tokio::test]
#[ignore = "needs ops/services up redis"]
async fn what_a_dead_boot_held_is_swept_up_and_the_rest_expires_by_itself() {
    let server = Server::start(&[]).await;
    let registry = connect(&server.config()).await;
    registry.join(gateway(ONE)).await.unwrap();
    registry.join(gateway(TWO)).await.unwrap();
    for number in 0..300 {
        let mut claim = claim(ONE, number + 1, Terminal::Web, "x");
        claim.user = user(&format!("user{number}"));
        held(&registry, &claim).await;
    }
    held(&registry, &claim(TWO, 1, Terminal::Web, "x")).await;
    let beside = server.beside().await;
    let keys = async |pattern: &str| -> Vec<String> {
        let list = "return redis.call('KEYS', ARGV[1])";
        beside.eval(list, (), pattern).await.unwrap()
    };
    assert_eq!(keys("route:*").await.len(), 301);
    registry.leave(ONE).await.unwrap();
    eventually("it is swept up", async || keys("route:*").await.len() == 1).await;
    assert_eq!(keys("held:*").await.len(), 1);
    for pattern in ["route:*", "held:*", "claims:*", "ended:*"] {
        for key in keys(pattern).await {
            let expires_ms: i64 = beside.pttl(key.as_str()).await.unwrap();
            assert!(expires_ms > 0, "{key} never expires");
        }
    }
}
