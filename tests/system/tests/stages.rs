//! Counters of the stages agree with the number of messages, each by its own formula (`router/src/metrics.rs`).

use std::time::Duration;

use corelane_system_tests::load::Load;
use corelane_system_tests::metrics::Metrics;
use corelane_system_tests::{Gateway, Ports, Router, wait_for};

const READ: Duration = Duration::from_secs(5);

/// 200 users, all of them online, and ten thousand messages and a warm-up; then every stage has counted each once.
fn check(gateway: &Gateway, router_http: &str) {
    let arguments = ["-c", "200", "-r", "2k/s", "-d", "5s", "-s", "512B"];
    let load = Load::start(&gateway.ws_url, router_http, &gateway.data, &arguments);
    let outcome = load.finish(Duration::from_mins(1));
    outcome.assert_passed();
    outcome.assert_found(&[]);
    let sent = outcome.count("sent");
    assert!(sent > 10_000, "{:#}", outcome.report);
    for name in ["acked", "delivered"] {
        assert_eq!(outcome.count(name), sent, "{name} in {:#}", outcome.report);
    }
    assert_eq!(
        outcome.count("resent"),
        0,
        "the run was not calm: {:#}",
        outcome.report
    );

    let read = || (Metrics::of(&gateway.http), Metrics::of(router_http));
    // Shards leave their counters four times a second.
    let (gateway, router) = wait_for("the last message's delivery in the counters", READ, || {
        let (Some(gateway), Some(router)) = read() else {
            return None;
        };
        (gateway.sum("corelane_gateway_deliver_messages_total") >= sent).then_some((gateway, router))
    });
    let stage = |stage: &str| router.sum(&format!("corelane_stage_messages_total{{stage=\"{stage}\""));
    let of_gateway = |name: &str| gateway.sum(&format!("corelane_gateway_{name}_total"));
    let of_router = |name: &str| router.sum(&format!("corelane_{name}_total"));
    for (name, count) in [
        ("forward", of_gateway("forward_messages")),
        ("admit", stage("admit")),
        ("persist", stage("persist")),
        ("persist, by the store", of_router("store_messages")),
        ("locate", stage("locate")),
        ("publish", stage("publish")),
        ("publish, in records", of_router("router_bus_messages")),
        (
            "publish, deliveries asked for",
            of_router("router_bus_deliveries"),
        ),
        ("consume", of_gateway("consume_messages")),
        ("deliver", of_gateway("deliver_messages")),
    ] {
        assert_eq!(count, sent, "{name}");
    }
    for name in [
        "deliver_messages_missed",
        "deliver_messages_gone",
        "consume_repeated",
    ] {
        assert_eq!(of_gateway(name), 0, "{name}");
    }
    for name in ["refused", "repeated", "recovered"] {
        assert_eq!(of_router(&format!("router_{name}")), 0, "{name}");
    }
}

#[test]
fn every_stage_counts_every_message_once_in_one_process() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(data.path(), &[]);
    check(&gateway, &gateway.http);
}

#[test]
fn every_stage_counts_every_message_once_in_two_processes() {
    let data = tempfile::tempdir().unwrap();
    let ports = Ports::find();
    let router = Router::start(data.path(), &ports);
    let gateway = Gateway::start_beside_router(data.path(), &ports);
    check(&gateway, &router.http);
}
