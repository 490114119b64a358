//! Errors of the API: a status, a code for programs, a text for people.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use corelane_protocol::frame::FrameError;
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::IdError;
use serde_json::json;

use super::forward::Elsewhere;
use crate::registry::{RegistryError, RouterEntry};
use crate::requests::RequestError;
use crate::store::StoreError;

/// A refused call.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    text: String,
    /// Who can do it instead.
    elsewhere: Option<Box<RouterEntry>>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self {
            status,
            code,
            text: text.into(),
            elsewhere: None,
        }
    }

    /// Another router serves the conversation.
    pub(super) fn elsewhere(router: RouterEntry) -> Self {
        let text = format!("router {} serves this conversation; try again", router.node);
        Self {
            elsewhere: Some(Box::new(router)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Retry.name(), text)
        }
    }

    /// Something in the request is wrong.
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::Malformed.name(), text)
    }

    /// Nothing can be done now.
    pub(super) fn unavailable(text: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable.name(),
            text,
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": {"code": self.code, "text": self.text}}));
        let mut response = (self.status, body).into_response();
        if let Some(router) = self.elsewhere {
            response.extensions_mut().insert(Elsewhere(*router));
        }
        response
    }
}

const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Conflict | ErrorCode::StaleId => StatusCode::CONFLICT,
        ErrorCode::UnknownGroup => StatusCode::NOT_FOUND,
        ErrorCode::NotMember | ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        _ if code.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl From<RequestError> for ApiError {
    fn from(RequestError(code, text): RequestError) -> Self {
        Self::new(status_of(code), code.name(), text)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let is_damaged = matches!(error, StoreError::Damaged { .. });
        let mut answer = Self::from(RequestError::from(error));
        if is_damaged {
            // The request was in order; what is stored is not.
            answer.status = StatusCode::INTERNAL_SERVER_ERROR;
        }
        answer
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        RequestError::from(error).into()
    }
}

impl From<FrameError> for ApiError {
    fn from(error: FrameError) -> Self {
        Self::malformed(error.to_string())
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        Self::malformed(error.to_string())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::malformed(rejection.body_text())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ErrorCode::TooLarge
        } else {
            ErrorCode::Malformed
        };
        Self::new(rejection.status(), code.name(), rejection.body_text())
    }
}
