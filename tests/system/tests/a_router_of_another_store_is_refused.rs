//! A router that does not belong to the store that it is pointed at does not start, and says what is there, what it was told,
//! and how to mend it. Who runs goes on.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

use corelane_system_tests::cluster::{Cluster, LANES};
use corelane_system_tests::once::refusal;

/// The id that a data directory remembers.
fn cluster_id(data: &Path) -> String {
    let text = std::fs::read_to_string(data.join("cluster")).unwrap();
    text.trim().to_owned()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn a_router_with_other_lanes_or_of_another_cluster_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = Cluster::start(ours.path(), 1, 2);
    let other = Cluster::start(theirs.path(), 1, 0);
    let id = cluster_id(cluster.routers[0].data());
    let other_id = cluster_id(other.routers[0].data());
    assert_ne!(id, other_id);

    let lanes = LANES * 2;
    let mut command = cluster.router_command("router-2", &cluster.data("router-2"));
    let text = refusal(
        "other lanes",
        command.env("CORELANE__STORE__LANES", lanes.to_string()),
    );
    let (has, told) = (format!("made with {LANES} lanes"), format!("says {lanes}"));
    assert_says(&text, &[&id, &has, &told, "store.lanes"]);

    // A data directory that has known the one store, at the other one, and at none.
    let data = cluster.routers[0].data();
    let mut command = cluster.router_command("router-2", data);
    let text = refusal(
        "another store",
        command.env("CORELANE__STORE__PREFIX", other.prefix()),
    );
    let (has, told) = (
        format!("belongs to cluster {other_id}"),
        format!("this router to {id}"),
    );
    assert_says(&text, &[&has, &told, "store.pd", "store.cluster"]);
    let mut command = cluster.router_command("router-2", data);
    let none = format!("{}-none", cluster.prefix());
    let text = refusal("no store", command.env("CORELANE__STORE__PREFIX", none));
    assert_says(&text, &["holds no store", &id, "store.prefix"]);

    // One that knows none, at the other store: the routers of this registry do.
    let mut command = cluster.router_command("router-3", &cluster.data("router-3"));
    let text = refusal(
        "another store",
        command.env("CORELANE__STORE__PREFIX", other.prefix()),
    );
    assert_says(
        &text,
        &["the same registry", &id, &other_id, "store.pd", "registry.prefix"],
    );

    cluster.settle();
    cluster.talk_across("unharmed");
}
