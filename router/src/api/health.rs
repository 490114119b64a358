//! For supervisors: is it alive, is it ready, how is it doing.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use crate::metrics;
use crate::store::MessageStore as _;

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"alive": true}))
}

/// `GET /readyz`: messages can be stored.
pub(super) async fn ready(State(state): Api) -> Result<Json<Value>, ApiError> {
    match state.shared.store.poisoned() {
        None => Ok(Json(json!({"ready": true, "links": state.shared.hub.len()}))),
        Some(reason) => Err(ApiError::unavailable(format!("the store failed: {reason}"))),
    }
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
