//! The HTTP side of a gateway or router: history and figures.

use std::time::Duration;

use crate::Gateway;

impl Gateway {
    /// All messages of a conversation (as in `u:5:alice:bob`) that the log holds: place, id and payload, in the order of
    /// the log.
    ///
    /// # Errors
    ///
    /// Status and body of the first page that is refused.
    ///
    /// # Panics
    ///
    /// If nobody answers, or the answer is no page.
    pub fn history(&self, conv: &str) -> Result<Vec<Stored>, (u16, String)> {
        let mut messages = Vec::new();
        let mut from = 1;
        while from != 0 {
            let page = self.get(&format!(
                "/v1/conversations/{conv}/messages?from={from}&limit=200"
            ))?;
            let page: Page = serde_json::from_str(&page).expect("a page of history");
            messages.extend(page.messages);
            from = page.next_seq;
        }
        Ok(messages)
    }

    /// Stores a text of one user for another, as a backend does; its place.
    ///
    /// # Panics
    ///
    /// If it is not stored.
    pub fn append(&self, from: &str, to: &str, text: &str) -> u64 {
        let message =
            serde_json::json!({"from": from, "target": {"user": to}, "kind": "text", "payload": text});
        let mut response = ureq::post(format!("{}/v1/messages", self.http))
            .header("Authorization", &format!("Bearer {}", self.admin_key()))
            .send_json(&message)
            .expect("a message of a backend is stored");
        let stored: serde_json::Value = response.body_mut().read_json().expect("JSON");
        let seq = stored.get("seq").and_then(serde_json::Value::as_u64);
        seq.expect("a place")
    }

    /// The body of a GET with the admin key.
    ///
    /// # Errors
    ///
    /// Status and body, if the status is not 200.
    ///
    /// # Panics
    ///
    /// If nobody answers.
    pub fn get(&self, path: &str) -> Result<String, (u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut response = agent
            .get(format!("{}{path}", self.http))
            .header("Authorization", &format!("Bearer {}", self.admin_key()))
            .call()
            .unwrap_or_else(|error| panic!("{}{path}: {error}", self.http));
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().expect("a body of text");
        if status == 200 {
            Ok(body)
        } else {
            Err((status, body))
        }
    }

    /// Sum of a metric over its labels, 0 if it is not there. Up to a quarter of a second old.
    ///
    /// # Panics
    ///
    /// If the metrics are not served.
    pub fn metric(&self, name: &str) -> u64 {
        sum(&self.get("/metrics").expect("metrics are served"), name)
    }

    /// Waits until a counter has come to `value`.
    ///
    /// # Panics
    ///
    /// If it is above, or not there within 5 s.
    pub fn await_metric(&self, name: &str, value: u64) {
        crate::wait_for(name, Duration::from_secs(5), || {
            let seen = self.metric(name);
            assert!(seen <= value, "{name} is {seen}, expected was {value}");
            (seen == value).then_some(())
        });
    }
}

/// Sum of a metric over its labels in Prometheus text.
pub(crate) fn sum(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
        .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .map(|(_, value)| value.parse::<u64>().expect("a whole number"))
        .sum()
}

/// A page of history.
#[derive(serde::Deserialize)]
struct Page {
    messages: Vec<Stored>,
    next_seq: u64,
}

/// A message of the log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Stored {
    /// Its place.
    pub seq: u64,
    /// The sender's id, as the API writes it.
    #[serde(rename = "client_msg_id")]
    id: String,
    /// What it says.
    pub payload: String,
}

impl Stored {
    /// The sender's id, 32 hexadecimal digits.
    pub fn id(&self) -> String {
        self.id.replace('-', "")
    }
}
