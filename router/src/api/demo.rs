//! The demo: tokens for whoever asks, so that two browser tabs can chat a minute after the first start.
//!
//! Exists only where the configuration turns it on, and only on a loopback address. It answers only where it is called
//! by a loopback name, too: a page of somebody else may point its own name at this machine (DNS rebinding), and would
//! otherwise get a token for any user.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use corelane_protocol::id::{AppId, UserId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;
use super::groups::{Creation, create_group};
use super::{Api, ApiState, bearer};

/// How long a demo token is good.
const TOKEN_TTL_S: u64 = 24 * 3600;

/// What the demo needs.
pub(crate) struct Demo {
    /// Signs tokens.
    pub(crate) token_key: Vec<u8>,
    /// Where the page connects.
    pub(crate) ws_url: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(default)]
    app: u32,
    sub: String,
    #[serde(default)]
    iat: u64,
    exp: u64,
}

fn demo(state: &ApiState) -> Result<&Demo, ApiError> {
    let off = || ApiError::new(StatusCode::NOT_FOUND, "not_found", "the demo is off");
    state.demo.as_ref().ok_or_else(off)
}

/// Lets only requests pass that were made to this machine by a name of its loopback.
pub(super) async fn loopback_names_only(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|host| host.to_str().unwrap_or_default());
    let host = host
        .or_else(|| request.uri().authority().map(Authority::as_str))
        .unwrap_or_default();
    if !is_loopback(host) {
        let text = format!("the demo answers at localhost and at loopback addresses, not at {host:?}");
        return ApiError::new(StatusCode::FORBIDDEN, "forbidden", text).into_response();
    }
    next.run(request).await
}

/// Whether a name, with or without a port, is one of the loopback.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// `GET /v1/demo/config`.
pub(super) async fn config(State(state): Api) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"ws_url": demo(&state)?.ws_url})))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    user: String,
}

/// `POST /v1/demo/token`.
pub(super) async fn token(
    State(state): Api,
    body: Result<Json<Wanted>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(wanted) = body?;
    let user = UserId::new(&wanted.user)?;
    let now_s = state.shared.clock.now().wall_ms / 1000;
    let claims = Claims {
        app: 0,
        sub: user.as_str().to_owned(),
        iat: now_s,
        exp: now_s + TOKEN_TTL_S,
    };
    let header = Header {
        kid: Some("1".to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    let token = jsonwebtoken::encode(
        &header,
        &claims,
        &EncodingKey::from_secret(&demo(&state)?.token_key),
    )
    .map_err(|error| ApiError::unavailable(error.to_string()))?;
    Ok(Json(
        json!({"token": token, "user": claims.sub, "expires_at": claims.exp}),
    ))
}

/// `POST /v1/demo/groups`: a demo user makes a group that he is in.
pub(super) async fn create_group_of_user(
    State(state): Api,
    headers: HeaderMap,
    body: Result<Json<Creation>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(mut creation) = body?;
    let user = user_of(&state, &headers)?;
    creation.by = Some(user.as_str().to_owned());
    creation.members.push(user.as_str().to_owned());
    create_group(&state.shared, AppId(0), creation).await.map(Json)
}

fn user_of(state: &Arc<ApiState>, headers: &HeaderMap) -> Result<UserId, ApiError> {
    let wrong = |text: String| ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", text);
    let token = bearer(headers)
        .ok_or_else(|| wrong("send your token as Authorization: Bearer <token>".to_owned()))?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_required_spec_claims(&["exp", "sub"]);
    let key = DecodingKey::from_secret(&demo(state)?.token_key);
    let decoded = jsonwebtoken::decode::<Claims>(token, &key, &validation)
        .map_err(|error| wrong(format!("token is not accepted: {error}")))?;
    Ok(UserId::new(&decoded.claims.sub)?)
}
