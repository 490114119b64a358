//! The router inside the gateway's process, and what a newcomer is shown.
//!
//! The embedded router runs on its own threads and is reached over the same link as any other: only its address is
//! known without configuration. It also serves the gateway's figures and, in the demo, the chat page.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use corelane_router::config::{Durability, RouterConfig};
use corelane_router::{DemoOptions, RouterHandle, RouterOptions};

use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::process::{ProcessError, resolve, token_secret};
use crate::token::{self, TokenClaims};

/// How long a printed token is good, in s.
const DEMO_TOKEN_TTL_S: u64 = 24 * 3600;

macro_rules! web_files {
    ($($name:literal => $kind:literal),* $(,)?) => {
        &[$((concat!("/", $name), $kind, include_bytes!(concat!("../../clients/web/", $name)))),*]
    };
}

/// Files of the demo page.
const WEB: &[corelane_router::api::WebFile] = web_files! {
    "index.html" => "text/html; charset=utf-8",
    "app.js" => "text/javascript; charset=utf-8",
    "backoff.js" => "text/javascript; charset=utf-8",
    "chat.js" => "text/javascript; charset=utf-8",
    "connection.js" => "text/javascript; charset=utf-8",
    "corelane.js" => "text/javascript; charset=utf-8",
    "dom.js" => "text/javascript; charset=utf-8",
    "emoji.js" => "text/javascript; charset=utf-8",
    "error.js" => "text/javascript; charset=utf-8",
    "ids.js" => "text/javascript; charset=utf-8",
    "list.js" => "text/javascript; charset=utf-8",
    "marks.js" => "text/javascript; charset=utf-8",
    "message.js" => "text/javascript; charset=utf-8",
    "outbox.js" => "text/javascript; charset=utf-8",
    "pulls.js" => "text/javascript; charset=utf-8",
    "sending.js" => "text/javascript; charset=utf-8",
    "sync.js" => "text/javascript; charset=utf-8",
    "timeline.js" => "text/javascript; charset=utf-8",
    "style.css" => "text/css; charset=utf-8",
};

/// A router in this process.
#[derive(Debug)]
pub struct Embedded {
    handle: RouterHandle,
}

impl Embedded {
    /// Where shards connect their links.
    pub const fn link_address(&self) -> SocketAddr {
        self.handle.link_addr()
    }

    /// Stops it, and waits until its store is closed.
    pub fn stop(self) {
        self.handle.shutdown();
    }
}

/// Starts the embedded router.
///
/// # Errors
///
/// [`ProcessError`]: nothing runs.
pub fn start(config: &Config, listen: SocketAddr, admin: &Admin) -> Result<Embedded, ProcessError> {
    let mut router = RouterConfig::default();
    router.router.node = format!("{}-router", config.gateway.node);
    router.router.link_listen = resolve("router.link_listen", &config.router.link_listen)?;
    router.router.http_listen = resolve("router.http_listen", &config.router.http_listen)?;
    router.router.demo = config.demo.enabled && router.router.http_listen.ip().is_loopback();
    router.store.data_dir = PathBuf::from(&config.store.data_dir);
    router.store.durability = if config.store.durability == "os" {
        Durability::Os
    } else {
        Durability::Full
    };
    let admin = admin.clone();
    let options = RouterOptions {
        web: if router.router.demo { WEB } else { &[] },
        demo: Some(DemoOptions {
            ws_url: format!("ws://{listen}/ws"),
        }),
        more_metrics: Some(Arc::new(move |text: &mut String| text.push_str(&admin.metrics()))),
    };
    let handle =
        corelane_router::start(&router, options).map_err(|error| ProcessError::Router(error.to_string()))?;
    Ok(Embedded { handle })
}

/// Ends with the reason when the embedded router has failed; never without one.
pub async fn failed(router: Option<&Embedded>) -> String {
    match router {
        Some(router) => router.handle.failed().await,
        None => std::future::pending().await,
    }
}

/// Tells people, and programs that start this one, where everything is.
pub fn announce(config: &Config, listen: SocketAddr, router: Option<&Embedded>, admin: Option<SocketAddr>) {
    let mut text = format!("Corelane gateway {} is running.\n\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  WebSocket   ws://{listen}/ws");
    let mut ready = format!("ready ws=ws://{listen}/ws");
    if let Some(router) = router {
        let http = router.handle.http_addr();
        let _ = writeln!(text, "  HTTP        http://{http}/  (API, metrics, health)");
        let _ = writeln!(
            text,
            "  Data        {} (durability {})",
            config.store.data_dir, config.store.durability
        );
        let _ = write!(ready, " http=http://{http} link={}", router.link_address());
        if config.demo.enabled && http.ip().is_loopback() {
            let _ = writeln!(text, "\nOpen two of these in two browser tabs and chat:\n");
            for user in &config.demo.users {
                match demo_token(config, user) {
                    Ok(token) => {
                        let _ = writeln!(text, "  {user:<10}  http://{http}/?user={user}&token={token}");
                    }
                    Err(error) => tracing::warn!(user, %error, "no link for a demo user"),
                }
            }
        }
    } else {
        let _ = writeln!(text, "  Router      {}", config.router.seeds.join(", "));
    }
    if let Some(admin) = admin {
        let _ = writeln!(text, "  Admin       http://{admin}/metrics");
        let _ = write!(ready, " admin=http://{admin}");
    }
    let _ = writeln!(text, "\nStop it with Ctrl-C.\n{ready}");
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn demo_token(config: &Config, user: &str) -> Result<String, Box<dyn std::error::Error>> {
    let now_s = Clock::start().now().wall_ms / 1000;
    let claims = TokenClaims {
        app: 0,
        sub: user.to_owned(),
        terminal: None,
        device: None,
        iat: now_s,
        exp: now_s + DEMO_TOKEN_TTL_S,
        scopes: Vec::new(),
    };
    Ok(token::issue(&token_secret(config)?, &claims)?)
}

#[cfg(test)]
mod tests {
    use super::WEB;

    #[test]
    fn every_module_that_the_page_imports_is_embedded() {
        let names: Vec<&str> = WEB
            .iter()
            .map(|(name, _, _)| name.trim_start_matches('/'))
            .collect();
        let mut imports = 0;
        for (name, _, bytes) in WEB {
            let text = std::str::from_utf8(bytes).unwrap();
            for line in text
                .lines()
                .filter(|line| line.starts_with("import ") || line.starts_with("export {"))
            {
                let Some((_, path)) = line.split_once(" from './") else {
                    continue;
                };
                let wanted = path.trim_end_matches("';");
                assert!(
                    names.contains(&wanted),
                    "{name} imports {wanted}, which is not embedded"
                );
                imports += 1;
            }
        }
        assert!(imports > 10, "{imports} imports were found");
    }
}
