//! Users: their conversations with unread counts, their sessions.

use axum::Json;
use axum::extract::{Path, State};
use corelane_protocol::id::{ConvId, UserId};
use corelane_protocol::limits::PAGE_ITEMS_MAX;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{Api, AppParameter};
use crate::registry::Registry as _;
use crate::sessions::kick_route;
use crate::store::MessageStore as _;

/// Most conversations in an answer.
const CONVERSATIONS_MAX: usize = 10_000;
/// Removed by an administrator.
const CODE_REMOVED: u16 = 4502;

/// `GET /v1/users/{user}/conversations`: last changed first.
pub(super) async fn conversations(
    State(state): Api,
    Path(user): Path<String>,
    app: AppParameter,
) -> Result<Json<Value>, ApiError> {
    let (app, user) = (app?.id(), UserId::new(&user)?);
    let (mut cursor, mut found) = (Vec::new(), Vec::new());
    loop {
        let page = state
            .shared
            .store
            .sync(app, user.clone(), cursor, PAGE_ITEMS_MAX)
            .await?;
        for each in page.conversations {
            found.push(json!({
                "conv": ConvId::parse(&each.conv)?.to_string(),
                "head_seq": each.head_seq,
                "head_n": each.head_n,
                "read_seq": each.read_seq,
                "read_n": each.read_n,
                "unread": each.head_n.saturating_sub(each.read_n),
            }));
        }
        if !page.more || found.len() >= CONVERSATIONS_MAX {
            break;
        }
        cursor = page.cursor;
    }
    found.reverse();
    Ok(Json(Value::Array(found)))
}

/// `GET /v1/users/{user}/sessions`.
pub(super) async fn sessions(
    State(state): Api,
    Path(user): Path<String>,
    app: AppParameter,
) -> Result<Json<Value>, ApiError> {
    let (app, user) = (app?.id(), UserId::new(&user)?);
    let routes = state.shared.registry.sessions(app, user).await?;
    let sessions = routes.iter().map(|route| {
        json!({
            "terminal": route.terminal.name(),
            "device": route.device,
            "gateway": route.gateway.as_str(),
            "boot": format!("{:016x}", route.boot.0),
            "shard": route.conn.shard(),
            "conn": format!("{:016x}", route.conn.0),
        })
    });
    Ok(Json(sessions.collect()))
}

/// `DELETE /v1/users/{user}/sessions`: closes them with 4502.
pub(super) async fn kick(
    State(state): Api,
    Path(user): Path<String>,
    app: AppParameter,
) -> Result<Json<Value>, ApiError> {
    let (app, user) = (app?.id(), UserId::new(&user)?);
    let routes = state.shared.registry.sessions(app, user).await?;
    for route in &routes {
        kick_route(&state.shared, route, CODE_REMOVED);
    }
    Ok(Json(json!({"kicked": routes.len()})))
}
