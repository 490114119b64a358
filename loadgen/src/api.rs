//! The target's HTTP API: groups are created and the log is read back through it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// A call of the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer.
    #[error("{method} {url}: {source}")]
    Transport {
        /// Method.
        method: &'static str,
        /// Address.
        url: String,
        /// What went wrong.
        #[source]
        source: Box<ureq::Error>,
    },
    /// An answer that says no.
    #[error("{method} {url}: status {status}: {body}")]
    Status {
        /// Method.
        method: &'static str,
        /// Address.
        url: String,
        /// HTTP status.
        status: u16,
        /// The answer's body, cut.
        body: String,
    },
}

/// One page of a conversation.
#[derive(Debug, Default, Deserialize)]
pub struct HistoryPage {
    /// Messages in order.
    #[serde(default)]
    pub messages: Vec<Value>,
    /// Where to go on; 0 or absent when the range is complete.
    #[serde(default)]
    pub next_seq: Option<u64>,
    /// Last seq of the conversation.
    #[serde(default)]
    pub head_seq: u64,
    /// Everything up to here was cut by retention.
    #[serde(default)]
    pub floor_seq: u64,
}

/// The API. Clones share connections.
#[derive(Debug, Clone)]
pub struct Api {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Api {
    /// The API at `base`, with the key of an administrator.
    pub fn new(base: &str, key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            base: base.trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {key}"),
        }
    }

    /// Creates a group.
    ///
    /// # Errors
    ///
    /// [`ApiError`]: the run cannot start.
    pub fn create_group(&self, group: &str, members: &[String]) -> Result<(), ApiError> {
        let url = format!("{}/v1/groups", self.base);
        let answer = self
            .agent
            .post(&url)
            .header("Authorization", &self.authorization)
            .send_json(json!({ "group": group, "members": members }));
        take::<Value>("POST", &url, answer).map(|_| ())
    }

    /// One page of a conversation's log, from `from` on. A conversation without messages is an empty page.
    ///
    /// # Errors
    ///
    /// [`ApiError`]: the log cannot be compared now.
    pub fn history(&self, conv: &str, from: u64, limit: u32) -> Result<HistoryPage, ApiError> {
        let url = format!(
            "{}/v1/conversations/{}/messages?from={from}&limit={limit}",
            self.base,
            conv.replace('%', "%25").replace(':', "%3A")
        );
        let answer = self
            .agent
            .get(&url)
            .header("Authorization", &self.authorization)
            .call();
        match take("GET", &url, answer) {
            Err(ApiError::Status { status: 404, .. }) => Ok(HistoryPage::default()),
            other => other,
        }
    }
}

/// What an answer holds, if it says yes.
fn take<T: serde::de::DeserializeOwned>(
    method: &'static str,
    url: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, ApiError> {
    let transport = |source| ApiError::Transport {
        method,
        url: url.to_owned(),
        source: Box::new(source),
    };
    let mut answer = answer.map_err(transport)?;
    let status = answer.status().as_u16();
    if !(200..300).contains(&status) {
        let mut body = answer.body_mut().read_to_string().unwrap_or_default();
        body.truncate(body.floor_char_boundary(300));
        return Err(ApiError::Status {
            method,
            url: url.to_owned(),
            status,
            body,
        });
    }
    answer
        .body_mut()
        .with_config()
        .limit(PAGE_BYTES_MAX)
        .read_json()
        .map_err(transport)
}
