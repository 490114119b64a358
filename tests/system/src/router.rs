//! A router in a process of its own, and a gateway that is linked to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Gateway, Running, binary, field};

/// A router that runs.
#[derive(Debug)]
pub struct Router {
    /// The process.
    pub process: Running,
    /// Base URL of the HTTP API.
    pub http: String,
    /// Where it serves links.
    pub link: String,
    /// Data directory.
    pub data: PathBuf,
}

impl Router {
    /// The command of a router of this binary, on free ports with its data in `data`.
    pub fn command(binary: &Path, data: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .env("CORELANE__ROUTER__LINK_LISTEN", "127.0.0.1:0")
            .env("CORELANE__ROUTER__HTTP_LISTEN", "127.0.0.1:0")
            .env("CORELANE__STORE__DATA_DIR", data);
        command
    }

    /// Starts a router and waits until its ports are open.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn start(command: &mut Command, data: &Path) -> Self {
        let mut process = Running::start(command);
        let line = process.line("ready ");
        Self {
            process,
            http: field(&line, "http"),
            link: field(&line, "link"),
            data: data.to_owned(),
        }
    }

    /// A gateway without a router of its own, linked to this one and with the same keys.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn gateway(&self, set: &[&str]) -> Gateway {
        let seeds = format!("router.seeds=[\"{}\"]", self.link);
        let apart = ["router.embedded=false", "admin.listen=127.0.0.1:0", &seeds];
        let set: Vec<&str> = apart.iter().chain(set).copied().collect();
        let process = Running::start(&mut Gateway::command(&self.data, &set));
        Gateway::from_line(process, &self.data, Some(&self.http))
    }
}

/// A router with a planted bug, built and put aside by `ops/test`.
///
/// # Panics
///
/// If it was not.
pub fn planted_router() -> PathBuf {
    binary("planted/corelane-router")
}
