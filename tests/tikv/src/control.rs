//! The control port: HTTP, for tests and chaos runs in any language.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /ready` | 200 when store and PD can be used, else 503 |
//! | `GET /status` | rows, locks, log, regions, faults, as JSON |
//! | `POST /fault?do=drop&on=commit&count=1` | adds a [`Rule`]; `on`, `count`, `permille`, `ms` may be left out |
//! | `DELETE /fault` | ends all faults |
//! | `POST /freeze`, `POST /freeze?what=pd` | stops the store, or the PD that it serves |
//! | `POST /thaw` | lets both go on |
//! | `POST /split?at=KEY` | splits a region at a key (text, other bytes as `\xNN`) |

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::fault::{Hits, Rule};
use crate::key::{format_key, parse_key};
use crate::server::Inner;
use crate::store::Summary;

#[derive(Serialize)]
struct RegionStatus {
    id: u64,
    start: String,
    end: String,
    version: u64,
}

#[derive(Serialize)]
struct Status {
    cluster_id: u64,
    store_id: u64,
    #[serde(flatten)]
    summary: Summary,
    regions: Vec<RegionStatus>,
    frozen: bool,
    pd_frozen: bool,
    faults: Vec<Hits>,
    faults_hit: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Frozen {
    #[default]
    Store,
    Pd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    #[serde(default)]
    what: Frozen,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    at: String,
}

/// Serves the control port until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, inner: Inner) {
    let router = Router::new()
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/fault", post(add_fault).delete(clear_faults))
        .route("/freeze", post(freeze))
        .route("/thaw", post(thaw))
        .route("/split", post(split))
        .with_state(inner);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control port ended");
    }
}

async fn ready(State(inner): State<Inner>) -> StatusCode {
    if inner.is_ready().await {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn status(State(inner): State<Inner>) -> Json<Status> {
    let node = &inner.node;
    let identity = node.store.identity().unwrap_or_default();
    let regions = node.store.regions();
    let regions = regions.all().iter().map(|region| RegionStatus {
        id: region.id,
        start: format_key(&region.start),
        end: format_key(&region.end),
        version: region.version,
    });
    let (faults, faults_hit) = node.faults.report();
    Json(Status {
        cluster_id: identity.cluster_id,
        store_id: identity.store_id,
        summary: node.store.summary(),
        regions: regions.collect(),
        frozen: node.gate.is_shut(),
        pd_frozen: node.pd_gate.is_shut(),
        faults,
        faults_hit,
    })
}

async fn add_fault(State(inner): State<Inner>, Query(rule): Query<Rule>) -> Response {
    match inner.node.faults.add(rule) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::TOO_MANY_REQUESTS, error.to_string()).into_response(),
    }
}

async fn clear_faults(State(inner): State<Inner>) -> StatusCode {
    inner.node.faults.clear();
    StatusCode::NO_CONTENT
}

async fn freeze(State(inner): State<Inner>, Query(freeze): Query<Freeze>) -> StatusCode {
    match freeze.what {
        Frozen::Store => inner.node.gate.set_shut(true),
        Frozen::Pd => inner.node.pd_gate.set_shut(true),
    }
    StatusCode::NO_CONTENT
}

async fn thaw(State(inner): State<Inner>) -> StatusCode {
    inner.node.gate.set_shut(false);
    inner.node.pd_gate.set_shut(false);
    StatusCode::NO_CONTENT
}

async fn split(State(inner): State<Inner>, Query(split): Query<Split>) -> Response {
    let key = match parse_key(&split.at) {
        Ok(key) => key,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    match inner.split(&key).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => (StatusCode::CONFLICT, "a region begins there already").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
