//! The target's HTTP API: groups are created and the log is read back through it.
//!
//! Any router of a cluster can answer. One that is away is passed over, each of them once per call, so a call takes at
//! most ten seconds per router.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

impl ApiError {
    /// Whether another router, or a later attempt, may do better.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status { status, .. } => (502..=504).contains(status),
        }
    }
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

/// The API of one or more routers, any of which can answer. Clones share connections.
#[derive(Debug, Clone)]
pub struct Api {
    agent: ureq::Agent,
    bases: Arc<[String]>,
    /// Who answered last.
    current: Arc<AtomicUsize>,
    authorization: String,
}

const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

type Answer = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

impl Api {
    /// The API at `bases`, with the key of an administrator.
    pub fn new(bases: &[String], key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            bases: bases
                .iter()
                .map(|base| base.trim_end_matches('/').to_owned())
                .collect(),
            current: Arc::default(),
            authorization: format!("Bearer {key}"),
        }
    }

    /// Creates a group.
    ///
    /// # Errors
    ///
    /// [`ApiError`]: the run cannot start.
    pub fn create_group(&self, group: &str, members: &[String]) -> Result<(), ApiError> {
        let mut attempts = 0;
        let created = self.ask::<Value>("POST", "/v1/groups", |url| {
            attempts += 1;
            self.agent
                .post(url)
                .header("Authorization", &self.authorization)
                .send_json(json!({ "group": group, "members": members }))
        });
        match created {
            // Nobody else uses the name: a router that gave no answer made it.
            Err(ApiError::Status { status: 409, .. }) if attempts > 1 => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// One page of a conversation's log, from `from` on. A conversation without messages is an empty page.
    ///
    /// # Errors
    ///
    /// [`ApiError`]: the log cannot be compared now.
    pub fn history(&self, conv: &str, from: u64, limit: u32) -> Result<HistoryPage, ApiError> {
        let path = format!(
            "/v1/conversations/{}/messages?from={from}&limit={limit}",
            conv.replace('%', "%25").replace(':', "%3A")
        );
        let page = self.ask("GET", &path, |url| {
            let request = self.agent.get(url);
            request.header("Authorization", &self.authorization).call()
        });
        match page {
            Err(ApiError::Status { status: 404, .. }) => Ok(HistoryPage::default()),
            other => other,
        }
    }

    /// Asks who answered last, then each of the others once while the one before is away.
    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        mut call: impl FnMut(&str) -> Answer,
    ) -> Result<T, ApiError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let at = (first + tried) % self.bases.len().max(1);
            let base = self.bases.get(at).map_or("", String::as_str);
            let url = format!("{base}{path}");
            let answer = take(method, &url, call(&url));
            tried += 1;
            match answer {
                Err(error) if error.is_away() && tried < self.bases.len() => {}
                answer => {
                    self.current.store(at, Ordering::Relaxed);
                    return answer;
                }
            }
        }
    }
}

/// What an answer holds, if it says yes.
fn take<T: serde::de::DeserializeOwned>(
    method: &'static str,
    url: &str,
    answer: Answer,
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
