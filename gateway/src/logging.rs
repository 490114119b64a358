//! Structured logs on standard error: JSON lines for machines, text for people.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::sections::LogSection;

/// Starts logging. A second call changes nothing.
pub fn start(config: &LogSection) {
    let filter = EnvFilter::new(&config.level);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let outcome = if config.format == "json" {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "logging was started already");
    }
}
