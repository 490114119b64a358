//! The service's HTTP API: history as backends read it, and metrics of a router and a gateway.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;

use corelane_protocol::frame::json;
use corelane_protocol::id::ConvId;

use crate::service::Service;

/// Its key.
pub(crate) const ADMIN_KEY: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// `GET /v1/conversations/{conv}/messages?from=&limit=` and `GET /metrics`, over and over.
pub(crate) fn api(mut stream: TcpStream, service: &Mutex<Service>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    loop {
        let head: Vec<String> = lines
            .by_ref()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        let Some(request) = head.first() else { return };
        let is_allowed = head.iter().any(|line| line.ends_with(ADMIN_KEY));
        let path = request.split(' ').nth(1).unwrap().replace("%3A", ":");
        let (status, body) = match path.as_str() {
            "/metrics" => ("200 OK", service.lock().unwrap().metrics()),
            path if is_allowed => ("200 OK", service.lock().unwrap().page(path)),
            _ => ("401 Unauthorized", String::new()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

impl Service {
    fn page(&self, path: &str) -> String {
        let (conv, query) = path
            .strip_prefix("/v1/conversations/")
            .and_then(|rest| rest.split_once("/messages?"))
            .unwrap();
        let number = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                .unwrap()
        };
        let (from, limit) = (number("from").parse().unwrap(), number("limit").parse().unwrap());
        self.history(&conv.parse().unwrap(), from, limit).to_string()
    }

    fn history(&self, conv: &ConvId, from: u64, limit: usize) -> serde_json::Value {
        let log = self.logs.get(conv).map_or(&[][..], Vec::as_slice);
        let end = log.len();
        let first = usize::try_from(from - 1).unwrap().min(end);
        let rows = &log[first..end.min(first + limit)];
        let next = first + rows.len();
        serde_json::json!({
            "messages": rows.iter().map(|row| json::to_value(row).unwrap()).collect::<Vec<_>>(),
            "next_seq": if next < end { next + 1 } else { 0 },
            "head_seq": log.len(),
            "head_n": log.len(),
            "floor_seq": 0,
        })
    }

    /// Two messages per commit.
    fn metrics(&self) -> String {
        let stored: usize = self.logs.values().map(Vec::len).sum();
        format!(
            "# TYPE corelane_store_commits_total counter\n\
             corelane_store_commits_total {}\n\
             corelane_store_messages_total {stored}\n\
             corelane_stage_messages_total{{stage=\"persist\"}} {stored}\n\
             corelane_stage_seconds_bucket{{stage=\"persist\",le=\"0.001000\"}} {stored}\n\
             corelane_stage_seconds_bucket{{stage=\"persist\",le=\"+Inf\"}} {stored}\n\
             corelane_stage_seconds_sum{{stage=\"persist\"}} 0.1\n\
             corelane_stage_seconds_count{{stage=\"persist\"}} {stored}\n\
             corelane_gateway_deliver_messages_total{{shard=\"0\"}} {}\n",
            stored.div_ceil(2),
            self.live
        )
    }
}
