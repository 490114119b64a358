//! Metrics of the router: every name, in one file. Prometheus text format 0.0.4.
//!
//! Counters of the core are copied after each turn; latencies come from sampled messages and from every commit.
//! Nothing here waits and nothing grows.
//!
//! Counters of stages agree with the number of messages. For a router and all gateways linked to it since they started,
//! while nothing is on its way (gateways leave their counters four times a second):
//!
//! ```text
//! forward + sends over HTTP = persist + repeated + refused (+ what a lost link took with it)
//! admit   = persist + repeated + what was refused after it was admitted
//! persist = new messages of the log
//! locate  = persist + recovered
//! publish = locate
//! consume = bus messages: a message counts once per gateway where it has a receiver
//! deliver = bus deliveries - missed - gone: a message counts once per connection that is to get it
//! ```
//!
//! In a calm run of N messages between users who are both online, at one terminal each, every one of them is N.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use corelane_router_core::RouterMetrics;

use crate::shared::Shared;
use crate::store::any::StoreStats;
use crate::store::tikv::TikvStats;
use crate::store::timing::CommitStats;

/// Of every store.
const STORE_COMMITS: &str = "corelane_store_commits_total";
const STORE_MESSAGES: &str = "corelane_store_messages_total";

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Stages whose latency is measured from the moment a message was decoded at its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In the router.
    Admit,
    /// Committed and answered.
    Persist,
    /// Handed to the bus.
    Publish,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Admit, Self::Persist, Self::Publish];

    const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Persist => "persist",
            Self::Publish => "publish",
        }
    }
}

/// Counts of one latency.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, us: u64) {
        let index = BUCKETS_US
            .iter()
            .position(|bound| us <= *bound)
            .unwrap_or(BUCKETS_US.len());
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn render(&self, name: &str, label: &str, into: &mut String) {
        let comma = if label.is_empty() { "" } else { "," };
        let mut total = 0;
        let bounds = BUCKETS_US
            .iter()
            .map(|us| seconds(*us))
            .chain(["+Inf".to_owned()]);
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            total += bucket.load(Ordering::Relaxed);
            let _ = writeln!(into, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {total}");
        }
        let labels = if label.is_empty() {
            String::new()
        } else {
            format!("{{{label}}}")
        };
        let _ = writeln!(
            into,
            "{name}_sum{labels} {}",
            seconds(self.sum_us.load(Ordering::Relaxed))
        );
        let _ = writeln!(into, "{name}_count{labels} {total}");
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// What the core said of itself last.
#[derive(Debug, Clone, Copy, Default)]
struct CoreFigures {
    counters: RouterMetrics,
    in_flight: usize,
    behind: usize,
}

/// Everything that is counted outside the core.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    core: Mutex<CoreFigures>,
    admit: Histogram,
    persist: Histogram,
    publish: Histogram,
    commit: Histogram,
    lapses: AtomicU64,
    sync_pages: AtomicU64,
    sync_rows: AtomicU64,
    routes_lost: AtomicU64,
}

impl Metrics {
    /// A gateway's lease ran out.
    pub(crate) fn lease_lapsed(&self) {
        self.lapses.fetch_add(1, Ordering::Relaxed);
    }

