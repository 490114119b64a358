//! Messages: sending as a backend, and history.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use corelane_protocol::frame::body::{ArchivedErrorBody, ArchivedSendAck};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::json::{self, JsonInput};
use corelane_protocol::frame::{Frame, FrameKind, read};
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, UserId};
use corelane_protocol::limits::{PAGE_ITEMS_MAX, PAYLOAD_BYTES_MAX, SEQ_MAX};
use corelane_router_core::append::{Append, MemberChange};
use serde::Deserialize;
use serde_json::{Map, Value, json as object};

use super::error::ApiError;
use super::{Api, AppParameter};
use crate::intake::conv_of;
use crate::keys::to_hex;
use crate::requests::RequestError;
use crate::shared::Shared;
use crate::store::MessageStore as _;

/// `POST /v1/messages`: the body is the JSON twin of a `Send`, with `from`. `client_msg_id` may be left out; then the
/// call cannot be repeated safely.
pub(super) async fn send(
    State(state): Api,
    app: AppParameter,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let app = app?.id();
    let Json(mut fields) = body?;
    let from = fields.get("from").and_then(Value::as_str);
    let from = UserId::new(from.ok_or_else(|| ApiError::malformed("from is missing: a user id"))?)?;
    fields.insert("type".to_owned(), Value::from("send"));
    fields.insert("ref".to_owned(), Value::from(0));
    if !fields.contains_key("client_msg_id") {
        fields.insert(
            "client_msg_id".to_owned(),
            Value::from(to_hex(&new_id(&state.shared)?.0)),
        );
    }
    let text = Value::Object(fields).to_string();
    let JsonInput::Frame(bytes) = json::from_json(&text).map_err(|(_, error)| error)? else {
        return Err(ApiError::malformed("the body is no message"));
    };
    let frame = Frame::parse(&bytes)?;
    let view = read::send(&frame)?;
    if view.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(RequestError(
            ErrorCode::TooLarge,
            format!("allowed are {PAYLOAD_BYTES_MAX} bytes"),
        )
        .into());
    }
    let append = Append {
        app,
        conv: conv_of(&view.target, &from).map_err(RequestError::from)?,
        sender: from,
        client_msg_id: view.client_msg_id,
        kind: view.kind,
        flags: view.flags,
        ref_seq: view.ref_seq,
        content_type: view.content_type,
        payload: view.payload.to_vec(),
        extensions: read::stored_extensions(&frame),
        origin_terminal: 0,
        origin_device: String::new(),
        members: MemberChange::default(),
        check_member: false,
        moves_read_mark: false,
    };
    store(&state.shared, append).await.map(Json)
}

/// A `UUIDv7` of this moment.
pub(super) fn new_id(shared: &Shared) -> Result<ClientMsgId, ApiError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| ApiError::unavailable(format!("no random bytes: {error}")))?;
    let [_, _, time @ ..] = shared.clock.now().wall_ms.to_be_bytes();
    if let Some(first) = id.first_chunk_mut() {
        *first = time;
    }
    id[6] = id[6] & 0x0f | 0x70;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(ClientMsgId(id))
}

/// Stores a message and says where it went.
pub(super) async fn store(shared: &Shared, append: Append) -> Result<Value, ApiError> {
    let lane = lane_of(append.app, &append.conv, shared.store.info().lanes);
    if let Some(router) = shared.cluster.elsewhere(lane) {
        return Err(ApiError::elsewhere(router));
    }
    let answer = shared
        .submit(append)
        .await
        .ok_or_else(|| ApiError::unavailable("the router is stopping"))?;
    let frame = Frame::parse(&answer)?;
    if frame.known_kind() == Some(FrameKind::SendAck) {
        let ack = frame.access::<ArchivedSendAck>()?;
        let conv = ConvId::parse(&ack.conv)?;
        return Ok(object!({
            "conv": conv.to_string(),
            "seq": ack.seq.to_native(),
            "n": ack.n.to_native(),
            "time_ms": ack.time_ms.to_native(),
        }));
    }
    let error = frame.access::<ArchivedErrorBody>()?;
    let code = ErrorCode::from_number(error.code.to_native()).unwrap_or(ErrorCode::Unavailable);
    Err(RequestError(code, error.text.as_str().to_owned()).into())
}

/// `?from=1&to=&limit=`.
#[derive(Debug, Deserialize)]
pub(super) struct Range {
    #[serde(default)]
    app: u32,
    from: Option<u64>,
    to: Option<u64>,
    limit: Option<u16>,
}

/// `GET /v1/conversations/{conv}/messages`.
pub(super) async fn history(
    State(state): Api,
    Path(conv): Path<String>,
    range: Result<Query<Range>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(range) = range?;
    let conv: ConvId = conv.parse()?;
    let (from, to) = (range.from.unwrap_or(1), range.to.unwrap_or(SEQ_MAX));
    let limit = range.limit.unwrap_or(PAGE_ITEMS_MAX);
    if from == 0 || from > SEQ_MAX || to < from {
        return Err(ApiError::malformed(format!(
            "from is {from} and to is {to}, allowed are 1 <= from <= to"
        )));
    }
    if limit == 0 || limit > PAGE_ITEMS_MAX {
        return Err(ApiError::malformed(format!(
            "limit is {limit}, allowed are 1 to {PAGE_ITEMS_MAX}"
        )));
    }
    let pulled = state
        .shared
        .store
        .pull(AppId(range.app), conv, from, to, limit)
        .await?;
    let messages: Result<Vec<Value>, _> = pulled
        .messages
        .iter()
        .map(|(_, frame)| json::to_value(frame))
        .collect();
    Ok(Json(object!({
        "messages": messages?,
        "next_seq": pulled.next_seq,
        "head_seq": pulled.head.seq,
        "head_n": pulled.head.n,
        "floor_seq": pulled.head.floor_seq,
    })))
}
