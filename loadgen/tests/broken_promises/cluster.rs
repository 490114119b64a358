//! Several addresses of one service, and several processes that can be asked about it.

use std::net::TcpListener;

use crate::service::{Fault, serve};
use crate::{assert_only, measure_at};

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn two_targets_get_half_of_the_connections_each() {
    for pattern in ["pairs", "random"] {
        let served = serve(Fault::None, 2);
        let report = measure_at(&served, &["-c", "8", "--threads", "3", "--pattern", pattern]);
        assert_only(&report, &[], 0);
        assert_eq!(served.logins(), [4, 4]);
        let told: Vec<u64> = report.targets.iter().map(|target| target.connections).collect();
        assert_eq!(told, [4, 4], "{}", report.text());
        assert!(report.sent > 500, "{}", report.text());
        assert_eq!(served.within_one_address(), 0, "every message crosses");
    }
}

#[test]
fn clients_of_a_target_that_closes_everything_go_to_the_other() {
    let served = serve(Fault::CloseAddress, 2);
    let report = measure_at(&served, &["--reconnect", "--drain", "5s"]);
    assert_only(&report, &[], 0);
    assert_eq!(served.logins(), [2, 4]);
    assert_eq!(
        (report.dropped, report.counters.reconnected, report.acked),
        (2, 2, report.sent),
        "{}",
        report.text()
    );
    let named = format!("{}: ", served.addresses[0]);
    assert!(
        report.problems.keys().any(|problem| problem.starts_with(&named)),
        "{named} {}",
        report.text()
    );
}

#[test]
fn the_log_is_compared_though_one_router_is_away() {
    let served = serve(Fault::None, 1);
    let report = measure_at(&served, &["--http", &nobody()]);
    assert_only(&report, &[], 0);
    assert_eq!(report.log_not_compared, None);
    let log = report.log.as_ref().unwrap();
    assert_eq!(log.acked_found, report.sent, "{}", report.text());
}

#[test]
fn what_the_processes_counted_is_in_the_report() {
    let served = serve(Fault::None, 1);
    let (here, away) = (format!("http://{}", served.http), nobody());
    let report = measure_at(&served, &["--metrics", &here, "--metrics", &away]);
    assert_only(&report, &[], 0);
    let [counted, missing] = &report.targets_metrics[..] else {
        panic!("{}", report.text());
    };
    assert_eq!((&counted.error, counted.restarted), (&None, false));
    for stage in ["persist", "deliver"] {
        assert_eq!(counted.stages[stage], report.sent, "{stage} {}", report.text());
    }
    assert_eq!(
        counted.commits,
        Some(report.sent.div_ceil(2)),
        "{}",
        report.text()
    );
    assert_eq!(counted.stage_latency_us["persist"].count, report.sent);
    assert!(
        missing.url.starts_with(&away) && missing.error.is_some(),
        "{missing:?}"
    );
    assert!(report.text().contains(&away), "{}", report.text());
}
