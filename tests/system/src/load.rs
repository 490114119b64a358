//! Runs the shipped load generator beside a test.
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::{Running, binary};

/// A run.
#[derive(Debug)]
pub struct Load {
    process: Running,
    files: tempfile::TempDir,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: Option<i32>,
    /// The report.
    pub report: Value,
}

impl Load {
    /// Starts `direct` against a WebSocket URL, with the keys in `data`. The seed is taken from `CORELANE_SEED`, or drawn;
    /// the report names it.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(ws_url: &str, http: &str, data: &Path, arguments: &[&str]) -> Self {
        Self::start_across(&[ws_url], &[http], data, arguments)
    }

    /// The same against several gateways, whose routers serve HTTP at `apis`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_across(ws_urls: &[&str], apis: &[&str], data: &Path, arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("a directory for its files");
        let mut command = Command::new(binary("corelane-loadgen"));
        command.arg("direct").args(ws_urls).arg("-q").args(arguments);
        for http in apis {
            command.args(["--http", http]);
        }
        for (option, path) in [
            ("--secret-file", data.join("token.key")),
            ("--admin-key-file", data.join("admin.key")),
            ("--json", files.path().join("report")),
            ("--ledger", files.path().join("acks")),
        ] {
            command.arg(option).arg(path);
        }
        if let Ok(seed) = std::env::var("CORELANE_SEED") {
            command.args(["--seed", &seed]);
        }
        Self {
            process: Running::start(&mut command),
            files,
        }
    }

    /// Sends acknowledged so far.
    pub fn acked(&self) -> usize {
        let acks = File::open(self.files.path().join("acks"));
        acks.map_or(0, |file| BufReader::new(file).lines().count())
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If that takes longer than `limit`, or there is no report.
    pub fn finish(mut self, limit: Duration) -> Outcome {
        let code = self.process.wait(limit);
        let text = std::fs::read_to_string(self.files.path().join("report")).expect("a report was written");
        let report = serde_json::from_str(&text);
        Outcome {
            code,
            report: report.unwrap_or_else(|error| panic!("exit code {code:?}, and no report: {error}")),
        }
    }
}

impl Outcome {
    /// A counter of the report.
    ///
    /// # Panics
    ///
    /// If there is none of this name.
    pub fn count(&self, name: &str) -> u64 {
        self.report["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name} in {:#}", self.report))
    }

    /// That nothing was found but what `found` names, as often as it says.
    ///
    /// # Panics
    ///
    /// If something else was.
    pub fn assert_found(&self, found: &[(&str, u64)]) {
        for name in [
            "lost",
            "repaired",
            "missing",
            "duplicated",
            "reordered",
            "corrupt",
            "misdelivered",
            "stray",
            "malformed",
            "refused",
            "unanswered",
            "unsent",
            "offline",
        ] {
            let expected = found
                .iter()
                .find(|(each, _)| *each == name)
                .map_or(0, |(_, count)| *count);
            assert_eq!(self.count(name), expected, "{name} in {:#}", self.report);
        }
    }

    /// That the run passed. A busy machine may have voided it; then nothing else may be wrong.
    ///
    /// # Panics
    ///
    /// If it did not.
    pub fn assert_passed(&self) {
        let is_void = self.report["void"] == true && self.code == Some(5);
        assert!(
            self.code == Some(0) || is_void,
            "{:?}: {:#}",
            self.code,
            self.report
        );
        assert_eq!(self.report["log_not_compared"], Value::Null, "{:#}", self.report);
    }
}
