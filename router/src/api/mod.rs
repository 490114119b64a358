//! The HTTP API: what backends, operators and the demo page ask.
//!
//! Owns nothing but the route table. Everything under `/v1` needs the key of `admin.key` as bearer token, but for the
//! demo's own paths, which exist in demo mode only and only on a loopback address. Errors are JSON:
//! `{"error":{"code":"not_member","text":"..."}}`. Bodies are limited to `BODY_BYTES_MAX`. What another router of the
//! cluster must store is handed on to it (`forward.rs`).

mod demo;
mod error;
mod forward;
mod groups;
mod health;
mod messages;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use corelane_protocol::id::AppId;
use serde::Deserialize;

pub(crate) use self::demo::Demo;
use self::error::ApiError;
use crate::shared::Shared;

/// Most bytes of a request's body: the largest message as base64 in JSON, and the longest list of members.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A file of the demo page: path, media type, bytes.
pub type WebFile = (&'static str, &'static str, &'static [u8]);

/// Appends metrics of another part of the process.
pub type MoreMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// What all handlers share.
pub(crate) struct ApiState {
    pub(crate) shared: Arc<Shared>,
    /// In its text form.
    pub(crate) admin_key: String,
    pub(crate) demo: Option<Demo>,
    pub(crate) web: &'static [WebFile],
    pub(crate) more_metrics: Option<MoreMetrics>,
}

type Api = State<Arc<ApiState>>;

/// `?app=N`.
#[derive(Debug, Default, Deserialize)]
struct AppQuery {
    #[serde(default)]
    app: u32,
}

impl AppQuery {
    const fn id(&self) -> AppId {
        AppId(self.app)
    }
}

type AppParameter = Result<Query<AppQuery>, axum::extract::rejection::QueryRejection>;

/// The route table.
pub(crate) fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let backend = Router::new()
        .route("/v1/messages", post(messages::send))
        .route("/v1/conversations/{conv}/messages", get(messages::history))
        .route("/v1/groups", post(groups::create))
        .route("/v1/groups/{group}", get(groups::show))
        .route("/v1/groups/{group}/members", post(groups::change))
        .route("/v1/users/{user}/conversations", get(users::conversations))
        .route(
            "/v1/users/{user}/sessions",
            get(users::sessions).delete(users::kick),
        )
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            forward::to_its_router,
        ))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), authorize));
    let mut router = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .merge(backend);
    if state.demo.is_some() {
        let demo = Router::new()
            .route("/v1/demo/config", get(demo::config))
            .route("/v1/demo/token", post(demo::token))
            .route("/v1/demo/groups", post(demo::create_group_of_user))
            .route_layer(middleware::from_fn(demo::loopback_names_only));
        router = router.merge(demo);
    }
    router
        .fallback(get(web_file).fallback(not_found))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Lets only the holder of the admin key pass.
async fn authorize(State(state): Api, request: Request, next: Next) -> Response {
    let given = bearer(request.headers()).unwrap_or_default();
    if !same(given.as_bytes(), state.admin_key.as_bytes()) {
        let text = "send the key of DATA/admin.key as Authorization: Bearer <key>";
        return ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", text).into_response();
    }
    next.run(request).await
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that depends on the lengths only.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// A file of the demo page.
async fn web_file(State(state): Api, request: Request) -> Response {
    let path = match request.uri().path() {
        "/" => "/index.html",
        path => path,
    };
    let found = state
        .web
        .iter()
        .find(|(name, _, _)| name.trim_start_matches('/') == path.trim_start_matches('/'));
    match found {
        Some((_, media_type, bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, *media_type),
                (header::CACHE_CONTROL, "no-cache"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                // The rest of the policy stands in the page; this part counts in a header only.
                (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
            ];
            (headers, *bytes).into_response()
        }
        None => not_found().await,
    }
}

async fn not_found() -> Response {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is nothing at this path",
    )
    .into_response()
}

async fn method_not_allowed() -> Response {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path has other methods",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_key_is_the_same() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }

    #[test]
    fn the_scheme_of_a_bearer_token_is_not_case_sensitive() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "bEaReR xyz".parse().unwrap());
        assert_eq!(bearer(&headers), Some("xyz"));
        headers.insert(header::AUTHORIZATION, "Basic xyz".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }
}
