//! `corelane-router`: see `--help`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corelane_router::config::{DEFAULT_FILE, LogFormat, LogSection, RouterConfig};
use corelane_router::{RouterOptions, bump_epoch, start};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The router of an instant-messaging platform: stores messages, knows who is connected where, serves the HTTP API.
#[derive(Parser)]
#[command(name = "corelane-router", version)]
struct Arguments {
    /// Configuration file (see `config default`).
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key: `--set router.http_listen=0.0.0.0:7080`. May be repeated.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the router (what happens without a verb).
    Run,
    /// Print or check a configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Work with the log's epoch. The router must not be running.
    #[command(subcommand)]
    Epoch(EpochVerb),
}

#[derive(Subcommand)]
enum EpochVerb {
    /// Draw a new one, so that all clients drop their cursors: the last step after a backup was restored.
    Bump,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Print the annotated default file.
    Default,
    /// Check a file, and say what is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "corelane-router: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let load = |file: Option<&Path>| RouterConfig::load(file, std::env::vars(), &arguments.set);
    match arguments.verb {
        None | Some(Verb::Run) => {
            let config = load(arguments.config.as_deref())?;
            start_logs(&config.log);
            serve(&config)
        }
        Some(Verb::Config(ConfigVerb::Default)) => {
            std::io::stdout().write_all(DEFAULT_FILE.as_bytes())?;
            Ok(())
        }
        Some(Verb::Config(ConfigVerb::Check { file })) => {
            let config = load(Some(&file))?;
            let mut out = std::io::stdout();
            writeln!(out, "{}: in order", file.display())?;
            if let Some(reason) = config.alone() {
                writeln!(out, "this router must be the only one: {reason}")?;
            }
            Ok(())
        }
        Some(Verb::Epoch(EpochVerb::Bump)) => {
            let config = load(arguments.config.as_deref())?;
            let (before, after) = bump_epoch(&config.store)?;
            writeln!(
                std::io::stdout(),
                "epoch was {before:016x}, is {after:016x}: clients drop their cursors at their next login"
            )?;
            Ok(())
        }
    }
}

fn start_logs(config: &LogSection) {
    let filter = EnvFilter::new(config.level.name());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
}

/// Runs until a signal or a failure.
fn serve(config: &RouterConfig) -> Result<(), Box<dyn std::error::Error>> {
    let router = start(config, RouterOptions::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let failed = router.failed();
    let failure = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // For programs that start this one. Signals are heeded from here on.
        writeln!(
            std::io::stdout(),
            "ready http=http://{} link={}",
            router.http_addr(),
            router.link_addr()
        )?;
        Ok::<_, std::io::Error>(tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            reason = failed => Some(reason),
        })
    })?;
    router.shutdown();
    match failure {
        None => Ok(()),
        Some(reason) => Err(reason.into()),
    }
}
