//! Routers that share a registry: who may be one of them, and who is told why not. Needs a real Redis and a real
//! Kafka: `eval "$(ops/services up redis kafka)"`, then `--ignored`.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;

use corelane_protocol::limits::LEASE;
use corelane_router::clock::Clock;
use corelane_router::config::RouterConfig;
use corelane_router::{JoinError, RouterHandle, RouterOptions, StartError, start};

/// A prefix of keys that no other test has.
fn prefix() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    format!("test{:016x}.", u64::from_le_bytes(bytes))
}

fn router(dir: &Path, node: &str, prefix: &str) -> Result<RouterHandle, StartError> {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = RouterConfig::default();
    node.clone_into(&mut config.router.node);
    config.router.link_listen = any;
    config.router.http_listen = any;
    dir.clone_into(&mut config.store.data_dir);
    config.store.lanes = 8;
    config.registry.url = std::env::var("CORELANE_TEST_REDIS")
        .unwrap_or_else(|_| panic!("CORELANE_TEST_REDIS is not set: eval \"$(ops/services up redis)\""));
    prefix.clone_into(&mut config.registry.prefix);
    config.bus.servers = std::env::var("CORELANE_TEST_KAFKA")
        .unwrap_or_else(|_| panic!("CORELANE_TEST_KAFKA is not set: eval \"$(ops/services up kafka)\""));
    config.bus.topic_prefix = format!("{prefix}deliver");
    start(&config, RouterOptions::default())
}

#[test]
#[ignore = "needs ops/services up redis kafka"]
fn a_second_router_of_one_name_is_refused_while_the_first_lives() {
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let prefix = prefix();
    let first = router(first_dir.path(), "one", &prefix).unwrap();
    let refused = router(second_dir.path(), "one", &prefix).map(|_| ()).unwrap_err();
    let text = refused.to_string();
    let address = first.link_addr().to_string();
    assert!(text.contains("\"one\"") && text.contains(&address), "{text}");
    assert!(text.contains("another name"), "{text}");
    assert!(matches!(refused, StartError::Join(JoinError::Taken { .. })));
}

#[test]
#[ignore = "needs ops/services up redis kafka"]
fn a_router_that_left_in_order_is_replaced_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = prefix();
    let clock = Clock::start();
    for _ in 0..3 {
        router(dir.path(), "one", &prefix).unwrap().shutdown();
    }
    router(dir.path(), "another", &prefix).unwrap().shutdown();
    let took = clock.now().mono;
    assert!(took < LEASE, "no lease was waited for: {took:?}");
}

#[test]
#[ignore = "needs ops/services up redis kafka"]
fn a_router_with_a_database_of_its_own_is_not_one_of_several() {
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let prefix = prefix();
    let first = router(first_dir.path(), "one", &prefix).unwrap();
    let refused = router(second_dir.path(), "two", &prefix).map(|_| ()).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("\"one\"") && text.contains(&first.link_addr().to_string()),
        "{text}"
    );
    assert!(
        text.contains("store.pd") && text.contains("registry.prefix"),
        "{text}"
    );
}
