//! `corelane-loadgen`: see `--help`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use corelane_loadgen::cli::Options;
use corelane_loadgen::report::Verdict;
use corelane_loadgen::run::{self, RunError};

fn main() -> ExitCode {
    let options = Options::parse();
    let json_to_stdout = options.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let verdict = match run::run(options) {
        Ok(report) => {
            let text = report.text();
            // A reader that went away does not change the verdict.
            drop(if json_to_stdout {
                std::io::stderr().write_all(text.as_bytes())
            } else {
                std::io::stdout().write_all(text.as_bytes())
            });
            report.verdict
        }
        Err(error) => {
            eprintln!("corelane-loadgen: {error}");
            match error {
                RunError::Usage(_) | RunError::Token(_) | RunError::File { .. } => Verdict::Usage,
                RunError::Target(_) | RunError::Api(_) | RunError::Connections { .. } => Verdict::Unreachable,
                RunError::Driver(_) | RunError::ThreadLost => Verdict::Internal,
                RunError::Interrupted => Verdict::Interrupted,
            }
        }
    };
    ExitCode::from(verdict.exit_code())
}
