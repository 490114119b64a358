//! For supervisors: is it alive, is it ready, how is it doing.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use corelane_protocol::frame::error::ErrorCode;
use serde_json::{Value, json};

use super::Api;
use crate::metrics;
use crate::store::MessageStore as _;

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"alive": true}))
}

/// `GET /readyz`: messages can be stored, and how the other ports are.
pub(super) async fn ready(State(state): Api) -> (StatusCode, Json<Value>) {
    let shared = &state.shared;
    readiness(
        shared.store.poisoned(),
        shared.registry.is_away(),
        shared.bus.is_away(),
        shared.hub.len(),
    )
}

/// Ready is who stores and acknowledges. While the registry or the bus is away that goes on and deliveries wait: no other
/// router would do better, so it is said and nobody is taken out of service for it.
fn readiness(
    failed: Option<String>,
    registry_is_away: bool,
    bus_is_away: bool,
    links: usize,
) -> (StatusCode, Json<Value>) {
    let word = |is_away| if is_away { "away" } else { "ok" };
    let mut body = json!({
        "ready": failed.is_none(),
        "store": if failed.is_some() { "failed" } else { "ok" },
        "registry": word(registry_is_away),
        "bus": word(bus_is_away),
        "links": links,
    });
    let Some(reason) = failed else {
        return (StatusCode::OK, Json(body));
    };
    let code = ErrorCode::Unavailable.name();
    let error = json!({"code": code, "text": format!("the store failed: {reason}")});
    if let Value::Object(fields) = &mut body {
        fields.insert("error".to_owned(), error);
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(body))
}

/// `GET /metrics`: Prometheus text.
pub(super) async fn metrics(State(state): Api) -> Response {
    let mut text = String::new();
    metrics::render(&state.shared, &mut text);
    if let Some(more) = &state.more_metrics {
        more(&mut text);
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_that_stores_is_ready_and_says_what_is_away() {
        let (status, Json(body)) = readiness(None, true, true, 2);
        assert_eq!(status, StatusCode::OK);
        let expected = json!({"ready": true, "store": "ok", "registry": "away", "bus": "away", "links": 2});
        assert_eq!(body, expected);
        let (_, Json(body)) = readiness(None, false, false, 2);
        assert_eq!((&body["registry"], &body["bus"]), (&json!("ok"), &json!("ok")));
    }

    #[test]
    fn one_whose_store_failed_is_not() {
        let (status, Json(body)) = readiness(Some("no fsync".to_owned()), false, false, 2);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (&body["ready"], &body["store"]),
            (&json!(false), &json!("failed"))
        );
        assert_eq!(body["error"]["text"], "the store failed: no fsync");
    }
}