    /// A terminal was given a page of sync, for which the store found so many rows.
    pub(crate) fn synced(&self, rows: u64) {
        self.sync_pages.fetch_add(1, Ordering::Relaxed);
        self.sync_rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// So many sessions were found without their routes.
    pub(crate) fn routes_lost(&self, sessions: usize) {
        self.routes_lost.fetch_add(sessions as u64, Ordering::Relaxed);
    }

    /// A sampled message that was decoded at `stamp_us` reached a stage at `now_us`.
    pub(crate) fn reached(&self, stage: Stage, now_us: u64, stamp_us: u64) {
        self.stage(stage).observe(now_us.saturating_sub(stamp_us));
    }

    /// A commit took this long, from the core's request to its answer.
    pub(crate) fn committed(&self, took: Duration) {
        self.commit
            .observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn set_core(&self, counters: RouterMetrics, in_flight: usize, behind: usize) {
        *self.core.lock().unwrap_or_else(PoisonError::into_inner) = CoreFigures {
            counters,
            in_flight,
            behind,
        };
    }

    fn core(&self) -> CoreFigures {
        *self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn stage(&self, stage: Stage) -> &Histogram {
        match stage {
            Stage::Admit => &self.admit,
            Stage::Persist => &self.persist,
            Stage::Publish => &self.publish,
        }
    }
}

/// Appends the metrics of a router.
pub(crate) fn render(shared: &Shared, into: &mut String) {
    let CoreFigures {
        counters: core,
        in_flight,
        behind,
    } = shared.metrics.core();
    render_stages(shared, &core, into);
    render_counters(shared, &core, into);
    render_cluster(shared, into);
    let gauges = [
        (
            "corelane_router_in_flight",
            "Messages that wait for a commit.",
            in_flight,
        ),
        (
            "corelane_router_behind_commits",
            "Commits whose messages were let go of because their receivers cannot be looked up; they are read back.",
            behind,
        ),
        (
            "corelane_router_outbox_rows",
            "Outbox rows of which something is still to be published, or to be reported consumed.",
            shared.cluster.rows_held(),
        ),
        ("corelane_router_links", "Links that are up.", shared.hub.len()),
    ];
    let routes = shared.registry.route_count().map(|count| {
        let name = "corelane_router_routes";
        (name, "Routes that are held; only of a registry in memory.", count)
    });
    for (name, help, value) in gauges.into_iter().chain(routes) {
        describe(into, name, "gauge", help);
        let _ = writeln!(into, "{name} {value}");
    }
    if let Some(bus) = shared.bus.kafka() {
        bus.figures().render("corelane_router", into);
    }
}

fn render_cluster(shared: &Shared, into: &mut String) {
    let list = shared.cluster.list();
    let (lanes, held) = shared.cluster.lanes();
    let (kicks, dropped) = shared.hub.kick_counts();
    let routers = list.routers.len() as u64;
    let (lanes, held, kicks) = (lanes as u64, held as u64, kicks as u64);
    for (name, kind, help, value) in [
        (
            "corelane_router_list_routers",
            "gauge",
            "Routers in the list.",
            routers,
        ),
        (
            "corelane_router_list_version",
            "gauge",
            "Version of the router list.",
            list.version,
        ),
        (
            "corelane_router_lanes",
            "gauge",
            "Lanes that this router serves or is to serve.",
            lanes,
        ),
        (
            "corelane_router_lanes_held",
            "gauge",
            "Those of them that other routers have not drained.",
            held,
        ),
        (
            "corelane_router_kicks_kept",
            "gauge",
            "Kicks that wait for a link to their shard.",
            kicks,
        ),
        (
            "corelane_router_kicks_dropped_total",
            "counter",
            "Kicks that were given up because too many waited.",
            dropped,
        ),
    ] {
        describe(into, name, kind, help);
        let _ = writeln!(into, "{name} {value}");
    }
}

fn render_stages(shared: &Shared, core: &RouterMetrics, into: &mut String) {
    let name = "corelane_stage_messages_total";
    describe(into, name, "counter", "Messages that passed a stage.");
    for (stage, count) in [
        ("admit", core.admitted),
        ("persist", core.persisted),
        ("locate", core.located),
        ("publish", core.published),
    ] {
        let _ = writeln!(into, "{name}{{stage=\"{stage}\"}} {count}");
    }
    let name = "corelane_stage_seconds";
    describe(
        into,
        name,
        "histogram",
        "Time of sampled messages from decode to a stage.",
    );
    for stage in Stage::ALL {
        shared
            .metrics
            .stage(stage)
            .render(name, &format!("stage=\"{}\"", stage.name()), into);
    }
    let name = "corelane_router_commit_seconds";
    describe(
        into,
        name,
        "histogram",
        "Time of commits, queueing at the store included.",
    );
    shared.metrics.commit.render(name, "", into);
}

fn render_counters(shared: &Shared, core: &RouterMetrics, into: &mut String) {
    let counters = [
        ("corelane_router_refused_total", "Sends refused.", core.refused),
        (
            "corelane_router_repeated_total",
            "Sends that an earlier send had stored.",
            core.repeated,
        ),
        (
            "corelane_router_unknown_commits_total",
            "Commits whose outcome is not known.",
            core.unknown,
        ),
        (
            "corelane_router_recovered_total",
            "Messages that an earlier life had stored and may not have published.",
            core.recovered,
        ),
        (
            "corelane_router_read_back_total",
            "Messages that were let go of while nobody could be looked up, and read from the store again.",
            core.read_back,
        ),
        (
            "corelane_router_bus_records_total",
            "Bus records published.",
            core.records,
        ),
        (
            "corelane_router_bus_messages_total",
            "Messages in them: each once per gateway where it has a receiver.",
            core.record_messages,
        ),
        (
            "corelane_router_bus_deliveries_total",
            "Deliveries that they ask for: each message once per connection that is to get it.",
            core.record_deliveries,
        ),
        (
            "corelane_router_bus_republished_total",
            "Bus records published again under their number.",
            core.republished,
        ),
        (
            "corelane_router_outbox_cleared_total",
            "Outbox rows cleared.",
            core.cleared,
        ),
        (
            "corelane_router_leases_lapsed_total",
            "Gateway boots declared dead because their lease ran out.",
            shared.metrics.lapses.load(Ordering::Relaxed),
        ),
        (
            "corelane_store_sync_pages_total",
            "Pages of sync that terminals were given.",
            shared.metrics.sync_pages.load(Ordering::Relaxed),
        ),
        (
            "corelane_store_sync_rows_total",
            "Rows that the store found for them.",
            shared.metrics.sync_rows.load(Ordering::Relaxed),
        ),
        (
            "corelane_router_routes_lost_total",
            "Sessions that were told to go because they did not hold their routes any more.",
            shared.metrics.routes_lost.load(Ordering::Relaxed),
        ),
    ];
    render_all(&counters, into);
    match shared.store.stats() {
        StoreStats::Sqlite(stats) => render_sqlite(&stats, into),
        StoreStats::Tikv(stats) => render_tikv(&stats, into),
    }
}

fn render_all(counters: &[(&str, &str, u64)], into: &mut String) {
    for (name, help, value) in counters {
        describe(into, name, "counter", help);
        let _ = writeln!(into, "{name} {value}");
    }
}

fn render_sqlite(store: &CommitStats, into: &mut String) {
    let counters = [
        (STORE_COMMITS, "Transactions committed.", store.commits),
        (STORE_MESSAGES, "Messages in them.", store.messages),
        (
            "corelane_store_write_microseconds_total",
            "Time in SQL, COMMIT included.",
            store.write_us,
        ),
        (
            "corelane_store_sync_microseconds_total",
            "Time in which the journal was written and synced.",
            store.sync_us,
        ),
        (
            "corelane_store_checkpoint_microseconds_total",
            "Time in checkpoints.",
            store.checkpoint_us,
        ),
        (
            "corelane_store_checkpoints_total",
            "Checkpoints.",
            store.checkpoints,
        ),
        (
            "corelane_store_slow_commits_total",
            "Commits over 50 ms.",
            store.slow,
        ),
    ];
    render_all(&counters, into);
}

fn render_tikv(store: &TikvStats, into: &mut String) {
    let counters = [
        (STORE_COMMITS, "Batches committed and seen.", store.commits),
        (STORE_MESSAGES, "Messages in them.", store.messages),
        (
            "corelane_store_attempts_total",
            "Transactions begun for commits.",
            store.attempts,
        ),
        (
            "corelane_store_unsure_total",
            "Commits of which it was not known at once what became of them.",
            store.unsure,
        ),
        (
            "corelane_store_resolved_total",
            "Commits that failed by what the client said and were there.",
            store.resolved,
        ),
        (
            "corelane_store_torn_total",
            "Commits that succeeded by what the client said and were not there, or not all of them.",
            store.torn,
        ),
        (
            "corelane_store_unknown_total",
            "Commits whose outcome was not found out in time.",
            store.unknown,
        ),
        (
            "corelane_store_repairs_total",
            "Conversations that were mended.",
            store.repairs,
        ),
        (
            "corelane_store_voids_total",
            "Places of them that were made void.",
            store.voids,
        ),
        (
            "corelane_store_aside_total",
            "Messages refused because another's lock held their conversation.",
            store.aside,
        ),
        (
            "corelane_store_strays_total",
            "Outbox rows that no commit announced, handed over to be published.",
            store.strays,
        ),
        (
            "corelane_store_rebuilt_total",
            "Times that the connection to TiKV was made anew.",
            store.rebuilt,
        ),
        (
            "corelane_store_ids_forgotten_total",
            "Ids forgotten because they are refused as stale.",
            store.ids_forgotten,
        ),
    ];
    render_all(&counters, into);
    let name = "corelane_store_faults_total";
    describe(into, name, "counter", "Failed calls to PD and TiKV, by kind.");
    for (class, count) in &store.faults {
        let _ = writeln!(into, "{name}{{class=\"{}\"}} {count}", class.name());
    }
}

fn describe(into: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(into, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_upwards() {
        let histogram = Histogram::default();
        for us in [50, 100, 101, 10_000_000] {
            histogram.observe(us);
        }
        let mut text = String::new();
        histogram.render("x", "stage=\"y\"", &mut text);
        assert!(
            text.contains("x_bucket{stage=\"y\",le=\"0.000100\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("x_bucket{stage=\"y\",le=\"0.000250\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("x_bucket{stage=\"y\",le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("x_count{stage=\"y\"} 4\n"), "{text}");
    }
}
