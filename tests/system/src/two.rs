//! A router and a gateway as two processes that share a data directory, as in the README.

use std::path::Path;
use std::process::Command;

use crate::{Gateway, Running, binary, field};

/// Both processes.
#[derive(Debug)]
pub struct Two {
    /// The router.
    pub router: Running,
    /// The gateway; its `http` is the router's.
    pub gateway: Gateway,
    /// Base URL of the gateway's own metrics.
    pub admin: String,
}

impl Two {
    /// Starts both on free ports, the router first; `set` are further keys of the gateway, as `section.key=value`.
    ///
    /// # Panics
    ///
    /// If one is not ready in time.
    pub fn start(data: &Path, set: &[&str]) -> Self {
        let mut command = Command::new(binary("corelane-router"));
        command
            .env("CORELANE__STORE__DATA_DIR", data)
            .env("CORELANE__ROUTER__LINK_LISTEN", "127.0.0.1:0")
            .env("CORELANE__ROUTER__HTTP_LISTEN", "127.0.0.1:0");
        let mut router = Running::start(&mut command);
        let line = router.line("ready ");
        let seeds = format!("router.seeds={}", field(&line, "link"));
        let fixed = ["router.embedded=false", "admin.listen=127.0.0.1:0", &seeds];
        let mut command = Gateway::command(data, &[&fixed, set].concat());
        let process = Running::start(&mut command);
        let (gateway, admin) = Gateway::beside(process, data, &field(&line, "http"));
        Self {
            router,
            gateway,
            admin,
        }
    }
}
