//! Metrics and health of the gateway over HTTP, for operators and their tools.
//!
//! Owns the last snapshot of every shard. Reading never touches a shard: each leaves its figures four times a second.
//! `/metrics` is Prometheus text, `/healthz` says that the process runs, `/readyz` that it takes connections and
//! reaches a router.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use corelane_router::bus::any::AnyBus;
use corelane_router::http::{self, HttpLimits};

use crate::shard_loop::Snapshot;

/// What the admin endpoints show.
#[derive(Debug, Clone, Default)]
pub struct Admin {
    shards: Arc<Vec<Arc<Mutex<Snapshot>>>>,
    draining: Arc<AtomicBool>,
    bus: Arc<OnceLock<Arc<AnyBus>>>,
}

impl Admin {
    /// Shows these shards.
    pub fn new(shards: Vec<Arc<Mutex<Snapshot>>>) -> Self {
        Self {
            shards: Arc::new(shards),
            draining: Arc::default(),
            bus: Arc::default(),
        }
    }

    /// Shows the figures of this bus, too. Only the first one counts.
    pub fn set_bus(&self, bus: Arc<AnyBus>) {
        let _ = self.bus.set(bus);
    }

    /// From now on not ready.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Why the gateway is not ready; `None` if it is.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining");
        }
        self.snapshots()
            .iter()
            .any(|shard| !shard.linked)
            .then_some("a shard has no link to a router")
    }

    /// All figures as Prometheus text.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let snapshots = self.snapshots();
        let _ = writeln!(text, "# HELP corelane_gateway_build_info Version of the gateway.");
        let _ = writeln!(text, "# TYPE corelane_gateway_build_info gauge");
        let _ = writeln!(
            text,
            "corelane_gateway_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        let names: Vec<_> = Snapshot::default()
            .shard
            .rows()
            .map(|(name, gauge, help, _)| (name, gauge, help))
            .collect();
        for (row, (name, gauge, help)) in names.into_iter().enumerate() {
            let full = format!("corelane_gateway_{name}{}", if gauge { "" } else { "_total" });
            let _ = writeln!(text, "# HELP {full} {}", help.trim());
            let _ = writeln!(text, "# TYPE {full} {}", if gauge { "gauge" } else { "counter" });
            for (shard, snapshot) in snapshots.iter().enumerate() {
                let value = snapshot.shard.rows().nth(row).map_or(0, |(.., value)| value);
                let _ = writeln!(text, "{full}{{shard=\"{shard}\"}} {value}");
            }
        }
        for (name, help, value) in ENGINE_ROWS {
            let _ = writeln!(text, "# HELP corelane_net_{name} {help}");
            let _ = writeln!(text, "# TYPE corelane_net_{name} gauge");
            for (shard, snapshot) in snapshots.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "corelane_net_{name}{{shard=\"{shard}\"}} {}",
                    value(&snapshot.engine)
                );
            }
        }
        if let Some(bus) = self.bus.get().and_then(|bus| bus.kafka()) {
            bus.figures().render("corelane_gateway", &mut text);
        }
        text
    }

    /// The routes, to be served alone or with others.
    pub fn routes(&self) -> Router {
        let (metrics, ready) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/metrics",
                get(move || async move {
                    (
                        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
                        metrics.metrics(),
                    )
                        .into_response()
                }),
            )
            .route("/healthz", get(|| async { "ok\n" }))
            .route(
                "/readyz",
                get(move || async move {
                    match ready.not_ready() {
                        None => (StatusCode::OK, "ready\n".to_owned()),
                        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
                    }
                }),
            )
    }
}

type EngineRow = (&'static str, &'static str, fn(&corelane_net::EngineStats) -> u64);

/// What the engines say.
const ENGINE_ROWS: [EngineRow; 4] = [
    ("rings", "Rings made.", |stats| u64::from(stats.rings)),
    ("sockets", "Sockets open.", |stats| u64::from(stats.sockets_open)),
    ("enters", "System calls into the ring.", |stats| stats.enters),
    (
        "buffers_empty",
        "Times the receive buffers were all out.",
        |stats| stats.buffers_empty,
    ),
];

/// Serves the admin endpoints on a thread of their own until the process ends.
///
/// # Errors
///
/// If the address cannot be listened on.
pub fn serve(admin: &Admin, listen: SocketAddr) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let routes = admin.routes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        http::serve(listener, routes, HttpLimits::default(), std::future::pending()).await;
                    }
                    Err(error) => tracing::error!(%error, "admin endpoints cannot start"),
                }
            });
        })?;
    Ok(bound)
}
