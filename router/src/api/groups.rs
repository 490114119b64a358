//! Groups: create, show, add and remove members. Every change is a message of the group.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::kind;
use corelane_protocol::id::{AppId, ConvId, GroupId, UserId};
use corelane_protocol::limits::GROUP_MEMBERS_MAX;
use corelane_router_core::append::{Append, MemberChange};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::messages::{new_id, store};
use super::{Api, AppParameter};
use crate::requests::RequestError;
use crate::shared::Shared;
use crate::store::{MessageStore as _, NOBODY_LEFT};

/// Who changes a group when the caller does not say.
const NOBODY: &str = "system";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Creation {
    pub(super) group: String,
    pub(super) members: Vec<String>,
    /// Who creates it, as its members see it.
    #[serde(default)]
    pub(super) by: Option<String>,
}

/// `POST /v1/groups`.
pub(super) async fn create(
    State(state): Api,
    app: AppParameter,
    body: Result<Json<Creation>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let app = app?.id();
    let Json(creation) = body?;
    create_group(&state.shared, app, creation).await.map(Json)
}

/// Creates a group.
pub(super) async fn create_group(shared: &Shared, app: AppId, creation: Creation) -> Result<Value, ApiError> {
    let conv = ConvId::group(&GroupId::new(&creation.group)?);
    let join = users("members", &creation.members)?;
    if join.is_empty() {
        return Err(ApiError::malformed("members is empty: name at least one"));
    }
    let payload = json!({"created": true, "added": names(&join)});
    let change = MemberChange {
        create: true,
        join,
        leave: Vec::new(),
    };
    let by = creation.by.as_deref();
    let mut stored = store(shared, append(shared, app, conv, by, payload, change)?).await?;
    if let Some(answer) = stored.as_object_mut() {
        answer.insert("group".to_owned(), Value::from(creation.group));
    }
    Ok(stored)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    by: Option<String>,
}

/// `POST /v1/groups/{group}/members`.
pub(super) async fn change(
    State(state): Api,
    Path(group): Path<String>,
    app: AppParameter,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let app = app?.id();
    let Json(change) = body?;
    let conv = ConvId::group(&GroupId::new(&group)?);
    let (join, leave) = (users("add", &change.add)?, users("remove", &change.remove)?);
    if join.is_empty() && leave.is_empty() {
        return Err(ApiError::malformed(
            "add and remove are empty: name at least one user",
        ));
    }
    if let Some(both) = join.iter().find(|user| leave.contains(user)) {
        return Err(ApiError::malformed(format!("{both} stands in add and in remove")));
    }
    let payload = json!({"added": names(&join), "removed": names(&leave)});
    let members = MemberChange {
        create: false,
        join,
        leave,
    };
    let append = append(&state.shared, app, conv, change.by.as_deref(), payload, members)?;
    store(&state.shared, append).await.map(Json)
}

/// `GET /v1/groups/{group}`.
pub(super) async fn show(
    State(state): Api,
    Path(group): Path<String>,
    app: AppParameter,
) -> Result<Json<Value>, ApiError> {
    let app = app?.id();
    let conv = ConvId::group(&GroupId::new(&group)?);
    let members = state.shared.store.members(app, conv.clone(), NOBODY_LEFT).await?;
    if members.version == 0 {
        return Err(RequestError(ErrorCode::UnknownGroup, format!("there is no group {group}")).into());
    }
    Ok(Json(json!({
        "group": group,
        "conv": conv.to_string(),
        "version": members.version,
        "members": names(&members.present()),
    })))
}

fn append(
    shared: &Shared,
    app: AppId,
    conv: ConvId,
    by: Option<&str>,
    payload: Value,
    members: MemberChange,
) -> Result<Append, ApiError> {
    Ok(Append {
        app,
        conv,
        sender: UserId::new(by.unwrap_or(NOBODY))?,
        client_msg_id: new_id(shared)?,
        kind: kind::GROUP_CHANGE,
        flags: 0,
        ref_seq: 0,
        content_type: kind::content::JSON,
        payload: change_payload(payload),
        extensions: Vec::new(),
        origin_terminal: 0,
        origin_device: String::new(),
        members,
        check_member: false,
        moves_read_mark: false,
    })
}

/// Names of many members would exceed a message: then it only says how many.
fn change_payload(mut payload: Value) -> Vec<u8> {
    let bytes = payload.to_string().into_bytes();
    if bytes.len() <= corelane_protocol::limits::PAYLOAD_BYTES_MAX {
        return bytes;
    }
    if let Some(change) = payload.as_object_mut() {
        for key in ["added", "removed"] {
            if let Some(Value::Array(names)) = change.remove(key) {
                change.insert(format!("{key}_count"), Value::from(names.len()));
            }
        }
    }
    payload.to_string().into_bytes()
}

fn users(field: &str, names: &[String]) -> Result<Vec<UserId>, ApiError> {
    if names.len() > GROUP_MEMBERS_MAX {
        let text = format!(
            "{field} has {} users, allowed are {GROUP_MEMBERS_MAX}",
            names.len()
        );
        return Err(RequestError(ErrorCode::TooLarge, text).into());
    }
    let users: Result<Vec<UserId>, _> = names.iter().map(|name| UserId::new(name)).collect();
    let mut users = users.map_err(|error| ApiError::malformed(format!("{field}: {error}")))?;
    users.sort();
    users.dedup();
    Ok(users)
}

fn names(users: &[UserId]) -> Vec<&str> {
    users.iter().map(UserId::as_str).collect()
}
